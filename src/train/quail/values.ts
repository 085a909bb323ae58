/**
 * Where the stages' data come from: two chains of kept values, the teacher's and the student's, that go on from stage to
 * stage, so that each frozen stage runs over the data once; and the images themselves where there is no room, or
 * augmentation makes other images in every epoch.
 */
import type { TrainingData } from '../../data/training-batches.ts';
import { type Kept, keepRows, through } from '../../eval/kept-rows.ts';
import { openPart, type Part, type PartOptions, type Values } from '../../eval/parts.ts';
import type { Budget, RowStore } from '../../eval/row-store.ts';
import type { NdArray } from '../../eval/session.ts';
import type { Model } from '../../graph/ir.ts';
import type { OnProgress } from '../../progress.ts';
import { computedData, type StageData, storedData } from './stage-data.ts';
import type { Stage } from './stages.ts';
import type { Sample } from './student.ts';

export interface StageValues {
  /** Training rows. */
  rows(): Promise<number>;
  /** What the stage reads, and what it is to imitate. @param student with all stages before in their final form */
  imitation(student: Network, index: number, reads: readonly string[]): Promise<StageData>;
  /** What the stage and those behind it read, and the labels. @param epochs how often: values that are read once are not kept */
  finetuning(student: Network, index: number, reads: readonly string[], epochs: number): Promise<StageData>;
  /** Of the first rows. */
  sample(student: Network, index: number): Promise<Sample>;
  close(): Promise<void>;
}

/** A model that onnxruntime runs, and its stages. */
export interface Network {
  readonly model: Model;
  readonly stages: readonly Stage[];
}

export interface ValuesOptions extends PartOptions {
  readonly teacher: Network;
  readonly input: { readonly name: string; readonly shape: readonly number[] };
  readonly open: (shuffle: boolean) => Promise<TrainingData>;
  readonly batch: number;
  readonly seed: number;
  /** Whether the images are the same in every epoch. */
  readonly fixed: boolean;
  readonly budget: Budget;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
}

/** Values that are carried into a stage; null where there was no room. */
interface Chain {
  readonly at: number;
  readonly kept: Kept | null;
}

const SAMPLE_ROWS = 512;

