/**
 * Fits of activation functions on an interval, all as Chebyshev series, which lose no digits at any degree;
 * `toPowers` gives the powers of x.
 */
import { SisyphusError } from '../errors.ts';
import type { Activation } from './activations.ts';
import { type ChebyshevSeries, fromUnit, type Interval, type PowerSeries, powerSeries, trim } from './polynomial.ts';
import { quadrature, seriesOf, weightedFit } from './quadrature.ts';

export const MAX_DEGREE = 32;

/**
 * The least-squares polynomial of an activation on an interval (Garimella, Jha, Reagen 2021, Eq. 1).
 *
 * Without `dx` the density is uniform and continuous: the projection on Legendre polynomials, integrated exactly between
 * the kinks. For ReLU on [-a, a] that is the closed form c_k(a) = c_k(1) a^(1-k) with c_1 = 1/2 and no other odd term.
 * With `dx` it is the fit over the paper's grid of int((high - low) / dx) points including both ends, whose coefficients
 * differ by O(dx / a).
 * @throws SisyphusError `spec` for a grid of too few or too many points
 */
export function leastSquares(activation: Activation, degree: number, interval: Interval, dx?: number): ChebyshevSeries {
  expectFit(degree, interval);
  const nodes =
    dx === undefined ? quadrature(cutsWithin(activation, interval), degree + 33) : grid(interval, degree, dx);
  return weightedFit(nodes, activation.f, degree, interval);
}

/** Values of the orthogonal polynomials on a grid that are held at once: a second or two of work. */
const GRID_NUMBERS = 1e7;

function grid([low, high]: Interval, degree: number, dx: number) {
  const count = Math.trunc((high - low) / dx);
  const most = Math.floor(GRID_NUMBERS / (degree + 1));
  if (count <= degree || count > most)
    throw new SisyphusError(
      'spec',
      `dx=${dx} gives ${count} points on [${low}, ${high}]; a degree ${degree} fit takes ${degree + 1} to ${most}`,
    );
  const x = Float64Array.from({ length: count }, (_, i) => fromUnit([low, high], -1 + (2 * i) / (count - 1)));
  return { x, weight: new Float64Array(count).fill(1) };
}

/** @throws SisyphusError `spec` for a degree or an interval that nothing can be fitted with */
export function expectFit(degree: number, [low, high]: Interval, least = 0): void {
  if (!(Number.isInteger(degree) && degree >= least && degree <= MAX_DEGREE))
    throw new SisyphusError('spec', `degree ${degree} is no whole number from ${least} to ${MAX_DEGREE}`);
  if (!(Number.isFinite(low) && Number.isFinite(high) && low < high))
    throw new SisyphusError('spec', `[${low}, ${high}] is no interval: give [low, high] with low below high`);
}

/** Kinks, and a ladder of powers of two, so that a narrow transition inside a wide range is resolved. */
export function cutsWithin(activation: Activation, [low, high]: Interval): number[] {
  const ladder = Array.from({ length: 24 }, (_, i) => 2 ** (i - 3)).flatMap((x) => [-x, x]);
  return [low, high, ...[0, ...ladder, ...activation.kinks].filter((x) => x > low && x < high)];
}

/** The polynomial through the activation at degree + 1 nodes: a lookup table as a polynomial. */
export function interpolation(
  activation: Activation,
  degree: number,
  interval: Interval,
  nodes: 'chebyshev' | 'equispaced',
): ChebyshevSeries {
  expectFit(degree, interval);
  if (nodes === 'chebyshev' || degree === 0) return seriesOf(activation.f, degree, interval);
  const x = Float64Array.from({ length: degree + 1 }, (_, i) => fromUnit(interval, -1 + (2 * i) / degree));
  return weightedFit({ x, weight: new Float64Array(degree + 1).fill(1) }, activation.f, degree, interval);
}

/** Value and slope at 0. */
export const tangentLine = ({ tangent }: Activation): PowerSeries => powerSeries(trim([...tangent]));

/**
 * Largest and root-mean-square difference to the activation. The largest one is looked for at 2001 equispaced points, the
 * kinks, and the nodes of the integral, which are denser around 0.
 */
export function fitError(
  activation: Activation,
  p: (x: number) => number,
  interval: Interval,
): { max: number; rms: number } {
  const error = (x: number) => Math.abs(p(x) - activation.f(x));
  const cuts = cutsWithin(activation, interval);
  const { x, weight } = quadrature(cuts, 33);
  let [max, squares] = [0, 0];
  // NaN wins over every number, as it does in Math.max.
  for (const cut of cuts) max = Math.max(max, error(cut));
  for (let i = 0; i <= 2000; i++) max = Math.max(max, error(fromUnit(interval, -1 + i / 1000)));
  for (const [i, place] of x.entries()) {
    const size = error(place);
    max = Math.max(max, size);
    squares += (weight[i] as number) * size * size;
  }
  return { max, rms: Math.sqrt(squares / (interval[1] - interval[0])) };
}

/**
 * Taylor polynomial at 0. Functions with a kink there have no derivatives: theirs is value and mean slope, x/2 for ReLU,
 * whatever the degree (the paper's Taylor column).
 */
export function taylor(activation: Activation, degree: number): PowerSeries {
  return activation.series ? powerSeries(trim(activation.series(degree + 1))) : tangentLine(activation);
}
