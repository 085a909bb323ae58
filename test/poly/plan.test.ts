import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { evaluatePlan, FORMS, type Form, type Operand, type Plan, plan } from '../../src/poly/plan.ts';
import {
  chebyshevSeries,
  evaluate,
  evaluateSeries,
  type Interval,
  type Polynomial,
  polynomial,
  powerSeries,
  powers,
  type Series,
  toPowers,
  toUnit,
} from '../../src/poly/polynomial.ts';

const UNIT: Interval = [-1, 1];
const CHEBYSHEV_FORMS = FORMS.filter((form) => form !== 'horner');
const POWER_FORMS = FORMS.filter((form) => form !== 'clenshaw');
const DIVIDED = ['estrin', 'paterson-stockmeyer'] as const;

/** Counts depth and products anew; no step may be trivial. */
function count({ steps, result, constants }: Plan) {
  const values: { depth: number; constant: readonly number[] | null }[] = [];
  const used = new Set<number>();
  const get = (operand: Operand) => {
    if (operand === 'x') return { depth: 0, constant: null };
    if ('constant' in operand) return { depth: 0, constant: constants[operand.constant] as readonly number[] };
    used.add(operand.step);
    return values[operand.step] as (typeof values)[number];
  };
  let [ciphertext, plaintext] = [0, 0];
  for (const { op, a, b } of steps) {
    const [left, right] = [get(a), get(b)];
    expect(left.constant && right.constant).toBeFalsy();
    for (const { constant } of [left, right]) {
      if (!constant) continue;
      expect(constant.every((c) => c === 0)).toBe(false);
      if (op === 'mul') expect(constant.every((c) => c === 1)).toBe(false);
    }
    if (op === 'mul') left.constant || right.constant ? plaintext++ : ciphertext++;
    values.push({ depth: Math.max(left.depth, right.depth) + Number(op === 'mul'), constant: null });
  }
  const { depth } = get(result);
  expect(used.size).toBe(steps.length); // every step is read
  return { depth, multiplications: { ciphertext, plaintext } };
}

function expectCounts(steps: Plan): void {
  const { depth, multiplications } = steps;
  expect({ depth, multiplications }).toEqual(count(steps));
}

/**
 * A bound on the error of any form, in units of the unit roundoff u.
 *
 * Powers: a computed sum is the sum of its terms c_k x^k, each with at most 2 d + 3 roundings: one for c_k, k products and
 * d + 1 sums, and k more where squares double them.
 *
 * Chebyshev: T_2k = 2 T_k^2 - 1 takes an error of T_k four times, so T_k carries k^2 times that of t (as its slope k^2 at
 * the ends demands), and about as much of its own roundings; quotients have up to d times larger coefficients, and T_(d/2)
 * at most. t itself is off by the size of what cancels in it.
 */
function errorBound(series: Series, x: number): number {
  const { coefficients } = series;
  const n = coefficients.length;
  const total = (size: (k: number) => number) => coefficients.reduce((so, c, k) => so + Math.abs(c) * size(k), 0);
  if (series.basis === 'power') return (3 * n + 3) * total((k) => Math.abs(x) ** k);
  const [low, high] = series.interval;
  return 4 * n * n * (1 + Math.abs(low + high) / (high - low)) * total(() => 1);
}

const PRECISIONS = [
  { round: (value: number) => value, u: 2 ** -53, tiny: 1e-300 },
  { round: Math.fround, u: 2 ** -24, tiny: 1e-36 }, // products may underflow
];

function expectClose(series: Series, steps: Plan, x: number, channel = 0): void {
  for (const { round, u, tiny } of PRECISIONS) {
    const at = round(x);
    const error = Math.abs(evaluatePlan(steps, at, round, channel) - evaluateSeries(series, at));
    // The reference has the error of float64 itself.
    const bound = (u + 2 ** -53) * errorBound(series, at) + tiny;
    if (!(error <= bound)) expect.fail(`${steps.form} of ${JSON.stringify(series)} at ${at}: ${error} > ${bound}`);
  }
}

