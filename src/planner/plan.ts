/**
 * `sisyphus plan`: which activations of a trained network stay, and what the others become, chosen on a few inputs and
 * without training. `rewrite --plan` carries it out.
 */
import path from 'node:path';
import { didYouMean, SisyphusError } from '../errors.ts';
import { refuseUnknownOutput } from '../eval/accuracy.ts';
import { type CalibrationOptions, calibrate, calibrationRows } from '../eval/calibration.ts';
import { parseDevice } from '../eval/device.ts';
import { openFeed } from '../eval/feed.ts';
import type { ProbedModel } from '../eval/probe.ts';
import { chooseDevice } from '../eval/session.ts';
import { statisticsOf } from '../eval/statistics-file.ts';
import { refuseTarget, writeFileSafely } from '../files.ts';
import { constantOf } from '../graph/constants.ts';
import { cost } from '../graph/cost.ts';
import { cloneModel } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';
import { readModel } from '../graph/read.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { assertValid } from '../graph/verify.ts';
import { summarize } from '../inspect.ts';
import { type ActivationSite, findActivations } from '../passes/activation-sites.ts';
import { keepChannels } from '../passes/keep-channels.ts';
import type { PlanFile, SitePlan } from '../passes/plan-file.ts';
import { runReplaceActivation } from '../passes/replace-activation.ts';
import { type SiteSelection, selectedKinds, siteFilter } from '../passes/select-sites.ts';
import type { ActivationStatistics, SiteStatistics } from '../passes/statistics.ts';
import type { Activation } from '../poly/activations.ts';
import { type Coefficients, formatPolynomial, powers } from '../poly/polynomial.ts';
import { CALIBRATE, type Refusal, sourceOf } from '../poly/recipe.ts';
import { makeRng } from '../rng.ts';
import { VERSION } from '../version.ts';
import { type Budget, parseBudget } from './budget.ts';
import {
  type Candidate,
  DELPHI_RECIPE,
  MAX_TRIAL_DEGREE,
  makeOption,
  measuredRecipe,
  type NamedRecipe,
  normalError,
  type Option,
  option,
} from './candidates.ts';
import { safenet } from './channels.ts';
import { cheapestWithin } from './knapsack.ts';
import {
  channels,
  delphi,
  dp,
  greedy,
  type Limits,
  METHODS,
  type Method,
  type Planned,
  type Planning,
  random,
} from './methods.ts';
import { type Choices, openTrial, type Quality, success } from './trial.ts';

export interface PlanOptions extends CalibrationOptions, SiteSelection {
  /** Default: dp. */
  readonly method?: Method;
  /** `relus=50%`, `sites=8`, `depth=40`, `accuracy=0.5%`, or several; see `parseBudget`. DELPHI's needs none. */
  readonly budget?: string;
  /** Of the least-squares polynomials that `dp`, `greedy` and `random` choose from. Default 2 and 4. */
  readonly degrees?: readonly number[];
  /** A polynomial for each channel in place of one for each site. With `random`: single channels stay, too. */
  readonly perChannel?: boolean;
  /** These polynomials in place of measured ones. */
  readonly recipe?: NamedRecipe;
  /** The output that holds the logits. Default: the first one with a number for each class. */
  readonly logits?: string;
}

export interface PlannedSite {
  readonly name: string;
  readonly activation: string;
  /** Per input; null where the shape is not known. */
  readonly elements: number | null;
  /** Elements that keep the activation. */
  readonly kept: number | null;
  /** Of what stands in its place; null where it stays. */
  readonly degree: number | null;
  /** Of the first channel where they differ. */
  readonly polynomial: string | null;
  /** Channels that keep the activation, of all; null where it stays or goes as a whole. */
  readonly channels: readonly [kept: number, all: number] | null;
  /** Error of the logits where only this site is replaced (see `Quality`); null where that was not measured. */
  readonly sensitivity: number | null;
  /** Why it could not be replaced. */
  readonly reason: string | null;
}

