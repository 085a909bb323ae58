/** Ranges of pre-activations: measured ones, and those that polynomials were made for, which the model keeps. */
import { didYouMean, SisyphusError } from '../errors.ts';
import { nonlinearSites } from '../eval/sites.ts';
import { setMetadata } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { findActivations } from './activation-sites.ts';
import type { ActivationStatistics } from './statistics.ts';

const KEY = 'sisyphus.ranges';

/** a of [-a, a] by site, as far as the model records it. */
export function rangesOf(model: Model): Map<string, number> {
  const text = model.metadata.find(({ key }) => key === KEY)?.value;
  try {
    const entries = Object.entries(JSON.parse(text ?? '{}') as Record<string, unknown>);
    return new Map(entries.filter((entry): entry is [string, number] => typeof entry[1] === 'number'));
  } catch {
    return new Map(); // not ours
  }
}

/** Adds to what is recorded. */
export function recordRanges(model: Model, ranges: ReadonlyMap<string, number>): void {
  if (ranges.size === 0) return;
  setMetadata(model, KEY, JSON.stringify(Object.fromEntries([...rangesOf(model), ...ranges])));
}

const CHANNELS_KEY = 'sisyphus.channel-ranges';

/** The same by channel (axis 1), as far as the model records it. */
export function channelRangesOf(model: Model): Map<string, readonly number[]> {
  const text = model.metadata.find(({ key }) => key === CHANNELS_KEY)?.value;
  try {
    const entries = Object.entries(JSON.parse(text ?? '{}') as Record<string, unknown>);
    const isList = (value: unknown): value is number[] =>
      Array.isArray(value) && value.every((item) => typeof item === 'number' && item >= 0);
    return new Map(entries.filter((entry): entry is [string, number[]] => isList(entry[1])));
  } catch {
    return new Map(); // not ours
  }
}

/** Adds to what is recorded, rounded to four digits. */
export function recordChannelRanges(model: Model, site: string, ranges: ArrayLike<number>): void {
  const list = Array.from(ranges, (value) => Number(value.toPrecision(4)));
  setMetadata(model, CHANNELS_KEY, JSON.stringify(Object.fromEntries([...channelRangesOf(model), [site, list]])));
}

interface NamesSites {
  readonly sites: Readonly<Record<string, unknown>>;
}

/**
 * Statistics (or a plan) of another model, or a misspelt name, would otherwise go unnoticed. Squares and polynomials, which `probe`
 * measures too, may be named.
 * @throws SisyphusError `file`
 */
export function refuseStrangers({ sites }: NamesSites, model: Model, types: Types, option: string): void {
  const names = findActivations(model, types).sites.map(({ name }) => name);
  const known = new Set([...names, ...nonlinearSites(model, types).sites.map(({ name }) => name)]);
  const stranger = Object.keys(sites).find((name) => !known.has(name));
  if (stranger !== undefined)
    throw new SisyphusError(
      'file',
      `${option}: names '${stranger}', which is no activation of this model${didYouMean(stranger, names.slice(0, 8))}`,
    );
}

interface ChannelRanges {
  readonly channelMin: readonly number[];
  readonly channelMax: readonly number[];
}

/** What was measured at a site, or why that is of no use. */
export function storedRanges(statistics: ActivationStatistics | undefined, site: string): ChannelRanges | string {
  const stored = statistics && Object.hasOwn(statistics.sites, site) ? statistics.sites[site] : undefined;
  if (!stored) return 'the statistics hold nothing for it';
  const [channelMin, channelMax] = [stored.channelMin, stored.channelMax].map((list) => list.filter((x) => x !== null));
  const complete = channelMin?.length === stored.channelMin.length && channelMax?.length === stored.channelMax.length;
  return complete ? { channelMin, channelMax } : 'the statistics hold a channel of it without a finite value';
}