const coefficient = fc.oneof(
  fc.constant(0),
  fc.constant(1),
  fc.double({ min: -2, max: 2, noNaN: true }).filter((c) => c === 0 || Math.abs(c) > 1e-6),
);
const coefficients = (max: number) => fc.array(coefficient, { minLength: 1, maxLength: max + 1 });
const intervals = fc.oneof(
  fc.constant(UNIT),
  fc.constant<Interval>([-5, 5]),
  fc.constant<Interval>([0, 2]),
  fc
    .tuple(fc.double({ min: -20, max: 20, noNaN: true }), fc.double({ min: 0.1, max: 20, noNaN: true }))
    .map(([low, width]): Interval => [low, low + width]),
);
/** A place in an interval, from 0 to 1, ends often. */
const place = fc.oneof(fc.constantFrom(0, 0.5, 1), fc.double({ min: 0, max: 1, noNaN: true }));
const within = ([low, high]: Interval, share: number) => low + share * (high - low);

const dense = (degree: number) => Array.from({ length: degree + 1 }, (_, k) => 0.3 + Math.cos(k) / 8);
const oddOnly = (degree: number) => dense(degree).map((c, k) => (k % 2 === 1 ? c : 0));

describe('one series', () => {
  it.each(POWER_FORMS)('%s: powers of x, within the bound, as deep and dear as stated', (form) => {
    fc.assert(
      fc.property(coefficients(32), fc.double({ min: -1.5, max: 1.5, noNaN: true }), (list, x) => {
        const series = powerSeries(list);
        const steps = plan([polynomial(series)], form);
        expect(steps.form).toBe(form);
        expectCounts(steps);
        expectClose(series, steps, x);
      }),
      { seed: 7, numRuns: 300 },
    );
  });

  it.each(CHEBYSHEV_FORMS)('%s: Chebyshev polynomials, within the bound, as deep and dear as stated', (form) => {
    fc.assert(
      fc.property(coefficients(32), intervals, place, (list, interval, share) => {
        const series = chebyshevSeries(list, interval);
        const steps = plan([polynomial(series)], form);
        expect(steps.form).toBe(form);
        expectCounts(steps);
        expectClose(series, steps, within(interval, share));
      }),
      { seed: 7, numRuns: 300 },
    );
  });

  it('horner turns Chebyshev polynomials into powers', () => {
    const series = chebyshevSeries([0.2, 0.5, 0.3, 0, -0.1], [-3, 4]);
    expect(plan([polynomial(series)], 'horner')).toEqual(plan([polynomial(toPowers(series))], 'horner'));
  });

  it('clenshaw takes no powers: they have no range', () => {
    expect(() => plan([powers(1, 2, 3)], 'clenshaw')).toThrow(
      expect.objectContaining({ code: 'usage', message: expect.stringContaining('takes a polynomial with a range') }),
    );
  });

  it.each(['power', 'chebyshev'] as const)('identities and constants: %s', (basis) => {
    const forms = basis === 'power' ? POWER_FORMS : CHEBYSHEV_FORMS;
    const make = (list: number[]) => polynomial(basis === 'power' ? powerSeries(list) : chebyshevSeries(list, UNIT));
    for (const form of forms) {
      expect(plan([make([0, 1])], form)).toMatchObject({ steps: [], result: 'x', depth: 0 });
      expect(plan([make([0.5, 0, 0])], form)).toMatchObject({ steps: [], result: { constant: 0 }, constants: [[0.5]] });
      expect(plan([make([0])], form)).toMatchObject({ steps: [], result: { constant: 0 }, constants: [[0]] });
    }
  });

  it('names coefficients of powers after their exponents', () => {
    const { names, constants } = plan([powers(0.25, 0.5, 0, 0.25)]);
    expect(new Map(names.map((name, i) => [name, constants[i]]))).toEqual(
      new Map([
        ['c0', [0.25]],
        ['c1', [0.5]],
        ['c3', [0.25]],
      ]),
    );
  });
});