export interface PlanReport {
  readonly model: string;
  readonly method: Method;
  readonly budget: string | null;
  readonly data: string;
  readonly split: string;
  readonly images: number;
  readonly seed: number;
  readonly sites: readonly PlannedSite[];
  /** On the calibration inputs. */
  readonly before: Quality;
  readonly after: Quality;
  /** Of the activations that the plan is about, per input. */
  readonly elements: { readonly all: number; readonly kept: number };
  readonly depth: { readonly before: number; readonly after: number };
  readonly evaluations: number;
  readonly seconds: number;
  readonly notes: readonly string[];
  readonly plan: PlanFile;
}

const DEFAULT_DEGREES = [2, 4];

/**
 * Makes a plan for a file.
 * @param options.output where to write it; default: nowhere
 * @throws SisyphusError for options that make no sense, models that can't run, data that don't fit, budgets that can't be
 * met; `gate` where the accuracy falls by more than the budget allows; `aborted` after the signal
 */
export async function planReplacement(
  file: string,
  options: PlanOptions & { readonly output?: string; readonly force?: boolean },
): Promise<PlanReport & { readonly output: string | null }> {
  const { output, force = false } = options;
  // Before the work, not after it.
  if (output !== undefined) await refuseTarget(output, force);
  const report = await planModel(readModel(file), file, options);
  if (output !== undefined) await writeFileSafely(output, `${JSON.stringify(report.plan, null, 1)}\n`, { force });
  return { ...report, output: output ?? null };
}

/** Makes a plan for a model in memory, which stays as it is. @param where what messages call it */
export async function planModel(model: Model, where: string, options: PlanOptions): Promise<PlanReport> {
  const start = performance.now();
  const { method = 'dp', onProgress } = options;
  const budget = options.budget === undefined ? null : parseBudget(options.budget);
  refuseCombinations(method, budget, options);
  assertValid(model, where);
  const rows = await calibrationRows(options);
  const feed = await openFeed(model, where, rows);
  refuseUnknownOutput(feed, options.logits);
  const found = findSites(model, options);
  if (found.open.length === 0)
    throw new SisyphusError('usage', `${where}: there is no activation to choose from${firstReason(found.stay)}`);
  const probed = await calibrate(model, where, rows);
  const candidates = makeCandidates(found, probed, method, options);
  if (candidates.length === 0)
    throw new SisyphusError('usage', `${where}: no activation can be replaced${firstReason(found.stay)}`);
  const depth = cost(model, found.types).depth;
  const limits = limitsFor(budget, candidates, found, depth);

  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const trial = await openTrial(feed, {
    device,
    run: rows,
    sites: candidates,
    degree: Math.max(1, ...candidates.flatMap((candidate) => candidate.options.map((each) => each.degree))),
    logits: options.logits,
    ...(onProgress && {
      onEvaluation: (done) => onProgress({ task: `${where}: planning`, done, total: null, unit: 'evaluations' }),
    }),
  });
  try {
    const { seed = 0 } = rows;
    const { original, evaluate } = trial;
    const planned = await run(method, { candidates, limits, original, evaluate, rng: makeRng(seed) }, options);
    const after = await evaluate(planned.choices);
    const { data, split, images } = probed;
    const sites = siteReports(found, candidates, planned);
    const elements = { all: found.elements, kept: sites.reduce((sum, { kept }) => sum + (kept ?? 0), 0) };
    const origin = { model: path.basename(where), method, budget: budget?.text ?? null, data, split, images, seed };
    const drafted: PlanFile = { plan: 1, sites: planOf(found, candidates, planned.choices) };
    const deep = { before: depth, after: depthOf(model, where, drafted, options) };
    refuseBroken(where, budget, original, after, deep.after);
    return {
      ...origin,
      sites,
      before: original,
      after,
      elements,
      depth: deep,
      evaluations: trial.evaluations(),
      seconds: (performance.now() - start) / 1000,
      notes: notesOf(probed, original, after),
      plan: planFile(drafted, origin, { original, after, elements, depth: deep }),
    };
  } finally {
    await trial.release();
  }
}

