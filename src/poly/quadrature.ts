/** Integrals and least squares over weighted points. */
import { type ChebyshevSeries, chebyshevSeries, type Interval, interpolate, prune, toUnit } from './polynomial.ts';

/** Points, and how much each weighs. */
export interface Nodes {
  readonly x: Float64Array;
  readonly weight: Float64Array;
}

/** Nodes and weights of Gauss-Legendre quadrature on [-1, 1]: Newton's method from Tricomi's estimate. */
const gaussRule = memoized((n: number): Nodes => {
  const [x, weight] = [new Float64Array(n), new Float64Array(n)];
  for (let i = 0; i < n; i++) {
    let z = Math.cos((Math.PI * (i + 0.75)) / (n + 0.5));
    let slope = 1;
    for (let step = 0; step < 100; step++) {
      let [p, previous] = [z, 1];
      for (let k = 1; k < n; k++) [p, previous] = [((2 * k + 1) * z * p - k * previous) / (k + 1), p];
      slope = (n * (z * p - previous)) / (z * z - 1);
      const change = p / slope;
      z -= change;
      if (Math.abs(change) < 1e-16) break;
    }
    x[i] = z;
    weight[i] = 2 / ((1 - z * z) * slope * slope);
  }
  return { x, weight };
});

function memoized<V>(make: (key: number) => V): (key: number) => V {
  const known = new Map<number, V>();
  return (key) => {
    const value = known.get(key) ?? make(key);
    known.set(key, value);
    return value;
  };
}

/**
 * Gauss-Legendre nodes between each two neighbouring cuts, weighted by a density.
 * @param count of nodes in each piece: exact for polynomials of degree 2 count - 1 there
 */
export function quadrature(cuts: readonly number[], count: number, density: (x: number) => number = () => 1): Nodes {
  const rule = gaussRule(count);
  const sorted = [...new Set(cuts)].sort((a, b) => a - b);
  const pieces = Math.max(0, sorted.length - 1);
  const [x, weight] = [new Float64Array(pieces * count), new Float64Array(pieces * count)];
  for (let piece = 0, at = 0; piece < pieces; piece++) {
    const [low, high] = [sorted[piece] as number, sorted[piece + 1] as number];
    for (let i = 0; i < count; i++, at++) {
      const place = (low + high) / 2 + ((high - low) / 2) * (rule.x[i] as number);
      x[at] = place;
      weight[at] = ((high - low) / 2) * (rule.weight[i] as number) * density(place);
    }
  }
  return { x, weight };
}

/**
 * The polynomial with the least weighted squares over the nodes, by polynomials orthogonal on them. These come from an
 * Arnoldi process with each step orthogonalised twice (Brubeck, Nakatsukasa, Trefethen, arXiv 1911.09988), so that
 * nothing is lost at any degree. Fewer nodes than coefficients give the lower degree that they determine.
 */
export function weightedFit(
  { x, weight }: Nodes,
  f: (x: number) => number,
  degree: number,
  interval: Interval,
): ChebyshevSeries {
  const count = x.length;
  const total = weight.reduce((sum, w) => sum + w, 0);
  const t = Float64Array.from(x, (place) => toUnit(interval, place));
  const dot = (a: Float64Array, b: Float64Array) => {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += (weight[i] as number) * (a[i] as number) * (b[i] as number);
    return sum / total;
  };
  const basis = [new Float64Array(count).fill(1)];
  const recurrence: { readonly parts: readonly number[]; readonly norm: number }[] = [];
  for (let k = 0; k < degree; k++) {
    const next = Float64Array.from(basis[k] as Float64Array, (value, i) => value * (t[i] as number));
    const before = Math.sqrt(dot(next, next));
    const parts = new Array<number>(k + 1).fill(0);
    for (let pass = 0; pass < 2; pass++)
      for (const [j, known] of basis.entries()) {
        const part = dot(next, known);
        (parts[j] as number) += part;
        for (let i = 0; i < count; i++) (next[i] as number) -= part * (known[i] as number);
      }
    const norm = Math.sqrt(dot(next, next));
    if (!(norm > 1e-12 * before)) break;
    for (let i = 0; i < count; i++) (next[i] as number) /= norm;
    basis.push(next);
    recurrence.push({ parts, norm });
  }
  const values = Float64Array.from(x, f);
  const shares = basis.map((known) => dot(values, known));
  const at = (place: number): number => {
    const terms = [1];
    for (const [k, { parts, norm }] of recurrence.entries()) {
      const product = toUnit(interval, place) * (terms[k] as number);
      terms.push((product - parts.reduce((sum, part, j) => sum + part * (terms[j] as number), 0)) / norm);
    }
    return terms.reduce((sum, term, k) => sum + term * (shares[k] as number), 0);
  };
  return seriesOf(at, recurrence.length, interval);
}

/** A polynomial that can be evaluated, as a series: without the terms that are rounding, such as odd ones of |x|. */
export const seriesOf = (p: (x: number) => number, degree: number, interval: Interval): ChebyshevSeries =>
  chebyshevSeries(prune(interpolate(p, degree, interval), 1, 1e-13), interval);
