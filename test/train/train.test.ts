/** `sisyphus train` from the outside: runs, what they write, and that interruptions leave no trace. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { evaluate } from '../../src/eval/accuracy.ts';
import { buildModel } from '../../src/graph/build.ts';
import { readModel } from '../../src/graph/read.ts';
import { rawBytes } from '../../src/graph/tensor.ts';
import { makeNetwork } from '../../src/new.ts';
import { makeRng } from '../../src/rng.ts';
import { readSafetensors } from '../../src/train/safetensors.ts';
import { type TrainOptions, train } from '../../src/train/train.ts';
import { saveModel, testFolder } from '../support/arrays.ts';
import { sisyphus } from '../support/cli.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
const LENET = saveModel(folder, 'lenet', makeNetwork('lenet', 'synthetic', 1));

const SMALL: TrainOptions = {
  data: 'synthetic',
  epochs: 3,
  limit: 640,
  batch: 50, // the last one of an epoch is smaller
  augment: 'crop',
  backend: 'onnxruntime',
  threads: 2,
};
let runs = 0;
const newRun = () => path.join(folder, `run ${++runs}`);

/** All weights as bytes, by name. */
const weights = (file: string) =>
  new Map(readModel(file).graph.initializers.map(({ value, tensor }) => [value.name, Buffer.from(rawBytes(tensor))]));

