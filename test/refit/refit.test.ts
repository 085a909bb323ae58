/** `sisyphus refit` and `polynomialize` from the outside: what they reach, and that interruptions leave no trace. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { buildModel } from '../../src/graph/build.ts';
import { readModel } from '../../src/graph/read.ts';
import { writeModel } from '../../src/graph/write.ts';
import { summarize } from '../../src/inspect.ts';
import { channelRangesOf, rangesOf } from '../../src/passes/ranges.ts';
import { polynomialize } from '../../src/polynomialize.ts';
import { type RefitOptions, refit } from '../../src/refit/refit.ts';
import { verify } from '../../src/refit/verify.ts';
import { makeRng } from '../../src/rng.ts';
import { testFolder } from '../support/arrays.ts';
import { sisyphus } from '../support/cli.ts';
import { failure } from '../support/datasets.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
const LENET = path.join(REPOSITORY, 'models/lenet.onnx');
const SMALL: RefitOptions = { data: 'synthetic', images: 100, threads: 2 };
let runs = 0;
const place = () => path.join(folder, `refit ${++runs}.onnx`);
const test = async (output: string, data = 'synthetic') => {
  const [found] = await verify(readModel(LENET), readModel(output), output, { data, split: 'test', limit: 1000 });
  if (!found) throw new Error('nothing was measured');
  return found;
};

describe('refit', () => {
  it('keeps the accuracy of the sample model, where one polynomial loses a quarter of it', {
    timeout: 60_000,
  }, async () => {
    for (const [degree, least] of [
      [4, 0.97],
      [2, 0.92],
    ] as const) {
      const output = place();
      const report = await refit(LENET, { ...SMALL, images: 500, poly: [`deg=${degree}`], output });
      const { accuracy, teacherAccuracy, nonFinite } = await test(output);
      expect(teacherAccuracy).toBeGreaterThan(0.99);
      expect(accuracy).toBeGreaterThan(least);
      expect(nonFinite).toBe(0);
      const model = readModel(output);
      expect(summarize(model).nonPolynomial).toBe(0);
      const fits = report.layers.filter((layer) => layer.kind === 'activation');
      expect([...rangesOf(model).keys()]).toEqual(fits.map(({ name }) => name));
      expect(
        fits.map(({ name, coefficients }) => channelRangesOf(model).get(name)?.length === coefficients.length),
      ).not.toContain(false);
      for (const layer of report.layers)
        if (layer.kind === 'linear') expect(layer.after).toBeLessThanOrEqual(layer.before);
      expect(existsSync(`${output}.part`)).toBe(false);
    }
  });

  it.each(['none', 'affine', 'mix'] as const)('with --linear %s it works too', { timeout: 60_000 }, async (linear) => {
    const output = place();
    const { layers } = await refit(LENET, { ...SMALL, linear, output, perChannel: linear !== 'none' });
    expect(layers.some(({ kind }) => kind === 'linear')).toBe(linear !== 'none');
    for (const layer of layers)
      if (layer.kind === 'linear') expect(layer.after).toBeLessThanOrEqual(layer.before + 1e-6);
      else expect(layer.coefficients.length > 1).toBe(linear !== 'none');
    expect((await test(output)).accuracy).toBeGreaterThan(linear === 'none' ? 0.8 : 0.9);
  });

  it('was killed or interrupted at any moment: resumed, its file is that of an uninterrupted run', {
    timeout: 120_000,
  }, async () => {
    const [whole, again, cut, killed] = [place(), place(), place(), place()];
    await refit(LENET, { ...SMALL, output: whole });
    await refit(LENET, { ...SMALL, output: again });
    expect(readFileSync(again)).toEqual(readFileSync(whole));
    for (const [steps, resume] of [
      [2, false],
      [3, true],
    ] as const) {
      const controller = new AbortController();
      let seen = 0;
      const onFit = () => {
        if (++seen === steps) controller.abort();
      };
      const options = { ...SMALL, output: cut, resume, signal: controller.signal, onFit };
      expect(await failure(() => refit(LENET, options))).toMatch(/^aborted: .*--resume/);
    }
    const fits: number[] = [];
    await refit(LENET, { ...SMALL, output: cut, resume: true, onFit: (_, index) => void fits.push(index) });
    expect(fits[0]).toBe(5);
    expect(readFileSync(cut)).toEqual(readFileSync(whole));

    const args = [
      'refit',
      LENET,
      '--data',
      'synthetic',
      '--images',
      '100',
      '--threads',
      '2',
      '--checkpoint-every',
      '0',
      '-o',
      killed,
    ];
    for (const part of [1, 2]) {
      const child: ChildProcess = spawn(
        process.execPath,
        ['--import', 'tsx', 'src/cli/main.ts', ...args, ...(part > 1 ? ['--resume'] : [])],
        { cwd: REPOSITORY, stdio: 'ignore' },
      );
      const ended = once(child, 'exit');
      const before = existsSync(`${killed}.part`) ? statSync(`${killed}.part`).mtimeMs : 0;
      const news = () => existsSync(`${killed}.part`) && statSync(`${killed}.part`).mtimeMs > before;
      while (child.exitCode === null && !news()) await setTimeout(10);
      child.kill('SIGKILL');
      await ended;
    }
    await refit(LENET, { ...SMALL, output: killed, resume: true, force: true });
    expect(readFileSync(killed)).toEqual(readFileSync(whole));
    expect(await failure(() => refit(LENET, { ...SMALL, output: whole }))).toMatch(/^file: .*--force/);
  });

  it('goes on only with its own part of a run', async () => {
    const output = place();
    const controller = new AbortController();
    const onFit = () => controller.abort();
    await expect(refit(LENET, { ...SMALL, output, signal: controller.signal, onFit })).rejects.toMatchObject({
      code: 'aborted',
    });
    const other = () => refit(LENET, { ...SMALL, output, resume: true, poly: ['deg=2'] });
    expect(await failure(other)).toMatch(/^usage: .*of another run/);
  });

  it('fits sums of layers together, through shortcuts, pools, groups and dense layers', {
    timeout: 60_000,
  }, async () => {
    const file = path.join(folder, 'branches.onnx');
    await writeModel(branches(), file, {});
    const notes: string[] = [];
    const output = place();
    const { layers, kept } = await refit(file, {
      ...SMALL,
      activations: ['relu', 'sigmoid'],
      skip: ['kept'],
      onNote: (note) => void notes.push(note),
      output,
    });
    expect(kept).toEqual([{ site: 'kept', reason: '--skip kept' }]);
    expect(layers.map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      'activation first',
      'linear main + shortcut',
      'activation second',
      'linear depthwise',
      'linear product',
      'activation gate',
      'linear last',
    ]);
    for (const layer of layers) if (layer.kind === 'linear') expect(layer.after).toBeLessThanOrEqual(layer.before);
    const [found] = await verify(readModel(file), readModel(output), file, { data: 'synthetic', limit: 300 });
    expect(found?.agreement).toBeGreaterThan(0.9);
  });

  it('chooses degrees within a depth, and the least depth for an accuracy', { timeout: 120_000 }, async () => {
    const [within, least] = [place(), place()];
    const report = await refit(LENET, { ...SMALL, autoDegree: 'depth=17', output: within });
    const degrees = report.layers.flatMap((layer) => (layer.kind === 'activation' ? [layer.degree] : []));
    expect(degrees.filter((degree) => degree === 2).length).toBeGreaterThan(0);
    expect(Math.max(...degrees)).toBeGreaterThan(2);
    expect(summarize(readModel(within)).depth).toBeLessThanOrEqual(17);
    expect(await failure(() => refit(LENET, { ...SMALL, autoDegree: 'depth=3', output: place() }))).toMatch(
      /^usage: --auto-degree depth=3: the layers alone take \d+/,
    );
    await refit(LENET, { ...SMALL, autoDegree: 'accuracy=10%', output: least });
    expect((await test(least)).accuracy).toBeGreaterThan(0.85);
  });

  it('refuses what it can’t do, before any work', async () => {
    const wrong = (options: Partial<RefitOptions>) =>
      failure(() => refit(LENET, { ...SMALL, output: place(), ...options }));
    expect(await wrong({ poly: ['deg=4,a=5'] })).toMatch(/^spec: .*deg=N/);
    expect(await wrong({ poly: ['deg=40'] })).toMatch(/^spec: /);
    expect(await wrong({ only: ['nowhere'] })).toMatch(/^spec: --only/);
    expect(await wrong({ tailGuard: 'mass=-1' })).toMatch(/^usage: --tail-guard/);
    expect(await wrong({ autoDegree: 'levels=3' })).toMatch(/^usage: --auto-degree/);
    expect(await wrong({ autoDegree: 'depth=30', poly: ['deg=2'] })).toMatch(/^usage: --auto-degree/);
    expect(await wrong({ lambda: 0 })).toMatch(/^usage: --lambda/);
    expect(await wrong({ cacheMemory: 1000 })).toMatch(/^data: .*memory/);
    const none = place();
    await refit(LENET, { ...SMALL, output: none });
    expect(await failure(() => refit(none, { ...SMALL, output: place() }))).toMatch(
      'there is no activation to replace',
    );
  });
});

/** Two branches, one of them a shortcut with a convolution, a depthwise layer, a pool, products without a bias. */
function branches() {
  const rng = makeRng(4);
  const net = buildModel({ name: 'branches', opset: 13 });
  const weights = (name: string, dims: readonly number[]) => {
    const size = dims.reduce((a, b) => a * b, 1);
    const scale = Math.sqrt(2 / (size / (dims[0] as number)));
    return net.constant(
      name,
      'float',
      dims,
      Array.from({ length: size }, () => scale * rng.normal()),
    );
  };
  const x = net.input('x', 'float', [1, 1, 28, 28]);
  const stem = net.node('Conv', [x, weights('w0', [6, 1, 5, 5]), weights('b0', [6])], { strides: [2, 2] }, 'stem');
  const first = net.node('Relu', [stem], {}, 'first');
  const main = net.node('Conv', [first, weights('w1', [8, 6, 3, 3])], { pads: [1, 1, 1, 1], strides: [2, 2] }, 'main');
  const shortcut = net.node(
    'Conv',
    [first, weights('w2', [8, 6, 1, 1]), weights('b2', [8])],
    { strides: [2, 2] },
    'shortcut',
  );
  const second = net.node('Relu', [net.node('Add', [main, shortcut])], {}, 'second');
  const pooled = net.node('AveragePool', [second], { kernel_shape: [2, 2], strides: [2, 2] });
  const depthwise = net.node(
    'Conv',
    [pooled, weights('w3', [8, 1, 3, 3])],
    { group: 8, pads: [1, 1, 1, 1] },
    'depthwise',
  );
  const kept = net.node('Relu', [depthwise], {}, 'kept');
  const flat = net.node('Flatten', [kept]);
  const product = net.node('MatMul', [flat, weights('w4', [72, 16])], {}, 'product');
  const gate = net.node('Sigmoid', [net.node('Add', [product, weights('b4', [16])])], {}, 'gate');
  const last = net.node('Gemm', [gate, weights('w5', [10, 16]), weights('b5', [10])], { transB: 1 }, 'last');
  net.output(last, 'y', 'float', [1, 10]);
  return net.model;
}

