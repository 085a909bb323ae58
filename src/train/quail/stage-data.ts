/**
 * What a stage trains on: rows of the values that it reads, and what it is to become. Without augmentation these are the
 * same in every epoch: they are computed once, each stage's from those of the stage before, and kept as long as a budget
 * of memory and disk allows; else the frozen stages before run again for every batch.
 */
import type { TrainingData } from '../../data/training-batches.ts';
import type { NdArray } from '../../eval/session.ts';
import { makeRng } from '../../rng.ts';
import type { FedBatch } from '../training-step.ts';
import type { Part, Values } from './parts.ts';
import type { Budget, RowStore } from './row-store.ts';

export interface StageData {
  readonly stepsPerEpoch: number;
  /** `memory`, `disk`, or `computed`. */
  readonly place: string;
  /** @param epoch of the whole run: its order and augmentation depend on that; @param from the first step */
  batches(epoch: number, from: number): AsyncIterable<FedBatch>;
}

const BLOCK = 128;

/**
 * Computes values of all rows, in order.
 * @returns null where the budget has no room for them
 */
export async function keepRows(
  blocks: AsyncIterable<Values>,
  rows: number,
  budget: Budget,
  onRows: (done: number) => void,
): Promise<RowStore | null> {
  let store: RowStore | null = null;
  let done = 0;
  try {
    for await (const values of blocks) {
      store ??= budget.open(rows, new Map([...values].map(([name, { dims }]) => [name, dims.slice(1)])));
      if (!store) return null;
      for (const [name, { data }] of values) store.write(name, done, data as Float32Array);
      done += countOf(values);
      onRows(done);
    }
  } catch (error) {
    store?.close();
    throw error;
  }
  return store;
}

const countOf = (values: Values): number => [...values.values()][0]?.dims[0] ?? 0;

/** What a part makes of blocks of values. */
export async function* through(part: Part, blocks: AsyncIterable<Values>): AsyncGenerator<Values> {
  for await (const values of blocks) yield await part.run(values);
}

/** All rows of a store, in order. */
export async function* blocksOf(store: RowStore, signal?: AbortSignal): AsyncGenerator<Values> {
  for (let at = 0; at < store.rows; at += BLOCK) {
    signal?.throwIfAborted();
    const count = Math.min(BLOCK, store.rows - at);
    yield new Map(
      [...store.shapes].map(([name, shape]): [string, NdArray] => [
        name,
        { elem: 'float', dims: [count, ...shape], data: store.slice(name, at, count) },
      ]),
    );
  }
}

/** The order of an epoch's rows. */
function shuffled(rows: number, seed: number, epoch: number): Int32Array {
  const order = Int32Array.from({ length: rows }, (_, i) => i);
  const rng = makeRng(seed * 2 ** 20 + epoch);
  for (let i = rows - 1; i > 0; i--) {
    const j = rng.int(i + 1);
    const moved = order[i] as number;
    order[i] = order[j] as number;
    order[j] = moved;
  }
  return order;
}

export interface StoredRows {
  readonly store: RowStore;
  readonly name: string;
}

/** @param reads in the order of the stage's inputs; @param target a value to imitate, or the labels of all rows */
export function storedData(
  reads: readonly StoredRows[],
  target: StoredRows | Int32Array,
  { batch, seed, rows }: { readonly batch: number; readonly seed: number; readonly rows: number },
): StageData {
  const stores = [...reads.map(({ store }) => store), ...('store' in target ? [target.store] : [])];
  return {
    stepsPerEpoch: Math.ceil(rows / batch),
    place: stores.some(({ place }) => place === 'disk') ? 'disk' : 'memory',
    async *batches(epoch, from) {
      const order = shuffled(rows, seed, epoch);
      for (let at = from * batch; at < rows; at += batch) {
        const chosen = order.subarray(at, at + batch);
        yield {
          count: chosen.length,
          rows: reads.map(({ store, name }) => store.gather(name, chosen)),
          target: targetOf(target, chosen),
        };
      }
    },
  };
}

function targetOf(target: StoredRows | Int32Array, chosen: Int32Array): NdArray {
  if (!('store' in target))
    return { elem: 'int32', dims: [chosen.length], data: chosen.map((row) => target[row] as number) };
  const { store, name } = target;
  const shape = store.shapes.get(name) ?? [];
  return { elem: 'float', dims: [chosen.length, ...shape], data: store.gather(name, chosen) };
}

/** @param student from the model's input to what the stage reads; @param teacher to what it imitates, null for labels */
export function computedData(
  data: TrainingData,
  input: { readonly name: string; readonly shape: readonly number[] },
  reads: readonly string[],
  student: Part,
  teacher: { readonly part: Part; readonly output: string } | null,
): StageData {
  return {
    stepsPerEpoch: data.stepsPerEpoch,
    place: 'computed',
    async *batches(epoch, from) {
      for await (const { count, x, labels } of data.epoch(epoch, from)) {
        const given: Values = new Map([[input.name, { elem: 'float', dims: [count, ...input.shape], data: x }]]);
        const values = await student.run(given);
        const wanted = teacher && (await teacher.part.run(given)).get(teacher.output);
        yield {
          count,
          rows: reads.map((name) => values.get(name)?.data as Float32Array),
          target: wanted ?? { elem: 'int32', dims: [count], data: labels },
        };
      }
    },
  };
}
