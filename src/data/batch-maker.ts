/**
 * One training batch out of rows in memory: which rows, their augmentation, arithmetic and layout. The same code runs in
 * worker threads and in the thread of the caller.
 */
import { makeRng } from '../rng.ts';
import { type Augmentation, drawMaps } from './augment.ts';
import type { TrainingBatch } from './training-batches.ts';

/** All that batches are made of: plain data, and shared memory that nobody writes to any more. */
export interface BatchSource {
  /** One row after the other, `channels` x `height` x `width` numbers each; a row that is no image is 1 x 1 x its size. */
  readonly rows: Uint8Array | Float32Array;
  /** The rows are already as batches want them. */
  readonly finished: boolean;
  /** One for each row. */
  readonly labels: Int32Array;
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  /** How far channels and pixels of a row lie apart, in `rows` and in batches. */
  readonly stored: Strides;
  readonly wanted: Strides;
  /** y = factor[channel] * x + offset[channel], in float32 as the nodes of eval/input.ts compute it. */
  readonly factor: Float32Array;
  readonly offset: Float32Array;
  readonly augment: readonly Augmentation[];
  readonly shuffle: boolean;
  /** Rows in a batch. */
  readonly batch: number;
  readonly seed: number;
}

export interface Strides {
  readonly channel: number;
  readonly pixel: number;
}

/** Batch `step` of an epoch; depends on nothing but `source` and these two numbers. */
export function batchMaker(source: BatchSource): (epoch: number, step: number) => TrainingBatch {
  const { labels, channels, height, width, augment, shuffle, batch, seed } = source;
  const size = channels * height * width;
  const draw = drawMaps(augment, height, width);
  let current: { epoch: number; key: number; order: Int32Array } | null = null;
  return (epoch, step) => {
    if (epoch !== current?.epoch) {
      const key = epochKey(seed, epoch);
      current = { epoch, key, order: orderOf(labels.length, shuffle ? key : null) };
    }
    const { key, order } = current;
    const chosen = order.subarray(step * batch, (step + 1) * batch);
    const x = new Float32Array(chosen.length * size);
    for (let i = 0; i < chosen.length; i++) {
      const row = chosen[i] as number;
      // A stream of each row's own: what it becomes does not depend on its place in the epoch.
      const map = augment.length > 0 ? draw(makeRng(key + 1 + row)) : null;
      writeRow(source, row, map, x, i * size);
    }
    return { step, count: chosen.length, x, labels: Int32Array.from(chosen, (row) => labels[row] as number) };
  };
}

/** A seed that leaves room for those of all rows behind it. */
const epochKey = (seed: number, epoch: number) => makeRng(makeRng(seed).int(2 ** 52) + epoch).int(2 ** 52);

/** The rows from 0 to count - 1, shuffled (Fisher and Yates) where there is a seed. */
function orderOf(count: number, seed: number | null): Int32Array {
  const order = Int32Array.from({ length: count }, (_, i) => i);
  if (seed === null) return order;
  const rng = makeRng(seed);
  for (let i = count - 1; i > 0; i--) {
    const j = rng.int(i + 1);
    const kept = order[i] as number;
    order[i] = order[j] as number;
    order[j] = kept;
  }
  return order;
}

/**
 * The same batches for less: without augmentation each row is the same in every epoch, and is computed once, here.
 * @param rows memory for all rows
 */
export function finishRows(source: BatchSource, rows: Float32Array): BatchSource {
  const { labels, channels, height, width } = source;
  for (let row = 0; row < labels.length; row++) writeRow(source, row, null, rows, row * channels * height * width);
  return { ...source, rows, finished: true };
}

/** Writes a row to `x[to…]`. Without a map all pixels stay in their places. */
function writeRow(source: BatchSource, row: number, map: Int32Array | null, x: Float32Array, to: number): void {
  const { rows, finished, channels, stored, wanted } = source;
  const plane = source.height * source.width;
  const first = row * channels * plane;
  if (finished) {
    x.set(rows.subarray(first, first + channels * plane), to);
    return;
  }
  for (let c = 0; c < channels; c++) {
    const [factor, offset] = [source.factor[c] as number, source.offset[c] as number];
    const from = first + c * stored.channel;
    const at = to + c * wanted.channel;
    if (map) writeMapped(rows, from, stored.pixel, map, factor, offset, x, at, wanted.pixel);
    else writeChannel(rows, from, stored.pixel, plane, factor, offset, x, at, wanted.pixel);
  }
}

// Functions of their own, with nothing but numbers and arrays: in one with the loop over channels, V8 (11.3) takes half as
// long again. A table of the 256 results instead of the product and the sum is slower too.

function writeChannel(
  rows: BatchSource['rows'],
  from: number,
  fromStep: number,
  count: number,
  factor: number,
  offset: number,
  x: Float32Array,
  to: number,
  toStep: number,
): void {
  for (let i = 0; i < count; i++, from += fromStep, to += toStep)
    x[to] = Math.fround((rows[from] as number) * factor) + offset;
}

function writeMapped(
  rows: BatchSource['rows'],
  from: number,
  fromStep: number,
  map: Int32Array,
  factor: number,
  offset: number,
  x: Float32Array,
  to: number,
  toStep: number,
): void {
  for (let i = 0; i < map.length; i++, to += toStep) {
    const pixel = map[i] as number; // below 0: black
    x[to] = pixel < 0 ? offset : Math.fround((rows[from + pixel * fromStep] as number) * factor) + offset;
  }
}
