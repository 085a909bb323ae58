/** `sisyphus compare`: how far apart two models are on the same inputs, at their outputs and layer by layer. */
import { SisyphusError } from '../errors.ts';
import type { Value } from '../graph/ir.ts';
import { readModel } from '../graph/read.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { formatDevice, parseDevice } from './device.ts';
import { type Feed, type FeedBatch, openFeed, samplePlan } from './feed.ts';
import { endsEarly, openModel, type RunOptions } from './run.ts';
import { arrayNumbers, chooseDevice, type NdArray, type Session } from './session.ts';
import { byMemory, observable, valueBytes, withOutputs } from './taps.ts';

export interface CompareOptions extends RunOptions {
  /** A layer has diverged where the rms of the difference exceeds this share of the first model's rms. Default 1e-3. */
  readonly tolerance?: number;
  /** How many inputs layers are compared on, at least; outputs are on all. Default 256. */
  readonly sample?: number;
}

/** Differences of one tensor, over all its finite pairs of values. */
export interface Difference {
  readonly maxAbs: number;
  readonly meanAbs: number;
  /** rms of the difference over rms of the first model's values; null where those are all 0. */
  readonly relative: number | null;
  /** Largest magnitude in the first model. */
  readonly scale: number;
  /** Values that are finite in only one of the two. */
  readonly finiteInOne: number;
  readonly values: number;
}

export interface ComparedLayer extends Difference {
  /** Of the value, which has the same name in both models. */
  readonly name: string;
  /** Operators that make it in the first and in the second model. */
  readonly ops: readonly [string, string];
}

export interface CompareReport {
  readonly models: readonly [string, string];
  readonly images: number;
  readonly sampled: number;
  readonly seconds: number;
  readonly data: string;
  readonly split: string;
  readonly device: string;
  readonly partial: boolean;
  /** The output that is compared, by its name in each model. */
  readonly outputs: readonly [string, string];
  readonly output: Difference;
  /** It is beyond the tolerance, or finite in only one of the two somewhere. */
  readonly outputDiverges: boolean;
  /** Share of inputs with the same argmax; an input with a non-finite output in either model does not agree. */
  readonly agreement: number;
  /** Inputs with a non-finite output: in each model, and in both. */
  readonly nonFinite: readonly [number, number];
  readonly nonFiniteInBoth: number;
  /** In the order of the first model. */
  readonly layers: readonly ComparedLayer[];
  /** Layers that can't be compared: no namesake in the other model, or another shape there. */
  readonly unmatched: number;
  readonly tolerance: number;
  /** The first layer beyond the tolerance. */
  readonly firstDiverging: ComparedLayer | null;
}

const DEFAULT_TOLERANCE = 1e-3;
const DEFAULT_SAMPLE = 256;

/**
 * Runs both models on the same inputs.
 * @throws SisyphusError as `evaluate` does, and `usage` where the outputs have different shapes
 */
export async function compare(first: string, second: string, options: CompareOptions): Promise<CompareReport> {
  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const [a, b] = await openBoth(first, second, options);
  const { pairs, unmatched } = pairLayers(a, b);
  const open = (feed: Feed, which: 0 | 1) => {
    const { model, where } = feed;
    const values = pairs.map((pair) => pair.values[which]);
    return openModel(withOutputs(model, inferTypes(model), values), where, device, options);
  };
  const types = inferTypes(a.model);
  const sessionA = await open(a, 0);
  let sessionB: Session | null = null;
  const other = b.batches();
  const start = performance.now();
  const outputs = startOutputs(a, b);
  let sampled = 0;
  let partial = false;
  try {
    sessionB = await open(b, 1);
    const isSampled = samplePlan(a, options.sample ?? DEFAULT_SAMPLE).isSampled;
    let index = 0;
    for await (const batchA of a.batches()) {
      const { value: batchB } = await other.next();
      if (!batchB) throw new SisyphusError('internal', 'the two models were fed differently');
      await compareOutputs(outputs, [sessionA, sessionB], [batchA, batchB]);
      if (isSampled(index++)) {
        await compareLayers(pairs, [sessionA, sessionB], [batchA, batchB], types);
        sampled += batchA.count;
      }
      options.onProgress?.({ task: `${first} and ${second}`, done: outputs.images, total: a.count, unit: 'images' });
    }
  } catch (error) {
    if (!endsEarly(error, options, outputs.images)) throw error;
    partial = true;
  } finally {
    await other.return(undefined);
    await sessionA.release();
    await sessionB?.release();
  }
  const { tolerance = DEFAULT_TOLERANCE } = options;
  const output = finish(outputs.sums);
  const layers = pairs.filter(({ sums }) => sums.values > 0).map(finishLayer);
  return {
    models: [first, second],
    images: outputs.images,
    sampled,
    seconds: (performance.now() - start) / 1000,
    data: options.data,
    split: a.dataset.split,
    device: formatDevice(device),
    partial,
    outputs: outputs.names,
    output,
    outputDiverges: diverges(output, tolerance),
    agreement: outputs.agreeing / outputs.images,
    nonFinite: outputs.nonFinite,
    nonFiniteInBoth: outputs.nonFiniteInBoth,
    layers,
    unmatched: unmatched + pairs.length - layers.length,
    tolerance,
    firstDiverging: layers.find((layer) => diverges(layer, tolerance)) ?? null,
  };
}

