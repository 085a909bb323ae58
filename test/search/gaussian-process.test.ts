import { describe, expect, it } from 'vitest';
import { makeRng } from '../../src/rng.ts';
import { fitGaussianProcess, logPosterior, PRIORS, withHyperparameters } from '../../src/search/gaussian-process.ts';

const rng = makeRng(1);
const points = Array.from({ length: 12 }, () => [rng.uniform(), rng.uniform()]);
const values = points.map(([x = 0, y = 0]) => Math.sin(6 * x) + y * y);

describe('a Gaussian process', () => {
  it('goes through its points, and is as unsure far from them as of nothing', () => {
    const process = withHyperparameters(points, values, { lengths: [0.3, 0.3], variance: 2, noise: 1e-10 });
    for (const [i, point] of points.entries()) {
      const { mean, deviation } = process.predict(point);
      expect(mean).toBeCloseTo(values[i] as number, 5);
      expect(deviation).toBeLessThan(1e-3);
    }
    expect(process.predict([50, 50]).deviation).toBeCloseTo(Math.sqrt(2), 6);
  });

  it('has the likelihood of its definition', () => {
    // Two points one length-scale apart, noise 0.1, variance 1: k = (1 + sqrt 5 + 5/3) exp(-sqrt 5).
    const k = (1 + Math.sqrt(5) + 5 / 3) * Math.exp(-Math.sqrt(5));
    const flat = { shape: 1, rate: 0 };
    const priors = { length: flat, variance: flat, noise: flat, leastNoise: 0 };
    const found = logPosterior([[0], [1]], [1, -1], [0, 0, Math.log(0.1)], priors);
    // The mean is 0; the eigenvalues are 1.1 - k along (1, -1) and 1.1 + k.
    const wanted = -0.5 * (2 / (1.1 - k)) - 0.5 * Math.log((1.1 - k) * (1.1 + k)) - Math.log(2 * Math.PI);
    expect(found?.objective).toBeCloseTo(wanted, 10);
  });

  it('has the gradient of finite differences', () => {
    const theta = [-1, -0.5, 0.3, -3];
    const { gradient = [] } = logPosterior(points, values, theta, PRIORS) ?? {};
    for (const [i, slope] of gradient.entries()) {
      const at = (by: number) =>
        logPosterior(
          points,
          values,
          theta.map((t, k) => (k === i ? t + by : t)),
          PRIORS,
        )?.objective as number;
      expect(slope).toBeCloseTo((at(1e-5) - at(-1e-5)) / 2e-5, 4);
    }
  });

  it('finds the coordinate that matters', () => {
    const many = Array.from({ length: 30 }, () => [rng.uniform(), rng.uniform()]);
    const process = fitGaussianProcess(
      many,
      many.map(([x = 0]) => Math.sin(9 * x)),
    );
    const [first = 0, second = 0] = process.hyperparameters.lengths;
    expect(second).toBeGreaterThan(2 * first);
    expect(process.predict([0.5, 0.9]).mean).toBeCloseTo(Math.sin(4.5), 1);
  });

  it('takes equal points and equal values', () => {
    expect(fitGaussianProcess([[0.5], [0.5]], [1, 1]).predict([0.5]).mean).toBeCloseTo(1, 6);
    expect(fitGaussianProcess([[0.5], [0.5]], [0, 1]).predict([0.5]).mean).toBeCloseTo(0.5, 6);
    expect(fitGaussianProcess([[0.2]], [3]).predict([0.9]).mean).toBeCloseTo(3, 6);
    expect(() => fitGaussianProcess([], [])).toThrow(RangeError);
  });
});
