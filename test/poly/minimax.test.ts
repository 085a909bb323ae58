import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { clip, hardSigmoid, leakyRelu, relu, sigmoidActivation, silu, tanh } from '../../src/poly/activations.ts';
import { leastSquares } from '../../src/poly/fit.ts';
import { exchange, minimax } from '../../src/poly/minimax.ts';
import { chebyshevSeries, evaluateSeries, type Interval, toPowers } from '../../src/poly/polynomial.ts';
import { anyActivation, anyChange, anyInterval, changed, distance, largest, midpoints } from './activations.ts';

describe('minimax polynomials', () => {
  it('of ReLU are the tabulated ones: c0, c2, c4, … and the error, c1 being 1/2', () => {
    const tables: readonly (readonly [degree: number, error: number, even: readonly number[], tolerance: number])[] = [
      [2, 0.0625, [0.0625, 0.5], 1e-12],
      [4, 0.03381, [0.03381045, 0.96514969, -0.53277059], 1e-8],
      [6, 0.02296, [0.02296453, 1.4340124, -2.0891849, 1.1551725], 1e-7],
      // The table's degree 8 is levelled to 6 digits only; these are from Remez' exchange for sqrt(t) / 2 in 40 digits.
      [8, 0.01734, [0.01734486404219, 1.90490470181874, -5.18168122725587, 6.85988014195092, -3.11779334459817], 1e-9],
    ];
    for (const [degree, error, even, tolerance] of tables) {
      const found = minimax(relu, degree, [-1, 1]);
      const { coefficients } = toPowers(found.series);
      expect(coefficients[1]).toBeCloseTo(0.5, 12);
      expect(distance(coefficients, even.flatMap((c, i) => (i === 0 ? [c, 0.5] : [c, 0])).slice(0, -1))).toBeLessThan(
        tolerance,
      );
      expect(found.error).toBeCloseTo(error, 5);
    }
    for (const [degree, error] of [
      [10, 0.01392],
      [12, 0.01162],
      [14, 0.00997],
      [16, 0.00873],
    ] as const)
      expect(minimax(relu, degree, [-1, 1]).error).toBeCloseTo(error, 5);
  });

  it('are the constants of the literature', () => {
    // x^2 / (2a) + x/2 + a/16 with the error a/16; HCNN and Faster CryptoNets have a = 4.
    expect(toPowers(minimax(relu, 2, [-4, 4]).series).coefficients).toEqual([1 / 4, 1 / 2, 1 / 8]);
    // Faster CryptoNets' polynomial is that of Swish on [-4, 4], whose digits they cut off.
    const swish = minimax(silu(), 2, [-4, 4]);
    expect(distance(toPowers(swish.series).coefficients, [0.153613744, 0.5, 0.12050344])).toBeLessThan(1e-8);
    expect(swish.error).toBeCloseTo(0.1536, 4);
  });

  it('scale with the interval, and odd degrees add nothing on a symmetric one', () => {
    for (const degree of [2, 6, 13]) {
      const [one, fifty] = [minimax(relu, degree, [-1, 1]), minimax(relu, degree, [-50, 50])];
      expect(
        distance(
          fifty.series.coefficients,
          one.series.coefficients.map((c) => 50 * c),
        ),
      ).toBeLessThan(1e-10);
    }
    for (const degree of [3, 7, 15]) {
      const [odd, even] = [minimax(relu, degree, [-1, 1]), minimax(relu, degree - 1, [-1, 1])];
      expect(odd.series.coefficients).toHaveLength(degree);
      expect(Math.abs(odd.error - even.error)).toBeLessThan(1e-12);
    }
  });

  it('are exact where the function is a polynomial', () => {
    for (const degree of [1, 4, 9]) {
      const { series, error } = minimax(relu, degree, [1, 5]);
      expect(error).toBeLessThan(1e-14);
      expect(toPowers(series).coefficients).toEqual([0, 1]);
      expect(minimax(relu, degree, [-3, -1]).series.coefficients).toEqual([0]);
    }
    expect(minimax(hardSigmoid(0.2, 0.5), 0, [5, 7]).series.coefficients).toEqual([1]);
  });

  it('find kinks next to the ends, narrow transitions in wide ranges, and constants', () => {
    for (const [activation, degree, interval] of [
      [relu, 7, [-1e-3, 1e3]],
      [tanh, 9, [-1000, 1000]],
      [clip(6), 11, [-100, 100]],
      [leakyRelu(0.1), 5, [-3, 0.01]],
      [sigmoidActivation, 0, [-2, 6]],
    ] as const) {
      const { error, extrema } = minimax(activation, degree, interval);
      expect(extrema.length).toBeGreaterThanOrEqual(degree + 2);
      expect(error).toBeGreaterThan(0);
    }
    const { series } = minimax(sigmoidActivation, 0, [-2, 6]);
    const middle = (sigmoidActivation.f(-2) + sigmoidActivation.f(6)) / 2;
    expect(series.coefficients[0]).toBeCloseTo(middle, 14);
  });

  it('equioscillate: degree + 2 extrema of one size with alternating signs, nothing above them', () => {
    let levelled = 0;
    fc.assert(
      fc.property(anyActivation, fc.nat({ max: 24 }), anyInterval, (activation, degree, interval) => {
        const { series, error, extrema } = minimax(activation, degree, interval);
        const difference = (x: number) => evaluateSeries(series, x) - activation.f(x);
        const scale = largest(midpoints(interval, 200).map(activation.f));
        // Between the extrema there is nothing larger, up to rounding.
        expect(largest(midpoints(interval, 2000).map(difference))).toBeLessThanOrEqual(
          error * (1 + 1e-8) + 1e-14 * scale,
        );
        // Of an error of 1e-6 rounding leaves 10 digits; below that "the same size" means less and less.
        if (error < 1e-6 * scale || scale < 1e-6) return;
        levelled++;
        expect(extrema.length).toBeGreaterThanOrEqual(degree + 2);
        for (const [i, x] of extrema.entries()) {
          expect(Math.abs(Math.abs(difference(x)) - error)).toBeLessThanOrEqual(1e-8 * error);
          if (i > 0) expect(difference(x) * difference(extrema[i - 1] as number)).toBeLessThan(0);
        }
      }),
      { seed: 3, numRuns: 120 },
    );
    expect(levelled).toBeGreaterThan(60);
  });

  it('beat their neighbours, and least squares, in the largest error', () => {
    fc.assert(
      fc.property(
        anyActivation,
        fc.nat({ max: 12 }),
        anyInterval,
        anyChange,
        (activation, degree, interval, change) => {
          const { series, error, extrema } = minimax(activation, degree, interval);
          const scale = largest(midpoints(interval, 200).map(activation.f));
          fc.pre(scale > 1e-3 && extrema.length >= degree + 2);
          const worst = (other: typeof series) =>
            largest([...extrema, ...midpoints(interval, 500)].map((x) => evaluateSeries(other, x) - activation.f(x)));
          expect(worst(changed(series, degree, change, scale))).toBeGreaterThan(error);
          expect(worst(leastSquares(activation, degree, interval))).toBeGreaterThanOrEqual(error * (1 - 1e-9));
        },
      ),
      { seed: 4, numRuns: 80 },
    );
  });
});

