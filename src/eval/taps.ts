/** Models whose intermediate values can be read, whole or reduced to extremes; copies, the original stays as it is. */
import { SisyphusError } from '../errors.ts';
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import { addConstant, addNode, addOutput, cloneModel } from '../graph/edit.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { elementCount, FLOAT_TYPES, makeTensor } from '../graph/tensor.ts';
import { opsetOf, readValues, topologicalOrder } from '../graph/walk.ts';
import type { FeedBatch } from './feed.ts';
import { PREPROCESSING_PREFIX } from './input.ts';
import { arrayNumbers, type NdArray, type Session } from './session.ts';
import type { NonlinearSite } from './sites.ts';
import { addExtremes, addValues, type Blocks, blocksOf, type Running } from './statistics.ts';

/** A nonlinear layer and what is known of it so far. */
export interface Watched {
  readonly site: NonlinearSite;
  readonly range: number | null;
  readonly input: Running;
  readonly output: Running;
  /** Of one row. */
  shape: readonly number[];
  nonFiniteInputs: number;
}

/** Functions that keep the order, so that extremes of the output follow from those of the input. */
const MONOTONE: ReadonlySet<string> = new Set(['relu', 'clip', 'sigmoid', 'tanh', 'hard-sigmoid', 'softplus']);
/** Its output is computed here from its input, which is cheaper than reading it; null where it is read. */
const derivation = ({ kind, f }: NonlinearSite): NonlinearSite['f'] => (MONOTONE.has(kind) ? f : null);

/** Bytes of values that one run hands over; above that the layers are read in several runs. */
const MEMORY = 2 ** 28;

const valuesOf = (watched: readonly Watched[]): Value[] => [
  ...new Set(watched.flatMap(({ site }) => (derivation(site) ? [site.input] : [site.input, site.output]))),
];

/** Bytes of a value as float32, as far as its shape is known. */
export const valueBytes = (types: Types, value: Value, rows: number): number =>
  4 * rows * elementCount((types.get(value).shape ?? []).slice(1).map((dim) => (typeof dim === 'number' ? dim : 1)));

/** Consecutive elements in groups that hold no more than can be kept at once. */
export function byMemory<T>(list: readonly T[], size: (element: T) => number): T[][] {
  const groups: T[][] = [[]];
  let held = 0;
  for (const element of list) {
    if (held > 0 && held + size(element) > MEMORY) {
      groups.push([]);
      held = 0;
    }
    groups.at(-1)?.push(element);
    held += size(element);
  }
  return groups;
}

/** The values of a copy by their names, which are unique within the main graph. */
function valuesByName(model: Model): Map<string, Value> {
  const values = new Map<string, Value>();
  for (const { value } of model.graph.inputs) values.set(value.name, value);
  for (const { outputs } of model.graph.nodes) for (const value of outputs) if (value) values.set(value.name, value);
  return values;
}

/**
 * Floating-point values of the main graph that depend on what is fed, with the nodes that make them, in order;
 * preprocessing is left out.
 */
export function observable(model: Model, types: Types): { node: Node; value: Value }[] {
  const depends = new Set<Value>(model.graph.inputs.map(({ value }) => value));
  const found: { node: Node; value: Value }[] = [];
  for (const node of topologicalOrder(model.graph)) {
    if (!readValues(node).some((value) => depends.has(value))) continue;
    for (const value of node.outputs) {
      if (!value) continue;
      depends.add(value);
      const { elem } = types.get(value);
      const ours = node.name.startsWith(PREPROCESSING_PREFIX);
      if (elem !== null && FLOAT_TYPES.has(elem) && !ours && !constantOf(model, value)) found.push({ node, value });
    }
  }
  return found;
}

/** A copy with these values of the main graph as outputs too. What is fed need not be read back and is left out. */
export function withOutputs(model: Model, types: Types, values: Iterable<Value>): Model {
  const copy = cloneModel(model);
  const own = valuesByName(copy);
  const taken = new Set(model.graph.outputs.map(({ value }) => value.name));
  for (const value of values) {
    const place = own.get(value.name);
    if (place?.producer && !taken.has(value.name)) addOutput(copy, place, { ...types.get(value), shape: null });
  }
  return copy;
}

type Open = (model: Model) => Promise<Session>;

export interface ValueTaps {
  readonly session: Session;
  /** Names of the model's own outputs. */
  readonly outputs: readonly string[];
  /** Layers that are read in one run. */
  readonly groups: readonly (readonly Watched[])[];
}

