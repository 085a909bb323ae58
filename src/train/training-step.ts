/** One step of training as a pure function: forward, loss, gradients, optimizer, running statistics. */
import type { NdArray } from '../eval/session.ts';
import { elementCount } from '../graph/tensor.ts';
import { makeRng } from '../rng.ts';
import { classLoss, countCorrect, type LossName } from './losses.ts';
import type { Lowered } from './lower.ts';
import { clipNorm, type Optimizer } from './optimizers.ts';
import type { StepFunction } from './step.ts';
import { tf } from './tf.ts';

export interface TrainingStep {
  /** From a batch as `feed` makes it to [loss, right answers, norm of the gradients]. */
  readonly run: StepFunction;
  /** Names of the state: parameters, then `slot/parameter` of the optimizer, then running statistics. */
  readonly names: readonly string[];
  /** What the state starts at. */
  readonly state: readonly { readonly dims: readonly number[]; readonly data: Float32Array }[];
  /** @param step number of the step in the whole run, from 0 */
  feed(batch: LabelledBatch, rate: number, step: number): NdArray[];
}

export interface LabelledBatch {
  readonly count: number;
  /** [count, ...row] */
  readonly x: Float32Array;
  /** [count] */
  readonly labels: Int32Array;
}

export interface StepOptions {
  readonly loss: LossName;
  readonly optimizer: Optimizer;
  readonly clipNorm: number | null;
  /** Of the dropout masks. */
  readonly seed: number;
}

export function trainingStep(lowered: Lowered, options: StepOptions): TrainingStep {
  const { parameters, statistics, dropouts } = lowered;
  const { optimizer } = options;
  const slots = optimizer.slots.flatMap((slot) =>
    parameters.map(({ name, dims }) => ({
      name: `${slot}/${name}`,
      dims,
      value: new Float32Array(elementCount(dims)),
    })),
  );
  const all = [...parameters, ...slots, ...statistics];
  return {
    names: all.map(({ name }) => name),
    state: all.map(({ dims, value }) => ({ dims, data: value })),
    run: ([x, labels, rate, number, ...masks], state) => {
      const weights = state.slice(0, parameters.length);
      const running = state.slice(parameters.length + slots.length);
      const given = masksByNode(lowered, masks);
      // What the loss is made of would be gone with the scope that the gradients are computed in.
      const kept: Record<string, tf.Tensor> = {};
      const { value: loss, grads } = tf.valueAndGrads((...args: tf.Tensor[]) => {
        const named = new Map(
          [...parameters, ...statistics].map(({ name }, i) => [name, [...args, ...running][i] as tf.Tensor]),
        );
        const { values, statistics: next } = lowered.forward(x as tf.Tensor, named, { training: true, ...given });
        const logits = values.get(lowered.logits) as tf.Tensor2D;
        for (const [i, { name }] of statistics.entries())
          kept[`statistic ${i}`] = tf.keep(tf.clone(next.get(name) as tf.Tensor));
        kept.correct = tf.keep(countCorrect(logits, labels as tf.Tensor1D));
        return classLoss(options.loss, logits, labels as tf.Tensor1D);
      })([...weights]);
      const taken = (name: string): tf.Tensor => {
        const tensor = tf.clone(kept[name] as tf.Tensor);
        (kept[name] as tf.Tensor).dispose();
        return tensor;
      };
      const gradients = options.clipNorm === null ? grads : clipNorm(grads, options.clipNorm);
      const updates = parameters.map((_, i) =>
        optimizer.update(
          weights[i] as tf.Tensor,
          gradients[i] as tf.Tensor,
          optimizer.slots.map((_, k) => state[(k + 1) * parameters.length + i] as tf.Tensor),
          rate as tf.Tensor,
          number as tf.Tensor,
        ),
      );
      return {
        outputs: [loss, taken('correct'), globalNorm(grads)],
        state: [
          ...updates.map(({ weight }) => weight),
          ...optimizer.slots.flatMap((_, k) => updates.map((update) => update.slots[k] as tf.Tensor)),
          ...statistics.map((_, i) => taken(`statistic ${i}`)),
        ],
      };
    },
    feed: ({ count, x, labels }, rate, step) => [
      { elem: 'float', dims: [count, ...lowered.input.shape], data: x },
      { elem: 'int32', dims: [count], data: labels },
      { elem: 'float', dims: [], data: Float32Array.of(rate) },
      { elem: 'float', dims: [], data: Float32Array.of(step + 1) },
      ...dropouts.map(({ ratio, shape }, i) => mask([count, ...shape], ratio, [options.seed, step, i])),
    ],
  };
}

/** The masks of a step, for `Lowered.forward`. */
export function masksByNode(
  { dropouts }: Lowered,
  masks: readonly tf.Tensor[],
): { dropout: (node: string) => tf.Tensor } {
  const byNode = new Map(dropouts.map(({ node }, i) => [node, masks[i] as tf.Tensor]));
  return { dropout: (node) => byNode.get(node) as tf.Tensor };
}

const globalNorm = (gradients: readonly tf.Tensor[]): tf.Scalar =>
  tf.sqrt(tf.addN(gradients.map((gradient) => tf.sum(tf.square(gradient)) as tf.Scalar)));

/** 0 with probability `ratio`, else 1/(1 - ratio); a function of the key alone, so that a resumed run sees the same. */
function mask(dims: readonly number[], ratio: number, [seed, step, node]: readonly [number, number, number]): NdArray {
  const { bits } = makeRng(seed * 2 ** 21 + ((step * 64 + node) % 2 ** 21) + 2 ** 52 / 3);
  const data = new Float32Array(elementCount(dims));
  const threshold = ratio * 2 ** 32;
  const scale = 1 / (1 - ratio);
  for (let i = 0; i < data.length; i++) data[i] = bits() < threshold ? 0 : scale;
  return { elem: 'float', dims, data };
}