const ALL_BUDGETS = ['relus', 'sites', 'depth', 'accuracy'] as const;
/** Budgets that decide how much a method replaces; an accuracy beside them is checked at the end. */
const TAKES: Readonly<Record<Method, readonly (typeof ALL_BUDGETS)[number][]>> = {
  dp: ALL_BUDGETS,
  greedy: ALL_BUDGETS,
  channels: ['relus'],
  delphi: ['relus', 'sites'],
  safenet: ['relus'],
  random: ['relus', 'sites'],
};

function refuseCombinations(method: Method, budget: Budget | null, options: PlanOptions): void {
  const refuse = (why: string) => new SisyphusError('usage', why);
  const { degrees, recipe, perChannel } = options;
  if (!METHODS.includes(method)) throw refuse(`--method: no method '${method}'${didYouMean(method, METHODS)}`);
  const takes = method === 'random' && perChannel ? ['relus'] : TAKES[method];
  const given = ALL_BUDGETS.filter((key) => budget?.[key] !== undefined);
  const deciding = given.filter((key) => key !== 'accuracy');
  const stranger = (deciding.length > 0 ? deciding : given).find((key) => !takes.includes(key));
  if (stranger) throw refuse(`--budget ${stranger}=: --method ${method} takes ${takes.join('= or ')}=`);
  if (given.length === 0 && method !== 'delphi')
    throw refuse(`--budget: say how much may stay or be lost: ${takes.map((key) => EXAMPLES[key]).join(', ')}`);
  if (degrees && (recipe || method === 'delphi' || method === 'safenet'))
    throw refuse(`--degrees: ${recipe ? '--poly says what the polynomials are' : `--method ${method} has its own`}`);
  if (perChannel && (recipe || method === 'delphi') && method !== 'random')
    throw refuse(`--per-channel: ${recipe ? '--poly says what the polynomials are' : 'DELPHI has one polynomial'}`);
  for (const degree of degrees ?? [])
    if (!Number.isInteger(degree) || degree < 1 || degree > MAX_TRIAL_DEGREE)
      throw refuse(`--degrees: ${degree} is no whole number from 1 to ${MAX_TRIAL_DEGREE}`);
  const source = recipe ? sourceOf(recipe.recipe) : null;
  if (source !== null && source !== CALIBRATE)
    throw refuse(`--poly ${recipe?.text}: plans measure for themselves: a=${CALIBRATE}`);
}

const EXAMPLES: Readonly<Record<string, string>> = {
  relus: 'relus=50%',
  sites: 'sites=8',
  depth: 'depth=40',
  accuracy: 'accuracy=0.5%',
};

interface Found {
  readonly types: Types;
  /** All activations of the kinds that are looked at. */
  readonly sites: readonly ActivationSite[];
  /** Those that can be chosen from. */
  readonly open: readonly ActivationSite[];
  /** Why others are not, by name. */
  readonly stay: Map<string, string>;
  /** Per input and site, by name; null where the shape is not known. */
  readonly elementsOf: ReadonlyMap<string, number | null>;
  /** Of all sites, as far as they are known. */
  readonly elements: number;
}

function findSites(model: Model, options: SiteSelection): Found {
  const types = inferTypes(model);
  const all = findActivations(model, types, selectedKinds(options));
  const sites = all.sites.filter(({ input }) => !constantOf(model, input));
  const leftOut = siteFilter(options, all.sites);
  const stay = new Map<string, string>();
  for (const site of sites) {
    const hidden = site.node.body !== model.graph;
    const reason = leftOut(site) ?? (hidden ? 'inside a function or a nested graph, where it is not switched' : null);
    if (reason) stay.set(site.name, reason);
  }
  const counts = summarize(model).sites.map(
    ({ name, elements, calls }) => [name, elements === null ? null : elements * calls] as const,
  );
  const elementsOf = new Map(counts);
  const elements = sites.reduce((sum, { name }) => sum + (elementsOf.get(name) ?? 0), 0);
  return { types, sites, open: sites.filter(({ name }) => !stay.has(name)), stay, elementsOf, elements };
}

