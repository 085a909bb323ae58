/** Do activations escape? What was seen, and what the gains say about inputs that were not. */
import type { FirstNonFinite } from './locate.ts';
import type { ProbedSite } from './probe.ts';

export interface EscapeScore {
  /** Product of the gains of all layers whose gain is known; null where none is. */
  readonly gain: number | null;
  /** Largest |x| beyond a layer's range, as a multiple of it, and where; null without ranges. */
  readonly excess: { readonly site: string; readonly times: number } | null;
  readonly level: 'good' | 'warning' | 'bad';
  /** One line. */
  readonly verdict: string;
}

interface Seen {
  readonly sites: readonly ProbedSite[];
  readonly images: number;
  readonly nonFiniteOutputs: number;
  readonly firstNonFinite: FirstNonFinite | null;
  /** Nonlinear layers whose values can't be read. */
  readonly hidden: number;
}

/** Products above this call for a warning: a 1 % excess of variance then grows to more than 10 %. */
const HIGH_GAIN = 10;
/** No layer of a network that still works has activations beyond this. */
const HUGE = 1e6;

export function escapeScore({ sites, images, nonFiniteOutputs, firstNonFinite, hidden }: Seen): EscapeScore {
  const gains = sites.flatMap(({ gain }) => (gain === null ? [] : [gain]));
  const gain = gains.length === 0 ? null : gains.reduce((product, one) => product * one, 1);
  const excess = largestExcess(sites);
  const unseen = hidden > 0 ? `; ${hidden} layers inside functions or nested graphs were not watched` : '';
  const polynomial = hidden > 0 || sites.some(({ kind }) => kind === 'polynomial');
  const percent = (share: number) => `${Number((100 * share).toPrecision(3))} %`;
  const score = (level: EscapeScore['level'], verdict: string): EscapeScore => ({ gain, excess, level, verdict });
  const product = gain === null ? '' : `; the gains multiply to ${gain.toPrecision(3)} over ${gains.length} layers`;

  const worst = sites.reduce((most, { nonFiniteInputs }) => Math.max(most, nonFiniteInputs), nonFiniteOutputs);
  if (worst > 0)
    return score(
      'bad',
      `activations escape: ${worst} of ${images} inputs are not finite${origin(firstNonFinite)}${product}`,
    );
  if (excess && excess.times > 1) {
    const share = Math.max(...sites.map(({ leaving }) => leaving ?? 0));
    return score(
      'warning',
      `activations leave their range: up to ${percent(share)} of the inputs at a layer, ${excess.times.toPrecision(3)} times the range at ${excess.site}${product}`,
    );
  }
  if (!polynomial) return score('good', `no polynomial layers: nothing can escape${product}`);
  const peak = largestOutput(sites);
  if (peak && peak.value > HUGE)
    return score(
      'warning',
      `all values are finite, but they reach ${peak.value.toPrecision(3)} at ${peak.site}${product}${unseen}`,
    );
  const grown = gain === null ? null : 1.01 ** gain - 1;
  if (gain !== null && grown !== null && gain > HIGH_GAIN)
    return score(
      'warning',
      `nothing escapes on these inputs, but a 1 % excess of variance would grow to ${grown > 1e3 ? 'no end' : percent(grown)}${product}`,
    );
  return score(
    hidden > 0 ? 'warning' : 'good',
    `nothing escapes${hidden > 0 ? ' where it can be seen' : ''}${product}${unseen}`,
  );
}

function origin(first: FirstNonFinite | null): string {
  if (!first) return '';
  const { node, op, kind, site } = first;
  const where = node === null ? 'in the data' : `at ${op} '${node}'${site && site !== node ? ` (layer ${site})` : ''}`;
  return `, ${kind} first ${where}`;
}

function largestOutput(sites: readonly ProbedSite[]): { site: string; value: number } | null {
  let peak: { site: string; value: number } | null = null;
  for (const { name, output } of sites) {
    const value = Math.max(-(output.min ?? 0), output.max ?? 0);
    if (!peak || value > peak.value) peak = { site: name, value };
  }
  return peak;
}

function largestExcess(sites: readonly ProbedSite[]): EscapeScore['excess'] {
  let worst: EscapeScore['excess'] = null;
  for (const { name, range, input } of sites) {
    if (range === null || input.min === null || input.max === null) continue;
    const times = Math.max(-input.min, input.max) / range;
    if (!worst || times > worst.times) worst = { site: name, times };
  }
  return worst;
}
