import { execFile } from 'node:child_process';
import path from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import type { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { parseAugment } from '../../src/data/augment.ts';
import type { Dataset, Layout } from '../../src/data/dataset.ts';
import { parseNormalize } from '../../src/data/normalize.ts';
import { openDataset } from '../../src/data/open.ts';
import { openTrainingData, type TrainingBatch, type TrainingDataOptions } from '../../src/data/training-batches.ts';
import { planInput } from '../../src/eval/input.ts';
import { arrayNumbers } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import type { ProgressEvent } from '../../src/progress.ts';
import { makeRng } from '../../src/rng.ts';
import { npyData, testFolder } from '../support/arrays.ts';
import { sharedData, sharedDataMissing } from '../support/data.ts';
import { failure, readAll } from '../support/datasets.ts';
import { runModel } from '../support/numeric.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
const base = {
  batch: 32,
  seed: 5,
  augment: [],
  normalize: parseNormalize('raw'),
  layout: 'nchw',
  workers: 0,
} satisfies TrainingDataOptions;

const open: (() => Promise<void>)[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((close) => close()));
});

/** Closed after the test. */
async function openData(dataset: Dataset, options: Partial<TrainingDataOptions> = {}) {
  const data = await openTrainingData(dataset, { ...base, ...options });
  open.push(data.close);
  return data;
}

const synthetic = (shape = '3x8x8') => openDataset(`synthetic:${shape}`, { split: 'test' });

async function collect(batches: AsyncIterable<TrainingBatch>): Promise<TrainingBatch[]> {
  const all: TrainingBatch[] = [];
  for await (const batch of batches) all.push(batch);
  return all;
}

/** For comparisons; vitest's own of typed arrays takes seconds. */
const textOf = (batches: readonly TrainingBatch[]): string[] =>
  batches.map(({ step, count, x, labels }) => `${step}, ${count} rows: ${labels}; ${x}`);

/** Whole epochs as lists of rows, which do not show where batches begin. */
const rowsOf = (batches: readonly TrainingBatch[]): string[] =>
  batches.flatMap(({ x, labels, count }) => {
    const size = x.length / count;
    return Array.from(labels, (label, i) => `${label}: ${x.subarray(i * size, (i + 1) * size)}`);
  });

describe('an epoch', () => {
  it('has every row once, in an order of its own, and keeps the last batch', async () => {
    const dataset = await synthetic();
    const stored = await readAll(dataset);
    const expected = stored.rows.map((row, i) => `${stored.labels?.[i]}: ${row}`).sort();
    const data = await openData(dataset, { batch: 300 });
    expect(data).toMatchObject({ rows: 4_000, classes: 10, stepsPerEpoch: 14 });
    const epochs = [];
    for (const epoch of [0, 1, 17]) {
      const batches = await collect(data.epoch(epoch));
      expect(batches.map(({ step }) => step)).toEqual(Array.from({ length: 14 }, (_, i) => i));
      expect(batches.map(({ count }) => count)).toEqual([...Array(13).fill(300), 100]);
      for (const { x, labels, count } of batches) expect([x.length, labels.length]).toEqual([count * 192, count]);
      const rows = rowsOf(batches);
      expect([...rows].sort()).toEqual(expected);
      epochs.push(rows);
    }
    expect(epochs[1]).not.toEqual(epochs[0]);
    expect(epochs[2]).not.toEqual(epochs[1]);
    expect(rowsOf(await collect(data.epoch(0)))).toEqual(epochs[0]);
    const again = await openData(dataset, { batch: 77 });
    expect(rowsOf(await collect(again.epoch(17)))).toEqual(epochs[2]); // whatever the batch
    const other = await openData(dataset, { batch: 300, seed: 6 });
    expect(rowsOf(await collect(other.epoch(0)))).not.toEqual(epochs[0]);
  });

  it('puts every row in every place equally often', async () => {
    const data = await openData(await synthetic('1x8x8'), { limit: 6, batch: 6 });
    const identify = new Map(rowsOf(await collect(data.epoch(0))).map((row, i) => [row, i]));
    const counts: number[] = Array(36).fill(0);
    const times = 3_000;
    for (let epoch = 0; epoch < times; epoch++)
      for (const [place, row] of rowsOf(await collect(data.epoch(epoch))).entries()) {
        const at = 6 * place + (identify.get(row) ?? Number.NaN);
        counts[at] = (counts[at] ?? 0) + 1;
      }
    const deviation = Math.sqrt((times * 5) / 36);
    for (const count of counts) expect(Math.abs(count - times / 6)).toBeLessThan(5 * deviation);
  });

  it('keeps the order of the files without shuffling', async () => {
    const dataset = await synthetic();
    const stored = await readAll(dataset);
    const data = await openData(dataset, { shuffle: false });
    const rows = rowsOf(await collect(data.epoch(3)));
    expect(rows).toEqual(stored.rows.map((row, i) => `${stored.labels?.[i]}: ${row}`));
  });

  it('takes a random choice of `limit` rows, the same in every epoch', async () => {
    const dataset = await synthetic();
    const data = await openData(dataset, { limit: 50 });
    expect(data).toMatchObject({ rows: 50, stepsPerEpoch: 2 });
    const rows = rowsOf(await collect(data.epoch(0))).sort();
    expect(new Set(rows).size).toBe(50);
    expect(rowsOf(await collect(data.epoch(1))).sort()).toEqual(rows);
    const other = await openData(dataset, { limit: 50, seed: 6 });
    expect(rowsOf(await collect(other.epoch(0))).sort()).not.toEqual(rows);
  });
});

