/**
 * Which activations stay: the planners. All of them measure replacements in a trial network (`trial.ts`), train nothing,
 * and choose among the options of the candidates.
 *
 * - `dp`: a dynamic programme over sites and degrees (OLA: Lee et al. 2023, arXiv 2310.10349), on the error that each
 *   option makes alone, then exchanges that are measured together.
 * - `greedy`: one step at a time by what is measured together; under an accuracy budget the largest saving first and the
 *   lowest degree that is good enough (FIONA, 2026).
 * - `delphi`: the score accuracy (1 + replaced / all) of DELPHI's planner (Mishra et al. 2020, its code), site by site.
 * - `channels`: `dp`, then channels that keep their activation change places with others while that lowers the error.
 * - `safenet`: channels ranked by what replacing them does to the logits (SAFENet: Lou et al. 2021), which stay as far as
 *   the budget goes.
 * - `random`: what the others have to beat.
 */
import { SisyphusError } from '../errors.ts';
import type { Rng } from '../rng.ts';
import type { Candidate, Option } from './candidates.ts';
import { exchangeChannels, keeping, unitsOf } from './channels.ts';
import { cheapestWithin } from './knapsack.ts';
import { type Choices, type Quality, success } from './trial.ts';

export const METHODS = ['dp', 'greedy', 'channels', 'delphi', 'safenet', 'random'] as const;
export type Method = (typeof METHODS)[number];

/** What candidates may take together. Infinity where there is no limit. */
export interface Limits {
  /** Elements that keep their activation. */
  readonly elements: number;
  /** Sites that keep it. */
  readonly sites: number;
  /** Multiplicative levels that the polynomials have, one after the other. */
  readonly levels: number;
  /** The fraction by which the accuracy may fall; null where another budget says how much is replaced. */
  readonly drop: number | null;
}

export interface Planning {
  readonly candidates: readonly Candidate[];
  readonly limits: Limits;
  readonly original: Quality;
  evaluate(choices: Choices, images?: number): Promise<Quality>;
  readonly rng: Rng;
}

export interface Planned {
  readonly choices: Choices;
  /** The error of the logits where only this site is replaced, as planned or as well as possible; null if not measured. */
  readonly sensitivity: readonly (number | null)[];
}

/** By site: 0 keeps the activation, i takes option i - 1. */
type Assignment = readonly number[];

const optionsOf = ({ options }: Candidate): readonly (Option | null)[] => [null, ...options];
const choicesOf = ({ candidates }: Planning, assignment: Assignment): (Option | null)[] =>
  candidates.map((candidate, i) => optionsOf(candidate)[assignment[i] ?? 0] ?? null);

/** What an option takes of elements, sites and levels. */
const usesOf = ({ elements }: Candidate, choice: Option | null): number[] =>
  choice ? [0, 0, choice.levels] : [elements, 1, 0];
const limitsOf = ({ limits }: Planning): number[] => [limits.elements, limits.sites, limits.levels];

function usage(planning: Planning, assignment: Assignment): number[] {
  const all = choicesOf(planning, assignment).map((choice, i) => usesOf(planning.candidates[i] as Candidate, choice));
  return limitsOf(planning).map((_, r) => all.reduce((sum, uses) => sum + (uses[r] as number), 0));
}
const isWithin = (planning: Planning, assignment: Assignment): boolean =>
  usage(planning, assignment).every((used, r) => used <= (limitsOf(planning)[r] as number));

const replaced = (assignment: Assignment, site: number, index: number): number[] =>
  assignment.map((old, i) => (i === site ? index : old));

const errorOf = async (planning: Planning, assignment: Assignment): Promise<number> =>
  (await planning.evaluate(choicesOf(planning, assignment))).error;

/** The error of each option of each candidate where nothing else is replaced; 0 for none. */
async function sensitivities(planning: Planning): Promise<number[][]> {
  const nothing = planning.candidates.map(() => 0);
  const table: number[][] = [];
  for (const [i, { options }] of planning.candidates.entries()) {
    const row = [0];
    for (const index of options.keys()) row.push(await errorOf(planning, replaced(nothing, i, index + 1)));
    table.push(row);
  }
  return table;
}

