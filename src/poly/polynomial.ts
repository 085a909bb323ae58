/**
 * Polynomials as data: one series, in powers of x or in Chebyshev polynomials on an interval, or several series one into
 * the other, as the composites of minimax polynomials are. All of it survives JSON; `formatPolynomial` writes it as text
 * that `parsePolynomial` reads.
 */
import { SisyphusError } from '../errors.ts';

/** Constant first. */
export type Coefficients = readonly number[];
/** [low, high], low < high. */
export type Interval = readonly [low: number, high: number];

/** Sum of c_k x^k. */
export interface PowerSeries {
  readonly basis: 'power';
  readonly coefficients: Coefficients;
}
/** Sum of c_k T_k(t), where t in [-1, 1] stands for x in the interval. */
export interface ChebyshevSeries {
  readonly basis: 'chebyshev';
  readonly coefficients: Coefficients;
  readonly interval: Interval;
}
export type Series = PowerSeries | ChebyshevSeries;

/** stages[n](… stages[0](x)), and x times that where it is gated: x (1 + sign(x)) / 2 is ReLU. */
export interface Polynomial {
  readonly stages: readonly Series[];
  readonly gated: boolean;
}

export const powerSeries = (coefficients: Coefficients): PowerSeries => ({ basis: 'power', coefficients });
export const chebyshevSeries = (coefficients: Coefficients, interval: Interval): ChebyshevSeries => ({
  basis: 'chebyshev',
  coefficients,
  interval,
});
export const polynomial = (series: Series): Polynomial => ({ stages: [series], gated: false });
export const powers = (...coefficients: number[]): Polynomial => polynomial(powerSeries(coefficients));

/** p(x) in float64: Horner's rule, or Clenshaw's. */
export function evaluate({ stages, gated }: Polynomial, x: number): number {
  const value = stages.reduce((input, series) => evaluateSeries(series, input), x);
  return gated ? x * value : value;
}

export function evaluateSeries(series: Series, x: number): number {
  const { coefficients } = series;
  if (series.basis === 'power') {
    let sum = 0;
    for (let k = coefficients.length - 1; k >= 0; k--) sum = sum * x + (coefficients[k] as number);
    return sum;
  }
  const t = toUnit(series.interval, x);
  let [next, afterNext] = [0, 0];
  for (let k = coefficients.length - 1; k > 0; k--)
    [next, afterNext] = [2 * t * next - afterNext + (coefficients[k] as number), next];
  return t * next - afterNext + (coefficients[0] ?? 0);
}

/** Where x stands in the interval, -1 and 1 being its ends. */
export const toUnit = ([low, high]: Interval, x: number): number => (2 * x - (low + high)) / (high - low);
export const fromUnit = ([low, high]: Interval, t: number): number => (low + high + (high - low) * t) / 2;

/** Of the polynomial as a whole: degrees of composed stages multiply. */
export function degreeOf({ stages, gated }: Polynomial): number {
  return stages.reduce((product, { coefficients }) => product * (trim(coefficients).length - 1), 1) + Number(gated);
}

/** Without trailing zeros, so that the length tells the degree. */
export function trim(coefficients: Coefficients): Coefficients {
  let length = coefficients.length;
  while (length > 1 && coefficients[length - 1] === 0) length--;
  return coefficients.slice(0, length);
}

/** Sets to zero what is only rounding: terms below a share, `least`, of the largest one at magnitude `a`. */
export function prune(coefficients: Coefficients, a: number, least = 1e-12): Coefficients {
  const sizes = coefficients.map((c, k) => Math.abs(c) * a ** k);
  const largest = Math.max(...sizes);
  return trim(coefficients.map((c, k) => ((sizes[k] as number) < least * largest ? 0 : c)));
}

/**
 * The same polynomial in powers of x. The conversion loses about one digit for every two degrees: fine to degree 10, and
 * senseless above 20.
 */
export function toPowers(series: Series): PowerSeries {
  if (series.basis === 'power') return series;
  const [low, high] = series.interval;
  const [slope, shift] = [2 / (high - low), -(low + high) / (high - low)];
  // Clenshaw's rule on coefficient lists: t is slope x + shift.
  const timesT = (list: readonly number[]) => {
    const out = new Array<number>(list.length + 1).fill(0);
    for (const [k, c] of list.entries()) {
      (out[k] as number) += shift * c;
      (out[k + 1] as number) += slope * c;
    }
    return out;
  };
  let [next, afterNext]: number[][] = [[0], [0]];
  const step = (factor: number, c: number) => {
    const list = timesT(next as number[]).map((value, k) => factor * value - (afterNext?.[k] ?? 0));
    list[0] = (list[0] ?? 0) + c;
    return list;
  };
  for (let k = series.coefficients.length - 1; k > 0; k--)
    [next, afterNext] = [step(2, series.coefficients[k] as number), next];
  const sum = step(1, series.coefficients[0] ?? 0);
  const reach = Math.max(Math.abs(low), Math.abs(high));
  // The last two of float64's digits are rounding; without them c_1 of ReLU is 1/2 again.
  return powerSeries(
    prune(
      sum.map((c) => Number(c.toPrecision(14))),
      reach,
    ),
  );
}

