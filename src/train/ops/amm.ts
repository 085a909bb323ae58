/**
 * Min-max normalisation by channel, differentiable (Garimella, Jha, Reagen 2021, Eq. 2, as the authors' code has it): the
 * range of the batch itself, through which gradients flow.
 */
import { tf } from '../tf.ts';

export interface MinMax {
  readonly y: tf.Tensor;
  /** Of the batch, [C]; gradients don't flow through them. */
  readonly min: tf.Tensor1D;
  readonly range: tf.Tensor1D;
}

/**
 * y = alpha (x - min) / range - beta. A constant channel has no range and divides by 1. Elements that share an extreme share
 * its gradient evenly, as PyTorch has it.
 * @param x [N, C] or [N, C, ...spatial]
 */
export function minMaxNorm(x: tf.Tensor, alpha: number, beta: number): MinMax {
  const axes = x.shape.map((_, axis) => axis).filter((axis) => axis !== 1);
  const channels = x.shape[1] as number;
  const min = tf.min(x, axes, true);
  const max = tf.max(x, axes, true);
  const range = tf.sub(max, min);
  const width = tf.where(tf.greater(range, 0), range, tf.onesLike(range));
  const scale = tf.div(alpha, width);
  const normalize = tf.customGrad((input, save) => {
    const data = input as tf.Tensor;
    // Not x scale - min scale: that would lose the digits of a narrow range far from zero.
    const shifted = tf.sub(data, min);
    (save as tf.GradSaveFunc)([data, shifted, min, max, width, scale]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]): tf.Tensor => {
      const [values, above, low, high, widths, scales] = saved as [
        tf.Tensor,
        tf.Tensor,
        tf.Tensor,
        tf.Tensor,
        tf.Tensor,
        tf.Tensor,
      ];
      const toExtreme = (gradient: tf.Tensor, extreme: tf.Tensor): tf.Tensor => {
        const at = tf.cast(tf.equal(values, extreme), 'float32');
        return tf.mul(tf.div(gradient, tf.sum(at, axes, true)), at);
      };
      // With u = (x - min) / r: du/dr = -u / r, du/dmin = -1 / r, and r = max - min.
      const byRange = tf.neg(tf.div(tf.mul(tf.sum(tf.mul(dy, above), axes, true), scales), widths));
      const byMin = tf.sub(tf.neg(tf.mul(tf.sum(dy, axes, true), scales)), byRange);
      return tf.add(tf.add(tf.mul(dy, scales), toExtreme(byMin, low)), toExtreme(byRange, high));
    };
    return { value: tf.sub(tf.mul(shifted, scale), beta), gradFunc };
  });
  return {
    y: normalize(x),
    min: constant(tf.reshape(min, [channels])),
    range: constant(tf.reshape(range, [channels])),
  };
}

const constant = (values: tf.Tensor): tf.Tensor1D =>
  tf.customGrad((input) => ({
    value: tf.clone(input as tf.Tensor1D),
    gradFunc: (dy: tf.Tensor1D) => tf.zerosLike(dy),
  }))(values);
