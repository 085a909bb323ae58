/** What keeps values in range: penalty, clip, teacher, PolyNorm, Hermite basis, shrinking. */
import '@tensorflow/tfjs-backend-cpu';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { openSession } from '../../src/eval/session.ts';
import { nonlinearSites, readersOf } from '../../src/eval/sites.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { serialize } from '../../src/graph/write.ts';
import { findActivations } from '../../src/passes/activation-sites.ts';
import { insertHermite, settleHermite } from '../../src/passes/hermite.ts';
import { insertPolynorm, typicalSample } from '../../src/passes/insert-polynorm.ts';
import { refit } from '../../src/refit/refit.ts';
import { verify } from '../../src/refit/verify.ts';
import { makeRng } from '../../src/rng.ts';
import { clipped, parsePenalty, rangePenalty, uniformBounds, weightsAt } from '../../src/train/range-control.ts';
import { shrink } from '../../src/train/shrink.ts';
import { tf } from '../../src/train/tf.ts';
import { type TrainOptions, train } from '../../src/train/train.ts';
import { testFolder } from '../support/arrays.ts';
import { failure } from '../support/datasets.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
const LENET = path.join(REPOSITORY, 'models/lenet.onnx');
const normals = (count: number, seed: number, scale = 1): Float32Array => {
  const rng = makeRng(seed);
  return Float32Array.from({ length: count }, () => scale * rng.normal());
};

describe('range penalty', () => {
  beforeAll(async () => void (await tf.setBackend('cpu')));

  it.each(['huber=0.5,from=0.8', 'power=0.5,p=6,warmup=0,from=1'])(
    '%s: value and slope are those of the formula',
    async (text) => {
      const spec = parsePenalty(text);
      const bounds = [
        { site: 'a', value: 'a', limits: [1, 2, 0.5], shape: [3, 1, 1] },
        { site: 'b', value: 'b', limits: [1.5], shape: [] },
      ];
      const { loss } = rangePenalty(spec, bounds);
      const power = weightsAt(spec, 0).power;
      const a = normals(2 * 3 * 4, 1, 1.5);
      const b = normals(2 * 5, 2, 2);
      const each = (x: number, limit: number) => {
        const t = Math.abs(x) / (limit * spec.from);
        if (spec.kind === 'power') return t ** power;
        const s = Math.max(0, t - 1);
        return s < 1 ? (s * s) / 2 : s - 0.5;
      };
      const formula = (x: Float32Array, y: Float32Array) =>
        (x.reduce((sum, v, i) => sum + each(v, bounds[0]?.limits[Math.floor(i / 4) % 3] as number), 0) / 2 +
          y.reduce((sum, v) => sum + each(v, 1.5), 0) / 2) /
        2;
      const f = (x: tf.Tensor, y: tf.Tensor) =>
        loss(
          new Map([
            ['a', x],
            ['b', y],
          ]),
          tf.scalar(power),
        );
      const [x, y] = [tf.tensor(a, [2, 3, 2, 2]), tf.tensor(b, [2, 5])];
      const { value, grads } = tf.valueAndGrads(f)([x, y]);
      expect((await value.data())[0]).toBeCloseTo(formula(a, b), 4);
      const slopes = await (grads[0] as tf.Tensor).data();
      for (let i = 0; i < a.length; i++) {
        const step = 1e-3;
        const moved = (by: number) =>
          formula(
            a.map((v, j) => (j === i ? v + by : v)),
            b,
          );
        const slope = (moved(step) - moved(-step)) / (2 * step);
        expect(Math.abs((slopes[i] as number) - slope)).toBeLessThan(1e-3 * Math.max(1, Math.abs(slope)));
      }
    },
  );

  it('warms up as PILLAR does, and refuses what it does not know', () => {
    const spec = parsePenalty('power=1');
    expect([0, 1, 2, 3, 4].map((epoch) => weightsAt(spec, epoch))).toEqual([
      { objective: 0, penalty: 0.01, power: 4 },
      { objective: 1, penalty: 0.02, power: 6 },
      { objective: 1, penalty: 0.1, power: 8 },
      { objective: 1, penalty: 0.2, power: 10 },
      { objective: 1, penalty: 1, power: 10 },
    ]);
    for (const text of ['huber', 'huber=-1', 'cubic=1', 'huber=1,p=3', 'power=1,warmup=0.5', ''])
      expect(() => parsePenalty(text)).toThrow('--range-penalty');
  });
});

