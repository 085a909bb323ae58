import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Activation, relu } from '../../src/poly/activations.ts';
import { leastSquares } from '../../src/poly/fit.ts';
import { minimax } from '../../src/poly/minimax.ts';
import { type Coefficients, evaluateSeries, type Interval, powerSeries, toPowers } from '../../src/poly/polynomial.ts';
import { toFixedPoint, toPowersOfTwo } from '../../src/poly/rounding.ts';
import { anyActivation } from './activations.ts';

const fitted = (activation: Activation, degree: number, interval: Interval): number[] => {
  const { coefficients } = toPowers(leastSquares(activation, degree, interval));
  return Array.from({ length: degree + 1 }, (_, k) => coefficients[k] ?? 0);
};
const naive = (coefficients: Coefficients, bits: number) =>
  coefficients.map((c) => Math.round(c * 2 ** bits) / 2 ** bits);

/** The squared error over the points low, low + 0.01, …, high. */
function cost(activation: Activation, coefficients: Coefficients, [low, high]: Interval): number {
  const count = Math.round((high - low) / 0.01);
  let sum = 0;
  for (let i = 0; i <= count; i++) {
    const x = low + ((high - low) * i) / count;
    sum += (evaluateSeries(powerSeries(coefficients), x) - activation.f(x)) ** 2;
  }
  return sum;
}

describe('powers of two', () => {
  it('are the polynomial of Faster CryptoNets and HCNN: ReLU on [-4, 4]', () => {
    const { coefficients } = toPowers(minimax(relu, 2, [-4, 4]).series);
    expect(toPowersOfTwo(coefficients)).toEqual([2 ** -2, 2 ** -1, 2 ** -3]);
  });

  it('have the nearest exponent, the sign, and zeros', () => {
    expect(toPowersOfTwo([0.153613744, 0.5, 0.12050344])).toEqual([1 / 8, 1 / 2, 1 / 8]);
    expect(toPowersOfTwo([0, -3, 1.4, 1.42, -1e-9])).toEqual([0, -4, 1, 2, -(2 ** -30)]);
  });
});

describe('fixed point', () => {
  it("is PILLAR's example: degree 4 on [-5, 5] in 8 bits, where rounding one by one loses x^4", () => {
    const coefficients = fitted(relu, 4, [-5, 5]);
    // Published: .29326 + .5x + .16390x^2 - .0032714x^4, which is the grid's fit; ours is the continuous one.
    for (const [k, c] of [0.29326, 0.5, 0.1639, 0, -0.0032714].entries())
      expect(Math.abs((coefficients[k] ?? 0) - c)).toBeLessThan(5e-4);
    expect(toFixedPoint(relu, coefficients, 8, [-5, 5])).toEqual([0.2734375, 0.5, 0.17578125, 0, -0.00390625]);
    const dropped = [0.29297, 0.49609, 0.16016, 0, 0];
    expect(cost(relu, toFixedPoint(relu, coefficients, 8, [-5, 5]), [-5, 5])).toBeLessThan(
      cost(relu, dropped, [-5, 5]) / 10,
    );
  });

  it('is never worse than rounding one by one, and made of multiples of 2^-bits', () => {
    fc.assert(
      fc.property(
        anyActivation,
        fc.nat({ max: 8 }),
        fc.integer({ min: 2, max: 16 }),
        fc.double({ min: 0.5, max: 8, noNaN: true }),
        (activation, degree, bits, a) => {
          const interval: Interval = [-a, a * 0.8];
          const coefficients = fitted(activation, degree, interval);
          const found = toFixedPoint(activation, coefficients, bits, interval);
          expect(found).toHaveLength(degree + 1);
          for (const c of found) expect(Number.isInteger(c * 2 ** bits)).toBe(true);
          expect(cost(activation, found, interval)).toBeLessThanOrEqual(
            cost(activation, naive(coefficients, bits), interval) * (1 + 1e-9) + 1e-12,
          );
        },
      ),
      { seed: 10, numRuns: 100 },
    );
  });

  it('is the best of all: no combination of neighbouring integers is better', () => {
    fc.assert(
      fc.property(
        anyActivation,
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 2, max: 8 }),
        fc.double({ min: 1, max: 5, noNaN: true }),
        (activation, degree, bits, a) => {
          const interval: Interval = [-a, a];
          const found = toFixedPoint(activation, fitted(activation, degree, interval), bits, interval);
          const least = cost(activation, found, interval);
          for (let code = 0; code < 5 ** (degree + 1); code++) {
            const other = found.map((c, k) => c + ((Math.floor(code / 5 ** k) % 5) - 2) * 2 ** -bits);
            expect(cost(activation, other, interval)).toBeGreaterThanOrEqual(least * (1 - 1e-9) - 1e-12);
          }
        },
      ),
      { seed: 11, numRuns: 12 },
    );
  });

  it('tends to the fit with the bits, and takes intervals of fewer points than coefficients', () => {
    const coefficients = fitted(relu, 4, [-5, 5]);
    const found = toFixedPoint(relu, coefficients, 40, [-5, 5], 1e-4);
    // The grid weighs its ends as much as inner points: O(step) of a coefficient.
    for (const [k, c] of found.entries()) expect(Math.abs(c - (coefficients[k] ?? 0))).toBeLessThan(1e-4);
    expect(toFixedPoint(relu, [0, 1, 0], 8, [0.001, 0.002])).toEqual([0, 1, 0]);
  });

  it('refuses bits that no float64 has', () => {
    for (const bits of [-1, 2.5, 53]) expect(() => toFixedPoint(relu, [0, 1], bits, [-1, 1])).toThrow('0 to 52');
  });
});
