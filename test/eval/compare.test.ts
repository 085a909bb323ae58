import { beforeEach, describe, expect, it } from 'vitest';
import { type CompareOptions, type CompareReport, compare } from '../../src/eval/compare.ts';
import { arrayFromNumbers } from '../../src/eval/session.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import type { Dim, Model, Value } from '../../src/graph/ir.ts';
import { rewriteModel } from '../../src/rewrite.ts';
import { npyData, saveModel, testFolder } from '../support/arrays.ts';
import { noise, numbersOf, runModel } from '../support/numeric.ts';

const folder = testFolder();
let unique = 0;
beforeEach(() => void unique++);

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
const save = (name: string, model: Model) => saveModel(folder, `${name}${unique}`, model);
const random = (dims: readonly number[], seed = 9) => Float32Array.from(noise(product(dims), seed), (v) => 2 * v);
const dataOf = (dims: readonly number[], rows = random(dims)) => npyData(folder, `rows${unique}`, dims, rows);

/** Three convolutions with ReLUs and a linear layer. `changed` shifts one weight of a convolution. */
function network(lead: Dim = 'N', changed = 0, by = 0.5): Model {
  const g = buildModel({ name: 'g', opset: 17 });
  let x = g.input('x', 'float', [lead, 2, 5, 5]);
  for (const i of [1, 2, 3]) {
    const weights = noise(36, i).map((v) => 0.4 * v);
    if (i === changed) weights[7] = (weights[7] as number) + by;
    const conv = g.node(
      'Conv',
      [x, g.constant(`w${i}`, 'float', [2, 2, 3, 3], weights)],
      { pads: [1, 1, 1, 1] },
      `conv${i}`,
    );
    x = g.node('Relu', [conv], {}, `relu${i}`);
  }
  const flat = g.node('Flatten', [x], {}, 'flatten');
  g.output(g.node('MatMul', [flat, g.constant('fc', 'float', [50, 4], noise(200, 4))], {}, 'fc'), 'y', 'float', [
    lead,
    4,
  ]);
  return g.model;
}
const LAYERS = [1, 2, 3].flatMap((i) => [`conv${i}_output`, `relu${i}_output`]);

/** A model of rows of 3 numbers. */
function small(
  name: string,
  build: (g: GraphBuilder, x: Value) => Value,
  lead: Dim = 'N',
  shape: readonly Dim[] = [lead, 3],
): string {
  const g = buildModel({ name: 'g', opset: 17 });
  g.output(build(g, g.input('x', 'float', [lead, 3])), 'y', 'float', shape);
  return save(name, g.model);
}

const run = (a: string, b: string, data: string, options: Partial<CompareOptions> = {}): Promise<CompareReport> =>
  compare(a, b, { data, ...options });

describe('the same model', () => {
  it.each<[string, Dim, Dim, Partial<CompareOptions>]>([
    ['free batches', 'N', 'N', {}],
    ['free batches that do not divide the count', 'N', 'N', { batch: 7, sample: 8 }],
    ['a batch of 1 beside a free one', 1, 'N', {}],
    ['one at a time', 1, 'N', { batch: 1 }],
    ['a fixed batch beside a free one', 7, 'N', {}],
    ['a free batch beside a fixed one', 'N', 7, {}],
    ['a fixed batch beside one of 1', 7, 1, {}],
    ['a fixed batch that is larger than the data', 64, 'N', {}],
    ['few inputs', 7, 'N', { limit: 5 }],
    ['a random choice', 'N', 'N', { limit: 10, seed: 4, batch: 4 }],
  ])('agrees with itself: %s', async (_, first, second, options) => {
    const [a, b] = [save('a', network(first)), save('b', network(second))];
    const report = await run(a, b, dataOf([24, 2, 5, 5]), options);
    expect(report).toMatchObject({
      models: [a, b],
      images: options.limit ?? 24,
      agreement: 1,
      nonFinite: [0, 0],
      nonFiniteInBoth: 0,
      outputs: ['y', 'y'],
      outputDiverges: false,
      firstDiverging: null,
      partial: false,
      unmatched: 0,
    });
    // Two batch sizes may be two ways to add up.
    expect(report.output.maxAbs).toBeLessThan(1e-5);
    expect(report.output.values).toBe(4 * report.images);
    expect(report.layers.map(({ name }) => name)).toEqual([...LAYERS, 'flatten_output', 'y']);
    for (const layer of report.layers) {
      expect(layer.relative).toBeLessThan(1e-6);
      expect(layer.values).toBe((layer.name === 'y' ? 4 : 50) * report.sampled);
    }
  });

  it('two fixed batches that differ are refused', async () => {
    const [a, b] = [save('a', network(7)), save('b', network(3))];
    await expect(run(a, b, dataOf([24, 2, 5, 5]))).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(/a\d+\.onnx takes 7 inputs at a time and .*b\d+\.onnx 3$/),
    });
  });

  it('one that can not be freed sets the batch of both', async () => {
    const sum = (lead: Dim) =>
      small(`sum${lead}`, (g, x) => g.node('CumSum', [x, g.constant('axis', 'int64', [], [0])], {}, 'sum'), lead);
    const report = await run(sum(1), sum('N'), dataOf([5, 3]));
    expect(report).toMatchObject({ images: 5, agreement: 1, output: { maxAbs: 0 } });
  });
});

