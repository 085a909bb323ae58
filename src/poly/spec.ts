/** Polynomials as the user writes them: `deg=4,a=5`, `taylor`, `quad`, `coeffs=0.2:0.5:0.2`, and for some sites only. */
import { didYouMean, SisyphusError } from '../errors.ts';
import type { Activation } from './activations.ts';
import { type Coefficients, leastSquares, MAX_DEGREE, tangent, trim } from './fit.ts';

export type PolySpec =
  /** Least squares on [-range, range]; `dx` takes the paper's grid in place of the continuous density. */
  | { readonly kind: 'fit'; readonly degree: number; readonly range: number; readonly dx?: number }
  /** The same, the range of each site being the largest magnitude that a statistics file holds for it. */
  | { readonly kind: 'measured'; readonly degree: number; readonly file: string; readonly dx?: number }
  | { readonly kind: 'taylor' }
  | { readonly kind: 'quad' }
  | { readonly kind: 'coefficients'; readonly values: Coefficients };

/** One that says all there is to know. */
export type FixedSpec = Exclude<PolySpec, { readonly kind: 'measured' }>;

/** A spec for the sites whose name matches; null for all. */
export interface SiteSpec {
  readonly glob: string | null;
  readonly spec: PolySpec;
}

const WORDS = ['taylor', 'quad'];
const KEYS = ['deg', 'a', 'coeffs', 'fit', 'dx'];
const FITS = ['lsq'];

/** Parses `SPEC` or `GLOB=SPEC`. @throws SisyphusError `spec` */
export function parseSiteSpec(text: string): SiteSpec {
  const keys = KEYS.join('|');
  const match = new RegExp(`^(?:(?<glob>.+?)=)?(?<spec>(?:${keys})=.*|${WORDS.join('|')})$`, 's').exec(text);
  const spec = match?.groups?.spec ?? text;
  return { glob: match?.groups?.glob ?? null, spec: parseSpec(spec) };
}

/** Parses one polynomial spec. @throws SisyphusError `spec` */
export function parseSpec(text: string): PolySpec {
  const word = text.trim();
  if (word === 'taylor' || word === 'quad') return { kind: word };
  const refuse = (why: string) => new SisyphusError('spec', `--poly '${text}': ${why}`);
  const entries = new Map<string, string>();
  for (const part of text.split(',').map((piece) => piece.trim())) {
    const at = part.indexOf('=');
    const key = at < 0 ? part : part.slice(0, at);
    if (WORDS.includes(part)) throw refuse(`${part} stands alone`);
    if (at < 0 && entries.has('coeffs')) throw refuse("coefficients are separated by ':' (c0:c1:c2, constant first)");
    if (at < 0) throw refuse(`'${part}' is no polynomial${didYouMean(part, [...WORDS, ...KEYS.map((k) => `${k}=…`)])}`);
    if (!KEYS.includes(key)) throw refuse(`unknown key '${key}'${didYouMean(key, KEYS)}`);
    if (entries.has(key)) throw refuse(`'${key}' is given twice`);
    entries.set(key, part.slice(at + 1));
  }
  const number = (key: string): number => {
    const word = entries.get(key) ?? '';
    const value = Number(word);
    if (word.trim() === '' || !Number.isFinite(value))
      throw refuse(
        `${key}='${word}' is not a finite number${key === 'a' ? ', nor a statistics file (a=stats.json)' : ''}`,
      );
    return value;
  };

  const list = entries.get('coeffs');
  if (list !== undefined) {
    if (entries.size > 1) throw refuse('coeffs= stands alone');
    const values = list.split(':').map((word) => {
      const value = Number(word);
      if (word.trim() === '' || !Number.isFinite(value))
        throw refuse(`'${word}' is not a finite number (c0:c1:c2, constant first)`);
      return value;
    });
    const trimmed = trim(values);
    if (trimmed.length < 2) throw refuse('a constant would cut the network off from its input; give c0:c1 at least');
    if (trimmed.length > MAX_DEGREE + 1) throw refuse(`degree ${trimmed.length - 1} is above ${MAX_DEGREE}`);
    return { kind: 'coefficients', values: trimmed };
  }
  const fit = entries.get('fit') ?? 'lsq';
  if (!FITS.includes(fit)) throw refuse(`unknown fit '${fit}'${didYouMean(fit, FITS)}`);
  if (!entries.has('deg') || !entries.has('a')) throw refuse('a fit takes both deg= and a= (deg=4,a=5)');
  const degree = number('deg');
  if (!Number.isInteger(degree) || degree < 1 || degree > MAX_DEGREE)
    throw refuse(`deg=${entries.get('deg')} must be a whole number from 1 to ${MAX_DEGREE}`);
  const file = entries.get('a') ?? '';
  const measured = file.endsWith('.json');
  const range = measured ? 1 : number('a');
  if (range <= 0) throw refuse(`a=${range} must be above 0: the range is [-a, a]`);
  if (range < 1e-6 || range > 1e6) throw refuse(`a=${range} must lie between 1e-6 and 1e6`);
  const dx = entries.has('dx') ? number('dx') : undefined;
  if (dx !== undefined && dx <= 0) throw refuse(`dx=${dx} must be above 0`);
  const common = { degree, ...(dx !== undefined && { dx }) };
  return measured ? { kind: 'measured', file, ...common } : { kind: 'fit', range, ...common };
}

/** The spec as text that parses back to it. */
export function formatSpec(spec: PolySpec): string {
  if (spec.kind === 'fit' || spec.kind === 'measured') {
    const range = spec.kind === 'fit' ? spec.range : spec.file;
    return `deg=${spec.degree},a=${range}${spec.dx === undefined ? '' : `,dx=${spec.dx}`}`;
  }
  return spec.kind === 'coefficients' ? `coeffs=${spec.values.join(':')}` : spec.kind;
}

/** The polynomial that a spec means for an activation. */
export function polynomialFor(spec: FixedSpec, activation: Activation): Coefficients {
  if (spec.kind === 'fit') return leastSquares(activation, spec.degree, spec.range, spec.dx);
  if (spec.kind === 'taylor') return tangent(activation);
  return spec.kind === 'quad' ? [0, 0, 1] : spec.values;
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
