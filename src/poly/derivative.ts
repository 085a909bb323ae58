/** CryptoDL's polynomials: the derivative of the activation is fitted, and the fit integrated (arXiv 1711.05189). */
import type { Activation } from './activations.ts';
import { type Histogram, histogramNodes } from './density.ts';
import { cutsWithin, expectFit } from './fit.ts';
import {
  type ChebyshevSeries,
  chebyshevSeries,
  evaluateSeries,
  fromUnit,
  type Interval,
  toUnit,
} from './polynomial.ts';
import { type Nodes, quadrature, weightedFit } from './quadrature.ts';

/**
 * The integral of the least-squares fit of degree - 1 of the derivative (for ReLU: of the step function). The constant of
 * integration, which the fit leaves open, makes the mean difference 0: under the uniform density, or a measured one.
 * @param degree at least 1
 * @param weight of the fit: 1, or 1 / sqrt(1 - t^2) with t in [-1, 1]
 */
export function derivativeFit(
  activation: Activation,
  degree: number,
  interval: Interval,
  weight: 'legendre' | 'chebyshev',
  measured?: Histogram,
): ChebyshevSeries {
  expectFit(degree, interval, 1);
  const cuts = cutsWithin(activation, interval);
  const nodes = weight === 'legendre' ? quadrature(cuts, degree + 33) : chebyshevNodes(cuts, degree + 33, interval);
  const { coefficients: slope } = weightedFit(nodes, activation.slope, degree - 1, interval);
  const half = (interval[1] - interval[0]) / 2;
  // The integral of T_k is T_(k+1) / (2 (k+1)) - T_(k-1) / (2 (k-1)).
  const coefficients = Array.from({ length: slope.length + 1 }, (_, k) => {
    if (k === 0) return 0;
    const below = (k === 1 ? 2 : 1) * (slope[k - 1] ?? 0);
    return (half * (below - (slope[k + 1] ?? 0))) / (2 * k);
  });
  const open = chebyshevSeries(coefficients, interval);
  const over = measured ? histogramNodes(activation, degree, measured) : quadrature(cuts, degree + 33);
  let [error, total] = [0, 0];
  for (const [i, x] of over.x.entries()) {
    error += (over.weight[i] as number) * (activation.f(x) - evaluateSeries(open, x));
    total += over.weight[i] as number;
  }
  coefficients[0] = total > 0 ? error / total : 0;
  return open;
}

/** With x = cos(angle) the weight disappears. */
function chebyshevNodes(cuts: readonly number[], count: number, interval: Interval): Nodes {
  const angles = cuts.map((x) => Math.acos(Math.min(1, Math.max(-1, toUnit(interval, x)))));
  const { x, weight } = quadrature(angles, count);
  return { x: x.map((angle) => fromUnit(interval, Math.cos(angle))), weight };
}
