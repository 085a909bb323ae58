/** ApproxMinMaxNorm, the operator that only training knows (`passes/insert-amm.ts`). */
import { floatAttr } from '../graph/attributes.ts';
import type { Lowering } from './lowering.ts';
import { minMaxNorm } from './ops/amm.ts';
import { tf } from './tf.ts';

/** How far a running estimate goes to a new one; the first batch's are taken as they are. */
const SMOOTHING = 0.1;

/**
 * In training the range is that of the batch, and the estimates follow. In inference, and where the estimates are frozen,
 * it is the stored one.
 */
export const approxMinMaxNorm: Lowering = (site) => {
  const alpha = floatAttr(site.node, 'alpha') ?? 2;
  const beta = floatAttr(site.node, 'beta') ?? 1;
  const [minName, rangeName, seenName] = [1, 2, 3].map((index) => site.statistic(index));
  return (input, run) => {
    const [x, min, range, seen] = [0, 1, 2, 3].map(input) as [tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor];
    if (!run.training || !minName || !rangeName || !seenName) {
      const shape = [x.shape[1] as number, ...x.shape.slice(2).map(() => 1)];
      const width = tf.where(tf.greater(range, 0), range, tf.onesLike(range));
      const unit = tf.div(tf.sub(x, tf.reshape(min, shape)), tf.reshape(width, shape));
      return tf.sub(tf.mul(unit, alpha), beta);
    }
    const batch = minMaxNorm(x, alpha, beta);
    const factor = tf.maximum(tf.sub(1, seen), SMOOTHING);
    // Not old + factor (now - old): that would lose small numbers where the first batch's replace the initial ones.
    const next = (old: tf.Tensor, now: tf.Tensor) => tf.add(tf.mul(now, factor), tf.mul(old, tf.sub(1, factor)));
    run.update(minName, next(min, batch.min));
    run.update(rangeName, next(range, batch.range));
    run.update(seenName, tf.add(seen, 1));
    return batch.y;
  };
};
