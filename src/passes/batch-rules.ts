/** How each operator treats the batch axis of its inputs: the table under `batch-flow.ts`. */
import { attribute, floatsAttr, intAttr, intsAttr, stringAttr } from '../graph/attributes.ts';
import type { Node } from '../graph/ir.ts';
import { axisAttribute, type BatchRule, frontAxis, plainNumbers, type Site, type Size } from './batch-flow.ts';
import { constantOfShapeRule, expandRule, flattenRule, reshapeRule } from './batch-reshape.ts';

const NO_RANK = 'has an input of unknown rank';
const SEVERAL = 'gets the batch from an input other than its first';

/** Batch axis and rank of the first input, where it is the only one with rows. */
function onlyFirst(site: Site): { axis: number; rank: number } | string {
  const axis = site.batchAxis(0);
  const others = site.node.inputs.some((_, index) => index > 0 && site.batchAxis(index) !== null);
  if (axis === null || others) return SEVERAL;
  const rank = site.shape(0)?.length;
  return rank === undefined ? NO_RANK : { axis, rank };
}

/** A rule for operators whose first input alone holds rows. */
const first =
  (rule: (site: Site, axis: number, rank: number) => number | string): BatchRule =>
  (site) => {
    const found = onlyFirst(site);
    return typeof found === 'string' ? found : rule(site, found.axis, found.rank);
  };

/** Each element by itself; further inputs are settings. */
const unary: BatchRule = (site) => {
  const axis = site.batchAxis(0);
  return axis === null || site.node.inputs.some((_, i) => i > 0 && site.batchAxis(i) !== null) ? SEVERAL : axis;
};

/** Operators that take [N, C, ...] and treat each of the N by itself. */
const perSample = first((_, axis) => (axis === 0 ? 0 : `works on samples along axis 0, but the batch is axis ${axis}`));

/** Broadcasts the inputs `at` (default all): every one has the batch at the same place from the end, or 1 there. */
function broadcast(at?: readonly number[]): BatchRule {
  return ({ node, batchAxis, shape }) => {
    const operands = (at ?? [...node.inputs.keys()]).filter((index) => node.inputs[index]);
    if (node.inputs.some((_, index) => !operands.includes(index) && batchAxis(index) !== null)) return SEVERAL;
    let rank = 0;
    let place: number | null = null;
    for (const index of operands) {
      const dims = shape(index);
      if (!dims) return NO_RANK;
      rank = Math.max(rank, dims.length);
      const axis = batchAxis(index);
      if (axis === null) continue;
      if (place !== null && place !== axis - dims.length) return 'combines inputs whose batch axes do not line up';
      place = axis - dims.length;
    }
    if (place === null) return SEVERAL;
    for (const index of operands) {
      const dims = shape(index) ?? [];
      const at = dims.length + place;
      if (at >= 0 && dims[at] !== 1)
        return `combines the batch with '${node.inputs[index]?.name}', whose size there is ${dims[at] ?? 'unknown'} and not 1`;
    }
    return rank + place;
  };
}

/** An attribute names the axis that the operator works along. */
function along(name: string, otherwise: number, what: string): BatchRule {
  return first(({ node }, axis, rank) => {
    const at = axisAttribute(node, name, otherwise, rank);
    if (at === null) return 'has an axis that its input lacks';
    return at === axis ? `${what} the batch axis` : axis;
  });
}

/** Axes that are an attribute or, from an opset on, an input. 'all' where they are left out. */
function axesOf(site: Site, index: number, rank: number): readonly number[] | 'all' | null {
  const given = intsAttr(site.node, 'axes') ?? (site.node.inputs[index] ? plainNumbers(site.sizes(index)) : []);
  if (!given) return null;
  if (given.length === 0) return 'all';
  const axes = given.map((axis) => frontAxis(axis, rank));
  return axes.every((axis) => axis !== null) ? axes : null;
}

const UNKNOWN_AXES = 'has axes that are not known';

const reduce = first((site, axis, rank) => {
  const axes = axesOf(site, 1, rank);
  if (axes === null) return UNKNOWN_AXES;
  if (axes === 'all') return intAttr(site.node, 'noop_with_empty_axes') ? axis : 'reduces over all axes, the batch too';
  if (axes.includes(axis)) return 'reduces over the batch axis';
  return (intAttr(site.node, 'keepdims') ?? 1) ? axis : axis - axes.filter((at) => at < axis).length;
});