/** Of the option taken, or the least of all where the activation stays. */
const reported = (table: readonly (readonly number[])[], assignment: Assignment): number[] =>
  table.map((row, i) => row[assignment[i] ?? 0] || Math.min(...row.slice(1)));

export async function dp(planning: Planning): Promise<Planned> {
  const { choices, sensitivity } = await bySites(planning);
  return { choices, sensitivity };
}

/** The plan of `dp`, with the best option of each site whether it stays or not. */
async function bySites(planning: Planning): Promise<Planned & { readonly best: readonly Option[] }> {
  const table = await sensitivities(planning);
  const items = planning.candidates.map((candidate, i) =>
    optionsOf(candidate).map((choice, index) => ({
      cost: table[i]?.[index] ?? 0,
      uses: usesOf(candidate, choice),
    })),
  );
  const solve = (limits: readonly number[]) => cheapestWithin(items, limits);
  const { drop } = planning.limits;
  const assignment = drop === null ? solve(limitsOf(planning)) : await fewestKept(planning, solve, drop);
  if (!assignment) throw new SisyphusError('internal', 'no plan is within limits that were found to be possible');
  const chosen = drop === null ? await exchange(planning, assignment) : assignment;
  const best = planning.candidates.map(({ options }, site) => {
    const errors = (table[site] ?? []).slice(1);
    return options[(chosen[site] || errors.indexOf(Math.min(...errors)) + 1) - 1] as Option;
  });
  return { choices: choicesOf(planning, chosen), sensitivity: reported(table, chosen), best };
}

/** `dp` over whole sites, then channels of different sites change places. */
export async function channels(planning: Planning): Promise<Planned> {
  const { choices, sensitivity, best } = await bySites(planning);
  return { choices: await exchangeChannels(planning, choices, best), sensitivity };
}

/** Bisections of the elements kept; each measures one plan. */
const BISECTIONS = 12;

/** The least ReLU elements at which the plan's accuracy falls by no more than `drop`. */
async function fewestKept(
  planning: Planning,
  solve: (limits: readonly number[]) => Assignment | null,
  drop: number,
): Promise<Assignment> {
  const { candidates, original } = planning;
  const [, sites = 0, levels = 0] = limitsOf(planning);
  let best: Assignment = candidates.map(() => 0);
  let [low, high] = [-1, candidates.reduce((sum, { elements }) => sum + elements, 0)];
  for (let step = 0; step < BISECTIONS && high - low > 1; step++) {
    // Everything replaced comes first: it may be good enough.
    const middle = low < 0 ? 0 : Math.floor((low + high) / 2);
    const plan = solve([middle, sites, levels]);
    const quality = plan && (await planning.evaluate(choicesOf(planning, plan)));
    if (plan && quality && success(quality) >= success(original) - drop) {
      best = plan;
      high = usage(planning, plan)[0] as number;
      if (middle === 0) break;
    } else low = middle;
  }
  return best;
}

/** Measurements for each option of each candidate, and what they are made on. */
const EXCHANGES = 6;
const EXCHANGE_IMAGES = 250;

/**
 * Errors do not just add up: what is worst alone may not matter once its neighbours are replaced. So plans around the
 * best one by sums are measured too. In each round every site is changed alone, within the limits or not; one or two
 * changes that should do least by these figures are then tried together, until one is better.
 */
