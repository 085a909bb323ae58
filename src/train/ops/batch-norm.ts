/**
 * Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) over all axes but the second, differentiable. Backends that have
 * kernels for it run those; all others compose it of standard operations.
 */
import { AFFINE, AFFINE_GRAD, BATCH_NORM, BATCH_NORM_GRAD } from '../onnxruntime/batch-norm.ts';
import { tf } from '../tf.ts';

export interface BatchNorm {
  readonly y: tf.Tensor;
  /** Statistics of the batch, [C]; gradients don't flow through them. The variance is the population's. */
  readonly mean: tf.Tensor1D;
  readonly variance: tf.Tensor1D;
}

/**
 * Training mode: normalised by the statistics of the batch.
 * @param x [N, C] or [N, C, ...spatial]
 * @param scale [C]
 * @param bias [C]
 */
export function batchNorm(x: tf.Tensor, scale: tf.Tensor1D, bias: tf.Tensor1D, epsilon: number): BatchNorm {
  if (tf.getKernel(BATCH_NORM, tf.getBackend())) {
    const [y, mean, variance] = tf
      .engine()
      .runKernel<[tf.Tensor, tf.Tensor1D, tf.Tensor1D]>(BATCH_NORM, { x, scale, bias }, { epsilon });
    return { y, mean, variance };
  }
  const axes = x.shape.map((_, axis) => axis).filter((axis) => axis !== 1);
  const mean = tf.mean(x, axes, true);
  const centred = tf.sub(x, mean);
  const variance = tf.mean(tf.square(centred), axes, true);
  const normalized = tf.mul(centred, tf.rsqrt(tf.add(variance, epsilon)));
  return {
    y: tf.add(tf.mul(normalized, perChannel(scale, x)), perChannel(bias, x)),
    mean: withoutGradient(tf.reshape(mean, scale.shape)),
    variance: withoutGradient(tf.reshape(variance, scale.shape)),
  };
}

tf.registerGradient({
  kernelName: BATCH_NORM,
  inputsToSave: ['x', 'scale'],
  outputsToSave: [false, true, true],
  gradFunc: (dys, saved, attributes) => {
    const [dy] = dys as tf.Tensor[];
    const [x, scale, mean, variance] = saved;
    // One recording for all three: what nobody asks for is not computed.
    const [dx, dscale, dbias] = tf
      .engine()
      .runKernel<tf.Tensor[]>(BATCH_NORM_GRAD, { dy, x, scale, mean, variance } as tf.NamedTensorMap, attributes);
    return { x: () => dx as tf.Tensor, scale: () => dscale as tf.Tensor, bias: () => dbias as tf.Tensor };
  },
});

/**
 * Inference mode: normalised by fixed statistics.
 * @param x [N, C] or [N, C, ...spatial]
 * @param scale [C], and so bias, mean and variance
 */
export function normalize(
  x: tf.Tensor,
  scale: tf.Tensor1D,
  bias: tf.Tensor1D,
  mean: tf.Tensor1D,
  variance: tf.Tensor1D,
  epsilon: number,
): tf.Tensor {
  const factor = tf.mul(scale, tf.rsqrt(tf.add(variance, epsilon)));
  const offset = tf.sub(bias, tf.mul(mean, factor));
  if (tf.getKernel(AFFINE, tf.getBackend())) return tf.engine().runKernel(AFFINE, { x, factor, offset });
  return tf.add(tf.mul(x, perChannel(factor, x)), perChannel(offset, x));
}

tf.registerGradient({
  kernelName: AFFINE,
  inputsToSave: ['x', 'factor'],
  gradFunc: (dy, saved) => {
    const [x, factor] = saved;
    const [dx, dfactor, doffset] = tf
      .engine()
      .runKernel<tf.Tensor[]>(AFFINE_GRAD, { dy, x, factor } as tf.NamedTensorMap);
    return { x: () => dx as tf.Tensor, factor: () => dfactor as tf.Tensor, offset: () => doffset as tf.Tensor };
  },
});

const perChannel = (values: tf.Tensor, x: tf.Tensor): tf.Tensor =>
  x.rank === 2 ? values : tf.reshape(values, [values.size, ...x.shape.slice(2).map(() => 1)]);

const withoutGradient = (values: tf.Tensor1D): tf.Tensor1D =>
  tf.customGrad((input) => ({
    value: tf.clone(input as tf.Tensor1D),
    gradFunc: (dy: tf.Tensor1D) => tf.zerosLike(dy),
  }))(values);