const argReduce = first(({ node }, axis, rank) => {
  const at = axisAttribute(node, 'axis', 0, rank);
  if (at === null) return UNKNOWN_AXES;
  if (at === axis) return 'reduces over the batch axis';
  return (intAttr(node, 'keepdims') ?? 1) || at > axis ? axis : axis - 1;
});

/** Below opset 13 all axes from `axis` on are normalised together. */
const softmax = first(({ node, opset }, axis, rank) => {
  const at = axisAttribute(node, 'axis', opset < 13 ? 1 : -1, rank);
  if (at === null) return UNKNOWN_AXES;
  const clear = opset < 13 ? axis < at : axis !== at;
  return clear ? axis : 'normalises over the batch axis';
});

const meanVariance = first(({ node, opset }, axis, rank) => {
  if (opset < 9) return 'has another meaning before opset 9';
  const axes = (intsAttr(node, 'axes') ?? [0, 2, 3]).map((at) => frontAxis(at, rank));
  return axes.includes(axis) || axes.includes(null) ? 'normalises over the batch axis' : axis;
});

const layerNorm = first((site, axis, rank) => {
  const from = axisAttribute(site.node, 'axis', -1, rank);
  if (from === null || axis >= from) return 'normalises over the batch axis';
  // Scale and bias are broadcast to the input.
  const wide = [1, 2].some((index) => {
    const dims = site.node.inputs[index] ? site.shape(index) : [];
    const at = (dims?.length ?? 0) + axis - rank;
    return !dims || (at >= 0 && dims[at] !== 1);
  });
  return wide ? 'has a scale or bias with a size along the batch axis' : axis;
});

const batchNorm: BatchRule = (site) => {
  if (intAttr(site.node, 'training_mode')) return 'is in training mode: it normalises over the batch';
  if (site.node.outputs.slice(1).some((value) => value)) return 'returns statistics of the batch';
  return perSample(site);
};

const maxPool: BatchRule = (site) =>
  site.node.outputs[1]?.users.size ? 'returns indices into the whole batch' : perSample(site);

/** y = op(A) op(B) + C with rows in A; C is broadcast to the result. `inputs`: where A, B and C are. */
function gemm(inputs: readonly [number, number, number]): BatchRule {
  const [a, b, c] = inputs;
  return ({ node, batchAxis, shape }) => {
    const axis = batchAxis(a);
    if (axis === null || node.inputs.some((_, i) => i !== a && i !== c && batchAxis(i) !== null))
      return `has rows in '${node.inputs[b]?.name}' or in a setting`;
    if (axis !== (intAttr(node, 'transA') ? 1 : 0)) return 'sums over the batch axis';
    if (!node.inputs[c]) return 0;
    const dims = shape(c);
    if (!dims) return NO_RANK;
    if (batchAxis(c) !== null)
      return batchAxis(c) === dims.length - 2 ? 0 : 'adds a C whose batch axis is not the rows';
    return dims.length < 2 || dims[dims.length - 2] === 1
      ? 0
      : `adds '${node.inputs[c]?.name}', which has rows of its own`;
  };
}

/** Matrix product of the inputs `a` and `b`, with numpy's rules for vectors and stacks. */
function matMul(a: number, b: number): BatchRule {
  return ({ node, batchAxis, shape }) => {
    const [left, right] = [shape(a), shape(b)];
    if (!left || !right) return NO_RANK;
    if (node.inputs.some((_, i) => i !== a && i !== b && batchAxis(i) !== null)) return SEVERAL;
    // Counted from the end, rows and columns are the same axes in operand and result.
    const place = (index: number, rank: number) => {
      const axis = batchAxis(index);
      return axis === null ? null : axis - rank;
    };
    const [inLeft, inRight] = [place(a, left.length), place(b, right.length)];
    if (inLeft === -1 || (inRight !== null && (right.length === 1 || inRight === -2)))
      return 'sums over the batch axis';
    const at = inLeft ?? inRight;
    if (at === null) return SEVERAL;
    if (inLeft !== null && inRight !== null && (inLeft !== inRight || at > -3))
      return 'multiplies the rows of the batch with each other';
    if (at <= -3)
      for (const dims of [left, right])
        if (dims.length + at >= 0 && dims[dims.length + at] !== 1)
          return `pairs the batch with a stack of ${dims[dims.length + at] ?? 'unknown size'}`;
    // A vector on the left leaves no axis of rows in front of the columns.
    const rank = Math.max(left.length, right.length, 2);
    return rank + at - (left.length === 1 && at === -1 ? 1 : 0);
  };
}

