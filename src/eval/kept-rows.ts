/** Values of all rows of a data set, kept: what parts of networks read, and what they make of it, block by block. */
import type { Part, Values } from './parts.ts';
import type { Budget, RowStore } from './row-store.ts';
import type { NdArray } from './session.ts';

/** Rows that run at once. */
const BLOCK = 128;

/** Kept rows of values by name. */
export type Kept = ReadonlyMap<string, RowStore>;

/**
 * Computes values of all rows, in order.
 * @returns null where the budget has no room for them
 */
export async function keepRows(
  blocks: AsyncIterable<Values>,
  rows: number,
  budget: Budget,
  onRows: (done: number) => void,
): Promise<Map<string, RowStore> | null> {
  const kept = new Map<string, RowStore>();
  const drop = () => {
    for (const store of kept.values()) store.close();
  };
  let done = 0;
  try {
    for await (const values of blocks) {
      for (const [name, { dims, data }] of values) {
        const store = kept.get(name) ?? budget.open(rows, dims.slice(1));
        if (!store) {
          drop();
          return null;
        }
        kept.set(name, store);
        store.write(done, data as Float32Array);
      }
      done += countOf(values);
      onRows(done);
    }
  } catch (error) {
    drop();
    throw error;
  }
  return kept;
}

const countOf = (values: Values): number => [...values.values()][0]?.dims[0] ?? 0;

/** What a part makes of all rows, block by block. */
export async function* through(part: Part, kept: Kept, signal?: AbortSignal, block = BLOCK): AsyncGenerator<Values> {
  const reads = part.reads.map((name) => [name, kept.get(name) as RowStore] as const);
  const rows = reads[0]?.[1].rows ?? 0;
  for (let at = 0; at < rows; at += block) {
    signal?.throwIfAborted();
    const count = Math.min(block, rows - at);
    yield part.run(
      new Map(
        reads.map(([name, { shape, slice }]): [string, NdArray] => [
          name,
          { elem: 'float', dims: [count, ...shape], data: slice(at, count) },
        ]),
      ),
    );
  }
}
