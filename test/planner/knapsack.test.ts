import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cheapestWithin, type Option } from '../../src/planner/knapsack.ts';

type Items = readonly (readonly Option[])[];

/** The least cost of all combinations within the limits; null where there is none. */
function bruteForce(items: Items, limits: readonly number[]): number | null {
  const [first, ...rest] = items;
  if (limits.some((limit) => limit < 0)) return null;
  if (!first) return 0;
  const costs = first.flatMap(({ cost, uses }) => {
    const left = bruteForce(
      rest,
      limits.map((limit, r) => limit - (uses[r] ?? 0)),
    );
    return left === null ? [] : [cost + left];
  });
  return costs.length === 0 ? null : Math.min(...costs);
}

const chosenOf = (items: Items, chosen: readonly number[]) =>
  items.map((options, i) => options[chosen[i] as number] as Option);
const costOf = (options: readonly Option[]) => options.reduce((sum, { cost }) => sum + cost, 0);
const usedOf = (options: readonly Option[], r: number) => options.reduce((sum, { uses }) => sum + (uses[r] ?? 0), 0);

/** Costs are whole numbers, so that sums in any order are equal. */
const instance = (most: number) =>
  fc.integer({ min: 1, max: 3 }).chain((resources) => {
    const uses = fc.array(fc.nat(most), { minLength: resources, maxLength: resources });
    const option = fc.record({ cost: fc.nat(1000), uses });
    const items = fc.array(fc.array(option, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 6 });
    const limits = fc.array(fc.nat(3 * most), { minLength: resources, maxLength: resources });
    return fc.record({ items, limits });
  });

describe('the dynamic programme', () => {
  it('finds what trying everything finds', () => {
    fc.assert(
      fc.property(instance(9), ({ items, limits }) => {
        const best = bruteForce(items, limits);
        const chosen = cheapestWithin(items, limits);
        if (best === null || chosen === null) {
          expect([best, chosen]).toEqual([null, null]);
          return;
        }
        expect(costOf(chosenOf(items, chosen))).toBe(best);
        for (const [r, limit] of limits.entries())
          expect(usedOf(chosenOf(items, chosen), r)).toBeLessThanOrEqual(limit);
      }),
      { numRuns: 500 },
    );
  });

  it('keeps the limits and is close to the best where it has to round', () => {
    fc.assert(
      fc.property(instance(1e6), ({ items, limits }) => {
        const chosen = cheapestWithin(items, limits);
        if (!chosen) return;
        for (const [r, limit] of limits.entries())
          expect(usedOf(chosenOf(items, chosen), r)).toBeLessThanOrEqual(limit);
        // Each item is rounded up by less than a unit. The largest of three resources is halved while there are more than
        // 400000 cells, so none that is rounded is left with fewer than 200000^(1/3) / 2 > 29.
        const tighter = limits.map((limit) => Math.floor(limit * (1 - items.length / 29)));
        const best = bruteForce(items, tighter);
        if (best !== null) expect(costOf(chosenOf(items, chosen))).toBeLessThanOrEqual(best);
      }),
      { numRuns: 60 },
    );
  });

  it('takes the least of everything among equals, and scales to deep networks', () => {
    const flat = Array.from({ length: 5 }, (): Option[] => [
      { cost: 1, uses: [2] },
      { cost: 1, uses: [1] },
    ]);
    expect(cheapestWithin(flat, [9])).toEqual([1, 1, 1, 1, 1]);
    const start = performance.now();
    const deep = Array.from({ length: 150 }, (_, i): Option[] => [
      { cost: 0, uses: [100_003 + i, 0] },
      { cost: 3 + (i % 7), uses: [0, 2] },
      { cost: 1 + (i % 5), uses: [0, 3] },
    ]);
    const chosen = cheapestWithin(deep, [7_500_000, 200]);
    expect(chosen).not.toBeNull();
    expect(usedOf(chosenOf(deep, chosen ?? []), 1)).toBeLessThanOrEqual(200);
    expect(performance.now() - start).toBeLessThan(10_000);
  });

  it('says so where nothing is within the limits', () => {
    expect(cheapestWithin([[{ cost: 1, uses: [3] }]], [2])).toBeNull();
    expect(cheapestWithin([[{ cost: 1, uses: [3] }]], [-1])).toBeNull();
    expect(cheapestWithin([], [0])).toEqual([]);
    expect(cheapestWithin([[{ cost: 1, uses: [3] }]], [Number.POSITIVE_INFINITY])).toEqual([0]);
  });
});
