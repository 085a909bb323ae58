/**
 * Kernels of batch normalisation (`ops/batch-norm.ts`) as ONNX nodes. Memory is what limits them: every tensor that is
 * written costs more than what is computed for it, so that operators are chosen that write few.
 */
import { availableParallelism } from 'node:os';
import type { NamedAttrMap, TensorInfo } from '@tensorflow/tfjs-core';
import { floatAttribute } from '../../graph/attributes.ts';
import { elementCount } from '../../graph/tensor.ts';
import type { Kernel, Kernels, Recorder } from './kernel.ts';
import { expand, like, reshape } from './kernels/common.ts';
import { constant, int64s, type LazyTensor, MICROSOFT, node, nodes } from './lazy.ts';

export const BATCH_NORM = 'NchwBatchNorm';
export const BATCH_NORM_GRAD = 'NchwBatchNormGrad';
/** x · factor + offset, both per channel. */
export const AFFINE = 'NchwAffine';
export const AFFINE_GRAD = 'NchwAffineGrad';

type Options = Recorder['options'];

/** A kernel that depends on the device, with one result or several. */
const kernels =
  <const Names extends readonly string[]>(
    names: Names,
    make: (
      inputs: { readonly [I in keyof Names]: LazyTensor },
      options: Options,
      attributes: NamedAttrMap,
    ) => LazyTensor | readonly LazyTensor[],
  ): Kernel =>
  (recorder, inputs, attributes) => {
    const lazy = names.map((name) => recorder.lazy(inputs[name] as TensorInfo));
    const results = make(lazy as { readonly [I in keyof Names]: LazyTensor }, recorder.options, attributes);
    return 'elem' in results ? recorder.give(results) : results.map((result) => recorder.give(result));
  };

const onCpu = ({ device }: Options) => device === undefined || device.kind === 'cpu';

type Operand = LazyTensor | number;
const operand = (value: Operand) => (typeof value === 'number' ? constant(value) : value);
const add = (a: LazyTensor, b: Operand): LazyTensor => like('Add', [a, operand(b)]);
const subtract = (a: LazyTensor, b: LazyTensor): LazyTensor => like('Sub', [a, b]);
const multiply = (a: LazyTensor, b: Operand): LazyTensor => like('Mul', [a, operand(b)]);

const negate = (a: LazyTensor): LazyTensor => like('Neg', [a]);

/** Any x as images. */
const images = (x: LazyTensor): LazyTensor =>
  x.dims.length === 4 ? x : reshape(x, [x.dims[0] ?? 1, x.dims[1] ?? 1, elementCount(x.dims.slice(2)), 1]);

type Dims4 = readonly [n: number, c: number, h: number, w: number];
const dims4 = (x: LazyTensor) => x.dims as Dims4;
const mapSize = (x: LazyTensor) => elementCount(x.dims.slice(2));

/** Operators that go from map to map lose time there, and are faster than others only from this size of a map on. */
const SMALL_MAP = 64;
/** The same, for those that work per channel. */
const MIDDLE_MAP = 256;

/** [C] so that it broadcasts over images; over small maps it is written out, once for all images. */
function perChannel(values: LazyTensor, x: LazyTensor): LazyTensor {
  const [, c, h, w] = dims4(x);
  const column = reshape(values, [c, 1, 1]);
  return mapSize(x) < MIDDLE_MAP ? expand(column, [c, h, w]) : column;
}

/** The mean of each channel of images: [C]. */
function channelMean(x: LazyTensor): LazyTensor {
  const [n, c, h, w] = dims4(x);
  const mean = (of: LazyTensor, axes: readonly number[], dims: readonly number[]) =>
    node('ReduceMean', [of], { elem: x.elem, dims }, { axes, keepdims: 0 });
  if (h * w === 1) return mean(reshape(x, [n, c]), [0], [c]);
  // Long rows of memory first.
  return h * w < SMALL_MAP ? mean(mean(x, [0], [c, h, w]), [1, 2], [c]) : mean(mean(x, [2, 3], [n, c]), [0], [c]);
}

/**
 * images · factor + offset + sum, the first two per channel, by a convolution with one weight a channel: onnxruntime does
 * that in one pass, in the memory of the sum.
 */
function fused(x: LazyTensor, factor: LazyTensor, offset: LazyTensor, sum: LazyTensor | null): LazyTensor {
  const [, c] = dims4(x);
  const filters = reshape(factor, [c, 1, 1, 1]);
  return node('FusedConv', [x, filters, offset, sum], x, { group: c, kernel_shape: [1, 1] }, MICROSOFT);
}
const canFuse = (x: LazyTensor, options: Options) => onCpu(options) && mapSize(x) >= MIDDLE_MAP;

/** images · factor + offset, both per channel. */
const affine = (x: LazyTensor, factor: LazyTensor, offset: LazyTensor, options: Options): LazyTensor =>
  canFuse(x, options) ? fused(x, factor, offset, null) : add(multiply(x, perChannel(factor, x)), perChannel(offset, x));

