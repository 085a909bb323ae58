/**
 * `sisyphus search`: which polynomial, put in place of every activation, keeps most of the accuracy on training images. The
 * paper's Poly-Reg (Garimella, Jha, Reagen 2021, section 3), with what makes it cheaper: images are looked at few at a time
 * (asynchronous successive halving; Li et al. 2020, arXiv:1810.05934), equal polynomials are measured once, and a candidate
 * costs a pass over the images and no session.
 */
import { createHash } from 'node:crypto';
import { SisyphusError } from '../errors.ts';
import { type Accuracy, type EvaluatedModel, evaluate, refuseUnknownOutput } from '../eval/accuracy.ts';
import { calibrate, calibrationRows } from '../eval/calibration.ts';
import { parseDevice } from '../eval/device.ts';
import { openFeed } from '../eval/feed.ts';
import type { RunOptions } from '../eval/run.ts';
import { chooseDevice } from '../eval/session.ts';
import { statisticsOf } from '../eval/statistics-file.ts';
import { outputName, refuseTarget } from '../files.ts';
import { readModel } from '../graph/read.ts';
import { assertValid } from '../graph/verify.ts';
import { serialize } from '../graph/write.ts';
import type { SiteSelection } from '../passes/select-sites.ts';
import { CALIBRATE, sourceOf } from '../poly/recipe.ts';
import { parseSiteSpec } from '../poly/spec.ts';
import { type RewriteReport, rewrite } from '../rewrite.ts';
import { VERSION } from '../version.ts';
import type { Point } from './acquisition.ts';
import { type Evaluator, type Measured, openEvaluator, type Prepared } from './evaluator.ts';
import { authorsSpace, PAPER_FAMILY, type SpecSpace, specSpace } from './families.ts';
import { type History, openHistory } from './history.ts';
import {
  ACQUISITIONS,
  type AcquisitionName,
  type Found,
  makeStrategy,
  STRATEGIES,
  type Strategy,
} from './strategies.ts';

export const OBJECTIVES = ['accuracy', 'finite-accuracy'] as const;
/** `accuracy` counts an image with a logit that is not finite as wrong; `finite-accuracy`, the authors', leaves it out. */
export type SearchObjective = (typeof OBJECTIVES)[number];

export interface SearchOptions extends Omit<RunOptions, 'limit' | 'partial'>, SiteSelection {
  /** Default bayes. */
  readonly strategy?: Strategy;
  /** Default ei. */
  readonly acquisition?: AcquisitionName;
  /** Default accuracy; of the strategy `sisyphus` finite-accuracy. */
  readonly objective?: SearchObjective;
  /** Specs with stars, see `specSpace`. Default `deg=*,a=*`. */
  readonly poly?: readonly string[];
  /** Default 2 to 9 (`sisyphus`: 1 to 9). */
  readonly degrees?: readonly number[];
  /** Default 0.5 to 50. */
  readonly range?: readonly [low: number, high: number];
  /** Different polynomials that are tried. Default 50 (`sisyphus`: 60). */
  readonly budget?: number;
  /** Of them, how many before there is a model. Default 10. */
  readonly initial?: number;
  /** Training images, a random choice. Default 5000; null for all. */
  readonly subset?: number | null;
  /** A candidate goes on to this many times the images if it is among the best of as many. 1: all see all. Default 4. */
  readonly halving?: number;
  /** Evaluations of polynomials that differ by site, by coordinate descent from the best of the search. Default 0. */
  readonly perLayer?: number;
  readonly logits?: string;
  /** Default: the model's name with `.search.onnx`. */
  readonly output?: string;
  /** Default: the model's name with `.search.ndjson`. */
  readonly history?: string;
  readonly resume?: boolean;
  readonly force?: boolean;
  readonly onCandidate?: (candidate: SearchCandidate, best: SearchCandidate) => void;
}

/** Something that was tried. Fractions in 0..1. */
export interface SearchCandidate {
  /** From 1. */
  readonly number: number;
  readonly spec: string;
  /** What is maximised, over `images` images. */
  readonly value: number;
  readonly images: number;
  readonly accuracy: number;
  readonly finiteAccuracy: number | null;
  readonly nonFinite: number;
  /** How much its logits depend on the images as the network's own do, in -1..1. */
  readonly likeness: number;
  /** The candidate that it is equal to, where it needed no evaluation. */
  readonly same: number | null;
  readonly point: Point;
}

