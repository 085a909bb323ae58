/**
 * One walk through the graph from input to logits, teacher and student side by side. At each linear layer behind a
 * replaced activation the weights are fitted anew, at each activation its polynomial, both from the values that the student
 * has there and the teacher's. Only the values at the frontier are kept, so each layer runs once, and a fit's statistics
 * are sums over blocks of rows.
 */
import { SisyphusError } from '../errors.ts';
import { type Kept, keepRows, through } from '../eval/kept-rows.ts';
import { openPart, type PartOptions, type Values } from '../eval/parts.ts';
import type { Budget, RowStore } from '../eval/row-store.ts';
import { cloneModel } from '../graph/edit.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { topologicalOrder } from '../graph/walk.ts';
import { type ActivationSite, findActivations } from '../passes/activation-sites.ts';
import { recordChannelRanges, recordRanges } from '../passes/ranges.ts';
import { runReplaceActivation } from '../passes/replace-activation.ts';
import { setBatch } from '../passes/set-batch.ts';
import type { Activation } from '../poly/activations.ts';
import { powers } from '../poly/polynomial.ts';
import type { OnProgress } from '../progress.ts';
import { makeRng, type Rng } from '../rng.ts';
import {
  addBlock,
  applyPolynomials,
  type ChannelFit,
  clamp,
  emptyMoments,
  fitChannels,
  largest,
  type TailGuard,
} from './channels.ts';
import {
  addToLayer,
  biasOf,
  type LinearGroup,
  type LinearLayer,
  linearGroups,
  takesBias,
  weightsOf,
} from './layers.ts';
import { addRows, emptyNormal, type Fit, type Normal, type Products, ridge } from './least-squares.ts';
import { type Block, choosePositions, gatherFeatures, gatherOutputs, type Places, placesOf } from './rows.ts';

export const LINEAR = ['none', 'affine', 'mix', 'ridge'] as const;
/** How the layer before an activation is fitted anew, see `docs/refit.md`. */
export type LinearRefit = (typeof LINEAR)[number];

/** How one site is treated. */
export interface SiteRecipe {
  readonly degree: number;
  /** Largest magnitudes that the student's values count with, in multiples of the teacher's by channel. */
  readonly clamp: number;
  readonly tail: TailGuard | null;
}

export interface WalkSettings {
  readonly linear: LinearRefit;
  readonly perChannel: boolean;
  /** Of the ridge, in multiples of the mean square of the features. */
  readonly lambda: number;
  /** Rows (places in images) that a linear layer is fitted on, at most. */
  readonly rows: number;
  readonly seed: number;
}

/** A fit that was made. Errors are root mean squares relative to that of the teacher's values. */
export type FitRecord = LinearRecord | ActivationRecord;
export interface LinearRecord {
  readonly kind: 'linear';
  /** The layers that were fitted, which meet in one sum. */
  readonly name: string;
  readonly how: LinearRefit;
  /** Of the sum, against the teacher's: as the weights were, and as they are now. */
  readonly before: number;
  readonly after: number;
  readonly rows: number;
}
export interface ActivationRecord {
  readonly kind: 'activation';
  readonly name: string;
  readonly activation: string;
  readonly degree: number;
  /** Of the polynomials' values against what the teacher's activation gives. */
  readonly error: number;
  /** Of the powers of x, constant first; one list, or one for each channel. */
  readonly coefficients: readonly (readonly number[])[];
  /** Largest magnitude that was measured before it, which the polynomials are made for. */
  readonly range: number;
  /** The student's largest magnitude in multiples of the teacher's, of the worst channel; before it was bounded. */
  readonly drift: number;
}

