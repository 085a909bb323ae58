/**
 * Kernels of pooling in ONNX's layout (`ops/pool.ts`) as ONNX nodes. ONNX has no operators for the gradients of pooling;
 * they are put together here.
 */
import type { NamedAttrMap } from '@tensorflow/tfjs-core';
import { elementCount } from '../../graph/tensor.ts';
import type { PoolGeometry } from '../ops/pool.ts';
import { type Kernels, kernel } from './kernel.ts';
import { filled, like, reshape } from './kernels/common.ts';
import { argument, constant, int64s, known, type LazyTensor, node, nodes } from './lazy.ts';

/** Names of the kernels; tfjs' own pools are in NHWC. */
export const AVERAGE_POOL = 'NchwAveragePool';
export const AVERAGE_POOL_GRAD = 'NchwAveragePoolGrad';
export const MAX_POOL = 'NchwMaxPool';
export const MAX_POOL_GRAD = 'NchwMaxPoolGrad';

type Dims4 = readonly [n: number, c: number, h: number, w: number];
const dims4 = (x: LazyTensor) => x.dims as Dims4;

interface Averaging extends PoolGeometry {
  readonly countIncludePad: boolean;
}

/** One axis of a pool. */
export interface Windows {
  readonly input: number;
  readonly output: number;
  readonly size: number;
  readonly stride: number;
  readonly dilation: number;
  readonly begin: number;
  readonly end: number;
}

/** The two axes of a pool over images. */
export function windowsOf([, , height, width]: Dims4, geometry: PoolGeometry): readonly [Windows, Windows] {
  const { kernel: size, strides, dilations, pads, ceil } = geometry;
  const axis = (input: number, at: 0 | 1): Windows => {
    const [stride, dilation, begin, end] = [strides[at], dilations[at], pads[at], pads[at === 0 ? 2 : 3]];
    const steps = (input + begin + end - dilation * (size[at] - 1) - 1) / stride;
    // With ceil_mode a window may reach beyond the padding, but must not begin behind the input.
    const last = ceil ? Math.min(Math.ceil(steps), Math.ceil((input + begin) / stride) - 1) : Math.floor(steps);
    return { input, output: last + 1, size: size[at], stride, dilation, begin, end };
  };
  return [axis(height, 0), axis(width, 1)];
}

/** How many elements each window along an axis averages: those of the input, and of its padding where that counts. */
export const countsAlong = ({ input, output, size, stride, begin, end }: Windows, withPadding: boolean): number[] =>
  Array.from({ length: output }, (_, i) => {
    const [low, high] = withPadding ? [-begin, input + end] : [0, input];
    return Math.min(i * stride - begin + size, high) - Math.max(i * stride - begin, low);
  });

/** Whether there is a single window, over all of the input and nothing else. */
const isGlobal = (axes: readonly Windows[]) =>
  axes.every(({ input, output, size, begin, end }) => output === 1 && size === input && begin === 0 && end === 0);

const windowAttributes = ({ kernel: kernel_shape, strides, pads, ceil }: PoolGeometry) => ({
  kernel_shape,
  strides,
  pads,
  ceil_mode: ceil ? 1 : 0,
});

const pooled = (x: LazyTensor, [rows, columns]: readonly [Windows, Windows]) => {
  const [n, c] = dims4(x);
  return { elem: x.elem, dims: [n, c, rows.output, columns.output] };
};

function averagePool(x: LazyTensor, averaging: Averaging): LazyTensor {
  const axes = windowsOf(dims4(x), averaging);
  if (isGlobal(axes)) return node('ReduceMean', [x], pooled(x, axes), { axes: [2, 3] }); // several times as fast
  const count_include_pad = averaging.countIncludePad ? 1 : 0;
  return node('AveragePool', [x], pooled(x, axes), { ...windowAttributes(averaging), count_include_pad });
}

/** dx: each element collects dy / count from the windows that it is in. */
function averagePoolGrad(dy: LazyTensor, dims: Dims4, averaging: Averaging): LazyTensor {
  const axes = windowsOf(dims, averaging);
  const share = like('Mul', [dy, inverseCounts(axes, averaging.countIncludePad)]);
  if (axes.every(({ output, size, stride, begin }) => begin === 0 && (size === stride || output === 1)))
    return repeat(share, axes, dims);
  const dx = { elem: dy.elem, dims };
  const kernel_shape = axes.map(({ size }) => size);
  const count = elementCount(kernel_shape);
  if (axes.every(({ stride }) => stride === 1)) {
    // The windows that an element is in lie in a window of the same size.
    const pads = [...axes.map(({ size, begin }) => size - 1 - begin), ...axes.map(({ size, end }) => size - 1 - end)];
    const mean = node('AveragePool', [share], dx, { kernel_shape, pads, count_include_pad: 1 });
    return like('Mul', [mean, constant(count)]);
  }
  const surplus = axes.map(({ input, output, size, stride, begin }) => (output - 1) * stride + size - begin - input);
  return node('ConvTranspose', [share, filled(1, dy.elem, [dims[1], 1, ...kernel_shape])], dx, {
    group: dims[1],
    kernel_shape,
    strides: averaging.strides,
    pads: [...axes.map(({ begin }) => begin), ...surplus.map((rows) => Math.max(0, rows))],
    output_padding: surplus.map((rows) => Math.max(0, -rows)),
  });
}

