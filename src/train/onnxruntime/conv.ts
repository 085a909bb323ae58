/** Convolution and its gradients as ONNX nodes. */
import type { NamedAttrMap } from '@tensorflow/tfjs-core';
import { type Kernels, kernel } from './kernel.ts';
import { int64s, type LazyTensor, node } from './lazy.ts';

export const CONV = 'OnnxConv';
export const CONV_INPUT_GRAD = 'OnnxConvInputGrad';
export const CONV_FILTER_GRAD = 'OnnxConvFilterGrad';

interface Geometry {
  readonly strides: readonly [number, number];
  readonly pads: readonly [number, number, number, number];
  readonly dilations: readonly [number, number];
  readonly groups: number;
}
const geometryOf = (attributes: NamedAttrMap) => attributes as unknown as Geometry;

const floats = (dims: readonly number[]) => ({ elem: 'float', dims }) as const;
type Dims4 = readonly [number, number, number, number];
const dims4 = (x: LazyTensor) => x.dims as Dims4;

const reshape = (x: LazyTensor, dims: readonly number[]): LazyTensor =>
  `${x.dims}` === `${dims}` ? x : node('Reshape', [x, int64s(dims)], floats(dims));
const transpose = (x: LazyTensor, perm: readonly number[]): LazyTensor =>
  node('Transpose', [x], floats(perm.map((axis) => x.dims[axis] as number)), { perm });

export const CONV_KERNELS: Kernels = {
  [CONV]: kernel(['x', 'w'], ([x, w], attributes) => {
    const { strides, pads, dilations, groups } = geometryOf(attributes);
    const [n, , height, width] = dims4(x);
    const [cout, , kh, kw] = dims4(w);
    const [top, left, bottom, right] = pads;
    const size = (length: number, pad: number, k: number, i: 0 | 1) =>
      Math.floor((length + pad - (k - 1) * dilations[i] - 1) / strides[i]) + 1;
    const dims = [n, cout, size(height, top + bottom, kh, 0), size(width, left + right, kw, 1)];
    return node('Conv', [x, w], floats(dims), { kernel_shape: [kh, kw], strides, pads, dilations, group: groups });
  }),

  [CONV_INPUT_GRAD]: kernel(['dy', 'w'], ([dy, w], attributes) => {
    const { strides, pads, dilations, groups } = geometryOf(attributes);
    const shape = attributes.shape as number[];
    const [, , height, width] = shape as unknown as Dims4;
    const [, , oh, ow] = dims4(dy);
    const [, , kh, kw] = dims4(w);
    const [top, left, bottom, right] = pads;
    const [reachH, reachW] = [(kh - 1) * dilations[0], (kw - 1) * dilations[1]];
    const back = [reachH - top, reachW - left, reachH - bottom, reachW - right];
    const plain = strides[0] === 1 && strides[1] === 1 && groups === 1 && back.every((pad) => pad >= 0);
    if (plain) {
      const flipped =
        kh * kw === 1
          ? w
          : node('Slice', [w, int64s([-1, -1]), int64s([-kh - 1, -kw - 1]), int64s([2, 3]), int64s([-1, -1])], w);
      const filter = transpose(flipped, [1, 0, 2, 3]);
      return node('Conv', [dy, filter], floats(shape), { kernel_shape: [kh, kw], pads: back, dilations });
    }
    const rest = [
      height + top + bottom - ((oh - 1) * strides[0] + reachH + 1),
      width + left + right - ((ow - 1) * strides[1] + reachW + 1),
    ];
    const geometry = { kernel_shape: [kh, kw], strides, pads, dilations, group: groups, output_padding: rest };
    return node('ConvTranspose', [dy, w], floats(shape), geometry);
  }),

  // A 3-D convolution of the images by dy: the rows of the batch are its channels, the channels its depth.
  [CONV_FILTER_GRAD]: kernel(['dy', 'x'], ([dy, x], attributes) => {
    const { strides, dilations, groups, ...geometry } = geometryOf(attributes);
    const shape = attributes.shape as number[];
    const [cout, size, kh, kw] = shape as unknown as Dims4;
    const [n, , height, width] = dims4(x);
    const [, , oh, ow] = dims4(dy);
    const [top, left] = geometry.pads;
    // As many rows and columns as kh x kw positions need.
    const end = [
      (oh - 1) * strides[0] + (kh - 1) * dilations[0] + 1 - top - height,
      (ow - 1) * strides[1] + (kw - 1) * dilations[1] + 1 - left - width,
    ] as const;
    const kept = [height + Math.min(end[0], 0), width + Math.min(end[1], 0)] as const;
    const cut =
      kept[0] === height && kept[1] === width
        ? x
        : node(
            'Slice',
            [x, int64s([0, 0]), int64s(kept), int64s([2, 3])],
            floats([n, size * groups, kept[0], kept[1]]),
          );
    const grouped = reshape(cut, [n, groups, size, kept[0], kept[1]]);
    const images = reshape(groups === 1 ? grouped : transpose(grouped, [1, 0, 2, 3, 4]), [
      1,
      groups * n,
      size,
      kept[0],
      kept[1],
    ]);
    const filters = reshape(transpose(dy, [1, 0, 2, 3]), [cout, n, 1, oh, ow]);
    const found = node('Conv', [images, filters], floats([1, cout, size, kh, kw]), {
      kernel_shape: [1, oh, ow],
      strides: [1, ...dilations],
      dilations: [1, ...strides],
      pads: [0, top, left, 0, Math.max(end[0], 0), Math.max(end[1], 0)],
      group: groups,
    });
    return reshape(found, shape);
  }),
};