export function makeStageValues(options: ValuesOptions): StageValues {
  const { teacher, input, open, batch, seed, fixed, budget, signal, onProgress } = options;
  let images: Kept | null = null;
  let labels = new Int32Array(0);
  let total: number | null = null;
  let sampled: Values | null = null;
  let chains: { student: Chain; teacher: Chain } = { student: { at: 0, kept: null }, teacher: { at: 0, kept: null } };
  let shuffled: TrainingData | null = null;
  const parts: Part[] = [];

  const part = async (model: Model, from: readonly string[], to: readonly string[]): Promise<Part> => {
    const opened = await openPart(model, from, to, options);
    parts.push(opened);
    return opened;
  };
  const releaseParts = async () => {
    for (const opened of parts.splice(0)) await opened.release();
  };

  /** How many rows there are; keeps them all where that can be. */
  async function read(): Promise<number> {
    if (total !== null) return total;
    const data = await open(false);
    try {
      const found: number[] = [];
      const blocks = async function* (): AsyncGenerator<Values> {
        for await (const { count, x, labels: classes } of data.epoch(0)) {
          found.push(...classes);
          yield imagesOf(count, x);
        }
      };
      if (fixed) images = await keepRows(blocks(), data.rows, budget, () => {});
      labels = Int32Array.from(found);
      chains = { student: { at: 0, kept: images }, teacher: { at: 0, kept: images } };
      total = data.rows;
      return total;
    } finally {
      await data.close();
    }
  }

  /** A few rows of kept values, evenly spread. */
  const someRows = (kept: Kept): Values =>
    new Map(
      [...kept].map(([name, { rows, shape, gather }]): [string, NdArray] => {
        const count = Math.min(rows, SAMPLE_ROWS);
        const chosen = Int32Array.from({ length: count }, (_, i) => Math.floor((i * rows) / count));
        return [name, { elem: 'float', dims: [count, ...shape], data: gather(chosen) }];
      }),
    );

  /** A few images: evenly spread, or the first ones of a random order. */
  async function someImages(): Promise<Values> {
    await read();
    if (images) return someRows(images);
    shuffled ??= await open(true);
    for await (const { count, x } of shuffled.epoch(0)) return imagesOf(count, x);
    return new Map();
  }

  async function once(model: Model, from: readonly string[], to: string, values: Values): Promise<NdArray> {
    const opened = await openPart(model, from, [to], options);
    try {
      return (await opened.run(values)).get(to) as NdArray;
    } finally {
      await opened.release();
    }
  }

  /** What goes into a stage, and what it is to become, of all rows. */
  async function bring(student: Network, index: number): Promise<{ own: Kept; wanted: RowStore } | null> {
    await read();
    chains.student = await advance(chains.student, student, index, false);
    chains.teacher = await advance(chains.teacher, teacher, index + 1, true);
    const own = chains.student.kept;
    const wanted = chains.teacher.kept?.get((teacher.stages[index] as Stage).output);
    return own && wanted ? { own, wanted } : null;
  }

  const imagesOf = (count: number, x: Float32Array): Values =>
    new Map([[input.name, { elem: 'float', dims: [count, ...input.shape], data: x } satisfies NdArray]]);

  /** Closes what is kept in one place and not in the other. */
  const drop = (old: Kept | null, still: Kept | null) => {
    const left = new Set([...(images ?? new Map()).values(), ...(still ?? new Map()).values()]);
    for (const store of old?.values() ?? []) if (!left.has(store)) store.close();
  };

  /** Goes on to what is carried into a stage, one stage at a time; values that go through stay where they are. */
  async function advance(chain: Chain, network: Network, to: number, targets: boolean): Promise<Chain> {
    let { at, kept } = chain;
    const rows = await read();
    while (kept && at < to) {
      const { carries, output, name } = network.stages[at] as Stage;
      const next = network.stages[at + 1]?.carries ?? [];
      const wanted = [...new Set(targets ? [...next, output] : next)];
      const old: Kept = kept;
      const step = await openPart(
        network.model,
        carries,
        wanted.filter((value) => !old.has(value)),
        options,
      );
      try {
        const task = `${targets ? 'teacher' : 'student'}: ${name}`;
        const tell = (done: number) => onProgress?.({ task, done, total: rows, unit: 'images' });
        const made = await keepRows(through(step, old, signal), rows, budget, tell);
        kept = made && new Map(wanted.map((value) => [value, (made.get(value) ?? old.get(value)) as RowStore]));
        drop(old, kept);
      } finally {
        await step.release();
      }
      at++;
    }
    return { at, kept };
  }

  async function computed(
    student: Network,
    index: number,
    reads: readonly string[],
    target: string | null,
  ): Promise<StageData> {
    shuffled ??= await open(true);
    const { carries } = student.stages[index] as Stage;
    const before = await part(student.model, [input.name], carries);
    const wanted = target === null ? null : { part: await part(teacher.model, [input.name], [target]), output: target };
    return computedData(shuffled, input, reads, before, wanted);
  }

  return {
    rows: read,
    async imitation(student, index, reads) {
      await releaseParts();
      const rows = await read();
      const { output } = teacher.stages[index] as Stage;
      const kept = await bring(student, index);
      if (!kept) return computed(student, index, reads, output);
      const { own, wanted } = kept;
      return storedData(
        reads.map((name) => own.get(name) as RowStore),
        wanted,
        { batch, seed, rows },
      );
    },
    async finetuning(student, index, reads, epochs) {
      await releaseParts();
      const rows = await read();
      // Nobody needs these any more.
      for (const { kept } of [chains.student, chains.teacher]) drop(kept, null);
      chains = { student: { at: -1, kept: null }, teacher: { at: -1, kept: null } };
      const { carries, name } = student.stages[index] as Stage;
      let kept: Kept | null = index === 0 ? images : null;
      if (images && index > 0 && epochs > 1) {
        const before = await openPart(student.model, [input.name], carries, options);
        try {
          const tell = (done: number) => onProgress?.({ task: `student: ${name}`, done, total: rows, unit: 'images' });
          kept = await keepRows(through(before, images, signal), rows, budget, tell);
        } finally {
          await before.release();
        }
      }
      if (!kept) return computed(student, index, reads, null);
      chains.student = { at: index, kept };
      const from = kept;
      return storedData(
        reads.map((value) => from.get(value) as RowStore),
        labels,
        { batch, seed, rows },
      );
    },
    async sample(student, index) {
      const [own, wanted] = [student.stages[index] as Stage, teacher.stages[index] as Stage];
      const before = own.input ?? own.output;
      const kept = await bring(student, index);
      if (kept)
        return {
          before: await once(student.model, own.carries, before, someRows(kept.own)),
          after: someRows(new Map([[wanted.output, kept.wanted]])).get(wanted.output) as NdArray,
        };
      sampled ??= await someImages();
      return {
        before: await once(student.model, [input.name], before, sampled),
        after: await once(teacher.model, [input.name], wanted.output, sampled),
      };
    },
    async close() {
      await releaseParts();
      await shuffled?.close();
      shuffled = null;
      for (const kept of [images, chains.student.kept, chains.teacher.kept])
        for (const store of kept?.values() ?? []) store.close();
      images = null;
      total = null;
      sampled = null;
      chains = { student: { at: 0, kept: null }, teacher: { at: 0, kept: null } };
    },
  };
}