/** One convolution and an activation, on [N, 3, 5, 5]. */
function small(op: string): Model {
  const net = buildModel({ name: 'small', opset: 13 });
  const x = net.input('x', 'float', ['N', 3, 5, 5]);
  const conv = net.node('Conv', [x, net.constant('w', 'float', [4, 3, 1, 1], normals(12, 3))], {}, 'conv');
  net.output(net.node(op, [conv], {}, 'act'), 'y', 'float', ['N', 4, 5, 5]);
  return net.model;
}

async function run(model: Model, data: Float32Array): Promise<Float32Array> {
  const session = await openSession(serialize(model, { inline: true }), { optimize: false });
  const feeds = new Map([['x', { elem: 'float' as const, dims: [data.length / 75, 3, 5, 5], data }]]);
  const result = (await session.run(feeds)).get('y')?.data as Float32Array;
  await session.release();
  return result;
}

describe('clips', () => {
  it('bound what a layer reads, and leave everything else as it is', async () => {
    const model = small('Relu');
    const bounded = clipped(model, uniformBounds(model, 'small', 0.4), 1.5);
    const [plain, cut] = [await run(model, normals(150, 4)), await run(bounded, normals(150, 4))];
    expect(Math.max(...plain)).toBeGreaterThan(0.7);
    for (const [i, value] of plain.entries()) expect(cut[i]).toBeCloseTo(Math.min(value, 0.6), 6);
  });
});

describe('PolyNorm', () => {
  const insert = async (x: Float32Array) => {
    const model = small('Relu');
    const before = cloneModel(model);
    const pre = await run(small('Identity'), x);
    const [site] = nonlinearSites(before, inferTypes(before)).sites;
    if (!site) throw new Error('no site');
    const typical = typicalSample([x.length / 75, 4, 5, 5], pre);
    expect(
      insertPolynorm(before, { name: site.name, input: site.input, rank: 4 }, readersOf(site), typical),
    ).toBeNull();
    return { model: before, typical, pre };
  };

  it('leaves a typical sample nearly as it is, and is the formula', async () => {
    const x = normals(8 * 75, 5);
    const { model, typical, pre } = await insert(x);
    const found = await run(model, x);
    for (let row = 0; row < 8; row++) {
      const own = pre.subarray(row * 100, row * 100 + 100);
      const mean = own.reduce((sum, v) => sum + v, 0) / 100;
      const variance = own.reduce((sum, v) => sum + (v - mean) ** 2, 0) / 100;
      const t = (2 * variance) / typical.variance;
      const g = 0.014731391 * (t - 8) ** 2 + 0.176776695; // k = 4, mu = 2, as published
      for (let i = 0; i < 100; i++) {
        const wanted = Math.max(0, ((own[i] as number) - mean) * g * Math.SQRT2 + typical.mean);
        expect(found[row * 100 + i]).toBeCloseTo(wanted, 4);
      }
    }
  });

  it('brings an excess of variance back: four times the deviation comes out smaller than that of twice', async () => {
    const x = normals(8 * 75, 6);
    const { model } = await insert(x);
    const deviation = async (times: number) => {
      const y = await run(
        model,
        x.map((v) => v * times),
      );
      return Math.sqrt(y.reduce((sum, v) => sum + v * v, 0) / y.length);
    };
    const [one, two] = [await deviation(1), await deviation(1.6)];
    expect(two).toBeLessThan(one);
    expect(await deviation(1.1)).toBeLessThan(1.05 * one);
  });
});

describe('the Hermite basis', () => {
  it('starts as the least-squares quadratic, and settles to the polynomial that it is', async () => {
    const x = normals(40 * 75, 7);
    const pre = await run(small('Identity'), x);
    const model = small('Relu');
    const [site] = findActivations(model, inferTypes(model)).sites;
    if (!site) throw new Error('no site');
    expect(insertHermite(model, site, { dims: [40, 4, 5, 5], data: pre })).toBeNull();
    const settled = cloneModel(model);
    expect(settleHermite(settled)).toEqual(['act']);
    expect(settled.graph.nodes.map(({ op }) => op)).not.toContain('BatchNormalization');
    const [before, after] = [await run(model, x), await run(settled, x)];
    for (const [i, value] of before.entries()) expect(after[i]).toBeCloseTo(value, 4);
    // Residuals of least squares are orthogonal to 1, x and x², in each channel.
    for (let c = 0; c < 4; c++) {
      const sums = [0, 0, 0];
      for (let row = 0; row < 40; row++)
        for (let i = 0; i < 25; i++) {
          const at = (row * 4 + c) * 25 + i;
          const residual = (after[at] as number) - Math.max(0, pre[at] as number);
          for (const k of [0, 1, 2]) sums[k] = (sums[k] as number) + (residual * (pre[at] as number) ** k) / 1000;
        }
      for (const sum of sums) expect(Math.abs(sum)).toBeLessThan(2e-3);
    }
  });
});

