import { describe, expect, it } from 'vitest';
import { arrayFromNumbers } from '../../src/eval/session.ts';
import { nonlinearSites } from '../../src/eval/sites.ts';
import { buildModel } from '../../src/graph/build.ts';
import { addConstant } from '../../src/graph/edit.ts';
import type { ElementType, Model } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { makeTensor, rounding } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { emitPolynomial, unrepresentable } from '../../src/passes/emit-polynomial.ts';
import { preciseSign, reluComposite } from '../../src/poly/composite.ts';
import { evaluatePlan, FORMS, type Form, type Plan, plan } from '../../src/poly/plan.ts';
import {
  chebyshevSeries,
  evaluate,
  type Polynomial,
  polynomial,
  powerSeries,
  powers,
} from '../../src/poly/polynomial.ts';
import { numbersOf, ops, runModel } from '../support/numeric.ts';
import { COMPOSITE_ERRORS } from '../support/published.ts';

/** y = p(x) on [channels, points] by the nodes of a plan. */
function emitted(steps: Plan, elem: ElementType, channels: number, points: number): Model {
  const g = buildModel({ name: 'g', opset: 17 });
  const x = g.input('x', elem, [channels, points]);
  const place = { body: g.model.graph, before: null, name: 'act/poly', elem };
  const y = emitPolynomial(g.model, place, { shape: channels === 1 ? [] : [channels, 1], plan: steps }, x, null);
  g.output(y, 'y', elem, [channels, points]);
  expect(verify(g.model)).toEqual([]);
  return g.model;
}

/** What onnxruntime computes for the points, channel after channel. */
async function run(steps: Plan, elem: ElementType, points: readonly number[], channels = 1): Promise<Float64Array> {
  const model = emitted(steps, elem, channels, points.length);
  const data = Array.from({ length: channels }, () => points).flat();
  const feeds = new Map([['x', arrayFromNumbers(elem, [channels, points.length], data)]]);
  return numbersOf(await runModel(model, feeds), 'y');
}

const grid = (low: number, high: number, count: number) =>
  Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

/** Nodes round like the plan's steps: equal bit for bit. */
async function expectSteps(steps: Plan, elem: ElementType, points: readonly number[], channels = 1): Promise<void> {
  const round = rounding(elem);
  const found = await run(steps, elem, points, channels);
  for (const [i, y] of found.entries()) {
    const x = points[i % points.length] as number;
    const expected = evaluatePlan(steps, x, round, Math.floor(i / points.length));
    if (y !== expected) expect.fail(`${elem} ${steps.form} at ${x}: ${y}, but the plan gives ${expected}`);
  }
}

/**
 * onnxruntime computes float16 on a CPU in float32: constants and the result are rounded to 2^-11 of themselves, and what
 * is in between to a few times 2^-24.
 */
async function expectHalf(steps: Plan, points: readonly number[]): Promise<void> {
  const half = rounding('float16');
  const held = { ...steps, constants: steps.constants.map((values) => values.map(half)) };
  const found = await run(steps, 'float16', points);
  for (const [i, x] of points.entries()) {
    const expected = evaluatePlan(held, x, Math.fround);
    expect(Math.abs((found[i] as number) - expected)).toBeLessThanOrEqual(2 ** -11 * Math.abs(expected) + 2 ** -18);
  }
}

const dense = Array.from({ length: 12 }, (_, k) => (0.9 * (-1) ** Math.floor(k / 2)) / (k + 1));
const odd = dense.map((c, k) => (k % 2 === 1 ? 2 * c : 0));
const EXAMPLES: readonly (readonly [string, Polynomial])[] = [
  ['powers', polynomial(powerSeries(dense))],
  ['Chebyshev polynomials', polynomial(chebyshevSeries(dense, [-1, 1]))],
  ['Chebyshev polynomials on a range', polynomial(chebyshevSeries(dense, [-1.5, 4]))],
  ['a gated series', { stages: [chebyshevSeries([0.5, ...odd.slice(1)], [-2, 2])], gated: true }],
  [
    'a gated composite',
    {
      stages: [chebyshevSeries(odd, [-4, 4]), powerSeries([0, 1.5, 0, -0.5]), chebyshevSeries([0.5, 0.6], [-1, 1])],
      gated: true,
    },
  ],
];