describe('polynomialize', () => {
  it('does it all in one command, and says what is left', { timeout: 240_000 }, async () => {
    const output = place();
    const { code, out } = await sisyphus(
      `polynomialize ${'MODEL'} --data synthetic --images 300 --depth 17 --epochs 1 --train-images 512 --test-images 500 --json -q -o`
        .split(' ')
        .map((word) => (word === 'MODEL' ? LENET : word))
        .concat(output),
    );
    expect(code).toBe(0);
    const report = JSON.parse(out) as Awaited<ReturnType<typeof polynomialize>>;
    expect(report.depth.after).toBeLessThanOrEqual(17);
    expect(report.nonPolynomial).toBe(0);
    expect(report.test.accuracy).toBeGreaterThan(0.95);
    expect(report.test.images).toBe(500);
    expect(report.training?.epochs).toHaveLength(1);
    expect(report.drifts).toHaveLength(8);
    expect(report.stands.noise).toBeGreaterThan(0);
    expect(report.closest.length).toBeGreaterThan(0);
    // Fine-tuning leaves nothing behind but weights.
    expect(readModel(output).graph.nodes.every(({ op }) => op !== 'Min' && op !== 'Max')).toBe(true);
    expect(existsSync(`${output}.part`)).toBe(false);
  });

  it('makes up for average pools in place of max pools', { timeout: 60_000 }, async () => {
    const file = path.join(folder, 'maxpool.onnx');
    const rng = makeRng(8);
    const net = buildModel({ name: 'maxpool', opset: 13 });
    const values = (count: number, scale: number) => Array.from({ length: count }, () => scale * rng.normal());
    const x = net.input('x', 'float', [1, 1, 28, 28]);
    const conv = net.node('Conv', [x, net.constant('w', 'float', [6, 1, 5, 5], values(150, 0.2))], {}, 'conv');
    const pool = net.node('MaxPool', [net.node('Relu', [conv], {}, 'relu')], { kernel_shape: [4, 4], strides: [4, 4] });
    const flat = net.node('Flatten', [pool]);
    const dense = net.node(
      'Gemm',
      [flat, net.constant('v', 'float', [10, 216], values(2160, 0.1))],
      { transB: 1 },
      'dense',
    );
    net.output(dense, 'y', 'float', [1, 10]);
    await writeModel(net.model, file, {});
    const common = { ...SMALL, images: 400, testImages: 300 };
    const kept = await polynomialize(file, { ...common, output: place() });
    const averaged = await polynomialize(file, { ...common, pools: 'average', output: place() });
    expect(kept.nonPolynomial).toBe(1);
    expect(averaged.nonPolynomial).toBe(0);
    const [layer] = averaged.refit.layers.filter(({ kind }) => kind === 'linear');
    expect(layer?.kind === 'linear' && layer.after).toBeLessThan(layer?.kind === 'linear' ? 0.7 * layer.before : 0);
  });
});
