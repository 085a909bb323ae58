import { readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { makeBudget } from '../../src/eval/row-store.ts';
import { makeRng } from '../../src/rng.ts';
import { testFolder } from '../support/arrays.ts';

const folder = testFolder();

describe('kept rows', () => {
  it.each(['memory', 'disk'] as const)('are what was written, in any order, in %s', (place) => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 40 }),
        fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 3 }),
        fc.integer({ min: 1, max: 400 }),
        fc.integer({ min: 1, max: 11 }),
        fc.integer(),
        (rows, shape, chunk, block, seed) => {
          const budget = makeBudget({ memory: place === 'memory' ? 1e9 : 0, disk: 1e9, folder, chunk });
          // The second one finds the memory of the first.
          for (const again of [false, true]) {
            const store = budget.open(rows, shape);
            if (!store) throw new Error('there is room');
            expect(store.place).toBe(place);
            const rng = makeRng(seed + Number(again));
            const size = shape.reduce((a, b) => a * b, 1);
            const all = Float32Array.from({ length: rows * size }, () => Math.fround(rng.normal()));
            for (let at = 0; at < rows; at += block) store.write(at, all.slice(at * size, (at + block) * size));
            const chosen = Array.from({ length: 2 * rows }, () => rng.int(rows));
            expect([...store.gather(chosen)]).toEqual(
              chosen.flatMap((row) => [...all.subarray(row * size, (row + 1) * size)]),
            );
            const from = rng.int(rows);
            expect(store.slice(from, rows - from)).toEqual(all.slice(from * size));
            store.close();
            store.close();
          }
        },
      ),
      { numRuns: 60, seed: 1 },
    );
    expect(readdirSync(folder)).toEqual([]);
  });

  it('stay within the budget, which closing gives back', () => {
    const budget = makeBudget({ memory: 400, disk: 400, folder });
    const open = () => budget.open(10, [10]);
    const [a, b, c] = [open(), open(), open()];
    expect([a?.place, b?.place, c]).toEqual(['memory', 'disk', null]);
    a?.close();
    a?.close();
    expect(open()?.place).toBe('memory');
    expect(open()).toBeNull();
    b?.close();
  });

  it('go to disk where memory is refused, and say so where the folder takes no files', () => {
    const row = [1e6];
    // No engine has a typed array of 4 TB.
    const store = makeBudget({ memory: 1e15, disk: 1e15, folder, chunk: 1e13 }).open(1e6, row);
    expect(store?.place).toBe('disk');
    store?.close();
    const file = path.join(folder, 'a file');
    writeFileSync(file, '');
    const open = () => makeBudget({ memory: 0, disk: 1e9, folder: file }).open(1, row);
    expect(open).toThrow(
      expect.objectContaining({ code: 'file', message: expect.stringMatching(/a file.*--cache-disk/) }),
    );
  });
});
