import { describe, expect, it } from 'vitest';
import { arrayFromNumbers } from '../../src/eval/session.ts';
import { floatAttribute } from '../../src/graph/attributes.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model, Value } from '../../src/graph/ir.ts';
import { verify } from '../../src/graph/verify.ts';
import { insertAmm } from '../../src/passes/insert-amm.ts';
import { parseStatistics } from '../../src/passes/statistics.ts';
import { expectClose, noise, numbersOf, ops, runModel } from '../support/numeric.ts';

type Builder = ReturnType<typeof buildModel>;

/** x [N, 3, 4, 4] through `before`, then a ReLU called `act`. */
function network(before: (b: Builder, x: Value) => Value, opset = 17): Model {
  const b = buildModel({ name: 'g', opset });
  const x = b.input('x', 'float', ['N', 3, 4, 4]);
  b.output(b.node('Relu', [before(b, x)], {}, 'act'), 'y', 'float', ['N', 3, 4, 4]);
  return b.model;
}

const conv = (b: Builder, x: Value) =>
  b.node(
    'Conv',
    [x, b.constant('w', 'float', [3, 3, 3, 3], noise(81, 2)), b.constant('bias', 'float', [3], [0.1, -0.2, 0.3])],
    { pads: [1, 1, 1, 1] },
    'conv',
  );
const batchnorm = (b: Builder, x: Value) =>
  b.node(
    'BatchNormalization',
    [
      x,
      b.constant('gamma', 'float', [3], [1, 2, 0.5]),
      b.constant('beta', 'float', [3], [0, 0.1, 0.2]),
      b.constant('mean', 'float', [3], [0.5, 0, -1]),
      b.constant('var', 'float', [3], [1, 4, 0.25]),
    ],
    { epsilon: floatAttribute('epsilon', 1e-5) },
    'bn',
  );

const statistics = { sites: { act: { channelMin: [-2, -1, 0.5], channelMax: [2, 0.5, 0.5] } } };
const feeds = new Map([['x', arrayFromNumbers('float', [2, 3, 4, 4], noise(96, 5))]]);

/** The pre-activation of the original, channel by channel, mapped in float64. */
async function expected(original: Model, map: (x: number, channel: number) => number): Promise<number[]> {
  const linear = cloneModel(original);
  const relu = linear.graph.nodes.find(({ op }) => op === 'Relu');
  if (!relu) throw new Error('no Relu');
  // Swapped for the identity, so that the pre-activation is what comes out.
  Object.assign(relu, { op: 'Identity', proto: null });
  const values = numbersOf(await runModel(linear, feeds), 'y');
  return [...values].map((x, i) => Math.max(0, map(x, Math.floor(i / 16) % 3)));
}

describe('AMM', () => {
  const amm = (x: number, c: number) =>
    [(2 * (x + 2)) / 4 - 1, (2 * (x + 1)) / 1.5 - 1, 2 * (x - 0.5) - 1][c] as number;

  it.each([
    ['Conv', conv, ['Conv', 'Relu']],
    ['BatchNormalization', batchnorm, ['BatchNormalization', 'Relu']],
    [
      'a residual addition',
      (b: Builder, x: Value) => b.node('Add', [conv(b, x), x]),
      ['Conv', 'Add', 'Mul', 'Add', 'Relu'],
    ],
  ] as const)('after %s', async (_, before, after) => {
    const original = network(before);
    const model = cloneModel(original);
    const report = await insertAmm.run(model, { statistics });
    expect(report.skipped).toEqual([]);
    expect(report.applied).toHaveLength(1);
    expect(report.applied[0]?.detail).toMatch(/1 constant channels left unscaled$/);
    expect(ops(model)).toEqual(after);
    expect(verify(model)).toEqual([]);
    expectClose(numbersOf(await runModel(model, feeds), 'y'), await expected(original, amm), 1e-5);
  });

  it('leaves what else reads the pre-activation alone', async () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', [2, 3, 4, 4]);
    const pre = conv(b, x);
    b.output(b.node('Relu', [pre], {}, 'act'), 'y', 'float', [2, 3, 4, 4]);
    b.output(pre, 'pre', 'float', [2, 3, 4, 4]);
    const original = cloneModel(b.model);
    await insertAmm.run(b.model, { statistics });
    expect(ops(b.model)).toEqual(['Conv', 'Mul', 'Add', 'Relu']);
    const [before, after] = [await runModel(original, feeds), await runModel(b.model, feeds)];
    expectClose(numbersOf(after, 'pre'), numbersOf(before, 'pre'), 0);
  });

  it('names the channel or the site that the statistics do not fit', async () => {
    const model = () => network(conv);
    const run = (sites: object) => insertAmm.run(model(), { statistics: { sites: sites as never } });
    expect(() => run({ act: { channelMin: [0], channelMax: [1] } })).toThrow(
      "site 'act' has 3 channels, but the statistics hold 1 minima and 1 maxima",
    );
    expect(() => run({ act: { channelMin: [0, 0, 2], channelMax: [1, 1, 1] } })).toThrow(
      "site 'act', channel 2: the minimum 2 is above the maximum 1",
    );
    expect(await run({})).toMatchObject({
      applied: [],
      skipped: [{ site: 'act', reason: 'the statistics hold nothing for it' }],
    });
    expect(() => run({ akt: statistics.sites.act })).toThrow(
      "names 'akt', which is no activation of this model; did you mean 'act'?",
    );
    expect(() => parseStatistics('{"sites": {"act": {"channelMin": ["a"]}}}', 's.json')).toThrow(
      's.json: sites.act.channelMin.0',
    );
    expect(() => parseStatistics('{', 's.json')).toThrow('s.json: not JSON');
  });
});

describe('MM', () => {
  it.each([13, 17, 18, 21])('takes the true range at run time (opset %i)', async (opset) => {
    const original = network(conv, opset);
    const model = cloneModel(original);
    const report = await insertAmm.run(model, {});
    expect(report.applied).toHaveLength(1);
    expect(verify(model)).toEqual([]);
    expect(ops(model)).toEqual(['Conv', 'ReduceMin', 'ReduceMax', 'Sub', 'Add', 'Sub', 'Div', 'Mul', 'Sub', 'Relu']);
    const pre = await expected(original, (x) => x + 100); // shifted, so that ReLU keeps every value
    const range = [0, 1, 2].map((c) => {
      const values = pre.filter((_, i) => Math.floor(i / 16) % 3 === c);
      return [Math.min(...values), Math.max(...values)] as const;
    });
    const want = pre.map((x, i) => {
      const [min, max] = range[Math.floor(i / 16) % 3] as readonly [number, number];
      return Math.max(0, (2 * (x - min)) / (max - min) - 1);
    });
    expectClose(numbersOf(await runModel(model, feeds), 'y'), want, 1e-5);
  });

  it('gives -beta, not NaN, for a constant channel', async () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', [2, 3, 4, 4]);
    const zero = b.node('Mul', [x, b.constant('nil', 'float', [], [0])]);
    b.output(b.node('LeakyRelu', [zero], { alpha: 0.5 }, 'act'), 'y', 'float', [2, 3, 4, 4]);
    await insertAmm.run(b.model, {});
    expectClose(numbersOf(await runModel(b.model, feeds), 'y'), new Array(96).fill(-0.5), 1e-6);
  });
});