/** The model with the inputs of all layers, and their outputs where these are not computed here, as outputs. */
export async function tapValues(
  model: Model,
  types: Types,
  watched: readonly Watched[],
  rows: number,
  open: Open,
): Promise<ValueTaps> {
  const copy = withOutputs(model, types, valuesOf(watched));
  const outputs = model.graph.outputs.map(({ value }) => value.name);
  const size = (one: Watched) => valuesOf([one]).reduce((sum, value) => sum + valueBytes(types, value, rows), 0);
  const groups = byMemory(watched, size);
  return { session: await open(copy), outputs, groups };
}

/** What a whole batch showed. */
export interface FullResult {
  /** Rows with an output that is not finite. */
  readonly badOutputs: number;
  /** The first layer with a value that is not finite, by its index; Infinity for none. */
  readonly firstBad: number;
}

/** Runs a batch and takes in all values of all layers. @param sample also moments and histograms */
export async function runFull(
  { session, outputs, groups }: ValueTaps,
  batch: FeedBatch,
  sample: boolean,
): Promise<FullResult> {
  let badOutputs = 0;
  let firstBad = Number.POSITIVE_INFINITY;
  let at = 0;
  for (const [index, group] of groups.entries()) {
    const names = valuesOf(group).map(({ name }) => name);
    const results = await session.run(batch.feeds, [
      ...(index === 0 ? outputs : []),
      ...names.filter((name) => session.outputNames.includes(name)),
    ]);
    if (index === 0) badOutputs = badRows(outputs, results, batch);
    const floats = new Map<string, Float32Array>();
    for (const one of group) {
      const { site } = one;
      const array = results.get(site.input.name) ?? batch.feeds.get(site.input.name);
      if (!array) throw new SisyphusError('internal', `no values for '${site.input.name}'`);
      one.shape = array.dims.slice(1);
      const bad = new Uint8Array(batch.rows);
      const x = asFloats(floats, site.input.name, array);
      addValues(one.input, x, batchBlocks(array.dims, batch), { sample, range: one.range, bad });
      const f = derivation(site);
      const result = results.get(site.output.name);
      if (f) addValues(one.output, applied(f, x), batchBlocks(array.dims, batch), { sample, range: null, bad });
      else if (result) {
        const y = asFloats(floats, site.output.name, result);
        addValues(one.output, y, batchBlocks(result.dims, batch), { sample, range: null, bad });
      }
      const count = bad.reduce((sum, flag) => sum + flag, 0);
      one.nonFiniteInputs += count;
      if (count > 0) firstBad = Math.min(firstBad, at);
      at++;
    }
  }
  return { badOutputs, firstBad };
}

/**
 * The inputs of a batch within a tensor. Where a model merges another axis into the batch (tokens, windows), several
 * leading rows belong to one input; a tensor that has no rows for the inputs counts as one.
 */
function batchBlocks(dims: readonly number[], { rows, count }: FeedBatch): Blocks {
  const lead = dims[0] ?? 1;
  const each = lead / rows;
  return Number.isInteger(each) && each > 0
    ? blocksOf(dims, count * each, each)
    : blocksOf(dims, lead, Math.max(lead, 1));
}

let scratch = new Float32Array(0);
/** f of all values, in memory that the next call takes again. (The arrays' own `map` takes ten times as long.) */
function applied(f: (x: number) => number, values: Float32Array): Float32Array {
  if (scratch.length < values.length) scratch = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) scratch[i] = f(values[i] as number);
  return scratch.subarray(0, values.length);
}

/**
 * Extremes of outputs that are computed here: where only extremes were taken in, they follow from those of the inputs.
 * To be called at the end.
 */
export function completeOutputs(watched: readonly Watched[]): void {
  for (const { site, input, output } of watched) {
    const f = derivation(site);
    if (!f) continue;
    const channels = input.channelMin.length;
    // A channel without any finite value has none after f either.
    const image = (extremes: Float64Array) => Float32Array.from(extremes, (x) => (Number.isFinite(x) ? f(x) : x));
    addExtremes(
      output,
      { min: image(input.channelMin), max: image(input.channelMax), rows: 1, channels, each: 1 },
      null,
    );
  }
}

/** Values as float32; those beyond its range count as infinite. */
function asFloats(known: Map<string, Float32Array>, name: string, array: NdArray): Float32Array {
  const floats =
    known.get(name) ?? (array.elem === 'float' ? (array.data as Float32Array) : Float32Array.from(arrayNumbers(array)));
  known.set(name, floats);
  return floats;
}

