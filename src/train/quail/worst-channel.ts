/** Which channel of a stage went wrong. */
import type { NdArray } from '../../eval/session.ts';
import type { Lowered } from '../lower.ts';
import { makeStepper } from '../step.ts';
import type { tf } from '../tf.ts';
import { masksByNode, readBatch } from '../training-step.ts';

/**
 * Runs the stage's forward pass once more on a batch as it was fed.
 * @param state the state before the step
 * @returns for people: the first channel with a value that is not finite, else that with the largest value
 */
export async function worstChannel(
  lowered: Lowered,
  batch: readonly NdArray[],
  state: readonly { dims: readonly number[]; data: Float32Array }[],
): Promise<string> {
  const { parameters, statistics } = lowered;
  const own = [...state.slice(0, parameters.length), ...state.slice(state.length - statistics.length)];
  const stepper = makeStepper((fed, given) => {
    const { rows, masks } = readBatch(lowered, fed);
    const named = new Map([...parameters, ...statistics].map(({ name }, i) => [name, given[i] as tf.Tensor]));
    const { values } = lowered.forward(rows, named, { training: true, ...masksByNode(lowered, masks) });
    return { outputs: [values.get(lowered.logits) as tf.Tensor], state: given.map((tensor) => tensor.clone()) };
  }, own);
  try {
    const [output] = await stepper.run(batch);
    return describe(output as NdArray);
  } finally {
    await stepper.release();
  }
}

function describe({ dims, data }: NdArray): string {
  const [, channels = 1, ...spatial] = dims;
  const size = spatial.reduce((product, dim) => product * dim, 1);
  let [worst, largest] = [0, -1];
  for (const [i, value] of (data as Float32Array).entries()) {
    const magnitude = Number.isNaN(value) ? Number.POSITIVE_INFINITY : Math.abs(value);
    if (magnitude <= largest) continue;
    largest = magnitude;
    worst = Math.floor(i / size) % channels;
  }
  return Number.isFinite(largest)
    ? `its channel ${worst} reaches ${largest.toPrecision(3)}`
    : `its channel ${worst} is not finite`;
}