/** Beyond the tolerance, or finite in only one of the two. */
const diverges = ({ finiteInOne, relative, maxAbs }: Difference, tolerance: number): boolean =>
  finiteInOne > 0 || (relative === null ? maxAbs > 0 : relative > tolerance);

/** Both models get the same rows at once, as many as the choosier of them takes. */
async function openBoth(first: string, second: string, options: CompareOptions): Promise<[Feed, Feed]> {
  const openOne = (path: string, fill?: number) => openFeed(readModel(path), path, options, fill);
  let [a, b] = [await openOne(first), await openOne(second)];
  if (a.batch !== b.batch) {
    if (a.fixed === null) a = await openOne(first, b.batch);
    else b = await openOne(second, a.batch);
  }
  if (a.batch !== b.batch)
    throw new SisyphusError('usage', `${first} takes ${a.batch} inputs at a time and ${second} ${b.batch}`);
  return [a, b];
}

interface Sums {
  maxAbs: number;
  sumAbs: number;
  squares: number;
  reference: number;
  scale: number;
  finiteInOne: number;
  /** Pairs that are finite in both. */
  finite: number;
  values: number;
}
const startSums = (): Sums => ({
  maxAbs: 0,
  sumAbs: 0,
  squares: 0,
  reference: 0,
  scale: 0,
  finiteInOne: 0,
  finite: 0,
  values: 0,
});

function addDifferences(sums: Sums, a: ArrayLike<number>, b: ArrayLike<number>, length: number): void {
  let { maxAbs, sumAbs, squares, reference, scale, finiteInOne, finite } = sums;
  for (let i = 0; i < length; i++) {
    const x = a[i] as number;
    const difference = Math.abs(x - (b[i] as number));
    if (!Number.isFinite(difference)) {
      // Both infinite or NaN is no difference that could be measured.
      if (Number.isFinite(x) !== Number.isFinite(b[i])) finiteInOne++;
      continue;
    }
    finite++;
    const size = Math.abs(x);
    if (difference > maxAbs) maxAbs = difference;
    if (size > scale) scale = size;
    sumAbs += difference;
    squares += difference * difference;
    reference += size * size;
  }
  const values = sums.values + length;
  Object.assign(sums, { maxAbs, sumAbs, squares, reference, scale, finiteInOne, finite, values });
}

function finish({ maxAbs, sumAbs, squares, reference, scale, finiteInOne, finite, values }: Sums): Difference {
  const relative = reference > 0 ? Math.sqrt(squares / reference) : squares > 0 ? null : 0;
  return { maxAbs, meanAbs: finite > 0 ? sumAbs / finite : 0, relative, scale, finiteInOne, values };
}

interface Outputs {
  readonly names: [string, string];
  readonly sums: Sums;
  readonly nonFinite: [number, number];
  images: number;
  agreeing: number;
  nonFiniteInBoth: number;
}

/** The outputs that are compared: namesakes where there are, else the first one of each model. */
function startOutputs(a: Feed, b: Feed): Outputs {
  const names = (feed: Feed) => feed.model.graph.outputs.map(({ value }) => value.name);
  const [inA, inB] = [names(a), names(b)];
  const common = inA.find((name) => inB.includes(name));
  const sums = startSums();
  return {
    names: [common ?? inA[0] ?? '', common ?? inB[0] ?? ''],
    sums,
    nonFinite: [0, 0],
    images: 0,
    agreeing: 0,
    nonFiniteInBoth: 0,
  };
}

