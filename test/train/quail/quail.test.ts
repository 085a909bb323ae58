/** `sisyphus quail` from the outside: what comes of it, that interruptions leave no trace, and how it ends in trouble. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { evaluate } from '../../../src/eval/accuracy.ts';
import { compare } from '../../../src/eval/compare.ts';
import { probe } from '../../../src/eval/probe.ts';
import { buildModel } from '../../../src/graph/build.ts';
import { readModel } from '../../../src/graph/read.ts';
import { rawBytes } from '../../../src/graph/tensor.ts';
import { inspect } from '../../../src/inspect.ts';
import { rewrite } from '../../../src/rewrite.ts';
import { makeRng } from '../../../src/rng.ts';
import { type QuailOptions, quail } from '../../../src/train/quail/quail.ts';
import { readSafetensors } from '../../../src/train/safetensors.ts';
import { saveModel, testFolder } from '../../support/arrays.ts';
import { sisyphus } from '../../support/cli.ts';
import { REPOSITORY } from '../../support/shared.ts';

const folder = testFolder();
const LENET = path.join(REPOSITORY, 'models/lenet.onnx');
const SMALL: QuailOptions = {
  data: 'synthetic',
  epochs: 1,
  limit: 640,
  batch: 50, // the last one of an epoch is smaller
  testImages: 200,
  backend: 'onnxruntime',
  threads: 2,
};
let runs = 0;
const place = () => {
  const run = path.join(folder, `run ${++runs}`);
  return { run, output: `${run}.onnx` };
};

const weights = (file: string) =>
  new Map(readModel(file).graph.initializers.map(({ value, tensor }) => [value.name, Buffer.from(rawBytes(tensor))]));
const metrics = (run: string) =>
  readFileSync(path.join(run, 'metrics.ndjson'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => ({ ...(JSON.parse(line) as Record<string, unknown>), seconds: null }));
const expectSameRun = (found: string, wanted: string) => {
  expect(metrics(found)).toEqual(metrics(wanted));
  for (const name of ['stage1.onnx', 'final.onnx'])
    expect(weights(path.join(found, name))).toEqual(weights(path.join(wanted, name)));
};

describe('quail', () => {
  it('replaces all activations at little cost in accuracy, and everything else takes the result', {
    timeout: 240_000,
  }, async () => {
    const { run, output } = place();
    // So few steps need a start near the activation, and a fine-tuning that does not undo it.
    const short = { limit: 6000, batch: 128, init: 'fit', finetuneLr: 0.005 } as const;
    const report = await quail(LENET, { ...SMALL, ...short, run, output, probe: 200 });
    expect(report.stages.map(({ phase, stage }) => `${phase} ${stage}`)).toEqual([
      ...[1, 2, 3, 4, 5].map((stage) => `imitation ${stage}`),
      ...[5, 4, 3, 2, 1].map((stage) => `finetuning ${stage}`),
    ]);
    expect(report.stopped).toBeNull();
    expect(report.nonFinite).toBe(0);
    expect(report.testAccuracy).toBeGreaterThan(report.teacherAccuracy - 0.03);
    for (const { start, loss } of report.stages.slice(0, 4)) expect(loss).toBeLessThan(start ?? 0);
    const { models } = await evaluate([output, report.stage1 ?? ''], { data: 'synthetic' });
    expect(models[0]?.top1).toBe(report.testAccuracy);
    expect(models[1]?.top1).toBeGreaterThan(0.9);
    expect(inspect([output]).models[0]).toMatchObject({ sites: [] });
    expect(readModel(output).graph.nodes.some(({ op }) => op === 'Relu')).toBe(false);
    expect(report.probe?.models).toHaveLength(2);
    expect((await probe([output], { data: 'synthetic', limit: 100 })).models[0]?.sites).toHaveLength(4);
    expect((await compare(LENET, output, { data: 'synthetic', limit: 100 })).images).toBe(100);
    const again = await rewrite(output, { passes: ['fold-batchnorm'], output: `${run}.folded.onnx`, check: 2 });
    expect(again.check).toMatchObject({ passed: true });
    // Nothing of the work is left in the run folder.
    expect(readdirSync(run).filter((name) => name.startsWith('values-'))).toEqual([]);
  });

  it('with min-max normalisation: one training, two forms', { timeout: 240_000 }, async () => {
    const { run, output } = place();
    const report = await quail(LENET, { ...SMALL, limit: 3000, amm: true, run, output });
    const ops = (file: string) => new Set(readModel(file).graph.nodes.map(({ op, domain }) => `${domain}${op}`));
    expect([...ops(output)].filter((op) => op.startsWith('Reduce') || op.includes('sisyphus'))).toEqual([]);
    expect(ops(report.mm?.file ?? '')).toContain('ReduceMin');
    const { models } = await evaluate([output, report.mm?.file ?? ''], { data: 'synthetic' });
    expect(models.map(({ top1 }) => top1)).toEqual([report.testAccuracy, report.mm?.testAccuracy]);
    // --mm trains the same and hands the other form out.
    const other = place();
    const mm = await quail(LENET, { ...SMALL, limit: 3000, mm: true, ...other });
    expect(mm.testAccuracy).toBe(report.mm?.testAccuracy);
    expect(weights(path.join(other.run, 'final.onnx'))).toEqual(weights(path.join(run, 'final.onnx')));
  });

  it('takes values from memory, from disk, or computes them anew', { timeout: 240_000 }, async () => {
    const caches = [{ cacheMemory: 1 }, { cacheMemory: 0, cacheDisk: 1 }, { cacheMemory: 0, cacheDisk: 0 }];
    const reports = [];
    for (const cache of caches) reports.push(await quail(LENET, { ...SMALL, ...cache, ...place() }));
    expect(reports.map(({ stages }) => stages[1]?.values)).toEqual(['memory', 'disk', 'computed']);
    const [memory, disk, computed] = reports;
    expect(weights(disk?.output ?? '')).toEqual(weights(memory?.output ?? ''));
    // Another order of rows, the same learning.
    for (const [i, { loss }] of (computed?.stages ?? []).entries())
      expect(loss).toBeLessThan(3 * (memory?.stages[i]?.loss ?? 0) + 0.05);
  });

  it('goes on after interruptions as if there had been none', { timeout: 240_000 }, async () => {
    const [whole, cut] = [place(), place()];
    await quail(LENET, { ...SMALL, amm: true, ...whole });
    for (const looks of [3, 20, 45]) {
      const controller = new AbortController();
      let seen = 0;
      const onProgress: QuailOptions['onProgress'] = ({ task }) => {
        if (/^(imitation|finetuning)/.test(task) && ++seen === looks) controller.abort();
      };
      const options =
        looks === 3 ? { ...SMALL, amm: true, ...cut } : { ...cut, resume: true, threads: 2, testImages: 200 };
      await expect(quail(LENET, { ...options, signal: controller.signal, onProgress })).rejects.toMatchObject({
        code: 'aborted',
      });
    }
    await quail(LENET, { ...cut, resume: true, threads: 2, testImages: 200 });
    expectSameRun(cut.run, whole.run);
    await expect(quail(LENET, { ...cut, resume: true, lr: 0.2 })).rejects.toThrow('lr 0.1, not 0.2');
    await expect(quail(LENET, { ...SMALL, run: cut.run, output: `${cut.run}.other.onnx` })).rejects.toThrow(
      'holds a run already',
    );
  });

  it('was killed at any moment: resumed, its weights are bit-equal', { timeout: 240_000 }, async () => {
    const [whole, killed] = [place(), place()];
    await quail(LENET, { ...SMALL, ...whole });
    const flags = ['--run', killed.run, '-o', killed.output, '--threads', '2', '--test-images', '200'];
    const rest = ['--checkpoint-every', '0.01', '-q'];
    const start = [LENET, '--data', 'synthetic', '--epochs', '1', '--limit', '640', '--batch', '50'];
    const rng = makeRng(11);
    for (let kill = 0; kill < 4; kill++) {
      const args =
        kill === 0 ? [...start, '--backend', 'onnxruntime', ...flags, ...rest] : [LENET, '--resume', ...flags, ...rest];
      const child = spawnQuail(args);
      while (child.exitCode === null && !existsSync(path.join(killed.run, 'checkpoint.safetensors')))
        await setTimeout(5);
      await setTimeout(1200 + 1500 * rng.uniform());
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    }
    const saved = await readSafetensors(path.join(killed.run, 'checkpoint.safetensors'));
    expect((JSON.parse(saved.metadata.progress as string) as { phase: string }).phase).not.toBe('done');
    await quail(LENET, { ...killed, resume: true, threads: 2, testImages: 200 });
    expectSameRun(killed.run, whole.run);
  });

  it('a stage that diverges starts again at a smaller rate', async () => {
    const report = await quail(LENET, { ...SMALL, ...place(), stage: ['logits=lr=300'], finetuneEpochs: 0 });
    const last = report.stages.find(({ phase, name }) => phase === 'imitation' && name === 'logits');
    expect(last?.backoffs).toBeGreaterThan(0);
    expect(last?.lr).toBeLessThan(300);
    expect(last?.loss).toBeLessThan(last?.start ?? 0);
    expect(report.stopped).toBeNull();
  });

  it('ends with exit code 3 and what was reached where nothing helps, naming stage and channel', {
    timeout: 240_000,
  }, async () => {
    const { run, output } = place();
    const file = saveModel(folder, 'explodes', explosive());
    const args = [
      'quail',
      file,
      '--data',
      'synthetic',
      '--epochs',
      '1',
      '--limit',
      '200',
      '--init',
      'teacher',
      '--backoff',
      '0',
    ];
    const { code, err, out } = await sisyphus([...args, '--run', run, '-o', output, '--json']);
    expect(code).toBe(3);
    expect(err).toMatch(/stage 'second'.*(diverged|before the first step)/);
    const report = JSON.parse(out) as { stopped: { name: string; reason: string }; nonFinite: number };
    expect(report.stopped.name).toBe('second');
    expect(report.nonFinite).toBe(0);
    const ops = readModel(output).graph.nodes.map(({ op }) => op);
    expect(ops.filter((op) => op === 'Relu')).toHaveLength(1); // the second one is the teacher's still
    expect(existsSync(path.join(run, 'report.html'))).toBe(true);
  });

  it('refuses what can not be, before anything is trained', async () => {
    const bad = async (options: Partial<QuailOptions>) => quail(LENET, { ...SMALL, ...place(), ...options });
    await expect(bad({ stage: ['nothing=lr=1'] })).rejects.toThrow('no stage has such a name');
    await expect(bad({ stage: ['relu1=speed=1'] })).rejects.toThrow('has no pattern and settings');
    await expect(bad({ init: 'best' })).rejects.toThrow('--init');
    await expect(bad({ only: ['nothing'] })).rejects.toMatchObject({ code: 'spec' });
    await expect(bad({ amm: true, insertBatchnorm: true })).rejects.toThrow('--insert-batchnorm');
    await expect(bad({ lr: -1 })).rejects.toThrow('--lr');
    await expect(bad({ stopWhen: 2 })).rejects.toThrow('--stop-when');
    await expect(bad({ data: 'mnist:/nowhere' })).rejects.toMatchObject({ code: 'file' });
  });
});

/** Two layers of which the second one's squares overflow, whatever the rate. */
function explosive() {
  const b = buildModel({ name: 'explosive', opset: 17 });
  const x = b.node('Flatten', [b.input('x', 'float', ['N', 1, 28, 28])], { axis: 1 }, 'flatten');
  const rng = makeRng(1);
  const dense = (from: typeof x, inputs: number, outputs: number, size: number, name: string) =>
    b.node(
      'Gemm',
      [
        from,
        b.constant(
          `${name}.w`,
          'float',
          [outputs, inputs],
          Float64Array.from({ length: inputs * outputs }, () => size * rng.normal()),
        ),
      ],
      { transB: 1 },
      name,
    );
  const first = b.node('Relu', [dense(x, 784, 16, 0.01, 'a')], {}, 'first');
  const second = b.node('Relu', [dense(first, 16, 16, 1e25, 'b')], {}, 'second');
  b.output(dense(second, 16, 10, 1e-25, 'c'), 'y', 'float', ['N', 10]);
  return b.model;
}

function spawnQuail(args: readonly string[]): ChildProcess {
  const main = path.join(REPOSITORY, 'src/cli/main.ts');
  return spawn(process.execPath, ['--import', 'tsx', main, 'quail', ...args], { stdio: 'ignore', cwd: REPOSITORY });
}
