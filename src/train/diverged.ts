/** Where a training step that gave no number went wrong. */
import type { NdArray } from '../eval/session.ts';
import type { Objective } from './losses.ts';
import type { Lowered } from './lower.ts';
import { makeStepper, type Stepper } from './step.ts';
import { tf } from './tf.ts';
import { masksByNode, readBatch } from './training-step.ts';

/** 0 where everything is finite, else NaN. */
const flag = (x: tf.Tensor): tf.Scalar => tf.sum(tf.mul(tf.cast(x, 'float32'), 0));

/**
 * Runs the step's forward pass and gradients once more with everything visible.
 * @param batch as it was fed to the training step; @param state the state before the step
 * @returns for people: the first layer whose output is not finite, else the last whose gradient is not
 */
export async function whereItBegan(
  lowered: Lowered,
  objective: Objective,
  batch: readonly NdArray[],
  state: readonly { dims: readonly number[]; data: Float32Array }[],
): Promise<string> {
  const { parameters, statistics } = lowered;
  const weights = state.slice(0, parameters.length);
  const names: string[] = [];
  const named = (args: readonly tf.Tensor[]) =>
    new Map([...parameters, ...statistics].map(({ name }, i) => [name, args[i] as tf.Tensor]));
  const forward = makeStepper(
    (fed, given) => {
      const { rows, masks } = readBatch(lowered, fed);
      const options = { training: true, taps: 'all', ...masksByNode(lowered, masks) } as const;
      const { values } = lowered.forward(rows, named(given), options);
      names.splice(0, names.length, ...values.keys());
      return { outputs: [tf.stack([...values.values()].map(flag))], state: given.map((tensor) => tf.clone(tensor)) };
    },
    [...weights, ...state.slice(state.length - statistics.length)],
  );
  try {
    const flags = await flagsOf(forward, batch);
    const first = names[flags.findIndex((value) => !Number.isFinite(value))];
    if (first !== undefined) return `the output of ${lowered.makerOf(first)} is the first that is not finite`;
  } finally {
    await forward.release();
  }
  const backward = makeStepper(
    (fed, given) => {
      const { rows, target, masks } = readBatch(lowered, fed);
      const running = given.slice(parameters.length);
      const gradients = tf.grads((...args: tf.Tensor[]) => {
        const options = { training: true, ...masksByNode(lowered, masks) };
        const { values } = lowered.forward(rows, named([...args, ...running]), options);
        return objective.loss(values.get(lowered.logits) as tf.Tensor, target);
      })(given.slice(0, parameters.length) as tf.Tensor[]);
      return { outputs: [tf.stack(gradients.map(flag))], state: given.map((tensor) => tf.clone(tensor)) };
    },
    [...weights, ...state.slice(state.length - statistics.length)],
  );
  try {
    // Gradients flow from the last layer to the first.
    const parameter = parameters[(await flagsOf(backward, batch)).findLastIndex((value) => !Number.isFinite(value))];
    if (parameter) return `all outputs are finite, but the gradient of '${parameter.name}' (${parameter.layer}) is not`;
  } finally {
    await backward.release();
  }
  return 'all outputs and gradients are finite: their norm overflows';
}

async function flagsOf(stepper: Stepper, batch: readonly NdArray[]): Promise<Float32Array> {
  const [flags] = await stepper.run(batch);
  return (flags as NdArray).data as Float32Array;
}