type Both<T> = readonly [T, T];

async function compareOutputs(outputs: Outputs, [a, b]: Both<Session>, [batchA, batchB]: Both<FeedBatch>) {
  const [nameA, nameB] = outputs.names;
  const found = [
    (await a.run(batchA.feeds, [nameA])).get(nameA),
    (await b.run(batchB.feeds, [nameB])).get(nameB),
  ] as const;
  const [left, right] = found;
  if (!left || !right || left.elem === 'string' || right.elem === 'string' || `${left.dims}` !== `${right.dims}`)
    throw new SisyphusError(
      'usage',
      `the outputs '${nameA}' [${left?.dims}] and '${nameB}' [${right?.dims}] can't be compared: their shapes differ`,
    );
  const [x, y] = [numbersOf(left), numbersOf(right)];
  const perRow = x.length / batchA.rows;
  if ((left.dims[0] ?? 1) % batchA.rows !== 0)
    throw new SisyphusError(
      'usage',
      `the outputs '${nameA}' and '${nameB}' [${left.dims}] have no row for each of ${batchA.rows} inputs`,
    );
  addDifferences(outputs.sums, x, y, Math.round(perRow * batchA.count));
  for (let row = 0; row < batchA.count; row++) {
    const [p, q] = [best(x, row * perRow, perRow), best(y, row * perRow, perRow)];
    if (p === null) outputs.nonFinite[0]++;
    if (q === null) outputs.nonFinite[1]++;
    if (p === null && q === null) outputs.nonFiniteInBoth++;
    if (p !== null && p === q) outputs.agreeing++;
  }
  outputs.images += batchA.count;
}

/** The index of the largest of a row of values; null where one is not finite. */
function best(values: ArrayLike<number>, start: number, length: number): number | null {
  let at = 0;
  for (let i = 0; i < length; i++) {
    const value = values[start + i] as number;
    if (!Number.isFinite(value)) return null;
    if (value > (values[start + at] as number)) at = i;
  }
  return at;
}

const numbersOf = (array: NdArray): ArrayLike<number> =>
  array.elem === 'float' ? (array.data as Float32Array) : arrayNumbers(array);

interface Pair {
  readonly name: string;
  readonly ops: readonly [string, string];
  readonly values: Both<Value>;
  readonly sums: Sums;
}

/** Intermediate floating-point values that have a namesake in the other model. */
function pairLayers(a: Feed, b: Feed): { pairs: Pair[]; unmatched: number } {
  const others = new Map(observable(b.model, inferTypes(b.model)).map((one) => [one.value.name, one]));
  const own = observable(a.model, inferTypes(a.model));
  const pairs = own.flatMap(({ node, value }): Pair[] => {
    const other = others.get(value.name);
    if (!other) return [];
    return [{ name: value.name, ops: [node.op, other.node.op], values: [value, other.value], sums: startSums() }];
  });
  return { pairs, unmatched: own.length - pairs.length };
}

async function compareLayers(
  pairs: readonly Pair[],
  [a, b]: Both<Session>,
  [batchA, batchB]: Both<FeedBatch>,
  types: Types,
): Promise<void> {
  // The values of both models are held at once.
  for (const group of byMemory(pairs, ({ values }) => 2 * valueBytes(types, values[0], batchA.rows))) {
    const names = group.map(({ name }) => name);
    if (names.length === 0) continue; // onnxruntime takes that for an error
    const [left, right] = [await a.run(batchA.feeds, names), await b.run(batchB.feeds, names)];
    for (const { name, sums } of group) {
      const [x, y] = [left.get(name), right.get(name)];
      if (!x || !y || `${x.dims}` !== `${y.dims}`) continue;
      const rows = (x.dims[0] ?? 1) % batchA.rows === 0 ? batchA.count / batchA.rows : 1;
      addDifferences(sums, numbersOf(x), numbersOf(y), Math.round(x.data.length * rows));
    }
  }
}

const finishLayer = ({ name, ops, sums }: Pair): ComparedLayer => ({ name, ops, ...finish(sums) });
