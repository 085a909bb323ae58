/** The gradient of a convolution's images. */
import { convolve, type Dims4, dims4, floats, type Geometry } from './conv-nodes.ts';
import { reshape } from './kernels/common.ts';
import { known, type LazyTensor, node } from './lazy.ts';

/** A transposed convolution has less to do where images have so many times the places of dy (as filters without pads do), … */
const WIDER = 1.5;
/** … and where a convolution would make so few channels, which leaves its matrix products with too few rows. */
const FEW_CHANNELS = 8;

/** @param shape of the images @param fast whether the device has operators on blocks of channels */
export function inputGrad(dy: LazyTensor, w: LazyTensor, shape: Dims4, geometry: Geometry, fast: boolean): LazyTensor {
  const { strides, pads, dilations, groups } = geometry;
  const [, cin, height, width] = shape;
  const [, , oh, ow] = dims4(dy);
  const [cout, size, kh, kw] = dims4(w);
  const [top, left, bottom, right] = pads;
  const [reachH, reachW] = [(kh - 1) * dilations[0], (kw - 1) * dilations[1]];
  const depthwise = size === 1 && cout === cin && groups === cin;
  const plain = strides[0] === 1 && strides[1] === 1;
  // What a convolution of dy, with zeros between its elements, by the turned filters has to add around it.
  const around = [reachH - top, reachW - left, height + top - oh * strides[0], width + left - ow * strides[1]] as const;
  const dense = plain && groups === 1 && cin > FEW_CHANNELS && height * width < WIDER * oh * ow;
  if (around.every((p) => p >= 0) && (depthwise ? plain || fast : dense)) {
    return convolve(spread(dy, strides), w, { strides: [1, 1], pads: around, dilations, groups }, fast, true);
  }
  const rest = [
    height + top + bottom - ((oh - 1) * strides[0] + reachH + 1),
    width + left + right - ((ow - 1) * strides[1] + reachW + 1),
  ];
  const attributes = { kernel_shape: [kh, kw], strides, pads, dilations, group: groups, output_padding: rest };
  return node('ConvTranspose', [dy, w], floats(shape), attributes);
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
