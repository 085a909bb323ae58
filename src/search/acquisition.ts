/** Where to evaluate next, by a Gaussian process: expected improvement and upper confidence bound. Values are maximised. */
import type { Rng } from '../rng.ts';
import type { GaussianProcess } from './gaussian-process.ts';

/** How much evaluating at a point of this mean and deviation is worth. */
export type Acquisition = (mean: number, deviation: number) => number;

/** E max(0, f - best) (Jones, Schonlau and Welch 1998, Eq. 15). */
export const expectedImprovement =
  (best: number): Acquisition =>
  (mean, deviation) => {
    const gain = mean - best;
    if (deviation <= 0) return Math.max(0, gain);
    const z = gain / deviation;
    return gain * normalCdf(z) + deviation * normalPdf(z);
  };

/** mean + sqrt(beta) deviation (Srinivas et al. 2010, arXiv:0912.3995). */
export const upperConfidenceBound =
  (beta: number): Acquisition =>
  (mean, deviation) =>
    mean + Math.sqrt(beta) * deviation;

const normalPdf = (z: number): number => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);

/** Absolute error below 1.2e-7 times the smaller tail (Numerical Recipes, erfc by a Chebyshev fit). */
function normalCdf(z: number): number {
  const x = Math.abs(z) / Math.SQRT2;
  const t = 1 / (1 + 0.5 * x);
  const series = ERFC.reduceRight((sum, c) => sum * t + c, 0);
  const tail = 0.5 * t * Math.exp(-x * x + series);
  return z >= 0 ? 1 - tail : tail;
}
const ERFC = [
  -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
  0.17087277,
];

/** A space to search: some choices, and in each the same number of coordinates in 0..1. */
export interface Space {
  /** Coordinates of each choice, of one length; a space without choices has a single empty one. */
  readonly choices: readonly (readonly number[])[];
  readonly free: number;
  /** Where free coordinates begin and end in the units that a process is to see them in; default 0 and 1. */
  readonly units?: readonly (readonly [low: number, high: number])[];
  /** Points that are nearer to each other along every free coordinate are not worth two evaluations. Default 1e-4. */
  readonly close?: number;
}

export interface Point {
  /** Index of the choice. */
  readonly choice: number;
  readonly at: readonly number[];
}

/** As the process sees it. */
export const coordinates = ({ choices, units }: Space, { choice, at }: Point): number[] => [
  ...(choices[choice] ?? []),
  ...at.map((value, i) => {
    const [low, high] = units?.[i] ?? [0, 1];
    return low + value * (high - low);
  }),
];

/** Points spread over the cube evenly (Halton 1960), shifted as a whole by chance. */
export function spread(count: number, dimensions: number, rng: Rng): number[][] {
  const shifts = Array.from({ length: dimensions }, () => rng.uniform());
  return Array.from({ length: count }, (_, i) =>
    shifts.map((shift, k) => (radicalInverse(i + 1, PRIMES[k % PRIMES.length] as number) + shift) % 1),
  );
}
const PRIMES = [2, 3, 5, 7, 11, 13, 17, 19];

function radicalInverse(index: number, base: number): number {
  let [sum, digit] = [0, 1 / base];
  for (let left = index; left > 0; left = Math.floor(left / base)) {
    sum += (left % base) * digit;
    digit /= base;
  }
  return sum;
}

/** Points that are looked at in all, over all choices. */
const LOOKS = 2000;
/** Of them, how many are improved step by step. */
const CLIMBS = 5;

/**
 * The point of the space where the acquisition is largest, as far as a search finds it.
 * @param tried points that are left out, with what is too close to them
 */
export function maximize(
  space: Space,
  process: GaussianProcess,
  acquisition: Acquisition,
  tried: readonly Point[],
  rng: Rng,
): Point {
  const isKnown = (point: Point) =>
    tried.some(
      ({ choice, at }) =>
        choice === point.choice &&
        at.every((value, i) => Math.abs(value - (point.at[i] as number)) < (space.close ?? 1e-4)),
    );
  const worth = (point: Point): number => {
    if (isKnown(point)) return Number.NEGATIVE_INFINITY;
    const { mean, deviation } = process.predict(coordinates(space, point));
    return acquisition(mean, deviation);
  };
  const each = Math.ceil(LOOKS / space.choices.length);
  const looks: { point: Point; value: number }[] = [];
  for (const choice of space.choices.keys())
    for (const at of spread(each, space.free, rng)) {
      const point = { choice, at };
      looks.push({ point, value: worth(point) });
    }
  // Around what was evaluated: the spread alone is too coarse there.
  for (const { choice, at } of tried)
    for (const size of [0.03, 0.003]) {
      const point = { choice, at: at.map((value) => clamp(value + size * rng.normal())) };
      looks.push({ point, value: worth(point) });
    }
  looks.sort((a, b) => b.value - a.value);
  let [best] = looks as [{ point: Point; value: number }];
  for (const start of looks.slice(0, CLIMBS)) {
    const end = climb(start, worth);
    if (end.value > best.value) best = end;
  }
  return best.point;
}

const clamp = (value: number): number => Math.min(1, Math.max(0, value));

/** Pattern search: along each coordinate, by smaller and smaller steps. */
function climb(
  start: { readonly point: Point; readonly value: number },
  worth: (point: Point) => number,
): { point: Point; value: number } {
  let here = start;
  for (let step = 0.05; step > 2e-4; ) {
    let moved = false;
    for (const i of here.point.at.keys())
      for (const sign of [-1, 1]) {
        const at = here.point.at.map((value, k) => (k === i ? clamp(value + sign * step) : value));
        const point = { choice: here.point.choice, at };
        const value = worth(point);
        if (value > here.value) {
          here = { point, value };
          moved = true;
        }
      }
    if (!moved) step /= 2;
  }
  return here;
}