describe('the nodes compute the steps', () => {
  const cases = EXAMPLES.flatMap(([name, p]) =>
    FORMS.filter((form) => form !== 'clenshaw' || p.stages.every(({ basis }) => basis === 'chebyshev')).map(
      (form): [string, Form, Polynomial] => [name, form, p],
    ),
  );
  it.each(cases)('%s, %s', async (_, form, p) => {
    const steps = plan([p], form);
    const points = grid(-1.5, 1.5, 301);
    await expectSteps(steps, 'float', points);
    await expectSteps(steps, 'double', points);
    await expectHalf(steps, points.map(rounding('float16')));
  });

  it.each(FORMS)('channels, %s', async (form) => {
    const series = [0.5, 1, 2.5, 4].map((a) => ({
      stages: [
        chebyshevSeries(
          dense.slice(0, 8).map((c) => a * c),
          [-a, a + 1],
        ),
      ],
      gated: true,
    }));
    const steps = plan(series, form);
    await expectSteps(steps, 'float', grid(-1, 1, 101), series.length);
    const shapes = emitted(steps, 'float', series.length, 5).graph.initializers.map(({ tensor }) => tensor.dims);
    expect(new Set(shapes.map(String))).toContain('4,1');
  });

  it.each(['float', 'double', 'float16'] as const)('identities and constants: %s', async (elem) => {
    const points = [-2, 0, 1.5];
    expect([...(await run(plan([powers(0, 1)]), elem, points))]).toEqual(points);
    expect([...(await run(plan([powers(0.25)]), elem, points))]).toEqual([0.25, 0.25, 0.25]);
    const two = plan([powers(0.25), powers(-3)]);
    expect([...(await run(two, elem, points, 2))]).toEqual([0.25, 0.25, 0.25, -3, -3, -3]);
  });
});

describe('the graph', () => {
  it('has Mul, Add and Sub only, coefficients by name, and is found again', () => {
    const model = emitted(plan([powers(0.25, 0.5, 0.125)], 'powers'), 'float', 1, 4);
    expect(new Set(ops(model))).toEqual(new Set(['Mul', 'Add']));
    expect(model.graph.initializers.map(({ value }) => value.name).sort()).toEqual([
      'act/poly/c0',
      'act/poly/c1',
      'act/poly/c2',
    ]);
    for (const [, p] of EXAMPLES) {
      const graph = emitted(plan([p]), 'float', 1, 4);
      expect(ops(graph).every((op) => ['Mul', 'Add', 'Sub'].includes(op))).toBe(true);
      const { sites } = nonlinearSites(graph, inferTypes(graph));
      expect(sites.map(({ name, kind }) => [name, kind])).toEqual([['act', 'polynomial']]);
    }
  });

  it('is a function of one number again, each node computed once: composites have hundreds, shared by many', () => {
    const list = (degree: number) =>
      Array.from({ length: degree + 1 }, (_, k) => (k % 2 === 1 ? (1.2 * (-1) ** ((k - 1) / 2)) / k : 0));
    const large: Polynomial[] = [
      { stages: [15, 27, 29].map((degree) => chebyshevSeries(list(degree), [-1.4, 1.4])), gated: true },
      polynomial(
        chebyshevSeries(
          Array.from({ length: 33 }, (_, k) => 1 / (k + 1)),
          [-2, 3],
        ),
      ),
    ];
    for (const p of large)
      for (const form of ['powers', 'estrin', 'paterson-stockmeyer', 'clenshaw'] as const) {
        const steps = plan([p], form);
        const model = emitted(steps, 'double', 1, 4);
        const [site] = nonlinearSites(model, inferTypes(model)).sites;
        const points = grid(-1.4, 1.4, 201);
        const found = points.map((x) => site?.f?.(x));
        expect(found).toEqual(points.map((x) => evaluatePlan(steps, x, (v) => v)));
      }
  });

  it('keeps the output that is given, and names apart from those in use', () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [2]);
    addConstant(g.model, g.model.graph, makeTensor('act/poly/c0', 'float', [], [9]), null);
    const place = { body: g.model.graph, before: null, name: 'act/poly', elem: 'float' as const };
    const emit = () => emitPolynomial(g.model, place, { shape: [], plan: plan([powers(1, 2)]) }, x, null);
    g.output(g.node('Add', [emit(), emit()]), 'y', 'float', [2]);
    expect(verify(g.model)).toEqual([]);
    expect(g.model.graph.initializers).toHaveLength(5);
  });
});

