/**
 * Training batches: shuffled, augmented and normalised in worker threads while the thread that trains computes. It asks
 * for several batches ahead, so that a worker that has made one goes on with the next while the trainer is busy.
 */
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { SisyphusError } from '../errors.ts';
import type { OnProgress } from '../progress.ts';
import { type Augmentation, formatAugment } from './augment.ts';
import { type BatchSource, batchMaker, finishRows, type Strides } from './batch-maker.ts';
import type { Dataset, Layout, Selection } from './dataset.ts';
import { affineOf, type Normalize } from './normalize.ts';
import { makeSelection } from './open.ts';
import { throwIfAborted } from './records.ts';
import type { BatchRequest } from './training-worker.ts';

export interface TrainingBatch {
  /** Within the epoch, from 0. */
  readonly step: number;
  /** Rows; the last batch of an epoch may have fewer than the others. */
  readonly count: number;
  /** [count, ...row], normalised, in the layout asked for. Not reused: the consumer may keep it. */
  readonly x: Float32Array;
  /** [count] */
  readonly labels: Int32Array;
}

export interface TrainingData {
  readonly rows: number;
  readonly classes: number;
  readonly stepsPerEpoch: number;
  /**
   * The batches of one epoch from step `from` on. Each row occurs once, in an order that depends on (seed, epoch) alone;
   * what augmentation makes of it depends on (seed, epoch, row) alone.
   * @throws SisyphusError `usage` for an epoch or step that cannot be, `aborted` after the signal or `close`, `internal`
   * where a worker fails
   */
  epoch(epoch: number, from?: number): AsyncGenerator<TrainingBatch>;
  /** Ends the workers; also where batches are still being waited for. */
  close(): Promise<void>;
}

export interface TrainingDataOptions {
  /** Rows in a batch. */
  readonly batch: number;
  readonly seed: number;
  readonly augment: readonly Augmentation[];
  readonly normalize: Normalize;
  readonly layout: Layout;
  /** Default: true. */
  readonly shuffle?: boolean;
  /** How many rows at most: a random choice that depends on `seed`. */
  readonly limit?: number;
  /** Threads that make batches. Default 1; 0: the thread of the caller. */
  readonly workers?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
}

const MAX_BYTES = 8e9;
/** Up to here, rows that nothing augments are kept normalised, at four bytes a number: MNIST is, CIFAR is not. */
const MAX_FINISHED_BYTES = 2 ** 28;
const MAX_WORKERS = 64;

/**
 * Reads all rows into memory that the workers share; pixels stay bytes.
 * @throws SisyphusError `usage` for options that don't fit the data, `data` for data without labels or rows, `too-large`
 * for data that don't fit into memory, and whatever reading throws
 */
export async function openTrainingData(dataset: Dataset, options: TrainingDataOptions): Promise<TrainingData> {
  const { batch, seed, augment, shuffle = true, workers = 1, signal } = options;
  checkWhole('a batch', batch, 1, 2 ** 31 - 1);
  checkWhole('a seed', seed, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  checkWhole('workers', workers, 0, MAX_WORKERS);
  const arrangement = arrange(dataset, options);
  const { rows, labels, classes } = await readRows(dataset, options);
  const unfinished = { ...arrangement, rows, finished: false, labels, augment, shuffle, batch, seed };
  const source =
    augment.length === 0 && 4 * rows.length <= MAX_FINISHED_BYTES
      ? finishRows(unfinished, new Float32Array(new SharedArrayBuffer(4 * rows.length)))
      : unfinished;
  const stepsPerEpoch = Math.ceil(labels.length / batch);

  let closed = false;
  const makers = workers === 0 ? [inThisThread(source)] : Array.from({ length: workers }, () => startWorker(source));
  const make = (epoch: number, step: number) => (makers[step % makers.length] as Maker).make({ epoch, step });
  // One batch at the consumer, two finished or in the making for each worker.
  const ahead = 1 + 2 * workers;
  return {
    rows: labels.length,
    classes,
    stepsPerEpoch,
    async *epoch(epoch, from = 0) {
      checkWhole('an epoch', epoch, 0, 2 ** 32);
      checkWhole('the first step', from, 0, stepsPerEpoch);
      const queue: Promise<TrainingBatch>[] = [];
      for (let step = from; step < stepsPerEpoch; step++) {
        throwIfAborted(signal);
        if (closed) throw closedError();
        while (queue.length < Math.min(ahead, stepsPerEpoch - step)) {
          const next = make(epoch, step + queue.length);
          next.catch(() => {}); // it is awaited below, or dropped with the loop
          queue.push(next);
        }
        yield await (queue.shift() as Promise<TrainingBatch>);
      }
    },
    async close() {
      closed = true;
      await Promise.all(makers.map((maker) => maker.close()));
    },
  };
}

const closedError = () => new SisyphusError('aborted', 'the training data were closed');

/** @throws SisyphusError `usage` */
function checkWhole(what: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max)
    throw new SisyphusError('usage', `training data: ${what} of ${value}; give a whole number from ${min} to ${max}`);
}

