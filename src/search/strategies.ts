/**
 * Which point comes next. Each strategy is a function of what has been found so far and nothing else, so that a search that
 * was interrupted goes on as if it had not been.
 */
import { makeRng } from '../rng.ts';
import {
  type Acquisition,
  coordinates,
  expectedImprovement,
  maximize,
  type Point,
  type Space,
  spread,
  upperConfidenceBound,
} from './acquisition.ts';
import { fitGaussianProcess, PRIORS, type Priors } from './gaussian-process.ts';

export const STRATEGIES = ['bayes', 'grid', 'random', 'sisyphus'] as const;
export type Strategy = (typeof STRATEGIES)[number];

export const ACQUISITIONS = ['ei', 'ucb'] as const;
export type AcquisitionName = (typeof ACQUISITIONS)[number];

/** A point and what was found there; more is better. */
export interface Found {
  readonly point: Point;
  readonly value: number;
}

export interface StrategyOptions {
  readonly space: Space;
  /** How many points there will be in all. */
  readonly budget: number;
  /** How many of them before there is a model. */
  readonly initial: number;
  readonly acquisition: AcquisitionName;
  readonly seed: number;
}

/** @returns null where there is nothing more to try */
export type Suggest = (found: readonly Found[]) => Point | null;

export function makeStrategy(name: Strategy, options: StrategyOptions): Suggest {
  return { bayes, grid, random, sisyphus }[name](options);
}

/** Of point `index`, and of nothing before it. */
const rngOf = (seed: number, index: number) => makeRng(seed * 2 ** 16 + index);

/** Points of a grid, evenly along each coordinate, coarse ones first so that a search that ends early has seen all of it. */
function grid({ space, budget }: StrategyOptions): Suggest {
  const { choices, free } = space;
  const side = Math.max(1, Math.floor((budget / choices.length) ** (1 / Math.max(1, free))));
  const places = side === 1 ? [0.5] : Array.from({ length: side }, (_, i) => i / (side - 1));
  let cells: number[][] = [[]];
  for (let k = 0; k < free; k++) cells = cells.flatMap((cell) => places.map((place) => [...cell, place]));
  const order = cells.flatMap((at) => choices.map((_, choice) => ({ choice, at })));
  return (found) => order[found.length] ?? null;
}

function random({ space, seed }: StrategyOptions): Suggest {
  return (found) => {
    const rng = rngOf(seed, found.length);
    return { choice: rng.int(space.choices.length), at: Array.from({ length: space.free }, () => rng.uniform()) };
  };
}

/** beta of the upper confidence bound, as the paper's authors have it. */
const BETA = 5;

function bayes({ space, initial, acquisition, seed }: StrategyOptions): Suggest {
  const { choices, free } = space;
  const first = spread(initial, free + 1, makeRng(seed));
  return (found) => {
    const start = first[found.length];
    if (start) {
      const [which = 0, ...at] = start;
      return { choice: Math.min(choices.length - 1, Math.floor(which * choices.length)), at };
    }
    return byModel(found, space, PRIORS, seed, (best) =>
      acquisition === 'ei' ? expectedImprovement(best) : upperConfidenceBound(BETA),
    );
  };
}

/** Fits a process to values of mean 0 and variance 1, and asks it where to go. */
function byModel(
  found: readonly Found[],
  space: Space,
  priors: Priors,
  seed: number,
  acquisition: (best: number) => Acquisition,
): Point {
  const values = compressed(found.map(({ value }) => value));
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length) || 1;
  const scaled = values.map((value) => (value - mean) / deviation);
  const process = fitGaussianProcess(
    found.map(({ point }) => coordinates(space, point)),
    scaled,
    priors,
  );
  const tried = found.map(({ point }) => point);
  return maximize(space, process, acquisition(Math.max(...scaled)), tried, rngOf(seed, found.length));
}

/**
 * Values below the median, the nearer to it the further below: where something is bad it matters little how bad, and a
 * process of one scale would see nothing else.
 */
function compressed(values: readonly number[]): number[] {
  const sorted = [...values].sort((a, b) => a - b);
  const median = sorted[sorted.length >> 1] as number;
  const reach = (sorted.at(-1) as number) - median;
  if (reach <= 0) return [...values];
  return values.map((value) => (value >= median ? value : median - reach * Math.log1p((median - value) / reach)));
}

/** Of BoTorch 0.4. */
const AUTHORS_PRIORS: Priors = { ...PRIORS, leastNoise: 1e-4 };

/**
 * What the paper's authors ran: uniform points, then BoTorch 0.4 on coordinates and values in their own units, with the upper
 * confidence bound. Its prior expects length-scales around 1/2, so along a range of 0.5 to 50 the process hardly generalises.
 */
function sisyphus({ space, initial, seed }: StrategyOptions): Suggest {
  const uniform = random({ space, budget: 0, initial, acquisition: 'ucb', seed });
  return (found) => {
    if (found.length < initial) return uniform(found);
    const points = found.map(({ point }) => coordinates(space, point));
    const values = found.map(({ value }) => value);
    const process = fitGaussianProcess(points, values, AUTHORS_PRIORS);
    return maximize(space, process, upperConfidenceBound(BETA), [], rngOf(seed, found.length));
  };
}
