/** Selected rows, batch by batch: which they are, and their bytes in a stream of records of equal size. */
import { SisyphusError } from '../errors.ts';
import { type Bytes, byteReader } from './bytes.ts';
import type { BatchOptions, Selection } from './dataset.ts';

/** The rows from `start` to before `end`. */
export interface Run {
  readonly start: number;
  readonly end: number;
}

/** The rows of one batch, as runs of neighbours in ascending order. */
export interface BatchPlan {
  readonly first: number;
  readonly count: number;
  readonly runs: readonly Run[];
}

/**
 * The batches that `options` ask for, of a data set with `length` rows. Looks at the signal before each.
 * @throws SisyphusError `usage` for a selection or batch size that cannot be, `aborted`
 */
export function* planBatches(length: number, options: BatchOptions): Generator<BatchPlan> {
  const { size, select = { count: length }, signal } = options;
  if (!Number.isInteger(size) || size < 1)
    throw new SisyphusError('usage', `a batch of ${size} rows: the size must be a whole number above 0`);
  const rows = selectedRows(length, select);
  for (let start = 0; start < rows.count; start += size) {
    throwIfAborted(signal);
    const runs = rows.runs(start, Math.min(start + size, rows.count));
    yield { first: runs[0]?.start ?? 0, count: Math.min(size, rows.count - start), runs };
  }
}

/** @throws SisyphusError `aborted` */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new SisyphusError('aborted', 'interrupted');
}

function selectedRows(length: number, select: Selection) {
  if ('count' in select) {
    if (!(select.count >= 0)) throw new SisyphusError('usage', `${select.count} rows cannot be selected`);
    const count = Math.min(Math.floor(select.count), length);
    return { count, runs: (start: number, end: number): Run[] => [{ start, end }] };
  }
  const { indices } = select;
  let before = -1;
  for (const index of indices) {
    if (index <= before || index >= length)
      throw new SisyphusError(
        'usage',
        `row ${index} after row ${before}: indices must ascend without repetition and stay below ${length}`,
      );
    before = index;
  }
  return { count: indices.length, runs: (start: number, end: number) => runsOf(indices.subarray(start, end)) };
}

function runsOf(indices: Int32Array): Run[] {
  const runs: Run[] = [];
  let start = indices[0] ?? 0;
  let end = start;
  for (const index of indices) {
    if (index > end) {
      runs.push({ start, end });
      start = index;
    }
    end = index + 1;
  }
  if (end > start) runs.push({ start, end });
  return runs;
}

/** The labels of a batch, out of those of all rows. */
export function labelsOf(plan: BatchPlan, labels: Int32Array): Int32Array {
  const result = new Int32Array(plan.count);
  let filled = 0;
  for (const { start, end } of plan.runs) {
    result.set(labels.subarray(start, end), filled);
    filled += end - start;
  }
  return result;
}

const MAX_BATCH = 2 ** 31; // bytes

/** Records of equal size, one after the other. */
export interface Records {
  /** What errors call them. */
  readonly where: string;
  /** How many bytes come before the first record. */
  readonly offset: number;
  /** Bytes in a record. */
  readonly size: number;
  readonly length: number;
  /** Reads from the start. */
  bytes(): Bytes;
}

export interface RecordBatch extends BatchPlan {
  /** The records one after the other, in memory of their own. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/**
 * Reads the selected records in one go from front to back. Stops after the last one; where that ends the data, what
 * follows is checked too (surplus bytes, checksums). Closes the file however the loop over the batches ends.
 */
export async function* recordBatches(records: Records, options: BatchOptions): AsyncGenerator<RecordBatch> {
  const { where, offset, size, length } = records;
  const reader = byteReader(records.bytes(), where);
  try {
    let position = 0; // in bytes
    const skipTo = async (target: number) => {
      await reader.skip(target - position);
      position = target;
    };
    for (const plan of planBatches(length, options)) {
      if (plan.count * size > MAX_BATCH)
        throw new SisyphusError(
          'data',
          `${where}: ${plan.count} rows of ${size} bytes are too large for one batch; take smaller batches, or the file is corrupt`,
        );
      const bytes = new Uint8Array(plan.count * size);
      let filled = 0;
      for (const { start, end } of plan.runs) {
        await skipTo(offset + start * size);
        const target = bytes.subarray(filled, filled + (end - start) * size);
        await reader.fill(target);
        position += target.length;
        filled += target.length;
      }
      if (position === offset + length * size) await reader.end();
      yield { ...plan, bytes };
    }
  } finally {
    await reader.close();
  }
}