describe('depth and products', () => {
  const cases = [
    ['powers', (list: number[]) => powerSeries(list), 0],
    ['Chebyshev polynomials on [-1, 1]', (list: number[]) => chebyshevSeries(list, UNIT), 0],
    ['Chebyshev polynomials on [-3, 5]', (list: number[]) => chebyshevSeries(list, [-3, 5]), 1],
  ] as const;
  const full = (degree: number) => Math.ceil(Math.log2(degree + 1));

  it.each(cases)('%s: dense series take ceil(log2(degree + 1)) levels, and one for the range', (_, series, extra) => {
    for (let degree = 1; degree <= 40; degree++) {
      // The range is free where the last level has room for it, at powers of two.
      const depth = full(degree) + (Number.isInteger(Math.log2(degree)) ? 0 : extra);
      for (const form of DIVIDED) expect(plan([polynomial(series(dense(degree)))], form).depth).toBe(depth);
      expect(plan([polynomial(series(dense(degree)))]).depth).toBe(depth);
    }
  });

  it.each(cases)('%s: Paterson-Stockmeyer takes at most 2 sqrt(degree) + log2(degree + 1) products', (_, series) => {
    for (const degree of [...Array.from({ length: 20 }, (_, i) => i + 1), 27, 31, 32, 48, 63, 64, 70]) {
      const plans = DIVIDED.map((form) => plan([polynomial(series(dense(degree)))], form));
      const [estrin = 0, paterson = 0] = plans.map(({ multiplications }) => multiplications.ciphertext);
      expect(paterson).toBeLessThanOrEqual(estrin);
      expect(paterson).toBeLessThanOrEqual(2 * Math.sqrt(degree) + Math.log2(degree + 1));
    }
  });

  it('Paterson-Stockmeyer is never worse than Estrin, whatever is zero or one', () => {
    fc.assert(
      fc.property(coefficients(32), fc.option(intervals), (list, interval) => {
        const p = polynomial(interval ? chebyshevSeries(list, interval) : powerSeries(list));
        const [estrin, paterson] = DIVIDED.map((form) => plan([p], form)) as [Plan, Plan];
        expect(paterson.depth).toBeLessThanOrEqual(estrin.depth);
        if (paterson.depth === estrin.depth)
          expect(paterson.multiplications.ciphertext).toBeLessThanOrEqual(estrin.multiplications.ciphertext);
      }),
      { seed: 3, numRuns: 200 },
    );
  });

  it('the default is the cheapest form in the basis of the series', () => {
    const cost = ({ depth, multiplications: { ciphertext, plaintext } }: Plan) =>
      depth * 1e6 + ciphertext * 1e3 + plaintext;
    for (const [, series] of cases)
      for (let degree = 1; degree <= 20; degree++) {
        const p = [polynomial(series(degree % 3 === 0 ? oddOnly(degree) : dense(degree)))];
        const forms = p[0]?.stages[0]?.basis === 'power' ? POWER_FORMS : CHEBYSHEV_FORMS;
        expect(cost(plan(p))).toBe(Math.min(...forms.map((form) => cost(plan(p, form)))));
      }
  });

  it('costs what the field expects for the usual polynomials', () => {
    expect(plan([powers(0, 0, 1)])).toMatchObject({ depth: 1, multiplications: { ciphertext: 1, plaintext: 0 } });
    expect(plan([powers(0, 0.5)])).toMatchObject({ depth: 1, multiplications: { ciphertext: 0, plaintext: 1 } });
    expect(plan([powers(0.25, 0.5, 0.125)])).toMatchObject({
      depth: 2,
      multiplications: { ciphertext: 1, plaintext: 1 },
    });
    const quartic = powers(0.2, 0.5, 0.3, 0, -0.01);
    expect(plan([quartic])).toMatchObject({ depth: 3, multiplications: { ciphertext: 2, plaintext: 3 } });
    expect(plan([quartic], 'horner')).toMatchObject({ depth: 4 });
  });

  it('Clenshaw takes one product of data for each degree, and half as many for odd or even series', () => {
    for (let degree = 3; degree <= 31; degree += 2) {
      const products = (list: number[]) =>
        plan([polynomial(chebyshevSeries(list, UNIT))], 'clenshaw').multiplications.ciphertext;
      expect(products(dense(degree))).toBe(degree - 1);
      expect(products(oddOnly(degree))).toBe((degree + 1) / 2);
      expect(products([0.5, ...oddOnly(degree).slice(1)])).toBe((degree + 1) / 2);
      const even = dense(degree + 1).map((c, k) => (k % 2 === 0 ? c : 0));
      expect(products(even)).toBe((degree + 1) / 2);
    }
  });
});