describe('the numbers of a batch', () => {
  const rng = makeRng(1);
  const bytes = (length: number) => Uint8Array.from({ length }, () => rng.int(256));
  const floats = (length: number) => Float32Array.from({ length }, () => rng.normal());
  const labels = Array.from({ length: 10 }, (_, i) => i % 3);
  const means = 'mean=0.4914,0.4822,0.4465,std=0.247,0.2435,0.2616';
  const cases: [name: string, dims: number[], rows: Uint8Array | Float32Array, layout: Layout, normalize: string][] = [
    ['planar bytes', [3, 6, 5], bytes(900), 'nchw', means],
    ['planar bytes, wanted interleaved', [3, 6, 5], bytes(900), 'nhwc', means],
    ['interleaved bytes', [6, 5, 3], bytes(900), 'nhwc', means],
    ['interleaved bytes, wanted planar', [6, 5, 3], bytes(900), 'nchw', means],
    ['interleaved bytes, wanted flat', [6, 5, 3], bytes(900), 'flat', means],
    ['bytes as they are', [6, 5], bytes(300), 'nchw', 'raw'],
    ['bytes, one channel', [6, 5], bytes(300), 'flat', 'mnist'],
    ['planar floats', [3, 6, 5], floats(900), 'nchw', means],
    ['interleaved floats, wanted planar', [6, 5, 3], floats(900), 'nchw', means],
    ['features', [7], floats(70), 'flat', 'mean=0.3,std=1.7'],
    ['volumes', [2, 6, 5, 3], floats(1800), 'flat', 'scale=0.1,mean=0.3'],
  ];

  it.each(cases)('are those that `eval` feeds: %s', async (name, dims, rows, layout, text) => {
    const dataset = await openDataset(npyData(folder, name, [10, ...dims], rows, labels), {});
    const normalize = parseNormalize(text);
    const flat = [rows.length / 10];
    const [channels = 1, height = 1, width = 1] =
      dataset.layout === 'hwc' ? [2, 0, 1].map((i) => dataset.shape[i] ?? 1) : dataset.shape;
    const shape = layout === 'flat' ? flat : layout === 'nhwc' ? [height, width, channels] : [channels, height, width];
    const g = buildModel({ name: 'identity', opset: 17 });
    g.output(g.node('Identity', [g.input('x', 'float', ['N', ...shape])]), 'y', 'float', ['N', ...shape]);
    const type = { elem: 'float', shape: [null, ...shape] } as const;
    const plan = planInput({ dataset, input: 'x', type, normalize, layout, where: 'identity' });
    const input = plan.attach(g.model);
    const expected: number[] = [];
    for await (const batch of dataset.batches({ size: 4 })) {
      const result = (await runModel(g.model, new Map([[input, plan.feed(batch, batch.count)]]))).get('y');
      expected.push(...(result ? arrayNumbers(result) : []));
    }
    const options = { layout, normalize, shuffle: false, batch: 4 };
    const found = await collect((await openData(dataset, options)).epoch(0));
    expect(found.flatMap(({ x }) => [...x])).toEqual(expected);
    expect(found.flatMap(({ labels }) => [...labels])).toEqual(labels);
    if (dims.length === 1 || dims.length === 4) return;
    // The way of augmented rows, with an augmentation that leaves them as they are.
    const mapped = await openData(dataset, { ...options, augment: parseAugment('flip=0') });
    expect((await collect(mapped.epoch(0))).flatMap(({ x }) => [...x])).toEqual(expected);
  });

  it.each(['nchw', 'nhwc'] as const)('are those of an augmented image, %s', async (layout) => {
    const dataset = await synthetic('3x9x10');
    const stored = (await readAll(dataset, { select: { count: 4_000 } })).rows;
    const normalize = parseNormalize(means);
    const options = { layout, normalize, augment: parseAugment('crop=2,flip'), shuffle: false };
    const data = await openData(dataset, options);
    const [epoch, next] = [await collect(data.epoch(0)), await collect(data.epoch(1))];
    let [flips, same] = [0, 0];
    for (let row = 0; row < 200; row++) {
      const ways = variants(stored[row] ?? [], layout).map(String);
      const way = ways.indexOf(String([...values(epoch, row)]));
      expect(way).toBeGreaterThanOrEqual(0);
      flips += way % 2;
      if (String(values(next, row)) === ways[way]) same++;
    }
    expect(Math.abs(flips - 100)).toBeLessThan(5 * Math.sqrt(50));
    expect(same).toBeLessThan(4 + 5 * Math.sqrt(4)); // of 200, where each has 50 ways

    function values(batches: readonly TrainingBatch[], row: number): Float32Array {
      const batch = batches[Math.floor(row / 32)];
      return batch?.x.subarray((row % 32) * 270, ((row % 32) + 1) * 270) ?? new Float32Array();
    }

    /** Every crop, as it is and mirrored, by turns. */
    function variants(pixels: readonly number[], layout: Layout): number[][] {
      const { mean, std } = normalize;
      const all: number[][] = [];
      for (let down = -2; down <= 2; down++)
        for (let right = -2; right <= 2; right++)
          for (const mirrored of [false, true]) {
            const image: number[] = Array(270);
            for (let c = 0; c < 3; c++) {
              const factor = Math.fround(1 / 255 / (std[c] as number));
              const offset = Math.fround(-(mean[c] as number) / (std[c] as number));
              for (let y = 0; y < 9; y++)
                for (let x = 0; x < 10; x++) {
                  const [fromY, fromX] = [y + down, (mirrored ? 9 - x : x) + right];
                  const inside = fromY >= 0 && fromY < 9 && fromX >= 0 && fromX < 10;
                  const value = inside ? (pixels[90 * c + 10 * fromY + fromX] as number) : 0;
                  const at = layout === 'nchw' ? 90 * c + 10 * y + x : 3 * (10 * y + x) + c;
                  image[at] = Math.fround(Math.fround(value * factor) + offset);
                }
            }
            all.push(image);
          }
      return all;
    }
  });

  it('do not depend on shuffling or on the batch where they are augmented', async () => {
    const dataset = await synthetic();
    const augment = parseAugment('rotate,crop,flip');
    const [plain, shuffled, other] = await Promise.all([
      openData(dataset, { augment, shuffle: false }),
      openData(dataset, { augment, batch: 7 }),
      openData(dataset, { augment, seed: 6, shuffle: false }),
    ]);
    const rows = rowsOf(await collect(plain.epoch(2)));
    expect(rowsOf(await collect(shuffled.epoch(2))).sort()).toEqual([...rows].sort());
    expect(rowsOf(await collect(other.epoch(2)))).not.toEqual(rows);
  });
});

