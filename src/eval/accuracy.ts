/**
 * `sisyphus eval`: accuracy as the paper counts it (Garimella, Jha, Reagen 2021, Table 2): an input whose logits are not
 * all finite counts as wrong; the accuracy over the finite inputs alone stands in parentheses. The paper's authors count
 * NaN only; here Inf, whose argmax means nothing either, counts alike, and both are reported.
 */
import { didYouMean, SisyphusError } from '../errors.ts';
import { readModel } from '../graph/read.ts';
import { writeModel } from '../graph/write.ts';
import { type Device, formatDevice, parseDevice } from './device.ts';
import { type Feed, type FeedBatch, openFeed } from './feed.ts';
import { type PreprocessingText, preprocessingText, recordPreprocessing } from './preprocessing.ts';
import { endsEarly, openModel, type RunOptions, untilAborted } from './run.ts';
import { arrayNumbers, chooseDevice, type NdArray, type Session } from './session.ts';

export interface EvalOptions extends RunOptions {
  /** The output that holds the logits. Default: the first one with a number for each class. */
  readonly logits?: string;
  /** Write the preprocessing that was used into the model's metadata, in place. */
  readonly savePreprocessing?: boolean;
}

/** Fractions in 0..1; null where there is no input to count. */
export interface Accuracy {
  /** Non-finite inputs count as wrong. */
  readonly top1: number;
  readonly top5: number;
  /** Over the finite inputs alone. */
  readonly top1Finite: number | null;
  readonly top5Finite: number | null;
  /** Inputs with a logit that is NaN or infinite, of which with a NaN, and without one but with an infinity. */
  readonly nonFinite: number;
  readonly nan: number;
  readonly inf: number;
  readonly images: number;
}

export interface EvaluatedModel extends Accuracy {
  readonly path: string;
  /** From the first batch read to the last one counted; the session is loaded before. */
  readonly imagesPerSecond: number;
  readonly seconds: number;
  readonly data: string;
  readonly split: string;
  readonly output: string;
  readonly batch: number;
  readonly batching: string;
  readonly preprocessing: PreprocessingText & { readonly source: string };
  readonly device: string;
  /** Interrupted before all inputs were seen (only with `partial`). */
  readonly partial: boolean;
}

export interface EvalReport {
  readonly models: readonly EvaluatedModel[];
  readonly device: { readonly name: string; readonly why: string };
}

/**
 * Evaluates models on one data set.
 * @throws SisyphusError for models that can't run, data that can't be read or don't fit, `aborted` without `partial`
 */
export async function evaluate(files: readonly string[], options: EvalOptions): Promise<EvalReport> {
  const { device, why } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const models = await untilAborted(files, options, (path) => evaluateOne(path, device, options));
  return { models, device: { name: formatDevice(device), why } };
}

async function evaluateOne(path: string, device: Device, options: EvalOptions): Promise<EvaluatedModel> {
  const model = readModel(path);
  const feed = await openFeed(model, path, options);
  refuseUnknownOutput(feed, options.logits);
  const session = await openModel(feed.model, path, device, options);
  try {
    const result = await accuracy(session, feed, options);
    if (options.savePreprocessing && !result.partial) {
      recordPreprocessing(model, feed.preprocessing);
      await writeModel(model, path, { force: true, ...(options.signal && { signal: options.signal }) });
    }
    const { source } = feed.preprocessing;
    const preprocessing = { ...preprocessingText(feed.preprocessing), source };
    const { batch, batching } = feed;
    const { data } = options;
    const { split } = feed.dataset;
    return { path, ...result, data, split, batch, batching, preprocessing, device: formatDevice(device) };
  } finally {
    await session.release();
  }
}

export function refuseUnknownOutput({ model, where }: Feed, wanted: string | undefined): void {
  const names = model.graph.outputs.map(({ value }) => value.name);
  if (wanted === undefined || names.includes(wanted)) return;
  throw new SisyphusError('usage', `${where}: has no output '${wanted}'${didYouMean(wanted, names)}`);
}

type Counted = Accuracy & Pick<EvaluatedModel, 'imagesPerSecond' | 'seconds' | 'output' | 'partial'>;

