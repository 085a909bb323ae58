/**
 * Recipes: how a polynomial comes about, as data, and `resolve`, which follows one for the activations of a site and what
 * was measured there.
 */
import { type Activation, relu } from './activations.ts';
import { preciseSign, reluComposite, type SmartPaf, signComposite, smartPaf } from './composite.ts';
import { densityFit, gaussianFit } from './density.ts';
import { derivativeFit } from './derivative.ts';
import { interpolation, leastSquares, tangentLine, taylor } from './fit.ts';
import { minimax } from './minimax.ts';
import {
  type ChebyshevSeries,
  chebyshevSeries,
  type Interval,
  type Polynomial,
  polynomial,
  powerSeries,
  type Series,
  toPowers,
} from './polynomial.ts';
import { toFixedPoint, toPowersOfTwo } from './rounding.ts';

/** Fits on an interval, and under a distribution. */
export const INTERVAL_FITS = ['lsq', 'minimax', 'chebyshev', 'equispaced', 'derivative'] as const;
export const DENSITY_FITS = ['gaussian', 'measured'] as const;
export type IntervalFit = (typeof INTERVAL_FITS)[number];
export type DensityFit = (typeof DENSITY_FITS)[number];

/** The word that stands for what `--data` shows, where a file of statistics could stand. */
export const CALIBRATE = 'data';

/** What a statistics file, or a run over calibration data, says of each site. */
export interface Measured {
  readonly from: string;
  /** Ranges are widened about their centre by this factor. */
  readonly margin: number;
  /** [low, high] as measured in place of [-a, a] with the larger magnitude. */
  readonly lopsided?: boolean;
  /** Without calibration data: this range. */
  readonly fallback?: Interval;
}

export type Rounding = { readonly to: 'powers-of-two' } | { readonly to: 'fixed-point'; readonly bits: number };

/** Composites of polynomials that approximate the sign. */
export type Sign =
  | { readonly alpha: number }
  | { readonly degrees: readonly number[]; readonly epsilon: number }
  | { readonly paf: SmartPaf; readonly published: boolean };

export type Recipe =
  | {
      readonly kind: 'fit';
      readonly fit: IntervalFit;
      readonly degree: number;
      readonly on: Interval | Measured;
      /** Spacing of the paper's grid in place of the continuous density (lsq). */
      readonly dx?: number;
      readonly weight?: 'legendre' | 'chebyshev';
      readonly rounding?: Rounding;
      readonly perChannel?: boolean;
    }
  | {
      readonly kind: 'density';
      readonly fit: DensityFit;
      readonly degree: number;
      readonly on: Normal | Measured;
      readonly rounding?: Rounding;
      readonly perChannel?: boolean;
    }
  | { readonly kind: 'taylor'; readonly degree: number }
  /** The same whatever the activation. */
  | { readonly kind: 'fixed'; readonly polynomial: Polynomial }
  | { readonly kind: 'composite'; readonly sign: Sign; readonly on: number | Measured };

export interface Normal {
  readonly mean: number;
  readonly std: number;
}

/** What is known of a site's input; by channel (axis 1) and as a whole. */
export interface SiteStatistics {
  readonly channelMin: readonly (number | null)[];
  readonly channelMax: readonly (number | null)[];
  readonly channelMean?: readonly (number | null)[] | undefined;
  readonly channelStd?: readonly (number | null)[] | undefined;
  readonly mean?: number | null | undefined;
  readonly std?: number | null | undefined;
  readonly histogram?: { readonly edges: readonly number[]; readonly counts: readonly number[] } | null | undefined;
}

export interface Resolved {
  /** One, or one for each channel of the site or each of its activations. */
  readonly polynomials: readonly Polynomial[];
  /** By channel, axis 1. */
  readonly perChannel: boolean;
  /** Where each of them is meant to be used; null for polynomials without such a place. */
  readonly intervals: readonly (Interval | null)[];
  /** [-range, range] is where the inputs should stay; null where nothing says so. */
  readonly range: number | null;
}
export interface Refusal {
  readonly reason: string;
}