async function exchange(planning: Planning, start: Assignment): Promise<Assignment> {
  const measured = new Map<string, number>();
  let left = EXCHANGES * planning.candidates.reduce((sum, { options }) => sum + options.length, 0);
  const measure = async (assignment: Assignment) => {
    const known = measured.get(assignment.join());
    if (known !== undefined) return known;
    left--;
    const { error } = await planning.evaluate(choicesOf(planning, assignment), EXCHANGE_IMAGES);
    measured.set(assignment.join(), error);
    return error;
  };
  let [best, error] = [start, await measure(start)];
  while (left > 0) {
    const changes: number[][] = [];
    for (const [site, candidate] of planning.candidates.entries()) {
      const row: number[] = [];
      for (const index of optionsOf(candidate).keys()) row.push((await measure(replaced(best, site, index))) - error);
      changes.push(row);
    }
    const next = neighbours(planning, best)
      .map((assignment) => ({
        assignment,
        change: assignment.reduce((sum, index, site) => sum + (changes[site]?.[index] ?? 0), 0),
      }))
      .sort((a, b) => a.change - b.change)
      .slice(0, planning.candidates.length);
    let better: Assignment | null = null;
    for (const { assignment } of next) {
      if (left <= 0 && !measured.has(assignment.join())) break;
      const result = await measure(assignment);
      if (result >= error) continue;
      [better, error] = [assignment, result];
      break;
    }
    if (!better) break;
    best = better;
  }
  // They may have been too few inputs.
  return (await errorOf(planning, best)) < (await errorOf(planning, start)) ? best : start;
}

/** All plans within the limits that differ at one or two sites. */
function neighbours(planning: Planning, assignment: Assignment): Assignment[] {
  const { candidates } = planning;
  const changes = candidates.flatMap((candidate, site) =>
    optionsOf(candidate).flatMap((_, index) => (index === assignment[site] ? [] : [{ site, index }])),
  );
  const all = changes.flatMap(({ site, index }) => {
    const one = replaced(assignment, site, index);
    const two = changes.filter((other) => other.site > site).map((other) => replaced(one, other.site, other.index));
    return [one, ...two];
  });
  return all.filter((next) => isWithin(planning, next));
}

export async function greedy(planning: Planning): Promise<Planned> {
  const { limits } = planning;
  const table = await sensitivities(planning);
  let assignment = limits.drop === null ? null : await largestFirst(planning, limits.drop, table);
  // One resource after the other; levels last, because every replacement takes some.
  assignment ??= await reduce(
    planning,
    planning.candidates.map(() => 0),
    0,
  );
  if (limits.drop === null) for (const r of [1, 2]) assignment = await reduce(planning, assignment, r);
  if (!isWithin(planning, assignment))
    throw new SisyphusError('usage', '--budget: greedy steps find no plan within it; --method dp tries all of them');
  return { choices: choicesOf(planning, assignment), sensitivity: reported(table, assignment) };
}

/** The largest saving first, and of its options the one of the lowest degree with which the accuracy stays. */
async function largestFirst(
  planning: Planning,
  drop: number,
  table: readonly (readonly number[])[],
): Promise<Assignment> {
  const { candidates, original } = planning;
  let assignment: Assignment = candidates.map(() => 0);
  const least = (site: number) => Math.min(...(table[site] ?? [0]).slice(1));
  const order = [...candidates.keys()].sort(
    (a, b) => (candidates[b]?.elements ?? 0) - (candidates[a]?.elements ?? 0) || least(a) - least(b),
  );
  for (const site of order) {
    const byLevels = [...(candidates[site]?.options.entries() ?? [])].sort(
      ([, a], [, b]) => a.levels - b.levels || a.degree - b.degree,
    );
    for (const [index] of byLevels) {
      const next = replaced(assignment, site, index + 1);
      if (usage(planning, next).some((used, r) => r === 2 && used > planning.limits.levels)) continue;
      const quality = await planning.evaluate(choicesOf(planning, next));
      if (success(quality) < success(original) - drop) continue;
      assignment = next;
      break;
    }
  }
  return assignment;
}

/**
 * Takes steps that use less of one resource, and no more than is left of those before it, until that is within its
 * limit: always the one with the least error for what it saves. Errors rise with what is replaced already, so a measurement
 * from earlier on is a lower bound, and most need not be repeated (Minoux' lazy evaluation).
 */
