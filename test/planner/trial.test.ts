import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CPU } from '../../src/eval/device.ts';
import { openFeed } from '../../src/eval/feed.ts';
import { arrayFromNumbers, arrayNumbers, openSession } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { ElementType, Model } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { verify } from '../../src/graph/verify.ts';
import { serialize } from '../../src/graph/write.ts';
import type { SitePlan } from '../../src/passes/plan-file.ts';
import { runReplaceActivation } from '../../src/passes/replace-activation.ts';
import { addSwitches, type Choices, openTrial, switchInputs, type TrialSite } from '../../src/planner/trial.ts';
import { formatPolynomial, powers } from '../../src/poly/polynomial.ts';
import { npyData, testFolder } from '../support/arrays.ts';
import { noise } from '../support/numeric.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
const CHANNELS = 4;
const SITES: TrialSite[] = ['first', 'second', 'third'].map((name) => ({
  name,
  axes: { rank: name === 'third' ? 2 : 4, channels: CHANNELS },
}));

/** Three sites of different kinds, a way around the second one, and logits. */
function network(opset: number, elem: ElementType = 'float'): Model {
  const g = buildModel({ name: 'g', opset, irVersion: 8 });
  const x = g.input('x', elem, ['N', 2, 5, 5]);
  const weights = (name: string, dims: number[], seed: number) =>
    g.constant(
      name,
      elem,
      dims,
      noise(
        dims.reduce((a, b) => a * b, 1),
        seed,
      ),
    );
  const first = g.node(
    'Relu',
    [g.node('Conv', [x, weights('w1', [CHANNELS, 2, 3, 3], 1)], { pads: [1, 1, 1, 1] })],
    {},
    'first',
  );
  const second = g.node(
    'LeakyRelu',
    [g.node('Conv', [first, weights('w2', [CHANNELS, CHANNELS, 1, 1], 2)])],
    {},
    'second',
  );
  const pooled = g.node('Flatten', [g.node('GlobalAveragePool', [g.node('Add', [first, second])])], { axis: 1 });
  const third = g.node('Relu', [pooled], {}, 'third');
  g.output(g.node('MatMul', [third, weights('w3', [CHANNELS, 3], 3)]), 'y', elem, ['N', 3]);
  return g.model;
}

async function outputs(model: Model, rows: number, elem: ElementType = 'float', parameters = new Map()) {
  const session = await openSession(serialize(model, { inline: true }), { optimize: false });
  const x = arrayFromNumbers(elem, [rows, 2, 5, 5], noise(rows * 50, 9));
  const results = await session.run(new Map([['x', x], ...parameters]));
  await session.release();
  return arrayNumbers([...results.values()][0] as never);
}

/** What `rewrite --plan` makes of the same choices. */
function rewritten(model: Model, choices: Choices): Model {
  const copy = cloneModel(model);
  const sites = SITES.map(({ name }, i): [string, SitePlan] => {
    const choice = choices[i];
    if (!choice) return [name, { keep: 'all' }];
    const polynomials = choice.polynomials.map((list) => formatPolynomial(powers(...list)));
    return [name, { polynomials, ...(choice.keep && { keep: [...choice.keep] }) }];
  });
  const plan = { plan: 1 as const, sites: Object.fromEntries(sites) };
  const { applied } = runReplaceActivation(copy, { poly: [], plan });
  expect(applied).toHaveLength(choices.filter((choice) => choice !== null).length);
  return copy;
}

/** float32 rounding of sums of a few dozen products of numbers around 1, in different orders. */
const CLOSE = 5e-5;
const difference = (a: Float64Array, b: Float64Array) => {
  expect(a.length).toBe(b.length);
  return Math.max(...a.map((x, i) => Math.abs(x - (b[i] as number)) / (1 + Math.abs(b[i] as number))));
};

const coefficient = fc.integer({ min: -500, max: 500 }).map((n) => n / 1000);
const coefficients = fc.tuple(coefficient, coefficient, coefficient, coefficient);
const choice = fc.option(
  fc.record(
    {
      polynomials: fc.oneof(
        coefficients.map((list) => [list]),
        fc.array(coefficients, { minLength: CHANNELS, maxLength: CHANNELS }),
      ),
      keep: fc.subarray([0, 1, 2, 3], { maxLength: CHANNELS - 1 }),
    },
    { requiredKeys: ['polynomials'] },
  ),
);