export interface Walk {
  /** As it was, for any number of rows where that can be. */
  readonly teacher: Model;
  /** Becomes the result, in place. */
  readonly student: Model;
  readonly where: string;
  readonly input: string;
  /** Rows that the model insists on. */
  readonly fixed: number | null;
  /** The model's input. */
  readonly images: RowStore;
  readonly logits: string;
  readonly sites: ReadonlyMap<string, SiteRecipe>;
  readonly settings: WalkSettings;
  readonly budget: Budget;
  readonly products: Products;
  readonly part: PartOptions;
  /** What was done already, in a session before this one; the student has it. */
  readonly done: readonly FitRecord[];
  /** After each step. */
  readonly onFit: (record: FitRecord, index: number, total: number) => Promise<void>;
  readonly onNote: (note: string) => void;
  readonly onProgress?: OnProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What is done at a place of the graph; values by name, because the student's nodes change. */
interface Step {
  readonly kind: 'linear' | 'activation';
  readonly name: string;
  /** What is fitted to the teacher's value of the same name. */
  readonly target: string;
  /** What the student's statistics are of, besides the target. */
  readonly reads: readonly string[];
  readonly site: ActivationSite | null;
}

/** Features above which weights are not fitted one by one: the Gram matrix would take minutes to solve. */
const MOST_FEATURES = 2305;

export async function walk(job: Walk): Promise<FitRecord[]> {
  const steps = stepsOf(job);
  const records = [...job.done];
  const own = new Map<string, RowStore>([[job.input, job.images]]);
  const wanted = new Map<string, RowStore>([[job.input, job.images]]);
  for (const [index, step] of steps.entries()) {
    job.signal?.throwIfAborted();
    const task = `${index + 1}/${steps.length} ${step.name}`;
    job.onProgress?.({ task: 'refit', done: index, total: steps.length, unit: 'layers', note: step.name });
    const rng = makeRng(job.settings.seed * 2 ** 20 + index);
    const model = await anyRows(job.student);
    const done = records[index];
    const place = { job, model, own, wanted, task };
    await advance(place, 'own', step.kind === 'linear' ? [...step.reads, step.target] : step.reads);
    const work = () =>
      step.kind === 'linear' ? linearStep(place, step, rng, done) : activationStep(place, step, done);
    const record = await work().catch((error) => {
      if (!(error instanceof SisyphusError && error.code === 'data')) throw error;
      throw new SisyphusError(
        'data',
        `${job.where}: '${step.name}': ${error.message}; a smaller --clamp or a higher degree before it may help`,
        { cause: error },
      );
    });
    if (!done) {
      records[index] = record;
      await job.onFit(record, index, steps.length);
    }
    const later = steps.slice(index + 1);
    const needs = [...later.flatMap(({ target, reads }) => [target, ...reads]), job.logits];
    drop(own, job.student, needs, job.images);
    drop(wanted, job.teacher, needs, job.images);
  }
  job.onProgress?.({ task: 'refit', done: steps.length, total: steps.length, unit: 'layers' });
  for (const chain of [own, wanted]) for (const store of chain.values()) if (store !== job.images) store.close();
  return records;
}

/** The activations to replace and the linear layers behind the first of them, in an order in which they can be fitted. */
function stepsOf({ teacher, student, sites, settings, onNote }: Walk): Step[] {
  const order = topologicalOrder(teacher.graph);
  const place = new Map(order.map((node, i) => [node, i]));
  const at = (value: Value) => place.get(value.producer as Node) ?? -1;
  const found = findActivations(teacher, inferTypes(teacher)).sites.filter(({ name }) => sites.has(name));
  const replaced = new Set<Value>(found.map(({ output }) => output));
  const differs = new Set<Value>();
  const own = new Map(student.graph.nodes.flatMap(({ op, outputs }) => outputs.map((value) => [value?.name, op])));
  for (const { op, inputs, outputs } of order) {
    const other = own.get(outputs[0]?.name) ?? op;
    // A polynomial has taken its place already, in a session before.
    const hit =
      (other !== op && !found.some(({ output }) => output === outputs[0])) ||
      inputs.some((value) => value && (differs.has(value) || replaced.has(value)));
    for (const value of outputs) if (value && hit) differs.add(value);
  }
  const steps: { at: number; step: Step }[] = found.map((site) => ({
    at: at(site.output),
    step: { kind: 'activation', name: site.name, target: site.output.name, reads: [site.input.name], site },
  }));
  if (settings.linear !== 'none')
    for (const { target, layers } of linearGroups(teacher)) {
      const behind = layers.filter(({ input }) => differs.has(input) || replaced.has(input));
      if (behind.length === 0) continue;
      const name = behind.map((layer) => layer.name).join(' + ');
      const how = howOf(behind, settings.linear);
      if (how !== settings.linear) onNote(`${name}: ${how} in place of ${settings.linear}, for its size`);
      const reads = behind.map(({ input, output }) => (how === 'ridge' ? input : output).name);
      steps.push({ at: at(target), step: { kind: 'linear', name, target: target.name, reads, site: null } });
    }
  return steps.sort((a, b) => a.at - b.at).map(({ step }) => step);
}

/** As asked for, as far as the layers' sizes allow. */
function howOf(layers: readonly LinearLayer[], asked: LinearRefit): LinearRefit {
  const features = layers.reduce((sum, layer) => sum + layer.features, 0);
  const outputs = layers.reduce((sum, layer) => sum + layer.outputs, 0);
  const how = asked === 'ridge' && features > MOST_FEATURES ? 'mix' : asked;
  return how === 'mix' && (layers.some(({ groups }) => groups > 1) || outputs > MOST_FEATURES) ? 'affine' : how;
}

interface Place {
  readonly job: Walk;
  /** The student as it is, for any number of rows. */
  readonly model: Model;
  /** Values of the student, and of the teacher. */
  readonly own: Map<string, RowStore>;
  readonly wanted: Map<string, RowStore>;
  readonly task: string;
}

/** A copy that takes any number of rows at once, where that can be. */
export async function anyRows(model: Model): Promise<Model> {
  const copy = cloneModel(model);
  await setBatch.run(copy, {});
  return copy;
}

/** Computes values from those that are kept, and keeps them too. */
async function advance(place: Place, side: 'own' | 'wanted', names: readonly string[]): Promise<void> {
  const { job, model, task } = place;
  const kept = place[side];
  const missing = [...new Set(names)].filter((name) => !kept.has(name));
  if (missing.length === 0) return;
  const part = await openPart(side === 'own' ? model : job.teacher, [...kept.keys()], missing, job.part);
  try {
    const { rows } = job.images;
    const who = side === 'own' ? 'student' : 'teacher';
    const tell = (done: number) => job.onProgress?.({ task: `${task}: ${who}`, done, total: rows, unit: 'images' });
    const made = await keepRows(
      whole(through(part, kept as Kept, job.signal, job.fixed ?? undefined)),
      rows,
      job.budget,
      tell,
    );
    if (!made)
      throw new SisyphusError(
        'unsupported',
        `${job.where}: ${missing.join(', ')} of ${rows} images take more memory than there is; give fewer --images, or a larger --cache-memory or --cache-disk`,
      );
    for (const [name, store] of made) kept.set(name, store);
  } finally {
    await part.release();
  }
}

/** Values of which each row belongs to one image. */
async function* whole(blocks: AsyncIterable<Values>): AsyncGenerator<Values> {
  for await (const values of blocks) {
    const counts = new Set([...values.values()].map(({ dims }) => dims[0]));
    for (const [name, { elem, dims }] of values)
      if (elem !== 'float' || counts.size > 1)
        throw new SisyphusError(
          'unsupported',
          `'${name}' is ${elem} [${dims}], and refitting takes float values with a row for each image; leave the activations behind it out with --skip`,
        );
    yield values;
  }
}

/** Closes what nothing that comes later reads. */
function drop(kept: Map<string, RowStore>, model: Model, wanted: readonly string[], images: RowStore): void {
  const values = new Map<string, Value>();
  for (const { value } of model.graph.inputs) values.set(value.name, value);
  for (const { outputs } of model.graph.nodes) for (const value of outputs) if (value) values.set(value.name, value);
  const needed = new Set<string>();
  const seen = new Set<Value>();
  const queue = wanted.flatMap((name) => values.get(name) ?? []);
  for (let value = queue.pop(); value; value = queue.pop()) {
    if (seen.has(value)) continue;
    seen.add(value);
    if (kept.has(value.name)) needed.add(value.name);
    else queue.push(...(value.producer?.inputs ?? []).filter((input) => input !== null));
  }
  for (const [name, store] of kept) {
    if (needed.has(name)) continue;
    kept.delete(name);
    if (store !== images) store.close();
  }
}

/** Blocks of rows, one after the other. */
function* blocksOf(stores: readonly RowStore[], size: number): Generator<{ at: number; blocks: Block[] }> {
  const rows = stores[0]?.rows ?? 0;
  for (let at = 0; at < rows; at += size) {
    const count = Math.min(size, rows - at);
    yield { at, blocks: stores.map(({ shape, slice }) => ({ shape, data: slice(at, count) })) };
  }
}

const ROWS_AT_ONCE = 32;

async function activationStep(place: Place, step: Step, done: FitRecord | undefined): Promise<ActivationRecord> {
  const { job, own, wanted, task } = place;
  const site = step.site as ActivationSite;
  const { degree, clamp: margin, tail } = job.sites.get(site.name) as SiteRecipe;
  const [input] = step.reads as [string];
  await advance(place, 'wanted', [input, step.target]);
  const x = own.get(input) as RowStore;
  const [before, after] = [wanted.get(input) as RowStore, wanted.get(step.target) as RowStore];
  const places = placesOf(x.shape, x.shape.length > 1);
  // Two axes may be time and channels as well as channels and time.
  const perChannel = job.settings.perChannel && x.shape.length !== 2;
  const [teachers, students] = [new Float64Array(places.channels), new Float64Array(places.channels)];
  for (const { blocks } of blocksOf([before], ROWS_AT_ONCE)) largest(places, blocks[0] as Block, teachers);
  for (const { blocks } of blocksOf([x], ROWS_AT_ONCE)) largest(places, blocks[0] as Block, students);
  const layer = teachers.reduce((a, b) => Math.max(a, b), 0);
  const drift = students.reduce((most, value, c) => Math.max(most, value / ((teachers[c] as number) || layer || 1)), 0);
  const limits = teachers.map((limit) => margin * limit);
  const reach = limits.map((limit, c) => Math.min(limit, students[c] as number));
  let record = done as ActivationRecord | undefined;
  if (!record) {
    const moments = emptyMoments(degree, reach, tail);
    let seen = 0;
    for (const { at, blocks } of blocksOf([x, after], ROWS_AT_ONCE)) {
      job.signal?.throwIfAborted();
      const [student, teacher] = blocks as [Block, Block];
      const bounded = Float32Array.from(student.data);
      clamp(places, bounded, limits);
      addBlock(moments, places, bounded, teacher.data);
      seen = at + ROWS_AT_ONCE;
      job.onProgress?.({ task: `${task}: fit`, done: Math.min(seen, x.rows), total: x.rows, unit: 'images' });
    }
    const activations: readonly Activation[] = site.activations;
    const fit: ChannelFit = fitChannels(moments, { degree, perChannel, tail, activations });
    record = {
      kind: 'activation',
      name: site.name,
      activation: activations[0]?.label ?? '',
      degree,
      error: fit.error,
      coefficients: fit.coefficients,
      range: reach.reduce((a, b) => Math.max(a, b), 0),
      drift,
    };
    replace(job, record, reach);
  }
  // What the student has from here on, within the bounds.
  const result = job.budget.open(x.rows, x.shape);
  if (!result)
    throw new SisyphusError('unsupported', `${job.where}: '${site.name}': no room for its values; give fewer --images`);
  for (const { at, blocks } of blocksOf([x], ROWS_AT_ONCE)) {
    const values = Float32Array.from((blocks[0] as Block).data);
    clamp(places, values, limits);
    applyPolynomials(places, values, record.coefficients);
    result.write(at, values);
  }
  own.get(step.target)?.close();
  own.set(step.target, result);
  return record;
}

function replace(
  { student, where }: Walk,
  { name, coefficients, degree, range }: ActivationRecord,
  reach: Float64Array,
): void {
  const polynomials = coefficients.map((list) => powers(...list));
  const given = new Map([[name, { polynomials, range, text: `deg=${degree}` }]]);
  const { applied, skipped } = runReplaceActivation(student, { poly: [], given });
  if (applied.length !== 1)
    throw new SisyphusError(
      'unsupported',
      `${where}: '${name}': ${skipped.find(({ site }) => site === name)?.reason ?? 'is not to be found'}`,
    );
  recordRanges(student, new Map([[name, range]]));
  recordChannelRanges(student, name, reach);
}

async function linearStep(place: Place, step: Step, rng: Rng, done: FitRecord | undefined): Promise<LinearRecord> {
  const { job, own, wanted, task } = place;
  await advance(place, 'wanted', [step.target]);
  if (done) {
    forget(own, step, (done as LinearRecord).how);
    return done as LinearRecord;
  }
  const group = groupOf(job.student, step);
  const how = howOf(group.layers, job.settings.linear);
  const inputs = step.reads.map((name) => own.get(name) as RowStore);
  const [student, teacher] = [own.get(step.target) as RowStore, wanted.get(step.target) as RowStore];
  const planar = group.layers[0]?.windows !== null;
  const places = placesOf(student.shape, planar);
  const layout = layoutOf(group, how, places);
  const sums = layout.columns.map((ranges) =>
    emptyNormal(
      ranges.reduce((sum, [, width]) => sum + width, 0),
      layout.outputs,
    ),
  );
  const each = Math.max(1, Math.ceil(job.settings.rows / student.rows));
  const perBlock = Math.max(1, Math.floor(BLOCK_ELEMENTS / (Math.min(each, places.positions) * layout.width)));
  let square = 0;
  for (const { at, blocks } of blocksOf([student, teacher, ...inputs], perBlock)) {
    job.signal?.throwIfAborted();
    const [now, goal, ...read] = blocks as [Block, Block, ...Block[]];
    const count = now.data.length / (places.channels * places.positions);
    const chosen = Array.from({ length: count }, () => choosePositions(places.positions, each, rng));
    const rows = chosen.reduce((sum, { length }) => sum + length, 0);
    const left = new Float32Array(rows * places.channels);
    const right = new Float32Array(rows * places.channels);
    gatherOutputs(places, now, chosen, left);
    gatherOutputs(places, goal, chosen, right);
    for (let i = 0; i < left.length; i++) {
      square += (right[i] as number) ** 2;
      right[i] = (right[i] as number) - (left[i] as number);
    }
    const features = new Float32Array(rows * layout.width);
    for (const [j, layer] of group.layers.entries()) {
      const column = layout.offsets[j] as number;
      if (how === 'ridge') gatherFeatures(layer, read[j] as Block, chosen, features, layout.width, column);
      else gatherOutputs(places, read[j] as Block, chosen, features, layout.width, column);
    }
    for (const [b, normal] of sums.entries())
      await addRows(
        normal,
        job.products,
        columnsOf(features, layout.width, layout.columns[b] as Columns),
        columnsOf(right, places.channels, [[b * layout.outputs, layout.outputs]]),
      );
    job.onProgress?.({ task: `${task}: fit`, done: at + count, total: student.rows, unit: 'images' });
  }
  const bearer = group.layers.find((layer) => takesBias(job.student, layer));
  const fits = sums.map((normal) => ridge(normal, { lambda: job.settings.lambda, bias: bearer !== undefined }));
  applyFits(job.student, group, how, layout, fits, bearer);
  const rows = (sums[0] as Normal).rows;
  const mean = (pick: (fit: Fit) => number) => fits.reduce((sum, fit) => sum + Math.max(0, pick(fit)), 0);
  const scale = square / rows || 1;
  forget(own, step, how);
  return {
    kind: 'linear',
    name: step.name,
    how,
    before: Math.sqrt(mean(({ before }) => before) / scale),
    after: Math.sqrt(mean(({ after }) => after) / scale),
    rows,
  };
}

/** Elements of a block of features. */
const BLOCK_ELEMENTS = 2 ** 22;

function groupOf(student: Model, { target, name, reads }: Step): LinearGroup {
  const group = linearGroups(student).find((each) => each.target.name === target);
  const layers = group?.layers.filter(({ input, output }) => reads.includes(input.name) || reads.includes(output.name));
  if (!group || layers?.length !== reads.length) throw new SisyphusError('internal', `no layers '${name}'`);
  return { target: group.target, layers };
}

/** Closes values as the old weights made them. */
function forget(own: Map<string, RowStore>, { target, reads }: Step, how: LinearRefit): void {
  for (const name of how === 'ridge' ? [target] : [target, ...reads]) {
    own.get(name)?.close();
    own.delete(name);
  }
}

/** Ranges of columns: where they begin, and how many. */
type Columns = readonly (readonly [start: number, width: number])[];

interface Layout {
  /** Of a row of features of all layers. */
  readonly width: number;
  /** Where each layer's features begin. */
  readonly offsets: readonly number[];
  /** Outputs that are fitted together, and the columns that they are fitted on, one part for each layer. */
  readonly outputs: number;
  readonly columns: readonly Columns[];
}

function layoutOf({ layers }: LinearGroup, how: LinearRefit, { channels }: Places): Layout {
  const widths = layers.map(({ features, groups }) => (how === 'ridge' ? features * groups : channels));
  const offsets = widths.map((_, j) => widths.slice(0, j).reduce((a, b) => a + b, 0));
  const width = widths.reduce((a, b) => a + b, 0);
  const parts =
    how === 'affine' ? channels : how === 'mix' ? 1 : layers.reduce((most, { groups }) => lcm(most, groups), 1);
  const columns = Array.from({ length: parts }, (_, b) =>
    layers.map(({ groups, features }, j): [number, number] => {
      const offset = offsets[j] as number;
      if (how === 'mix') return [offset, channels];
      if (how === 'affine') return [offset + b, 1];
      return [offset + Math.floor((b * groups) / parts) * features, features];
    }),
  );
  return { width, offsets, outputs: channels / parts, columns };
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));
const lcm = (a: number, b: number): number => (a / gcd(a, b)) * b;

