/** Operators that arrange, copy or leave out elements, and reductions. */
import { floatAttr, intAttr, intsAttr, stringAttr, tensorAttr } from '../graph/attributes.ts';
import { sliceRange } from '../graph/shape-data.ts';
import { axisOf } from '../graph/shape-facts.ts';
import { elementCount, toNumbers } from '../graph/tensor.ts';
import { type Lowering, type Lowerings, listOf, type Site, unary, unsupported } from './lowering.ts';
import { tf } from './tf.ts';

const axesOf = (rank: number) => Array.from({ length: rank }, (_, axis) => axis);

/** Everything whose elements stay in their order: the result's shape says it all. */
const reshape: Lowering = (site) => {
  const shape = [...site.result()];
  const from = site.shape(0);
  if (elementCount(shape) !== elementCount(from))
    throw unsupported(`it makes [${shape}] of [${from}], so it is for one number of rows`);
  return (input) => tf.reshape(input(0), shape);
};

const transpose: Lowering = (site) => {
  const perm = intsAttr(site.node, 'perm') ?? axesOf(site.shape(0).length).reverse();
  return (input) => tf.transpose(input(0), perm);
};

const concat: Lowering = (site) => {
  const { inputs } = site.node;
  const axis = axisOf(intAttr(site.node, 'axis') ?? 1, site.shape(0).length);
  return (input) =>
    join(
      inputs.map((_, index) => input(index)),
      axis,
    );
};

const join = (parts: tf.Tensor[], axis: number): tf.Tensor =>
  parts.length === 1 ? (parts[0] as tf.Tensor) : tf.concat(parts, axis);

const split: Lowering = (site) => {
  const axis = axisOf(intAttr(site.node, 'axis') ?? 0, site.shape(0).length);
  const sizes = site.node.outputs.map((_, index) => site.result(index)[axis] as number);
  return (input) => (sizes.length === 1 ? input(0) : tf.split(input(0), sizes, axis));
};

const slice: Lowering = (site) => {
  const shape = site.shape(0);
  const starts = listOf(site, 'starts', 1) ?? [];
  const ends = listOf(site, 'ends', 2) ?? [];
  const axes = listOf(site, 'axes', 3) ?? axesOf(starts.length);
  const steps = listOf(site, 'steps', 4) ?? [];
  const ranges = shape.map((length): Range => ({ from: 0, length, step: 1 }));
  for (const [i, given] of axes.entries()) {
    const axis = axisOf(given, shape.length);
    const step = steps[i] ?? 1;
    ranges[axis] = { ...sliceRange(shape[axis] as number, starts[i] ?? 0, ends[i] ?? 0, step), step };
  }
  return (input) => take(input(0), ranges);
};

/** `length` elements along an axis, every `step`-th from `from` on. */
interface Range {
  readonly from: number;
  readonly length: number;
  readonly step: number;
}

/** The gradient of tfjs' own strided slice does not exist, so the steps are taken one axis at a time. */
function take(x: tf.Tensor, ranges: readonly Range[]): tf.Tensor {
  const plain = ranges.map(({ from, length, step }, axis) =>
    step === 1 ? { from, length } : { from: 0, length: x.shape[axis] as number },
  );
  const whole = plain.every(({ length }, axis) => length === x.shape[axis]);
  let y = whole
    ? x
    : tf.slice(
        x,
        plain.map(({ from }) => from),
        plain.map(({ length }) => length),
      );
  for (const [axis, range] of ranges.entries()) if (range.step !== 1) y = stride(y, axis, range);
  return y;
}

/** Pieces of `step` elements each, of which the first is taken. */
function stride(x: tf.Tensor, axis: number, { from, length, step }: Range): tf.Tensor {
  const size = x.shape[axis] as number;
  if (step < 0) return stride(tf.reverse(x, axis), axis, { from: size - 1 - from, length, step: -step });
  const before = elementCount(x.shape.slice(0, axis));
  const after = elementCount(x.shape.slice(axis + 1));
  let y = tf.reshape(x, [before, size, after]);
  const missing = from + length * step - size;
  if (missing > 0)
    y = tf.pad(y, [
      [0, 0],
      [0, missing],
      [0, 0],
    ]);
  y = tf.slice(y, [0, from, 0], [before, length * step, after]);
  y = tf.slice(tf.reshape(y, [before, length, step, after]), [0, 0, 0, 0], [before, length, 1, after]);
  return tf.reshape(y, [...x.shape.slice(0, axis), length, ...x.shape.slice(axis + 1)]);
}

