/**
 * `sisyphus refit`: polynomials under the measured density, layer by layer on the student's own inputs, and linear layers
 * fitted anew in closed form towards the teacher; no gradients and no labels. Sequential fits and ridge regression as in
 * layer-wise distillation; the fits by channel are SMART-PAF's coefficient tuning (Tong et al. 2024) in closed form.
 * `docs/refit.md` has the recipe and what it reaches.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { type CalibrationOptions, calibrationRows } from '../eval/calibration.ts';
import { parseDevice } from '../eval/device.ts';
import { type Feed, openFeed } from '../eval/feed.ts';
import { keepRows } from '../eval/kept-rows.ts';
import { logitsOf } from '../eval/logits.ts';
import { openPart, type Values } from '../eval/parts.ts';
import { recordPreprocessing } from '../eval/preprocessing.ts';
import { type Budget, makeBudget, type RowStore } from '../eval/row-store.ts';
import { chooseDevice, type NdArray } from '../eval/session.ts';
import { outputName, refuseTarget } from '../files.ts';
import { cloneModel, dropMetadata, setMetadata } from '../graph/edit.ts';
import type { Model, Value } from '../graph/ir.ts';
import { readModel } from '../graph/read.ts';
import { inferTypes } from '../graph/shapes.ts';
import { assertValid } from '../graph/verify.ts';
import { serialize, writeModel } from '../graph/write.ts';
import { findActivations } from '../passes/activation-sites.ts';
import { foldBatchnorm } from '../passes/fold-batchnorm.ts';
import { type SiteSelection, selectedKinds, siteFilter, siteMatcher } from '../passes/select-sites.ts';
import { VERSION } from '../version.ts';
import type { TailGuard } from './channels.ts';
import { DEGREES, type DegreeGoal, degreesWithin, degreeTable, extremes, parseDegreeGoal } from './degrees.ts';
import { openProducts } from './least-squares.ts';
import { verify } from './verify.ts';
import { anyRows, type FitRecord, LINEAR, type LinearRefit, type SiteRecipe, type WalkSettings, walk } from './walk.ts';

export interface RefitOptions extends Omit<CalibrationOptions, 'limit' | 'partial'>, SiteSelection {
  /** `deg=N` or `GLOB=deg=N`; the last one that matches a site is used for it. Default `deg=4`. */
  readonly poly?: readonly string[];
  /** `depth=60` or `accuracy=0.5%`: degrees 2 and 4 by activation, in place of `poly`; see `parseDegreeGoal`. */
  readonly autoDegree?: string;
  /** Polynomials by channel. Default true. */
  readonly perChannel?: boolean;
  /** How linear layers behind a replaced activation are fitted anew. Default ridge. */
  readonly linear?: LinearRefit;
  /** Of the ridge. Default 0.01. */
  readonly lambda?: number;
  /** `off`, or `mass=…,width=…`. Default by degree: mass=2e-5,width=1.5 from degree 4 on, none below. */
  readonly tailGuard?: string;
  /** Bounds of the student's values while fitting, in multiples of the teacher's. Default 1.1, at degrees below 4 2. */
  readonly clamp?: number;
  /** Places in images that a linear layer is fitted on, at most. Default 20000. */
  readonly rows?: number;
  /** Bytes of memory and disk for the values at the frontier. Default: a quarter of the machine's memory, and none. */
  readonly cacheMemory?: number;
  readonly cacheDisk?: number;
  /** Default: `MODEL.refit.onnx` beside the model. What was reached so far is in OUTPUT.part until the end. */
  readonly output?: string;
  /** Seconds between two writings of OUTPUT.part. Default 10. */
  readonly checkpointEvery?: number;
  /** Go on from OUTPUT.part. */
  readonly resume?: boolean;
  readonly force?: boolean;
  readonly onFit?: (record: FitRecord, index: number, total: number) => void;
  readonly onNote?: (note: string) => void;
}

