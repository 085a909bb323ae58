/**
 * What is known of the compilers and protocols that take the networks: which they are, on which version that was
 * established, how, and which operators they have. The rules on how the operators may be used are in `rules/`.
 */

export interface Target {
  readonly name: string;
  readonly kind: string;
  /** What it reads. */
  readonly input: string;
  /** executed: models went through it and results were compared; source, documentation: its rules were read there. */
  readonly evidence: 'executed' | 'source' | 'documentation' | 'executed and read';
  readonly version: string;
  /** Operators of the default domain that it takes in some form; `rules/` has the forms. */
  readonly operators: ReadonlySet<string>;
}

const words = (text: string): ReadonlySet<string> => new Set(text.split(/\s+/).filter(Boolean));

const ACE = words('Add AveragePool Concat Constant Conv Flatten Gemm GlobalAveragePool MaxPool Mul Relu Reshape');

export const TARGETS = {
  portable: {
    name: 'portable',
    kind: 'profile: what CrypTen, Athos and ACE compute rightly, and Concrete ML and HElayers document',
    input: 'ONNX',
    evidence: 'executed and read',
    version: 'those of its members',
    operators: words('Add AveragePool Concat Conv Flatten Gemm Mul'),
  },
  crypten: {
    name: 'crypten',
    kind: 'MPC, secret sharing',
    input: 'ONNX',
    evidence: 'executed',
    version: '2024-11',
    operators:
      words(`Add Sub Mul Div Pow Sqrt Exp Erf ReduceMean ReduceSum Transpose Squeeze Unsqueeze Slice Expand Cast
      Range Equal Where Flatten Shape Concat Reshape Dropout Gather Pad Gemm MatMul Conv Relu Clip Sigmoid Softmax
      LogSoftmax MaxPool AveragePool GlobalAveragePool BatchNormalization Constant ConstantOfShape`),
  },
  athos: {
    name: 'athos',
    kind: 'MPC, EzPC (CPP, SCI, ABY, PORTHOS, FSS)',
    input: 'ONNX',
    evidence: 'executed',
    version: '2024-05',
    operators: words(`Add AveragePool BatchNormalization Cast Concat Constant Conv ConvTranspose Div Flatten Gather Gemm
      GlobalAveragePool HardSigmoid MatMul MaxPool Mul Pad ReduceMean Relu Reshape Split Sub Transpose Unsqueeze`),
  },
  'ezpc-onnxbridge': {
    name: 'ezpc-onnxbridge',
    kind: 'MPC and FSS, EzPC (LLAMA, SecFloat)',
    input: 'ONNX',
    evidence: 'executed',
    version: '2024-05',
    operators: words(`Relu LeakyRelu Softmax Conv MaxPool AveragePool Flatten Gemm BatchNormalization Concat
      GlobalAveragePool Add ConvTranspose Transpose`),
  },
  ace: {
    name: 'ace',
    kind: 'CKKS, compiler to C',
    input: 'ONNX',
    evidence: 'executed',
    version: '2026-06',
    operators: ACE,
  },
  'concrete-ml': {
    name: 'concrete-ml',
    kind: 'TFHE',
    input: 'ONNX',
    evidence: 'source',
    version: '1.9.0',
    operators:
      words(`Add AveragePool BatchNormalization Cast Concat Constant Conv Div Flatten Gemm Identity MatMul Mul Neg
      Pad Pow ReduceSum Relu Reshape Sub Transpose Unsqueeze`),
  },
  helayers: {
    name: 'helayers',
    kind: 'CKKS and others, proprietary',
    input: 'ONNX',
    evidence: 'documentation',
    version: '2025-03',
    operators:
      words(`AveragePool BatchNormalization Cast Concat Constant Conv Expand Flatten Gather Gemm Identity MatMul
      Pad PolyApprox Reciprocal ReduceMean ReduceSum Reshape Shape Slice Squeeze Transpose Unsqueeze Add Sub Mul Div Neg
      Pow`),
  },
  ezkl: {
    name: 'ezkl',
    kind: 'zero-knowledge proofs',
    input: 'ONNX',
    evidence: 'source',
    version: '2026-01',
    operators: words(`Add Sub Mul Pow Conv AveragePool GlobalAveragePool MaxPool Pad Flatten Reshape Gemm MatMul Concat
      Slice Gather Div Neg Relu Constant Identity`),
  },
  orion: {
    name: 'orion',
    kind: 'CKKS on Lattigo',
    input: 'Python modules, no ONNX',
    evidence: 'source',
    version: '2025-11',
    operators: words(`Conv Gemm MatMul AveragePool GlobalAveragePool BatchNormalization Flatten Reshape Add Mul Constant
      Pow Sub`),
  },
  heir: {
    name: 'heir',
    kind: 'MLIR compiler',
    input: 'linalg from torch-mlir or onnx-mlir, no ONNX importer',
    evidence: 'source',
    version: '2026-08',
    operators: words('Add AveragePool Concat Conv Flatten Gemm Mul MatMul Constant Reshape'),
  },
} as const satisfies Record<string, Target>;

export type TargetName = keyof typeof TARGETS;
export const TARGET_NAMES = Object.keys(TARGETS) as TargetName[];

/** Those that `lower` writes files for. */
export const LOWERING_TARGETS = [
  'portable',
  'ace',
  'heir',
  'crypten',
  'athos',
  'concrete-ml',
  'helayers',
  'ezkl',
] as const satisfies readonly TargetName[];
export type LoweringTarget = (typeof LOWERING_TARGETS)[number];

/** Systems that people ask for and that take no such file, with the reason. */
export const NO_TARGETS: Readonly<Record<string, string>> = {
  'he-transformer': 'it is archived since 2023 and reads TensorFlow graphs only',
  'ngraph-he': 'it is archived since 2023 and reads TensorFlow graphs only',
  'mp-spdz': 'it reads torch.fx graphs of Linear, Conv2d, pooling, ReLU, GeLU and add; it has no multiplication',
  spu: 'it reads StableHLO',
  tenseal: 'it is an API of tensors without an ONNX importer',
  eva: 'it is a language embedded in Python',
  dacapo: 'it is a language embedded in Python',
  delphi: 'its interface is Rust, with quadratic layers and weights from npy files',
  piranha: 'it reads layers as JSON, none of them a polynomial',
  rosetta: 'it reads TensorFlow programs',
  'tf-encrypted': 'it reads TensorFlow programs',
  pymoose:
    'it collects only Sigmoid, Softmax and Relu nodes as activations: a polynomial is skipped without a word, and those that remain no longer line up with the layers',
};