describe('element types', () => {
  it('tell which coefficient they can not hold', () => {
    expect(unrepresentable(plan([powers(0, 1, 1e5)]), 'float16')).toBe(
      'its coefficient c2 = 100000 does not fit float16',
    );
    expect(unrepresentable(plan([powers(0, 1, 1e-9)]), 'float16')).toBe(
      'its coefficient c2 = 1e-9 does not fit float16',
    );
    expect(unrepresentable(plan([powers(0, 1, 1e-9)]), 'float')).toBeNull();
    expect(unrepresentable(plan([powers(0, 1, 1e-9), powers(0, 1, 1e300)]), 'double')).toBeNull();
    expect(unrepresentable(plan([powers(0, 1, 1), powers(0, 1, 1e39)]), 'float')).toContain('c2 = 1e+39');
  });

  it('lose nothing to what rounding leaves of coefficients that cancel', () => {
    // q T_4 + r with r_3 = c_3 - c_5, which is 0 but for float64's last digit.
    const p = polynomial(chebyshevSeries([0.1, 0.2, 0.3, 0.1 + 0.2, 0.5, 0.3], [-1, 1]));
    expect(unrepresentable(plan([p], 'estrin'), 'float16')).toBeNull();
  });
});

describe('minimax composites in float32', () => {
  // Half of the points spread evenly, half denser towards 0, where the sign is hardest.
  const even = grid(-1, 1, 4001);
  const points = [...even, ...even.map((x) => Math.sign(x) * 2 ** (-20 * Math.abs(x)))].map(Math.fround);
  const rounding32 = 64 * 2 ** -24; // a few roundings for each of the dozens of terms of the last stage

  it.each(COMPOSITE_ERRORS)('alpha = %i: 2^-alpha times %f at most, in every form but horner', async (alpha, error) => {
    const p = reluComposite(preciseSign(alpha).stages, 1);
    const levels = p.stages.reduce((so, { coefficients }) => so + Math.ceil(Math.log2(coefficients.length)), 0);
    expect(plan([p]).depth).toBe(levels);
    for (const form of ['powers', 'estrin', 'paterson-stockmeyer', 'clenshaw'] as const) {
      const found = await run(plan([p], form), 'float', points);
      const largest = (f: (x: number) => number) =>
        points.reduce((most, x, i) => Math.max(most, Math.abs((found[i] as number) - f(x))), 0);
      expect(largest((x) => Math.max(x, 0))).toBeLessThanOrEqual(1.02 * error * 2 ** -alpha + rounding32);
      expect(largest((x) => evaluate(p, x))).toBeLessThanOrEqual(rounding32);
    }
  });

  it.each([11, 14])('alpha = %i: horner, in powers, is useless', async (alpha) => {
    const p = reluComposite(preciseSign(alpha).stages, 1);
    const found = await run(plan([p], 'horner'), 'float', points);
    const errors = points.map((x, i) => Math.abs((found[i] as number) - Math.max(x, 0)));
    expect(errors.some((error) => !(error < 50 * 2 ** -alpha))).toBe(true);
    if (alpha === 14) expect(errors.some((error) => !Number.isFinite(error))).toBe(true);
  });
});