const firstReason = (stay: ReadonlyMap<string, string>): string => {
  const [first] = stay;
  return first ? ` ('${first[0]}': ${first[1]})` : '';
};

/** Sites for which there are polynomials; the others get a reason to stay. */
function makeCandidates(found: Found, probed: ProbedModel, method: Method, options: PlanOptions): Candidate[] {
  const statistics = statisticsOf(probed);
  return found.open.flatMap((site): Candidate[] => {
    const { name } = site;
    const elements = found.elementsOf.get(name) ?? null;
    const refuse = (reason: string) => {
      found.stay.set(name, reason);
      return [];
    };
    if (elements === null) return refuse('how many elements it has is not known');
    const shape = found.types.get(site.input).shape;
    const channels = shape?.[1];
    const axes = shape && typeof channels === 'number' ? { rank: shape.length, channels } : null;
    if (site.activations.length > 1 && !isByChannel(site, axes))
      return refuse('its parameters differ by element, not by channel');
    const made = optionsFor(site, statistics, axes?.channels ?? null, method, options);
    if ('reason' in made) return refuse(made.reason);
    const splits = axes !== null && !('reason' in keepChannels(site, found.types, []));
    const label = site.activations[0]?.label ?? site.kind;
    return [{ name, label, elements, axes, splits, options: made }];
  });
}

function isByChannel({ parameterShape }: ActivationSite, axes: Candidate['axes']): boolean {
  if (!axes) return false;
  const aligned = [...new Array<number>(Math.max(0, axes.rank - parameterShape.length)).fill(1), ...parameterShape];
  return aligned.every((size, axis) => size === (axis === 1 ? axes.channels : 1));
}

function optionsFor(
  site: ActivationSite,
  statistics: ActivationStatistics,
  channels: number | null,
  method: Method,
  { recipe, degrees = DEFAULT_DEGREES, perChannel = false }: PlanOptions,
): readonly Option[] | Refusal {
  const own = Object.hasOwn(statistics.sites, site.name) ? statistics.sites[site.name] : undefined;
  const make = (named: NamedRecipe) => makeOption(named, site.activations, own, channels);
  const byChannel = channels !== null && (perChannel || method === 'safenet');
  const recipes = recipe
    ? [recipe]
    : method === 'delphi'
      ? [DELPHI_RECIPE]
      : (method === 'safenet' ? SAFENET_DEGREES : degrees).map((degree) => measuredRecipe(degree, byChannel));
  const made: Option[] = [];
  for (const named of recipes) {
    const result = make(named);
    if ('reason' in result) return result;
    made.push(result);
  }
  if (method === 'safenet' && byChannel && own && !recipe) return [mixDegrees(made, site.activations, own)];
  const [last] = made.slice(-1);
  if (method === 'safenet' && last) return [last];
  // Odd degrees often add nothing.
  return made.filter((each, i) => made.findIndex((other) => isEqual(each, other)) === i);
}

const isEqual = (a: Option, b: Option): boolean => JSON.stringify(a.polynomials) === JSON.stringify(b.polynomials);

const SAFENET_DEGREES = [2, 3];
/** A cubic takes a product more, and grows faster beyond what was measured: it has to be better by a tenth. */
const WORTH_A_CUBIC = 0.9;

