/** Reading data sets in tests: everything at once, errors as text, and which files stay open. */
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import fc from 'fast-check';
import { expect } from 'vitest';
import type { BatchOptions, Dataset, Selection } from '../../src/data/dataset.ts';
import { SisyphusError } from '../../src/errors.ts';

export interface AllRows {
  readonly rows: number[][];
  readonly labels: number[] | null;
  /** Of the batches. */
  readonly counts: number[];
  readonly firsts: number[];
}

/** For small data sets. */
export async function readAll(dataset: Dataset, options: Partial<BatchOptions> = {}): Promise<AllRows> {
  const size = dataset.shape.reduce((product, dim) => product * dim, 1);
  const all: AllRows = { rows: [], labels: dataset.classes === null ? null : [], counts: [], firsts: [] };
  for await (const batch of dataset.batches({ size: 64, ...options })) {
    expect(batch.rows.length).toBe(batch.count * size);
    expect(batch.rows).toBeInstanceOf(dataset.elem === 'uint8' ? Uint8Array : Float32Array);
    if (dataset.classes === null) expect(batch.labels).toBeNull();
    else expect(batch.labels?.length).toBe(batch.count);
    all.counts.push(batch.count);
    all.firsts.push(batch.first);
    all.labels?.push(...(batch.labels ?? []));
    for (let i = 0; i < batch.count; i++) all.rows.push([...batch.rows.subarray(i * size, (i + 1) * size)]);
  }
  return all;
}

/** `code: message` of the SisyphusError that something fails with; any other outcome fails the test. */
export async function failure(run: () => unknown): Promise<string> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof SisyphusError)) throw error;
    expect(error.message).not.toMatch(/undefined|NaN|\[object|\n/);
    return `${error.code}: ${error.message}`;
  }
  return 'no error';
}

/** How opening or reading fails. */
export const failureOf = (open: () => Promise<Dataset>, options: Partial<BatchOptions> = {}): Promise<string> =>
  failure(async () => readAll(await open(), options));

/** Whatever rows are asked for, in batches of whatever size, exactly those come, with their labels. */
export async function expectSelections(dataset: Dataset, expected: AllRows, runs = 60): Promise<void> {
  const { length } = dataset;
  const select = fc.oneof(
    fc.constant(undefined),
    fc.integer({ min: 0, max: length + 3 }).map((count) => ({ count })),
    fc
      .subarray(Array.from({ length }, (_, i) => i))
      .map((indices): Selection => ({ indices: Int32Array.from(indices) })),
  );
  const property = fc.asyncProperty(select, fc.integer({ min: 1, max: length + 3 }), async (select, size) => {
    const all = expected.rows.map((_, i) => i);
    const wanted = !select ? all : 'count' in select ? all.slice(0, select.count) : [...select.indices];
    const found = await readAll(dataset, { size, ...(select && { select }) });
    expect(found.rows).toEqual(wanted.map((i) => expected.rows[i]));
    expect(found.labels).toEqual(expected.labels && wanted.map((i) => expected.labels?.[i]));
    expect(found.firsts).toEqual(wanted.filter((_, i) => i % size === 0));
    const full = Math.floor(wanted.length / size);
    expect(found.counts).toEqual([
      ...Array(full).fill(size),
      ...(wanted.length % size > 0 ? [wanted.length % size] : []),
    ]);
  });
  await fc.assert(property, { numRuns: runs, seed: 1 });
}

/** Breaking out of the loop, the signal, a failing consumer and the end all close the files below `folder`. */
export async function expectCloses(dataset: Dataset, folder: string): Promise<void> {
  const stop = async () => {
    for await (const _ of dataset.batches({ size: 1 })) break;
  };
  const abort = async () => {
    const controller = new AbortController();
    let batches = 0;
    const reading = async () => {
      for await (const _ of dataset.batches({ size: 1, signal: controller.signal })) {
        batches++;
        controller.abort();
      }
    };
    expect(await failure(reading)).toBe('aborted: interrupted');
    expect(batches).toBe(1);
    const before = () => readAll(dataset, { signal: AbortSignal.abort() });
    expect(await failure(before)).toBe('aborted: interrupted');
  };
  const fail = async () => {
    const reading = async () => {
      for await (const _ of dataset.batches({ size: 1 })) throw new RangeError('of the consumer');
    };
    await expect(reading).rejects.toThrow('of the consumer');
  };
  const misuse = async () => {
    const past = Int32Array.of(dataset.length);
    expect(await failure(() => readAll(dataset, { size: 0 }))).toMatch(/^usage: /);
    expect(await failure(() => readAll(dataset, { select: { indices: past } }))).toMatch(/^usage: /);
  };
  for (const way of [stop, abort, fail, misuse, () => readAll(dataset)]) {
    await way();
    await expectClosed(folder);
  }
}

/** No file below `folder` stays open. Streams close on a later turn of the event loop. */
export async function expectClosed(folder: string): Promise<void> {
  if (!existsSync('/proc/self/fd')) return;
  for (let tries = 0; openFiles(folder).length > 0 && tries < 100; tries++) await setTimeout(5);
  expect(openFiles(folder)).toEqual([]);
}

function openFiles(folder: string): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(path.join('/proc/self/fd', fd));
      return target.startsWith(folder) ? [target] : [];
    } catch {
      return []; // closed meanwhile
    }
  });
}

/** How many rows of each class there are, and the first row. */
export async function survey(dataset: Dataset): Promise<{ histogram: number[]; first: number[]; rows: number }> {
  const histogram: number[] = Array(dataset.classes ?? 0).fill(0);
  let first: number[] = [];
  let rows = 0;
  for await (const batch of dataset.batches({ size: 1000 })) {
    if (rows === 0) first = [...batch.rows.subarray(0, batch.rows.length / batch.count)];
    rows += batch.count;
    for (const label of batch.labels ?? []) histogram[label] = (histogram[label] ?? 0) + 1;
  }
  return { histogram, first, rows };
}
