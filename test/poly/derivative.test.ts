import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { relu, silu, tanh } from '../../src/poly/activations.ts';
import { derivativeFit } from '../../src/poly/derivative.ts';
import { type ChebyshevSeries, evaluateSeries, fromUnit, type Interval, toPowers } from '../../src/poly/polynomial.ts';
import { anyActivation, anyChange, anyInterval, changed, distance, largest, midpoints } from './activations.ts';

describe('the integral of a fit of the derivative', () => {
  it('is the tabulated one for ReLU: x/2 and even terms, by the weight', () => {
    const table = [
      ['chebyshev', 2, [0.5, 0.31831]],
      ['chebyshev', 4, [0.5, 0.63662, 0, -0.21221]],
      ['legendre', 2, [0.5, 0.375]],
      ['legendre', 4, [0.5, 0.703125, 0, -0.2734375]],
    ] as const;
    for (const [weight, degree, expected] of table)
      for (const a of [1, 6]) {
        const { coefficients } = toPowers(derivativeFit(relu, degree, [-a, a], weight));
        const scaled = coefficients.map((c, k) => c * a ** (k - 1));
        // Five decimals are printed.
        expect(distance(scaled.slice(1), expected)).toBeLessThan(5e-6);
        // The even part of an odd step has no odd terms: degree 3 is degree 2.
        expect(derivativeFit(relu, degree + 1, [-a, a], weight).coefficients).toHaveLength(degree + 1);
      }
  });

  it('has the mean of the activation, under the uniform density or a measured one', () => {
    fc.assert(
      fc.property(
        anyActivation,
        fc.integer({ min: 1, max: 20 }),
        anyInterval,
        fc.boolean(),
        (activation, degree, interval, chebyshev) => {
          const series = derivativeFit(activation, degree, interval, chebyshev ? 'chebyshev' : 'legendre');
          const places = midpoints(interval, 10_000);
          const mean = places.reduce((sum, x) => sum + activation.f(x) - evaluateSeries(series, x), 0) / places.length;
          expect(Math.abs(mean)).toBeLessThan(1e-6 * (1 + largest(places.map(activation.f))));
        },
      ),
      { seed: 7, numRuns: 25 },
    );
    const histogram = { edges: [-1, 0, 0.5, 3], counts: [10, 70, 20] };
    const series = derivativeFit(relu, 4, [-5, 5], 'chebyshev', histogram);
    const mean = (f: (x: number) => number) =>
      histogram.counts.reduce((sum, count, i) => {
        const places = midpoints([histogram.edges[i] as number, histogram.edges[i + 1] as number], 2000);
        return sum + (count * places.reduce((so, x) => so + f(x), 0)) / 2000;
      }, 0);
    expect(mean((x) => evaluateSeries(series, x))).toBeCloseTo(mean(relu.f), 4);
  });

  it('beats its neighbours in the norm of the derivative', () => {
    fc.assert(
      fc.property(
        anyActivation,
        fc.integer({ min: 1, max: 10 }),
        anyInterval,
        fc.constantFrom('legendre', 'chebyshev'),
        anyChange,
        (activation, degree, interval, weight, change) => {
          // Equal steps of x, or of the angle, whose cosine x is.
          const places =
            weight === 'legendre'
              ? midpoints(interval, 4000)
              : midpoints([0, Math.PI], 4000).map((angle) => fromUnit(interval, Math.cos(angle)));
          const slopes = places.map(activation.slope);
          const scale = largest(slopes);
          fc.pre(scale > 1e-3);
          const norm = (series: ChebyshevSeries) => {
            const slope = derivative(series);
            return places.reduce((sum, x, i) => sum + (slope(x) - (slopes[i] as number)) ** 2, 0);
          };
          const best = derivativeFit(activation, degree, interval, weight);
          // Not the constant: it has no slope.
          const term = 1 + (change.term % degree);
          const half = (interval[1] - interval[0]) / 2;
          expect(norm(changed(best, degree, { ...change, term }, scale * half))).toBeGreaterThan(norm(best));
        },
      ),
      { seed: 8, numRuns: 120 },
    );
  });

  it('tends to smooth activations with the degree', () => {
    // The poles of tanh, at +-i pi/2, let errors fall like 1.55^-degree on this interval: to 1.3e-6 at 31.
    for (const weight of ['legendre', 'chebyshev'] as const)
      for (const activation of [silu(), tanh]) {
        const series = derivativeFit(activation, 31, [-4, 3], weight);
        const errors = midpoints([-4, 3], 500).map((x) => evaluateSeries(series, x) - activation.f(x));
        expect(largest(errors)).toBeLessThan(5e-6);
      }
  });

  it('refuses a constant, which has no derivative to fit', () => {
    expect(() => derivativeFit(relu, 0, [-1, 1], 'legendre')).toThrow('degree 0 is no whole number from 1 to 32');
  });
});

/** T_k' = k U_(k-1). */
function derivative({ coefficients, interval }: ChebyshevSeries): (x: number) => number {
  const [low, high]: Interval = interval;
  return (x) => {
    const t = (2 * x - low - high) / (high - low);
    let [u, next, sum] = [1, 2 * t, 0];
    for (let k = 1; k < coefficients.length; k++) {
      sum += k * (coefficients[k] as number) * u;
      [u, next] = [next, 2 * t * next - u];
    }
    return (sum * 2) / (high - low);
  };
}
