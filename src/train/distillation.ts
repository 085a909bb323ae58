/** What a teacher says of a batch, beside its labels (Hinton, Vinyals, Dean 2015, arXiv 1503.02531). */
import type { Model } from '../graph/ir.ts';
import { lower } from './lower.ts';
import { tf } from './tf.ts';

export interface Distillation {
  /** The teacher's logits, [N, classes]. */
  logits(rows: readonly tf.Tensor[]): tf.Tensor2D;
  /** (1 - weight) of the objective and weight T² KL(teacher || student), both softened by the temperature T. */
  mixed(objective: tf.Scalar, output: tf.Tensor, teacher: tf.Tensor2D): tf.Scalar;
}

/** @throws SisyphusError as `lower`, for the teacher */
export async function distillation(
  teacher: Model,
  where: string,
  { temperature, weight }: { readonly temperature: number; readonly weight: number },
): Promise<Distillation> {
  const lowered = await lower(teacher, where, { trains: () => false });
  return {
    logits: (rows) => lowered.forward(rows, new Map(), { training: false }).values.get(lowered.logits) as tf.Tensor2D,
    mixed(objective, output, wanted) {
      const [own, goal] = [output, wanted].map((logits) =>
        tf.logSoftmax(tf.div(logits, temperature) as tf.Tensor2D),
      ) as [tf.Tensor2D, tf.Tensor2D];
      const divergence = tf.mean(tf.sum(tf.mul(tf.exp(goal), tf.sub(goal, own)), 1));
      return tf.add(tf.mul(objective, 1 - weight), tf.mul(divergence, weight * temperature ** 2)) as tf.Scalar;
    },
  };
}