async function reduce(planning: Planning, start: Assignment, resource: number): Promise<Assignment> {
  const limit = limitsOf(planning)[resource] as number;
  let assignment = start;
  let error = await errorOf(planning, assignment);
  const known = new Map<string, number>();
  while ((usage(planning, assignment)[resource] as number) > limit) {
    const now = usage(planning, assignment);
    const steps = planning.candidates.flatMap((candidate, site) =>
      optionsOf(candidate).flatMap((_, index) => {
        const next = replaced(assignment, site, index);
        const then = usage(planning, next);
        const saved = (now[resource] as number) - Math.max(then[resource] as number, limit);
        const keeps = then.every((used, r) => r >= resource || used <= (limitsOf(planning)[r] as number));
        const key = `${site}:${assignment[site]}:${index}`;
        if (saved <= 0 || !keeps || (then[resource] as number) >= (now[resource] as number)) return [];
        return [{ next, saved, key, damage: known.get(key) ?? Number.NEGATIVE_INFINITY, fresh: false }];
      }),
    );
    if (steps.length === 0) break;
    for (;;) {
      const best = steps.reduce((a, b) => (a.damage / a.saved <= b.damage / b.saved ? a : b));
      if (best.fresh) {
        assignment = best.next;
        error += best.damage;
        break;
      }
      best.damage = (await errorOf(planning, best.next)) - error;
      best.fresh = true;
      known.set(best.key, best.damage);
    }
  }
  return assignment;
}

export async function delphi(planning: Planning): Promise<Planned> {
  const { candidates, limits } = planning;
  const all = candidates.reduce((sum, { elements }) => sum + elements, 0);
  const isMet = (assignment: Assignment) => isWithin(planning, assignment);
  const bounded = [limits.elements, limits.sites].some(Number.isFinite);
  const score = async (assignment: Assignment) => {
    const quality = await planning.evaluate(choicesOf(planning, assignment));
    const [kept = 0] = usage(planning, assignment);
    return { score: success(quality) * (1 + (all - kept) / all), error: quality.error };
  };
  let assignment: Assignment = candidates.map(() => 0);
  let reached = (await score(assignment)).score;
  const sensitivity: number[] = [];
  while (assignment.includes(0) && !(bounded && isMet(assignment))) {
    let best: { next: Assignment; score: number; error: number } | null = null;
    for (const [site, { options }] of candidates.entries()) {
      if (assignment[site] !== 0) continue;
      for (const index of options.keys()) {
        const next = replaced(assignment, site, index + 1);
        const { score: own, error } = await score(next);
        if (assignment.every((each) => each === 0)) sensitivity[site] = Math.min(sensitivity[site] ?? error, error);
        if (!best || own > best.score || (own === best.score && error < best.error)) best = { next, score: own, error };
      }
    }
    if (!best || (!bounded && best.score <= reached)) break;
    [assignment, reached] = [best.next, best.score];
  }
  return { choices: choicesOf(planning, assignment), sensitivity: candidates.map((_, i) => sensitivity[i] ?? null) };
}

/** Sites, or channels, replaced in a random order until the budget is met. */
export async function random(planning: Planning, perChannel: boolean): Promise<Planned> {
  const { candidates, rng, limits } = planning;
  const sensitivity = candidates.map(() => null);
  const shuffle = <T>(list: readonly T[]): T[] => {
    const deck = [...list];
    for (let i = deck.length - 1; i > 0; i--) {
      const j = rng.int(i + 1);
      [deck[i], deck[j]] = [deck[j] as T, deck[i] as T];
    }
    return deck;
  };
  if (perChannel) {
    const units = shuffle(unitsOf(planning));
    let kept = units.reduce((sum, { elements }) => sum + elements, 0);
    const gone = units.findIndex(({ elements }) => {
      const enough = kept <= limits.elements;
      if (!enough) kept -= elements;
      return enough;
    });
    const stay = new Set(gone < 0 ? [] : units.slice(gone));
    return { choices: keeping(planning, stay), sensitivity };
  }
  let assignment: Assignment = candidates.map(() => 0);
  for (const site of shuffle([...candidates.keys()])) {
    if (isWithin(planning, assignment)) break;
    assignment = replaced(assignment, site, candidates[site]?.options.length ?? 0);
  }
  return { choices: choicesOf(planning, assignment), sensitivity };
}