/**
 * Quantisation parameters per row of an operand would mix up the batch: they must be single numbers for operand `a`, for
 * the result, and for `b` where that holds rows too.
 */
function perTensor(indices: readonly number[], b: readonly number[], rule: BatchRule): BatchRule {
  return (site) => {
    const single = (index: number) => (site.shape(index) ?? [null]).every((dim) => dim === 1);
    const [operand = 0, ...parameters] = b;
    const checked = site.batchAxis(operand) === null ? indices : [...indices, ...parameters];
    const wide = checked.find((index) => site.node.inputs[index] && !single(index));
    return wide === undefined
      ? rule(site)
      : `has quantisation parameters '${site.node.inputs[wide]?.name}' by row or column`;
  };
}

const quantize = first(({ node, opset, shape }, axis, rank) => {
  if (intAttr(node, 'block_size')) return 'is quantised by blocks';
  const dims = shape(1);
  if (!dims) return NO_RANK;
  if (dims.length === 0 || (opset < 13 && dims.every((dim) => dim === 1))) return axis;
  if (dims.length > 1) return 'has scales of an unknown layout';
  return axisAttribute(node, 'axis', 1, rank) === axis ? 'has a scale for each row' : axis;
});

const transpose = first(({ node }, axis, rank) => {
  const perm = intsAttr(node, 'perm') ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
  const to = perm.indexOf(axis);
  return to < 0 ? 'has a permutation that does not fit its input' : to;
});

const squeeze = first((site, axis, rank) => {
  const axes = axesOf(site, 1, rank);
  if (axes === null) return UNKNOWN_AXES;
  if (axes === 'all') return 'removes every axis of size 1, the batch too; give it axes';
  return axes.includes(axis) ? 'removes the batch axis' : axis - axes.filter((at) => at < axis).length;
});

const unsqueeze = first((site, axis, rank) => {
  const given = intsAttr(site.node, 'axes') ?? plainNumbers(site.sizes(1));
  if (!given) return UNKNOWN_AXES;
  const total = rank + given.length;
  const added = new Set(given.map((at) => frontAxis(at, total)));
  const kept = Array.from({ length: total }, (_, at) => at).filter((at) => !added.has(at));
  return kept.length === rank && !added.has(null) ? (kept[axis] ?? UNKNOWN_AXES) : UNKNOWN_AXES;
});

const concat: BatchRule = ({ node, batchAxis, shape }) => {
  const axis = node.inputs.map((_, index) => batchAxis(index)).find((at) => at !== null) ?? 0;
  const fixed = node.inputs.findIndex((_, index) => batchAxis(index) === null);
  if (fixed >= 0) return `joins the batch with '${node.inputs[fixed]?.name}', which has a single row`;
  if (node.inputs.some((_, index) => batchAxis(index) !== axis))
    return 'combines inputs whose batch axes do not line up';
  const rank = shape(0)?.length;
  if (rank === undefined) return NO_RANK;
  return axisAttribute(node, 'axis', 1, rank) === axis ? 'joins along the batch axis' : axis;
};

const LARGE = 2 ** 31 - 1;

const slice = first((site, axis, rank) => {
  const list = (name: string, index: number) =>
    site.opset < 10
      ? (intsAttr(site.node, name) ?? null)
      : site.node.inputs[index]
        ? plainNumbers(site.sizes(index))
        : null;
  const [starts, ends] = [list('starts', 1), list('ends', 2)];
  const given = site.opset < 10 ? intsAttr(site.node, 'axes') : site.node.inputs[3] ? list('axes', 3) : undefined;
  const count = starts?.length ?? ends?.length ?? site.shape(1)?.[0];
  if (given === null || (given === undefined && typeof count !== 'number')) return UNKNOWN_AXES;
  const axes = given ?? Array.from({ length: Number(count) }, (_, at) => at);
  const at = axes.findIndex((candidate) => frontAxis(candidate, rank) === axis);
  if (at < 0) return axis;
  const steps = site.opset >= 10 && site.node.inputs[4] ? list('steps', 4) : axes.map(() => 1);
  // Exporters also write out the slices that keep everything.
  const whole = starts?.[at] === 0 && (ends?.[at] ?? 0) >= LARGE && steps?.[at] === 1;
  return whole ? axis : 'slices the batch axis';
});