describe('the trial network', () => {
  it.each([
    [8, 'float'],
    [13, 'float'],
    [18, 'float16'],
  ] as const)('with everything kept is the original: opset %i, %s', async (opset, elem) => {
    const original = network(opset, elem);
    const names = SITES.map(({ name }) => name);
    const { model, switches } = await addSwitches(original, names, 3, 'net');
    expect(verify(model)).toEqual([]);
    const keep = switchInputs(switches, SITES, [null, null, null]);
    // onnxruntime computes float16 in float32 and rounds at places of its choice: to 11 bits.
    const tolerance = elem === 'float' ? 1e-6 : 4 * 2 ** -11;
    expect(difference(await outputs(model, 6, elem, keep), await outputs(original, 6, elem))).toBeLessThan(tolerance);
  });

  it('is what the rewritten network is, whatever is chosen', async () => {
    const original = network(13);
    const names = SITES.map(({ name }) => name);
    const { model, switches } = await addSwitches(original, names, 3, 'net');
    await fc.assert(
      fc.asyncProperty(fc.tuple(choice, choice, choice), async (choices) => {
        const trial = await outputs(model, 4, 'float', switchInputs(switches, SITES, choices));
        expect(difference(trial, await outputs(rewritten(original, choices), 4))).toBeLessThan(CLOSE);
      }),
      { numRuns: 40 },
    );
  });

  it('lets nothing through from the branch that is not taken', async () => {
    const { model, switches } = await addSwitches(network(13), ['first'], 2, 'net');
    const site = SITES.slice(0, 1);
    const huge = [[3e38, 3e38, 3e38]];
    const one = { polynomials: [...huge, ...huge, ...huge, ...huge], keep: [0, 1, 2, 3] };
    const kept = await outputs(model, 2, 'float', switchInputs(switches, site, [one]));
    expect(difference(kept, await outputs(network(13), 2))).toBeLessThan(1e-6);
    const gone = await outputs(model, 2, 'float', switchInputs(switches, site, [{ polynomials: huge }]));
    expect(gone.some((value) => !Number.isFinite(value))).toBe(true);
  });
});

describe('a trial', () => {
  const file = path.join(REPOSITORY, 'models/lenet.onnx');
  const run = { data: 'synthetic', limit: 60, batch: 25 };
  const sites = ['relu1', 'relu2', 'relu3', 'relu4'].map((name) => ({ name, axes: null }));
  const open = async (options = run) =>
    openTrial(await openFeed(readModel(file), file, options), { device: CPU, run: options, sites, degree: 4 });

  it('counts, and measures nothing twice', async () => {
    const trial = await open();
    expect(trial.original).toMatchObject({ agreement: 1, error: 0, nonFinite: 0, images: 60 });
    expect(trial.evaluations()).toBe(1);
    const square = { polynomials: [[0.2, 0.5, 0.2]] };
    const quality = await trial.evaluate([square, null, null, null]);
    expect(quality.error).toBeGreaterThan(0);
    expect(await trial.evaluate([{ ...square }, null, null, null])).toBe(quality);
    expect(trial.evaluations()).toBe(2);
    expect((await trial.evaluate([square, null, null, null], 30)).images).toBe(30);
    const huge = { polynomials: [[3e38, 3e38, 3e38]] };
    const lost = await trial.evaluate([huge, huge, huge, huge]);
    expect(lost).toMatchObject({ accuracy: 0, agreement: 0, error: 1, nonFinite: 60 });
    await trial.release();
  });

  it('does without labels', async () => {
    const rows = npyData(folder, 'rows', [20, 1, 28, 28], Float32Array.from(noise(20 * 784, 4)));
    const trial = await open({ ...run, data: rows });
    expect(trial.original).toMatchObject({ accuracy: null, agreement: 1, images: 20 });
    await trial.release();
  });
});