/** For each channel the square or the cubic polynomial, whichever errs less under the channel's mean and deviation. */
function mixDegrees(
  [square, cubic]: readonly Option[],
  activations: readonly Activation[],
  { channelMean = [], channelStd = [] }: SiteStatistics,
): Option {
  if (!square || !cubic) throw new SisyphusError('internal', 'there are two degrees to mix');
  return option(
    square.polynomials.map((two, c) => {
      const [three, activation] = [cubic.polynomials[c], activations[c] ?? activations[0]];
      const [mean, std] = [channelMean[c], channelStd[c]];
      if (!three || !activation || mean == null || std == null) return two;
      const error = (p: Coefficients) => normalError(p, activation, { mean, std });
      return error(three) < WORTH_A_CUBIC * error(two) ? three : two;
    }),
  );
}

/** @throws SisyphusError `usage` where nothing is within the budget */
function limitsFor(budget: Budget | null, candidates: readonly Candidate[], found: Found, depth: number): Limits {
  const { relus, sites, depth: deepest, accuracy } = budget ?? {};
  const refuse = (why: string) => new SisyphusError('usage', `--budget '${budget?.text}': ${why}`);
  const own = candidates.reduce((sum, { elements }) => sum + elements, 0);
  const fixed = found.elements - own;
  const wanted = relus && ('share' in relus ? Math.floor(relus.share * found.elements + 1e-6) : relus.elements);
  if (wanted !== undefined && wanted < fixed)
    throw refuse(
      `${fixed} of ${found.elements} elements are at activations that can't be replaced${firstReason(found.stay)}, so relus=${fixed} is the least`,
    );
  if (sites !== undefined && sites > candidates.length)
    throw refuse(`only ${candidates.length} activations can be replaced, so sites=${candidates.length} is the most`);
  const isOpen = relus === undefined && sites === undefined;
  // For homomorphic encryption no activation may stay, so a depth alone means that none does.
  const none = isOpen && deepest !== undefined;
  const limits = {
    elements: none ? 0 : wanted === undefined ? Number.POSITIVE_INFINITY : wanted - fixed,
    sites: none ? 0 : sites === undefined ? Number.POSITIVE_INFINITY : candidates.length - sites,
  };
  const levels = deepest === undefined ? Number.POSITIVE_INFINITY : deepest - depth;
  const least = leastLevels(candidates, limits);
  if (least > levels)
    throw refuse(
      `the least depth is ${depth + least}, ${depth} of them without activations; lower degrees (--degrees 1,2) or kept activations (relus=20%) take less`,
    );
  return { ...limits, levels, drop: isOpen && deepest === undefined && accuracy !== undefined ? accuracy : null };
}

/** The fewest levels with which the other limits can be kept. */
function leastLevels(candidates: readonly Candidate[], limits: Pick<Limits, 'elements' | 'sites'>): number {
  const items = candidates.map(({ elements, options }) => [
    { cost: 0, uses: [elements, 1] },
    ...options.map(({ levels }) => ({ cost: levels, uses: [0, 0] })),
  ]);
  const chosen = cheapestWithin(items, [limits.elements, limits.sites]) ?? [];
  return chosen.reduce((sum, index, i) => sum + (items[i]?.[index]?.cost ?? 0), 0);
}

function run(method: Method, planning: Planning, { perChannel = false }: PlanOptions): Promise<Planned> {
  if (method === 'random') return random(planning, perChannel);
  return { dp, greedy, channels, delphi, safenet }[method](planning);
}

