/** What the kernels of convolution share: their geometry, and convolution itself in the form that is fastest. */
import { reshape } from './kernels/common.ts';
import { int64s, type LazyTensor, node } from './lazy.ts';

export interface Geometry {
  readonly strides: readonly [number, number];
  readonly pads: readonly [top: number, left: number, bottom: number, right: number];
  readonly dilations: readonly [number, number];
  readonly groups: number;
}

export type Dims4 = readonly [number, number, number, number];

export const floats = (dims: readonly number[]) => ({ elem: 'float', dims }) as const;
export const dims4 = (x: LazyTensor) => x.dims as Dims4;
export const indices = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

export const transpose = (x: LazyTensor, perm: readonly number[]): LazyTensor =>
  node('Transpose', [x], floats(perm.map((axis) => x.dims[axis] as number)), { perm });

export const concat = (parts: readonly LazyTensor[], axis: number): LazyTensor => {
  const [first] = parts as [LazyTensor];
  const total = parts.reduce((sum, { dims }) => sum + (dims[axis] as number), 0);
  return parts.length === 1
    ? first
    : node('Concat', parts, floats(first.dims.map((dim, i) => (i === axis ? total : dim))), { axis });
};

/** Zeros around images; less of them where a pad is negative. */
export function pad(x: LazyTensor, [top, left, bottom, right]: Geometry['pads']): LazyTensor {
  if (top === 0 && left === 0 && bottom === 0 && right === 0) return x;
  const [n, c, height, width] = dims4(x);
  const dims = [n, c, height + top + bottom, width + left + right];
  return node('Pad', [x, int64s([0, 0, top, left, 0, 0, bottom, right])], floats(dims));
}

/** Every so many rows and columns of images, so many of them. */
export function window(
  x: LazyTensor,
  [top, left]: readonly [number, number],
  [rows, columns]: readonly [number, number],
  [down, across]: readonly [number, number],
): LazyTensor {
  const [n, c, height, width] = dims4(x);
  if (rows === height && columns === width) return x;
  const ends = [top + (rows - 1) * down + 1, left + (columns - 1) * across + 1];
  const from = [x, int64s([top, left]), int64s(ends), int64s([2, 3]), int64s([down, across])];
  return node('Slice', from, floats([n, c, rows, columns]));
}

/** Filters turned by 180°. */
function turned(w: LazyTensor): LazyTensor {
  const [, , kh, kw] = dims4(w);
  if (kh * kw === 1) return w;
  return node('Slice', [w, int64s([-1, -1]), int64s([-kh - 1, -kw - 1]), int64s([2, 3]), int64s([-1, -1])], w);
}

/** How many positions a kernel has along one axis of 0 (rows) and 1 (columns). */
export function outputSize(size: number, k: number, { strides, pads, dilations }: Geometry, axis: 0 | 1): number {
  return (
    Math.floor((size + pads[axis] + pads[(axis + 2) as 2 | 3] - (k - 1) * dilations[axis] - 1) / strides[axis]) + 1
  );
}

/** onnxruntime's operators on images whose channels are in blocks: [N, C / block, H, W, block]. */
const NCHWC = 'com.microsoft.nchwc';
/** Blocks are of 8 or 16 channels, as the processor has it. */
const BLOCK = 16;
/** Images in blocks. Equal ones are computed once: forward and backward share them. */
export const inBlocks = (x: LazyTensor): LazyTensor => node('ReorderInput', [x], x, {}, NCHWC);

/** Whether the device has operators on blocks of channels, and all channels fill blocks. */
export const blocks = (fast: boolean, ...channels: number[]): boolean => fast && channels.every((c) => c % BLOCK === 0);

/** Filters [O / block, I / block, kh, kw, block of I, block of O]: the reordering of images, first of I and then of O. */
function filtersInBlocks(w: LazyTensor): LazyTensor {
  const [cout, size, kh, kw] = dims4(w);
  const inner = size === 1 ? w : inBlocks(w);
  return reshape(inBlocks(reshape(inner, [1, cout, size * kh * kw, 1])), w.dims);
}

/**
 * Filters of the gradient of the images, [I / block, O / block, kh, kw, block of O, block of I], turned: the reordering
 * first of O and then of I leaves whole blocks in the wrong places only.
 */
