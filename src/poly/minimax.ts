/** Minimax polynomials by Remez' exchange (Remez 1934), in Chebyshev polynomials so that no degree is too high. */
import type { Activation } from './activations.ts';
import { cutsWithin, expectFit } from './fit.ts';
import {
  type ChebyshevSeries,
  chebyshevSeries,
  evaluateSeries,
  fromUnit,
  type Interval,
  toUnit,
  trim,
} from './polynomial.ts';

export interface Minimax {
  readonly series: ChebyshevSeries;
  /** The largest difference on the interval. */
  readonly error: number;
  /** Where it is reached, with alternating signs; at least degree + 2 places where the error is not 0. */
  readonly extrema: readonly number[];
}

/** The polynomial with the least largest difference to an activation on an interval. */
export function minimax(activation: Activation, degree: number, interval: Interval): Minimax {
  expectFit(degree, interval);
  const cuts = cutsWithin(activation, interval);
  const terms = Array.from({ length: degree + 1 }, (_, k) => k);
  const { coefficients, error, extrema } = exchange(activation.f, terms, interval, cuts, interval);
  return { series: chebyshevSeries(coefficients, interval), error, extrema };
}

interface Exchanged {
  readonly coefficients: readonly number[];
  readonly error: number;
  readonly extrema: readonly number[];
}

const MOST_ROUNDS = 100;
/** So many rounds without a lower error or a higher level: only rounding is left. */
const PATIENCE = 10;
/** The largest error and the levelled one agree to this, relative to the error, or to what rounding leaves of it. */
const LEVEL = 1e-13;
const ROUNDING = 2e-15;

/**
 * Remez' exchange with some of the Chebyshev polynomials.
 * @param terms degrees of the Chebyshev polynomials
 * @param on where the error is levelled
 * @param cuts places within, ends included, between which f is smooth
 * @param interval that the Chebyshev polynomials are on
 */
export function exchange(
  f: (x: number) => number,
  terms: readonly number[],
  on: Interval,
  cuts: readonly number[],
  interval: Interval,
): Exchanged {
  const size = terms.length + 1;
  const scan = candidates(cuts, size);
  const scale = scan.reduce((most, x) => Math.max(most, Math.abs(f(x))), 0);
  // Off the symmetric places, where the levelled error of an even function would be 0.
  let points = Array.from({ length: size }, (_, i) => {
    const t = -Math.cos((Math.PI * i) / (size - 1));
    return fromUnit(on, t + 0.1 * (1 - t * t));
  });
  let best: Exchanged | null = null;
  let highest = 0;
  for (let round = 0, progress = 0; round < MOST_ROUNDS && round - progress < PATIENCE; round++) {
    const { coefficients, level } = levelled(f, terms, points, interval);
    const series = chebyshevSeries(coefficients, interval);
    const difference = (x: number) => evaluateSeries(series, x) - f(x);
    const extrema = alternating(difference, scan);
    const error = extrema.reduce((most, x) => Math.max(most, Math.abs(difference(x))), 0);
    if (!best || error < best.error || level > highest * (1 + LEVEL)) progress = round;
    if (!best || error < best.error) best = { coefficients, error, extrema };
    highest = Math.max(highest, level);
    if (error - level <= LEVEL * error + ROUNDING * scale || extrema.length < size) break;
    points = strongest(extrema, difference, size);
  }
  const { coefficients, error, extrema } = best as Exchanged;
  const difference = (x: number) => evaluateSeries(chebyshevSeries(coefficients, interval), x) - f(x);
  // Terms that do not matter, such as the odd ones of |x|.
  const least = LEVEL * error + 1e-16 * scale;
  return {
    coefficients: trim(coefficients.map((c) => (Math.abs(c) < least ? 0 : c))),
    error,
    extrema: extrema.filter((x) => Math.abs(difference(x)) > (1 - 1e-6) * error),
  };
}

/** Where extrema are looked for: in each smooth piece, denser towards its ends. */
function candidates(cuts: readonly number[], size: number): number[] {
  const sorted = [...new Set(cuts)].sort((a, b) => a - b);
  const each = 16 * size;
  return sorted.flatMap((low, i) => {
    const high = sorted[i + 1];
    if (high === undefined) return [low];
    return Array.from({ length: each }, (_, j) =>
      j === 0 ? low : fromUnit([low, high], -Math.cos((Math.PI * j) / each)),
    );
  });
}

