/**
 * Rows of float32 tensors, written in order and read in any order, in memory or in files, within a budget. Files are
 * removed from their folder as soon as they are open, so that a run that is killed leaves none behind.
 */
import { closeSync, mkdirSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';

export interface RowStore {
  readonly rows: number;
  /** Of one row. */
  readonly shape: readonly number[];
  readonly place: 'memory' | 'disk';
  /** @param data whole rows, which become those from `at` on */
  write(at: number, data: Float32Array): void;
  /** Rows in any order, one after the other. @param into where they go, if it is given */
  gather(rows: ArrayLike<number>, into?: Float32Array): Float32Array;
  /** Rows one after the other, to be read before the store is closed. */
  slice(from: number, count: number): Float32Array;
  /** Gives the room back to the budget; any number of times. */
  close(): void;
}

export interface Budget {
  /** @returns null where there is room neither in memory nor on disk */
  open(rows: number, shape: readonly number[]): RowStore | null;
}

/** Where rows are. */
interface Rows {
  read(row: number, count: number, into: Float32Array, at: number): void;
  /** The rows where they lie, if that is in one piece in memory. */
  view(row: number, count: number): Float32Array | null;
  write(row: number, data: Float32Array): void;
  /** @returns memory that is free now */
  close(): Float32Array[];
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
  // Of closed stores: the next stage's values often have the same sizes, and memory that is new costs more than the writing.
  let spare: Float32Array[] = [];
  const take = (length: number): Float32Array => {
    const found = spare.findIndex((array) => array.length === length);
    return found < 0 ? new Float32Array(length) : (spare.splice(found, 1)[0] as Float32Array);
  };
  return {
    open(rows, shape) {
      const size = shape.reduce((a, b) => a * b, 1);
      const bytes = 4 * rows * size;
      for (const place of ['memory', 'disk'] as const) {
        if (bytes > free[place]) continue;
        const all = place === 'memory' ? inMemory(rows, size, chunk, take) : onDisk(folder, size);
        if (!all) continue;
        free[place] -= bytes;
        let room = free.memory;
        spare = spare.filter(({ byteLength }) => {
          room -= byteLength;
          return room >= 0;
        });
        return storeOf(rows, shape, place, all, () => {
          free[place] += bytes;
          spare.push(...all.close());
        });
      }
      return null;
    },
  };
}

function storeOf(
  rows: number,
  shape: readonly number[],
  place: RowStore['place'],
  all: Rows,
  close: () => void,
): RowStore {
  const size = shape.reduce((a, b) => a * b, 1);
  let closed = false;
  return {
    rows,
    shape,
    place,
    write: all.write,
    gather(chosen, into) {
      const result = into?.subarray(0, chosen.length * size) ?? new Float32Array(chosen.length * size);
      for (let i = 0; i < chosen.length; i++) all.read(chosen[i] as number, 1, result, i * size);
      return result;
    },
    slice(at, count) {
      const view = all.view(at, count);
      if (view) return view;
      const result = new Float32Array(count * size);
      all.read(at, count, result, 0);
      return result;
    },
    close() {
      if (!closed) close();
      closed = true;
    },
  };
}

/**
 * In typed arrays of whole rows: a single one of many gigabytes is refused by some engines.
 * @returns null where memory is short
 */
function inMemory(rows: number, size: number, chunk: number, take: (length: number) => Float32Array): Rows | null {
  const each = Math.max(1, Math.floor(chunk / (4 * size)));
  let chunks: Float32Array[] = [];
  try {
    for (let row = 0; row < rows; row += each) chunks.push(take(Math.min(each, rows - row) * size));
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
  const walk = (row: number, count: number, copy: (part: Float32Array, done: number) => void) => {
    for (let done = 0; done < count; ) {
      const [index, offset] = [Math.floor((row + done) / each), (row + done) % each];
      const whole = Math.min(count - done, each - offset);
      copy((chunks[index] as Float32Array).subarray(offset * size, (offset + whole) * size), done);
      done += whole;
    }
  };
  return {
    view(row, count) {
      const offset = row % each;
      const whole = chunks[Math.floor(row / each)]?.subarray(offset * size, (offset + count) * size);
      return whole?.length === count * size ? whole : null;
    },
    read: (row, count, into, at) => walk(row, count, (part, done) => into.set(part, at + done * size)),
    write: (row, data) =>
      walk(row, data.length / size, (part, done) => part.set(data.subarray(done * size, done * size + part.length))),
    close() {
      const free = chunks;
      chunks = [];
      return free;
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
    view: () => null,
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
      return [];
    },
  };
}