describe('differences', () => {
  it('one changed weight: the layer that holds it is the first that diverges', async () => {
    for (const layer of [1, 2, 3]) {
      const report = await run(save('a', network()), save('b', network('N', layer)), dataOf([40, 2, 5, 5]), {
        batch: 16,
      });
      expect(report.firstDiverging).toMatchObject({ name: `conv${layer}_output`, ops: ['Conv', 'Conv'] });
      expect(report.outputDiverges).toBe(true);
      const before = report.layers.slice(0, 2 * layer - 2);
      expect(before.map(({ maxAbs }) => maxAbs)).toEqual(before.map(() => 0));
    }
    const slight = await run(save('a', network()), save('b', network('N', 2, 1e-5)), dataOf([40, 2, 5, 5]));
    expect(slight).toMatchObject({ firstDiverging: null, outputDiverges: false, agreement: 1 });
    const strict = await run(save('a', network()), save('b', network('N', 2, 1e-5)), dataOf([40, 2, 5, 5]), {
      tolerance: 1e-7,
    });
    expect(strict.firstDiverging?.name).toBe('conv2_output');
  });

  it('a rewritten model diverges at its first activation', async () => {
    const { model } = await rewriteModel(network(), { poly: ['deg=4,a=3'] });
    const report = await run(save('a', network()), save('b', model), dataOf([40, 2, 5, 5]));
    expect(report.firstDiverging).toMatchObject({ name: 'relu1_output', ops: ['Relu', 'Add'] });
    const { model: last } = await rewriteModel(network(), { poly: ['deg=4,a=3'], only: ['relu3'] });
    expect((await run(save('a', network()), save('b', last), dataOf([40, 2, 5, 5]))).firstDiverging?.name).toBe(
      'relu3_output',
    );
  });

  it('agree with their definitions', async () => {
    const [a, b] = [network(), network('N', 2)];
    const rows = random([50, 2, 5, 5]);
    const report = await run(save('a', a), save('b', b), dataOf([50, 2, 5, 5], rows), { batch: 12 });
    const feeds = new Map([['x', arrayFromNumbers('float', [50, 2, 5, 5], rows)]]);
    const [x, y] = [numbersOf(await runModel(a, feeds), 'y'), numbersOf(await runModel(b, feeds), 'y')];
    const difference = x.map((v, i) => Math.abs(v - (y[i] as number)));
    const rms = (list: Float64Array) => Math.sqrt(list.reduce((sum, v) => sum + v * v, 0) / list.length);
    expect(report.output.maxAbs).toBeCloseTo(Math.max(...difference), 5);
    expect(report.output.meanAbs).toBeCloseTo(difference.reduce((p, q) => p + q, 0) / 200, 5);
    expect(report.output.relative).toBeCloseTo(rms(difference) / rms(x), 5);
    expect(report.output.scale).toBeCloseTo(Math.max(...x.map(Math.abs)), 5);
    const best = (list: Float64Array, row: number) => {
      const logits = [...list.subarray(4 * row, 4 * row + 4)];
      return logits.indexOf(Math.max(...logits));
    };
    const agreeing = Array.from({ length: 50 }, (_, row) => row).filter((row) => best(x, row) === best(y, row));
    expect(report.agreement).toBe(agreeing.length / 50);
    expect(report.agreement).toBeLessThan(1);
  });

  it('where the first model gives nothing but zeros, any difference is one', async () => {
    const zero = small('zero', (g, x) =>
      g.node(
        'Relu',
        [g.node('Relu', [g.node('Sub', [x, g.constant('c', 'float', [], [9])], {}, 'sub')], {}, 'first')],
        {},
        'second',
      ),
    );
    const other = small('other', (g, x) => {
      const sub = g.node('Sub', [x, g.constant('c', 'float', [], [9])], {}, 'sub');
      return g.node('Relu', [g.node('Abs', [sub], {}, 'first')], {}, 'second');
    });
    const report = await run(zero, other, dataOf([10, 3]));
    expect(report.firstDiverging).toMatchObject({ name: 'first_output', relative: null });
    expect(report.outputDiverges).toBe(true);
    expect((await run(zero, zero, dataOf([10, 3]))).layers.map(({ relative }) => relative)).toEqual([0, 0, 0]);
  });

  it('names and shapes decide what is compared', async () => {
    const a = small('a', (g, x) => g.node('Neg', [g.node('Relu', [x], {}, 'common')], {}, 'neg'));
    const b = small('b', (g, x) =>
      g.node('Sub', [g.constant('zero', 'float', [], [0]), g.node('Relu', [x], {}, 'common')], {}, 'sub'),
    );
    expect(await run(a, b, dataOf([6, 3]))).toMatchObject({
      layers: [
        { name: 'common_output', ops: ['Relu', 'Relu'] },
        { name: 'y', ops: ['Neg', 'Sub'] },
      ],
      agreement: 1,
      unmatched: 0,
    });
    const other = small('c', (g, x) => g.node('Neg', [x], {}, 'only'));
    const renamed = buildModel({ name: 'g', opset: 17 });
    const input = renamed.input('x', 'float', ['N', 3]);
    renamed.output(renamed.node('Neg', [input], {}, 'another'), 'z', 'float', ['N', 3]);
    expect(await run(other, save('renamed', renamed.model), dataOf([6, 3]))).toMatchObject({
      layers: [],
      unmatched: 1,
      outputs: ['y', 'z'],
      agreement: 1,
      outputDiverges: false,
    });
    const shape = (dims: number[]) =>
      small(`shape${dims.length}`, (g, x) => {
        const inner = g.node('Reshape', [x, g.constant('s', 'int64', [dims.length], dims)], {}, 'inner');
        return g.node('Reshape', [inner, g.constant('t', 'int64', [2], [-1, 3])], {}, 'back');
      });
    const report = await run(shape([-1, 3, 1]), shape([-1, 1, 1, 3]), dataOf([6, 3]));
    expect([report.layers.map(({ name }) => name), report.unmatched]).toEqual([['y'], 1]);
  });
});

