/** Least-squares fits under a distribution of the inputs: normal, in closed form, or measured. */
import { SisyphusError } from '../errors.ts';
import { type Activation, type ActivationKind, erf } from './activations.ts';
import { cutsWithin, expectFit } from './fit.ts';
import type { ChebyshevSeries, Interval } from './polynomial.ts';
import { type Nodes, quadrature, seriesOf, weightedFit } from './quadrature.ts';

/** `counts[i]` values lie between `edges[i]` and `edges[i + 1]`, spread evenly; edges ascend, and may coincide. */
export interface Histogram {
  readonly edges: readonly number[];
  readonly counts: readonly number[];
}

/** Straight lines between kinks. */
const PIECEWISE_LINEAR: ReadonlySet<ActivationKind> = new Set(['relu', 'clip', 'leaky-relu', 'prelu', 'hard-sigmoid']);
const density = (z: number) => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);

/**
 * Least squares under N(mean, std^2): the Hermite expansion of the activation, of which Chabanne et al.
 * (eprint 2017/035), AESPA (arXiv 2201.06699) and AutoReP's DaPa use the lowest degrees.
 *
 * For piecewise linear activations in closed form: relu(x - k) has the coefficients
 * A_0 = u Phi(z) + v phi(z), A_1 = v Phi(z), A_n = v phi(z) He_{n-2}(-z) of He_n((x - mean) / std) / n!, where
 * v = std, u = mean - k and z = u / v. Others are integrated numerically.
 * @param std above 0
 * @returns a series on mean +- 4 std (6 at degree 32), though it is one polynomial everywhere
 */
export function gaussianFit(
  activation: Activation,
  degree: number,
  { mean, std }: { readonly mean: number; readonly std: number },
): ChebyshevSeries {
  // High degrees count what lies further out, where digits of a series on less would be lost.
  const reach = Math.max(4, Math.sqrt(degree + 4)) * std;
  const interval: Interval = [mean - reach, mean + reach];
  expectFit(degree, interval);
  if (!PIECEWISE_LINEAR.has(activation.kind)) {
    // At degree 32 half of the squares lie beyond 8 deviations; beyond 20 there is nothing.
    const wide: Interval = [mean - 20 * std, mean + 20 * std];
    const steps = Array.from({ length: 41 }, (_, i) => mean + (i - 20) * std);
    const nodes = quadrature([...steps, ...cutsWithin(activation, wide)], degree + 17, (x) =>
      density((x - mean) / std),
    );
    return weightedFit(nodes, activation.f, degree, interval);
  }
  const shares = hermiteShares(activation, degree, mean, std);
  const at = (x: number) => hermite(degree, (x - mean) / std).reduce((sum, h, n) => sum + h * (shares[n] as number), 0);
  return seriesOf(at, degree, interval);
}

/** Coefficients of He_n / sqrt(n!), which stay small at any degree. */
function hermiteShares(activation: Activation, degree: number, mean: number, std: number): number[] {
  const shares = new Array<number>(degree + 1).fill(0);
  const kinks = [...new Set(activation.kinks)].sort((a, b) => a - b);
  const [first = 0] = kinks;
  // The line to the left of the first kink, then what each kink adds to the slope.
  const left = activation.slope(first - 1);
  (shares[0] as number) += activation.f(first) + left * (mean - first);
  if (degree >= 1) (shares[1] as number) += left * std;
  let slope = left;
  for (const [i, kink] of kinks.entries()) {
    const after = activation.slope((kink + (kinks[i + 1] ?? kink + 2)) / 2);
    const u = mean - kink;
    const z = u / std;
    const jump = after - slope;
    (shares[0] as number) += jump * (u * normalCdf(z) + std * density(z));
    if (degree >= 1) (shares[1] as number) += jump * std * normalCdf(z);
    const h = hermite(Math.max(0, degree - 2), -z);
    for (let n = 2; n <= degree; n++)
      (shares[n] as number) += (jump * std * density(z) * (h[n - 2] as number)) / Math.sqrt(n * (n - 1));
    slope = after;
  }
  return shares;
}

const normalCdf = (z: number) => (1 + erf(z / Math.SQRT2)) / 2;

/** He_n(z) / sqrt(n!) for n from 0 on. */
function hermite(degree: number, z: number): number[] {
  const list = [1, z];
  for (let n = 1; n < degree; n++)
    list.push((z * (list[n] as number) - Math.sqrt(n) * (list[n - 1] as number)) / Math.sqrt(n + 1));
  return list.slice(0, degree + 1);
}

/**
 * Least squares under a measured distribution.
 * @param tail also count this share of values spread evenly over an interval, so that the polynomial is held where
 * nothing was measured
 * @returns a series on the range of what was counted, tail included; of lower degree where too few different values were
 * measured to tell more
 * @throws SisyphusError `data` for a histogram that holds nothing
 */
export function densityFit(
  activation: Activation,
  degree: number,
  histogram: Histogram,
  tail?: { readonly mass: number; readonly interval: Interval },
): ChebyshevSeries {
  const total = histogram.counts.reduce((sum, count) => sum + count, 0);
  const share = tail ? tail.mass * total : 0;
  const parts = [histogramNodes(activation, degree, histogram)];
  const range = [...rangeOf(histogram)];
  if (tail && share > 0) {
    parts.push(histogramNodes(activation, degree, { edges: tail.interval, counts: [share] }));
    range.push(...tail.interval);
  }
  const [low, high] = [Math.min(...range), Math.max(...range)];
  // All of it in one place: the constant, on an interval around it.
  const interval: Interval = low < high ? [low, high] : [low - 1, low + 1];
  expectFit(degree, interval);
  return weightedFit(joined(parts), activation.f, degree, interval);
}

/** From the lowest place that was counted to the highest. @throws SisyphusError `data` where there is none */
function rangeOf({ edges, counts }: Histogram): Interval {
  if (edges.length !== counts.length + 1)
    throw new SisyphusError(
      'data',
      `histogram: ${counts.length} bins have ${counts.length + 1} edges, not ${edges.length}`,
    );
  const low = edges[counts.findIndex((count) => count > 0)];
  const high = edges[counts.findLastIndex((count) => count > 0) + 1];
  if (low === undefined || high === undefined)
    throw new SisyphusError('data', 'histogram: it counts nothing, so nothing can be fitted to it');
  return [low, high];
}

/** Nodes that integrate polynomials of twice the degree, and the activation, over the bins; each weighs its count. */
export function histogramNodes(activation: Activation, degree: number, { edges, counts }: Histogram): Nodes {
  return joined(
    counts.flatMap((count, i) => {
      const [low, high] = [edges[i] as number, edges[i + 1] as number];
      if (!(count > 0)) return [];
      if (low === high) return [{ x: Float64Array.of(low), weight: Float64Array.of(count) }];
      return [quadrature(cutsWithin(activation, [low, high]), degree + 9, () => count / (high - low))];
    }),
  );
}

const joined = (parts: readonly Nodes[]): Nodes => ({
  x: Float64Array.from(parts.flatMap(({ x }) => [...x])),
  weight: Float64Array.from(parts.flatMap(({ weight }) => [...weight])),
});
