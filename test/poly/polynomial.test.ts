import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SisyphusError } from '../../src/errors.ts';
import {
  chebyshevSeries,
  degreeOf,
  evaluate,
  evaluateSeries,
  formatPolynomial,
  fromUnit,
  type Interval,
  interpolate,
  type Polynomial,
  parsePolynomial,
  polynomial,
  powerSeries,
  powers,
  prune,
  toChebyshev,
  toPowers,
  toUnit,
  trim,
} from '../../src/poly/polynomial.ts';
import { anyInterval, distance, largest, midpoints } from './activations.ts';

const coefficient = fc.double({ min: -1e3, max: 1e3, noNaN: true }).map((c) => (c === 0 ? 0 : c));
/** Without zeros at the end, which text does not keep. */
const list = fc
  .tuple(fc.array(coefficient, { maxLength: 8 }), fc.double({ min: 0.001, max: 10, noNaN: true }))
  .map(([first, last]) => [...first, last]);
const anySeries = fc.oneof(
  list.map((coefficients) => powerSeries(coefficients)),
  fc.tuple(list, anyInterval).map(([coefficients, interval]) => chebyshevSeries(coefficients, interval)),
);
const anyPolynomial: fc.Arbitrary<Polynomial> = fc.record({
  stages: fc.array(anySeries, { minLength: 1, maxLength: 3 }),
  gated: fc.boolean(),
});

describe('polynomials as data', () => {
  it('are evaluated: powers, Chebyshev series, stages one into the next, gated ones', () => {
    expect(evaluate(powers(1, 2, 3), 2)).toBe(17);
    // T_2(t) = 2t^2 - 1 at t = (x - 3) / 2
    expect(evaluate(polynomial(chebyshevSeries([1, 0, 2], [1, 5])), 4)).toBe(0);
    expect(evaluate({ stages: [powerSeries([0, 2]), powerSeries([1, 0, 1])], gated: false }, 3)).toBe(37);
    expect(evaluate({ stages: [powerSeries([0.5])], gated: true }, 6)).toBe(3);
    expect(evaluateSeries(chebyshevSeries([], [0, 1]), 0.3)).toBe(0);
  });

  it('know T_k as the cosine of k angles', () => {
    for (const k of [0, 1, 2, 7, 32]) {
      const series = chebyshevSeries([...new Array<number>(k).fill(0), 1], [-3, 5]);
      for (const t of midpoints([-1, 1], 40))
        expect(evaluateSeries(series, fromUnit([-3, 5], t))).toBeCloseTo(Math.cos(k * Math.acos(t)), 12);
    }
  });

  it('have a degree, that of stages multiplied', () => {
    expect(degreeOf(powers(1, 0, 0))).toBe(0);
    expect(degreeOf({ stages: [powerSeries([0, 1, 0, 1]), powerSeries([0, 0, 1, 0])], gated: true })).toBe(7);
    expect(trim([1, 0, 2, 0, 0])).toEqual([1, 0, 2]);
    expect(trim([0, 0])).toEqual([0]);
  });

  it('lose terms that are only rounding where they count', () => {
    expect(prune([1, 1e-13, 1e-13], 1)).toEqual([1]);
    expect(prune([1, 1e-16, 1e-13], 1e3)).toEqual([1, 0, 1e-13]);
    expect(prune([1, 1e-13], 1, 1e-14)).toEqual([1, 1e-13]);
    expect(prune([0, 0], 1)).toEqual([0]);
  });

  it('go from one basis to the other and back', () => {
    fc.assert(
      fc.property(list, anyInterval, (coefficients, interval) => {
        const series = chebyshevSeries(coefficients, interval);
        const there = toPowers(series);
        const scale = largest(coefficients);
        // One digit for every two degrees, of 14; intervals that are off 0 by their width cost as much again.
        for (const x of midpoints(interval, 20))
          expect(Math.abs(evaluateSeries(there, x) - evaluateSeries(series, x))).toBeLessThan(1e-7 * scale);
        expect(distance(toChebyshev(there, interval).coefficients, coefficients)).toBeLessThan(1e-7 * scale);
      }),
      { seed: 12, numRuns: 200 },
    );
    expect(toPowers(chebyshevSeries([0.5, 0.25, 0.5], [-1, 1])).coefficients).toEqual([0, 0.25, 1]);
    const series = chebyshevSeries([1, 2], [0, 1]);
    expect(toChebyshev(series, [0, 1])).toBe(series);
    expect(toPowers(powerSeries([1, 2]))).toEqual(powerSeries([1, 2]));
  });

  it('change the interval of a series without losing digits at degree 32', () => {
    const coefficients = Array.from({ length: 33 }, (_, k) => Math.sin(3 * k + 1));
    const [inner, outer]: [Interval, Interval] = [
      [-1, 1],
      [-1.05, 1.02],
    ];
    const back = toChebyshev(toChebyshev(chebyshevSeries(coefficients, outer), inner), outer);
    // The polynomial grows to T_32(1.05) = 1e4 on the wider interval, which is what rounding is magnified by.
    expect(distance(back.coefficients, coefficients)).toBeLessThan(1e-10);
  });

  it('interpolate: exact for polynomials of the degree', () => {
    expect(
      distance(
        interpolate((x) => 2 * x * x - 1, 4, [-1, 1]),
        [0, 0, 1],
      ),
    ).toBeLessThan(1e-15);
    expect(interpolate((x) => x, 0, [2, 6])).toEqual([4]);
    for (const interval of [[-2, 7]] as const)
      for (const x of [-2, 0, 6.5]) expect(fromUnit(interval, toUnit(interval, x))).toBeCloseTo(x, 14);
  });
});

