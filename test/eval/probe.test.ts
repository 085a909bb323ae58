import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { samplePlan } from '../../src/eval/feed.ts';
import { type ProbedModel, type ProbedSite, type ProbeOptions, probe } from '../../src/eval/probe.ts';
import { arrayFromNumbers, arrayNumbers, type NdArray, openSession } from '../../src/eval/session.ts';
import type { ValueStatistics } from '../../src/eval/statistics.ts';
import { statisticsFile } from '../../src/eval/statistics-file.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import type { Dim, ElementType, Model, Value } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import type { ReplaceActivationReport } from '../../src/passes/replace-activation.ts';
import { rewriteModel } from '../../src/rewrite.ts';
import { makeRng } from '../../src/rng.ts';
import { npyData, saveModel, testFolder } from '../support/arrays.ts';
import { noise } from '../support/numeric.ts';
import { graphAttribute, graphProto, nodeProto, protoModel } from '../support/passes.ts';
import { expose } from '../support/reference.ts';

const folder = testFolder();
let unique = 0;
beforeEach(() => void unique++);

const save = (model: Model) => saveModel(folder, `net${unique}`, model);
const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);

async function probeOne(file: string, data: string, options: Partial<ProbeOptions> = {}): Promise<ProbedModel> {
  const { models } = await probe([file], { data, ...options });
  expect(models).toHaveLength(1);
  return models[0] as ProbedModel;
}

const siteNamed = ({ sites }: ProbedModel, name: string): ProbedSite => {
  const site = sites.find((each) => each.name === name);
  if (!site) throw new Error(`no site '${name}'`);
  return site;
};

/** Normal numbers, a row now and then larger. */
function data(dims: readonly number[], seed = 1, name = `rows${unique}`): { spec: string; rows: Float32Array } {
  const rng = makeRng(seed);
  const perRow = product(dims.slice(1));
  const rows = Float32Array.from(
    { length: product(dims) },
    (_, i) => rng.normal() * (Math.floor(i / perRow) % 9 === 4 ? 3 : 1),
  );
  return { spec: npyData(folder, name, dims, rows), rows };
}

/** Sites of rank 4, 3 and 2: relu, square, sigmoid, a power and a leaky relu. */
function network(
  opset: number,
  elem: ElementType = 'float',
  lead: Dim = 'N',
): { model: Model; sites: [string, string, string][] } {
  const g = buildModel({ name: 'g', opset, irVersion: 8 });
  const x = g.input('x', elem, [lead, 2, 6, 6]);
  const weights = (name: string, dims: number[], seed: number) =>
    g.constant(
      name,
      elem,
      dims,
      noise(product(dims), seed).map((v) => 0.5 * v),
    );
  const conv1 = g.node('Conv', [x, weights('w1', [3, 2, 3, 3], 1)], {}, 'conv1');
  const relu = g.node('Relu', [conv1], {}, 'relu');
  const conv2 = g.node('Conv', [relu, weights('w2', [4, 3, 1, 1], 2), weights('b2', [4], 3)], {}, 'conv2');
  const square = g.node('Mul', [conv2, conv2], {}, 'square');
  const folded = g.node('Reshape', [square, g.constant('shape3', 'int64', [3], [-1, 4, 16])], {}, 'fold');
  const sigmoid = g.node('Sigmoid', [folded], {}, 'sigmoid');
  const flat = g.node('Reshape', [sigmoid, g.constant('shape2', 'int64', [2], [-1, 64])], {}, 'flatten');
  const fc = g.node('MatMul', [flat, weights('w3', [64, 5], 4)], {}, 'fc');
  const power = g.node('Pow', [fc, g.constant('three', elem, [], [3])], {}, 'power');
  const leaky = g.node('LeakyRelu', [power], { alpha: 0.5 }, 'leaky');
  g.output(g.node('MatMul', [leaky, weights('w4', [5, 3], 5)], {}, 'out'), 'y', elem, [lead, 3]);
  const io = (name: string, input: Value, output: Value): [string, string, string] => [name, input.name, output.name];
  return {
    model: g.model,
    sites: [
      io('relu', conv1, relu),
      io('square', conv2, square),
      io('sigmoid', folded, sigmoid),
      io('power', fc, power),
      io('leaky', power, leaky),
    ],
  };
}

