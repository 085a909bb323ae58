import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { gainOf } from '../../src/eval/gain.ts';
import type { ProbedModel, ProbedSite } from '../../src/eval/probe.ts';
import {
  addValues,
  blocksOf,
  finishRunning,
  finiteBins,
  type Running,
  startRunning,
} from '../../src/eval/statistics.ts';
import { statisticsFile, statisticsOf } from '../../src/eval/statistics-file.ts';
import { parseStatistics } from '../../src/passes/statistics.ts';
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
          const size = finite.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
          for (let c = 0; c < channels; c++) {
            const own = [...data].filter((x, i) => Math.floor(i / plane) % channels === c && Number.isFinite(x));
            const [found, deviation] = [result.channelMean[c], result.channelStd[c]];
            if (own.length === 0) {
              expect([found, deviation]).toEqual([null, null]);
              continue;
            }
            const mean = own.reduce((a, b) => a + b) / own.length;
            const std = Math.sqrt(own.reduce((sum, x) => sum + (x - mean) ** 2, 0) / own.length);
            expect(Math.abs((found as number) - mean)).toBeLessThanOrEqual(1e-9 * size);
            // Squares of distances that cancel leave the root of float64's precision.
            expect(Math.abs((deviation as number) - std)).toBeLessThanOrEqual(1e-7 * size);
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

  it('keeps a small deviation beside a large mean, by channel and over many tensors', () => {
    const rng = makeRng(5);
    const [rows, plane] = [16, 64];
    const centres = [0, 1e6, -3e4];
    const running = startRunning();
    const seen: number[][] = centres.map(() => []);
    for (let tensor = 0; tensor < 20; tensor++) {
      const data = new Float32Array(rows * centres.length * plane);
      for (let i = 0; i < data.length; i++) {
        const c = Math.floor(i / plane) % centres.length;
        // Steps of 1/16 are exact in float32 at 1e6.
        data[i] = (centres[c] as number) + rng.int(33) / 16;
        seen[c]?.push(data[i] as number);
      }
      const options = { sample: true, range: null, bad: new Uint8Array(rows) };
      addValues(running, data, blocksOf([rows, centres.length, plane], rows), options);
    }
    const { channelMean, channelStd, mean, std } = finishRunning(running);
    const exact = (list: readonly number[], centre: number) => {
      const offset = list.reduce((sum, x) => sum + (x - centre), 0) / list.length;
      return [centre + offset, Math.sqrt(list.reduce((sum, x) => sum + (x - centre - offset) ** 2, 0) / list.length)];
    };
    for (const [c, centre] of centres.entries()) {
      const [m, s] = exact(seen[c] ?? [], centre) as [number, number];
      expect(Math.abs((channelMean[c] as number) - m)).toBeLessThan(1e-12 * Math.max(1, Math.abs(centre)));
      expect(Math.abs((channelStd[c] as number) / s - 1)).toBeLessThan(1e-9);
    }
    const [m, s] = exact(seen.flat(), 0) as [number, number];
    expect(Math.abs((mean as number) / m - 1)).toBeLessThan(1e-12);
    expect(Math.abs((std as number) / s - 1)).toBeLessThan(1e-12);
  });

  it('takes moments of sampled tensors only', () => {
    const running = startRunning();
    const add = (values: number[], sample: boolean) =>
      addValues(running, Float32Array.from(values), blocksOf([1, 2, 2], 1), {
        ...{ sample, range: null },
        bad: new Uint8Array(1),
      });
    add([Number.NaN, 1, 100, 200], false);
    expect(finishRunning(running)).toMatchObject({ channelMean: [null, null], channelStd: [null, null], mean: null });
    add([Number.NaN, 4, 1, 3], true);
    expect(finishRunning(running)).toMatchObject({
      ...{ channelMin: [1, 1], channelMax: [4, 200], channelMean: [4, 2], channelStd: [0, 1] },
    });
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

describe('statistics files', () => {
  const parse = (site: object) => parseStatistics(JSON.stringify({ sites: { act: site } }), 's.json').sites.act;
  const ranges = { channelMin: [-1, null], channelMax: [2, null] };
  const moments = { min: -1, max: 2, mean: null, std: 0.5, channelMean: [0.5, null], channelStd: [0, null] };

  it('read back as what a probe gives without a file', () => {
    const input = finishRunning(collect(Float32Array.from([1, 2, Number.NaN, Number.NaN, -3, 5]), [1, 3, 2]));
    const site: ProbedSite = {
      ...{ name: 'act', label: 'relu', kind: 'relu' as const, shape: [3, 2], input, output: input },
      ...{ range: null, leaving: null, nonFiniteInputs: 1, gain: null },
    };
    const probed: ProbedModel = {
      ...{ path: 'm.onnx', images: 1, sampled: 1, seconds: 1, data: 'x', split: 'test', batch: 1, batching: '' },
      ...{ preprocessing: {} as never, device: 'cpu', partial: false, sites: [site], skipped: [], nonFiniteOutputs: 0 },
      ...{ firstNonFinite: null, escape: {} as never },
    };
    const read = parseStatistics(statisticsFile(probed), 's.json');
    expect(statisticsOf(probed)).toMatchObject(read);
    expect(read.sites.act).toMatchObject({ channelMean: [1.5, null, 1], channelStd: [0.5, null, 4], min: -3, max: 5 });
  });

  it('may leave out everything but the ranges', () => {
    expect(parse(ranges)).toEqual(ranges);
    const histogram = { edges: [-1, 0, 0, 2], counts: [3, 0, 1] };
    expect(parse({ ...ranges, ...moments, histogram, gain: 1 })).toEqual({ ...ranges, ...moments, histogram });
    expect(parse({ ...ranges, histogram: null })).toEqual({ ...ranges, histogram: null });
  });

  it.each<[string, object]>([
    ['act.mean', { mean: 'x' }],
    ['act.std', { std: -1 }],
    ['act.channelStd.1', { ...moments, channelStd: [1, -1] }],
    ['act.channelMean.0', { channelMean: [[1], 2] }],
    ['act: channelMean and channelStd must be as long as channelMin', { channelMean: [1] }],
    ['act: min is above max', { min: 3, max: 2 }],
    ['act.histogram: there must be one edge more than counts', { histogram: { edges: [0, 1], counts: [1, 2] } }],
    ['act.histogram: the edges must not fall', { histogram: { edges: [1, 0], counts: [1] } }],
    ['act.histogram.counts.0', { histogram: { edges: [0, 1], counts: [-1] } }],
    ['act.histogram', { histogram: [1] }],
  ])('%s', (message, wrong) => {
    const thrown = (() => {
      try {
        return parse({ ...ranges, ...wrong });
      } catch (error) {
        return error;
      }
    })();
    expect(thrown).toMatchObject({ code: 'file', message: expect.stringContaining(`s.json: sites.${message}`) });
    expect((thrown as Error).message).not.toContain('\n');
  });

  it('are JSON, or one line says where not', () => {
    expect(() => parseStatistics('{\n"sites": x}', 's.json')).toThrow(/^s\.json: not JSON \([^\n]*\)$/);
  });
});