/** The metrics without times. */
const metrics = (run: string) =>
  readFileSync(path.join(run, 'metrics.ndjson'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => ({ ...(JSON.parse(line) as Record<string, unknown>), seconds: null }));

const expectSameRun = (found: string, wanted: string) => {
  expect(metrics(found)).toEqual(metrics(wanted));
  for (const name of ['last.onnx', 'best.onnx'])
    expect(weights(path.join(found, name))).toEqual(weights(path.join(wanted, name)));
};

describe('train', () => {
  it('learns; what it measured is what eval says of the file', async () => {
    const run = newRun();
    const output = path.join(folder, 'trained.onnx');
    const report = await train(LENET, { ...SMALL, limit: 8000, epochs: 3, augment: 'none', run, output });
    expect(report.epochs.map(({ epoch }) => epoch)).toEqual([1, 2, 3]);
    const [first, last] = [report.epochs[0], report.epochs[2]];
    expect(last?.loss).toBeLessThan((first?.loss ?? 0) / 2);
    expect(report.bestTestAccuracy).toBeGreaterThan(0.9);
    const { models } = await evaluate([output, report.best], { data: 'synthetic' }); // normalisation is recorded in it
    expect(models.map(({ top1 }) => top1)).toEqual([report.bestTestAccuracy, report.bestTestAccuracy]);
    expect(models[0]?.preprocessing.source).toBe('model');
    expect(metrics(run)).toHaveLength(3);
  });

  it('is the same again with the same seed, and another run with another', async () => {
    const [a, b, c] = [newRun(), newRun(), newRun()];
    await train(LENET, { ...SMALL, epochs: 2, run: a });
    await train(LENET, { ...SMALL, epochs: 2, run: b, workers: 2 });
    await train(LENET, { ...SMALL, epochs: 2, run: c, seed: 1 });
    expectSameRun(a, b);
    expect(metrics(c)).not.toEqual(metrics(a));
  });

  it('goes on after an interruption as if there had been none', async () => {
    const [whole, cut] = [newRun(), newRun()];
    await train(LENET, { ...SMALL, run: whole });
    for (const looks of [1, 15, 9]) {
      const controller = new AbortController();
      let seen = 0;
      const onProgress: TrainOptions['onProgress'] = ({ task }) => {
        if (task.startsWith('epoch') && ++seen === looks) controller.abort();
      };
      const options = looks === 1 ? { ...SMALL, run: cut } : { run: cut, resume: true, threads: 2 };
      const stopped = train(LENET, { ...options, signal: controller.signal, onProgress });
      await expect(stopped).rejects.toMatchObject({ code: 'aborted' });
      await expect(stopped).rejects.toThrow(/interrupted after step \d+ of epoch \d; --resume/);
    }
    const report = await train(LENET, { run: cut, resume: true, threads: 2 });
    expectSameRun(cut, whole);
    expect(report.settings.limit).toBe(640); // from the run's configuration
    expect((await train(LENET, { run: cut, resume: true, threads: 2 })).epochs).toEqual([]); // there is nothing left to do
    await expect(train(LENET, { run: cut, resume: true, lr: 0.2 })).rejects.toThrow('lr 0.1, not 0.2');
    await expect(train(LENET, { ...SMALL, run: cut })).rejects.toThrow('holds a run already');
  });

  it('was killed at any moment: resumed, its weights are bit-equal', { timeout: 240_000 }, async () => {
    const [whole, killed] = [newRun(), newRun()];
    await train(LENET, { ...SMALL, run: whole });
    const flags = ['--run', killed, '--threads', '2', '--checkpoint-every', '0.01', '-q'];
    const start = [LENET, '--data', 'synthetic', '--epochs', '3', '--limit', '640', '--batch', '50'];
    const command = [...start, '--augment', 'crop', '--backend', 'onnxruntime', ...flags];
    const rng = makeRng(7);
    const reached: number[] = [];
    for (let kill = 0; kill < 4; kill++) {
      const args = kill === 0 ? command : [LENET, '--resume', ...flags];
      const child = spawnTrain(args);
      // Not before it has begun; then at random, in the midst of steps, tests and writing.
      while (child.exitCode === null && !existsSync(path.join(killed, 'checkpoint.safetensors'))) await setTimeout(5);
      await setTimeout(kill === 0 ? 30 : 1500 + 900 * rng.uniform());
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      const saved = await readSafetensors(path.join(killed, 'checkpoint.safetensors'));
      const { epoch, step } = JSON.parse(saved.metadata.progress as string) as { epoch: number; step: number };
      reached.push(epoch * 13 + step);
    }
    expect(reached[0]).toBeLessThan(3 * 13); // it was killed before its end
    await train(LENET, { run: killed, resume: true, threads: 2 });
    expectSameRun(killed, whole);
  });

  it('stops where the loss is no number, and names the layer', async () => {
    const run = newRun();
    const square = buildModel({ name: 'square', opset: 17 });
    const x = square.input('x', 'float', ['N', 1, 28, 28]);
    const flat = square.node('Flatten', [x], { axis: 1 }, 'flatten');
    const weight = square.constant('weight', 'float', [10, 784], new Float64Array(7840).fill(1e20));
    const wide = square.node('Gemm', [flat, weight], { transB: 1 }, 'wide');
    square.output(square.node('Mul', [wide, wide], {}, 'squared'), 'y', 'float', ['N', 10]);
    const file = saveModel(folder, 'square', square.model);
    const failure = train(file, { ...SMALL, augment: 'none', run });
    await expect(failure).rejects.toMatchObject({ code: 'gate' });
    await expect(failure).rejects.toThrow(/diverged in step 1 of epoch 1: .*'squared'.* first that is not finite/);
    expect(weights(path.join(run, 'last.onnx'))).toEqual(weights(file));
  });

  it('gives the losses of the tfjs cpu backend over the first 20 steps of LeNet', { timeout: 240_000 }, async () => {
    const losses = async (backend: 'onnxruntime' | 'cpu') => {
      // Steps of 8 images of one epoch each: the loss of an epoch is that of a step.
      const options = { ...SMALL, limit: 8, batch: 8, epochs: 20, schedule: 'constant', lr: 0.05, run: newRun() };
      return (await train(LENET, { ...options, augment: 'crop', backend })).epochs.map(({ loss }) => loss);
    };
    const [native, portable] = [await losses('onnxruntime'), await losses('cpu')];
    expect(native).toHaveLength(20);
    for (const [i, loss] of native.entries()) expect(Math.abs(loss - (portable[i] as number))).toBeLessThan(1e-4);
  });
});

function spawnTrain(args: readonly string[]): ChildProcess {
  const main = path.join(REPOSITORY, 'src/cli/main.ts');
  return spawn(process.execPath, ['--import', 'tsx', main, 'train', ...args], { cwd: REPOSITORY, stdio: 'ignore' });
}

describe('sisyphus train', () => {
  it('prints an epoch a line, and JSON', async () => {
    const file = path.join(folder, 'cli.onnx');
    copyFileSync(LENET, file);
    const flags = ['--data', 'synthetic', '--epochs', '1', '--limit', '200', '--backend', 'onnxruntime'];
    const { code, out } = await sisyphus(['train', file, ...flags]);
    expect(out).toContain('onnxruntime on cpu: as asked');
    expect(out).toMatch(/epoch 1: loss \d\.\d{4}, train \d+\.\d\d %, test \d+\.\d\d % \(lr 0\.100, /);
    expect(code).toBe(0);
    const again = await sisyphus(['train', file, ...flags]);
    expect(again.code).toBe(1);
    expect(again.err).toContain('--resume to go on');
    const json = await sisyphus(['train', file, ...flags, '--force', '--json']);
    expect(JSON.parse(json.out)).toMatchObject({ bestEpoch: 1, settings: { lr: 0.1, limit: 200 } });
    expect(existsSync(path.join(folder, 'cli.train', 'best.onnx'))).toBe(true);
  });

  it.each([
    [['--epochs', '0'], 2, '--epochs'],
    [['--momentum', '1'], 2, '--momentum'],
    [['--backend', 'onxruntime'], 2, "did you mean 'onnxruntime'"],
    [['--optimizer', 'lion'], 2, '--optimizer'],
    [['--schedule', 'linear'], 2, '--schedule'],
    [['--augment', 'croq'], 2, "did you mean 'crop'"],
    [['--backend', 'tensorflow'], 1, 'npm install @tensorflow/tfjs-node'],
    [['--device', 'cuda'], 1, 'npm run setup:cuda'],
    [['--device', 'gpu'], 2, '--device'],
    [['--data', 'npz:/nowhere.npz'], 1, '/nowhere.npz'],
  ])('refuses %j', async (flags, code, message) => {
    const result = await sisyphus(['train', LENET, '--data', 'synthetic', '--run', newRun(), ...flags]);
    expect(result.err).toContain(message);
    expect(result.code).toBe(code);
    expect(result.err).not.toContain('this is a bug');
  });
});