const gather: BatchRule = (site) => {
  const [data, indices] = [site.shape(0), site.shape(1)];
  if (!data || !indices) return NO_RANK;
  const at = axisAttribute(site.node, 'axis', 0, data.length);
  if (at === null) return UNKNOWN_AXES;
  const [inData, inIndices] = [site.batchAxis(0), site.batchAxis(1)];
  if (inData !== null && inIndices !== null) return 'looks up rows of the batch by the batch';
  if (inData === null) return at + (inIndices ?? 0);
  if (inData === at) return 'picks among the rows of the batch';
  return inData < at ? inData : inData - 1 + indices.length;
};

const pad = first((site, axis, rank) => {
  const pads = intsAttr(site.node, 'pads') ?? plainNumbers(site.sizes(1));
  const axes = site.node.inputs[3] ? axesOf(site, 3, rank) : 'all';
  if (!pads || axes === null) return 'has pads that are not known';
  const at = axes === 'all' ? axis : axes.indexOf(axis);
  if (at < 0) return axis;
  const count = pads.length / 2;
  return pads[at] === 0 && pads[at + count] === 0 ? axis : 'pads the batch axis';
});

/** With these a scale of 1 takes each row from itself. */
const PLAIN_COORDINATES = new Set([
  'half_pixel',
  'half_pixel_symmetric',
  'pytorch_half_pixel',
  'align_corners',
  'asymmetric',
]);

const resize = first((site, axis, rank) => {
  const { node, opset } = site;
  const mode = stringAttr(node, 'coordinate_transformation_mode') ?? (opset < 11 ? 'asymmetric' : 'half_pixel');
  if (!PLAIN_COORDINATES.has(mode)) return `resizes in the mode ${mode}`;
  if ((stringAttr(node, 'keep_aspect_ratio_policy') ?? 'stretch') !== 'stretch') return 'keeps an aspect ratio';
  const axes = intsAttr(node, 'axes')?.map((at) => frontAxis(at, rank));
  const at = axes ? axes.indexOf(axis) : axis;
  if (at < 0) return axis;
  const others = (list: readonly Size[]) => list.some((size, i) => i !== at && (size === 'batch' || size === 'other'));
  const scales = site.sizes(opset < 11 ? 1 : 2);
  const sizes = opset >= 11 ? site.sizes(3) : null;
  if ([scales, sizes].some((list) => list && others(list))) return 'computes with the number of rows';
  if (scales && scales.length > 0) return scales[at] === 1 ? axis : 'scales the batch axis';
  if (sizes?.[at] === 'batch') return axis;
  return sizes ? 'has a size that fixes the number of rows' : 'has scales that are not known';
});

const upsample = first((site, axis) => {
  const scales = floatsAttr(site.node, 'scales') ?? site.sizes(1);
  return scales?.[axis] === 1 ? axis : 'scales the batch axis, or by an unknown factor';
});

const tile = first((site, axis) =>
  site.sizes(1)?.[axis] === 1 ? axis : 'repeats the batch, or an unknown number of times',
);

const oneHot = first(({ node }, axis, rank) => {
  const at = axisAttribute(node, 'axis', -1, rank + 1);
  if (at === null) return UNKNOWN_AXES;
  return axis < at ? axis : axis + 1;
});

const cumSum = first((site, axis, rank) => {
  const at = site.sizes(1)?.[0];
  const front = typeof at === 'number' ? frontAxis(at, rank) : null;
  return front === null || front === axis ? 'sums along the batch axis, or an unknown one' : axis;
});

const trilu = first((_, axis, rank) => (axis < rank - 2 ? axis : 'cuts along the batch axis'));

/** Attributes of a fused operator that say something this table has not read. */
const plainly =
  (rule: BatchRule, ...unread: string[]): BatchRule =>
  (site) =>
    unread.some((name) => attribute(site.node, name)) ? `uses ${unread.join(' or ')}` : rule(site);

const table = (rule: BatchRule, ...ops: string[]): [string, BatchRule][] => ops.map((op) => [op, rule]);
const words = (text: string) => text.split(' ');

const UNARY =
  'Abs Acos Acosh Asin Asinh Atan Atanh Cos Cosh Sin Sinh Tan Tanh Ceil Floor Round Sign Sqrt Exp Log Neg Reciprocal Erf ' +
  'Sigmoid HardSigmoid HardSwish Relu LeakyRelu Elu Selu Celu Gelu Mish Swish Softplus Softsign Shrink ThresholdedRelu Clip ' +
  'Identity Dropout Cast Not BitwiseNot IsInf IsNaN com.microsoft::Gelu com.microsoft::QuickGelu com.microsoft::QLinearLeakyRelu ' +
  'com.microsoft::QLinearSigmoid sisyphus::ApproxMinMaxNorm';
