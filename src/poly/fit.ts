/**
 * Polynomials for activation functions. Coefficients are those of the powers of x, constant first.
 */
import { SisyphusError } from '../errors.ts';
import type { Activation } from './activations.ts';

export type Coefficients = readonly number[];

export const MAX_DEGREE = 32;

/**
 * The least-squares polynomial of an activation on [-a, a] (the paper's Eq. 1).
 *
 * Without `dx` the density is uniform and continuous: the projection on Legendre polynomials, integrated exactly
 * (Gauss-Legendre between the kinks). For ReLU that is the closed form c_k(a) = c_k(1) a^(1-k) with c_1 = 1/2 and no
 * other odd term. With `dx` it is the fit over the paper's grid of int(2a/dx) points including both ends, whose
 * coefficients differ by O(dx/a).
 * @param a half-width of the range, > 0
 * @param dx spacing of the grid; undefined for the continuous fit
 */
export function leastSquares(activation: Activation, degree: number, a: number, dx?: number): Coefficients {
  const basis = dx === undefined ? legendreFit(activation, degree, a) : gridFit(activation, degree, a, dx);
  // The last two of float64's digits are rounding; without them c_1 of ReLU is 1/2 again.
  return prune(
    basis.map((c, k) => Number((c * a ** -k).toPrecision(14))),
    a,
  );
}

/** Value and slope at 0: x/2 for ReLU (the paper's Taylor column). */
export function tangent(activation: Activation): Coefficients {
  return trim([...activation.tangent]);
}

/** Sets to zero what is only rounding: terms below 1e-12 of the largest one at the ends of the range. */
export function prune(coefficients: Coefficients, a: number): Coefficients {
  const sizes = coefficients.map((c, k) => Math.abs(c) * a ** k);
  const largest = Math.max(...sizes);
  return trim(coefficients.map((c, k) => ((sizes[k] as number) < 1e-12 * largest ? 0 : c)));
}

/** Without trailing zeros, so that the length tells the degree. */
export function trim(coefficients: Coefficients): Coefficients {
  let length = coefficients.length;
  while (length > 1 && coefficients[length - 1] === 0) length--;
  return coefficients.slice(0, length);
}

/** p(x) in float64 by Horner's rule. */
export function evaluate(coefficients: Coefficients, x: number): number {
  let sum = 0;
  for (let k = coefficients.length - 1; k >= 0; k--) sum = sum * x + (coefficients[k] as number);
  return sum;
}

/**
 * Largest and root-mean-square difference to the activation on [-a, a], from 2001 equispaced points and the kinks.
 * @param p the polynomial as it is evaluated
 */
export function fitError(activation: Activation, p: (x: number) => number, a: number): { max: number; rms: number } {
  const error = (x: number) => Math.abs(p(x) - activation.f(x));
  const errors = Array.from({ length: 2001 }, (_, i) => error(-a + (2 * a * i) / 2000));
  const atKinks = activation.kinks.filter((x) => Math.abs(x) <= a).map(error);
  return {
    max: Math.max(...errors, ...atKinks),
    rms: Math.sqrt(errors.reduce((sum, e) => sum + e * e, 0) / errors.length),
  };
}

/** Coefficients in t = x/a of the projection on P_0 … P_n. */
function legendreFit(activation: Activation, degree: number, a: number): number[] {
  const moments = new Array<number>(degree + 1).fill(0);
  const { nodes, weights } = gauss(degree + 33);
  // Kinks, and a ladder of powers of two, so that a narrow transition inside a wide range is resolved.
  const ladder = Array.from({ length: 24 }, (_, i) => 2 ** (i - 3)).filter((x) => x < a);
  const inside = activation.kinks.filter((x) => Math.abs(x) < a);
  const cuts = [...new Set([-a, ...ladder.map((x) => -x), 0, ...ladder, ...inside, a])].sort((x, y) => x - y);
  for (let piece = 0; piece + 1 < cuts.length; piece++) {
    const middle = ((cuts[piece] as number) + (cuts[piece + 1] as number)) / 2;
    const half = ((cuts[piece + 1] as number) - (cuts[piece] as number)) / 2;
    for (const [i, node] of nodes.entries()) {
      const x = middle + half * node;
      const value = activation.f(x) * (weights[i] as number) * (half / a);
      for (const [k, p] of legendre(degree, x / a).entries()) (moments[k] as number) += value * p;
    }
  }
  return toPowers(
    degree,
    moments.map((m, k) => (m * (2 * k + 1)) / 2),
    (k) => [(2 * k + 1) / (k + 1), k / (k + 1)],
  );
}

