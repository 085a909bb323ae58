/** A data set, batch by batch, as a model takes it: what `eval`, `probe` and `compare` run on. */
import type { Batch, Dataset, Layout, Split } from '../data/dataset.ts';
import { makeSelection, openDataset, parseDataSpec, usualNormalize } from '../data/open.ts';
import { SisyphusError } from '../errors.ts';
import { cloneModel } from '../graph/edit.ts';
import type { Model, Value } from '../graph/ir.ts';
import { setBatch } from '../passes/set-batch.ts';
import type { OnProgress } from '../progress.ts';
import { type InputPlan, planInput } from './input.ts';
import { type Preprocessing, type PreprocessingText, resolvePreprocessing } from './preprocessing.ts';
import type { NdArray } from './session.ts';

export interface DataOptions extends PreprocessingText {
  /** `NAME:PATH`, see `parseDataSpec`. */
  readonly data: string;
  /** Default: test. */
  readonly split?: Split;
  /** How many rows at most: the first ones, or with `seed` a random choice. */
  readonly limit?: number;
  readonly seed?: number;
  /** Rows that run at once. Default 100 (the test batch of the paper's authors). */
  readonly batch?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
}

export const DEFAULT_BATCH = 100;

export interface Feed {
  /** A copy that takes rows as the data set has them: preprocessing is part of it, and its batch is free if it can be. */
  readonly model: Model;
  readonly where: string;
  readonly dataset: Dataset;
  /** Rows that `batches` delivers in all. */
  readonly count: number;
  /** Rows in each batch. */
  readonly batch: number;
  /** Rows that every run takes, the last one filled up; null where it takes as many as there are. */
  readonly fixed: number | null;
  /** What was done about the batch dimension, for people. */
  readonly batching: string;
  readonly preprocessing: Preprocessing;
  batches(): AsyncGenerator<FeedBatch>;
}

export interface FeedBatch {
  /** For `Session.run`: `rows` rows. */
  readonly feeds: ReadonlyMap<string, NdArray>;
  /** Rows of the tensors; above `count` where a model with a fixed batch had its last one filled up. */
  readonly rows: number;
  /** How many of them are rows of the data set. */
  readonly count: number;
  readonly labels: Int32Array | null;
}

/**
 * Opens the data that a model is to be run on, in the sizes and channels that it takes.
 * @throws SisyphusError as `openFeed`
 */
export async function openRows(
  model: Model,
  where: string,
  options: Pick<DataOptions, 'data' | 'split' | 'signal' | keyof PreprocessingText>,
): Promise<{ dataset: Dataset; preprocessing: Preprocessing & { readonly layout: Layout }; plan: InputPlan }> {
  const input = onlyInput(model, where);
  const type = input.declared ?? { elem: null, shape: null };
  const preprocessing = resolvePreprocessing(options, model, usualNormalize(parseDataSpec(options.data).name), where);
  const { split = 'test', signal } = options;
  const dataset = await openDataset(options.data, {
    split,
    ...(type.shape?.length === 4 && (type.shape[1] === 1 || type.shape[3] === 1) && { channels: 1 as const }),
    ...(preprocessing.resize && { resize: preprocessing.resize }),
    ...(signal && { signal }),
  });
  const { normalize, layout } = preprocessing;
  const plan = planInput({ dataset, input: input.name, type, normalize, layout, where });
  return { dataset, preprocessing: { ...preprocessing, layout: plan.layout }, plan };
}

/**
 * Brings model and data together.
 * @param where what errors call the model
 * @param fill have as many rows in every batch, the last one filled up, where the model takes any number
 * @throws SisyphusError `usage` where data and model don't fit, and whatever opening the data throws
 */