const BROADCAST =
  'Add Sub Mul Div Pow Mod Max Min Sum Mean And Or Xor BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Greater Less ' +
  'GreaterOrEqual LessOrEqual Where';
const PER_SAMPLE =
  'Conv ConvTranspose AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool InstanceNormalization ' +
  'GroupNormalization LRN QLinearConv ConvInteger DepthToSpace SpaceToDepth com.microsoft::FusedConv ' +
  'com.microsoft::QLinearGlobalAveragePool com.microsoft::QLinearAveragePool';
const REDUCE = 'Max Min Mean Sum Prod L1 L2 LogSum LogSumExp SumSquare';

export const BATCH_RULES: ReadonlyMap<string, BatchRule> = new Map([
  ...table(unary, ...words(UNARY)),
  ...table(broadcast(), ...words(BROADCAST)),
  // The slope is broadcast to the input, never the other way.
  ['PRelu', (site) => (site.batchAxis(0) === null ? SEVERAL : broadcast()(site))],
  ...table(perSample, ...words(PER_SAMPLE)),
  ...table(reduce, ...words(REDUCE).map((kind) => `Reduce${kind}`)),
  ...table(argReduce, 'ArgMax', 'ArgMin'),
  ...table(softmax, 'Softmax', 'LogSoftmax', 'Hardmax'),
  ...table(along('axis', -1, 'normalises over'), 'LpNormalization'),
  ...table(along('axis', -1, 'sorts along'), 'TopK'),
  ...table(along('axis', 0, 'splits'), 'Split'),
  ...table(layerNorm, 'LayerNormalization', 'RMSNormalization'),
  ...table(broadcast([0, 3]), 'com.microsoft::QLinearAdd', 'com.microsoft::QLinearMul'),
  ...table(quantize, 'QuantizeLinear', 'DequantizeLinear'),
  ['MeanVarianceNormalization', meanVariance],
  ['BatchNormalization', batchNorm],
  ['MaxPool', maxPool],
  ['Gemm', gemm([0, 1, 2])],
  ['com.microsoft::QGemm', perTensor([1, 2, 7, 8], [3, 4, 5], gemm([0, 3, 6]))],
  ['MatMul', matMul(0, 1)],
  ['com.microsoft::FusedMatMul', plainly(matMul(0, 1), 'transA', 'transB', 'transBatchA', 'transBatchB')],
  ['QLinearMatMul', perTensor([1, 2, 6, 7], [3, 4, 5], matMul(0, 3))],
  ['MatMulInteger', perTensor([2], [1, 3], matMul(0, 1))],
  ['Transpose', transpose],
  ['Squeeze', squeeze],
  ['Unsqueeze', unsqueeze],
  ['Concat', concat],
  ['Slice', slice],
  ['Gather', gather],
  ['Pad', pad],
  ['Resize', resize],
  ['Upsample', upsample],
  ['Tile', tile],
  ['OneHot', oneHot],
  ['CumSum', cumSum],
  ['Trilu', trilu],
  ['Flatten', flattenRule],
  ['Reshape', reshapeRule],
  ['Expand', expandRule],
  ['ConstantOfShape', constantOfShapeRule],
]);

const KEEP_RANK = new Set([
  ...words(`${UNARY} ${BROADCAST} ${PER_SAMPLE} MaxPool BatchNormalization QuantizeLinear DequantizeLinear`),
  ...words('com.microsoft::QLinearAdd com.microsoft::QLinearMul'),
]);

/** Rank of the first output where it is that of the inputs (the largest of them, where they are broadcast). */
export function keptRank(site: Site): number | null {
  const { node } = site;
  const reduces = node.op.startsWith('Reduce') && (intAttr(node, 'keepdims') ?? 1) !== 0;
  if (nameOf(node) === 'com.microsoft::QGemm') return 2;
  if (!reduces && !KEEP_RANK.has(nameOf(node))) return null;
  const ranks = node.inputs.map((_, index) => (site.batchAxis(index) === null ? 0 : (site.shape(index)?.length ?? 0)));
  const rank = Math.max(...ranks);
  const wider =
    BROADCAST_NAMES.has(node.op) && node.inputs.some((_, index) => (site.shape(index)?.length ?? 99) > rank);
  return rank > 0 && !wider ? rank : null;
}

const BROADCAST_NAMES = new Set([...words(BROADCAST), 'QLinearAdd', 'QLinearMul']);

/** How the table calls a node's operator. */
export const nameOf = (node: Node): string => (node.domain ? `${node.domain}::${node.op}` : node.op);