/** The polynomial whose difference to f is +-level at the points, in turn. */
function levelled(
  f: (x: number) => number,
  terms: readonly number[],
  points: readonly number[],
  interval: Interval,
): { coefficients: number[]; level: number } {
  const rows = points.map((x, i) => {
    const angle = Math.acos(Math.min(1, Math.max(-1, toUnit(interval, x))));
    return [...terms.map((k) => Math.cos(k * angle)), i % 2 === 0 ? 1 : -1, f(x)];
  });
  const solution = solve(rows);
  const coefficients = new Array<number>((terms.at(-1) ?? 0) + 1).fill(0);
  for (const [i, k] of terms.entries()) coefficients[k] = solution[i] as number;
  return { coefficients, level: Math.abs(solution.at(-1) as number) };
}

/** Gaussian elimination with partial pivoting; the last column is the right side. */
function solve(rows: number[][]): number[] {
  const n = rows.length;
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let row = column + 1; row < n; row++)
      if (Math.abs(rows[row]?.[column] as number) > Math.abs(rows[pivot]?.[column] as number)) pivot = row;
    [rows[column], rows[pivot]] = [rows[pivot] as number[], rows[column] as number[]];
    const top = rows[column] as number[];
    for (let row = column + 1; row < n; row++) {
      const under = rows[row] as number[];
      const factor = (under[column] as number) / (top[column] as number);
      for (let k = column; k <= n; k++) (under[k] as number) -= factor * (top[k] as number);
    }
  }
  const solution = new Array<number>(n).fill(0);
  for (let row = n - 1; row >= 0; row--) {
    const own = rows[row] as number[];
    let sum = own[n] as number;
    for (let k = row + 1; k < n; k++) sum -= (own[k] as number) * (solution[k] as number);
    solution[row] = sum / (own[row] as number);
  }
  return solution;
}

/** The largest difference in each run of one sign, made exact within its neighbours. */
function alternating(difference: (x: number) => number, scan: readonly number[]): number[] {
  const values = scan.map(difference);
  const extrema: number[] = [];
  for (let start = 0; start < scan.length; ) {
    const positive = (values[start] as number) >= 0;
    let top = start;
    let end = start;
    for (; end < scan.length && (values[end] as number) >= 0 === positive; end++)
      if (Math.abs(values[end] as number) > Math.abs(values[top] as number)) top = end;
    extrema.push(refined(difference, scan, top));
    start = end;
  }
  return extrema;
}

/** Golden-section search for the largest |difference| between the neighbours on each side; a kink may be in the middle. */
function refined(difference: (x: number) => number, scan: readonly number[], at: number): number {
  const middle = scan[at] as number;
  let best = middle;
  for (const neighbour of [scan[at - 1], scan[at + 1]]) {
    if (neighbour === undefined) continue;
    const found = golden((x) => Math.abs(difference(x)), middle, neighbour);
    if (Math.abs(difference(found)) > Math.abs(difference(best))) best = found;
  }
  return best;
}

const RATIO = (Math.sqrt(5) - 1) / 2;

/** The largest value of a function with one maximum between two places. */
export function golden(f: (x: number) => number, from: number, to: number, steps = 25): number {
  let [low, high] = [from, to];
  let [a, b] = [high - RATIO * (high - low), low + RATIO * (high - low)];
  let [atA, atB] = [f(a), f(b)];
  for (let step = 0; step < steps && a !== b; step++) {
    if (atA > atB) {
      [high, b, atB] = [b, a, atA];
      a = high - RATIO * (high - low);
      atA = f(a);
    } else {
      [low, a, atA] = [a, b, atB];
      b = low + RATIO * (high - low);
      atB = f(b);
    }
  }
  return atA > atB ? a : b;
}

/** `size` of the alternating extrema: the weakest go, an end alone and inner ones in pairs, so that signs alternate. */
function strongest(extrema: readonly number[], difference: (x: number) => number, size: number): number[] {
  const list = extrema.map((x) => ({ x, size: Math.abs(difference(x)) }));
  while (list.length > size) {
    const last = list.length - 1;
    if (list.length === size + 1) {
      if ((list[0]?.size ?? 0) < (list[last]?.size ?? 0)) list.shift();
      else list.pop();
      continue;
    }
    let weakest = 0;
    for (const [i, one] of list.entries()) if (one.size < (list[weakest]?.size ?? 0)) weakest = i;
    if (weakest === 0) list.shift();
    else if (weakest === last) list.pop();
    else {
      const [before, after] = [list[weakest - 1]?.size ?? 0, list[weakest + 1]?.size ?? 0];
      list.splice(before < after ? weakest - 1 : weakest, 2);
    }
  }
  return list.map(({ x }) => x);
}