interface Naive {
  min: number;
  max: number;
  mean: number;
  std: number;
  quantile: (share: number) => number;
  abs999: number;
  nan: number;
  inf: number;
  channelMin: number[];
  channelMax: number[];
  badRows: Set<number>;
  leaving: number;
}

/** By the definitions, in float64. */
function naive({ dims, data }: { dims: readonly number[]; data: Float64Array }, range = 1): Naive {
  const [rows = 1, channels = 1] = dims;
  const plane = product(dims.slice(2));
  const finite = [...data].filter(Number.isFinite).sort((a, b) => a - b);
  const magnitudes = finite.map(Math.abs).sort((a, b) => a - b);
  const mean = finite.reduce((a, b) => a + b, 0) / finite.length;
  const own = (c: number) => [...data].filter((v, i) => Math.floor(i / plane) % channels === c && Number.isFinite(v));
  const rowOf = (i: number) => Math.floor(i / (channels * plane));
  const at = (list: number[], share: number) =>
    list[Math.min(list.length - 1, Math.floor(share * list.length))] as number;
  const leaving = new Set<number>();
  const badRows = new Set<number>();
  for (const [i, v] of data.entries()) {
    if (!Number.isFinite(v)) badRows.add(rowOf(i));
    if (!(Math.abs(v) <= range)) leaving.add(rowOf(i));
  }
  const pick = (c: number, f: (a: number, b: number) => number) => own(c).reduce((a, b) => f(a, b));
  return {
    min: finite[0] as number,
    max: finite.at(-1) as number,
    mean,
    std: Math.sqrt(finite.reduce((sum, v) => sum + (v - mean) ** 2, 0) / finite.length),
    quantile: (share) => at(finite, share),
    abs999: at(magnitudes, 0.999),
    nan: [...data].filter(Number.isNaN).length,
    inf: [...data].filter((v) => Math.abs(v) === Infinity).length,
    channelMin: Array.from({ length: channels }, (_, c) => pick(c, Math.min)),
    channelMax: Array.from({ length: channels }, (_, c) => pick(c, Math.max)),
    badRows,
    leaving: leaving.size / rows,
  };
}

/** Values of a model by name, all rows at once, out of a graph that another decoder made. */
async function valuesOf(file: string, feed: NdArray, names: readonly string[]) {
  const session = await openSession(expose(readFileSync(file), names), { optimize: false });
  const results = await session.run(new Map([['x', feed]]), names);
  await session.release();
  return new Map([...results].map(([name, array]) => [name, { dims: array.dims, data: arrayNumbers(array) }]));
}

function expectNear(found: number | null, expected: number, tolerance: number, what: string): void {
  if (found === null || !(Math.abs(found - expected) <= tolerance))
    expect.fail(`${what}: ${found}, expected ${expected} within ${tolerance}`);
}

/** Over all rows; `precision` relative to the largest magnitude. */
function expectExtremes(found: ValueStatistics, expected: Naive, precision: number, what: string): void {
  const size = Math.max(Math.abs(expected.min), Math.abs(expected.max));
  const near = (a: number | null, b: number, name: string) => expectNear(a, b, precision * size, `${what} ${name}`);
  near(found.min, expected.min, 'min');
  near(found.max, expected.max, 'max');
  expect(found.channelMin.length).toBe(expected.channelMin.length);
  for (const [c, value] of expected.channelMin.entries())
    near(found.channelMin[c] ?? null, value, `min of channel ${c}`);
  for (const [c, value] of expected.channelMax.entries())
    near(found.channelMax[c] ?? null, value, `max of channel ${c}`);
  expect([found.nan, found.inf]).toEqual([expected.nan, expected.inf]);
}

