/** How deep each operator multiplies: the levels that private inference pays for. */
import { intAttr, stringAttr } from './attributes.ts';
import type { Node } from './ir.ts';
import { quotientDim } from './shape-facts.ts';
import type { Types } from './shapes.ts';

/** What is asked about a node. */
export interface Operands {
  readonly node: Node;
  /** Whether an input depends on the model's input. */
  readonly isData: (index: number) => boolean;
  readonly types: Types;
}

/** The outputs are known before the run although the inputs are not. */
export const KNOWN = 'known';
export const NON_POLYNOMIAL = 'non-polynomial';
/** Levels from an operator's inputs to its outputs. */
export type Levels = number | typeof KNOWN | typeof NON_POLYNOMIAL;

type Rule = (operands: Operands) => Levels;

const table = (operators: string, rule: Rule): Record<string, Rule> =>
  Object.fromEntries(operators.split(' ').map((op) => [op, rule]));

/** Linear in the inputs listed; every other one must be a constant. */
const linearIn =
  (...linear: number[]): Rule =>
  ({ node, isData }) =>
    node.inputs.every((_, index) => linear.includes(index) || !isData(index)) ? 0 : NON_POLYNOMIAL;

const division: Rule = ({ isData }) => (isData(1) ? NON_POLYNOMIAL : 1);

/** The n-th power takes ceil(log2 n) squarings and products side by side. */
const power: Rule = ({ node, types }) => {
  const [, exponents] = node.inputs;
  const elements = (exponents && types.elements(exponents)) ?? [null];
  const levels = elements.map((n) =>
    typeof n === 'number' && n >= 0 ? Math.ceil(Math.log2(Math.max(1, n))) : Number.NaN,
  );
  return elements.every(Number.isInteger) && !levels.some(Number.isNaN) ? Math.max(...levels) : NON_POLYNOMIAL;
};

const product: Rule = ({ node, types }) => {
  const [from, to] = [node.inputs[0], node.outputs[0]].map((value) => value && types.get(value).shape);
  const count = from && to ? quotientDim(from, to) : null;
  return typeof count === 'number' ? Math.ceil(Math.log2(Math.max(1, count))) : NON_POLYNOMIAL;
};

/** Nearest neighbours are copies; anything else is a weighted sum. */
const resize: Rule = (operands) => {
  if (linearIn(0)(operands) !== 0) return NON_POLYNOMIAL;
  return (stringAttr(operands.node, 'mode') ?? 'nearest') === 'nearest' ? 0 : 1;
};

const batchNormalization: Rule = ({ node, isData }) =>
  intAttr(node, 'training_mode') === 1 || [3, 4].some(isData) ? NON_POLYNOMIAL : 1;

/** A product with a constant scale. */
const dequantize: Rule = (operands) => (linearIn(0)(operands) === 0 ? 1 : NON_POLYNOMIAL);

const RULES: ReadonlyMap<string, Rule> = new Map(
  Object.entries({
    ...table('Add Sub Sum Concat Neg Identity Not', () => 0),
    ...table(
      'Reshape Flatten Transpose Squeeze Unsqueeze Dropout Cast Slice Split Gather GatherElements GatherND Expand Tile ' +
        'DepthToSpace SpaceToDepth ReduceSum CumSum Trilu ReverseSequence Col2Im CenterCropPad',
      linearIn(0),
    ),
    CastLike: linearIn(0, 1),
    Pad: linearIn(0, 2),
    ...table('ScatterElements ScatterND Scatter', linearIn(0, 2)),
    Where: linearIn(1, 2),
    ...table('Shape Size', () => KNOWN),
    ...table(
      'Conv ConvTranspose Gemm MatMul ConvInteger MatMulInteger Mul Einsum AveragePool GlobalAveragePool ReduceMean ' +
        'Mean ReduceSumSquare',
      () => 1,
    ),
    BatchNormalization: batchNormalization,
    DequantizeLinear: dequantize,
    ...table('Resize Upsample', resize),
    Div: division,
    Pow: power,
    ReduceProd: product,
  }),
);

/**
 * The levels of one node. An operator that is not listed as polynomial, or of another domain, is taken for none; so is
 * one that is polynomial only in inputs which are constants here.
 */
export function levelsOf(operands: Operands): Levels {
  const { node } = operands;
  const rule = node.domain === '' ? RULES.get(node.op) : undefined;
  try {
    return rule ? rule(operands) : NON_POLYNOMIAL;
  } catch {
    return NON_POLYNOMIAL; // an attribute that only the caller of a function knows
  }
}