export interface RefitReport {
  readonly model: string;
  readonly output: string;
  readonly data: string;
  readonly split: string;
  readonly images: number;
  readonly layers: readonly FitRecord[];
  /** Activations that stay, with reasons. */
  readonly kept: readonly { readonly site: string; readonly reason: string }[];
  readonly notes: readonly string[];
  readonly seconds: number;
}

/**
 * @throws SisyphusError `unsupported` where nothing can be replaced or values don't belong to single images; `aborted` after
 * the signal, when what was reached is written to OUTPUT.part
 */
export async function refit(file: string, options: RefitOptions): Promise<RefitReport> {
  const output = options.output ?? outputName(file, 'refit');
  await refuseTarget(output, options.force ?? false);
  const part = `${output}.part`;
  const original = readModel(file);
  const { model, ...report } = await refitModel(original, file, { ...options, part });
  await writeModel(model, output, { force: options.force ?? false });
  await rm(part, { force: true });
  return { model: file, output, ...report };
}

export interface RefitModelOptions extends RefitOptions {
  /** What becomes the result: the model, some of whose nodes may compute something else under the same names. */
  readonly student?: Model;
  /** Where what was reached is kept while it works; undefined for nowhere. */
  readonly part?: string;
}

export type RefittedModel = Omit<RefitReport, 'model' | 'output'> & { readonly model: Model };

/** The same for a model in memory, which stays as it is. @param where what errors call it */
export async function refitModel(original: Model, where: string, options: RefitModelOptions): Promise<RefittedModel> {
  const clock = performance.now();
  assertValid(original, where);
  const notes: string[] = [];
  const note = (text: string) => {
    notes.push(text);
    options.onNote?.(text);
  };
  const settings = settle(options);
  const goal = options.autoDegree === undefined ? null : parseDegreeGoal(options.autoDegree);
  if (goal && options.poly) throw new SisyphusError('usage', '--auto-degree chooses the degrees: leave --poly away');
  const folded = cloneModel(original);
  const { applied } = await foldBatchnorm.run(folded, {});
  if (applied.length > 0) note(`${applied.length} batch norms folded into the layers before them`);
  const rows = await calibrationRows(options);
  const { kept, ...open } = recipesFor(folded, where, options);
  const recipes = goal
    ? await chosenRecipes(folded, where, [...open.recipes.keys()], goal, options, note)
    : open.recipes;
  const feed = await openFeed(original, where, rows);
  const teacher = await anyRows(folded);
  const start = options.student ? cloneModel(options.student) : folded;
  if (options.student) await foldBatchnorm.run(start, {});
  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const { threads, signal, onProgress } = options;
  const partOptions = { device, threads, name: where };
  const budget = makeBudget({
    memory: options.cacheMemory ?? os.totalmem() / 4,
    disk: options.cacheDisk ?? 0,
    folder: path.dirname(options.part ?? path.join(os.tmpdir(), 'part')),
  });
  const images = await readImages(feed, folded, budget, partOptions, signal);
  const state = await openState(start, recipes, settings, rows, images.store.rows, options);
  const products = await openProducts(threads);
  const types = inferTypes(teacher);
  const logits = logitsOf(teacher.graph.outputs[0]?.value as Value, types).name;
  try {
    const layers = await walk({
      teacher,
      student: state.student,
      where,
      input: images.name,
      fixed: feed.fixed,
      images: images.store,
      logits,
      sites: recipes,
      settings,
      budget,
      products,
      part: partOptions,
      done: state.records,
      onNote: note,
      onProgress,
      signal,
      onFit: async (record, index, total) => {
        options.onFit?.(record, index, total);
        await state.save(record);
      },
    });
    const { student } = state;
    recordPreprocessing(student, feed.preprocessing);
    stamp(student, recipes, settings, { data: rows.data, images: images.store.rows });
    assertValid(student, 'the result');
    return {
      model: student,
      data: options.data,
      split: feed.dataset.split,
      images: images.store.rows,
      layers,
      kept,
      notes,
      seconds: (performance.now() - clock) / 1000,
    };
  } catch (error) {
    await state.flush();
    if (signal?.aborted) {
      const next = options.part === undefined ? 'nothing was written' : `--resume goes on from ${options.part}`;
      throw new SisyphusError('aborted', `interrupted; ${next}`, { cause: error });
    }
    throw error;
  } finally {
    await products.release();
    images.store.close();
  }
}

