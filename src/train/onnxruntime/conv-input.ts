/** The gradient of a convolution's images. */
import { convolve, type Dims4, dims4, floats, type Geometry, pad, transpose, turned } from './conv-nodes.ts';
import { reshape } from './kernels/common.ts';
import { known, type LazyTensor, node } from './lazy.ts';

/** @param shape of the images @param fast whether the device has operators on blocks of channels */
export function inputGrad(dy: LazyTensor, w: LazyTensor, shape: Dims4, geometry: Geometry, fast: boolean): LazyTensor {
  const { strides, pads, dilations, groups } = geometry;
  const [, cin, height, width] = shape;
  const [, , oh, ow] = dims4(dy);
  const [cout, size, kh, kw] = dims4(w);
  const [top, left] = pads;
  const [reachH, reachW] = [(kh - 1) * dilations[0], (kw - 1) * dilations[1]];
  const depthwise = size === 1 && cout === cin && groups === cin;
  const plain = strides[0] === 1 && strides[1] === 1;
  // What a convolution of dy, with zeros between its elements, by the turned filters has to add around it.
  const around = [reachH - top, reachW - left, height + top - oh * strides[0], width + left - ow * strides[1]] as const;
  if (around.every((p) => p >= 0) && (depthwise ? plain || fast : plain && groups === 1)) {
    const filters = depthwise ? turned(w) : transpose(turned(w), [1, 0, 2, 3]);
    return convolve(spread(dy, strides), filters, { strides: [1, 1], pads: around, dilations, groups }, fast);
  }
  return (groups === 1 && ofPhases(dy, w, shape, geometry, fast)) || transposed(dy, w, shape, geometry);
}

/** By onnxruntime's own operator. */
function transposed(dy: LazyTensor, w: LazyTensor, shape: Dims4, geometry: Geometry): LazyTensor {
  const { strides, pads, dilations, groups } = geometry;
  const [, , height, width] = shape;
  const [, , oh, ow] = dims4(dy);
  const [, , kh, kw] = dims4(w);
  const [top, left, bottom, right] = pads;
  const [reachH, reachW] = [(kh - 1) * dilations[0], (kw - 1) * dilations[1]];
  const rest = [
    height + top + bottom - ((oh - 1) * strides[0] + reachH + 1),
    width + left + right - ((ow - 1) * strides[1] + reachW + 1),
  ];
  const attributes = { kernel_shape: [kh, kw], strides, pads, dilations, group: groups, output_padding: rest };
  return node('ConvTranspose', [dy, w], floats(shape), attributes);
}

/** Of one axis: filters' zeros in front, their places for one phase, and pads of dy. */
function phases(size: number, count: number, k: number, stride: number, padBefore: number) {
  const front = (stride - (padBefore % stride)) % stride;
  const taps = Math.ceil((k + front) / stride);
  const before = taps - 1 - (padBefore + front) / stride;
  return { front, taps, before, after: size / stride - count - before + taps - 1 };
}

/**
 * Every so many rows and columns of the images, a stride apart, see the same places of the filters: the channels of one
 * convolution of dy are all of these, and go to their rows and columns afterwards.
 * @returns null where that does not come out even, or would be much more to compute
 */
function ofPhases(
  dy: LazyTensor,
  w: LazyTensor,
  [n, cin, height, width]: Dims4,
  { strides, pads, dilations }: Geometry,
  fast: boolean,
): LazyTensor | null {
  const [s, across] = strides;
  const [, , oh, ow] = dims4(dy);
  const [cout, , kh, kw] = dims4(w);
  if (s === 1 || s !== across || dilations[0] * dilations[1] !== 1 || Math.min(kh, kw) <= s) return null;
  if (height % s !== 0 || width % s !== 0) return null;
  const [v, h] = [phases(height, oh, kh, s, pads[0]), phases(width, ow, kw, s, pads[1])];
  if (Math.min(v.before, v.after, h.before, h.after) < 0) return null;
  const padded = pad(w, [v.front, h.front, v.taps * s - kh - v.front, h.taps * s - kw - h.front]);
  const split = transpose(reshape(padded, [cout, cin, v.taps, s, h.taps, s]), [1, 3, 5, 0, 2, 4]);
  const filters = turned(reshape(split, [cin * s * s, cout, v.taps, h.taps]));
  const around = [v.before, h.before, v.after, h.after] as const;
  const found = convolve(dy, filters, { strides: [1, 1], pads: around, dilations, groups: 1 }, fast);
  return node('DepthToSpace', [found], floats([n, cin, height, width]), { blocksize: s, mode: 'CRD' });
}

/** Each element of images in the corner of a rectangle of zeros, by a product with a constant matrix: padding is slower. */
function spread(x: LazyTensor, [down, across]: readonly [number, number]): LazyTensor {
  if (down === 1 && across === 1) return x;
  const [n, c, height, width] = dims4(x);
  const columns = down * across * width;
  const data = new Float32Array(width * columns);
  for (let i = 0; i < width; i++) data[i * columns + i * across] = 1;
  const matrix = { ...known('float', [width, columns], data), structural: true };
  const rows = reshape(x, [n * c * height, width]);
  const product = node('MatMul', [rows, matrix], floats([n * c * height, columns]));
  return reshape(product, [n, c, down * height, across * width]);
}
