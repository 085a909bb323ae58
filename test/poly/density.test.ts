import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Activation,
  clip,
  elu,
  gelu,
  hardSigmoid,
  leakyRelu,
  relu,
  silu,
  tanh,
} from '../../src/poly/activations.ts';
import { densityFit, gaussianFit, type Histogram } from '../../src/poly/density.ts';
import { fitError, leastSquares } from '../../src/poly/fit.ts';
import { type ChebyshevSeries, evaluateSeries, type Interval, toPowers } from '../../src/poly/polynomial.ts';
import { anyActivation, anyChange, anyInterval, changed, distance, largest, midpoints } from './activations.ts';

const normal = (z: number) => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);

/** E[f(X)] for X ~ N(mean, std^2), by plain midpoint sums to 12 deviations, written apart from the code under test. */
function expectation(f: (x: number) => number, mean: number, std: number, count = 10_000): number {
  return midpoints([-12, 12], count).reduce((sum, z) => sum + f(mean + std * z) * normal(z), 0) * (24 / count);
}

describe('least squares under a normal distribution', () => {
  it("gives Chabanne's exact projections for N(0, 1)", () => {
    const table = [
      [2, [0.199471, 0.5, 0.199471], 0.1061],
      [4, [0.149603, 0.5, 0.299207, 0, -0.016623], 0.0681],
      [6, [0.124669, 0.5, 0.374008, 0, -0.041556, 0, 0.001662], 0.0514],
      [8, [0.109086, 0.5, 0.436343, 0, -0.072724, 0, 0.005818, 0, -0.000148], 0.0419],
    ] as const;
    for (const [degree, expected, rmse] of table) {
      const series = gaussianFit(relu, degree, { mean: 0, std: 1 });
      // The table has six decimals, some of them cut off.
      expect(distance(toPowers(series).coefficients, expected)).toBeLessThan(1e-6);
      const squared = expectation((x) => (evaluateSeries(series, x) - relu.f(x)) ** 2, 0, 1);
      expect(Math.sqrt(squared)).toBeCloseTo(rmse, 4);
      expect(gaussianFit(relu, degree + 1, { mean: 0, std: 1 }).coefficients).toHaveLength(degree + 1);
    }
  });

  it('agrees with what was published for samples of N(0, 1) to their sampling error, save one coefficient', () => {
    const published = {
      2: [0.1992, 0.5002, 0.1997],
      4: [0.15, 0.5012, 0.2981, -0.0004],
      6: [0.1249, 0.5, 0.3729, 0, -0.041, 0, 0.0016],
    };
    for (const [degree, expected] of Object.entries(published)) {
      const { coefficients } = toPowers(gaussianFit(relu, Number(degree), { mean: 0, std: 1 }));
      expect(distance(coefficients.slice(0, expected.length), expected)).toBeLessThan(1.5e-3);
    }
    // Degree 4's x^4 is printed as -0.0388; their degree 5 has -0.0168, which is right.
    expect(toPowers(gaussianFit(relu, 4, { mean: 0, std: 1 })).coefficients[4]).toBeCloseTo(-0.0168, 3);
  });

  it("is AutoReP's closed form at degree 2", () => {
    for (const [mean, std] of [
      [0, 1],
      [0.7, 0.4],
      [-2, 1.5],
    ] as const) {
      const z = mean / std;
      const below = expectation((x) => Number(x > 0), mean, std, 200_000);
      const expected = [(std * normal(z) * (1 + z * z)) / 2, below - z * normal(z), normal(z) / (2 * std)];
      // The expectation of a step by a plain sum is good to 1e-4 of its step.
      expect(distance(toPowers(gaussianFit(relu, 2, { mean, std })).coefficients, expected)).toBeLessThan(5e-5);
    }
  });

  it.each(
    [relu, leakyRelu(0.1), clip(6), clip(0), hardSigmoid(0.2, 0.5), hardSigmoid(-0.5, 0.2), hardSigmoid(0, 0.3)].map(
      (a) => [a.label, a] as const,
    ),
  )('%s: the closed form is the integral', (_, activation) => {
    // Under another name it is integrated, like every activation that is not made of straight lines.
    const integrated: Activation = { ...activation, kind: 'elu' };
    for (const [mean, std] of [
      [0, 1],
      [0.5, 2],
      [-3, 0.7],
      [6, 5],
    ] as const)
      for (const degree of [0, 1, 2, 7, 32]) {
        const [closed, numeric] = [activation, integrated].map((f) => gaussianFit(f, degree, { mean, std }));
        const scale = largest(closed?.coefficients ?? []) + 1e-3;
        expect(distance(closed?.coefficients ?? [], numeric?.coefficients ?? [])).toBeLessThan(2e-12 * scale);
      }
  });

  it.each([relu, gelu(false), tanh, elu(1)].map((a) => [a.label, a] as const))(
    '%s: what is left over is orthogonal to all polynomials of the degree',
    (_, activation) => {
      for (const [mean, std] of [
        [0, 1],
        [0.5, 2],
      ] as const)
        for (const degree of [0, 3, 7]) {
          const series = gaussianFit(activation, degree, { mean, std });
          for (let k = 0; k <= degree; k++) {
            const size = Math.sqrt(expectation((x) => ((x - mean) / std) ** (2 * k), mean, std));
            const product = expectation(
              (x) => ((activation.f(x) - evaluateSeries(series, x)) * ((x - mean) / std) ** k) / size,
              mean,
              std,
            );
            // Plain sums are good to a tenth of the square of their step, 2.4e-3.
            expect(Math.abs(product)).toBeLessThan(1e-6);
          }
        }
    },
  );

  it('scales with ReLU: c_k(v) = c_k(1) v^(1-k)', () => {
    const one = toPowers(gaussianFit(relu, 6, { mean: 0, std: 1 })).coefficients;
    const scaled = toPowers(gaussianFit(relu, 6, { mean: 0, std: 3 })).coefficients;
    for (const [k, c] of scaled.entries()) expect(c).toBeCloseTo((one[k] as number) * 3 ** (1 - k), 12);
  });

  it('loses nothing at degree 32', () => {
    // SiLU is entire enough for a fit of that degree to be good to 1e-4 wherever the distribution is.
    const series = gaussianFit(silu(), 32, { mean: 0, std: 1 });
    expect(fitError(silu(), (x) => evaluateSeries(series, x), [-4, 4]).max).toBeLessThan(1e-4);
    // And E[f] is kept to rounding.
    const mean = expectation((x) => evaluateSeries(series, x), 0, 1);
    expect(mean).toBeCloseTo(expectation(silu().f, 0, 1), 12);
  });
});

