/** What a polynomial network lost against the one that it was made from, and how far its inputs may drift. */
import type { CalibrationOptions } from '../eval/calibration.ts';
import { parseDevice } from '../eval/device.ts';
import { openFeed } from '../eval/feed.ts';
import { logitsOf } from '../eval/logits.ts';
import { openPart } from '../eval/parts.ts';
import { chooseDevice, type NdArray } from '../eval/session.ts';
import type { Model, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { makeRng } from '../rng.ts';
import { anyRows } from './walk.ts';

/** What is done to the model's input: noise in units of each image's standard deviation; contrast, about its mean. */
export type Drift =
  | { readonly kind: 'none' }
  | { readonly kind: 'noise'; readonly amount: number }
  | { readonly kind: 'contrast'; readonly amount: number };

export interface Verified {
  readonly drift: Drift;
  readonly images: number;
  /** By the labels, not finite ones counting as wrong; null without labels. Fractions in 0..1. */
  readonly accuracy: number | null;
  readonly teacherAccuracy: number | null;
  /** Images with the same largest logit as in the teacher, all logits finite. */
  readonly agreement: number;
  /** Images with a logit that is not finite. */
  readonly nonFinite: number;
  /** Those, and images with a logit beyond `ESCAPED`, and beyond ten times the teacher's largest. */
  readonly escaped: number;
}

/** Logits of this magnitude are none of a classifier that works, unless the teacher's come within a tenth of them. */
export const ESCAPED = 1e3;

/**
 * Runs both networks on the same images, once for each drift.
 * @param teacher and @param student with the same input and the same logits
 */
export async function verify(
  teacher: Model,
  student: Model,
  where: string,
  options: Omit<CalibrationOptions, 'partial'>,
  drifts: readonly Drift[] = [{ kind: 'none' }],
): Promise<Verified[]> {
  const { threads, signal, onProgress } = options;
  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const feed = await openFeed(teacher, where, options);
  const name = teacher.graph.inputs.map(({ value }) => value).find(({ initializer }) => !initializer)?.name as string;
  const fed = feed.model.graph.inputs.find(({ value }) => !value.initializer)?.value.name as string;
  const part = { device, threads, name: where };
  const open = async (model: Model) => {
    const free = await anyRows(model);
    const logits = logitsOf(free.graph.outputs[0]?.value as Value, inferTypes(free)).name;
    return { logits, part: await openPart(free, [name], [logits], part) };
  };
  const prepare = await openPart(feed.model, [fed], [name], part);
  const [own, wanted] = [await open(student), await open(teacher)];
  const counts = drifts.map(() => ({ right: 0, teacherRight: 0, same: 0, nonFinite: 0, escaped: 0 }));
  let [images, labelled] = [0, true];
  try {
    for await (const { feeds, count, rows, labels } of feed.batches()) {
      signal?.throwIfAborted();
      const x = (await prepare.run(feeds)).get(name) as NdArray;
      labelled &&= labels !== null;
      for (const [d, drift] of drifts.entries()) {
        const input = new Map([[name, drifted(x, drift, images)]]);
        const [logits, goal] = [
          (await own.part.run(input)).get(own.logits) as NdArray,
          (await wanted.part.run(input)).get(wanted.logits) as NdArray,
        ];
        const tally = counts[d] as (typeof counts)[number];
        const classes = logits.data.length / rows;
        for (let row = 0; row < count; row++) {
          const [mine, theirs] = [best(logits, row, classes), best(goal, row, classes)];
          if (mine.at < 0) tally.nonFinite++;
          if (mine.at < 0 || mine.largest > Math.max(ESCAPED, 10 * theirs.largest)) tally.escaped++;
          if (mine.at >= 0 && mine.at === theirs.at) tally.same++;
          if (mine.at >= 0 && mine.at === labels?.[row]) tally.right++;
          if (theirs.at === labels?.[row]) tally.teacherRight++;
        }
      }
      images += count;
      onProgress?.({ task: 'verify', done: images, total: feed.count, unit: 'images' });
    }
  } finally {
    for (const each of [prepare, own.part, wanted.part]) await each.release();
  }
  return drifts.map((drift, d) => {
    const { right, teacherRight, same, nonFinite, escaped } = counts[d] as (typeof counts)[number];
    return {
      drift,
      images,
      accuracy: labelled ? right / images : null,
      teacherAccuracy: labelled ? teacherRight / images : null,
      agreement: same / images,
      nonFinite,
      escaped,
    };
  });
}

/** The largest logit of a row, -1 where one is not finite; and the largest magnitude. */
function best({ data }: NdArray, row: number, classes: number): { at: number; largest: number } {
  const values = (data as Float32Array).subarray(row * classes, (row + 1) * classes);
  let [at, largest] = [0, 0];
  for (const [i, value] of values.entries()) {
    if (!Number.isFinite(value)) return { at: -1, largest: Number.POSITIVE_INFINITY };
    if (value > (values[at] as number)) at = i;
    largest = Math.max(largest, Math.abs(value));
  }
  return { at, largest };
}

/** @param first number of the first row, so that noise does not depend on the batches */
function drifted(x: NdArray, drift: Drift, first: number): NdArray {
  if (drift.kind === 'none') return x;
  const from = x.data as Float32Array;
  const rows = x.dims[0] ?? 1;
  const size = from.length / rows;
  const data = new Float32Array(from.length);
  for (let row = 0; row < rows; row++) {
    const rng = makeRng(2 ** 33 + first + row);
    let [sum, squares] = [0, 0];
    for (let i = row * size; i < (row + 1) * size; i++) {
      sum += from[i] as number;
      squares += (from[i] as number) ** 2;
    }
    const mean = sum / size;
    const std = Math.sqrt(Math.max(0, squares / size - mean ** 2));
    for (let i = row * size; i < (row + 1) * size; i++)
      data[i] =
        drift.kind === 'noise'
          ? (from[i] as number) + drift.amount * std * rng.normal()
          : mean + drift.amount * ((from[i] as number) - mean);
  }
  return { ...x, data };
}