/** The statistics that a recipe wants; null for none. */
export function sourceOf(recipe: Recipe): string | null {
  const on = 'on' in recipe ? recipe.on : null;
  return on !== null && typeof on === 'object' && 'from' in on ? on.from : null;
}

/** The range where nothing was measured. */
export function fallbackOf(recipe: Recipe): Interval | null {
  const on = 'on' in recipe ? recipe.on : null;
  return on !== null && typeof on === 'object' && 'from' in on ? (on.fallback ?? null) : null;
}

/** A composite on a wider range. */
export function widened(recipe: Recipe, factor: number): Recipe {
  if (recipe.kind !== 'composite' || factor === 1) return recipe;
  const { on } = recipe;
  if (typeof on === 'number') return { ...recipe, on: on * factor };
  const fallback = on.fallback?.map((end) => end * factor) as [number, number] | undefined;
  return { ...recipe, on: { ...on, margin: on.margin * factor, ...(fallback && { fallback }) } };
}

/**
 * The polynomials for a site.
 * @param activations one, or one for each element of the parameters (PRelu)
 * @param statistics of the site; undefined where the source has none
 * @returns the polynomials, or why there are none
 */
export function resolve(
  recipe: Recipe,
  activations: readonly Activation[],
  statistics: SiteStatistics | undefined,
): Resolved | Refusal {
  switch (recipe.kind) {
    case 'fixed':
      return { polynomials: [recipe.polynomial], perChannel: false, intervals: [null], range: null };
    case 'taylor':
      return spread(activations, recipe.degree, (activation) => ({
        series: recipe.degree === 1 ? tangentLine(activation) : taylor(activation, recipe.degree),
        interval: null,
      }));
    case 'composite':
      return resolveComposite(recipe, activations, statistics);
    default:
      return resolveFit(recipe, activations, statistics);
  }
}

interface Fitted {
  readonly series: Series;
  readonly interval: Interval | null;
}

/** One fit for each activation. Slopes by element are many, but the fits of ReLU serve them all. */
function spread(
  activations: readonly Activation[],
  degree: number,
  make: (activation: Activation) => Fitted,
): Resolved {
  const [first, ...others] = activations as readonly [Activation, ...Activation[]];
  if (others.length === 0) return together([make(first)], false);
  const base = make(relu);
  const line = degree >= 1;
  return together(
    activations.map(({ tangent }) => ({
      ...base,
      series: line ? leaky(base.series, 2 * tangent[1] - 1) : base.series,
    })),
    false,
  );
}

/** slope x + (1 - slope) p: a fit of ReLU becomes that of leaky ReLU, because all fits here keep straight lines. */
function leaky(series: Series, slope: number): Series {
  const line =
    series.basis === 'power' ? [0, 1] : [mean(series.interval), (series.interval[1] - series.interval[0]) / 2];
  const coefficients = Array.from(
    { length: Math.max(series.coefficients.length, 2) },
    (_, k) => (1 - slope) * (series.coefficients[k] ?? 0) + slope * (line[k] ?? 0),
  );
  return { ...series, coefficients };
}
const mean = ([low, high]: Interval) => (low + high) / 2;

function together(fits: readonly Fitted[], perChannel: boolean): Resolved {
  const intervals = fits.map(({ interval }) => interval);
  // [-a, a] says nothing about an interval that is not around 0.
  const reach = intervals.map((interval) => (interval && interval[0] === -interval[1] ? interval[1] : null));
  return {
    polynomials: fits.map(({ series }) => polynomial(series)),
    perChannel,
    intervals,
    range: reach.every((a) => a !== null) ? reach.reduce((a, b) => Math.max(a, b), 0) : null,
  };
}

type FitRecipe = Extract<Recipe, { kind: 'fit' | 'density' }>;