function turnedInBlocks(w: LazyTensor): LazyTensor {
  const [cout, cin, kh, kw] = dims4(w);
  const [rows, columns, places] = [cout / BLOCK, cin / BLOCK, kh * kw];
  const inner = inBlocks(reshape(w, [1, cout, cin * places, 1]));
  const both = inBlocks(reshape(inner, [rows, cin, places * BLOCK, 1]));
  const from = indices(columns).flatMap((column) =>
    indices(rows).flatMap((row) => indices(places).map((place) => (row * columns + column + 1) * places - 1 - place)),
  );
  const all = reshape(both, [rows * columns * places, BLOCK * BLOCK]);
  return reshape(node('Gather', [all, int64s(from)], all, { axis: 0 }), [cin, cout, kh, kw]);
}

/** Convolution of images and filters in blocks, with one group or one for each channel; the result is not in blocks. */
export function blockedConv(x: LazyTensor, w: LazyTensor, geometry: Geometry): LazyTensor {
  const { strides, pads, dilations, groups } = geometry;
  const [n, , height, width] = dims4(x);
  const [cout, , kh, kw] = dims4(w);
  const dims = [n, cout, outputSize(height, kh, geometry, 0), outputSize(width, kw, geometry, 1)];
  const attributes = { kernel_shape: [kh, kw], strides, pads, dilations, group: groups };
  const y = node('Conv', [x, w], floats(dims), attributes, NCHWC);
  return node('ReorderOutput', [y], y, { channels: cout }, NCHWC);
}

/** Maps of at least so many elements: below, plain convolution is as fast. */
const BLOCKED_MAP = 4;

/** Maps of at most so many elements: a product for each image would have too few columns. */
const TINY_MAP = 8;

/** Convolution as one matrix product over the places of all images, with a copy of x for each place of a filter. */
function tinyConv(x: LazyTensor, w: LazyTensor, geometry: Geometry, dims: Dims4): LazyTensor {
  const { strides, pads, dilations } = geometry;
  const [cout, cin, kh, kw] = dims4(w);
  const [n, , oh, ow] = dims;
  const places = n * oh * ow;
  const padded = pad(transpose(x, [1, 0, 2, 3]), pads);
  const copies = indices(kh).flatMap((i) =>
    indices(kw).map((j) => window(padded, [i * dilations[0], j * dilations[1]], [oh, ow], strides)),
  );
  const columns = concat(
    copies.map((copy) => reshape(copy, [cin, 1, places])),
    1,
  );
  const factors = [reshape(w, [cout, cin * kh * kw]), reshape(columns, [cin * kh * kw, places])];
  const product = node('MatMul', factors, floats([cout, places]));
  return transpose(reshape(product, [cout, n, oh, ow]), [1, 0, 2, 3]);
}

/**
 * Convolution in ONNX's layout.
 * @param fast see `blocks`
 * @param back by the filters of the gradient of the images: w turned, of its outputs to its inputs
 */
export function convolve(x: LazyTensor, w: LazyTensor, geometry: Geometry, fast: boolean, back = false): LazyTensor {
  const { strides, pads, dilations, groups } = geometry;
  const [n, cin, height, width] = dims4(x);
  const [, size, kh, kw] = dims4(w);
  const cout = back && groups === 1 ? size : (dims4(w)[0] as number);
  const [oh, ow] = [outputSize(height, kh, geometry, 0), outputSize(width, kw, geometry, 1)];
  const depthwise = size === 1 && cout === cin && groups === cin;
  const dense = groups === 1 && kh * kw > 1 && oh * ow >= BLOCKED_MAP;
  if (dense && blocks(fast, cin, cout))
    return blockedConv(inBlocks(x), back ? turnedInBlocks(w) : filtersInBlocks(w), geometry);
  const filters = !back ? w : groups === 1 ? transpose(turned(w), [1, 0, 2, 3]) : turned(w);
  if (depthwise && blocks(fast, cin)) return blockedConv(inBlocks(x), filtersInBlocks(filters), geometry);
  if (groups === 1 && oh * ow <= TINY_MAP) return tinyConv(x, filters, geometry, [n, cout, oh, ow]);
  const attributes = { kernel_shape: [kh, kw], strides, pads, dilations, group: groups };
  return node('Conv', [x, filters], floats([n, cout, oh, ow]), attributes);
}
