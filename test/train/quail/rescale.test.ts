/** Squares near an activation. */
import { describe, expect, it } from 'vitest';
import type { NdArray } from '../../../src/eval/session.ts';
import { makeRng } from '../../../src/rng.ts';
import { fitSquares } from '../../../src/train/quail/rescale.ts';

const array = (data: Float32Array): NdArray => ({ elem: 'float', dims: [data.length, 1], data });
const normal = (count: number, mean: number, std: number): Float32Array => {
  const rng = makeRng(3);
  return Float32Array.from({ length: count }, () => mean + std * rng.normal());
};
const errorOf = (z: Float32Array, t: Float32Array, a: number, b: number) =>
  z.reduce((sum, x, i) => sum + ((a * x + b) ** 2 - (t[i] as number)) ** 2, 0) / z.length;

describe('squares fitted by channel', () => {
  it('find the square that made the values', () => {
    const z = normal(1000, 0.3, 2);
    const t = z.map((x) => (0.4 * x + 0.7) ** 2);
    const { scale, shift } = fitSquares(array(z), array(t));
    expect(scale[0]).toBeCloseTo(0.4, 4);
    expect(shift[0]).toBeCloseTo(0.7, 4);
  });

  it.each([
    [0, 1],
    [0, 1e-3],
    [-2, 1],
    [3, 0.5],
    [5, 100],
  ])('are a minimum for ReLU of a normal with mean %f and deviation %f', (mean, std) => {
    const z = normal(4000, mean, std);
    const t = z.map((x) => Math.max(0, x));
    const { scale, shift } = fitSquares(array(z), array(t));
    const [a, b] = [scale[0] as number, shift[0] as number];
    const best = errorOf(z, t, a, b);
    const power = errorOf(z, t, 0, 0);
    expect(best).toBeLessThan(0.75 * power); // the tail of a normal that is cut off is the hardest
    for (const [da, db] of [
      [1, 0],
      [-1, 0],
      [0, 1],
      [0, -1],
    ] as const)
      expect(errorOf(z, t, a * (1 + 0.02 * da), b + 0.02 * db * Math.abs(a) * std)).toBeGreaterThan(best * (1 - 1e-4));
  });

  it('keep channels that are constant or become nothing finite and away from denormal numbers', () => {
    const constant = fitSquares(array(new Float32Array(50).fill(2)), array(new Float32Array(50).fill(9)));
    expect((constant.scale[0] as number) * 2 + (constant.shift[0] as number)).toBeCloseTo(3, 6);
    const z = normal(500, -6, 1);
    const dead = fitSquares(array(z), array(new Float32Array(500)));
    expect(dead.scale[0]).toBeGreaterThan(1e-3);
    expect(errorOf(z, new Float32Array(500), dead.scale[0] as number, dead.shift[0] as number)).toBeLessThan(1e-6);
  });
});
