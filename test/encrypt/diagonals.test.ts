/** The diagonal method in the clear: rotations are index shifts. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type DiagonalPlan,
  diagonal,
  periodic,
  planDiagonals,
  powerOfTwo,
  rotationsOf,
} from '../../src/encrypt/diagonals.ts';
import { noise } from '../support/numeric.ts';

interface Matrix {
  readonly outs: number;
  readonly ins: number;
  readonly weights: Float64Array;
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
  const babies = [x];
  for (let b = 1; b < plan.babies; b++) babies.push(turned(babies[b - 1] as Float64Array, 1));
  let sum = new Float64Array(x.length);
  for (let j = plan.giants - 1; j >= 0; j--) {
    if (j < plan.giants - 1) sum = turned(sum, plan.giant);
    for (const k of plan.diagonals) {
      if (Math.floor(k / plan.giant) !== j) continue;
      const d = diagonal(map, plan, k, x.length);
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
        const period = powerOfTwo(ins) * 2 ** wider;
        const slots = Math.max(period, powerOfTwo(outs)) * 2;
        const x = noise(ins, seed + 3);
        const plan = planDiagonals(map, period);
        const found = run(map, plan, periodic(x, period, slots));
        expect(found.rotations).toBe(rotationsOf(plan).count);
        const wanted = product(map, x);
        for (let i = 0; i < slots; i++) expect(found.slots[i]).toBeCloseTo(wanted[i % plan.outPeriod] ?? 0, 10);
      }),
      { numRuns: 200, seed: 3 },
    );
  });

  test('the plan of 784 to 512 to 10 takes keys for few steps', () => {
    const first = planDiagonals(
      matrix(512, 784, 1, () => true),
      1024,
    );
    const second = planDiagonals(
      matrix(10, 512, 2, () => true),
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
      64,
    );
    expect(plan.diagonals).toEqual([5]);
    expect(rotationsOf(plan).count).toBeLessThanOrEqual(5);
  });
});