/** Some columns of a matrix; the matrix itself where that is all of them. */
function columnsOf(matrix: Float32Array, width: number, columns: Columns): Float32Array {
  const total = columns.reduce((sum, [, wide]) => sum + wide, 0);
  if (total === width) return matrix;
  const rows = matrix.length / width;
  const result = new Float32Array(rows * total);
  for (let row = 0; row < rows; row++) {
    let to = row * total;
    for (const [start, wide] of columns) {
      const from = row * width + start;
      for (let i = 0; i < wide; i++) result[to++] = matrix[from + i] as number;
    }
  }
  return result;
}

function applyFits(
  model: Model,
  { layers }: LinearGroup,
  how: LinearRefit,
  { outputs, columns }: Layout,
  fits: readonly Fit[],
  bearer: LinearLayer | undefined,
): void {
  for (const [j, layer] of layers.entries()) {
    const old = how === 'ridge' ? null : weightsOf(model, layer);
    const offset = how === 'ridge' ? null : biasOf(model, layer);
    const weights = new Float64Array(layer.outputs * layer.features);
    const bias = new Float64Array(layer.outputs);
    for (const [b, fit] of fits.entries()) {
      const part = columns[b] as Columns;
      const [, width] = part[j] as readonly [number, number];
      const first = part.slice(0, j).reduce((sum, [, wide]) => sum + wide, 0);
      for (let o = 0; o < outputs; o++) {
        const k = b * outputs + o;
        if (layer === bearer) bias[k] = (bias[k] as number) + (fit.bias[o] as number);
        for (let i = 0; i < width; i++) {
          const w = fit.weights[(first + i) * outputs + o] as number;
          if (!old || !offset) {
            weights[k * layer.features + i] = w;
            continue;
          }
          // A multiple of an output of the same layer: of one row of its weights.
          const from = how === 'affine' ? k : i;
          bias[k] = (bias[k] as number) + w * (offset[from] as number);
          for (let f = 0; f < layer.features; f++) {
            const at = k * layer.features + f;
            weights[at] = (weights[at] as number) + w * (old[from * layer.features + f] as number);
          }
        }
      }
    }
    addToLayer(model, layer, weights, bias.some((value) => value !== 0) ? bias : null);
  }
}