describe('channels', () => {
  const channel = (width: number) => fc.tuple(fc.array(coefficient, { minLength: width, maxLength: width }), intervals);

  it.each(FORMS)('%s: every channel within its own bound', (form) => {
    const basis = form === 'horner' ? 'power' : 'chebyshev';
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 14 }).chain((width) => fc.array(channel(width), { minLength: 1, maxLength: 20 })),
        place,
        (list, share) => {
          const all = list.map(([values, interval]) =>
            basis === 'power' ? powerSeries(values) : chebyshevSeries(values, interval),
          );
          const steps = plan(all.map(polynomial), form);
          expectCounts(steps);
          for (const [i, series] of all.entries())
            expectClose(series, steps, series.basis === 'power' ? 2 * share - 1 : within(series.interval, share), i);
        },
      ),
      { seed: 5, numRuns: 100 },
    );
  });

  it('pads shorter ones, drops what all of them lack, and shares what all have', () => {
    const steps = plan([powers(0.5, 1, 0, 2), powers(0.5, 1), powers(0.5, 1, 0, 3)], 'powers');
    expect(new Map(steps.names.map((name, i) => [name, steps.constants[i]]))).toEqual(
      new Map([
        ['c0', [0.5]],
        ['c3', [2, 0, 3]],
      ]),
    );
    expect([0, 1, 2].map((i) => evaluatePlan(steps, 2, (v) => v, i))).toEqual([18.5, 2.5, 26.5]);
  });

  it('of one slope for each element take no longer to plan', () => {
    const many = Array.from({ length: 50_000 }, (_, i) => powers(0.1, 0.5, 0.2 + i * 1e-6, 0, 0.1));
    const steps = plan(many);
    expect(steps.depth).toBe(3);
    expect(steps.constants[steps.names.indexOf('c2')]).toHaveLength(50_000);
  });
});

/** Odd stages with values within their intervals, of the magnitudes that composites of minimax polynomials have. */
function composite(degrees: readonly number[], gated: boolean, range = 1): Polynomial {
  const last = degrees.length - 1;
  const stages = degrees.map((degree, n) => {
    const list = Array.from({ length: degree + 1 }, (_, k) => (k % 2 === 1 ? (1.2 * (-1) ** ((k - 1) / 2)) / k : 0));
    const interval: Interval = n === 0 ? [-range, range] : [-1.4, 1.4];
    if (n < last || !gated) return chebyshevSeries(list, interval);
    return chebyshevSeries([0.5, ...list.slice(1).map((c) => c / 2)], interval);
  });
  return { stages, gated };
}

