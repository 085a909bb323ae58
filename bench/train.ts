/**
 * What a training step costs beside three forward passes of onnxruntime (the least that forward, gradients of the inputs
 * and gradients of the weights could cost), and beside PyTorch where `python3 -c 'import torch'` works: `npm run
 * bench:train [NETWORK …]`. Everything is measured side by side in one run, the contenders taking turns; figures are
 * medians. Random images, batch 128, two threads.
 */
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { buildNetwork } from '../models/index.ts';
import { openSession } from '../src/eval/session.ts';
import { elementCount } from '../src/graph/tensor.ts';
import { serialize, writeModel } from '../src/graph/write.ts';
import { makeRng } from '../src/rng.ts';
import { useBackend } from '../src/train/choose-backend.ts';
import { classification } from '../src/train/losses.ts';
import { lower } from '../src/train/lower.ts';
import { makeOptimizer } from '../src/train/optimizers.ts';
import { makeStepper } from '../src/train/step.ts';
import { train } from '../src/train/train.ts';
import { type FedBatch, labelled, trainingStep } from '../src/train/training-step.ts';

const THREADS = 2;
const BATCH = 128;
const ROUNDS = 5;

/** What was promised: a training step against three forward passes. */
const CASES: Readonly<Record<string, number>> = { resnet18: 1.6, vgg11: 1.6, alexnet: 2, mobilenetv1: 2 };

const SGD = { optimizer: 'sgd', momentum: 0.5, nesterov: true, weightDecay: 5e-4 } as const;

function randomBatch(shape: readonly number[], count: number): FedBatch {
  const rng = makeRng(1);
  const x = new Float32Array(count * elementCount(shape));
  for (let i = 0; i < x.length; i++) x[i] = rng.normal();
  return labelled({ count, x, labels: Int32Array.from({ length: count }, () => rng.int(10)) });
}

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] as number;
};

async function timed(run: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await run();
  return performance.now() - start;
}

/** @returns milliseconds of PyTorch's training step and forward pass; null where there is no PyTorch */
function torch(network: string): readonly [number, number] | null {
  const script = path.join(import.meta.dirname, 'torch_step.py');
  for (const python of ['python3', '/usr/bin/python3']) {
    const run = spawnSync(python, [script, network, `${BATCH}`, `${ROUNDS}`, `${THREADS}`], { encoding: 'utf8' });
    const [step, forward] = run.status === 0 ? run.stdout.trim().split(' ').map(Number) : [];
    if (step && forward) return [step, forward];
  }
  return null;
}

async function measureStep(network: string, promised: number): Promise<void> {
  const model = buildNetwork(network, 'cifar10', 1);
  const lowered = await lower(model, network);
  const step = trainingStep(lowered, {
    objective: classification('ce'),
    optimizer: makeOptimizer(SGD),
    clipNorm: null,
    seed: 1,
  });
  const [input] = lowered.inputs;
  const { name = '', shape = [] } = input ?? {};
  const batch = randomBatch(shape, BATCH);
  const session = await openSession(serialize(model, { inline: true }), { threads: THREADS });
  const feeds = new Map([
    [name, { elem: 'float', dims: [BATCH, ...shape], data: batch.rows[0] as Float32Array } as const],
  ]);
  const stepper = makeStepper(step.run, step.state);
  const fed = step.feed(batch, 0.01, 0);
  await session.run(feeds);
  const tracing = await timed(() => stepper.run(fed));
  const [forwards, steps]: [number[], number[]] = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < 3; i++) forwards.push(await timed(() => session.run(feeds)));
    steps.push(await timed(() => stepper.run(fed)));
  }
  await session.release();
  await stepper.release();
  const [forward, trained, python] = [median(forwards), median(steps), torch(network)];
  const ratio = trained / (3 * forward);
  console.log(
    [
      network.padEnd(12),
      `step ${trained.toFixed(0).padStart(5)} ms`,
      `forward ${forward.toFixed(0).padStart(4)} ms`,
      `step / 3 forwards ${ratio.toFixed(2)} (promised ${promised})${ratio <= promised ? '' : ' MISSED'}`,
      `first step ${(tracing / 1000).toFixed(1)} s`,
      python
        ? `PyTorch step ${python[0].toFixed(0)} ms, forward ${python[1].toFixed(0)} ms: ratio of the steps ${(trained / python[0]).toFixed(2)}`
        : 'no PyTorch',
    ].join('  '),
  );
}

/** A whole epoch of LeNet with its batches made by a worker, against its steps alone. */
async function measureEpoch(): Promise<void> {
  const model = buildNetwork('lenet', 'synthetic', 1);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-bench-'));
  const file = path.join(folder, 'lenet.onnx');
  await writeModel(model, file);
  const lowered = await lower(model, file);
  const step = trainingStep(lowered, {
    objective: classification('ce'),
    optimizer: makeOptimizer(SGD),
    clipNorm: null,
    seed: 1,
  });
  const stepper = makeStepper(step.run, step.state);
  const fed = step.feed(randomBatch(lowered.inputs[0]?.shape ?? [], BATCH), 0.01, 0);
  const steps: number[] = [];
  for (let i = 0; i < 200; i++) steps.push(await timed(() => stepper.run(fed)));
  await stepper.release();
  const { epochs } = await train(file, {
    data: 'synthetic',
    epochs: 4,
    augment: 'crop',
    backend: 'onnxruntime',
    threads: THREADS,
    run: path.join(folder, 'run'),
  });
  await rm(folder, { recursive: true });
  const count = Math.ceil(20_000 / BATCH);
  const [alone, epoch] = [median(steps) * count, 1000 * median(epochs.map(({ seconds }) => seconds))];
  const python = torch('lenet');
  console.log(
    `lenet, synthetic: epoch ${epoch.toFixed(0)} ms, ${count} steps alone ${alone.toFixed(0)} ms: ratio ${(epoch / alone).toFixed(2)} (promised 1.5)${epoch <= 1.5 * alone ? '' : ' MISSED'}${python ? `; PyTorch ${count} steps ${(python[0] * count).toFixed(0)} ms` : ''}`,
  );
}

await useBackend({ backend: 'onnxruntime', threads: THREADS });
console.log(`${os.cpus()[0]?.model}, ${os.cpus().length} cores, load ${os.loadavg()[0]?.toFixed(1)}`);
const wanted = process.argv.slice(2);
for (const [network, promised] of Object.entries(CASES))
  if (wanted.length === 0 || wanted.includes(network)) await measureStep(network, promised);
if (wanted.length === 0 || wanted.includes('lenet')) await measureEpoch();