describe('training with range control', () => {
  const SHORT: TrainOptions = {
    data: 'synthetic',
    limit: 512,
    epochs: 2,
    lr: 0.01,
    momentum: 0.9,
    nesterov: false,
    clipNorm: 1,
    threads: 2,
  };

  it('makes a refitted network better, resumes bit by bit, and leaves no clips behind', {
    timeout: 120_000,
  }, async () => {
    const start = path.join(folder, 'start.onnx');
    await refit(LENET, { data: 'synthetic', images: 100, poly: ['deg=2'], threads: 2, output: start });
    const options: TrainOptions = {
      ...SHORT,
      limit: 2048,
      teacher: LENET,
      clipRange: 1.05,
      rangePenalty: 'huber=1,from=0.9',
    };
    const whole = await train(start, { ...options, run: path.join(folder, 'whole') });
    const controller = new AbortController();
    const cut = path.join(folder, 'cut');
    const onEpoch = () => controller.abort();
    expect(await failure(() => train(start, { ...options, run: cut, signal: controller.signal, onEpoch }))).toMatch(
      /^aborted/,
    );
    const resumed = await train(start, { data: 'synthetic', run: cut, resume: true, threads: 2 });
    expect(readFileSync(resumed.last)).toEqual(readFileSync(whole.last));
    const [before] = await verify(readModel(LENET), readModel(start), start, { data: 'synthetic', split: 'test' });
    expect(whole.epochs.at(-1)?.testAccuracy).toBeGreaterThan((before?.accuracy ?? 1) + 0.03);
    const ops = new Set(readModel(whole.last).graph.nodes.map(({ op }) => op));
    expect(ops.has('Min') || ops.has('Max') || ops.has('Relu')).toBe(false);
  });

  it.each(['polynorm', 'hermite'])('with --norm %s', { timeout: 60_000 }, async (norm) => {
    const { last, epochs } = await train(LENET, { ...SHORT, norm, run: path.join(folder, norm) });
    const ops = readModel(last).graph.nodes.map(({ op }) => op);
    expect(epochs.at(-1)?.testAccuracy).toBeGreaterThan(norm === 'polynorm' ? 0.97 : 0.85);
    if (norm === 'polynorm') expect(ops.filter((op) => op === 'ReduceMean')).toHaveLength(8);
    else expect(ops).not.toContain('Relu');
  });

  it('refuses nonsense before it starts', async () => {
    const wrong = (options: TrainOptions) =>
      failure(() => train(LENET, { ...SHORT, run: path.join(folder, 'no'), ...options }));
    expect(await wrong({ clipRange: 0 })).toMatch(/^usage: --clip-range/);
    expect(await wrong({ range: 3 })).toMatch(/^usage: --range is for/);
    expect(await wrong({ distill: 2, teacher: LENET })).toMatch(/^usage: --distill/);
    expect(await wrong({ norm: 'layernorm' })).toMatch(/^usage: --norm/);
  });

  it('shrinks ranges', { timeout: 60_000 }, async () => {
    const output = path.join(folder, 'shrunk.onnx');
    const run = path.join(folder, 'shrink run');
    const report = await shrink(LENET, { ...SHORT, penalty: 10, output, run });
    for (const { before, after } of report.sites) expect(after).toBeLessThan(before);
    expect(report.epochs.at(-1)?.testAccuracy).toBeGreaterThan(0.98);
    expect(readModel(output).graph.nodes.filter(({ op }) => op === 'Relu')).toHaveLength(4);
    expect(await failure(() => shrink(LENET, { ...SHORT, to: 2 }))).toMatch(/^usage: --to/);
  });
});