/** Coefficients in t of the fit over equispaced points, by polynomials orthogonal on them (Stieltjes' procedure). */
function gridFit(activation: Activation, degree: number, a: number, dx: number): number[] {
  const count = Math.trunc((2 * a) / dx);
  if (count <= degree || count > 1e7)
    throw new SisyphusError(
      'spec',
      `dx=${dx} gives ${count} points on [-${a}, ${a}]; a degree ${degree} fit takes ${degree + 1} to 10000000`,
    );
  const t = Float64Array.from({ length: count }, (_, i) => -1 + (2 * i) / (count - 1));
  const values = t.map((x) => activation.f(a * x));
  let previous = new Float64Array(count);
  let current = new Float64Array(count).fill(1);
  let previousNorm = 1;
  const weights: number[] = [];
  const ratios: number[] = [];
  for (let k = 0; k <= degree; k++) {
    const norm = dot(current, current);
    weights.push(dot(current, values) / norm);
    ratios.push(k === 0 ? 0 : norm / previousNorm);
    const [last, ratio] = [previous, ratios[k] as number];
    previous = current;
    current = current.map((p, i) => (t[i] as number) * p - ratio * (last[i] as number)); // symmetric grid: no shift
    previousNorm = norm;
  }
  return toPowers(degree, weights, (k) => [1, ratios[k] as number]);
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

/** Sum of weights[k] Q_k as powers, where Q_{k+1} = alpha t Q_k - beta Q_{k-1} with [alpha, beta] = recurrence(k). */
function toPowers(degree: number, weights: number[], recurrence: (k: number) => [number, number]): number[] {
  const sum = new Array<number>(degree + 1).fill(0);
  let previous: number[] = [];
  let current = [1];
  for (let k = 0; k <= degree; k++) {
    for (const [i, c] of current.entries()) (sum[i] as number) += (weights[k] as number) * c;
    const [alpha, beta] = recurrence(k);
    const next = [0, ...current.map((c) => alpha * c)];
    for (const [i, c] of previous.entries()) (next[i] as number) -= beta * c;
    [previous, current] = [current, next];
  }
  return sum;
}

function legendre(degree: number, t: number): number[] {
  const p = [1, t];
  for (let k = 1; k < degree; k++) p.push(((2 * k + 1) * t * (p[k] as number) - k * (p[k - 1] as number)) / (k + 1));
  return p.slice(0, degree + 1);
}

/** Nodes and weights of Gauss-Legendre quadrature on [-1, 1]: Newton's method from Tricomi's estimate. */
function gauss(n: number): { nodes: number[]; weights: number[] } {
  const nodes: number[] = [];
  const weights: number[] = [];
  for (let i = 1; i <= n; i++) {
    let x = Math.cos((Math.PI * (i - 0.25)) / (n + 0.5));
    let slope = 1;
    for (let step = 0; step < 100; step++) {
      const p = legendre(n, x);
      slope = (n * (x * (p[n] as number) - (p[n - 1] as number))) / (x * x - 1);
      const change = (p[n] as number) / slope;
      x -= change;
      if (Math.abs(change) < 1e-16) break;
    }
    nodes.push(x);
    weights.push(2 / ((1 - x * x) * slope * slope));
  }
  return { nodes, weights };
}
