/** The gradients of the paper's networks on onnxruntime against those of tfjs' own kernels, and what a step leaves behind. */
import { describe, expect, it } from 'vitest';
import { buildNetwork, NETWORKS, type Network } from '../../models/index.ts';
import { assemble } from '../../models/layers.ts';
import { elementCount } from '../../src/graph/tensor.ts';
import { makeRng } from '../../src/rng.ts';
import { useBackend } from '../../src/train/choose-backend.ts';
import { classification, classLoss } from '../../src/train/losses.ts';
import { type Lowered, lower } from '../../src/train/lower.ts';
import { makeOptimizer } from '../../src/train/optimizers.ts';
import { makeStepper, type StepFunction } from '../../src/train/step.ts';
import { tf } from '../../src/train/tf.ts';
import {
  type FedBatch,
  labelled,
  masksByNode,
  readBatch,
  type TrainingStep,
  trainingStep,
} from '../../src/train/training-step.ts';

function randomBatch({ inputs: [input] }: Lowered, count: number): FedBatch {
  const rng = makeRng(11);
  const x = Float32Array.from({ length: count * elementCount(input?.shape ?? []) }, () => rng.normal());
  return labelled({ count, x, labels: Int32Array.from({ length: count }, (_, i) => i % 10) });
}

const SGD = { optimizer: 'sgd', momentum: 0.5, nesterov: true, weightDecay: 5e-4 } as const;
const stepOf = (lowered: Lowered): TrainingStep =>
  trainingStep(lowered, { objective: classification('ce'), optimizer: makeOptimizer(SGD), clipNorm: null, seed: 1 });

/** The loss, and its gradients by all parameters, in training mode (dropout and statistics of the batch). */
async function gradients(lowered: Lowered, count: number, backend: 'onnxruntime' | 'cpu'): Promise<Float32Array[]> {
  await useBackend({ backend, threads: 2 });
  const { parameters, statistics } = lowered;
  const step = stepOf(lowered);
  const run: StepFunction = (batch, state) => {
    const { rows, target, masks } = readBatch(lowered, batch);
    const loss = (...weights: tf.Tensor[]) => {
      const all = [...weights, ...state.slice(weights.length)];
      const named = new Map([...parameters, ...statistics].map(({ name }, i) => [name, all[i] as tf.Tensor]));
      const { values } = lowered.forward(rows, named, { training: true, ...masksByNode(lowered, masks) });
      return classLoss('ce', values.get(lowered.logits) as tf.Tensor2D, target as tf.Tensor1D);
    };
    const { value, grads } = tf.valueAndGrads(loss)(state.slice(0, parameters.length));
    return { outputs: [value, ...grads], state: state.map((tensor) => tf.clone(tensor)) };
  };
  const stepper = makeStepper(
    run,
    [...parameters, ...statistics].map(({ dims, value }) => ({ dims, data: value })),
  );
  const results = await stepper.run(step.feed(randomBatch(lowered, count), 0, 0));
  await stepper.release();
  return results.map(({ data }) => Float32Array.from(data as Float32Array));
}

const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

/** Network, channels and side of the images, images in the batch. */
type Row = [network: string, channels: number, side: number, count: number];

describe('gradients on onnxruntime are those of tfjs on its cpu backend', () => {
  // tfjs' own gradient of filters takes minutes for these.
  const slow: readonly Row[] = [
    ['vgg11', 3, 32, 1],
    ['vgg16', 3, 32, 1],
    ['resnet18', 3, 32, 1],
    ['mobilenetv1', 3, 32, 2],
  ];
  it.each<Row>([
    ['mlp', 1, 28, 8],
    ['lenet', 1, 28, 8],
    ['cryptonets', 1, 28, 8],
    ['alexnet', 3, 16, 4],
    ['resnet32', 3, 16, 2],
    ...(process.env.SISYPHUS_SLOW ? slow : []),
  ])('%s, %i x %i pixels, batch of %i', { timeout: 1_800_000 }, async (network, channels, side, count) => {
    const { architecture } = NETWORKS.get(network) as Network;
    const model = assemble(network, architecture, { channels, side, classes: 10 }, makeRng(5));
    const lowered = await lower(model, network);
    const native = await gradients(lowered, count, 'onnxruntime');
    const oracle = await gradients(lowered, count, 'cpu');
    const names = ['loss', ...lowered.parameters.map(({ name }) => name)];
    expect(native.length).toBe(names.length);
    // Some are 0 but for rounding (a bias before a normalisation), so those are held to the rounding of the largest.
    const largest = Math.max(...oracle.map(norm));
    for (const [i, found] of native.entries()) {
      const wanted = oracle[i] as Float32Array;
      const difference = norm(found.map((value, k) => value - (wanted[k] as number)));
      expect(difference / Math.max(norm(wanted), 1e-3 * largest), names[i] as string).toBeLessThan(1e-4);
    }
  });
});

describe('memory', () => {
  it('does not grow over 1,000 steps', { timeout: 120_000 }, async () => {
    await useBackend({ backend: 'onnxruntime', threads: 2 });
    const lowered = await lower(buildNetwork('lenet', 'mnist', 5), 'lenet');
    const step = stepOf(lowered);
    const stepper = makeStepper(step.run, step.state);
    const batch = randomBatch(lowered, 16);
    const run = async (from: number, to: number) => {
      for (let i = from; i < to; i++) await stepper.run(step.feed(batch, 0.01, i));
      globalThis.gc?.();
      return { tensors: tf.memory().numTensors, rss: process.memoryUsage().rss / 2 ** 20 };
    };
    await run(0, 300);
    const before = await run(300, 500);
    const after = await run(500, 1500);
    await stepper.release();
    expect(after.tensors).toBe(before.tensors);
    expect(after.rss - before.rss).toBeLessThan(30); // MiB; feeds alone, if they were kept, would be 50
  });
});