function settle(options: RefitOptions): WalkSettings {
  const { linear = 'ridge', perChannel = true, lambda = 1e-2, rows = 20000, seed = 0 } = options;
  if (!LINEAR.includes(linear))
    throw new SisyphusError('usage', `--linear: '${linear}' is none of ${LINEAR.join(', ')}`);
  if (!(lambda > 0 && Number.isFinite(lambda))) throw new SisyphusError('usage', `--lambda: ${lambda} is not above 0`);
  return { linear, perChannel, lambda, rows, seed };
}

/** What becomes of each site. @throws SisyphusError `spec`, and `unsupported` where nothing is to be replaced */
function recipesFor(model: Model, where: string, options: RefitOptions) {
  const { sites, refused } = findActivations(model, inferTypes(model), selectedKinds(options));
  const leftOut = siteFilter(options, sites);
  const rules = (options.poly ?? ['deg=4']).map((text) => {
    const { glob, degree } = parseRefitSpec(text);
    return { degree, matches: glob === null ? () => true : siteMatcher(glob, '--poly', sites) };
  });
  const recipes = new Map<string, SiteRecipe>();
  const kept = refused.map(({ site, reason }) => ({ site, reason }));
  for (const site of sites) {
    const rule = rules.findLast(({ matches }) => matches(site));
    const reason =
      leftOut(site) ??
      (rule ? null : 'no --poly is given for it') ??
      (site.node.body === model.graph ? null : 'it is inside of a function or a nested graph');
    if (reason !== null || !rule) kept.push({ site: site.name, reason: reason ?? '' });
    else recipes.set(site.name, recipeOf(rule.degree, options));
  }
  if (recipes.size > 0) return { recipes, kept };
  const [first] = kept;
  throw new SisyphusError(
    'unsupported',
    `${where}: there is no activation to replace${first ? `: '${first.site}': ${first.reason}` : ''}`,
  );
}

/** Images that an accuracy is measured on: others than those of the calibration. */
const HELD_OUT = 1000;

