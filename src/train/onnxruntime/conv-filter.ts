/**
 * The gradient of a convolution's filters: dw[o, c, i, j] = Σ over images and places of dy[o, y, x] · x[c, y·s + i, x·s + j].
 * It is a matrix product over places, of dy with as many copies of x as a filter has places, or a convolution of the images
 * by dy. Which is fastest depends on the sizes; the bounds below were measured on AVX-512.
 */
import {
  blockedConv,
  blocks,
  concat,
  type Dims4,
  dims4,
  floats,
  type Geometry,
  inBlocks,
  indices,
  pad,
  transpose,
  window,
} from './conv-nodes.ts';
import { filled, reshape } from './kernels/common.ts';
import { int64s, type LazyTensor, MICROSOFT, node } from './lazy.ts';

/** Maps of so many elements make matrix products of one image large enough. */
const LARGE_MAP = 256;
const LARGE_MAP_1X1 = 64;
/** So few channels that copies of x for all places of a filter cost little. */
const FEW_CHANNELS = 4;
const FEW_PLACES = 49;

/** @param shape of the filters @param fast whether the device has operators on blocks of channels */
export function filterGrad(dy: LazyTensor, x: LazyTensor, shape: Dims4, geometry: Geometry, fast: boolean): LazyTensor {
  const { strides, dilations, pads, groups } = geometry;
  const [cout, size, kh, kw] = shape;
  const [, cin, height, width] = dims4(x);
  const [, , oh, ow] = dims4(dy);
  const [top, left] = pads;
  // As many rows and columns as kh x kw positions need.
  const bottom = (oh - 1) * strides[0] + (kh - 1) * dilations[0] + 1 - top - height;
  const right = (ow - 1) * strides[1] + (kw - 1) * dilations[1] + 1 - left - width;
  const needed = { ...geometry, pads: [top, left, bottom, right] as const };
  if (groups === 1 && kh * kw === 1) return ofPoints(dy, pad(x, needed.pads), shape, strides);
  if (groups === 1 && cin <= FEW_CHANNELS && kh * kw <= FEW_PLACES) return ofPlaces(dy, x, shape, needed);
  if (groups === 1 && strides[0] === 1 && strides[1] === 1 && oh * ow >= LARGE_MAP) return ofRows(dy, x, shape, needed);
  // Where not even a part of the images is needed, pads of operators can't say so.
  const outside = height + bottom <= 0 || width + right <= 0;
  const cut = pad(x, outside ? needed.pads : [0, 0, Math.min(bottom, 0), Math.min(right, 0)]);
  const rest = outside ? ([0, 0, 0, 0] as const) : ([top, left, Math.max(bottom, 0), Math.max(right, 0)] as const);
  const turned: Geometry = { strides: dilations, dilations: strides, pads: rest, groups };
  if (size === 1 && cout === cin && groups === cin && blocks(fast, cin)) return ofChannels(dy, cut, shape, turned);
  return ofDepth(dy, cut, shape, turned);
}

/** a · bᵀ, of the last two dimensions. */
function product(a: LazyTensor, b: LazyTensor): LazyTensor {
  const dims = [...a.dims.slice(0, -1), b.dims.at(-2) as number];
  return node('FusedMatMul', [a, b], floats(dims), { transB: 1 }, MICROSOFT);
}

const overImages = (x: LazyTensor): LazyTensor =>
  node('ReduceSum', [x, int64s([0])], floats(x.dims.slice(1)), { keepdims: 0 });

/** Of 1x1 filters. */
function ofPoints(dy: LazyTensor, padded: LazyTensor, shape: Dims4, strides: Geometry['strides']): LazyTensor {
  const [n, cout, oh, ow] = dims4(dy);
  const x = window(padded, [0, 0], [oh, ow], strides);
  const [, cin] = dims4(x);
  if (oh * ow >= LARGE_MAP_1X1) {
    const [rows, columns] = [reshape(dy, [n, cout, oh * ow]), reshape(x, [n, cin, oh * ow])];
    return reshape(overImages(product(rows, columns)), shape);
  }
  // One product over the places of all images.
  const [rows, columns] = [dy, x].map((t) => transpose(t, [0, 2, 3, 1])) as [LazyTensor, LazyTensor];
  const factors = [reshape(rows, [n * oh * ow, cout]), reshape(columns, [n * oh * ow, cin])];
  return reshape(node('FusedMatMul', factors, floats([cout, cin]), { transA: 1 }, MICROSOFT), shape);
}

