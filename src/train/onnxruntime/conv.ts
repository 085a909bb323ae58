/** Convolution and its gradients as ONNX nodes. */
import type { NamedAttrMap, TensorInfo } from '@tensorflow/tfjs-core';
import { filterGrad } from './conv-filter.ts';
import { inputGrad } from './conv-input.ts';
import { convolve, type Dims4, type Geometry } from './conv-nodes.ts';
import type { Kernel, Kernels, Recorder } from './kernel.ts';
import type { LazyTensor } from './lazy.ts';

export const CONV = 'OnnxConv';
export const CONV_INPUT_GRAD = 'OnnxConvInputGrad';
export const CONV_FILTER_GRAD = 'OnnxConvFilterGrad';

const geometryOf = (attributes: NamedAttrMap) => attributes as unknown as Geometry;
const shapeOf = ({ shape }: NamedAttrMap) => shape as unknown as Dims4;

/** onnxruntime has operators on blocks of channels for x86 processors. */
const hasBlocks = ({ options: { device } }: Recorder) =>
  process.arch === 'x64' && (device === undefined || device.kind === 'cpu');

const convKernel =
  (
    names: readonly [string, string],
    make: (a: LazyTensor, b: LazyTensor, attributes: NamedAttrMap, fast: boolean) => LazyTensor,
  ): Kernel =>
  (recorder, inputs, attributes) => {
    const [a, b] = names.map((name) => recorder.lazy(inputs[name] as TensorInfo)) as [LazyTensor, LazyTensor];
    return recorder.give(make(a, b, attributes, hasBlocks(recorder)));
  };

export const CONV_KERNELS: Kernels = {
  [CONV]: convKernel(['x', 'w'], (x, w, attributes, fast) => convolve(x, w, geometryOf(attributes), fast)),
  [CONV_INPUT_GRAD]: convKernel(['dy', 'w'], (dy, w, attributes, fast) =>
    inputGrad(dy, w, shapeOf(attributes), geometryOf(attributes), fast),
  ),
  [CONV_FILTER_GRAD]: convKernel(['dy', 'x'], (dy, x, attributes, fast) =>
    filterGrad(dy, x, shapeOf(attributes), geometryOf(attributes), fast),
  ),
};
