/** The diagonal method in the clear: rotations are index shifts. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  contiguous,
  type DiagonalPlan,
  diagonalMaker,
  type Places,
  periodic,
  planDiagonals,
  powerOfTwo,
  rotationsOf,
} from '../../src/encrypt/diagonals.ts';
import { layOut } from '../../src/encrypt/layouts.ts';
import { makeRng } from '../../src/rng.ts';
import { noise } from '../support/numeric.ts';

interface Matrix {
  readonly outs: number;
  readonly ins: number;
  readonly weights: Float64Array | Float32Array;
  readonly rows: Float64Array;
  readonly columns: Float64Array;
}

/** What the ciphertext program does, on plain slots; counts its rotations. */
function run(map: Matrix, plan: DiagonalPlan, x: Float64Array): { slots: Float64Array; rotations: number } {
  let rotations = 0;
  const turned = (v: Float64Array, by: number) => {
    rotations++;
    return v.map((_, i) => v[(i + by) % v.length] as number);
  };
  const diagonal = diagonalMaker(map, plan, x.length);
  const babies = [x];
  for (let b = 1; b < plan.babies; b++) babies.push(turned(babies[b - 1] as Float64Array, 1));
  let sum = new Float64Array(x.length);
  for (let j = plan.giants - 1; j >= 0; j--) {
    if (j < plan.giants - 1) sum = turned(sum, plan.giant);
    for (const k of plan.diagonals) {
      if (Math.floor(k / plan.giant) !== j) continue;
      const d = diagonal(k);
      const baby = babies[k % plan.giant] as Float64Array;
      sum = sum.map((value, i) => value + (d[i] as number) * (baby[i] as number));
    }
  }
  for (const fold of plan.folds) {
    const other = turned(sum, fold);
    sum = sum.map((value, i) => value + (other[i] as number));
  }
  return { slots: sum, rotations };
}

function matrix(outs: number, ins: number, seed: number, keep: (r: number, c: number) => boolean): Matrix {
  const dense = noise(outs * ins, seed);
  return {
    outs,
    ins,
    weights: dense.map((value, i) => (keep(Math.floor(i / ins), i % ins) ? value : 0)),
    rows: noise(outs, seed + 1),
    columns: noise(ins, seed + 2),
  };
}

const product = ({ outs, ins, weights, rows, columns }: Matrix, x: Float64Array) =>
  Array.from({ length: outs }, (_, r) => {
    let sum = 0;
    for (let c = 0; c < ins; c++) sum += (weights[r * ins + c] as number) * (columns[c] as number) * (x[c] as number);
    return sum * (rows[r] as number);
  });

/** In order, or at random among `spread` times as many places. */
function scattered(count: number, spread: number, seed: number): Places {
  if (spread === 0) return contiguous(count);
  const rng = makeRng(seed);
  const free = Array.from({ length: count * spread }, (_, i) => i);
  const at = Int32Array.from({ length: count }, () => free.splice(rng.int(free.length), 1)[0] as number);
  return { at, width: count * spread };
}