/** How many rows have an output that is not finite. */
function badRows(outputs: readonly string[], results: ReadonlyMap<string, NdArray>, batch: FeedBatch): number {
  const bad = new Set<number>();
  for (const name of outputs) {
    const array = results.get(name);
    if (!array || array.elem === 'string') continue;
    const numbers = arrayNumbers(array);
    const perRow = (array.dims[0] ?? 1) % batch.rows === 0 ? numbers.length / batch.rows : null;
    if (perRow !== null) {
      for (let i = 0; i < batch.count * perRow; i++) if (!Number.isFinite(numbers[i])) bad.add(Math.floor(i / perRow));
      continue;
    }
    // What is not told apart by input concerns them all.
    if (!numbers.every(Number.isFinite)) for (let row = 0; row < batch.count; row++) bad.add(row);
  }
  return bad.size;
}

export interface ExtremeTaps {
  readonly session: Session;
  readonly outputs: readonly string[];
  /** Names of the outputs that hold minimum, maximum and sum by row and channel, by the value's name. */
  readonly reduced: ReadonlyMap<string, readonly [min: string, max: string, sum: string]>;
}

/**
 * The model with minimum, maximum and sum of every layer's values, by row and channel.
 * @returns null where a layer's rank or type does not allow that
 */
export async function tapExtremes(
  model: Model,
  types: Types,
  watched: readonly Watched[],
  open: Open,
): Promise<ExtremeTaps | null> {
  const copy = cloneModel(model);
  const own = valuesByName(copy);
  const outputs = model.graph.outputs.map(({ value }) => value.name);
  const reduced = new Map<string, readonly [string, string, string]>();
  for (const value of valuesOf(watched)) {
    const { elem, shape } = types.get(value);
    const place = own.get(value.name);
    if (elem !== 'float' || !shape || !place) return null;
    if (shape.length < 3) {
      // One number for each row and channel already.
      if (place.producer && !outputs.includes(value.name)) addOutput(copy, place, { elem, shape: null });
      reduced.set(value.name, [value.name, value.name, value.name]);
      continue;
    }
    const axes = shape.map((_, axis) => axis).slice(2);
    const [min, max, sum] = (['ReduceMin', 'ReduceMax', 'ReduceSum'] as const).map((op) => {
      const result = addReduction(copy, place, op, axes);
      addOutput(copy, result, { elem, shape: null });
      return result.name;
    }) as [string, string, string];
    reduced.set(value.name, [min, max, sum]);
  }
  return { session: await open(copy), outputs, reduced };
}

/** Opsets at which the axes became an input. */
const AXES_AS_INPUT = { ReduceSum: 13, ReduceMin: 18, ReduceMax: 18 };

function addReduction(model: Model, value: Value, op: keyof typeof AXES_AS_INPUT, axes: readonly number[]): Value {
  const name = `${value.name}/${op}`;
  const keepdims = intAttribute('keepdims', 0);
  const body = model.graph;
  const asInput = opsetOf(model, body) >= AXES_AS_INPUT[op];
  const inputs = asInput
    ? [value, addConstant(model, body, makeTensor(`${name}/axes`, 'int64', [axes.length], axes), null)]
    : [value];
  const attributes = asInput ? [keepdims] : [intsAttribute('axes', axes), keepdims];
  return addNode(model, body, { op, name, inputs, attributes }).outputs[0] as Value;
}

/**
 * Runs a batch and takes in the extremes of all layers.
 * @returns rows with an output that is not finite; null, and nothing is taken in, where a layer may hold such a value
 */
export async function runLight(
  { session, outputs, reduced }: ExtremeTaps,
  watched: readonly Watched[],
  batch: FeedBatch,
): Promise<number | null> {
  const results = await session.run(batch.feeds);
  const read = (name: string): Float32Array => {
    const array = results.get(name) ?? batch.feeds.get(name);
    return (array?.data ?? new Float32Array(0)) as Float32Array;
  };
  const extremesOf = (value: Value) => {
    const [min, max, sum] = reduced.get(value.name) ?? ['', '', ''];
    const sums = read(sum);
    const { rows, channels, each } = batchBlocks((results.get(min) ?? batch.feeds.get(min))?.dims ?? [0], batch);
    return { min: read(min), max: read(max), sums, rows, channels, each };
  };
  for (const value of valuesOf(watched)) {
    const { sums, rows, channels } = extremesOf(value);
    for (let i = 0; i < rows * channels; i++) if (!Number.isFinite(sums[i] as number)) return null;
  }
  for (const { site, range, input, output } of watched) {
    const before = extremesOf(site.input);
    addExtremes(input, before, range);
    if (!derivation(site)) addExtremes(output, extremesOf(site.output), null);
  }
  return badRows(outputs, results, batch);
}