/** With a copy of x for each place of a filter. */
function ofPlaces(dy: LazyTensor, x: LazyTensor, shape: Dims4, { strides, dilations, pads }: Geometry): LazyTensor {
  const [n, cout, oh, ow] = dims4(dy);
  const [, cin, kh, kw] = shape;
  const padded = pad(x, pads);
  const copies = indices(kh).flatMap((i) =>
    indices(kw).map((j) => window(padded, [i * dilations[0], j * dilations[1]], [oh, ow], strides)),
  );
  const columns = reshape(concat(copies, 1), [n, kh * kw * cin, oh * ow]);
  const found = overImages(product(reshape(dy, [n, cout, oh * ow]), columns));
  return reshape(transpose(reshape(found, [cout, kh * kw, cin]), [0, 2, 1]), shape);
}

/**
 * Of filters with stride 1, with kw copies of x and kh copies of dy instead of kh · kw copies of x: x moved by columns, dy
 * by rows. Their products have all places of a filter in blocks.
 */
function ofRows(dy: LazyTensor, x: LazyTensor, shape: Dims4, { dilations, pads }: Geometry): LazyTensor {
  const [n, cout, oh, ow] = dims4(dy);
  const [, cin, kh, kw] = shape;
  const [top, left, bottom, right] = pads;
  const rows = oh + (kh - 1) * dilations[0];
  // dy and zeros in turn, with one row more than a copy has: each copy begins one dilation later.
  const zeros = filled(0, 'float', [n, cout, kh * dilations[0], ow]);
  const turns = indices(2 * kh - 1).map((turn) => (turn % 2 === 0 ? dy : zeros));
  const moved = reshape(concat(turns, 2), [n, cout * kh, rows * ow]);
  const found = indices(kw).map((j) => {
    const shift = j * dilations[1];
    const columns = pad(x, [top, left - shift, bottom, right - (kw - 1) * dilations[1] + shift]);
    return reshape(overImages(product(moved, reshape(columns, [n, cin, rows * ow]))), [cout, kh, 1, cin]);
  });
  return transpose(concat(found, 2), [0, 3, 1, 2]);
}

/** Of filters of one channel each: every channel of every image is a group of a convolution in blocks. */
function ofChannels(dy: LazyTensor, x: LazyTensor, shape: Dims4, turned: Geometry): LazyTensor {
  const [n, c, oh, ow] = dims4(dy);
  const [, , height, width] = dims4(x);
  const [, , kh, kw] = shape;
  const images = reshape(inBlocks(x), [1, n * c, height, width]);
  const filters = reshape(inBlocks(dy), [n * c, 1, oh, ow]);
  const found = blockedConv(images, filters, { ...turned, groups: n * c });
  return reshape(overImages(reshape(found, [n, c * kh * kw])), shape);
}

/** A 3-D convolution of the images by dy: the rows of the batch are its channels, the channels its depth. */
function ofDepth(dy: LazyTensor, x: LazyTensor, shape: Dims4, turned: Geometry): LazyTensor {
  const { strides, dilations, pads, groups } = turned;
  const [cout, size, kh, kw] = shape;
  const [n, , height, width] = dims4(x);
  const [, , oh, ow] = dims4(dy);
  const grouped = reshape(x, [n, groups, size, height, width]);
  const swapped = groups === 1 ? grouped : transpose(grouped, [1, 0, 2, 3, 4]);
  const images = reshape(swapped, [1, groups * n, size, height, width]);
  const filters = reshape(transpose(dy, [1, 0, 2, 3]), [cout, n, 1, oh, ow]);
  const found = node('Conv', [images, filters], floats([1, cout, size, kh, kw]), {
    kernel_shape: [1, oh, ow],
    strides: [1, ...strides],
    dilations: [1, ...dilations],
    pads: [0, pads[0], pads[1], 0, pads[2], pads[3]],
    group: groups,
  });
  return reshape(found, shape);
}