/** Over the sampled rows. */
function expectMoments(found: ValueStatistics, expected: Naive, precision: number, what: string): void {
  const size = Math.max(Math.abs(expected.min), Math.abs(expected.max));
  expectNear(found.mean, expected.mean, precision * size, `${what} mean`);
  expectNear(found.std, expected.std, precision * size, `${what} std`);
  for (const [share, name] of [
    [0.001, 'q001'],
    [0.5, 'median'],
    [0.999, 'q999'],
  ] as const) {
    const near = [share - 0.0005, share, share + 0.0005].map(expected.quantile);
    const slack = 0.02 * Math.max(...near.map(Math.abs)) + 1e-3 * expected.std;
    const [low, high] = [Math.min(...near) - slack, Math.max(...near) + slack];
    if (found[name] === null || !(found[name] >= low && found[name] <= high))
      expect.fail(`${what} ${name}: ${found[name]}, expected ${low} to ${high}`);
  }
  expectNear(found.abs999, expected.abs999, 0.02 * expected.abs999 + 1e-3 * expected.std, `${what} abs999`);
}

const rowsOf = (array: { dims: readonly number[]; data: Float64Array }, keep: (row: number) => boolean) => {
  const perRow = product(array.dims.slice(1));
  const rows = Array.from({ length: array.dims[0] ?? 0 }, (_, row) => row).filter(keep);
  const parts = rows.map((row) => [...array.data.subarray(row * perRow, (row + 1) * perRow)]);
  return { dims: [rows.length, ...array.dims.slice(1)], data: Float64Array.from(parts.flat()) };
};

describe('statistics agree with their definitions', () => {
  const cases: [string, number, ElementType, Dim, Partial<ProbeOptions>, number][] = [
    ...[9, 13, 17, 21].map((opset): (typeof cases)[number] => [
      `opset ${opset}, a light path`,
      opset,
      'float',
      'N',
      { batch: 16, sample: 40 },
      1e-6,
    ]),
    ['all of it sampled', 17, 'float', 'N', { batch: 16, sample: 1000 }, 1e-6],
    ['one at a time, freed', 17, 'float', 1, { sample: 1 }, 1e-6],
    ['one at a time', 17, 'float', 1, { batch: 1, sample: 10 }, 1e-6],
    ['a fixed batch that does not divide the count', 17, 'float', 16, { sample: 20 }, 1e-6],
    ['a batch that does not divide the count', 17, 'float', 'N', { batch: 23, sample: 60 }, 1e-6],
    ['float16', 17, 'float16', 'N', { batch: 16, sample: 40 }, 2e-3],
  ];
  it.each(cases)('%s', async (_, opset, elem, lead, options, precision) => {
    const { model, sites } = network(opset, elem, lead);
    const file = save(model);
    const free = saveModel(folder, `free${unique}`, network(opset, elem, 'N').model);
    const { spec, rows } = data([103, 2, 6, 6]);
    const report = await probeOne(file, spec, { ...options, range: 1 });
    const values = await valuesOf(
      free,
      arrayFromNumbers(elem, [103, 2, 6, 6], rows),
      sites.flatMap(([, input, output]) => [input, output]),
    );
    expect(report.images).toBe(103);
    const { isSampled } = samplePlan({ count: 103, batch: report.batch }, options.sample ?? 256);
    const inSample = (row: number) => isSampled(Math.floor(row / report.batch));
    expect(report.sampled).toBe(Array.from({ length: 103 }, (_, row) => row).filter(inSample).length);
    expect(report.sampled).toBeGreaterThanOrEqual(Math.min(103, options.sample ?? 0));
    expect(report.sites.map(({ name }) => name)).toEqual(sites.map(([name]) => name));
    for (const [name, inputName, outputName] of sites) {
      const site = siteNamed(report, name);
      const [input, output] = [values.get(inputName), values.get(outputName)] as [never, never];
      const [before, after] = [naive(input), naive(output)];
      expectExtremes(site.input, before, precision, `${name} input`);
      expectExtremes(site.output, after, precision, `${name} output`);
      expectMoments(site.input, naive(rowsOf(input, inSample)), precision, `${name} input`);
      expectMoments(site.output, naive(rowsOf(output, inSample)), precision, `${name} output`);
      if (elem === 'float') expect(site.leaving).toBe(before.leaving);
      expect(site.range).toBe(1);
      expect(site.nonFiniteInputs).toBe(0);
      expect(site.shape).toEqual((values.get(inputName)?.dims ?? []).slice(1));
    }
    expect(report).toMatchObject({ nonFiniteOutputs: 0, firstNonFinite: null, partial: false });
  });

  it('double', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'double', ['N', 4]);
    const y = g.node('Mul', [x, x], {}, 'square');
    g.output(y, 'y', 'double', ['N', 4]);
    const rows = Float32Array.from(noise(40, 3));
    const report = await probeOne(save(g.model), npyData(folder, `double${unique}`, [10, 4], rows), {
      batch: 3,
      sample: 2,
    });
    const expected = naive({ dims: [10, 4], data: Float64Array.from(rows, (v) => v * v) });
    expectExtremes(siteNamed(report, 'square').output, expected, 1e-6, 'output');
  });

  it('counts inputs where the model merges another axis into the batch', async () => {
    // [N,4,3] as [4N,3]: of each input's four tokens one leaves, in every second input.
    for (const lead of ['N', 1, 5] as const) {
      const g = buildModel({ name: 'g', opset: 17 });
      const x = g.input('x', 'float', [lead, 4, 3]);
      const tokens = g.node('Reshape', [x, g.constant('merge', 'int64', [2], [-1, 3])], {}, 'merge');
      const relu = g.node('Relu', [tokens], {}, 'relu');
      g.output(g.node('Reshape', [relu, g.constant('split', 'int64', [3], [-1, 4, 3])], {}, 'split'), 'y', 'float', [
        lead,
        4,
        3,
      ]);
      const rows = Float32Array.from({ length: 12 * 12 }, (_, i) =>
        i % 24 === 7 ? 9 : i % 24 === 19 && i > 100 ? Number.NaN : 0.5,
      );
      const spec = npyData(folder, `tokens${unique}`, [12, 4, 3], rows);
      for (const options of [{ batch: 12 }, { batch: 5, sample: 1 }, { batch: 1, sample: 1 }]) {
        const report = await probeOne(saveModel(folder, `tokens${lead}`, g.model), spec, { ...options, range: 1 });
        const nan = rows.filter(Number.isNaN).length;
        expect(siteNamed(report, 'relu')).toMatchObject({ leaving: (6 + nan) / 12, nonFiniteInputs: nan });
        expect(siteNamed(report, 'relu').input).toMatchObject({ nan, max: 9, channelMax: [0.5, 9, 0.5] });
        expect(report.nonFiniteOutputs).toBe(nan);
      }
    }
  });
});