export async function openFeed(original: Model, where: string, options: DataOptions, fill?: number): Promise<Feed> {
  const input = onlyInput(original, where);
  const { model, batching, ...frozen } = await freeBatch(original, input, where, fill ?? options.batch);
  const fixed = frozen.fixed ?? fill ?? null;
  const { signal } = options;
  const { dataset, preprocessing, plan } = await openRows(model, where, options);
  const fed = cloneModel(model);
  const name = plan.attach(fed);
  const select = makeSelection(dataset.length, options);
  const count = 'count' in select ? Math.min(select.count, dataset.length) : select.indices.length;
  if (count === 0) throw new SisyphusError('data', `${options.data}: there are no rows to evaluate`);
  const batch = fixed ?? Math.min(options.batch ?? DEFAULT_BATCH, count);
  const read = () => dataset.batches({ size: batch, select, ...(signal && { signal }) });
  return {
    model: fed,
    where,
    dataset,
    count,
    batch,
    fixed,
    batching,
    preprocessing,
    batches: () => ahead(convert(read(), plan, name, fixed, signal)),
  };
}

/**
 * Which batches are looked at closely: `wanted` rows at least, spread evenly, the first batch among them.
 * @returns `all` where that is every batch
 */
export function samplePlan(
  feed: Pick<Feed, 'count' | 'batch'>,
  wanted: number,
): { isSampled: (index: number) => boolean; all: boolean } {
  const batches = Math.ceil(feed.count / feed.batch);
  const chosen = Math.min(batches, Math.max(1, Math.ceil(wanted / feed.batch)));
  // The last batch, which may be smaller, is chosen only where all are.
  const part = (index: number) => Math.ceil(((index + 1) * chosen) / batches);
  return { isSampled: (index) => part(index) !== part(index - 1), all: chosen === batches };
}

/** The one input that has to be fed. */
function onlyInput(model: Model, where: string): Value {
  const inputs = model.graph.inputs.map(({ value }) => value).filter((value) => !value.initializer);
  const [input] = inputs;
  if (!input || inputs.length > 1)
    throw new SisyphusError(
      'usage',
      `${where}: has ${inputs.length} inputs (${inputs.map(({ name }) => name).join(', ')}), but a data set feeds exactly one`,
    );
  return input;
}

interface Batching {
  readonly model: Model;
  /** Rows that the model insists on; null for any number. */
  readonly fixed: number | null;
  readonly batching: string;
}

/** Exporters often freeze the batch to 1, which costs speed; where it is exact, the dimension is freed in memory. */
async function freeBatch(model: Model, input: Value, where: string, wanted: number | undefined): Promise<Batching> {
  const lead = input.declared?.shape?.[0];
  if (typeof lead !== 'number') return { model, fixed: null, batching: 'the batch dimension is free' };
  if (lead < 1) throw new SisyphusError('usage', `${where}: its input '${input.name}' takes ${lead} rows at a time`);
  if (lead !== 1 || wanted === 1) return { model, fixed: lead, batching: `the model takes ${lead} at a time` };
  const copy = cloneModel(model);
  const { skipped } = await setBatch.run(copy, {});
  const [refusal] = skipped;
  if (!refusal) return { model: copy, fixed: null, batching: 'batch 1 in the file, freed in memory (set-batch)' };
  return { model, fixed: 1, batching: `one at a time: ${refusal.reason}` };
}

async function* convert(
  batches: AsyncIterable<Batch>,
  plan: InputPlan,
  input: string,
  fixed: number | null,
  signal: AbortSignal | undefined,
): AsyncGenerator<FeedBatch> {
  for await (const batch of batches) {
    if (signal?.aborted) throw new SisyphusError('aborted', 'interrupted');
    const rows = fixed ?? batch.count;
    yield { feeds: new Map([[input, plan.feed(batch, rows)]]), rows, count: batch.count, labels: batch.labels };
  }
}

/** Reads the next batch while this one is used, as far as files and decoders work beside the main thread. */
async function* ahead<T>(source: AsyncGenerator<T>): AsyncGenerator<T> {
  try {
    let next = source.next();
    for (;;) {
      const { value, done } = await next;
      if (done) return;
      next = source.next();
      next.catch(() => {}); // it is awaited above, or dropped with the loop
      yield value;
    }
  } finally {
    await source.return(undefined);
  }
}
