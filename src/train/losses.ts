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

/** What a step minimises. */
export interface Objective {
  loss(output: tf.Tensor, target: tf.Tensor): tf.Scalar;
  /** How many rows are right; 0 where that means nothing. */
  correct(output: tf.Tensor, target: tf.Tensor): tf.Scalar;
}

/** Of logits [N, classes] and labels [N]. */
export const classification = (name: LossName): Objective => ({
  loss: (logits, labels) => classLoss(name, logits as tf.Tensor2D, labels as tf.Tensor1D),
  correct: (logits, labels) => countCorrect(logits as tf.Tensor2D, labels as tf.Tensor1D),
});

/** Of a layer and what it is to imitate, of one shape: mean over all elements of the squared difference. */
export const IMITATION: Objective = {
  loss: (output, target) => tf.mean(tf.square(tf.sub(output, target))),
  correct: () => tf.scalar(0),
};