/** Degrees by activation, as the goal asks for. */
async function chosenRecipes(
  model: Model,
  where: string,
  names: readonly string[],
  goal: DegreeGoal,
  options: RefitModelOptions,
  note: (text: string) => void,
): Promise<ReadonlyMap<string, SiteRecipe>> {
  const rows = await calibrationRows(options);
  const table = await degreeTable(model, where, names, rows);
  const [least, most] = extremes(table);
  const within = (levels: number) => degreesWithin(table, levels) as Map<string, number>;
  const told = (degrees: ReadonlyMap<string, number>, why: string) => {
    const counts = DEGREES.map(
      (degree) => `${[...degrees.values()].filter((each) => each === degree).length} x ${degree}`,
    );
    note(`degrees ${counts.join(', ')} ${why}`);
    return new Map([...degrees].map(([site, degree]) => [site, recipeOf(degree, options)]));
  };
  if (goal.kind === 'depth') {
    const levels = goal.depth - table.depth;
    if (levels < least)
      throw new SisyphusError(
        'usage',
        `--auto-degree depth=${goal.depth}: the layers alone take ${table.depth}, activations of degree ${DEGREES[0]} ${least}: give ${table.depth + least} at least, or keep some activations with --skip`,
      );
    return told(within(Math.min(levels, most)), `within ${goal.depth} levels`);
  }
  const { part: _part, autoDegree: _goal, resume: _resume, onFit: _onFit, onNote: _onNote, ...plain } = options;
  const seed = (rows.seed ?? 0) + 1;
  const loses = async (levels: number): Promise<number> => {
    const poly = [...within(levels)].map(([site, degree]) => `${site}=deg=${degree}`);
    const { model: student } = await refitModel(model, where, { ...plain, poly });
    const [found] = await verify(model, student, where, { ...plain, ...rows, limit: HELD_OUT, seed });
    const lost =
      found?.accuracy == null ? 1 - (found?.agreement ?? 0) : (found.teacherAccuracy as number) - found.accuracy;
    note(`${table.depth + levels} levels: ${(100 * lost).toFixed(2)} points lost on ${HELD_OUT} other images`);
    return lost;
  };
  // Depths in steps of an eighth of what they span; the last one that keeps the goal.
  let [low, high] = [0, STEPS];
  const levelsAt = (step: number) => least + Math.round(((most - least) * step) / STEPS);
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((await loses(levelsAt(middle))) <= goal.loss) high = middle;
    else low = middle + 1;
  }
  if (low >= STEPS && (await loses(most)) > goal.loss)
    throw new SisyphusError(
      'gate',
      `--auto-degree accuracy=${100 * goal.loss}%: not even degree ${DEGREES.at(-1)} everywhere keeps that without training; fine-tune (\`polynomialize --epochs\`)`,
    );
  return told(within(levelsAt(low)), `within ${table.depth + levelsAt(low)} levels`);
}

/** Of the bisection. */
const STEPS = 8;

/** Degrees above are no use here: their sums of powers lose all digits. */
const MAX_REFIT_DEGREE = 12;

/** @throws SisyphusError `spec` */
export function parseRefitSpec(text: string): { readonly glob: string | null; readonly degree: number } {
  const match = /^(?:(?<glob>.+)=)?deg=(?<degree>\d+)$/s.exec(text);
  const degree = Number(match?.groups?.degree);
  if (!match || !(degree >= 1 && degree <= MAX_REFIT_DEGREE))
    throw new SisyphusError(
      'spec',
      `--poly '${text}': refit measures everything but the degree: give deg=N or GLOB=deg=N, N from 1 to ${MAX_REFIT_DEGREE}`,
    );
  return { glob: match.groups?.glob ?? null, degree };
}

/** Of polynomials.md 3.6: chosen on held-out training images, see docs/refit.md. */
const GUARD: TailGuard = { mass: 2e-5, width: 1.5 };

function recipeOf(degree: number, { clamp, tailGuard }: RefitOptions): SiteRecipe {
  const steep = degree >= 4;
  const bound = clamp ?? (steep ? 1.1 : 2);
  if (!(bound > 0)) throw new SisyphusError('usage', `--clamp: ${clamp} is not above 0`);
  return { degree, clamp: bound, tail: parseTailGuard(tailGuard) ?? (steep && tailGuard !== 'off' ? GUARD : null) };
}

/** @returns null for none, or where it is left open */
export function parseTailGuard(text: string | undefined): TailGuard | null {
  if (text === undefined || text === 'off' || text === 'auto') return null;
  const entries = text.split(',').map((entry) => entry.split('=', 2) as [string, string | undefined]);
  const numbers = new Map(entries.map(([key, value]) => [key, Number(value ?? Number.NaN)]));
  const { mass, width } = { ...GUARD, ...Object.fromEntries(numbers) };
  const known = [...numbers].every(([key, value]) => (key === 'mass' || key === 'width') && value > 0);
  if (!known || !Number.isFinite(mass + width))
    throw new SisyphusError('usage', `--tail-guard: '${text}': off, or mass=${GUARD.mass},width=${GUARD.width}`);
  return { mass, width };
}