describe('values that are not finite', () => {
  const finite = (values: readonly number[]) => values.filter(Number.isFinite);

  /** x, squared again and again. */
  function squarings(count: number, elem: ElementType = 'float'): Model {
    const g = buildModel({ name: 'g', opset: 17 });
    let x = g.input('x', elem, ['N', 2]);
    for (let i = 1; i <= count; i++) x = g.node('Mul', [x, x], {}, `sq${i}`);
    g.output(x, 'y', elem, ['N', 2]);
    return g.model;
  }

  it('a chain of squarings escapes at the sixth', async () => {
    const spec = npyData(folder, 'eight', [3, 2], Float32Array.from([0.5, 0.5, 8, 1, 1, 1]));
    const report = await probeOne(save(squarings(6)), spec);
    expect(report.firstNonFinite).toMatchObject({ node: 'sq6', op: 'Mul', kind: 'Infinity', site: 'sq6' });
    expect(report.nonFiniteOutputs).toBe(1);
    expect(report.sites.map(({ nonFiniteInputs }) => nonFiniteInputs)).toEqual([0, 0, 0, 0, 0, 1]);
    expect(siteNamed(report, 'sq5').output.max).toBe(2 ** 96);
    expect(siteNamed(report, 'sq6').output).toMatchObject({ inf: 1, nan: 0, max: 1 });
    expect(report.escape).toMatchObject({ level: 'bad' });
    expect(report.escape.verdict).toMatch(
      /^activations escape: 1 of 3 inputs are not finite, Infinity first at Mul 'sq6'; the gains multiply to/,
    );
    // float64 goes further, but beyond float32 it is as good as lost.
    const wide = await probeOne(save(squarings(7, 'double')), spec);
    expect(wide.firstNonFinite).toMatchObject({ node: 'sq6', kind: 'Infinity' });
    expect(wide.escape.level).toBe('bad');
  });

  it('counts everything once, whichever way a batch was read', async () => {
    // Relu, then three squarings: some inputs are fine, some large, some infinite, some NaN.
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', ['N', 2, 3, 3]);
    const w = g.constant('w', 'float', [3, 2, 1, 1], [1, -1, 0.5, 0.25, -1, 2]);
    let y = g.node('Relu', [g.node('Conv', [x, w], {}, 'conv')], {}, 'relu');
    for (let i = 1; i <= 3; i++) y = g.node('Mul', [y, y], {}, `sq${i}`);
    g.output(g.node('GlobalAveragePool', [y], {}, 'pool'), 'y', 'float', ['N', 3, 1, 1]);
    const file = save(g.model);
    const count = 97;
    const rng = makeRng(8);
    const rows = Float32Array.from({ length: count * 18 }, (_, i) => {
      const row = Math.floor(i / 18);
      if (row === 61 && i % 18 === 3) return Number.NaN;
      if (row === 80 && i % 18 === 5) return Infinity;
      return rng.normal() * (row % 20 === 13 ? 1e6 : row % 20 === 14 ? 1e3 : 1);
    });
    const spec = npyData(folder, `mixed${unique}`, [count, 2, 3, 3], rows);
    const whole = await probeOne(file, spec, { batch: 5, sample: count, range: 2 });
    for (const options of [
      { batch: 5, sample: 1 },
      { batch: 5, sample: 30 },
      { batch: 1, sample: 1 },
      { batch: 40, sample: 1 },
    ]) {
      const report = await probeOne(file, spec, { ...options, range: 2 });
      expect(report.nonFiniteOutputs).toBe(whole.nonFiniteOutputs);
      expect(report.sampled).toBeLessThan(count);
      for (const site of report.sites) {
        const other = siteNamed(whole, site.name);
        for (const key of ['input', 'output'] as const) {
          const { min, max, channelMin, channelMax, nan, inf } = other[key];
          expect(site[key]).toMatchObject({ min, max, channelMin, channelMax, nan, inf });
        }
        expect([site.leaving, site.nonFiniteInputs]).toEqual([other.leaving, other.nonFiniteInputs]);
      }
    }
    const names = ['relu_output', 'sq1_output', 'sq2_output', 'sq3_output'];
    const values = await valuesOf(file, arrayFromNumbers('float', [count, 2, 3, 3], rows), names);
    const bad = names.map((name) => naive(values.get(name) as never).badRows);
    for (const i of [1, 2, 3])
      expect(siteNamed(whole, `sq${i}`).nonFiniteInputs).toBe(
        new Set(bad.slice(i - 1, i + 1).flatMap((set) => [...set])).size,
      );
    expect(bad.map((set) => set.size)).toEqual([2, 2, 2, 7]);
    expect(whole.firstNonFinite).toMatchObject({ node: null, kind: 'NaN' });
  });

  it('in the data', async () => {
    const values = [1, 2, 3, 4, 5, Number.NaN, -Infinity, 8];
    const spec = npyData(folder, 'nan', [4, 2], Float32Array.from(values));
    const report = await probeOne(save(squarings(2)), spec);
    expect(report.firstNonFinite).toEqual({ node: null, op: null, value: 'x', kind: 'NaN', site: null });
    expect(report.escape.verdict).toMatch(/^activations escape: 2 of 4 inputs are not finite, NaN first in the data/);
    expect(siteNamed(report, 'sq1').input).toMatchObject({ nan: 1, inf: 1, min: 1, max: 8 });
    expect(siteNamed(report, 'sq1').input.mean).toBeCloseTo(finite(values).reduce((a, b) => a + b) / 6, 6);
  });

  it.each<[string, (g: GraphBuilder, x: Value) => Value, object]>([
    ['Log', (g, x) => g.node('Log', [x], {}, 'log'), { node: 'log', op: 'Log', kind: 'NaN', site: null }],
    [
      'Div',
      (g, x) => g.node('Div', [x, g.node('Sub', [x, x], {}, 'zero')], {}, 'div'),
      { node: 'div', op: 'Div', site: null },
    ],
    [
      'Sqrt after a layer',
      (g, x) => g.node('Sqrt', [g.node('Neg', [g.node('Relu', [x], {}, 'first')], {}, 'neg')], {}, 'sqrt'),
      { node: 'sqrt', op: 'Sqrt', kind: 'NaN', site: 'first' },
    ],
  ])('made by %s, which is no layer', async (_, build, expected) => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', ['N', 2]);
    g.output(g.node('Relu', [build(g, x)], {}, 'relu'), 'y', 'float', ['N', 2]);
    const spec = npyData(
      folder,
      `signs${unique}`,
      [40, 2],
      Float32Array.from({ length: 80 }, (_, i) => (i < 60 ? 1 : i === 61 ? -1 : 2)),
    );
    for (const options of [{}, { batch: 4, sample: 1 }]) {
      const report = await probeOne(save(g.model), spec, options);
      expect(report.firstNonFinite).toMatchObject(expected);
      expect(report.escape.level).toBe('bad');
    }
  });

  it('made after the last layer, or in a model without layers', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', ['N', 2]);
    g.output(g.node('Log', [g.node('Neg', [x], {}, 'neg')], {}, 'log'), 'y', 'float', ['N', 2]);
    const spec = npyData(folder, `positive${unique}`, [3, 2], Float32Array.from([-1, -1, -1, 2, -1, -1]));
    const report = await probeOne(save(g.model), spec);
    expect(report).toMatchObject({ sites: [], nonFiniteOutputs: 1, firstNonFinite: { node: 'log' } });
    expect(report.escape).toMatchObject({ level: 'bad', gain: null });
  });

  it('in an output that has no row for each input', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', ['N', 2]);
    const logs = g.node('Log', [x], {}, 'log');
    g.output(
      g.node('ReduceSum', [logs, g.constant('axes', 'int64', [2], [0, 1])], { keepdims: 0 }, 'sum'),
      'y',
      'float',
      [],
    );
    const spec = npyData(folder, `sums${unique}`, [4, 2], Float32Array.from([1, 1, 1, 1, -1, 1, 1, 1]));
    const report = await probeOne(save(g.model), spec, { batch: 2 });
    expect(report).toMatchObject({ nonFiniteOutputs: 2, firstNonFinite: { node: 'log' }, escape: { level: 'bad' } });
  });

  it('made within If and Loop', async () => {
    const branch = (op: string, out: string) =>
      graphProto({ outputs: [[out, 'float', null]], nodes: [nodeProto(op, ['x'], [out])] });
    const body = graphProto({
      inputs: [
        ['i', 'int64', []],
        ['go', 'bool', []],
        ['v', 'float', null],
      ],
      outputs: [
        ['on', 'bool', []],
        ['w', 'float', null],
      ],
      nodes: [nodeProto('Identity', ['go'], ['on']), nodeProto('Mul', ['v', 'v'], ['w'])],
    });
    const cases = [
      [
        // The branch reads x from outside; the node itself has no input but the condition.
        nodeProto(
          'If',
          ['yes'],
          ['y'],
          [graphAttribute('then_branch', branch('Log', 't')), graphAttribute('else_branch', branch('Neg', 'e'))],
        ),
        'NaN',
      ],
      [nodeProto('Loop', ['times', 'yes', 'x'], ['y'], [graphAttribute('body', body)]), 'Infinity'],
    ] as const;
    for (const [node, kind] of cases) {
      const model = protoModel({
        inputs: [['x', 'float', ['N', 2]]],
        outputs: [['z', 'float', ['N', 2]]],
        nodes: [node, nodeProto('Relu', ['y'], ['z'])],
        initializers: [makeTensor('yes', 'bool', [], [1]), makeTensor('times', 'int64', [], [9])],
      });
      const spec = npyData(folder, `nested${unique}`, [3, 2], Float32Array.from([1, 1, -8, 1, 1, 1]));
      const report = await probeOne(save(model), spec);
      expect(report.firstNonFinite).toMatchObject({ node: 'n_y', op: node.op_type, kind, value: 'y' });
      expect(report.nonFiniteOutputs).toBe(1);
    }
  });
});