const gather: Lowering = (site) => {
  const shape = site.shape(0);
  const axis = axisOf(intAttr(site.node, 'axis') ?? 0, shape.length);
  const size = shape[axis] as number;
  const indices = site.numbers(1).map((index) => (index < 0 ? index + size : index));
  const result = [...site.result()];
  return (input) => tf.reshape(pick(input(0), indices, axis), result);
};

/** Indices are known, so the gradient is a gather as well wherever no element is taken twice. */
function pick(x: tf.Tensor, indices: readonly number[], axis: number): tf.Tensor {
  const [first = 0] = indices;
  if (indices.every((index, i) => index === first + i))
    return take(
      x,
      x.shape.map((length, at) => ({
        from: at === axis ? first : 0,
        length: at === axis ? indices.length : length,
        step: 1,
      })),
    );
  const choose = (from: tf.Tensor, list: readonly number[]) => tf.gather(from, tf.tensor1d([...list], 'int32'), axis);
  if (new Set(indices).size < indices.length) return choose(x, indices);
  const places = Array.from({ length: x.shape[axis] as number }, () => indices.length);
  for (const [place, index] of indices.entries()) places[index] = place;
  const zero = x.shape.map((_, at): [number, number] => [0, at === axis ? 1 : 0]);
  const op = tf.customGrad((data) => ({
    value: choose(data as tf.Tensor, indices),
    gradFunc: (dy: tf.Tensor) => choose(tf.pad(dy, zero), places),
  }));
  return op(x);
}

const PAD_MODES = ['constant', 'reflect', 'edge'] as const;
type PadMode = (typeof PAD_MODES)[number];

const pad: Lowering = (site) => {
  const { node, opset } = site;
  const { length: rank } = site.shape(0);
  const stated = stringAttr(node, 'mode') || 'constant';
  const mode = PAD_MODES.find((known) => known === stated);
  if (!mode) throw unsupported(`its mode is '${stated}'`);
  const pads = listOf(site, 'pads', 1) ?? [];
  const axes = opset >= 18 && site.has(3) ? site.numbers(3).map((axis) => axisOf(axis, rank)) : axesOf(rank);
  const value = opset < 11 ? (floatAttr(node, 'value') ?? 0) : site.has(2) ? (site.numbers(2)[0] ?? 0) : 0;
  const amounts = axesOf(rank).map((axis): [number, number] => {
    const i = axes.indexOf(axis);
    return i < 0 ? [0, 0] : [pads[i] ?? 0, pads[i + axes.length] ?? 0];
  });
  return (input) => padded(input(0), amounts, mode, value);
};

/** Negative amounts take elements away. */
function padded(x: tf.Tensor, amounts: readonly [number, number][], mode: PadMode, value: number): tf.Tensor {
  const cut = (amount: number) => Math.max(0, -amount);
  const kept = take(
    x,
    amounts.map(([begin, end], axis) => ({
      from: cut(begin),
      length: (x.shape[axis] as number) - cut(begin) - cut(end),
      step: 1,
    })),
  );
  const added = amounts.map(([begin, end]): [number, number] => [Math.max(0, begin), Math.max(0, end)]);
  if (added.every(([begin, end]) => begin + end === 0)) return kept;
  if (mode === 'constant') return tf.pad(kept, added, value);
  let y = kept;
  for (const [axis, [begin, end]] of added.entries()) {
    const size = y.shape[axis] as number;
    const one = (from: number, shape = y.shape) =>
      take(
        y,
        shape.map((length, at) => (at === axis ? { from, length: 1, step: 1 } : { from: 0, length, step: 1 })),
      );
    const before = Array.from({ length: begin }, (_, i) => one(mode === 'edge' ? 0 : begin - i));
    const after = Array.from({ length: end }, (_, i) => one(mode === 'edge' ? size - 1 : size - 2 - i));
    y = join([...before, y, ...after], axis);
  }
  return y;
}

