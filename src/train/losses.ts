/** What training minimises, and what it counts. */
import { didYouMean, SisyphusError } from '../errors.ts';
import { tf } from './tf.ts';

export const LOSSES = ['ce', 'mse'] as const;
export type LossName = (typeof LOSSES)[number];

/** @throws SisyphusError `usage` */
export function parseLoss(text: string): LossName {
  const name = LOSSES.find((known) => known === text);
  if (name) return name;
  throw new SisyphusError('usage', `--loss: unknown loss '${text}'${didYouMean(text, LOSSES)}`);
}

/**
 * Mean over the rows. 'ce': cross-entropy of the softmax; 'mse': squared distance from the one-hot label, mean over the
 * classes.
 * @param logits [N, classes]; @param labels [N], int32
 */
export function classLoss(name: LossName, logits: tf.Tensor2D, labels: tf.Tensor1D): tf.Scalar {
  const target = tf.oneHot(labels, logits.shape[1]);
  const wanted = tf.cast(target, 'float32');
  if (name === 'mse') return tf.mean(tf.square(tf.sub(logits, wanted)));
  return tf.neg(tf.mean(tf.sum(tf.mul(wanted, tf.logSoftmax(logits)), 1)));
}

/** How many rows have their largest logit at the label; a scalar. */
export function countCorrect(logits: tf.Tensor2D, labels: tf.Tensor1D): tf.Scalar {
  return tf.sum(tf.cast(tf.equal(tf.argMax(logits, 1), labels), 'float32'));
}