/** 1 / sqrt(variance + epsilon) */
const inverseDeviation = (variance: LazyTensor, epsilon: number): LazyTensor =>
  like('Reciprocal', [like('Sqrt', [add(variance, epsilon)])]);

/** @returns y, mean and variance */
function batchNorm(
  input: LazyTensor,
  scale: LazyTensor,
  bias: LazyTensor,
  epsilon: number,
  options: Options,
): readonly LazyTensor[] {
  const x = images(input);
  const { threads = availableParallelism() } = options;
  if (onCpu(options) && threads <= 2 && mapSize(x) >= SMALL_MAP) {
    // onnxruntime's own node runs on one core, but makes three passes where others make six. It multiplies the running
    // estimates that it wants by the momentum and writes the new ones over them: they have to be memory of their own.
    const [, c] = dims4(x);
    const corner = node('Slice', [x, int64s([0, 0, 0]), int64s([1, 1, 1]), int64s([0, 2, 3])], {
      elem: x.elem,
      dims: [1, c, 1, 1],
    });
    const estimate = reshape(corner, [c]);
    const [y, ...statistics] = nodes(
      'BatchNormalization',
      [x, scale, bias, estimate, like('Abs', [estimate])],
      [x, scale, scale],
      { training_mode: 1, epsilon: floatAttribute('epsilon', epsilon), momentum: floatAttribute('momentum', 0) },
    );
    return [reshape(y as LazyTensor, input.dims), ...statistics];
  }
  const mean = channelMean(x);
  const centred = subtract(x, perChannel(mean, x));
  const variance = channelMean(multiply(centred, centred));
  const factor = multiply(scale, inverseDeviation(variance, epsilon));
  return [reshape(affine(centred, factor, bias, options), input.dims), mean, variance];
}

/**
 * With x' the normalised x: dx = scale / deviation · (dy - mean(dy) - x' · mean(dy · x')) (Ioffe and Szegedy, arXiv
 * 1502.03167, section 3), which is linear in dy and x.
 * @returns dx, dscale, dbias
 */
function batchNormGrad(
  gradient: LazyTensor,
  input: LazyTensor,
  scale: LazyTensor,
  mean: LazyTensor,
  variance: LazyTensor,
  epsilon: number,
  options: Options,
): readonly LazyTensor[] {
  const [dy, x] = [images(gradient), images(input)];
  const inverse = inverseDeviation(variance, epsilon);
  const meanDy = channelMean(dy);
  const covariance = subtract(channelMean(multiply(dy, x)), multiply(mean, meanDy));
  const meanProduct = multiply(covariance, inverse);
  const factor = multiply(scale, inverse);
  const slope = negate(multiply(inverse, meanProduct));
  const offset = negate(add(meanDy, multiply(slope, mean)));
  const dx = canFuse(x, options)
    ? fused(x, multiply(slope, factor), multiply(offset, factor), multiply(dy, perChannel(factor, x)))
    : multiply(
        add(add(multiply(x, perChannel(slope, x)), dy), perChannel(offset, x)), // all but the first in place
        perChannel(factor, x),
      );
  const count = elementCount(x.dims) / elementCount(scale.dims);
  return [reshape(dx, input.dims), multiply(meanProduct, count), multiply(meanDy, count)];
}

/** @returns dx, dfactor, doffset */
function affineGrad(gradient: LazyTensor, input: LazyTensor, factor: LazyTensor): readonly LazyTensor[] {
  const [dy, x] = [images(gradient), images(input)];
  const count = elementCount(x.dims) / elementCount(factor.dims);
  return [
    reshape(multiply(dy, perChannel(factor, x)), input.dims),
    multiply(channelMean(multiply(dy, x)), count),
    multiply(channelMean(dy), count),
  ];
}

const epsilonOf = ({ epsilon }: NamedAttrMap) => Number(epsilon);

export const BATCH_NORM_KERNELS: Kernels = {
  [BATCH_NORM]: kernels(['x', 'scale', 'bias'], ([x, scale, bias], options, attributes) =>
    batchNorm(x, scale, bias, epsilonOf(attributes), options),
  ),
  [BATCH_NORM_GRAD]: kernels(
    ['dy', 'x', 'scale', 'mean', 'variance'],
    ([dy, x, scale, mean, variance], options, attributes) =>
      batchNormGrad(dy, x, scale, mean, variance, epsilonOf(attributes), options),
  ),
  [AFFINE]: kernels(['x', 'factor', 'offset'], ([x, factor, offset], options) =>
    reshape(affine(images(x), factor, offset, options), x.dims),
  ),
  [AFFINE_GRAD]: kernels(['dy', 'x', 'factor'], ([dy, x, factor]) => affineGrad(dy, x, factor)),
};