function siteReports(found: Found, candidates: readonly Candidate[], planned: Planned): PlannedSite[] {
  const places = new Map(candidates.map(({ name }, i) => [name, i]));
  return found.sites.map(({ name, kind, activations }): PlannedSite => {
    const i = places.get(name) ?? -1;
    const [candidate, choice] = [candidates[i], planned.choices[i] ?? null];
    const elements = found.elementsOf.get(name) ?? null;
    const own = { name, activation: activations[0]?.label ?? kind, elements, reason: found.stay.get(name) ?? null };
    const sensitivity = planned.sensitivity[i] ?? null;
    if (!candidate || !choice)
      return { ...own, kept: elements, degree: null, polynomial: null, channels: null, sensitivity };
    const { polynomials, keep = [] } = choice;
    const channels = keep.length > 0 && candidate.axes ? ([keep.length, candidate.axes.channels] as const) : null;
    const gone = polynomials.filter((_, c) => polynomials.length === 1 || !keep.includes(c));
    return {
      ...own,
      kept: channels ? (candidate.elements / channels[1]) * channels[0] : 0,
      degree: Math.max(...gone.map((p) => p.length - 1)),
      polynomial: formatPolynomial(powers(...(gone[0] ?? [])), 4),
      channels,
      sensitivity,
    };
  });
}

function planOf(found: Found, candidates: readonly Candidate[], choices: Choices): Record<string, SitePlan> {
  const chosen = new Map(candidates.map(({ name }, i) => [name, choices[i] ?? null]));
  const entries = found.sites.map(({ name }): [string, SitePlan] => {
    const choice = chosen.get(name) ?? null;
    if (!choice) return [name, { keep: 'all' }];
    const { polynomials, keep = [] } = choice;
    const texts = polynomials.map((coefficients) => formatPolynomial(powers(...coefficients)));
    return [name, { polynomials: texts, ...(keep.length > 0 && { keep: [...keep] }) }];
  });
  return Object.fromEntries(entries);
}

/** Of the network that the plan makes, which is made here. */
function depthOf(model: Model, where: string, plan: PlanFile, { activations }: SiteSelection): number {
  const copy = cloneModel(model);
  const { applied } = runReplaceActivation(copy, { poly: [], plan, ...(activations && { activations }) });
  const done = new Set(applied.map(({ site }) => site));
  const missing = Object.entries(plan.sites).find(([name, site]) => 'polynomials' in site && !done.has(name));
  if (missing) throw new SisyphusError('internal', `${where}: the plan for '${missing[0]}' can't be carried out`);
  return cost(copy, inferTypes(copy)).depth;
}

function refuseBroken(where: string, budget: Budget | null, before: Quality, after: Quality, depth: number): void {
  const { accuracy, depth: deepest, text } = budget ?? {};
  if (deepest !== undefined && depth > deepest)
    throw new SisyphusError('internal', `--budget '${text}': the plan has depth ${depth}`);
  const lost = success(before) - success(after);
  if (accuracy !== undefined && lost > accuracy + 1e-9)
    throw new SisyphusError(
      'gate',
      `${where}: --budget '${text}': the plan loses ${(100 * lost).toFixed(2)} points on the calibration inputs; allow that, or let more activations stay`,
    );
}

function notesOf({ images, split, data }: ProbedModel, before: Quality, after: Quality): string[] {
  const notes = [`measured on ${images} inputs (${split}) of ${data}`];
  if (before.accuracy === null) notes.push('the data have no labels, so agreement with the model stands for accuracy');
  if (after.nonFinite > 0) notes.push(`${after.nonFinite} inputs have logits that are not finite`);
  return notes;
}

type Origin = Pick<PlanReport, 'model' | 'method' | 'budget' | 'data' | 'split' | 'images' | 'seed'>;
interface Expected extends Pick<PlanReport, 'elements' | 'depth'> {
  readonly original: Quality;
  readonly after: Quality;
}

/** The plan with how it came about, in an order for people. */
function planFile(draft: PlanFile, origin: Origin, { original, after, elements, depth }: Expected): PlanFile {
  const { budget, ...others } = origin;
  const quality = ({ accuracy, agreement, error }: Quality) => ({
    ...(accuracy !== null && { accuracy }),
    agreement,
    error,
  });
  return {
    sisyphus: VERSION,
    plan: draft.plan,
    ...others,
    ...(budget !== null && { budget }),
    expected: { before: quality(original), after: quality(after), elements, depth },
    sites: draft.sites,
  };
}