/** Sizes, layouts and arithmetic. @throws SisyphusError `usage` */
function arrange(dataset: Dataset, { augment, layout, normalize }: TrainingDataOptions) {
  const { name, shape } = dataset;
  // As in eval/input.ts: rows with three dimensions have channels, and those that are not interleaved are planar.
  const image = shape.length === 3;
  const stored = dataset.layout === 'hwc';
  const [a = 1, b = 1, c = 1] = shape;
  const [channels, height, width] = !image ? [1, 1, sizeOf(shape)] : stored ? [c, a, b] : [a, b, c];
  if (augment.length > 0 && (!image || dataset.layout === 'plain'))
    throw new SisyphusError(
      'usage',
      `--augment ${formatAugment(augment)}: the rows of ${name} are [${shape.join(',')}], not images; give --augment none`,
    );
  if (layout === 'nhwc' && !image)
    throw new SisyphusError('usage', `--layout nhwc: the rows of ${name} are [${shape.join(',')}], not images`);
  for (const [key, list] of Object.entries({ mean: normalize.mean, std: normalize.std }))
    if (list.length > 1 && list.length !== channels)
      throw new SisyphusError(
        'usage',
        `--normalize: ${key} has ${list.length} numbers, but the rows of ${name} have ${channels} channel${channels === 1 ? '' : 's'}`,
      );
  const strides = (interleaved: boolean): Strides =>
    interleaved ? { channel: 1, pixel: channels } : { channel: height * width, pixel: 1 };
  const { factor, offset } = affineOf(normalize, channels, dataset.elem !== 'float');
  return {
    channels,
    height,
    width,
    stored: strides(stored),
    wanted: strides(layout === 'nhwc'),
    factor: Float32Array.from(factor),
    offset: Float32Array.from(offset),
  };
}

const sizeOf = (shape: readonly number[]) => shape.reduce((product, dim) => product * dim, 1);

/** All rows that training uses, in shared memory. */
async function readRows(dataset: Dataset, options: TrainingDataOptions) {
  const { name, elem, classes } = dataset;
  const { signal, onProgress } = options;
  if (classes === null) throw new SisyphusError('data', `${name}: has no labels, which training needs`);
  const select = makeSelection(dataset.length, options);
  const count = 'count' in select ? select.count : select.indices.length;
  if (count === 0) throw new SisyphusError('data', `${name}: there are no rows to train on`);
  const size = sizeOf(dataset.shape);
  const rows = sharedRows(name, count, size, elem === 'uint8');
  const labels = new Int32Array(new SharedArrayBuffer(4 * count));
  let done = 0;
  for await (const batch of dataset.batches(reading(select, size, signal))) {
    rows.set(batch.rows, done * size);
    labels.set(batch.labels ?? [], done);
    done += batch.count;
    onProgress?.({ task: `reading ${name}`, done, total: count, unit: 'rows' });
  }
  throwIfAborted(signal);
  return { rows, labels, classes };
}

const reading = (select: Selection, size: number, signal: AbortSignal | undefined) => ({
  size: Math.max(1, Math.floor(2 ** 21 / size)),
  select,
  ...(signal && { signal }),
});

/** @throws SisyphusError `too-large` */
function sharedRows(name: string, count: number, size: number, bytes: boolean): Uint8Array | Float32Array {
  const total = count * size * (bytes ? 1 : 4);
  const refuse = (cause?: unknown) =>
    new SisyphusError(
      'too-large',
      `${name}: ${count} rows take ${(total / 1e9).toFixed(1)} GB, and training keeps them all in memory (at most ${MAX_BYTES / 1e9} GB); give --limit, or smaller images`,
      { cause },
    );
  if (total > MAX_BYTES) throw refuse();
  try {
    const memory = new SharedArrayBuffer(total);
    return bytes ? new Uint8Array(memory) : new Float32Array(memory);
  } catch (cause) {
    throw refuse(cause);
  }
}

interface Maker {
  make(request: BatchRequest): Promise<TrainingBatch>;
  close(): Promise<void>;
}

function inThisThread(source: BatchSource): Maker {
  const make = batchMaker(source);
  return { make: async ({ epoch, step }) => make(epoch, step), close: async () => {} };
}

/** A thread of `training-worker.ts`; batches come in the order in which they are asked for. */
function startWorker(source: BatchSource): Maker {
  const worker = openWorker(source);
  worker.unref(); // but for the time in which something is waited for
  const waiting: { resolve: (batch: TrainingBatch) => void; reject: (error: SisyphusError) => void }[] = [];
  let failure: SisyphusError | null = null;
  const fail = (error: SisyphusError) => {
    failure ??= error;
    for (const { reject } of waiting.splice(0)) reject(failure);
  };
  const failed = (why: string, cause?: unknown) =>
    fail(new SisyphusError('internal', `the worker that makes training batches ${why}`, { cause }));
  worker.on('message', (batch: TrainingBatch) => {
    waiting.shift()?.resolve(batch);
    if (waiting.length === 0) worker.unref();
  });
  worker.on('error', (cause) => failed(`failed: ${cause instanceof Error ? cause.message : String(cause)}`, cause));
  worker.on('exit', (code) => failed(`ended with code ${code}`));
  return {
    make: (request) =>
      new Promise((resolve, reject) => {
        if (failure) return reject(failure);
        waiting.push({ resolve, reject });
        worker.ref();
        worker.postMessage(request);
      }),
    async close() {
      fail(closedError());
      await worker.terminate();
    },
  };
}

function openWorker(workerData: BatchSource): Worker {
  const extension = path.extname(import.meta.url);
  const file = new URL(`./training-worker${extension}`, import.meta.url);
  // The caller's own flags (`--import`, `--cpu-prof`, …) do not concern it.
  if (extension !== '.ts') return new Worker(file, { workerData, execArgv: [] });
  // From sources, without a build: tsx translates. Node 20 takes `--import tsx` too late for a worker's first file.
  const load = (module: string) => `import(${JSON.stringify(module)})`;
  const start = `${load(import.meta.resolve('tsx/esm/api'))}.then((tsx) => (tsx.register(), ${load(file.href)}))`;
  return new Worker(start, { eval: true, workerData, execArgv: [] });
}
