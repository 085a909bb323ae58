import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Split } from '../../src/data/dataset.ts';
import { openSynthetic } from '../../src/data/synthetic.ts';
import { makeRng } from '../../src/rng.ts';
import { type AllRows, failure, readAll } from '../support/datasets.ts';

const first = async (count: number, split: Split = 'test', shape = ''): Promise<AllRows> =>
  readAll(await openSynthetic(shape, { split }), { select: { count } });

describe('rows', () => {
  it.each([
    ['train', 20_000],
    ['test', 4_000],
  ] as const)('of the split %s come in ten classes by turns', async (split, length) => {
    const dataset = await openSynthetic('', { split });
    expect(dataset).toMatchObject({ length, split, shape: [1, 28, 28], layout: 'chw', elem: 'uint8', classes: 10 });
    expect(dataset.classNames).toHaveLength(10);
    expect((await first(25, split)).labels).toEqual(Array.from({ length: 25 }, (_, i) => i % 10));
  });

  it.each([
    ['test', '', 'e8763490e0e576f3'],
    ['train', '1x28x28', 'c0d1a1690d5064ee'],
    ['test', '3x32x32', 'd38d13f053e8a5b0'],
  ] as const)('of the split %s, %s, are the same on every machine', async (split, shape, digest) => {
    const { rows } = await first(100, split, shape);
    const found = createHash('sha256').update(Uint8Array.from(rows.flat())).digest('hex');
    expect(found.slice(0, 16)).toBe(digest);
  });

  it('depend on nothing but split and index', async () => {
    const dataset = await openSynthetic('3x16x20', {});
    expect(dataset.shape).toEqual([3, 16, 20]);
    const all = await first(40, 'test', '3x16x20');
    const indices = Int32Array.of(0, 3, 4, 5, 17, 39);
    const found = await readAll(dataset, { size: 4, select: { indices } });
    expect(found.rows).toEqual(Array.from(indices, (i) => all.rows[i]));
    expect(found.labels).toEqual(Array.from(indices, (i) => i % 10));
    expect(found.counts).toEqual([4, 2]);
    expect((await readAll(dataset, { select: { indices: Int32Array.of(3_999) } })).labels).toEqual([9]);
    expect((await first(10, 'train')).rows).not.toEqual((await first(10, 'test')).rows);
    expect(new Set(all.rows.map(String)).size).toBe(40);
  });

  it('stop at the signal', async () => {
    const dataset = await openSynthetic('', {});
    expect(await failure(() => readAll(dataset, { signal: AbortSignal.abort() }))).toBe('aborted: interrupted');
  });

  it.each(['28x28', '3x32', '0x28x28', '17x28x28', '1x7x28', '1x28x2048', 'axbxc', '1x28x28x1', '1x-28x28'])(
    'refuse the shape %s',
    async (shape) => {
      expect(await failure(() => openSynthetic(shape, {}))).toMatch(/^spec: synthetic:.*: give channels x height x w/);
    },
  );
});

describe('the task', async () => {
  const SIDE = 28;
  const scaled = async (count: number, split: Split) => {
    const { rows, labels } = await first(count, split);
    return rows.map((row, i) => ({ row: Float32Array.from(row, (v) => v / 127.5 - 1), label: labels?.[i] ?? -1 }));
  };
  const power = (values: Float32Array) => values.reduce((sum, value) => sum + value * value, 0);
  type Rows = Awaited<ReturnType<typeof scaled>>;
  const TEST = await scaled(500, 'test');

  /** The accuracy on `test` of a linear model that stochastic least squares (normalised LMS) trained. */
  function linearAccuracy(train: Rows, test: Rows, epochs: number): number {
    const size = train[0]?.row.length ?? 0;
    const weights = Array.from({ length: 10 }, () => new Float32Array(size + 1));
    const outputs = (row: Float32Array) =>
      weights.map((w) => {
        let sum = w[size] as number;
        for (let i = 0; i < size; i++) sum += (w[i] as number) * (row[i] as number);
        return sum;
      });
    const rng = makeRng(5);
    for (let step = 0; step < epochs * train.length; step++) {
      const { row, label } = train[rng.int(train.length)] as Rows[number];
      const rate = (0.3 * (1 - step / (epochs * train.length))) / (1 + power(row));
      for (const [c, output] of outputs(row).entries()) {
        const w = weights[c] as Float32Array;
        const change = rate * ((c === label ? 1 : 0) - output);
        for (let i = 0; i < size; i++) w[i] = (w[i] as number) + change * (row[i] as number);
        w[size] = (w[size] as number) + change;
      }
    }
    const right = test.filter(({ row, label }) => {
      const found = outputs(row);
      return found.indexOf(Math.max(...found)) === label;
    });
    return right.length / test.length;
  }

  it('is too hard for a linear model', async () => {
    expect(linearAccuracy(await scaled(5000, 'train'), TEST, 2)).toBeLessThan(0.3); // 0.14; chance is 0.1
  });

  it('is easy with a layer of convolutions, ReLU and pooling before it', async () => {
    const WINDOW = 7;
    const train = await scaled(1000, 'train');
    const rng = makeRng(3);
    // Filters are patches of images without their mean; of eight the one with the most contrast.
    const filters = Array.from({ length: 16 }, () => {
      const patches = Array.from({ length: 8 }, () => {
        const { row } = train[rng.int(train.length)] as Rows[number];
        const corner = rng.int(SIDE - WINDOW) * SIDE + rng.int(SIDE - WINDOW);
        const patch = patchAt(row, corner);
        const mean = patch.reduce((sum, value) => sum + value) / patch.length;
        return patch.map((value) => value - mean);
      });
      const best = patches.reduce((one, other) => (power(other) > power(one) ? other : one));
      return best.map((value) => value / Math.sqrt(power(best)));
    });
    function patchAt(row: Float32Array, corner: number): Float32Array {
      const patch = new Float32Array(WINDOW ** 2);
      for (let y = 0; y < WINDOW; y++)
        patch.set(row.subarray(corner + y * SIDE, corner + y * SIDE + WINDOW), y * WINDOW);
      return patch;
    }
    const features = ({ row, label }: Rows[number]): Rows[number] => {
      const patches: Float32Array[] = [];
      for (let y = 0; y <= SIDE - WINDOW; y += 2)
        for (let x = 0; x <= SIDE - WINDOW; x += 2) patches.push(patchAt(row, y * SIDE + x));
      const pooled = filters.flatMap((filter) => {
        let [up, down, sum] = [0, 0, 0];
        for (const patch of patches) {
          let value = 0;
          for (let i = 0; i < filter.length; i++) value += (filter[i] as number) * (patch[i] as number);
          up = Math.max(up, value);
          down = Math.max(down, -value);
          sum += Math.max(0, Math.abs(value) - 0.5);
        }
        return [Math.max(up, down), up + down, sum];
      });
      // The size of a vector says how strong the contrast is, which is no help.
      const norm = Math.hypot(...pooled);
      return { row: Float32Array.from(pooled, (value) => value / norm), label };
    };
    expect(linearAccuracy(train.map(features), TEST.map(features), 40)).toBeGreaterThan(0.55); // 0.73; a trained network reaches more
  });
});