describe('ranges', () => {
  it('are those that the polynomials were fitted on, unless another is asked for', async () => {
    const { model: original } = network(17);
    const { model } = await rewriteModel(original, { poly: ['deg=4,a=3', 'leaky=deg=2,a=0.25'] });
    const file = save(model);
    const { spec } = data([60, 2, 6, 6]);
    const report = await probeOne(file, spec);
    expect(report.sites.map(({ name, range }) => [name, range])).toEqual([
      ['relu', 3],
      ['square', null],
      ['sigmoid', null],
      ['power', null],
      ['leaky', 0.25],
    ]);
    expect(siteNamed(report, 'square').leaving).toBeNull();
    expect(siteNamed(report, 'leaky').leaving).toBeGreaterThan(0);
    expect(report.escape).toMatchObject({ level: 'warning', excess: { site: 'leaky' } });
    expect(report.escape.verdict).toMatch(/^activations leave their range: up to [\d.]+ % of the inputs at a layer/);
    const { input } = siteNamed(report, 'leaky');
    expect(report.escape.excess?.times).toBe(Math.max(-(input.min ?? 0), input.max ?? 0) / 0.25);
    const asked = await probeOne(file, spec, { range: 1e9 });
    expect(asked.sites.map(({ range, leaving }) => [range, leaving])).toEqual(asked.sites.map(() => [1e9, 0]));
    expect(asked.escape.excess?.times).toBeLessThan(1e-3);
  });
});