/** All images as the model's input has them. */
async function readImages(
  feed: Feed,
  model: Model,
  budget: Budget,
  options: Parameters<typeof openPart>[3],
  signal: AbortSignal | undefined,
): Promise<{ name: string; store: RowStore }> {
  const name = model.graph.inputs.map(({ value }) => value).find(({ initializer }) => !initializer)?.name as string;
  const fed = feed.model.graph.inputs.find(({ value }) => !value.initializer)?.value.name as string;
  const count = feed.count - (feed.fixed ? feed.count % feed.fixed : 0);
  const part = await openPart(feed.model, [fed], [name], options);
  const blocks = async function* (): AsyncGenerator<Values> {
    let done = 0;
    for await (const { feeds, rows } of feed.batches()) {
      signal?.throwIfAborted();
      if (done + rows > count) return;
      done += rows;
      const values = await part.run(feeds);
      yield new Map([[name, values.get(name) as NdArray]]);
    }
  };
  try {
    const kept = count > 0 ? await keepRows(blocks(), count, budget, () => {}) : null;
    const store = kept?.get(name);
    if (!store) throw new SisyphusError('data', `${count} images take more memory than there is; give fewer --images`);
    return { name, store };
  } finally {
    await part.release();
  }
}

/** What was reached: a network, and in its metadata how. */
interface State {
  readonly student: Model;
  readonly records: FitRecord[];
  save(record: FitRecord): Promise<void>;
  flush(): Promise<void>;
}

const STATE = 'sisyphus.refit.state';
const EVERY_SECONDS = 10;

async function openState(
  folded: Model,
  recipes: ReadonlyMap<string, SiteRecipe>,
  settings: WalkSettings,
  { data, split, seed }: CalibrationOptions,
  images: number,
  { part, resume, normalize, resize, layout, checkpointEvery = EVERY_SECONDS }: RefitModelOptions,
): Promise<State> {
  const asked = {
    version: VERSION,
    model: createHash('sha256')
      .update(serialize(folded, { inline: true }))
      .digest('hex'),
    sites: Object.fromEntries(recipes),
    ...settings,
    ...{ data, split, seed, images, normalize, resize, layout },
  };
  const config = JSON.stringify(asked);
  let student = cloneModel(folded);
  const records: FitRecord[] = [];
  if (resume && part !== undefined && existsSync(part)) {
    student = readModel(part);
    const text = student.metadata.find(({ key }) => key === STATE)?.value ?? '{}';
    const saved = JSON.parse(text) as { config?: string; records?: FitRecord[] };
    if (saved.config !== config)
      throw new SisyphusError('usage', `${part} is of another run; leave --resume away to start anew`);
    records.push(...(saved.records ?? []));
    dropMetadata(student, STATE);
  }
  let last = performance.now();
  let dirty = false;
  const flush = async () => {
    if (!dirty || part === undefined) return;
    const copy = cloneModel(student);
    setMetadata(copy, STATE, JSON.stringify({ config, records }));
    await writeModel(copy, part, { force: true });
    last = performance.now();
    dirty = false;
  };
  return {
    student,
    records,
    flush,
    async save(record) {
      records.push(record);
      dirty = true;
      if (performance.now() - last > 1000 * checkpointEvery) await flush();
    },
  };
}

function stamp(
  model: Model,
  recipes: ReadonlyMap<string, SiteRecipe>,
  { linear, perChannel, lambda, rows, seed }: WalkSettings,
  { data, images }: { data: string; images: number },
): void {
  const degrees = [...recipes].map(([site, { degree }]) => [site, degree]);
  setMetadata(model, 'sisyphus.version', VERSION);
  setMetadata(
    model,
    'sisyphus.refit',
    // Folders of this machine are nobody's business.
    JSON.stringify({
      data: data.split(':')[0],
      images,
      linear,
      perChannel,
      lambda,
      rows,
      seed,
      degrees: Object.fromEntries(degrees),
    }),
  );
}
