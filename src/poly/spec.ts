/**
 * Polynomials as the user writes them: `deg=4,a=5`, `taylor`, `quad`, `coeffs=0.2:0.5:0.2`, `preset=precise,alpha=10`, and
 * for some sites only. Specs are `key=value` lists; `KEYS` lists the keys of fits, and each preset has its own.
 */
import { didYouMean } from '../errors.ts';
import { MAX_DEGREE } from './fit.ts';
import { type Interval, powers, trim } from './polynomial.ts';
import { expandPreset, type Preset } from './presets.ts';
import {
  DENSITY_FITS,
  type DensityFit,
  INTERVAL_FITS,
  type IntervalFit,
  type Measured,
  type Recipe,
} from './recipe.ts';
import { Entries } from './spec-entries.ts';

export interface PolySpec {
  /** As it parses back, in canonical order. */
  readonly text: string;
  readonly recipe: Recipe;
  /** For specs that name a preset. */
  readonly preset: Preset | null;
}

/** A spec for the sites whose name matches; null for all. */
export interface SiteSpec {
  readonly glob: string | null;
  readonly spec: PolySpec;
}

const WORDS = ['taylor', 'quad'];
const KEYS = ['deg', 'a', 'coeffs', 'fit', 'dx', 'mean', 'std', 'margin', 'weight', 'per', 'round', 'preset'];
const FITS = [...INTERVAL_FITS, ...DENSITY_FITS];

/** Parses `SPEC` or `GLOB=SPEC`. @throws SisyphusError `spec` */
export function parseSiteSpec(text: string): SiteSpec {
  // Names of presets may be words of specs, too: `preset=taylor`.
  if (text.startsWith('preset=')) return { glob: null, spec: parseSpec(text) };
  const keys = KEYS.join('|');
  const match = new RegExp(`^(?:(?<glob>.+?)=)?(?<spec>(?:${keys})=.*|${WORDS.join('|')})$`, 's').exec(text);
  const spec = match?.groups?.spec ?? text;
  return { glob: match?.groups?.glob ?? null, spec: parseSpec(spec) };
}

/** Parses one polynomial spec. @throws SisyphusError `spec` */
export function parseSpec(text: string): PolySpec {
  const word = text.trim();
  if (word === 'taylor') return { text: word, recipe: { kind: 'taylor', degree: 1 }, preset: null };
  if (word === 'quad') return { text: word, recipe: { kind: 'fixed', polynomial: powers(0, 0, 1) }, preset: null };
  const entries = new Entries(text);
  for (const part of entries.words) {
    if (WORDS.includes(part)) throw entries.refuse(`${part} stands alone`);
    if (entries.has('coeffs')) throw entries.refuse("coefficients are separated by ':' (c0:c1:c2, constant first)");
  }
  if (entries.has('preset')) return expandPreset(entries);
  const [stray] = entries.words;
  if (stray !== undefined)
    throw entries.refuse(`'${stray}' is no polynomial${didYouMean(stray, [...WORDS, ...KEYS.map((k) => `${k}=…`)])}`);
  entries.refuseOthers(KEYS);
  const recipe = entries.has('coeffs') ? coefficients(entries) : fitted(entries);
  return { text: format(recipe), recipe, preset: null };
}

/** The spec as text that parses back to it. */
export const formatSpec = ({ text }: PolySpec): string => text;

function coefficients(entries: Entries): Recipe {
  if (entries.size > 1) throw entries.refuse('coeffs= stands alone');
  const values = entries.list('coeffs');
  const trimmed = trim(values);
  if (trimmed.length < 2)
    throw entries.refuse('a constant would cut the network off from its input; give c0:c1 at least');
  if (trimmed.length > MAX_DEGREE + 1) throw entries.refuse(`degree ${trimmed.length - 1} is above ${MAX_DEGREE}`);
  return { kind: 'fixed', polynomial: powers(...trimmed) };
}

function fitted(entries: Entries): Recipe {
  const fit = entries.oneOf('fit', FITS, 'lsq');
  if (isDensity(fit)) return densityFitted(entries, fit);
  if (!entries.has('deg') || !entries.has('a')) throw entries.refuse('a fit takes both deg= and a= (deg=4,a=5)');
  entries.refuseFor(`fit=${fit}`, [
    'mean',
    'std',
    ...(fit === 'lsq' ? [] : ['dx']),
    ...(fit === 'derivative' ? [] : ['weight']),
  ]);
  if (fit !== 'lsq') refuseFixedPoint(entries, fit);
  const on = entries.range('a');
  const dx = entries.has('dx') ? entries.positive('dx') : undefined;
  return {
    kind: 'fit',
    fit,
    degree: entries.degree('deg'),
    on,
    ...(dx !== undefined && { dx }),
    ...(entries.has('weight') && { weight: entries.oneOf('weight', ['legendre', 'chebyshev'], 'legendre') }),
    ...modifiers(entries, on),
  };
}

const isDensity = (fit: IntervalFit | DensityFit): fit is DensityFit =>
  (DENSITY_FITS as readonly string[]).includes(fit);