export interface SearchReport {
  readonly model: string;
  readonly output: string;
  readonly historyFile: string;
  readonly strategy: Strategy;
  readonly objective: SearchObjective;
  readonly data: string;
  readonly split: string;
  readonly images: number;
  /** Of the network as it is, on the images of the search. */
  readonly original: number;
  readonly best: SearchCandidate;
  /** What was found by site, the last one that matches counts; a single spec without `perLayer`. */
  readonly specs: readonly string[];
  /** The value of `specs` on all images of the search. */
  readonly value: number;
  readonly candidates: readonly SearchCandidate[];
  /** Passes over images, in units of all of them, and seconds of these. */
  readonly passes: number;
  readonly seconds: number;
  /** On the test split; null where the data set has none beside what was searched on. */
  readonly test: { readonly before: EvaluatedModel; readonly after: EvaluatedModel } | null;
  readonly rewrite: RewriteReport;
}

const DEFAULT_SUBSET = 5000;

/**
 * @throws SisyphusError for options that make no sense, models that can't run and data that don't fit; `aborted` after the
 * signal, when what was measured is in the history
 */
export async function search(file: string, options: SearchOptions): Promise<SearchReport> {
  const settings = settle(options);
  const output = options.output ?? outputName(file, 'search');
  const historyFile = options.history ?? output.replace(/(\.onnx)?$/, '.ndjson');
  await refuseTarget(output, options.force || options.resume || false);
  const model = readModel(file);
  assertValid(model, file);
  const rows = await calibrationRows({
    ...runOf(options),
    seed: settings.seed,
    limit: settings.subset ?? Number.MAX_SAFE_INTEGER,
  });
  const feed = await openFeed(model, file, rows);
  refuseUnknownOutput(feed, options.logits);
  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const statistics = settings.poly.some(asksForData)
    ? statisticsOf(await calibrate(model, file, { ...runOf(options), seed: settings.seed }))
    : undefined;
  const evaluator = await openEvaluator(feed, {
    ...pick(options),
    device,
    run: rows,
    logits: options.logits,
    statistics,
  });
  const bytes = serialize(model, { inline: true });
  try {
    const spaces = spaceOf(settings, evaluator, file);
    const history = await openHistory(
      historyFile,
      { sisyphus: VERSION, model: createHash('sha256').update(bytes).digest('hex'), ...settings, ...pick(options) },
      options,
    );
    const tools: Tools = { evaluator, history, settings, options, images: feed.count, spaces, file };
    const start = performance.now();
    const original = scoreOf(settings.objective, evaluator.original);
    const candidates = await explore(tools);
    const best = await decide(tools, candidates);
    const found = settings.perLayer > 0 ? await descend(tools, best) : { specs: [best.spec], value: best.value };
    const seconds = (performance.now() - start) / 1000;
    const report = await rewrite(file, {
      ...pick(options),
      poly: found.specs,
      output,
      force: options.force || options.resume || false,
      ...(statistics && { calibration: { ...runOf(options), seed: settings.seed } }),
    });
    return {
      model: file,
      output,
      historyFile,
      strategy: settings.strategy,
      objective: settings.objective,
      data: options.data,
      split: rows.split ?? 'train',
      images: feed.count,
      original,
      best,
      ...found,
      candidates,
      passes: tools.history.count(),
      seconds,
      test: rows.split === 'test' ? null : await test(file, output, options),
      rewrite: report,
    };
  } finally {
    await evaluator.release();
  }
}

type Settings = ReturnType<typeof settle>;

interface Tools {
  readonly evaluator: Evaluator;
  readonly history: History;
  readonly settings: Settings;
  readonly options: SearchOptions;
  readonly images: number;
  readonly spaces: SpecSpace;
  readonly file: string;
}

