import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { gainOf } from '../../src/eval/gain.ts';
import {
  addValues,
  blocksOf,
  finishRunning,
  finiteBins,
  type Running,
  startRunning,
} from '../../src/eval/statistics.ts';
import { makeRng } from '../../src/rng.ts';

/** One row after the other of [rows, channels, plane], everything sampled. */
function collect(data: Float32Array, dims: readonly number[], range: number | null = null): Running {
  const running = startRunning();
  const blocks = blocksOf(dims, dims[0] as number);
  addValues(running, data, blocks, { sample: true, range, bad: new Uint8Array(blocks.rows) });
  return running;
}

/** -0 as 0: the two are equal, and which one is the minimum is not defined. */
const unsigned = (x: number | null | undefined) => (typeof x === 'number' ? x + 0 : x);

const normals = (count: number, seed: number) => {
  const rng = makeRng(seed);
  return Float32Array.from({ length: count }, () => rng.normal());
};

describe('running statistics', () => {
  it('agree with a plain computation', () => {
    const shape = fc.tuple(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 9 }),
    );
    const value = fc.oneof(
      {
        weight: 8,
        arbitrary: fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e6), max: Math.fround(1e6) }),
      },
      { weight: 1, arbitrary: fc.constantFrom(Number.NaN, Infinity, -Infinity, 0, -0, 1e-45, 3.4e38) },
    );
    fc.assert(
      fc.property(
        shape.chain((dims) =>
          fc.tuple(
            fc.constant(dims),
            fc.array(value, { minLength: dims[0] * dims[1] * dims[2], maxLength: dims[0] * dims[1] * dims[2] }),
          ),
        ),
        ([dims, list]) => {
          const data = Float32Array.from(list);
          const [rows, channels, plane] = dims;
          const running = collect(data, dims, 10);
          const result = finishRunning(running);
          const finite = [...data].filter(Number.isFinite);
          expect(result.nan).toBe([...data].filter(Number.isNaN).length);
          expect(result.inf).toBe(data.length - finite.length - result.nan);
          expect(unsigned(result.min)).toBe(finite.length > 0 ? 0 + finite.reduce((a, b) => Math.min(a, b)) : null);
          expect(unsigned(result.max)).toBe(finite.length > 0 ? 0 + finite.reduce((a, b) => Math.max(a, b)) : null);
          if (finite.length > 0) {
            const mean = finite.reduce((a, b) => a + b) / finite.length;
            expect(Math.abs((result.mean as number) - mean)).toBeLessThanOrEqual(
              1e-9 * Math.max(...finite.map(Math.abs)),
            );
          } else expect(result.mean).toBeNull();
          for (let c = 0; c < channels; c++) {
            const own = [...data].filter((x, i) => Math.floor(i / plane) % channels === c && Number.isFinite(x));
            expect(unsigned(result.channelMin[c])).toBe(
              own.length > 0 ? 0 + own.reduce((a, b) => Math.min(a, b)) : null,
            );
          }
          let leaving = 0;
          for (let row = 0; row < rows; row++)
            if (
              [...data.subarray(row * channels * plane, (row + 1) * channels * plane)].some((x) => !(Math.abs(x) <= 10))
            )
              leaving++;
          expect(running.leavingRows).toBe(leaving);
          const counted = result.histogram?.counts.reduce((a, b) => a + b, 0) ?? 0;
          expect(counted).toBe(finite.length);
          if (result.histogram) {
            const { edges, counts } = result.histogram;
            expect(edges.length).toBe(counts.length + 1);
            for (let i = 1; i < edges.length; i++) expect(edges[i]).toBeGreaterThanOrEqual(edges[i - 1] as number);
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  it('finds quantiles of a million normal values within 2 %', () => {
    const { q001, median, q999, abs999, std } = finishRunning(collect(normals(1_000_000, 1), [1, 1, 1_000_000]));
    expect(q001).toBeCloseTo(-3.0902, 1);
    expect(q999).toBeCloseTo(3.0902, 1);
    expect(Math.abs(median as number)).toBeLessThan(0.005);
    expect(Math.abs((abs999 as number) / 3.2905 - 1)).toBeLessThan(0.02);
    expect(std).toBeCloseTo(1, 2);
  });

  it('puts every value into the bin that its edges say', () => {
    const data = Float32Array.from([-1e30, -3, -2.5, -1, -1e-20, 0, 0.5, 0.51, 1, 7, 1e10]);
    const { histogram } = finishRunning(collect(data, [1, 1, data.length]));
    const { edges = [], counts = [] } = histogram ?? {};
    let below = 0;
    for (const [i, count] of counts.entries()) {
      below += count;
      const edge = edges[i + 1] as number;
      // A bin in the file joins bins of 1/64 octave, so a value may lie that far on the other side of an edge.
      const slack = Math.abs(edge) / 40 + 1e-15;
      expect(below).toBeGreaterThanOrEqual(data.filter((x) => x < edge - slack).length);
      expect(below).toBeLessThanOrEqual(data.filter((x) => x <= edge + slack).length);
    }
  });
});

describe('gain', () => {
  const bins = finiteBins(collect(normals(200_000, 2), [1, 1, 200_000]));
  // Values for N(0, 1) from the closed form of the variance.
  it.each([
    ['relu', (x: number) => Math.max(0, x), 1, 0.01],
    ['x^2', (x: number) => x * x, 2, 0.01],
    ['identity', (x: number) => x, 1, 0.01],
    ['quadratic fitted to N(0,1)', (x: number) => 0.1995 + 0.5 * x + 0.1995 * x * x, 1.2415, 0.01],
  ])('%s', (_, f, expected, tolerance) => {
    expect(Math.abs((gainOf(f, bins) as number) - expected)).toBeLessThan(tolerance);
  });

  it('is null where there is nothing to compare', () => {
    expect(gainOf(() => 1, bins)).toBeNull();
    expect(gainOf((x) => x, [])).toBeNull();
  });
});