describe('composites', () => {
  const levels = (degrees: readonly number[]) => degrees.reduce((so, d) => so + Math.ceil(Math.log2(d + 1)), 0);

  it.each(CHEBYSHEV_FORMS)('%s: stage after stage, with the gate at the end', (form) => {
    for (const degrees of [[5], [13], [3, 7], [7, 7, 13], [15, 27, 29]])
      for (const gated of [false, true])
        for (const range of [1, 8]) {
          const p = composite(degrees, gated, range);
          const steps = plan([p], form);
          expectCounts(steps);
          // Each stage passes on the errors of those before it, times its slope, which is below degree^2 here.
          const bound = degrees.reduce((so, degree, n) => so * degree ** 2 + errorBound(p.stages[n] as Series, 0), 0);
          for (let i = 0; i <= 100; i++) {
            const x = range * (i / 50 - 1);
            const error = Math.abs(evaluatePlan(steps, x, (v) => v) - evaluate(p, x));
            expect(error).toBeLessThanOrEqual(range * bound * 2 ** -52);
          }
        }
  });

  it('the product of a gated composite takes no level', () => {
    for (const degrees of [
      [7, 7],
      [7, 7, 13],
      [7, 15, 27],
      [15, 27, 29],
    ])
      for (const form of [undefined, ...DIVIDED]) {
        const unit = { ...composite(degrees, true) };
        const stages = unit.stages.map(({ coefficients: list }) => chebyshevSeries(list, UNIT));
        expect(plan([{ stages, gated: true }], form).depth).toBe(levels(degrees));
      }
  });

  it('a gated series is a series of one degree more', () => {
    const steps = plan([{ stages: [powerSeries([0.5, 0.75, 0, 0.25])], gated: true }]);
    expect(steps).toMatchObject({ depth: 3, form: expect.any(String) });
    expect(evaluatePlan(steps, 2, (v) => v)).toBe(8);
    for (const degree of [1, 2, 5, 7, 13]) {
      const series = chebyshevSeries(dense(degree), [-2, 7]);
      const gated = plan([{ stages: [series], gated: true }]);
      expect(gated.depth).toBeLessThanOrEqual(Math.ceil(Math.log2(degree + 2)) + 1);
      for (const x of [-2, -1, 0, 2.5, 7]) {
        const bound = 7 * errorBound(series, x) * 2 ** -52;
        expect(Math.abs(evaluatePlan(gated, x, (v) => v) - x * evaluateSeries(series, x))).toBeLessThanOrEqual(bound);
      }
    }
  });

  it('mixed bases: every form but clenshaw', () => {
    const p: Polynomial = {
      stages: [powerSeries([0, 1.5, 0, -0.5]), chebyshevSeries([0.5, 0.5, 0, 0.1], UNIT)],
      gated: true,
    };
    for (const form of [undefined, ...POWER_FORMS])
      for (const x of [-1, -0.3, 0, 0.7, 1])
        expect(Math.abs(evaluatePlan(plan([p], form), x, (v) => v) - evaluate(p, x))).toBeLessThanOrEqual(1e-15);
    expect(() => plan([p], 'clenshaw')).toThrow(expect.objectContaining({ code: 'usage' }));
  });

  it('names coefficients after stage and exponent', () => {
    const f1 = powerSeries([0, 1.5, 0, -0.5]);
    const { names } = plan([{ stages: [f1, powerSeries([0.5, 0.75])], gated: false }]);
    expect([...names].sort()).toEqual(['s1/c1', 's1/c3', 's2/c0', 's2/c1']);
  });

  it('keeps float32 accurate where powers lose it', () => {
    const p = composite([15, 27, 29], true);
    const worst = (form?: Form) => {
      const steps = plan([p], form);
      const errors = Array.from({ length: 201 }, (_, i) => Math.fround(i / 100 - 1)).map((x) =>
        Math.abs(evaluatePlan(steps, x, Math.fround) - evaluate(p, x)),
      );
      return Math.max(...errors.map((e) => (Number.isNaN(e) ? Number.POSITIVE_INFINITY : e)));
    };
    expect(worst()).toBeLessThan(1e-5);
    expect(worst('horner')).toBeGreaterThan(1e-3);
  });
});

it('places in the interval are those of toUnit', () => {
  const interval: Interval = [-3, 5];
  const t = plan([polynomial(chebyshevSeries([0, 1], interval))]);
  for (const x of [-3, 0, 1, 5]) expect(evaluatePlan(t, x, (v) => v)).toBe(toUnit(interval, x));
});