/** All that the result depends on. */
function settle(options: SearchOptions) {
  const { strategy = 'bayes' } = options;
  const authors = strategy === 'sisyphus';
  const refuse = (why: string) => new SisyphusError('usage', why);
  const settings = {
    data: options.data,
    split: options.split ?? null,
    strategy,
    acquisition: options.acquisition ?? (authors ? 'ucb' : 'ei'),
    objective: options.objective ?? (authors ? 'finite-accuracy' : 'accuracy'),
    poly: options.poly ?? [PAPER_FAMILY],
    degrees: [...(options.degrees ?? [...(authors ? [1] : []), 2, 3, 4, 5, 6, 7, 8, 9])].sort((a, b) => a - b),
    range: options.range ?? ([0.5, 50] as const),
    budget: options.budget ?? (authors ? 60 : 50),
    initial: options.initial ?? 10,
    subset: options.subset === undefined ? DEFAULT_SUBSET : options.subset,
    halving: options.halving ?? (authors ? 1 : 4),
    perLayer: options.perLayer ?? 0,
    seed: options.seed ?? 0,
  };
  if (!STRATEGIES.includes(strategy)) throw refuse(`--strategy: one of ${STRATEGIES.join(', ')}, not '${strategy}'`);
  if (!ACQUISITIONS.includes(settings.acquisition)) throw refuse(`--acquisition: one of ${ACQUISITIONS.join(', ')}`);
  if (!OBJECTIVES.includes(settings.objective)) throw refuse(`--objective: one of ${OBJECTIVES.join(', ')}`);
  const [low, high] = settings.range;
  if (!(low > 0 && high >= low && Number.isFinite(high)))
    throw refuse(`--range ${low}..${high}: goes from a number above 0 to one that is not smaller`);
  if (settings.degrees.length === 0 || !settings.degrees.every((degree) => Number.isInteger(degree) && degree >= 1))
    throw refuse('--degrees: whole numbers from 1 on');
  if (!(settings.budget >= 1)) throw refuse('--budget: at least one evaluation');
  if (authors && settings.perLayer > 0)
    throw refuse('--strategy sisyphus has one polynomial for all: leave --per-layer away');
  if (authors && settings.acquisition !== 'ucb') throw refuse('--strategy sisyphus has --acquisition ucb');
  return settings;
}

const asksForData = (family: string): boolean => /(^|,)a=data(,|$)/.test(family);

const RUN = [
  'data',
  'split',
  'batch',
  'normalize',
  'resize',
  'layout',
  'device',
  'threads',
  'logLevel',
  'signal',
  'onProgress',
] as const;

/** What says how the model is run, and on what. */
const runOf = (options: SearchOptions): RunOptions => ({
  data: options.data,
  ...Object.fromEntries(RUN.flatMap((key) => (options[key] === undefined ? [] : [[key, options[key]]]))),
});

const pick = ({ activations, only, skip }: SearchOptions): SiteSelection => ({
  ...(activations && { activations }),
  ...(only && { only }),
  ...(skip && { skip }),
});

function spaceOf(settings: Settings, evaluator: Evaluator, file: string): SpecSpace {
  for (const family of settings.poly) {
    const source = asksForData(family) ? CALIBRATE : sourceOf(parseSiteSpec(family.replace(/\*/g, '2')).spec.recipe);
    if (source !== null && source !== CALIBRATE)
      throw new SisyphusError('usage', `--poly ${family}: searches measure for themselves: a=${CALIBRATE}`);
  }
  const spaces =
    settings.strategy === 'sisyphus'
      ? authorsSpace({ ...settings, families: settings.poly })
      : specSpace(
          { ...settings, families: settings.poly },
          (a, b) => evaluator.prepare([a]).identity === evaluator.prepare([b]).identity,
        );
  const { sites, refused } = evaluator.prepare([spaces.spec({ choice: 0, at: [0.5, 0.5] })]);
  const [first] = refused;
  if (sites.length === 0)
    throw new SisyphusError(
      'usage',
      `${file}: there is no activation to replace${first ? ` ('${first.site}': ${first.reason})` : ''}`,
    );
  return spaces;
}

const scoreOf = (objective: SearchObjective, { top1, top1Finite }: Pick<Accuracy, 'top1' | 'top1Finite'>): number =>
  objective === 'accuracy' ? top1 : (top1Finite ?? 0);

