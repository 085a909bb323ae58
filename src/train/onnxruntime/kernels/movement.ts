/** Kernels that move elements: shapes, slices, joins, gathers. */
import { backend_util, slice_util, util } from '@tensorflow/tfjs-core';
import { SisyphusError } from '../../../errors.ts';
import { type Kernel, type Kernels, kernel } from '../kernel.ts';
import { int64s, type LazyTensor, node, nodes } from '../lazy.ts';
import { broadcast, sameDims, unsqueezed, withDim } from '../shapes.ts';
import { expand, filled, like, listed, reshape, scalar } from './common.ts';

/** Where only dimensions of 1 move, nothing moves in memory. */
export function transpose(x: LazyTensor, perm: readonly number[]): LazyTensor {
  const dims = perm.map((axis) => x.dims[axis] as number);
  const order = perm.filter((axis) => x.dims[axis] !== 1);
  if (order.every((axis, i) => i === 0 || axis > (order[i - 1] as number))) return reshape(x, dims);
  return node('Transpose', [x], { elem: x.elem, dims }, { perm });
}

/** What ONNX takes for "beyond the first element" where a slice runs backwards. */
const BEFORE_ALL = -(2 ** 31);

/** From `begin` to before `end` in steps, along each axis. @param dims of the result */
function slice(
  x: LazyTensor,
  begin: readonly number[],
  end: readonly number[],
  steps: readonly number[],
  dims: readonly number[],
): LazyTensor {
  const axes = x.dims.map((_, i) => i).filter((i) => steps[i] !== 1 || dims[i] !== x.dims[i]);
  if (axes.length === 0) return x;
  if (dims.includes(0)) return filled(0, x.elem, dims);
  const at = (values: readonly number[]) => int64s(axes.map((axis) => values[axis] as number));
  const ends = end.map((stop) => (stop < 0 ? BEFORE_ALL : stop));
  return node('Slice', [x, at(begin), at(ends), int64s(axes), at(steps)], { elem: x.elem, dims });
}

const sliced: Kernel = kernel(['x'], ([x], attributes) => {
  const { begin, size } = attributes as { begin: number | number[]; size: number | number[] };
  // tfjs reads nothing of the tensor but its shape and rank.
  const [from, dims] = slice_util.parseSliceParams({ shape: x.dims, rank: x.dims.length } as never, begin, size) as [
    number[],
    number[],
  ];
  const end = from.map((start, i) => start + (dims[i] as number));
  return slice(
    x,
    from,
    end,
    from.map(() => 1),
    dims,
  );
});

interface StridedSlice {
  readonly begin: number[];
  readonly end: number[];
  readonly strides: number[];
  readonly beginMask: number;
  readonly endMask: number;
  readonly ellipsisMask: number;
  readonly newAxisMask: number;
  readonly shrinkAxisMask: number;
}

const stridedSlice: Kernel = kernel(['x'], ([x], attributes) => {
  const a = attributes as unknown as StridedSlice;
  const masks = [a.beginMask, a.endMask, a.ellipsisMask, a.newAxisMask, a.shrinkAxisMask] as const;
  const info = slice_util.sliceInfo([...x.dims], a.begin, a.end, a.strides, ...masks);
  const dims = slice_util.computeOutShape(info.begin, info.end, info.strides).map((dim) => Math.max(0, dim));
  return reshape(slice(x, info.begin, info.end, info.strides, dims), info.finalShape);
});

const reverse: Kernel = kernel(['x'], ([x], { dims }) => {
  const axes = util.parseAxisParam(dims as number | number[], [...x.dims]);
  const all = <T>(reversed: (size: number) => T, kept: (size: number) => T): T[] =>
    x.dims.map((size, i) => (axes.includes(i) ? reversed(size) : kept(size)));
  const begin = all(
    (size) => size - 1,
    () => 0,
  );
  const end = all(
    () => BEFORE_ALL,
    (size) => size,
  );
  return slice(
    x,
    begin,
    end,
    all(
      () => -1,
      () => 1,
    ),
    x.dims,
  );
});

function concat(tensors: readonly LazyTensor[], axis: number): LazyTensor {
  const [first, ...others] = tensors.filter(({ dims }) => !dims.includes(0)) as [LazyTensor?, ...LazyTensor[]];
  if (!first || others.length === 0) return first ?? (tensors[0] as LazyTensor);
  const size = [first, ...others].reduce((sum, { dims }) => sum + (dims[axis] as number), 0);
  return node('Concat', [first, ...others], { elem: first.elem, dims: withDim(first.dims, axis, size) }, { axis });
}

const concatenated: Kernel = (recorder, inputs, { axis }) => {
  const tensors = listed(recorder, inputs);
  const [at = 0] = util.parseAxisParam(Number(axis), [...tensors[0].dims]);
  return recorder.give(concat(tensors, at));
};

const pack: Kernel = (recorder, inputs, { axis }) => {
  const tensors = listed(recorder, inputs);
  const dims = unsqueezed(tensors[0].dims, Number(axis));
  const [at = 0] = util.parseAxisParam(Number(axis), dims);
  return recorder.give(
    concat(
      tensors.map((tensor) => reshape(tensor, dims)),
      at,
    ),
  );
};

function split(x: LazyTensor, sizes: readonly number[], axis: number): LazyTensor[] {
  if (sizes.length === 1) return [x];
  const types = sizes.map((size) => ({ elem: x.elem, dims: withDim(x.dims, axis, size) }));
  return nodes('Split', [x, int64s(sizes)], types, { axis });
}