describe('polynomials as text', () => {
  it('are written as people write them', () => {
    expect(formatPolynomial(powers(0.25, 0.5, -0.125))).toBe('0.25 + 0.5 x - 0.125 x^2');
    expect(formatPolynomial(powers(0, -1, 0, 1))).toBe('-x + x^3');
    expect(formatPolynomial(powers(0))).toBe('0');
    expect(formatPolynomial(polynomial(chebyshevSeries([0.2, 0.5, 0.3], [-5, 5])))).toBe(
      '0.2 + 0.5 T1 + 0.3 T2 on [-5, 5]',
    );
    expect(formatPolynomial({ stages: [powerSeries([0, 1.5, 0, -0.5]), powerSeries([0.5, 0.5])], gated: true })).toBe(
      'x * (1.5 x - 0.5 x^3 ; 0.5 + 0.5 x)',
    );
    expect(formatPolynomial(powers(1 / 3, 2 / 3), 3)).toBe('0.333 + 0.667 x');
  });

  it('are read back to the same numbers, and survive JSON', () => {
    fc.assert(
      fc.property(anyPolynomial, (p) => {
        expect(parsePolynomial(formatPolynomial(p))).toEqual(p);
        expect(JSON.parse(JSON.stringify(p))).toEqual(p);
      }),
      { seed: 13, numRuns: 300 },
    );
  });

  it.each([
    ['x', [0, 1]],
    ['-x^2', [0, 0, -1]],
    ['1e-3x + 2*x^2', [0, 1e-3, 2]],
    ['x + x', [0, 2]],
    [' .5 - 1.e1 X^3 ', [0.5, 0, 0, -10]],
    ['x^2 - 3', [-3, 0, 1]],
  ])('%s is read', (text, coefficients) => {
    expect(parsePolynomial(text)).toEqual(polynomial(powerSeries(coefficients)));
  });

  it.each([
    ['', 'it has no terms'],
    ['x +', 'is no sum of terms'],
    ['2 x 3', 'is no sum of terms'],
    ['x^-1', 'is no sum of terms'],
    ['x + T1 on [0, 1]', 'mixed'],
    ['T2', 'take an interval'],
    ['x on [0, 1]', 'take no interval'],
    ['T1 on [1, 1]', 'the interval is [low, high]'],
    ['T1 on [a, 1]', 'the interval is [low, high]'],
    ['x^1001', 'degree 1001 is above 1000'],
    ['1e999 x', 'not finite'],
    ['x * (x ; )', 'it has no terms'],
    ['exp(x)', 'is no sum of terms'],
  ])("'%s' is refused in one line", (text, why) => {
    expect(() => parsePolynomial(text)).toThrow(SisyphusError);
    expect(() => parsePolynomial(text)).toThrow(why);
  });
});