/** From the history, or measured now. */
async function look({ history }: Tools, specs: readonly string[], prepared: Prepared, images: number) {
  const known = history.find(prepared.identity, images);
  if (known) return known.accuracy;
  const start = performance.now();
  const { top1, top1Finite, nonFinite, nan, likeness } = await prepared.evaluate(images);
  const accuracy = { top1, top1Finite, nonFinite, nan, likeness };
  const seconds = (performance.now() - start) / 1000;
  await history.add({ identity: prepared.identity, specs, images, accuracy, seconds });
  return accuracy;
}

/** How many images candidates are shown, from few to all. */
function rungsOf({ images, settings: { halving } }: Tools): number[] {
  const rungs = [images];
  while (halving > 1 && (rungs[0] as number) / halving >= LEAST_IMAGES)
    rungs.unshift(Math.floor((rungs[0] as number) / halving));
  return rungs.slice(-MOST_RUNGS);
}
/** Fewer say little: accuracy is known to 5 points. */
const LEAST_IMAGES = 100;
const MOST_RUNGS = 3;

/** The strategy's candidates, each on as many images as it deserves. */
async function explore(tools: Tools): Promise<SearchCandidate[]> {
  const { settings, options, spaces, evaluator, file } = tools;
  const suggest = makeStrategy(settings.strategy, { ...settings, space: spaces.space });
  const rungs = rungsOf(tools);
  const seen = rungs.map((): number[] => []);
  const candidates: SearchCandidate[] = [];
  const first = new Map<string, SearchCandidate>();
  // The authors' search does not know what it has seen before.
  const spent = () => (settings.strategy === 'sisyphus' ? candidates.length : first.size);
  while (spent() < settings.budget && candidates.length < MOST_SUGGESTIONS * settings.budget) {
    const point = suggest(candidates.map((each): Found => ({ point: each.point, value: guideOf(settings, each) })));
    if (!point) break;
    const spec = spaces.spec(point);
    const prepared = evaluator.prepare([spec]);
    const number = candidates.length + 1;
    const known = first.get(prepared.identity);
    let candidate: SearchCandidate;
    if (known) candidate = { ...known, number, spec, same: known.number, point };
    else {
      candidate = { number, spec, point, same: null, ...(await climb(tools, spec, prepared, rungs, seen)) };
      first.set(prepared.identity, candidate);
    }
    candidates.push(candidate);
    options.onCandidate?.(candidate, bestOf(candidates));
    options.onProgress?.({
      task: `${file}: search`,
      done: spent(),
      total: settings.budget,
      unit: 'polynomials',
      note: `best ${(100 * bestOf(candidates).value).toFixed(2)} %`,
    });
  }
  return candidates;
}

/** Suggestions of what was tried before cost nothing, but there may be nothing else. */
const MOST_SUGGESTIONS = 4;

type Result = Pick<SearchCandidate, 'value' | 'images' | 'accuracy' | 'finiteAccuracy' | 'nonFinite' | 'likeness'>;

const measured = (
  objective: SearchObjective,
  images: number,
  accuracy: Pick<Measured, 'top1' | 'top1Finite' | 'nonFinite' | 'likeness'>,
): Result => ({
  value: scoreOf(objective, accuracy),
  images,
  accuracy: accuracy.top1,
  finiteAccuracy: accuracy.top1Finite,
  nonFinite: accuracy.nonFinite,
  likeness: accuracy.likeness,
});

/**
 * What a search goes by. Where activations escape or fade, most networks decide for one class always, and their accuracy says
 * nothing about where to go: the likeness of the logits does. What is best is a matter of the objective alone.
 */
const guideOf = ({ strategy }: Settings, { value, likeness }: Pick<Result, 'value' | 'likeness'>): number =>
  strategy === 'sisyphus' ? value : value + LIKENESS * likeness;
const LIKENESS = 0.5;

/** From few images to more, as long as it is among the best that were shown as many. */
async function climb(
  tools: Tools,
  spec: string,
  prepared: Prepared,
  rungs: readonly number[],
  seen: readonly number[][],
): Promise<Result> {
  const { objective, halving } = tools.settings;
  for (const [rung, images] of rungs.entries()) {
    const result = measured(objective, images, await look(tools, [spec], prepared, images));
    const others = seen[rung] as number[];
    const guide = guideOf(tools.settings, result);
    others.push(guide);
    const places = Math.max(1, Math.floor(others.length / halving));
    const isGood = others.filter((value) => value > guide).length < places;
    if (rung === rungs.length - 1 || !isGood) return result;
  }
  throw new SisyphusError('internal', 'there is a rung');
}

