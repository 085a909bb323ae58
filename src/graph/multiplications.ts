/** How often each operator multiplies, and what it compares: scalar operations, with unknown sizes counted as 1. */
import { intsAttr, stringAttr } from './attributes.ts';
import type { Dim, Node, Value } from './ir.ts';
import type { Levels, Operands } from './levels.ts';
import { unifyDim } from './shape-facts.ts';
import type { Types } from './shapes.ts';

/** Scalar multiplications by what they multiply, as homomorphic schemes price them. */
export interface Multiplications {
  /** Of two numbers that both depend on the model's input. */
  readonly ciphertext: number;
  /** Of such a number by a constant. */
  readonly plaintext: number;
}

const NONE: Multiplications = { ciphertext: 0, plaintext: 0 };

const shapeOf = (types: Types, value: Value | null | undefined): readonly Dim[] =>
  (value && types.get(value).shape) || [];

const size = (dims: readonly Dim[]): number =>
  dims.reduce<number>((product, dim) => (typeof dim === 'number' ? product * dim : product), 1);

/** An operator's name, with its domain where that is not the default one. */
export const nodeKind = ({ domain, op }: Node): string => (domain === '' ? op : `${domain}::${op}`);

/** Which input holds the weights. */
const weightsIndex = (node: Node): number => (/^(QLinear|com.microsoft::QGemm)/.test(nodeKind(node)) ? 3 : 1);

/** Multiply-accumulates of one node. */
export function macsOf(node: Node, types: Types): number {
  const data = shapeOf(types, node.inputs[0]);
  const weights = shapeOf(types, node.inputs[weightsIndex(node)]);
  const out = shapeOf(types, node.outputs[0]);
  switch (nodeKind(node)) {
    case 'Conv':
    case 'ConvInteger':
    case 'QLinearConv':
      return size(out) * size(weights.slice(1));
    case 'ConvTranspose':
      return size(data) * size(weights.slice(1));
    case 'Gemm':
    case 'com.microsoft::QGemm': {
      const known = weights.length === 2 && weights.every((dim) => typeof dim === 'number');
      return known ? size(weights) * size(out.slice(0, 1)) : size(data) * size(out.slice(1));
    }
    case 'MatMul':
    case 'MatMulInteger':
    case 'QLinearMatMul':
      return size(out) * size([unifyDim(data.at(-1) ?? null, weights.at(weights.length > 1 ? -2 : -1) ?? null)]);
    default:
      return 0;
  }
}

/**
 * Multiplications of one node: its multiply-accumulates, and for other operators that are polynomials (`levels` of them,
 * from `levelsOf`) what their definition multiplies. Scalars of Gemm and signs are taken as folded into weights.
 */
export function multiplicationsOf(operands: Operands, macs: number, levels: Levels): Multiplications {
  const { node, isData } = operands;
  if (macs > 0) return byKind(isData(0) && isData(weightsIndex(node)), macs);
  if (typeof levels !== 'number' || levels === 0) return NONE;
  try {
    return RULES.get(node.op)?.(operands) ?? NONE;
  } catch {
    return NONE; // an attribute that only the caller of a function knows
  }
}

const byKind = (both: boolean, count: number): Multiplications =>
  both ? { ciphertext: count, plaintext: 0 } : { ciphertext: 0, plaintext: count };

type Rule = (operands: Operands) => Multiplications;

const outputs = ({ node, types }: Operands): number => size(shapeOf(types, node.outputs[0]));
const inputs = ({ node, types }: Operands): number => size(shapeOf(types, node.inputs[0]));
/** One constant factor for each output. */
const scaled: Rule = (operands) => byKind(false, outputs(operands));

/** floor(log2 n) squarings, and a product for every other bit of n: no deeper than `levelsOf` says. */
const powerProducts = (n: number): number => n.toString(2).length - 2 + n.toString(2).replaceAll('0', '').length;

const power: Rule = (operands) => {
  const exponents = operands.node.inputs[1];
  const elements = ((exponents && operands.types.elements(exponents)) ?? []).map((n) => Math.max(1, Number(n)));
  const products = elements.reduce((sum, n) => sum + powerProducts(n), 0);
  return byKind(true, (outputs(operands) * products) / Math.max(1, elements.length));
};

/** Every index of the equation once for each product that joins two operands; constant operands are joined before. */
const einsum: Rule = (operands) => {
  const { node, isData, types } = operands;
  const [left = ''] = (stringAttr(node, 'equation') ?? '').replace(/\s/g, '').split('->');
  const sizes = new Map<string, Dim>();
  for (const [index, letters] of left.split(',').entries())
    for (const [at, letter] of [...letters].entries())
      sizes.set(letter, unifyDim(sizes.get(letter) ?? null, shapeOf(types, node.inputs[index])[at] ?? null));
  // Axes behind an ellipsis can't be told apart here.
  const each = left.includes('.') ? outputs(operands) : size([...sizes.values()]);
  const data = node.inputs.filter((_, index) => isData(index)).length;
  return { ciphertext: each * (data - 1), plaintext: data < node.inputs.length ? each : 0 };
};

/** Each output is a weighted sum of 2 (cubic: 4) inputs along every axis that changes. */
const interpolation: Rule = (operands) => {
  const { node, types } = operands;
  const [from, to] = [node.inputs[0], node.outputs[0]].map((value) => shapeOf(types, value));
  const axes = (to ?? []).filter((dim, axis) => dim !== from?.[axis]).length;
  const taps = stringAttr(node, 'mode') === 'cubic' ? 4 : 2;
  return byKind(false, outputs(operands) * taps ** axes);
};

const RULES: ReadonlyMap<string, Rule> = new Map(
  Object.entries<Rule>({
    Mul: (operands) => byKind(operands.isData(0) && operands.isData(1), outputs(operands)),
    Div: scaled,
    BatchNormalization: scaled,
    DequantizeLinear: scaled,
    AveragePool: scaled,
    GlobalAveragePool: scaled,
    ReduceMean: scaled,
    Mean: scaled,
    Pow: power,
    ReduceSumSquare: (operands) => byKind(true, inputs(operands)),
    ReduceProd: (operands) => byKind(true, inputs(operands) - outputs(operands)),
    Einsum: einsum,
    Resize: interpolation,
    Upsample: interpolation,
  }),
);

/** Comparisons with which one node takes maxima over windows or axes, padding included. */
export function comparisonsOf({ node, types }: Omit<Operands, 'isData'>): number {
  const [x, y] = [node.inputs[0], node.outputs[0]].map((value) => size(shapeOf(types, value))) as [number, number];
  try {
    if (node.domain !== '') return 0;
    if (node.op === 'MaxPool') return y * (size(intsAttr(node, 'kernel_shape') ?? []) - 1);
    return node.op === 'GlobalMaxPool' || node.op === 'ReduceMax' || node.op === 'ReduceMin' ? x - y : 0;
  } catch {
    return 0; // as above
  }
}
