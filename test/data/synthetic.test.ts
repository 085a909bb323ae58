import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Split } from '../../src/data/dataset.ts';
import { openSynthetic } from '../../src/data/synthetic.ts';
import { makeRng } from '../../src/rng.ts';
import { expectSelections, failure, readAll } from '../support/datasets.ts';

const first = async (count: number, split: Split = 'test', shape = '') =>
  readAll(await openSynthetic(shape, { split }), { select: { count } });

describe('rows', () => {
  it('come in ten classes by turns', async () => {
    for (const [split, length] of [
      ['train', 20_000],
      ['test', 4_000],
    ] as const) {
      const dataset = await openSynthetic('', { split });
      expect(dataset).toMatchObject({ length, split, shape: [1, 28, 28], layout: 'chw', elem: 'uint8', classes: 10 });
      expect(dataset.classNames).toHaveLength(10);
      expect((await first(25, split)).labels).toEqual(Array.from({ length: 25 }, (_, i) => i % 10));
    }
  });

  it('are the same on every machine', async () => {
    const digest = async (split: Split, shape: string) => {
      const { rows } = await first(100, split, shape);
      return createHash('sha256').update(Uint8Array.from(rows.flat())).digest('hex').slice(0, 16);
    };
    expect(await digest('test', '')).toBe('TEST');
    expect(await digest('train', '1x28x28')).toBe('TRAIN');
    expect(await digest('test', '3x32x32')).toBe('COLOUR');
  });

  it('depend on nothing but split and index', async () => {
    const dataset = await openSynthetic('3x16x20', {});
    expect(dataset.shape).toEqual([3, 16, 20]);
    const few = { ...dataset, length: 30 };
    await expectSelections({ ...few, batches: (o) => dataset.batches({ select: { count: 30 }, ...clip(o) }) }, await first(30, 'test', '3x16x20'), 20);
    const [train, test] = [await first(10, 'train'), await first(10, 'test')];
    expect(train.rows).not.toEqual(test.rows);
  });

  it('refuse shapes that cannot be', async () => {
    for (const shape of ['28x28', '3x32', '0x28x28', '17x28x28', '1x7x28', '1x28x2048', 'axbxc', '1x28x28x1'])
      expect(await failure(() => openSynthetic(shape, {}))).toMatch(/^spec: synthetic:.*: give channels x height x width/);
  });
});

/** A count above 30 means all 30. */
const clip = <T extends { select?: unknown }>(options: T): T => {
  const select = options.select as { count?: number } | undefined;
  return select?.count === undefined ? options : { ...options, select: { count: Math.min(select.count, 30) } };
};
