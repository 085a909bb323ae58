import { describe, expect, it } from 'vitest';
import { coordinates, type Point, type Space } from '../../src/search/acquisition.ts';
import { type Found, makeStrategy, type Strategy, type StrategyOptions } from '../../src/search/strategies.ts';

const slow = Boolean(process.env.SISYPHUS_SLOW);
const seeds = Array.from({ length: slow ? 20 : 5 }, (_, seed) => seed);

const branin = (u: number, v: number): number => {
  const [x, y] = [15 * u - 5, 15 * v];
  const bowl = y - (5.1 / (4 * Math.PI ** 2)) * x * x + (5 / Math.PI) * x - 6;
  return bowl * bowl + 10 * (1 - 1 / (8 * Math.PI)) * Math.cos(x) + 10;
};
const camel = (u: number, v: number): number => {
  const [x, y] = [6 * u - 3, 4 * v - 2];
  return (4 - 2.1 * x * x + x ** 4 / 3) * x * x + x * y + (4 * y * y - 4) * y * y;
};

const SQUARE: Space = { choices: [[]], free: 2 };

function minimize(f: (u: number, v: number) => number, strategy: Strategy, options: Partial<StrategyOptions>): Found[] {
  const all: StrategyOptions = { space: SQUARE, budget: 50, initial: 10, acquisition: 'ei', seed: 0, ...options };
  const suggest = makeStrategy(strategy, all);
  const found: Found[] = [];
  while (found.length < all.budget) {
    const point = suggest(found);
    if (!point) break;
    const [u = 0, v = 0] = point.at;
    found.push({ point, value: -f(u, v) });
  }
  return found;
}

const least = (found: readonly Found[]): number => -Math.max(...found.map(({ value }) => value));
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] as number;

describe('Bayesian optimisation', () => {
  // Known minima: Dixon and Szegö 1978.
  it.each([
    ['Branin', branin, 0.397887],
    ['six-hump camel', camel, -1.031628],
  ] as const)(
    `finds the minimum of %s to a hundredth in 50 evaluations, median of ${seeds.length} seeds`,
    {
      timeout: 600_000,
    },
    (_, f, minimum) => {
      const bayes = median(seeds.map((seed) => least(minimize(f, 'bayes', { seed }))));
      const random = median(seeds.map((seed) => least(minimize(f, 'random', { seed }))));
      expect(bayes - minimum).toBeLessThan(0.01 * Math.abs(minimum));
      expect(bayes).toBeLessThan(random);
    },
  );

  it('does so by upper confidence bounds, too', { timeout: 120_000 }, () => {
    expect(least(minimize(branin, 'bayes', { seed: 3, acquisition: 'ucb' }))).toBeLessThan(0.41);
  });

  it('is a function of what was found', () => {
    const options: StrategyOptions = { space: SQUARE, budget: 50, initial: 4, acquisition: 'ei', seed: 7 };
    const found = minimize(branin, 'bayes', { ...options, budget: 8 });
    for (const strategy of ['bayes', 'random', 'sisyphus', 'grid'] as const)
      for (const length of [0, 3, 8]) {
        const suggest = () => makeStrategy(strategy, options)(found.slice(0, length));
        expect(suggest()).toEqual(suggest());
      }
  });

  it('goes to the choice that is better', () => {
    const space: Space = { choices: [[0], [0.5], [1]], free: 1 };
    const suggest = makeStrategy('bayes', { space, budget: 20, initial: 6, acquisition: 'ei', seed: 1 });
    const found: Found[] = [];
    const value = ({ choice, at: [u = 0] }: Point) => (choice === 1 ? 1 : 0) - (u - 0.7) ** 2;
    while (found.length < 20) {
      const point = suggest(found) as Point;
      found.push({ point, value: value(point) });
    }
    const best = found.reduce((a, b) => (b.value > a.value ? b : a));
    expect(best.point.choice).toBe(1);
    expect(best.point.at[0]).toBeCloseTo(0.7, 2);
  });
});

describe('a grid', () => {
  it('has all corners, each point once, and an end', () => {
    const space: Space = { choices: [[0], [1]], free: 1 };
    const suggest = makeStrategy('grid', { space, budget: 10, initial: 0, acquisition: 'ei', seed: 0 });
    const found: Found[] = [];
    for (let point = suggest(found); point; point = suggest(found)) found.push({ point, value: 0 });
    const all = found.map(({ point }) => coordinates(space, point).join());
    expect(new Set(all).size).toBe(10);
    expect(all).toEqual(expect.arrayContaining(['0,0', '0,1', '1,0', '1,1', '0,0.5']));
  });
});
