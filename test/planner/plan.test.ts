import { readFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { evaluate } from '../../src/eval/accuracy.ts';
import { readModel } from '../../src/graph/read.ts';
import { summarize } from '../../src/inspect.ts';
import { parsePlan } from '../../src/passes/plan-file.ts';
import type { Candidate } from '../../src/planner/candidates.ts';
import { dp, greedy, type Planning } from '../../src/planner/methods.ts';
import { type PlanOptions, planModel, planReplacement } from '../../src/planner/plan.ts';
import type { Choices, Quality } from '../../src/planner/trial.ts';
import { parsePolynomial } from '../../src/poly/polynomial.ts';
import { parseSpec } from '../../src/poly/spec.ts';
import { rewrite } from '../../src/rewrite.ts';
import { makeRng } from '../../src/rng.ts';
import { npyData, saveModel, testFolder } from '../support/arrays.ts';
import { signalAfter } from '../support/cli.ts';
import { sharedData, sharedDataMissing } from '../support/data.ts';
import { noise } from '../support/numeric.ts';
import { functionProto, nodeProto, protoModel } from '../support/passes.ts';
import { REPOSITORY, SHARED, sharedMissing } from '../support/shared.ts';

const folder = testFolder();
const LENET = path.join(REPOSITORY, 'models/lenet.onnx');
const DATA = { data: 'synthetic', images: 60, seed: 3 };

const plan = (options: Partial<PlanOptions>) => planModel(readModel(LENET), LENET, { ...DATA, ...options });
const untimed = (report: object) => ({ ...report, seconds: 0 });

describe('plans for LeNet', () => {
  it.each([
    { method: 'dp', budget: 'relus=50%' },
    { method: 'dp', budget: 'sites=3', degrees: [2, 3, 4] },
    { method: 'dp', budget: 'depth=21' },
    { method: 'dp', budget: 'depth=17,relus=20%' },
    { method: 'dp', budget: 'accuracy=5%' },
    { method: 'greedy', budget: 'relus=30%' },
    { method: 'greedy', budget: 'depth=20' },
    { method: 'greedy', budget: 'accuracy=5%' },
    { method: 'delphi' },
    { method: 'delphi', budget: 'sites=2' },
    { method: 'random', budget: 'relus=50%' },
    { method: 'random', budget: 'relus=50%', perChannel: true },
    { method: 'dp', budget: 'relus=50%', perChannel: true },
  ] as const)('keep to the budget: %j', async (options) => {
    const report = await plan(options);
    const { elements, depth, before, after, sites } = report;
    const [, value = ''] = /relus=(\d+)%/.exec(report.budget ?? '') ?? [];
    if (value) expect(elements.kept / elements.all).toBeLessThanOrEqual(Number(value) / 100);
    const [, count = ''] = /sites=(\d+)/.exec(report.budget ?? '') ?? [];
    if (count)
      expect(sites.filter(({ polynomial }) => polynomial !== null).length).toBeGreaterThanOrEqual(Number(count));
    const [, levels = ''] = /depth=(\d+)/.exec(report.budget ?? '') ?? [];
    if (levels) expect(depth.after).toBeLessThanOrEqual(Number(levels));
    if (report.budget?.startsWith('depth') && !value) expect(elements.kept).toBe(0);
    const drop = /accuracy/.test(report.budget ?? '') ? 0.05 : 1;
    expect((before.accuracy ?? 0) - (after.accuracy ?? 0)).toBeLessThanOrEqual(drop + 1e-9);
    expect(sites.reduce((sum, { kept }) => sum + (kept ?? 0), 0)).toBe(elements.kept);
  });

  it('are the same every time, with the same seed', async () => {
    const options = { method: 'random', budget: 'relus=50%' } as const;
    const [first, again, other] = await Promise.all([plan(options), plan(options), plan({ ...options, seed: 4 })]);
    expect(untimed(first)).toEqual(untimed(again));
    expect(other.plan.sites).not.toEqual(first.plan.sites);
  });

  it('become files that rewrite carries out, with the depth, the elements and the accuracy that were promised', async () => {
    const output = path.join(folder, 'plan.json');
    const options = { ...DATA, images: 100, budget: 'relus=55%', perChannel: true, method: 'random', output } as const;
    const report = await planReplacement(LENET, options);
    expect(report.sites.some(({ channels }) => channels !== null)).toBe(true);
    const file = parsePlan(readFileSync(output, 'utf8'), output);
    expect(file).toEqual(JSON.parse(JSON.stringify(report.plan)));
    expect(file).toMatchObject({
      plan: 1,
      model: 'lenet.onnx',
      method: 'random',
      budget: 'relus=55%',
      seed: 3,
      images: 100,
    });
    const result = path.join(folder, 'planned.onnx');
    await rewrite(LENET, { plan: output, output: result });
    const summary = summarize(readModel(result));
    expect(summary.depth).toBe(report.depth.after);
    expect(summary.activationElements).toBe(report.elements.kept);
    const { models } = await evaluate([result], { data: DATA.data, split: 'train', limit: 100, seed: 3 });
    expect(models[0]?.top1).toBeCloseTo(report.after.accuracy ?? Number.NaN, 6);
    await expect(planReplacement(LENET, options)).rejects.toThrow(/exists already; give --force/);
    await planReplacement(LENET, { ...options, force: true });
  });

  it('exchange channels between sites where that lowers the error, within the same budget', async () => {
    const options = { budget: 'relus=50%', degrees: [2] } as const;
    const [sites, channels] = [
      await plan({ ...options, method: 'dp' }),
      await plan({ ...options, method: 'channels' }),
    ];
    expect(channels.after.error).toBeLessThanOrEqual(sites.after.error);
    for (const { elements } of [sites, channels]) expect(elements.kept).toBeLessThanOrEqual(0.5 * elements.all);
    expect(channels.sites.map(({ name }) => name)).toEqual(sites.sites.map(({ name }) => name));
  });

  it('take the polynomials that are asked for', async () => {
    const fixed = await plan({ budget: 'sites=4', recipe: parseSpec('coeffs=0.1:0.5:0.25') });
    for (const { polynomial } of fixed.sites) expect(polynomial).toBe('0.1 + 0.5 x + 0.25 x^2');
    const delphi = await plan({ method: 'delphi', budget: 'sites=4' });
    for (const { polynomial } of delphi.sites) expect(polynomial).toBe('0.1992 + 0.5002 x + 0.1997 x^2');
    const safenet = await plan({ method: 'safenet', budget: 'relus=60%', only: ['relu1', 'relu2'] });
    for (const [name, site] of Object.entries(safenet.plan.sites)) {
      if (!('polynomials' in site)) continue;
      expect(name).toMatch(/^relu[12]$/);
      for (const text of site.polynomials) expect(parsePolynomial(text).stages[0]?.coefficients.length).toBeLessThan(5);
    }
    expect(safenet.sites.find(({ name }) => name === 'relu3')?.reason).toBe('not among --only');
  });

  it.each([
    [{}, /--budget: say how much/],
    [{ budget: 'relus=50%', method: 'best' as never }, /no method 'best'/],
    [{ budget: 'depth=3' }, /the least depth is \d+, \d+ of them without activations/],
    [{ budget: 'sites=9' }, /only 4 activations can be replaced, so sites=4 is the most/],
    [
      { budget: 'relus=10%', skip: ['relu1'] },
      /elements are at activations that can't be replaced \('relu1': --skip relu1\)/,
    ],
    [{ budget: 'accuracy=1%', method: 'delphi' }, /--method delphi takes relus= or sites=/],
    [{ budget: 'sites=2', method: 'safenet' }, /--method safenet takes relus=/],
    [{ budget: 'sites=2', method: 'random', perChannel: true }, /takes relus=/],
    [{ budget: 'relus=50%', degrees: [11] }, /11 is no whole number from 1 to 10/],
    [{ budget: 'relus=50%', degrees: [2], recipe: parseSpec('quad') }, /--poly says what the polynomials are/],
    [{ budget: 'relus=50%', recipe: parseSpec('deg=4,a=stats.json') }, /plans measure for themselves: a=data/],
    [{ budget: 'relus=50%', recipe: parseSpec('preset=precise') }, /composites can't be planned with/],
    [{ budget: 'relus=50%', recipe: parseSpec('deg=12,a=5') }, /plans are made with degrees up to 10/],
    [{ budget: 'sites=1', activations: ['gelu'] }, /there is no activation to choose from/],
  ] as const)('refuse %j in one line', async (options, message) => {
    await expect(plan(options as Partial<PlanOptions>)).rejects.toThrow(message);
    await expect(plan(options as Partial<PlanOptions>)).rejects.toMatchObject({ code: 'usage' });
  });

  it('fail where everything within the budget loses too much', async () => {
    // Without labels it is agreement that must not fall.
    const data = npyData(folder, 'plain', [40, 1, 28, 28], Float32Array.from(noise(40 * 784, 6)));
    const failing = plan({ data, budget: 'relus=0,accuracy=0%', recipe: parseSpec('coeffs=9:-5:7'), method: 'random' });
    await expect(failing).rejects.toMatchObject({ code: 'gate' });
  });

  it('stop between evaluations when interrupted', async () => {
    for (const looks of [2, 7, 12, 17])
      await expect(plan({ budget: 'relus=50%', signal: signalAfter(looks) })).rejects.toMatchObject({
        code: 'aborted',
      });
  });
});

it('activations in functions stay, and are told', async () => {
  const inner = functionProto('f', ['a'], ['b'], [nodeProto('Relu', ['a'], ['b'])]);
  const model = protoModel({
    inputs: [['x', 'float', ['N', 6]]],
    outputs: [['y', 'float', ['N', 6]]],
    nodes: [nodeProto('Relu', ['x'], ['h']), nodeProto('f', ['h'], ['y'], [], 'local')],
    functions: [inner],
  });
  const data = npyData(folder, 'rows', [30, 6], Float32Array.from(noise(180, 5)));
  const file = saveModel(folder, 'calls', model);
  const report = await planReplacement(file, { data, budget: 'sites=1' });
  expect(report.sites.map(({ reason }) => reason !== null)).toEqual([false, true]);
  expect(report.before.accuracy).toBeNull();
  expect(report.notes.join()).toContain('no labels');
  await expect(planReplacement(file, { data, budget: 'relus=20%' })).rejects.toThrow(/so relus=6 is the least/);
});

/** A network in which the errors of sites just add up. */
function additive(costs: readonly (readonly number[])[], elements: readonly number[], limit: number): Planning {
  const candidates = costs.map(
    (list, i): Candidate => ({
      name: `s${i}`,
      label: 'relu',
      axes: null,
      splits: false,
      elements: elements[i] ?? 1,
      options: list.map((_, degree) => ({ polynomials: [[i, degree]], degree: degree + 1, levels: degree + 1 })),
    }),
  );
  const quality = (error: number): Quality => ({ accuracy: 1 - error, agreement: 1, error, nonFinite: 0, images: 1 });
  const errorOf = (choices: Choices) =>
    choices.reduce((sum, choice, i) => sum + (choice ? (costs[i]?.[choice.polynomials[0]?.[1] ?? 0] ?? 0) : 0), 0);
  return {
    candidates,
    limits: { elements: limit, sites: Number.POSITIVE_INFINITY, levels: Number.POSITIVE_INFINITY, drop: null },
    original: quality(0),
    evaluate: async (choices) => quality(errorOf(choices)),
    rng: makeRng(1),
  };
}

describe('where errors add up', () => {
  const site = fc.record({
    costs: fc.array(fc.nat(50), { minLength: 1, maxLength: 2 }),
    elements: fc.integer({ min: 1, max: 9 }),
  });
  const instance = fc.record({
    sites: fc.array(site, { minLength: 1, maxLength: 6 }),
    share: fc.double({ min: 0, max: 1, noNaN: true }),
  });

  it('dp finds the best plan there is, and greedy one within the limit', async () => {
    await fc.assert(
      fc.asyncProperty(instance, async ({ sites, share }) => {
        const costs = sites.map(({ costs }) => costs.map((cost) => cost / 1000));
        const elements = sites.map((each) => each.elements);
        const limit = Math.floor(share * elements.reduce((a, b) => a + b, 0));
        let best = Number.POSITIVE_INFINITY;
        for (let kept = 0; kept < 2 ** sites.length; kept++) {
          const isKept = (i: number) => ((kept >> i) & 1) === 1;
          if (elements.reduce((sum, count, i) => sum + (isKept(i) ? count : 0), 0) > limit) continue;
          best = Math.min(
            best,
            costs.reduce((sum, list, i) => sum + (isKept(i) ? 0 : Math.min(...list)), 0),
          );
        }
        const planning = additive(costs, elements, limit);
        const { error } = await planning.evaluate((await dp(planning)).choices);
        expect(error).toBeCloseTo(best, 9);
        const { choices } = await greedy(planning);
        expect((await planning.evaluate(choices)).error).toBeGreaterThanOrEqual(best - 1e-9);
        expect(choices.reduce((sum, choice, i) => sum + (choice ? 0 : (elements[i] ?? 0)), 0)).toBeLessThanOrEqual(
          limit,
        );
      }),
      { numRuns: 100 },
    );
  });
});

const missing = sharedMissing || sharedDataMissing;
describe.skipIf(missing)('a trained network on MNIST', () => {
  const file = path.join(SHARED, 'models/burn_mnist.onnx');

  it('loses less by a plan than by chance, and keeps its accuracy with measured fits', async () => {
    const data = `mnist:${path.join(sharedData('mnist'), 'mnist')}`;
    const options = { data, images: 100, seed: 1, budget: 'relus=50%', recipe: parseSpec('deg=2,a=data') } as const;
    const model = readModel(file);
    const planned = await planModel(model, file, options);
    const chance = await planModel(model, file, { ...options, method: 'random' });
    expect(planned.after.error).toBeLessThanOrEqual(chance.after.error);
    const { recipe: _, ...measured } = options;
    const { before, after } = await planModel(model, file, { ...measured, method: 'greedy', degrees: [4] });
    expect(after.accuracy).toBeGreaterThan((before.accuracy ?? 1) - 0.03);
  });
});