/** The same polynomial in Chebyshev polynomials on an interval. */
export function toChebyshev(series: Series, interval: Interval): ChebyshevSeries {
  if (series.basis === 'chebyshev' && series.interval[0] === interval[0] && series.interval[1] === interval[1])
    return series;
  return chebyshevSeries(
    interpolate((x) => evaluateSeries(series, x), series.coefficients.length - 1, interval),
    interval,
  );
}

/** Chebyshev coefficients of the polynomial that meets f at the degree + 1 nodes of the first kind. */
export function interpolate(f: (x: number) => number, degree: number, interval: Interval): number[] {
  const count = degree + 1;
  const angle = (j: number) => (Math.PI * (j + 0.5)) / count;
  const values = Array.from({ length: count }, (_, j) => f(fromUnit(interval, Math.cos(angle(j)))));
  return Array.from({ length: count }, (_, k) => {
    const sum = values.reduce((so, value, j) => so + value * Math.cos(k * angle(j)), 0);
    return ((k === 0 ? 1 : 2) * sum) / count;
  });
}

/**
 * A series as text: `0.25 + 0.5 x - 0.125 x^2`, `0.2 + 0.5 T1 + 0.3 T2 on [-5, 5]`; stages in the order in which they are
 * applied, gated ones within `x * (…)`: `x * (1.5 x - 0.5 x^3 ; 0.5 + 0.5 x)`.
 * @param digits of each coefficient; default: all that it takes to read the same number back
 */
export function formatPolynomial({ stages, gated }: Polynomial, digits?: number): string {
  const text = stages.map((series) => formatSeries(series, digits)).join(' ; ');
  return gated ? `x * (${text})` : text;
}

function formatSeries(series: Series, digits?: number): string {
  const number = (c: number) => String(digits === undefined ? c : Number(c.toPrecision(digits)));
  const variable = (k: number) => (series.basis === 'chebyshev' ? `T${k}` : k === 1 ? 'x' : `x^${k}`);
  let text = '';
  for (const [k, c] of series.coefficients.entries()) {
    if (c === 0 && !(k === 0 && trim(series.coefficients).length === 1)) continue;
    const size = Math.abs(c);
    const term = k === 0 ? number(size) : size === 1 ? variable(k) : `${number(size)} ${variable(k)}`;
    text += text === '' ? (c < 0 ? `-${term}` : term) : `${c < 0 ? ' - ' : ' + '}${term}`;
  }
  return series.basis === 'power' ? text : `${text} on [${series.interval.join(', ')}]`;
}

/** Reads what `formatPolynomial` writes. @throws SisyphusError `spec` */
export function parsePolynomial(text: string): Polynomial {
  const gate = /^\s*x\s*\*\s*\((?<inner>.*)\)\s*$/s.exec(text)?.groups?.inner;
  const stages = (gate ?? text).split(';').map((part) => parseSeries(part, text));
  return { stages, gated: gate !== undefined };
}

const TERM =
  /\s*(?<sign>[+-])?\s*(?<number>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)?\s*\*?\s*(?<variable>x(?:\^\d+)?|T\d+)?/iy;

function parseSeries(text: string, whole: string): Series {
  const refuse = (why: string) => new SisyphusError('spec', `polynomial '${whole.trim()}': ${why}`);
  const range = /^(?<sum>.*?)\s+on\s*\[(?<low>[^,\]]+),(?<high>[^,\]]+)\]\s*$/s.exec(text)?.groups;
  const sum = (range?.sum ?? text).trim();
  const coefficients: number[] = [];
  const kinds = new Set<string>();
  for (let at = 0; at < sum.length; ) {
    TERM.lastIndex = at;
    const match = TERM.exec(sum);
    const { sign, number, variable } = match?.groups ?? {};
    if (!match || (number === undefined && variable === undefined) || (at > 0 && !sign))
      throw refuse(`'${sum.slice(at).trim()}' is no sum of terms such as 0.5 x^2 or 0.5 T2`);
    at = TERM.lastIndex;
    const k = variable === undefined ? 0 : Number(/\d+$/.exec(variable)?.[0] ?? 1);
    if (k > 1000) throw refuse(`degree ${k} is above 1000`);
    if (variable) kinds.add(variable[0]?.toLowerCase() ?? '');
    while (coefficients.length <= k) coefficients.push(0);
    (coefficients[k] as number) += Number(number ?? 1) * (sign === '-' ? -1 : 1);
  }
  if (coefficients.length === 0) throw refuse('it has no terms');
  if (!coefficients.every(Number.isFinite)) throw refuse('a coefficient is not finite');
  if (kinds.size > 1) throw refuse('powers and Chebyshev polynomials are mixed');
  if (!range) {
    if (kinds.has('t')) throw refuse('Chebyshev polynomials take an interval: … on [-5, 5]');
    return powerSeries(coefficients);
  }
  const [low, high] = [Number(range.low), Number(range.high)];
  if (!(Number.isFinite(low) && Number.isFinite(high) && low < high)) throw refuse('the interval is [low, high]');
  if (kinds.has('x')) throw refuse('powers of x take no interval');
  return chebyshevSeries(coefficients, [low, high]);
}