describe('workers', () => {
  it('give what this thread gives, also from a later step on', async () => {
    const dataset = await synthetic();
    const options = { augment: parseAugment('rotate,crop,flip'), limit: 500 };
    const here = await openData(dataset, options);
    const others = await Promise.all([1, 2].map((workers) => openData(dataset, { ...options, workers })));
    for (const epoch of [0, 3]) {
      const expected = await collect(here.epoch(epoch));
      expect(expected.map(({ count }) => count)).toEqual([...Array(15).fill(32), 20]);
      for (const data of [here, ...others])
        for (const from of [0, 1, 10, 15, 16])
          expect(textOf(await collect(data.epoch(epoch, from)))).toEqual(textOf(expected.slice(from)));
    }
  });

  it('serve several epochs at once, and a new one after one that was left', async () => {
    const data = await openData(await synthetic(), { workers: 2, limit: 400 });
    const expected = textOf(await collect(data.epoch(0)));
    for (let taken = 0; taken < 4; taken++) {
      let seen = 0;
      for await (const batch of data.epoch(1)) {
        expect(batch.step).toBe(seen);
        if (seen++ === taken) break;
      }
      expect(textOf(await collect(data.epoch(0)))).toEqual(expected);
    }
    const epochs = [data.epoch(0), data.epoch(1), data.epoch(0, 2)].map(async (epoch) => textOf(await collect(epoch)));
    const [first, second, later] = await Promise.all(epochs);
    expect(first).toEqual(expected);
    expect(second).toEqual(textOf(await collect(data.epoch(1))));
    expect(later).toEqual(expected.slice(2));
  });

  it('work ahead while this thread is busy', async () => {
    const data = await openData(await synthetic(), { workers: 1, batch: 400, augment: parseAugment('rotate') });
    const batches = data.epoch(0);
    await batches.next();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_000); // as long as a synchronous run takes
    for (let i = 0; i < 2; i++) {
      // A batch that has to be made first takes milliseconds, in which this loop turns thousands of times.
      let arrived = false;
      const next = batches.next().then(() => {
        arrived = true;
      });
      for (let turns = 0; turns < 20 && !arrived; turns++) await setImmediate();
      expect(arrived).toBe(true);
      await next;
    }
    await batches.return(undefined);
  });

  it('that end unasked are an error for whoever waits, at once and later', async () => {
    const started: Worker[] = [];
    const onWorker = (worker: Worker) => void started.push(worker);
    process.on('worker', onWorker);
    try {
      for (const end of [
        (worker: Worker) => worker.terminate(),
        async (worker: Worker) => worker.postMessage(null), // which is no request
      ]) {
        started.length = 0;
        const data = await openData(await synthetic(), { workers: 1 });
        const batches = data.epoch(0);
        await batches.next();
        expect(started).toHaveLength(1);
        await end(started[0] as Worker);
        const rest = await failure(() => collect(batches));
        expect(rest).toMatch(/^internal: the worker that makes training batches (ended with code 1|failed: .*null)/);
        expect(await failure(() => collect(data.epoch(1)))).toBe(rest);
        await data.close();
      }
    } finally {
      process.off('worker', onWorker);
    }
  });

  it('end with close, which those who wait learn', async () => {
    for (const workers of [0, 1]) {
      const data = await openData(await synthetic(), { workers });
      const batches = data.epoch(0);
      await batches.next();
      const waiting = failure(() => collect(batches));
      await data.close();
      expect(await waiting).toBe('aborted: the training data were closed');
      expect(await failure(() => data.epoch(1).next())).toBe('aborted: the training data were closed');
      await data.close();
    }
  });

  it('neither hold up the end of a process nor let it end while a batch is waited for', async () => {
    const url = (file: string) => JSON.stringify(pathToFileURL(path.join(REPOSITORY, 'src/data', file)).href);
    const script = `
      import { openDataset } from ${url('open.ts')};
      import { openTrainingData } from ${url('training-batches.ts')};
      const dataset = await openDataset('synthetic:3x8x8', {});
      const options = { batch: 50, seed: 1, augment: [], normalize: { scale: 1, mean: [], std: [] }, layout: 'nchw' };
      const data = await openTrainingData(dataset, { ...options, workers: 2 });
      let rows = 0;
      for await (const { count } of data.epoch(0)) rows += count;
      for await (const { count } of data.epoch(1)) { rows += count; if (rows > 4100) break; }
      console.log(rows);`;
    const tsx = pathToFileURL(path.join(REPOSITORY, 'node_modules/tsx/dist/loader.mjs')).href;
    const args = ['--import', tsx, '--input-type=module', '--eval', script];
    // In a folder where no package is found by its name.
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: folder, timeout: 30_000 });
    expect(stdout.trim()).toBe('4150');
  });
});