describe('the statistics file', () => {
  const write = (report: ProbedModel, name = 'stats.json') => {
    const file = path.join(folder, name);
    writeFileSync(file, statisticsFile(report));
    return file;
  };

  it('gives --poly its ranges and --amm its channels', async () => {
    const { model } = network(17);
    const { spec } = data([60, 2, 6, 6]);
    const report = await probeOne(save(model), spec, { batch: 16, sample: 16 });
    const file = write(report);
    // Squares and powers stand in the file too; they are no activations, but no strangers either.
    const { passes, model: rewritten } = await rewriteModel(model, { poly: [`deg=4,a=${file}`] });
    const { applied, skipped } = passes.at(-1) as ReplaceActivationReport;
    expect(skipped).toEqual([]);
    const largest = (name: string) => {
      const { min, max } = siteNamed(report, name).input;
      return Math.max(-(min as number), max as number);
    };
    expect(applied.map(({ site, range }) => [site, range])).toEqual([
      ['relu', largest('relu')],
      ['leaky', largest('leaky')],
    ]);
    const again = await probeOne(save(rewritten), spec);
    expect(siteNamed(again, 'relu')).toMatchObject({ kind: 'polynomial', range: largest('relu'), leaving: 0 });

    const amm = await rewriteModel(model, { poly: ['deg=4,a=1'], amm: file, activations: ['relu'] });
    expect(amm.passes[0]?.applied.map(({ site }) => site)).toEqual(['relu']);
    const normalized = siteNamed(await probeOne(save(amm.model), spec), 'relu');
    for (const c of [0, 1, 2]) {
      expect(normalized.input.channelMin[c]).toBeCloseTo(-1, 5);
      expect(normalized.input.channelMax[c]).toBeCloseTo(1, 5);
    }
  });

  it('of a rewritten model serves its remaining activations, and the original', async () => {
    const { model: original } = network(17);
    const { spec } = data([20, 2, 6, 6]);
    const { model } = await rewriteModel(original, { poly: ['deg=4,a=3'], only: ['relu'] });
    const file = write(await probeOne(save(model), spec), 'half.json');
    for (const each of [model, original]) {
      const { passes } = await rewriteModel(each, { poly: [`deg=4,a=${file}`], activations: ['leaky-relu'] });
      expect(passes[0]?.applied.map(({ site }) => site)).toEqual(['leaky']);
    }
  });

  it('of another model is refused', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    g.output(g.node('Relu', [g.input('x', 'float', ['N', 2])], {}, 'rely'), 'y', 'float', ['N', 2]);
    const spec = npyData(folder, `two${unique}`, [3, 2], Float32Array.from([1, 2, 3, 4, 5, 6]));
    const file = write(await probeOne(save(g.model), spec), 'other.json');
    for (const options of [{ poly: [`deg=4,a=${file}`] }, { poly: ['deg=4,a=1'], amm: file }])
      await expect(rewriteModel(network(17).model, options)).rejects.toMatchObject({
        code: 'file',
        message: expect.stringContaining("names 'rely', which is no activation of this model; did you mean 'relu'?"),
      });
  });

  it('passes over a layer that holds nothing finite', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', ['N', 2]);
    const first = g.node('Relu', [x], {}, 'first');
    const nothing = g.node(
      'Log',
      [g.node('Sub', [first, g.constant('c', 'float', [2], [100, 0])], {}, 'sub')],
      {},
      'log',
    );
    g.output(g.node('Relu', [nothing], {}, 'second'), 'y', 'float', ['N', 2]);
    const spec = npyData(folder, `log${unique}`, [3, 2], Float32Array.from([1, 2, 3, 4, 5, 6]));
    const report = await probeOne(save(g.model), spec);
    expect(siteNamed(report, 'second').input.channelMax).toEqual([null, Math.fround(Math.log(6))]);
    const file = write(report, 'nothing.json');
    const reason = 'the statistics hold a channel of it without a finite value';
    for (const options of [{ poly: [`deg=4,a=${file}`] }, { poly: ['deg=4,a=1'], amm: file }]) {
      const [pass] = (await rewriteModel(g.model, options)).passes;
      expect(pass?.applied.map(({ site }) => site)).toEqual(['first']);
      expect(pass?.skipped).toEqual([{ site: 'second', reason }]);
    }
  });
});