const splitV: Kernel = (recorder, { x }, attributes) => {
  const { numOrSizeSplits, axis } = attributes as { numOrSizeSplits: number | number[]; axis: number };
  if (!x) throw new SisyphusError('internal', 'SplitV without a tensor');
  const [at = 0] = util.parseAxisParam(axis, x.shape);
  const sizes = backend_util.prepareSplitSize(x as never, numOrSizeSplits, at);
  return split(recorder.lazy(x), sizes, at).map((part) => recorder.give(part));
};

const unpack: Kernel = (recorder, { value }, { axis }) => {
  if (!value) throw new SisyphusError('internal', 'Unpack without a tensor');
  const [at = 0] = util.parseAxisParam(Number(axis), value.shape);
  const dims = value.shape.filter((_, i) => i !== at);
  const ones = new Array<number>(value.shape[at] as number).fill(1);
  return split(recorder.lazy(value), ones, at).map((part) => recorder.give(reshape(part, dims)));
};

type Paddings = readonly (readonly [number, number])[];

const pad: Kernel = kernel(['x'], ([x], attributes) => {
  const { paddings, constantValue } = attributes as unknown as { paddings: Paddings; constantValue: number };
  const dims = x.dims.map((dim, i) => dim + (paddings[i]?.[0] ?? 0) + (paddings[i]?.[1] ?? 0));
  if (sameDims(x.dims, dims)) return x;
  const pads = int64s([...paddings.map(([before]) => before), ...paddings.map(([, after]) => after)]);
  const value = constantValue === 0 ? [] : [scalar(constantValue, x.elem)];
  return node('Pad', [x, pads, ...value], { elem: x.elem, dims });
});

const mirrorPad: Kernel = kernel(['x'], ([x], attributes) => {
  const { paddings, mode } = attributes as unknown as { paddings: Paddings; mode: 'reflect' | 'symmetric' };
  return paddings.reduce((padded, around, axis) => {
    if (around.every((count) => count === 0)) return padded;
    const indices = mirroredIndices(padded.dims[axis] as number, around, mode);
    const type = { elem: x.elem, dims: withDim(padded.dims, axis, indices.length) };
    return node('Gather', [padded, int64s(indices)], type, { axis });
  }, x);
});

/** Which element of an axis stands at each place of the padded axis. */
function mirroredIndices(
  size: number,
  [before, after]: readonly [number, number],
  mode: 'reflect' | 'symmetric',
): number[] {
  const edge = mode === 'reflect' ? 0 : 1; // 'symmetric' repeats the outermost element
  return Array.from({ length: before + size + after }, (_, place) => {
    const i = place - before;
    return i < 0 ? -i - edge : i < size ? i : 2 * (size - 1) - i + edge;
  });
}

const tile: Kernel = kernel(['x'], ([x], attributes) => {
  const { reps } = attributes as { reps: number[] };
  const dims = x.dims.map((dim, i) => dim * (reps[i] as number));
  if (sameDims(x.dims, dims)) return x;
  if (x.dims.every((dim, i) => dim === 1 || reps[i] === 1)) return expand(x, dims);
  return node('Tile', [x, int64s(reps)], { elem: x.elem, dims });
});

const gather: Kernel = kernel(['x', 'indices'], ([x, indices], { axis, batchDims = 0 }) => {
  if (batchDims !== 0) throw new SisyphusError('unsupported', 'gather: batchDims is 0 on the backend onnxruntime');
  const [at = 0] = util.parseAxisParam(Number(axis), [...x.dims]);
  const dims = [...x.dims.slice(0, at), ...indices.dims, ...x.dims.slice(at + 1)];
  return node('Gather', [x, indices], { elem: x.elem, dims }, { axis: at });
});

/** Rows of `x` are added to the rows of the result that `segmentIds` names, which exist. */
const unsortedSegmentSum: Kernel = kernel(['x', 'segmentIds'], ([x, ids], { numSegments }) => {
  const inner = x.dims.slice(ids.dims.length);
  const rows = ids.dims.reduce((a, b) => a * b, 1);
  const updates = reshape(x, [rows, ...inner]);
  const indices = expand(reshape(ids, [rows, ...inner.map(() => 1)]), updates.dims);
  const start = filled(0, x.elem, [Number(numSegments), ...inner]);
  return like('ScatterElements', [start, indices, updates], { axis: 0, reduction: 'add' });
});

export const MOVEMENT_KERNELS: Kernels = {
  Reshape: kernel(['x'], ([x], { shape }) =>
    reshape(x, util.inferFromImplicitShape(shape as number[], util.sizeFromShape([...x.dims]))),
  ),
  ExpandDims: kernel(['input'], ([input], { dim }) => reshape(input, unsqueezed(input.dims, Number(dim)))),
  BroadcastTo: kernel(['x'], ([x], { shape }) => expand(x, broadcast(x.dims, shape as number[]))),
  Transpose: kernel(['x'], ([x], { perm }) => transpose(x, perm as number[])),
  Slice: sliced,
  StridedSlice: stridedSlice,
  Reverse: reverse,
  Concat: concatenated,
  Pack: pack,
  SplitV: splitV,
  Unpack: unpack,
  PadV2: pad,
  MirrorPad: mirrorPad,
  Tile: tile,
  GatherV2: gather,
  UnsortedSegmentSum: unsortedSegmentSum,
};