describe('openTrainingData', () => {
  it('tells how far it has read', async () => {
    const events: ProgressEvent[] = [];
    const spec = npyData(folder, 'big', [1_200, 64, 64], new Uint8Array(1_200 * 64 * 64), Array(1_200).fill(0));
    await openData(await openDataset(spec, {}), { limit: 1_100, onProgress: (event) => events.push(event) });
    expect(events.length).toBeGreaterThan(1);
    expect(events.map(({ done }) => done)).toEqual(events.map(({ done }) => done).sort((a, b) => a - b));
    expect(events.at(-1)).toEqual({ task: 'reading npz', done: 1_100, total: 1_100, unit: 'rows' });
  });

  it('stops at the signal', async () => {
    const dataset = await synthetic();
    expect(await failure(() => openData(dataset, { signal: AbortSignal.abort() }))).toBe('aborted: interrupted');
    for (const workers of [0, 1]) {
      const controller = new AbortController();
      const data = await openData(dataset, { workers, signal: controller.signal });
      let batches = 0;
      const reading = async () => {
        for await (const _ of data.epoch(0)) if (++batches === 2) controller.abort();
      };
      expect(await failure(reading)).toBe('aborted: interrupted');
      expect(batches).toBe(2);
    }
  });

  it('refuses what does not fit', async () => {
    const dataset = await synthetic();
    const refusal = (options: Partial<TrainingDataOptions>, data = dataset) => failure(() => openData(data, options));
    for (const batch of [0, -1, 1.5, Number.NaN])
      expect(await failure(() => openData(dataset, { batch }).catch(withoutNaN))).toMatch(/^usage: .* a batch of /);
    expect(await refusal({ workers: -1 })).toMatch(/^usage: .*workers of -1; give a whole number from 0 to 64$/);
    expect(await refusal({ seed: 0.5 })).toMatch(/^usage: .*a seed of 0\.5; give a whole number/);
    expect(await refusal({ limit: -1 })).toMatch(/^usage: a limit of -1 rows/);
    expect(await refusal({ limit: 0 })).toBe('data: synthetic: there are no rows to train on');
    expect(await refusal({ normalize: parseNormalize('mean=1,2') })).toBe(
      'usage: --normalize: mean has 2 numbers, but the rows of synthetic have 3 channels',
    );
    expect(await refusal({}, { ...dataset, length: 100_000_000 })).toMatch(
      /^too-large: synthetic: 100000000 rows take 19\.2 GB, .* \(at most 8 GB\); give --limit/,
    );
    const features = await openDataset(npyData(folder, 'x', [4, 5], new Float32Array(20), [0, 1, 0, 1]), {});
    const augment = parseAugment('crop,flip');
    expect(await refusal({ augment }, features)).toMatch(
      /^usage: --augment crop,flip: the rows of npz are \[5\], not images; give --augment none$/,
    );
    expect(await refusal({ layout: 'nhwc' }, features)).toMatch(
      /^usage: --layout nhwc: the rows of npz are \[5\], not/,
    );
    const unlabelled = await openDataset(npyData(folder, 'u', [4, 5], new Float32Array(20)), {});
    expect(await refusal({}, unlabelled)).toBe('data: npz: has no labels, which training needs');
    const data = await openData(dataset);
    expect(await failure(() => data.epoch(-1).next())).toMatch(/^usage: .*an epoch of -1/);
    expect(await failure(() => data.epoch(0, 126).next())).toMatch(
      /^usage: .*the first step of 126; .* from 0 to 125$/,
    );
    expect(await collect(data.epoch(0, 125))).toEqual([]);
  });
});