function resolveFit(
  recipe: FitRecipe,
  activations: readonly Activation[],
  statistics: SiteStatistics | undefined,
): Resolved | Refusal {
  const places = recipe.perChannel ? channelPlaces(recipe, statistics) : sitePlace(recipe, statistics);
  if ('reason' in places) return places;
  const [place, ...others] = places;
  if (!place) return NOTHING;
  const make = (where: Place) => (activation: Activation) => fitAt(recipe, activation, where);
  if (recipe.rounding && activations.length > 1 && !recipe.perChannel)
    return { reason: `its ${activations.length} slopes would undo the rounding of the coefficients` };
  if (!recipe.perChannel) return spread(activations, recipe.degree, make(place));
  if (activations.length > 1 && activations.length !== others.length + 1)
    return { reason: `it has ${activations.length} slopes and ${others.length + 1} channels, which do not pair up` };
  const fits = places.map((where, i) => make(where)((activations[i] ?? activations[0]) as Activation));
  return together(fits, true);
}

type Place = { readonly interval: Interval } | { readonly normal: Normal } | { readonly histogram: Histogram };
type Histogram = NonNullable<SiteStatistics['histogram']>;

function fitAt(recipe: FitRecipe, activation: Activation, place: Place): Fitted {
  const { degree, rounding } = recipe;
  const series = seriesAt(recipe, activation, place);
  // Of a normal distribution all but 0.3 %.
  const interval: Interval =
    'normal' in place
      ? [place.normal.mean - 3 * place.normal.std, place.normal.mean + 3 * place.normal.std]
      : series.interval;
  if (!rounding) return { series, interval };
  const { coefficients } = toPowers(series);
  const rounded =
    rounding.to === 'powers-of-two'
      ? toPowersOfTwo(coefficients)
      : toFixedPoint(activation, padded(coefficients, degree), rounding.bits, interval);
  return { series: powerSeries(rounded), interval };
}

const padded = (coefficients: readonly number[], degree: number) =>
  Array.from({ length: degree + 1 }, (_, k) => coefficients[k] ?? 0);

function seriesAt(recipe: FitRecipe, activation: Activation, place: Place): ChebyshevSeries {
  const { degree } = recipe;
  if ('normal' in place) {
    // All mass in one point: the constant is all that can be fitted.
    const { mean: centre, std } = place.normal;
    return std > 0
      ? gaussianFit(activation, degree, place.normal)
      : chebyshevSeries([activation.f(centre)], [centre - 1, centre + 1]);
  }
  if ('histogram' in place) return densityFit(activation, degree, place.histogram);
  const { interval } = place;
  switch (recipe.fit) {
    case 'minimax':
      return minimax(activation, degree, interval).series;
    case 'chebyshev':
    case 'equispaced':
      return interpolation(activation, degree, interval, recipe.fit);
    case 'derivative':
      return derivativeFit(activation, degree, interval, (recipe.kind === 'fit' && recipe.weight) || 'legendre');
    default:
      return leastSquares(activation, degree, interval, recipe.kind === 'fit' ? recipe.dx : undefined);
  }
}

/** The polynomial would be a constant, which cuts the network off from its input. */
const CONSTANT: Refusal = { reason: 'its input was the same wherever it was measured' };
const NOTHING: Refusal = { reason: 'the statistics hold nothing for it' };

function sitePlace(recipe: FitRecipe, statistics: SiteStatistics | undefined): [Place] | Refusal {
  const { on } = recipe;
  if (!('from' in on)) return [Array.isArray(on) ? { interval: on as Interval } : { normal: on as Normal }];
  if (!statistics) return on.fallback ? [{ interval: on.fallback }] : NOTHING;
  if (recipe.fit === 'gaussian') {
    const { mean: centre, std } = statistics;
    if (centre == null || std == null) return { reason: 'the statistics hold no mean and deviation for it' };
    return std > 0 ? [{ normal: { mean: centre, std } }] : CONSTANT;
  }
  if (recipe.fit === 'measured') {
    const { histogram } = statistics;
    if (histogram && histogram.edges[0] === histogram.edges.at(-1)) return CONSTANT;
    return histogram ? [{ histogram }] : { reason: 'the statistics hold no histogram for it' };
  }
  const interval = measuredInterval(on, statistics.channelMin, statistics.channelMax);
  return 'reason' in interval ? interval : [{ interval }];
}