/** Counts over everything that the feed delivers. */
export async function accuracy(
  session: Session,
  feed: Feed,
  options: Pick<EvalOptions, 'logits' | 'partial' | 'onProgress'>,
): Promise<Counted> {
  const count = { top1: 0, top5: 0, nan: 0, inf: 0, images: 0 };
  let output = options.logits;
  let partial = false;
  const start = performance.now();
  try {
    for await (const batch of feed.batches()) {
      if (!batch.labels)
        throw new SisyphusError('data', `${feed.dataset.name}: holds no labels, which accuracy is counted by`);
      const results = await session.run(batch.feeds, output === undefined ? session.outputNames : [output]);
      output ??= findLogits(feed, batch, results);
      const logits = rowsOf(feed, batch, output, results.get(output));
      countBatch(logits, logits.length / batch.rows, batch, batch.labels, count);
      options.onProgress?.({ task: feed.where, done: count.images, total: feed.count, unit: 'images' });
    }
  } catch (error) {
    if (!endsEarly(error, options, count.images)) throw error;
    partial = true;
  }
  const seconds = (performance.now() - start) / 1000;
  const { images, nan, inf } = count;
  const finite = images - nan - inf;
  const among = (correct: number) => (finite === 0 ? null : correct / finite);
  return {
    top1: count.top1 / images,
    top5: count.top5 / images,
    top1Finite: among(count.top1),
    top5Finite: among(count.top5),
    nonFinite: nan + inf,
    nan,
    inf,
    images,
    imagesPerSecond: images / seconds,
    seconds,
    output: output ?? '',
    partial,
  };
}

/** The first output with one number for each class and row. */
export function findLogits(feed: Feed, batch: FeedBatch, results: ReadonlyMap<string, NdArray>): string {
  const { classes } = feed.dataset;
  const perRow = ({ elem, data }: NdArray) => (elem === 'string' ? Number.NaN : data.length / batch.rows);
  for (const [name, array] of results)
    if (array.dims[0] === batch.rows && perRow(array) >= 2 && perRow(array) === classes) return name;
  // npz files tell only the largest label that occurs, so a model may know more classes.
  const [single] = [...results].filter(([, array]) => array.dims[0] === batch.rows && perRow(array) >= (classes ?? 2));
  if (feed.dataset.name === 'npz' && single) return single[0];
  const shapes = [...results].map(([name, { dims }]) => `'${name}' [${dims.join(',')}]`).join(', ');
  throw new SisyphusError(
    'usage',
    `${feed.where}: no output has ${classes ?? 'a number of'} classes for ${batch.rows} rows (${shapes}): it is no classifier of ${feed.dataset.name}, or its batch can't grow (--batch 1)`,
  );
}

/** The logits of a batch as numbers, row after row. @throws SisyphusError where the output has no row per input */
export function rowsOf(feed: Feed, batch: FeedBatch, name: string, array: NdArray | undefined): ArrayLike<number> {
  if (!array) throw new SisyphusError('usage', `${feed.where}: has no output '${name}'`);
  const perRow = array.data.length / batch.rows;
  if (array.elem === 'string' || array.dims[0] !== batch.rows || !Number.isInteger(perRow) || perRow < 2)
    throw new SisyphusError(
      'usage',
      `${feed.where}: its output '${name}' [${array.dims.join(',')}] has no row of logits for each of ${batch.rows} inputs`,
    );
  return array.elem === 'float' ? (array.data as Float32Array) : arrayNumbers(array);
}

/** One batch: the rank of the right class among the logits; equal logits rank by index, as argmax does. */
function countBatch(
  logits: ArrayLike<number>,
  classes: number,
  batch: FeedBatch,
  labels: Int32Array,
  count: { top1: number; top5: number; nan: number; inf: number; images: number },
): void {
  for (let row = 0; row < batch.count; row++) {
    const label = labels[row] as number;
    const start = row * classes;
    if (label >= classes)
      throw new SisyphusError('data', `the data hold the class ${label}, but the model has only ${classes} classes`);
    const own = logits[start + label] as number;
    let [nan, inf, rank] = [false, false, 0];
    for (let c = 0; c < classes; c++) {
      const value = logits[start + c] as number;
      if (Number.isNaN(value)) nan = true;
      else if (value === Infinity || value === -Infinity) inf = true;
      else if (value > own || (value === own && c < label)) rank++;
    }
    count.images++;
    if (nan) count.nan++;
    else if (inf) count.inf++;
    else {
      if (rank < 1) count.top1++;
      if (rank < 5) count.top5++;
    }
  }
}
