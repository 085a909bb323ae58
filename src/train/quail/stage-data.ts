/**
 * What a stage trains on: rows of the values that it reads, and what it is to become. Without augmentation these are the
 * same in every epoch: they are computed once, each stage's from those of the stage before, and kept as long as a budget
 * of memory and disk allows; else the frozen stages before run again for every batch.
 */
import type { TrainingData } from '../../data/training-batches.ts';
import type { Part, Values } from '../../eval/parts.ts';
import type { RowStore } from '../../eval/row-store.ts';
import { makeRng } from '../../rng.ts';
import type { FedBatch } from '../training-step.ts';

export interface StageData {
  readonly stepsPerEpoch: number;
  /** `memory`, `disk`, or `computed`. */
  readonly place: string;
  /**
   * A batch is good until the next one is asked for.
   * @param epoch of the whole run: its order and augmentation depend on that
   * @param from the first step
   */
  batches(epoch: number, from: number): AsyncIterable<FedBatch>;
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

/** @param reads in the order of the stage's inputs; @param target a value to imitate, or the labels of all rows */
export function storedData(
  reads: readonly RowStore[],
  target: RowStore | Int32Array,
  { batch, seed, rows }: { readonly batch: number; readonly seed: number; readonly rows: number },
): StageData {
  const stores = 'rows' in target ? [...reads, target] : reads;
  return {
    stepsPerEpoch: Math.ceil(rows / batch),
    place: stores.some(({ place }) => place === 'disk') ? 'disk' : 'memory',
    async *batches(epoch, from) {
      const order = shuffled(rows, seed, epoch);
      // The same memory for all batches: new pages cost as much as a layer's elementwise work.
      const into = stores.map(({ shape }) => new Float32Array(batch * shape.reduce((a, b) => a * b, 1)));
      for (let at = from * batch; at < rows; at += batch) {
        const chosen = order.subarray(at, at + batch);
        yield {
          count: chosen.length,
          rows: reads.map(({ gather }, i) => gather(chosen, into[i])),
          target:
            'rows' in target
              ? { elem: 'float', dims: [chosen.length, ...target.shape], data: target.gather(chosen, into.at(-1)) }
              : { elem: 'int32', dims: [chosen.length], data: chosen.map((row) => target[row] as number) },
        };
      }
    },
  };
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