function densityFitted(entries: Entries, fit: DensityFit): Recipe {
  if (!entries.has('deg')) throw entries.refuse('a fit takes deg= (deg=2,fit=gaussian)');
  entries.refuseFor(`fit=${fit}`, ['dx', 'weight', 'margin', ...(fit === 'measured' ? ['mean', 'std', 'per'] : [])]);
  refuseFixedPoint(entries, fit);
  const degree = entries.degree('deg');
  if (entries.has('a')) {
    const on = entries.range('a');
    if (!('from' in on))
      throw entries.refuse(
        fit === 'gaussian'
          ? 'fit=gaussian takes mean= and std=, or the statistics of a file (a=stats.json)'
          : 'fit=measured takes the statistics of a file (a=stats.json, from `probe -o`)',
      );
    entries.refuseFor(`a=${on.from}`, ['mean', 'std']);
    return { kind: 'density', fit, degree, on, ...modifiers(entries, on) };
  }
  if (fit === 'measured')
    throw entries.refuse('fit=measured takes the statistics of a file (a=stats.json, from `probe -o`)');
  const on = { mean: entries.number('mean', 0), std: entries.positive('std', 1) };
  if (Math.abs(on.mean) > 1e6 || on.std < 1e-6 || on.std > 1e6)
    throw entries.refuse('mean= lies within +-1e6, and std= between 1e-6 and 1e6');
  return { kind: 'density', fit, degree, on, ...modifiers(entries, on) };
}

/** Multiples of 2^-bits are chosen by least squares, which would undo another fit. */
function refuseFixedPoint(entries: Entries, fit: string): void {
  if (entries.has('round') && entries.text('round') !== 'pow2')
    throw entries.refuse(
      `round=${entries.text('round')} chooses coefficients by least squares, so fit=${fit} would be lost`,
    );
}

function modifiers(entries: Entries, on: Interval | Measured | object) {
  const measured = 'from' in on;
  if (entries.has('per')) {
    entries.oneOf('per', ['channel'], 'channel');
    if (!measured) throw entries.refuse('per=channel takes the statistics of a file (a=stats.json)');
  }
  const rounding = entries.rounding('round');
  return { ...(rounding && { rounding }), ...(entries.has('per') && { perChannel: true }) };
}

function format(recipe: Recipe): string {
  if (recipe.kind === 'fixed') return `coeffs=${recipe.polynomial.stages[0]?.coefficients.join(':')}`;
  if (recipe.kind !== 'fit' && recipe.kind !== 'density') return recipe.kind;
  const { degree, fit, on, rounding, perChannel } = recipe;
  const parts = [`deg=${degree}`];
  if ('from' in on) parts.push(`a=${on.from}`);
  else if ('mean' in on) parts.push(`mean=${on.mean}`, `std=${on.std}`);
  else parts.push(`a=${formatInterval(on)}`);
  if (fit !== 'lsq') parts.push(`fit=${fit}`);
  if ('from' in on && on.margin !== 1) parts.push(`margin=${on.margin}`);
  if (recipe.kind === 'fit' && recipe.dx !== undefined) parts.push(`dx=${recipe.dx}`);
  if (recipe.kind === 'fit' && recipe.weight) parts.push(`weight=${recipe.weight}`);
  if (rounding) parts.push(`round=${rounding.to === 'powers-of-two' ? 'pow2' : rounding.bits}`);
  if (perChannel) parts.push('per=channel');
  return parts.join(',');
}

const shortInterval = (interval: Interval): string => `[${interval.map((x) => Number(x.toPrecision(4))).join(', ')}]`;

/** 5 for [-5, 5], 'low:high' for others. */
const formatInterval = ([low, high]: Interval): string => (low === -high ? `${high}` : `${low}:${high}`);

/**
 * The spec with what was found in the statistics in their place, for people; a spec that says all there is to know, or
 * that differs by channel, stays as it is.
 */
export function formatResolved(spec: PolySpec, interval: Interval | null): string {
  const { recipe, text } = spec;
  if (interval === null) return text;
  // The range of a composite may have grown.
  if (recipe.kind === 'composite') return `${text} on ${shortInterval(interval)}`;
  const measured = recipe.kind === 'fit' && 'from' in recipe.on;
  if (!measured || recipe.perChannel) return text;
  return spec.preset ? `${text} on ${shortInterval(interval)}` : format({ ...recipe, on: interval });
}

/** `*` stands for any run of characters, `/` included, and `?` for one. Linear in the name for each `*`. */
export function globMatcher(glob: string): (name: string) => boolean {
  return (name) => {
    let [at, from] = [0, 0]; // in the glob, in the name
    let [star, retry] = [-1, 0]; // the last * and where the name goes on if it takes one character more
    while (from < name.length) {
      if (glob[at] === '*') {
        star = at++;
        retry = from;
      } else if (at < glob.length && (glob[at] === '?' || glob[at] === name[from])) {
        at++;
        from++;
      } else if (star >= 0) {
        at = star + 1;
        from = ++retry;
      } else return false;
    }
    while (glob[at] === '*') at++;
    return at === glob.length;
  };
}