/** 1 / how many elements each window averages: [h, w], or a number where it is the same for all. */
function inverseCounts([rows, columns]: readonly [Windows, Windows], withPadding: boolean): LazyTensor {
  const across = countsAlong(columns, withPadding);
  const inverses = countsAlong(rows, withPadding).flatMap((down) => across.map((count) => 1 / (down * count)));
  const [first = 1] = inverses;
  if (inverses.every((inverse) => inverse === first)) return constant(first);
  return floats([rows.output, columns.output], inverses);
}

/** Numbers that belong to the structure. */
const floats = (dims: readonly number[], values: readonly number[]): LazyTensor => ({
  ...known('float', dims, Float32Array.from(values)),
  structural: true,
});

/** Each value over all of its window, where windows neither overlap nor have padding in front. */
function repeat(values: LazyTensor, axes: readonly Windows[], dims: Dims4): LazyTensor {
  const [n, c] = dims;
  const { elem } = values;
  const whole = [n, c, ...axes.map(({ output, size }) => output * size)];
  const scales = floats([4], [1, 1, ...axes.map(({ size }) => size)]);
  const attributes = { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' };
  const repeated = node('Resize', [values, null, scales], { elem, dims: whole }, attributes);
  const missing = dims.map((size, axis) => size - (whole[axis] ?? 0)); // negative where windows reach beyond x
  if (missing.every((rows) => rows === 0)) return repeated;
  return node('Pad', [repeated, int64s([0, 0, 0, 0, ...missing])], { elem, dims });
}

const maxAttributes = (geometry: PoolGeometry) => ({ ...windowAttributes(geometry), dilations: geometry.dilations });

const maxPool = (x: LazyTensor, geometry: PoolGeometry): LazyTensor =>
  node('MaxPool', [x], pooled(x, windowsOf(dims4(x), geometry)), maxAttributes(geometry));

/** Where in x, counted over all of it, the first of the largest elements of each window is. */
function indicesOf(y: LazyTensor, x: LazyTensor, geometry: PoolGeometry): LazyTensor {
  const type = { elem: 'int64', dims: y.dims } as const;
  const made = y.node;
  if (made?.op !== 'MaxPool' || made.inputs[0] !== x)
    return nodes('MaxPool', [x], [y, type], maxAttributes(geometry))[1] as LazyTensor;
  // The node of the forward pass knows them, but is several times as fast where it isn't asked: so it is asked only now.
  const [, indices = argument(type)] = made.outputs;
  y.node = { ...made, outputs: [y, indices] };
  indices.node = y.node;
  return indices;
}

/** dx: dy goes to the first of the largest elements of its window. */
function maxPoolGrad(dy: LazyTensor, x: LazyTensor, y: LazyTensor, geometry: PoolGeometry): LazyTensor {
  const indices = indicesOf(y, x, geometry);
  const overlap = windowsOf(dims4(x), geometry).some(
    ({ size, stride, dilation }) => size > 1 && dilation * (size - 1) >= stride,
  );
  if (!overlap) return node('MaxUnpool', [dy, indices, int64s(x.dims)], x, { kernel_shape: [1, 1] });
  const list = (of: LazyTensor) => reshape(of, [elementCount(of.dims)]);
  const zeros = filled(0, x.elem, [elementCount(x.dims)]);
  const attributes = { axis: 0, reduction: 'add' };
  return reshape(like('ScatterElements', [zeros, list(indices), list(dy)], attributes), x.dims);
}

const geometryOf = (attributes: NamedAttrMap) => attributes as unknown as PoolGeometry;
const averagingOf = (attributes: NamedAttrMap) => attributes as unknown as Averaging;

export const POOL_KERNELS: Kernels = {
  [AVERAGE_POOL]: kernel(['x'], ([x], attributes) => averagePool(x, averagingOf(attributes))),
  // Of x only the shape is of interest: the graph doesn't depend on it.
  [AVERAGE_POOL_GRAD]: kernel(['dy', 'x'], ([dy, x], attributes) =>
    averagePoolGrad(dy, dims4(x), averagingOf(attributes)),
  ),
  [MAX_POOL]: kernel(['x'], ([x], attributes) => maxPool(x, geometryOf(attributes))),
  [MAX_POOL_GRAD]: kernel(['dy', 'x', 'y'], ([dy, x, y], attributes) => maxPoolGrad(dy, x, y, geometryOf(attributes))),
};
