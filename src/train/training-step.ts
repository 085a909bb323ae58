/** One step of training as a pure function: forward, loss, gradients, optimizer, running statistics. */
import type { TrainingBatch } from '../data/training-batches.ts';
import type { NdArray } from '../eval/session.ts';
import { elementCount } from '../graph/tensor.ts';
import { makeRng } from '../rng.ts';
import type { Distillation } from './distillation.ts';
import type { Objective } from './losses.ts';
import type { Lowered } from './lower.ts';
import { clipNorm, type Optimizer } from './optimizers.ts';
import type { RangePenalty } from './range-control.ts';
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
  feed(batch: FedBatch, rate: number, step: number, weights?: LossWeights): NdArray[];
}

/** What may change from epoch to epoch. */
export interface LossWeights {
  /** Of the objective, and of what a teacher says. */
  readonly objective: number;
  /** Of the range penalty, and its exponent. */
  readonly penalty: number;
  readonly power: number;
}

const PLAIN: LossWeights = { objective: 1, penalty: 0, power: 2 };

export interface FedBatch {
  readonly count: number;
  /** [count, ...row] for each input of the model. */
  readonly rows: readonly Float32Array[];
  /** What the objective compares the output with. */
  readonly target: NdArray;
}

/** Rows of a model with one input, and their classes. */
export const labelled = ({ count, x, labels }: Pick<TrainingBatch, 'count' | 'x' | 'labels'>): FedBatch => ({
  count,
  rows: [x],
  target: { elem: 'int32', dims: [count], data: labels },
});

export interface StepOptions {
  readonly objective: Objective;
  readonly optimizer: Optimizer;
  readonly clipNorm: number | null;
  /** Of the dropout masks. */
  readonly seed: number;
  /** What keeps values in range. */
  readonly penalty?: RangePenalty | null;
  /** A network whose logits count beside the target. */
  readonly teacher?: Distillation | null;
}

export function trainingStep(lowered: Lowered, options: StepOptions): TrainingStep {
  const { parameters, statistics, dropouts } = lowered;
  const { optimizer, objective } = options;
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
    run: (batch, state) => {
      const { rows, target, rate, number, control, masks } = readBatch(lowered, batch);
      const { penalty, teacher } = options;
      const wanted = teacher?.logits(rows);
      const weights = state.slice(0, parameters.length);
      const running = state.slice(parameters.length + slots.length);
      const given = masksByNode(lowered, masks);
      // What the loss is made of would be gone with the scope that the gradients are computed in.
      const kept: Record<string, tf.Tensor> = {};
      const { value: loss, grads } = tf.valueAndGrads((...args: tf.Tensor[]) => {
        const named = new Map(
          [...parameters, ...statistics].map(({ name }, i) => [name, [...args, ...running][i] as tf.Tensor]),
        );
        const { values, statistics: next } = lowered.forward(rows, named, {
          training: true,
          ...given,
          ...(penalty && { taps: penalty.values }),
        });
        const output = values.get(lowered.logits) as tf.Tensor;
        for (const [i, { name }] of statistics.entries())
          kept[`statistic ${i}`] = tf.keep(tf.clone(next.get(name) as tf.Tensor));
        kept.correct = tf.keep(objective.correct(output, target));
        const own = objective.loss(output, target);
        const taught = teacher && wanted ? teacher.mixed(own, output, wanted) : own;
        if (!penalty) return taught;
        const [share, weight, power] = [0, 1, 2].map((i) => tf.reshape(tf.slice(control, i, 1), []));
        const outside = penalty.loss(values, power as tf.Scalar);
        return tf.add(tf.mul(taught, share as tf.Scalar), tf.mul(outside, weight as tf.Scalar)) as tf.Scalar;
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
          rate,
          number,
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
    feed: ({ count, rows, target }, rate, step, { objective: share, penalty, power } = PLAIN) => [
      ...lowered.inputs.map(({ shape }, i) => ({
        elem: 'float' as const,
        dims: [count, ...shape],
        data: rows[i] as Float32Array,
      })),
      target,
      { elem: 'float', dims: [], data: Float32Array.of(rate) },
      { elem: 'float', dims: [], data: Float32Array.of(step + 1) },
      { elem: 'float', dims: [3], data: Float32Array.of(share, penalty, power) },
      ...dropouts.map(({ ratio, shape }, i) => mask([count, ...shape], ratio, [options.seed, step, i])),
    ],
  };
}

/** What `TrainingStep.feed` made of a batch, as tensors. */
export function readBatch({ inputs }: Lowered, batch: readonly tf.Tensor[]) {
  const [target, rate, number, control, ...masks] = batch.slice(inputs.length) as [
    tf.Tensor,
    tf.Tensor,
    tf.Tensor,
    tf.Tensor1D,
  ];
  return { rows: batch.slice(0, inputs.length), target, rate, number, control, masks: masks as readonly tf.Tensor[] };
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