/** As a sum with zeros: the gradient of Tile, which tfjs would take, ends at rank 4. */
export const broadcastTo = (x: tf.Tensor, shape: readonly number[]): tf.Tensor =>
  `${x.shape}` === `${shape}` ? x : tf.add(x, tf.zeros([...shape]));

const expand: Lowering = (site) => {
  const shape = site.result();
  return (input) => broadcastTo(input(0), shape);
};

const tile: Lowering = (site) => {
  const repeats = site.numbers(1);
  return (input) => repeats.reduce((y, times, axis) => join(Array<tf.Tensor>(times).fill(y), axis), input(0));
};

const constantOfShape: Lowering = (site) => {
  const shape = [...site.result()];
  const value = tensorAttr(site.node, 'value');
  const number = value ? (toNumbers(value)[0] ?? 0) : 0;
  return () => tf.fill(shape, number);
};

/** Blocks of channels become blocks of pixels. */
const depthToSpace: Lowering = (site) => {
  const [n, c, h, w] = site.shape(0) as [number, number, number, number];
  const b = intAttr(site.node, 'blocksize') ?? 1;
  const depth = c / (b * b);
  const depthFirst = stringAttr(site.node, 'mode') === 'CRD';
  const blocks = depthFirst ? [n, depth, b, b, h, w] : [n, b, b, depth, h, w];
  const order = depthFirst ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2];
  return (input) => tf.reshape(tf.transpose(tf.reshape(input(0), blocks), order), [n, depth, h * b, w * b]);
};

const spaceToDepth: Lowering = (site) => {
  const [n, c, h, w] = site.shape(0) as [number, number, number, number];
  const b = intAttr(site.node, 'blocksize') ?? 1;
  const blocks = [n, c, h / b, b, w / b, b];
  return (input) =>
    tf.reshape(tf.transpose(tf.reshape(input(0), blocks), [0, 3, 5, 1, 2, 4]), [n, c * b * b, h / b, w / b]);
};

type Reduce = (x: tf.Tensor, axes: number[], keep: boolean) => tf.Tensor;

const reduce =
  (compute: Reduce): Lowering =>
  (site: Site) => {
    const { length: rank } = site.shape(0);
    const stated = listOf(site, 'axes', 1) ?? [];
    if (stated.length === 0 && intAttr(site.node, 'noop_with_empty_axes') === 1) return (input) => input(0);
    const axes = stated.length > 0 ? stated.map((axis) => axisOf(axis, rank)) : axesOf(rank);
    const keep = intAttr(site.node, 'keepdims') !== 0;
    return (input) => compute(input(0), axes, keep);
  };

export const ARRANGE_LOWERINGS: Lowerings = {
  Identity: unary((x) => x),
  Flatten: reshape,
  Reshape: reshape,
  Squeeze: reshape,
  Unsqueeze: reshape,
  Transpose: transpose,
  Concat: concat,
  Split: split,
  Slice: slice,
  Gather: gather,
  Pad: pad,
  Expand: expand,
  Tile: tile,
  ConstantOfShape: constantOfShape,
  DepthToSpace: depthToSpace,
  SpaceToDepth: spaceToDepth,
  ReduceSum: reduce(tf.sum),
  ReduceMean: reduce(tf.mean),
  ReduceMax: reduce(tf.max),
  ReduceMin: reduce(tf.min),
  ReduceProd: reduce(tf.prod),
  ReduceL1: reduce((x, axes, keep) => tf.sum(tf.abs(x), axes, keep)),
  ReduceL2: reduce((x, axes, keep) => tf.sqrt(tf.sum(tf.square(x), axes, keep))),
  ReduceSumSquare: reduce((x, axes, keep) => tf.sum(tf.square(x), axes, keep)),
  ReduceLogSum: reduce((x, axes, keep) => tf.log(tf.sum(x, axes, keep))),
  ReduceLogSumExp: reduce(tf.logSumExp),
};