describe('escape score', () => {
  it('is about what the data do', async () => {
    const { model } = network(17);
    const { spec } = data([40, 2, 6, 6]);
    expect((await probeOne(save(model), spec)).escape).toMatchObject({
      level: expect.stringMatching(/good|warning/),
      excess: null,
    });
    const g = buildModel({ name: 'g', opset: 17 });
    g.output(g.node('Relu', [g.input('x', 'float', ['N', 50])], {}, 'relu'), 'y', 'float', ['N', 50]);
    const normal = data([400, 50], 5, `normal${unique}`).spec;
    const good = await probeOne(save(g.model), normal);
    expect(good.escape).toMatchObject({ level: 'good', verdict: expect.stringMatching(/^no polynomial layers/) });
    expectNear(siteNamed(good, 'relu').gain, 1, 0.03, 'gain of relu');
    const { model: quad } = await rewriteModel(g.model, { poly: ['quad'] });
    const squared = await probeOne(save(quad), normal);
    expect(squared.escape).toMatchObject({ level: 'good', verdict: expect.stringMatching(/^nothing escapes/) });
    expectNear(siteNamed(squared, 'relu').gain, 2, 0.03, 'gain of a square');
  });
});

it('several models, each with its own report', async () => {
  const { model } = network(17);
  const { model: poly } = await rewriteModel(model, { poly: ['deg=2,a=3'] });
  const files = [saveModel(folder, 'original', model), saveModel(folder, 'poly', poly)];
  const { spec } = data([10, 2, 6, 6]);
  const report = await probe(files, { data: spec });
  expect(report.models.map(({ path: file }) => file)).toEqual(files);
  expect(report.models[0]?.sites.map(({ name }) => name)).toEqual(report.models[1]?.sites.map(({ name }) => name));
  expect(report.device).toEqual({ name: 'cpu', why: 'as asked' });
  // Probing changes no file.
  expect(readModel(files[0] as string).graph.outputs.map(({ value }) => value.name)).toEqual(['y']);
});

it('an interruption leaves what was seen, if that is wanted', async () => {
  const file = save(network(17).model);
  const { spec } = data([200, 2, 6, 6]);
  const stopAt = (done: number) => {
    const stop = new AbortController();
    return {
      batch: 10,
      signal: stop.signal,
      onProgress: (event: { done: number }) => event.done >= done && stop.abort(),
    };
  };
  await expect(probeOne(file, spec, stopAt(50))).rejects.toMatchObject({ code: 'aborted' });
  const report = await probeOne(file, spec, { ...stopAt(50), partial: true });
  expect(report.partial).toBe(true);
  expect(report.images).toBeLessThan(200);
  const { models } = await probe([file, file], { data: spec, ...stopAt(200), partial: true });
  expect(models.map(({ images, partial }) => [images, partial])).toEqual([[200, false]]);
});
