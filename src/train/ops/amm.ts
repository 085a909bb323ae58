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
  const normalize = tf.customGrad((input, save) => {
    const data = input as tf.Tensor;
    const unit = tf.div(tf.sub(data, min), width);
    (save as tf.GradSaveFunc)([data, unit, min, max, width]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]): tf.Tensor => {
      const [values, units, low, high, widths] = saved as [tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor];
      const share = (extreme: tf.Tensor): tf.Tensor => {
        const at = tf.cast(tf.equal(values, extreme), 'float32');
        return tf.div(at, tf.sum(at, axes, true));
      };
      // With u = (x - min) / r: du/dr = -u / r, du/dmin = -1 / r, and r = max - min.
      const direct = tf.div(tf.mul(dy, alpha), widths);
      const byRange = tf.neg(tf.sum(tf.mul(direct, units), axes, true));
      const byMin = tf.sub(tf.neg(tf.sum(direct, axes, true)), byRange);
      return tf.add(direct, tf.add(tf.mul(byMin, share(low)), tf.mul(byRange, share(high))));
    };
    return { value: tf.sub(tf.mul(unit, alpha), beta), gradFunc };
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