/** The best on the most images; the first of equals. */
const bestOf = (candidates: readonly SearchCandidate[]): SearchCandidate =>
  candidates.reduce((a, b) => (b.images > a.images || (b.images === a.images && b.value > a.value) ? b : a));

/** Candidates that are good on few images get a last look at all. */
const LAST_LOOKS = 3;

async function decide(tools: Tools, candidates: SearchCandidate[]): Promise<SearchCandidate> {
  const { images, settings, evaluator } = tools;
  const best = bestOf(candidates);
  const open = candidates
    .filter(
      (candidate) =>
        candidate.images < images &&
        candidate.same === null &&
        candidate.value >= (best.images < images ? 0 : best.value),
    )
    .sort((a, b) => b.value - a.value)
    .slice(0, LAST_LOOKS);
  for (const { number, spec } of open) {
    const accuracy = await look(tools, [spec], evaluator.prepare([spec]), images);
    const index = number - 1;
    candidates[index] = {
      ...(candidates[index] as SearchCandidate),
      ...measured(settings.objective, images, accuracy),
    };
  }
  return bestOf(candidates);
}

/** Factors of the range, one round after the other. */
const STEPS = [2, 1.4, 1.15];

/**
 * Coordinate descent: one site after the other tries other ranges and degrees, and keeps what makes the network better on all
 * images. A trial that is worse on a part of them is not shown the rest.
 */
async function descend(tools: Tools, best: SearchCandidate): Promise<{ specs: string[]; value: number }> {
  const { settings, evaluator, spaces, images, options, file } = tools;
  const { space } = spaces;
  const { sites } = evaluator.prepare([best.spec]);
  const points = new Map(sites.map((site) => [site, best.point]));
  const specsOf = (chosen: ReadonlyMap<string, Point>) => [
    best.spec,
    ...[...chosen].flatMap(([site, point]) => (point === best.point ? [] : [`${globOf(site)}=${spaces.spec(point)}`])),
  ];
  const part = Math.max(LEAST_IMAGES, Math.floor(images / 4));
  const valueAt = async (specs: readonly string[], count: number) =>
    scoreOf(settings.objective, await look(tools, specs, evaluator.prepare(specs), Math.min(count, images)));
  let [value, partly] = [best.value, await valueAt([best.spec], part)];
  let trials = 0;
  const span = Math.log(settings.range[1] / settings.range[0]);
  for (const step of STEPS)
    for (const site of sites) {
      const here = points.get(site) as Point;
      for (const point of neighbours(here, span > 0 ? Math.log(step) / span : 0, space.choices.length, space.free)) {
        if (trials >= settings.perLayer) return { specs: specsOf(points), value };
        trials++;
        const specs = specsOf(new Map([...points, [site, point]]));
        const first = await valueAt(specs, part);
        if (first < partly) continue;
        const whole = await valueAt(specs, images);
        options.onProgress?.({
          task: `${file}: by layer`,
          done: trials,
          total: settings.perLayer,
          unit: 'trials',
          note: `best ${(100 * value).toFixed(2)} %`,
        });
        if (whole <= value) continue;
        points.set(site, point);
        [value, partly] = [whole, first];
      }
    }
  return { specs: specsOf(points), value };
}

function neighbours({ choice, at }: Point, step: number, choices: number, free: number): Point[] {
  const shifted =
    free === 0 ? [] : [-step, step].map((by) => ({ choice, at: [Math.min(1, Math.max(0, (at[0] as number) + by))] }));
  const others = [choice - 1, choice + 1]
    .filter((other) => other >= 0 && other < choices)
    .map((other) => ({ choice: other, at }));
  return [...shifted, ...others];
}

/** A pattern that the name matches, and hardly another. */
const globOf = (name: string): string => name.replaceAll('*', '?');

async function test(before: string, after: string, options: SearchOptions): Promise<SearchReport['test']> {
  const run = { ...runOf(options), split: 'test' as const };
  const { models } = await evaluate([before, after], run);
  const [original, result] = models;
  if (!original || !result) throw new SisyphusError('internal', 'both models are evaluated');
  return { before: original, after: result };
}