describe.skipIf(sharedDataMissing)('real data', () => {
  it.each([
    ['mnist', 60_000, 469, 96, 'none'],
    ['cifar10', 50_000, 391, 80, 'crop,flip'],
  ] as const)('%s: %i rows, %i steps, the last with %i, --augment %s', async (name, rows, steps, last, augment) => {
    const dataset = await openDataset(`${name}:${path.join(sharedData(name), name)}`, { split: 'train' });
    const options = { batch: 128, normalize: parseNormalize(name), augment: parseAugment(augment), workers: 1 };
    const data = await openData(dataset, options);
    expect(data).toMatchObject({ rows, classes: 10, stepsPerEpoch: steps });
    const histogram: number[] = Array(10).fill(0);
    let [sum, squares, numbers, count] = [0, 0, 0, 0];
    for await (const { x, labels } of data.epoch(0)) {
      count = labels.length;
      for (const label of labels) histogram[label] = (histogram[label] ?? 0) + 1;
      if (augment !== 'none') continue;
      for (const value of x) {
        sum += value;
        squares += value * value;
      }
      numbers += x.length;
    }
    expect(count).toBe(last);
    // Counts of the classes in the training set (LeCun et al.; Krizhevsky, 2009).
    const published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949];
    expect(histogram).toEqual(name === 'mnist' ? published : Array(10).fill(5_000));
    if (augment !== 'none') return;
    // The normalisation is made for these rows; it is published with three or four digits.
    expect(Math.abs(sum / numbers)).toBeLessThan(2e-3);
    expect(Math.abs(squares / numbers - 1)).toBeLessThan(1e-2);
  });
});

/** Messages of refusals may name what was given. */
function withoutNaN(error: Error): never {
  error.message = error.message.replace('NaN', 'nothing');
  throw error;
}