describe('diagonals', () => {
  test('compute any product, with the rotations that were counted', () => {
    const sizes = fc.integer({ min: 1, max: 40 });
    const kinds = fc.constantFrom('dense', 'banded', 'identity', 'one', 'zero');
    fc.assert(
      fc.property(sizes, sizes, fc.nat(3), kinds, fc.nat(1000), (outs, ins, wider, kind, seed) => {
        const keep = (r: number, c: number) =>
          ({ dense: true, banded: Math.abs(r - c) < 3, identity: r === c, one: r === 0 && c === ins - 1, zero: false })[
            kind
          ];
        const map = matrix(outs, ins, seed, keep);
        // Features in order, or anywhere among more places.
        const [from, to] = [scattered(ins, seed % 3, seed), scattered(outs, (seed >> 2) % 3, seed + 1)];
        const period = powerOfTwo(from.width) * 2 ** wider;
        const slots = Math.max(period, powerOfTwo(to.width)) * 2;
        const x = noise(ins, seed + 3);
        const plan = planDiagonals(map, from, to, period);
        const found = run(map, plan, periodic(x, from, period, slots));
        expect(found.rotations).toBe(rotationsOf(plan).count);
        const wanted = periodic(product(map, x), to, plan.outPeriod, slots);
        for (let i = 0; i < slots; i++) expect(found.slots[i]).toBeCloseTo(wanted[i] as number, 10);
      }),
      { numRuns: 200, seed: 3 },
    );
  });

  test('the plan of 784 to 512 to 10 takes keys for few steps', () => {
    const first = planDiagonals(
      matrix(512, 784, 1, () => true),
      contiguous(784),
      contiguous(512),
      1024,
    );
    const second = planDiagonals(
      matrix(10, 512, 2, () => true),
      contiguous(512),
      contiguous(10),
      first.outPeriod,
    );
    expect(first.diagonals).toHaveLength(512);
    expect(second.diagonals).toHaveLength(16);
    const steps = [first, second].map((plan) => rotationsOf(plan).steps);
    expect(steps).toEqual([
      [1, first.giant, 512],
      [1, second.giant, 16, 32, 64, 128, 256],
    ]);
    expect(rotationsOf(first).count + rotationsOf(second).count).toBeLessThanOrEqual(58);
  });

  test('empty diagonals are left out', () => {
    const plan = planDiagonals(
      matrix(64, 64, 1, (r, c) => (c - r + 64) % 64 === 5),
      contiguous(64),
      contiguous(64),
      64,
    );
    expect(plan.diagonals).toEqual([5]);
    expect(rotationsOf(plan).count).toBeLessThanOrEqual(5);
  });

  test('convolutions and pools take fewer on the grid of the images', () => {
    // 4 maps of 3x3 convolution on 12x12, pooled by 2, then 8 maps of 3x3.
    const first = matrix(4 * 100, 144, 1, (r, c) => {
      const [y, x] = [Math.floor(r / 10) % 10, r % 10];
      const [v, u] = [Math.floor(c / 12) - y, (c % 12) - x];
      return v >= 0 && v < 3 && u >= 0 && u < 3;
    });
    const second = matrix(8 * 9, 4 * 100, 2, (r, c) => {
      const [y, x] = [2 * (Math.floor(r / 3) % 3), 2 * (r % 3)];
      const [v, u] = [(Math.floor(c / 10) % 10) - y, (c % 10) - x];
      return v >= 0 && v < 6 && u >= 0 && u < 6;
    });
    const last = matrix(5, 72, 3, () => true);
    const bias = (count: number) => new Float64Array(count);
    const maps = [first, second, last].map((map, i) => ({
      ...map,
      name: `${i}`,
      weights: Float32Array.from(map.weights),
      bias: bias(map.outs),
    }));
    const layer = (shape: number[]) => ({ name: 'square', shape, degree: 2, coefficients: [] });
    const program = { maps, layers: [layer([4, 10, 10]), layer([8, 3, 3])], shape: [1, 12, 12] };
    const [plain, placed] = [layOut(program, 0), layOut(program, 2048)];
    expect(placed.products).toBeLessThan(0.6 * plain.products);
    expect(placed.plans.at(-1)?.to).toEqual(contiguous(5));
    expect(placed.plans[0]?.to.width).toBeGreaterThan(400);
    // The same numbers come out of both.
    const x = noise(144, 7);
    const results = [plain, placed].map(({ plans }) =>
      plans.reduce(
        (slots, plan, i) => run(maps[i] as (typeof maps)[number], plan, slots).slots,
        periodic(x, contiguous(144), 256, 4096),
      ),
    );
    for (let i = 0; i < 5; i++) expect(results[1]?.[i]).toBeCloseTo(results[0]?.[i] as number, 6);
  });
});
