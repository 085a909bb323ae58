/**
 * Rows of float32 tensors, written in order and read in any order, in memory or in files, within a budget. Files are
 * removed from their folder as soon as they are open, so that a run that is killed leaves none behind.
 */
import { closeSync, mkdirSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import { SisyphusError } from '../../errors.ts';

export interface RowStore {
  readonly rows: number;
  /** Of one row, by name. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  readonly place: 'memory' | 'disk';
  /** @param data whole rows, which become those from `at` on */
  write(name: string, at: number, data: Float32Array): void;
  /** Rows in any order, one after the other. */
  gather(name: string, rows: ArrayLike<number>): Float32Array;
  slice(name: string, from: number, count: number): Float32Array;
  /** Gives the room back to the budget; any number of times. */
  close(): void;
}

export interface Budget {
  /** @returns null where there is room neither in memory nor on disk */
  open(rows: number, shapes: ReadonlyMap<string, readonly number[]>): RowStore | null;
}

/** Where the rows of one tensor are. */
interface Rows {
  read(row: number, count: number, into: Float32Array, at: number): void;
  write(row: number, data: Float32Array): void;
  close(): void;
}

const CHUNK_BYTES = 2 ** 28;

/**
 * @param options.memory bytes; @param options.disk bytes
 * @param options.folder of the files
 * @param options.chunk bytes of one typed array at most
 */
export function makeBudget(options: { memory: number; disk: number; folder: string; chunk?: number }): Budget {
  const free = { memory: options.memory, disk: options.disk };
  const { folder, chunk = CHUNK_BYTES } = options;
  return {
    open(rows, shapes) {
      const sizes = new Map([...shapes].map(([name, shape]) => [name, shape.reduce((a, b) => a * b, 1)]));
      const bytes = 4 * rows * [...sizes.values()].reduce((a, b) => a + b, 0);
      for (const place of ['memory', 'disk'] as const) {
        if (bytes > free[place]) continue;
        const make = (size: number) => (place === 'memory' ? inMemory(rows, size, chunk) : onDisk(folder, size));
        const parts = openAll(sizes, make);
        if (!parts) continue;
        free[place] -= bytes;
        return storeOf(rows, shapes, sizes, place, parts, () => {
          free[place] += bytes;
        });
      }
      return null;
    },
  };
}

/** @returns null where memory is short */
function openAll(sizes: ReadonlyMap<string, number>, make: (size: number) => Rows): Map<string, Rows> | null {
  const parts = new Map<string, Rows>();
  try {
    for (const [name, size] of sizes) parts.set(name, make(size));
    return parts;
  } catch (error) {
    for (const part of parts.values()) part.close();
    if (error instanceof RangeError) return null;
    throw error;
  }
}

function storeOf(
  rows: number,
  shapes: ReadonlyMap<string, readonly number[]>,
  sizes: ReadonlyMap<string, number>,
  place: RowStore['place'],
  parts: Map<string, Rows>,
  giveBack: () => void,
): RowStore {
  const part = (name: string): readonly [Rows, number] => {
    const found = parts.get(name);
    if (!found) throw new SisyphusError('internal', `no rows of '${name}' are kept`);
    return [found, sizes.get(name) as number];
  };
  return {
    rows,
    shapes,
    place,
    write: (name, at, data) => part(name)[0].write(at, data),
    gather(name, chosen) {
      const [from, size] = part(name);
      const result = new Float32Array(chosen.length * size);
      for (let i = 0; i < chosen.length; i++) from.read(chosen[i] as number, 1, result, i * size);
      return result;
    },
    slice(name, at, count) {
      const [from, size] = part(name);
      const result = new Float32Array(count * size);
      from.read(at, count, result, 0);
      return result;
    },
    close() {
      if (parts.size === 0) return;
      for (const each of parts.values()) each.close();
      parts.clear();
      giveBack();
    },
  };
}

/** In typed arrays of whole rows: a single one of many gigabytes is refused by some engines. */
function inMemory(rows: number, size: number, chunk: number): Rows {
  const each = Math.max(1, Math.floor(chunk / (4 * size)));
  let chunks = Array.from(
    { length: Math.ceil(rows / each) },
    (_, i) => new Float32Array(Math.min(each, rows - i * each) * size),
  );
  const walk = (row: number, count: number, copy: (part: Float32Array, done: number) => void) => {
    for (let done = 0; done < count; ) {
      const [index, offset] = [Math.floor((row + done) / each), (row + done) % each];
      const whole = Math.min(count - done, each - offset);
      copy((chunks[index] as Float32Array).subarray(offset * size, (offset + whole) * size), done);
      done += whole;
    }
  };
  return {
    read: (row, count, into, at) => walk(row, count, (part, done) => into.set(part, at + done * size)),
    write: (row, data) =>
      walk(row, data.length / size, (part, done) => part.set(data.subarray(done * size, done * size + part.length))),
    close() {
      chunks = [];
    },
  };
}

let files = 0;

function onDisk(folder: string, size: number): Rows {
  const file = path.join(folder, `values-${process.pid}-${files++}.tmp`);
  const guarded = <T>(work: () => T): T => {
    try {
      return work();
    } catch (cause) {
      throw new SisyphusError(
        'file',
        `${folder}: values of stages can't be kept there: ${(cause as Error).message}; make room, or give a smaller --cache-disk`,
        { cause },
      );
    }
  };
  const handle = guarded(() => {
    mkdirSync(folder, { recursive: true });
    return openSync(file, 'wx+');
  });
  let unlinked = true;
  try {
    rmSync(file);
  } catch {
    unlinked = false; // Windows removes no open files
  }
  const bytes = (data: Float32Array) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return {
    read(row, count, into, at) {
      const target = bytes(into.subarray(at, at + count * size));
      guarded(() => {
        for (let done = 0; done < target.length; ) {
          const got = readSync(handle, target, done, target.length - done, 4 * row * size + done);
          if (got === 0) throw new Error('rows are missing');
          done += got;
        }
      });
    },
    write(row, data) {
      const source = bytes(data);
      guarded(() => {
        for (let done = 0; done < source.length; )
          done += writeSync(handle, source, done, source.length - done, 4 * row * size + done);
      });
    },
    close() {
      closeSync(handle);
      if (!unlinked) rmSync(file, { force: true });
    },
  };
}