const uniform = ([low, high]: Interval, bins: number): Histogram => ({
  edges: Array.from({ length: bins + 1 }, (_, i) => low + ((high - low) * i) / bins),
  counts: new Array<number>(bins).fill(3),
});

describe('least squares under a histogram', () => {
  it('is the uniform fit where all bins hold the same, however many', () => {
    fc.assert(
      fc.property(
        anyActivation,
        fc.nat({ max: 16 }),
        anyInterval,
        fc.integer({ min: 1, max: 40 }),
        (activation, degree, interval, bins) => {
          const [found, expected] = [
            densityFit(activation, degree, uniform(interval, bins)),
            leastSquares(activation, degree, interval),
          ];
          const scale = largest(expected.coefficients) + 1e-6;
          expect(distance(found.coefficients, expected.coefficients)).toBeLessThan(1e-11 * scale);
          expect(distance(found.interval, expected.interval)).toBeLessThan(1e-9);
        },
      ),
      { seed: 5, numRuns: 100 },
    );
  });

  it('tends to the fit under a normal distribution, with an error of the square of the bin width', () => {
    const error = (width: number, activation: Activation, degree: number) => {
      const bins = Math.round(16 / width);
      const edges = Array.from({ length: bins + 1 }, (_, i) => -8 + i * width);
      const counts = edges.slice(1).map((high) => {
        const places = midpoints([high - width, high], 50);
        return places.reduce((sum, z) => sum + normal(z), 0);
      });
      const found = densityFit(activation, degree, { edges, counts });
      const expected = gaussianFit(activation, degree, { mean: 0, std: 1 });
      return largest(midpoints([-2, 2], 100).map((x) => evaluateSeries(found, x) - evaluateSeries(expected, x)));
    };
    for (const activation of [relu, gelu(false)])
      for (const degree of [2, 4]) {
        const [coarse, fine] = [error(0.2, activation, degree), error(0.1, activation, degree)];
        expect(coarse).toBeLessThan(0.2 ** 2);
        expect(fine).toBeLessThan(coarse / 3);
      }
  });

  it('beats its neighbours in its own norm, with bins of any width', () => {
    const bins = fc.array(
      fc.record({ width: fc.constantFrom(0.01, 0.2, 1, 3), count: fc.constantFrom(0, 1, 20, 1000) }),
      { minLength: 2, maxLength: 12 },
    );
    fc.assert(
      fc.property(anyActivation, fc.nat({ max: 8 }), bins, anyChange, (activation, degree, list, change) => {
        fc.pre(list.filter(({ count }) => count > 0).length > 1);
        const edges = [-2];
        for (const { width } of list) edges.push((edges.at(-1) as number) + width);
        const counts: readonly number[] = list.map(({ count }) => count);
        const best = densityFit(activation, degree, { edges, counts });
        const norm = (series: ChebyshevSeries) =>
          counts.reduce((sum, count, i) => {
            if (count === 0) return sum;
            const places = midpoints([edges[i] as number, edges[i + 1] as number], 1000);
            return (
              sum +
              places.reduce((so, x) => so + (count / 1000) * (evaluateSeries(series, x) - activation.f(x)) ** 2, 0)
            );
          }, 0);
        expect(norm(changed(best, degree, change, 1))).toBeGreaterThan(norm(best));
      }),
      { seed: 6, numRuns: 100 },
    );
  });

  it('does not depend on the scale of the counts, on empty bins around, or on how bins are cut', () => {
    const edges = [-3, -1, -0.5, 0.25, 2, 7];
    const counts = [0, 5, 80, 13, 0];
    const expected = densityFit(relu, 4, { edges, counts });
    expect(expected.interval).toEqual([-1, 2]);
    const same = [
      { edges, counts: counts.map((count) => 1000 * count) },
      { edges: edges.slice(1, -1), counts: counts.slice(1, -1) },
      { edges: [-1, -0.75, -0.5, 0.25, 2], counts: [2.5, 2.5, 80, 13] },
    ];
    for (const histogram of same)
      expect(distance(densityFit(relu, 4, histogram).coefficients, expected.coefficients)).toBeLessThan(1e-12);
  });

  it('takes single values as bins without width, and tells only what they determine', () => {
    // Two values: the line through them. One: the constant.
    const two = densityFit(relu, 4, { edges: [-1, -1, 2, 2], counts: [7, 0, 3] });
    expect(distance(toPowers(two).coefficients, [2 / 3, 2 / 3])).toBeLessThan(1e-13);
    const one = densityFit(silu(), 4, { edges: [1.5, 1.5], counts: [9] });
    expect(one.coefficients).toHaveLength(1);
    expect(one.coefficients[0]).toBeCloseTo(silu().f(1.5), 14);
    expect(one.interval).toEqual([0.5, 2.5]);
    // A bin that is all but a point, far from 0.
    const narrow = densityFit(relu, 6, { edges: [1000, 1000 + 1e-6], counts: [4] });
    expect(evaluateSeries(narrow, 1000)).toBeCloseTo(1000, 9);
  });

  it('is held where nothing was measured by a tail', () => {
    // All but nothing lies beyond 1; what is there decides about [-8, 8] only with a tail.
    const histogram: Histogram = { edges: [-1, 1], counts: [1000] };
    const at = (tail?: Parameters<typeof densityFit>[3]) => {
      const series = densityFit(relu, 4, histogram, tail);
      const error = (interval: Interval) => fitError(relu, (x) => evaluateSeries(series, x), interval);
      return { inside: error([-1, 1]).rms, outside: error([-8, 8]).max, interval: series.interval };
    };
    const [free, held, firm] = [at(), at({ mass: 1e-4, interval: [-8, 8] }), at({ mass: 1e-2, interval: [-8, 8] })];
    expect(free.outside).toBeGreaterThan(1000);
    expect(held.outside).toBeLessThan(10);
    expect(firm.outside).toBeLessThan(held.outside);
    expect(free.inside).toBeLessThan(held.inside);
    expect(held.inside).toBeLessThan(firm.inside);
    expect(held.interval).toEqual([-8, 8]);
    expect(at({ mass: 0, interval: [-8, 8] })).toEqual(free);
  });

  it('keeps its precision at degree 32, and where one value in a million is far away', () => {
    const series = densityFit(relu, 32, uniform([-5, 5], 512));
    expect(distance(series.coefficients, leastSquares(relu, 32, [-5, 5]).coefficients)).toBeLessThan(1e-11);
    const outlier = densityFit(relu, 4, { edges: [-1, 1, 99, 100], counts: [1e6, 0, 1] });
    const { rms } = fitError(relu, (x) => evaluateSeries(outlier, x), [-1, 1]);
    expect(rms).toBeLessThan(0.1);
    expect(evaluateSeries(outlier, 99.5)).toBeGreaterThan(0);
    expect(evaluateSeries(outlier, 99.5)).toBeLessThan(200);
  });

  it('refuses histograms that hold nothing, or that do not fit together', () => {
    expect(() => densityFit(relu, 2, { edges: [0, 1, 2], counts: [0, 0] })).toThrow('it counts nothing');
    expect(() => densityFit(relu, 2, { edges: [], counts: [] })).toThrow(expect.objectContaining({ code: 'data' }));
    expect(() => densityFit(relu, 2, { edges: [0, 1], counts: [1, 2] })).toThrow('2 bins have 3 edges, not 2');
  });
});
