/** Plans in which single channels keep their activation. */
import type { Option } from './candidates.ts';
import type { Planned, Planning } from './methods.ts';
import type { Choices, Replacement } from './trial.ts';

/** Something that stays or goes: a channel, or a whole site that can't be split. */
export interface Unit {
  readonly site: number;
  readonly channel: number | null;
  readonly elements: number;
}

export function unitsOf({ candidates }: Planning): Unit[] {
  return candidates.flatMap(({ axes, splits, elements }, site): Unit[] => {
    if (!axes || !splits) return [{ site, channel: null, elements }];
    return Array.from({ length: axes.channels }, (_, channel) => ({
      site,
      channel,
      elements: elements / axes.channels,
    }));
  });
}

/**
 * The plan in which these units keep their activation, and all others are replaced.
 * @param by what stands at each site; default: the last option
 */
export function keeping(
  { candidates }: Planning,
  kept: ReadonlySet<Unit>,
  by: readonly (Option | undefined)[] = candidates.map(({ options }) => options.at(-1)),
): (Replacement | null)[] {
  const bySite = new Map<number, (number | null)[]>();
  for (const { site, channel } of kept) bySite.set(site, [...(bySite.get(site) ?? []), channel]);
  return candidates.map(({ axes }, site) => {
    const channels = bySite.get(site) ?? [];
    const last = by[site];
    if (!last || channels.includes(null) || channels.length === axes?.channels) return null;
    const keep = channels.filter((channel) => channel !== null).sort((a, b) => a - b);
    return keep.length === 0 ? last : { polynomials: last.polynomials, keep };
  });
}

/** Inputs that a channel's rank is measured on: there are many channels, and one changes little. */
const RANKING_IMAGES = 64;

export async function safenet(planning: Planning): Promise<Planned> {
  const units = unitsOf(planning);
  const everything = new Set(units);
  const damages = new Map<Unit, number>();
  for (const unit of units) {
    const others = new Set(everything);
    others.delete(unit);
    const { error } = await planning.evaluate(keeping(planning, others), RANKING_IMAGES);
    damages.set(unit, error);
  }
  const worth = (unit: Unit) => (damages.get(unit) ?? 0) / unit.elements;
  const kept = keepFirst(
    [...units].sort((a, b) => worth(b) - worth(a)),
    planning.limits.elements,
  );
  const sensitivity = planning.candidates.map((_, site) =>
    units.reduce((sum, unit) => sum + (unit.site === site ? (damages.get(unit) ?? 0) : 0), 0),
  );
  return { choices: keeping(planning, kept), sensitivity };
}

/** As many as there is room for, in this order; those that don't fit are passed over. */
function keepFirst(units: readonly Unit[], room: number): Set<Unit> {
  const kept = new Set<Unit>();
  let left = room;
  for (const unit of units) {
    if (unit.elements > left + 1e-9) continue;
    kept.add(unit);
    left -= unit.elements;
  }
  return kept;
}

/** Rounds of exchanges; each measures every channel once. */
const ROUNDS = 3;
/** Of the exchanges that should help: so many are tried together, most first. */
const PARTS = [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16];

/**
 * Moves the activations that stay to where they do most. In each round every channel is switched alone, and its effect
 * measured within the plan; then the channels whose activation does least give theirs to those whose replacement does most
 * harm, as many as lower the error when they are measured together.
 * @param start a plan of whole sites
 * @param by what stands at each site where its activation goes
 */
export async function exchangeChannels(planning: Planning, start: Choices, by: readonly Option[]): Promise<Choices> {
  const units = unitsOf(planning);
  let kept: ReadonlySet<Unit> = new Set(units.filter(({ site }) => start[site] === null));
  let { error } = await planning.evaluate(keeping(planning, kept, by));
  for (let round = 0; round < ROUNDS; round++) {
    const swaps = await profitableSwaps(planning, units, kept, by);
    let better = false;
    for (const part of PARTS) {
      const count = Math.ceil(part * swaps.length);
      const next = new Set(kept);
      for (const { out, into } of swaps.slice(0, count)) {
        for (const unit of out) next.delete(unit);
        next.add(into);
      }
      const measured = swaps.length === 0 ? error : (await planning.evaluate(keeping(planning, next, by))).error;
      if (measured >= error) continue;
      [kept, error, better] = [next, measured, true];
      break;
    }
    if (!better) break;
  }
  return keeping(planning, kept, by);
}

/** A channel that gets its activation back, and those that give theirs for it. */
interface Swap {
  readonly into: Unit;
  readonly out: readonly Unit[];
}

/** The exchanges that should lower the error by what each channel does alone, the best first. */
async function profitableSwaps(
  planning: Planning,
  units: readonly Unit[],
  kept: ReadonlySet<Unit>,
  by: readonly Option[],
): Promise<Swap[]> {
  const errorWith = async (set: ReadonlySet<Unit>) =>
    (await planning.evaluate(keeping(planning, set, by), RANKING_IMAGES)).error;
  const now = await errorWith(kept);
  /** By what the error rises without the activation. */
  const effects = new Map<Unit, number>();
  for (const unit of units) {
    const other = new Set(kept);
    if (!other.delete(unit)) other.add(unit);
    const error = await errorWith(other);
    effects.set(unit, kept.has(unit) ? error - now : now - error);
  }
  const worth = (unit: Unit) => (effects.get(unit) ?? 0) / unit.elements;
  const givers = units.filter((unit) => kept.has(unit)).sort((a, b) => worth(a) - worth(b));
  const takers = units.filter((unit) => !kept.has(unit)).sort((a, b) => worth(b) - worth(a));
  const swaps: Swap[] = [];
  let room = planning.limits.elements - [...kept].reduce((sum, { elements }) => sum + elements, 0);
  for (const into of takers) {
    const out: Unit[] = [];
    while (room < into.elements - 1e-9 && givers.length > 0) {
      const giver = givers.shift() as Unit;
      out.push(giver);
      room += giver.elements;
    }
    const lost = out.reduce((sum, unit) => sum + (effects.get(unit) ?? 0), 0);
    if (room < into.elements - 1e-9 || (effects.get(into) ?? 0) <= lost) break;
    room -= into.elements;
    swaps.push({ into, out });
  }
  return swaps;
}
