import '@tensorflow/tfjs-backend-cpu';
import { beforeAll, describe, expect, it } from 'vitest';
import { makeRng } from '../../src/rng.ts';
import { clipNorm, makeOptimizer, type OptimizerOptions, parseOptimizer } from '../../src/train/optimizers.ts';
import { tf } from '../../src/train/tf.ts';

beforeAll(async () => void (await tf.setBackend('cpu')));

const SIZE = 5;
const STEPS = 6;
const RATE = 0.05;

/** Weights after some steps with gradients w * a + b that change from step to step, in float32 by the toolkit. */
async function byToolkit(options: OptimizerOptions): Promise<number[]> {
  const optimizer = makeOptimizer(options);
  const rng = makeRng(3);
  let weight: tf.Tensor = tf.tensor1d(Array.from({ length: SIZE }, () => rng.normal()));
  let slots = optimizer.slots.map(() => tf.zeros([SIZE]) as tf.Tensor);
  for (let step = 1; step <= STEPS; step++) {
    const gradient = tf.add(tf.mul(weight, 0.5 * step), 0.1);
    const next = optimizer.update(weight, gradient, slots, tf.scalar(RATE), tf.scalar(step));
    weight = next.weight;
    slots = [...next.slots];
  }
  return [...(await weight.data())];
}

type Rule = (w: number, g: number, memory: number[], step: number) => number;

/** The same in float64, number by number. */
function byRule(rule: Rule): number[] {
  const rng = makeRng(3);
  const start = Array.from({ length: SIZE }, () => Math.fround(rng.normal()));
  return start.map((first) => {
    const memory = [0, 0];
    let w = first;
    for (let step = 1; step <= STEPS; step++) w = rule(w, w * 0.5 * step + 0.1, memory, step);
    return w;
  });
}

const close = (found: readonly number[], wanted: readonly number[]) => {
  for (const [i, value] of found.entries()) expect(value).toBeCloseTo(wanted[i] as number, 5); // float32, six steps
};

describe('optimizers', () => {
  it.each([
    [0, false, 0],
    [0.5, false, 0],
    [0.5, true, 5e-2],
    [0.9, true, 0],
  ])('sgd, momentum %d, nesterov %s, decay %d, is that of PyTorch', async (momentum, nesterov, weightDecay) => {
    const found = await byToolkit({ optimizer: 'sgd', momentum, nesterov, weightDecay });
    const wanted = byRule((w, gradient, memory, step) => {
      const g = gradient + weightDecay * w;
      // PyTorch's first velocity is the gradient itself.
      memory[0] = step === 1 ? g : momentum * (memory[0] as number) + g;
      return w - RATE * (momentum === 0 ? g : nesterov ? g + momentum * memory[0] : memory[0]);
    });
    close(found, wanted);
  });

  it.each(['adam', 'adamw'] as const)('%s is that of PyTorch', async (optimizer) => {
    const decay = 0.1;
    const found = await byToolkit({ optimizer, momentum: 0.9, nesterov: false, weightDecay: decay });
    const wanted = byRule((w, gradient, memory, step) => {
      const g = optimizer === 'adam' ? gradient + decay * w : gradient;
      memory[0] = 0.9 * (memory[0] as number) + 0.1 * g;
      memory[1] = 0.999 * (memory[1] as number) + 0.001 * g * g;
      const [m, v] = [memory[0] / (1 - 0.9 ** step), memory[1] / (1 - 0.999 ** step)];
      const kept = optimizer === 'adamw' ? w * (1 - RATE * decay) : w;
      return kept - (RATE * m) / (Math.sqrt(v) + 1e-8);
    });
    close(found, wanted);
  });

  it('clips the common norm, and leaves what is below the limit', async () => {
    const gradients = [tf.tensor1d([3, 0]), tf.tensor2d([[0, 4]])];
    const values = async (limit: number) =>
      Promise.all(clipNorm(gradients, limit).map(async (g) => [...(await g.data())]));
    const [a, b] = await values(1);
    close([...(a ?? []), ...(b ?? [])], [0.6, 0, 0, 0.8]);
    const [c, d] = await values(10);
    close([...(c ?? []), ...(d ?? [])], [3, 0, 0, 4]);
  });

  it('refuses unknown names', () => {
    expect(() => parseOptimizer('adamm')).toThrow("did you mean 'adam'");
  });
});