function channelPlaces(recipe: FitRecipe, statistics: SiteStatistics | undefined): Place[] | Refusal {
  const { on } = recipe;
  if (!('from' in on) || !statistics) return NOTHING;
  const { channelMin, channelMax, channelMean = [], channelStd = [] } = statistics;
  const whole = sitePlace(recipe, statistics);
  if ('reason' in whole && recipe.fit !== 'gaussian') return whole;
  const places: Place[] = [];
  for (const [c, low] of channelMin.entries()) {
    if (recipe.fit === 'gaussian') {
      const [centre, std] = [channelMean[c], channelStd[c]];
      if (centre == null || std == null)
        return { reason: `the statistics hold no mean and deviation of its channel ${c}` };
      places.push({ normal: { mean: centre, std } });
    } else {
      const interval = measuredInterval(on, [low], [channelMax[c] ?? null]);
      // A channel that is never used takes the site's range.
      const [place] = 'reason' in interval ? (whole as [Place]) : [{ interval }];
      places.push(place);
    }
  }
  return places;
}

/** The range of some channels, or why there is none. */
export function measuredInterval(
  { margin, lopsided }: Measured,
  channelMin: readonly (number | null)[],
  channelMax: readonly (number | null)[],
): Interval | Refusal {
  const [low, high] = [
    channelMin.reduce<number>((least, x) => Math.min(least, x ?? Number.NaN), Number.POSITIVE_INFINITY),
    channelMax.reduce<number>((most, x) => Math.max(most, x ?? Number.NaN), Number.NEGATIVE_INFINITY),
  ];
  if (Number.isNaN(low) || Number.isNaN(high))
    return { reason: 'the statistics hold a channel of it without a finite value' };
  const a = margin * Math.max(Math.abs(low), Math.abs(high));
  if (!(a >= 1e-6 && a <= 1e6))
    return { reason: `the statistics give it a range of ${a}, which no polynomial is fitted on` };
  if (!lopsided || high - low < 1e-6) return [-a, a];
  const half = (margin * (high - low)) / 2;
  return [mean([low, high]) - half, mean([low, high]) + half];
}

/** Activations that x (1 + sign(x)) / 2 makes, with slopes. */
const SIGN_MADE = new Set(['relu', 'leaky-relu', 'prelu']);

function resolveComposite(
  { sign, on }: Extract<Recipe, { kind: 'composite' }>,
  activations: readonly Activation[],
  statistics: SiteStatistics | undefined,
): Resolved | Refusal {
  const stranger = activations.find(({ kind }) => !SIGN_MADE.has(kind));
  if (stranger) return { reason: `composites of sign approximations stand for ReLU, not for ${stranger.label}` };
  const interval = boundInterval(on, statistics);
  if ('reason' in interval) return interval;
  const [, bound] = interval;
  const stages = signStages(sign);
  return {
    polynomials: activations.map(({ tangent }) => reluComposite(stages, bound, 2 * tangent[1] - 1)),
    perChannel: false,
    intervals: activations.map(() => interval),
    range: bound,
  };
}

function boundInterval(on: number | Measured, statistics: SiteStatistics | undefined): Interval | Refusal {
  if (typeof on === 'number') return [-on, on];
  if (statistics) return measuredInterval(on, statistics.channelMin, statistics.channelMax);
  return on.fallback ?? NOTHING;
}

function signStages(sign: Sign): readonly Series[] {
  if ('alpha' in sign) return preciseSign(sign.alpha).stages;
  if ('paf' in sign) return smartPaf(sign.paf, sign.published);
  return signComposite(sign.degrees, sign.epsilon).stages;
}
