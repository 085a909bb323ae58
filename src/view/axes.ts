/**
 * Axes whose change of variable, ticks and labels are computed here, so that a value of 1e38 and one that is not finite
 * fit on them; vega draws them as linear ones.
 */
import { numberText } from './text.ts';

export interface Tick {
  /** Its place on the drawn axis. */
  readonly at: number;
  readonly label: string;
}

export interface Axis {
  /** Where a value lies on the drawn axis. */
  readonly place: (value: number) => number;
  /** The ends of the drawn axis. */
  readonly domain: readonly [number, number];
  readonly ticks: readonly Tick[];
}

/** The smallest of 1, 2, 5, 10, 20, … times `unit` that is at least `step`. */
function roundStep(step: number, unit = 10 ** Math.floor(Math.log10(step))): number {
  for (let scale = unit; ; scale *= 10)
    for (const factor of [1, 2, 5]) if (factor * scale >= step * (1 - 1e-9)) return factor * scale;
}

/** From a round number to a round number, with about `count` ticks. */
export function linearAxis(low: number, high: number, count: number): Axis {
  if (!(high > low)) {
    const room = Math.abs(low) / 10 || 1;
    return linearAxis(low - room, low + room, count);
  }
  const step = roundStep((high - low) / count);
  const [first, last] = [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)];
  const values = range(first, last).map((i) => Number((i * step).toPrecision(12)));
  return {
    place: (value) => value,
    domain: [values[0] as number, values.at(-1) as number],
    ticks: values.map((at) => ({ at, label: numberText(at) })),
  };
}

/** From a power of ten to a power of ten; for positive values. */
export function logAxis(low: number, high: number, count: number): Axis {
  const first = Math.floor(Math.log10(low));
  const last = Math.max(first + 1, Math.ceil(Math.log10(high)));
  const stride = roundStep((last - first) / count, 1);
  const powers = range(Math.ceil(first / stride), Math.floor(last / stride)).map((k) => k * stride);
  const few = last - first <= 2;
  const between = few ? powers.slice(0, -1).flatMap((k) => [k, k + Math.log10(2), k + Math.log10(5)]) : powers;
  const places = few ? [...between, last] : powers;
  return {
    place: Math.log10,
    domain: [first, last],
    ticks: places.map((at) => ({ at, label: powerText(10 ** at) })),
  };
}

/** '0.01', '500', '1e4', '1e38'. */
function powerText(x: number): string {
  const size = Math.abs(x);
  const plain = size === 0 || (size > 0.5e-3 && size < 0.5e4);
  return plain ? numberText(x, 1) : Number(x.toPrecision(1)).toExponential().replace('e+', 'e');
}

/** How much larger than the typical value the largest may be on a linear axis. */
const LINEAR_REACH = 30;

/**
 * From one value to another: linear, or symmetric logarithmic, sign(x) log(1 + |x| / unit), where values reach far beyond
 * the typical magnitude. Then the unit is the power of ten above that.
 */
export function signedAxis(low: number, high: number, typical: number, count: number): Axis {
  const largest = Math.max(Math.abs(low), Math.abs(high));
  if (!(typical > 0) || largest <= LINEAR_REACH * typical) {
    const axis = linearAxis(low, high, 1.5 * count); // its ends, which are cut, have ticks too
    return high > low ? cut(axis, low, high) : axis;
  }
  const unit = 10 ** Math.ceil(Math.log10(typical));
  const place = (x: number) => Math.sign(x) * Math.log1p(Math.abs(x) / unit);
  const domain = [place(low), place(high)] as const;
  const decades = (domain[1] - domain[0]) / Math.LN10;
  const stride = Math.max(1, Math.ceil(decades / count));
  const reach = Math.ceil(Math.log10(largest / unit) / stride);
  const values = range(-reach, reach).map((k) => Math.sign(k) * unit * 10 ** (Math.abs(k) * stride));
  const ticks = values.map((x) => ({ at: place(x), label: powerText(x) }));
  return cut({ place, domain, ticks }, ...domain);
}

const cut = (axis: Axis, low: number, high: number): Axis => ({
  ...axis,
  domain: [low, high],
  ticks: axis.ticks.filter(({ at }) => at >= low && at <= high),
});

/** Counts from 1 to `last`, labelled every 1, 2, 5, 10, … */
export function countingAxis(last: number, count: number): Axis {
  const step = last <= count ? 1 : Math.max(5, roundStep(last / count));
  const labelled = range(1, last).filter((n) => n === 1 || n % step === 0);
  return {
    place: (n) => n,
    domain: [0.5, Math.max(1, last) + 0.5],
    ticks: labelled.map((n) => ({ at: n, label: String(n) })),
  };
}

const range = (first: number, last: number): number[] =>
  Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