describe("Remez' exchange for the sign on two intervals", () => {
  it('equioscillates on both with odd polynomials', () => {
    for (const [degree, epsilon] of [
      [3, 0.1],
      [7, 0.02],
      [15, 0.05],
      [27, 0.3],
      [31, 0.01],
    ] as const) {
      const on: Interval = [epsilon, 1];
      const terms = Array.from({ length: (degree + 1) / 2 }, (_, k) => 2 * k + 1);
      const { coefficients, error, extrema } = exchange(() => 1, terms, on, on, [-1, 1]);
      const series = chebyshevSeries(coefficients, [-1, 1]);
      expect(coefficients.filter((c, k) => k % 2 === 0 && c !== 0)).toEqual([]);
      // One more than it has terms, on each side of 0.
      expect(extrema.length).toBe(terms.length + 1);
      expect(extrema[0]).toBe(epsilon);
      expect(extrema.at(-1)).toBe(1);
      for (const side of [1, -1])
        for (const [i, x] of extrema.entries()) {
          const difference = evaluateSeries(series, side * x) - side;
          expect(Math.abs(Math.abs(difference) - error)).toBeLessThanOrEqual(1e-8 * error);
          expect(Math.sign(difference)).toBe(side * (i % 2 === 0 ? -1 : 1));
        }
    }
  });
});
