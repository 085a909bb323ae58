import { describe, expect, it } from 'vitest';
import { arrayFromNumbers } from '../../src/eval/session.ts';
import { nonlinearSites } from '../../src/eval/sites.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { verify } from '../../src/graph/verify.ts';
import { summarize } from '../../src/inspect.ts';
import type { PlanFile, SitePlan } from '../../src/passes/plan-file.ts';
import { runReplaceActivation } from '../../src/passes/replace-activation.ts';
import { makeRng } from '../../src/rng.ts';
import { numbersOf, ops, runModel } from '../support/numeric.ts';

const CHANNELS = 5;
const PLANE = 6;

/** relu(x) on [2, 5, 2, 3], and something that reads it. */
function network(op = 'Relu', attributes = {}): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', [2, CHANNELS, 2, 3]);
  const y = b.node(op, [x], attributes, 'act');
  b.output(b.node('Flatten', [y], { axis: 1 }), 'y', 'float', [2, CHANNELS * PLANE]);
  return b.model;
}

const planned = (site: SitePlan): PlanFile => ({ plan: 1, sites: { act: site } });
const replace = (model: Model, site: SitePlan) => runReplaceActivation(model, { poly: [], plan: planned(site) });

/** By channel: what comes out for what goes in. */
async function run(model: Model): Promise<{ x: number; y: number; channel: number }[]> {
  const rng = makeRng(3);
  const values = Float32Array.from({ length: 2 * CHANNELS * PLANE }, () => 2 * rng.normal());
  const feeds = new Map([['x', arrayFromNumbers('float', [2, CHANNELS, 2, 3], values)]]);
  const y = numbersOf(await runModel(model, feeds), 'y');
  return [...values].map((x, i) => ({ x, y: y[i] as number, channel: Math.floor(i / PLANE) % CHANNELS }));
}

describe('channels that keep their activation', () => {
  it.each([[[1, 3]], [[0]], [[4, 0, 2]], [[0, 1, 2, 3]]])(
    '%j stay, the others get their own polynomials',
    async (keep) => {
      const model = network();
      const polynomials = Array.from({ length: CHANNELS }, (_, c) => `${c} + 0.5 x + 0.${c + 1} x^2`);
      const report = replace(model, { polynomials, keep });
      expect(report.skipped).toEqual([]);
      expect(report.applied).toMatchObject([{ site: 'act', keptChannels: keep.length, degree: 2 }]);
      expect(verify(model)).toEqual([]);
      for (const { x, y, channel } of await run(model)) {
        const expected = keep.includes(channel) ? Math.max(0, x) : channel + 0.5 * x + ((channel + 1) / 10) * x * x;
        expect(Math.abs(y - expected)).toBeLessThanOrEqual(4e-6 * Math.max(1, Math.abs(expected)));
      }
    },
  );

  it('are all that a garbled circuit is needed for', () => {
    const model = network();
    replace(model, { polynomials: ['0.2 + 0.5 x + 0.2 x^2'], keep: [1, 3] });
    const { privateInference, sites } = summarize(model);
    expect(privateInference.reluElements).toBe(2 * PLANE);
    expect(sites.map(({ name }) => name)).toEqual(['act/kept']);
    // `probe` sees both parts, the polynomial by the name that it had.
    expect(nonlinearSites(model, inferTypes(model)).sites.map(({ name, kind }) => [name, kind])).toEqual(
      expect.arrayContaining([
        ['act', 'polynomial'],
        ['act/kept', 'relu'],
      ]),
    );
  });

  it('one polynomial may serve all channels, and all channels may go', async () => {
    const model = network();
    replace(model, { polynomials: ['0.2 + 0.5 x + 0.2 x^2'], keep: [] });
    expect(ops(model)).not.toContain('Gather');
    for (const { x, y } of await run(model)) expect(y).toBeCloseTo(0.2 + 0.5 * x + 0.2 * x * x, 4);
  });

  it('keep their attributes', async () => {
    const model = network('LeakyRelu', { alpha: 0.25 });
    replace(model, { polynomials: ['x^2'], keep: [2] });
    for (const { x, y, channel } of await run(model))
      expect(y).toBeCloseTo(channel === 2 ? (x >= 0 ? x : 0.25 * x) : x * x, 4);
  });

  it.each<[string, SitePlan, string]>([
    ['a channel too far', { polynomials: ['x^2'], keep: [5] }, 'channel 5 is to keep it, and there are 5'],
    ['all of them', { polynomials: ['x^2'], keep: [0, 1, 2, 3, 4] }, 'all its channels are to keep it'],
    [
      'polynomials for others',
      { polynomials: ['x^2', 'x'], keep: [0] },
      "'act' has 5 channels, and there are polynomials for 2",
    ],
  ])('%s: left alone, with a reason', (_, site, reason) => {
    const model = network();
    const before = ops(model);
    expect(replace(model, site).skipped).toEqual([{ site: 'act', reason }]);
    expect(ops(model)).toEqual(before);
  });

  it('spellings with several nodes and slopes by channel stay whole', () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', [1, 3, 4]);
    b.output(
      b.node('PRelu', [x, b.constant('s', 'float', [3, 1], [0.1, 0.2, 0.3])], {}, 'act'),
      'y',
      'float',
      [1, 3, 4],
    );
    expect(replace(b.model, { polynomials: ['x^2'], keep: [1] }).skipped[0]?.reason).toMatch(
      /^only activations of one operator/,
    );
  });

  it('plans of other models are refused, and those that keep a site leave it', () => {
    const model = network();
    expect(() => runReplaceActivation(model, { poly: [], plan: { plan: 1, sites: { akt: { keep: 'all' } } } })).toThrow(
      "--plan: names 'akt', which is no activation of this model; did you mean 'act'?",
    );
    const copy = cloneModel(model);
    expect(replace(copy, { keep: 'all' }).skipped).toEqual([{ site: 'act', reason: 'the plan keeps it' }]);
    expect(ops(copy)).toEqual(ops(model));
  });
});