describe('values that are not finite', () => {
  it('are counted, and do not agree', async () => {
    const log = small('log', (g, x) => g.node('Log', [x], {}, 'log'));
    const abs = small('abs', (g, x) => g.node('Abs', [x], {}, 'log'));
    const rows = Float32Array.from([1, 2, 3, 1, -2, 3, 4, 5, 6, Number.NaN, 1, 1]);
    const report = await run(log, abs, dataOf([4, 3], rows));
    expect(report).toMatchObject({
      images: 4,
      nonFinite: [2, 1],
      nonFiniteInBoth: 1,
      agreement: 0.5,
      outputDiverges: true,
    });
    expect(report.output).toMatchObject({ finiteInOne: 1, values: 12 });
    // Over the ten pairs that are finite in both.
    const pairs = [1, 2, 3, 1, 3, 4, 5, 6, 1, 1].map((v) => Math.abs(Math.log(v) - v));
    expect(report.output.meanAbs).toBeCloseTo(pairs.reduce((p, q) => p + q, 0) / 10, 5);
    expect(report.firstDiverging).toMatchObject({ finiteInOne: 1 });
    const itself = await run(log, log, dataOf([4, 3], rows));
    expect(itself).toMatchObject({ nonFinite: [2, 2], nonFiniteInBoth: 2, agreement: 0.5, firstDiverging: null });
  });

  it('a layer of which nothing is finite is no agreement to rely on, but no divergence', async () => {
    const model = small('nan', (g, x) =>
      g.node(
        'Relu',
        [g.node('Log', [g.node('Neg', [g.node('Abs', [x], {}, 'abs')], {}, 'neg')], {}, 'log')],
        {},
        'relu',
      ),
    );
    const report = await run(model, model, dataOf([4, 3]));
    expect(report).toMatchObject({ agreement: 0, firstDiverging: null, unmatched: 0 });
    expect(report.output).toMatchObject({ maxAbs: 0, meanAbs: 0, relative: 0, finiteInOne: 0 });
  });
});

describe('what can not be compared', () => {
  it('outputs of different shapes', async () => {
    const wide = small('wide', (g, x) => g.node('Concat', [x, x], { axis: 1 }, 'wide'), 'N', ['N', 6]);
    const plain = small('plain', (g, x) => g.node('Neg', [x], {}, 'neg'));
    await expect(run(plain, wide, dataOf([4, 3]))).rejects.toMatchObject({
      code: 'usage',
      message: "the outputs 'y' [4,3] and 'y' [4,6] can't be compared: their shapes differ",
    });
  });

  it('outputs without a row for each input', async () => {
    const mean = small('mean', (g, x) => g.node('ReduceMean', [x], { axes: [0], keepdims: 0 }, 'mean'), 'N', [3]);
    await expect(run(mean, mean, dataOf([4, 3]))).rejects.toMatchObject({
      code: 'usage',
      message: "the outputs 'y' and 'y' [3] have no row for each of 4 inputs",
    });
  });

  it('inputs that the data do not fit', async () => {
    await expect(run(save('a', network()), save('b', network()), dataOf([4, 3]))).rejects.toMatchObject({
      code: 'usage',
    });
  });
});

it('an interruption fails, or leaves what was seen', async () => {
  const [a, data] = [save('a', network()), dataOf([200, 2, 5, 5])];
  const stopAt = (done: number) => {
    const stop = new AbortController();
    return {
      batch: 10,
      signal: stop.signal,
      onProgress: (event: { done: number }) => event.done >= done && stop.abort(),
    };
  };
  await expect(run(a, a, data, stopAt(50))).rejects.toMatchObject({ code: 'aborted' });
  const report = await run(a, a, data, { ...stopAt(50), partial: true });
  expect(report).toMatchObject({ partial: true, agreement: 1 });
  expect(report.images).toBeLessThan(200);
});
