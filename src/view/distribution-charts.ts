/** Charts of how values are distributed, from plain data. */
import type { TopLevelSpec } from 'vega-lite';
import { type Axis, linearAxis, logAxis, signedAxis } from './axes.ts';
import { BLUE, frame, GREY, isFiniteNumber, isNarrow, least, most, RED, ticksAcross } from './plot.ts';
import { type Chart, LABEL_SIZE } from './svg.ts';
import { numberText, siteLabels, textWidth } from './text.ts';

export interface HistogramData {
  /** Ascending, one more than there are counts. */
  readonly edges: readonly number[];
  readonly counts: readonly number[];
}

export interface HistogramOptions {
  /** Drawn as rules at -range and range. */
  readonly range?: number | null;
  /** A logarithmic axis of counts. */
  readonly log?: boolean;
}

/** Bins of the drawing. */
const BINS = 120;

/**
 * How the values at one site are distributed. Bins may differ in width: they are counted into equal bins of the axis as
 * it is drawn, so that heights and areas are numbers of values. That axis is symmetric logarithmic where values reach far
 * beyond the typical ones.
 */
export function histogramChart({ edges, counts }: HistogramData, options: HistogramOptions = {}): Chart {
  const { range = null, log = false } = options;
  const marks = range === null ? [] : [-range, range];
  const ends = edges.length > 0 ? [...edges, ...marks] : [-1, 1, ...marks];
  const total = counts.reduce((sum, count) => sum + count, 0);
  const typical = typicalMagnitude(edges, counts);
  const draw = (width: number): TopLevelSpec => {
    const x = signedAxis(least(ends), most(ends), typical, ticksAcross(width));
    const heights = rebin(edges.map(x.place), counts, x.domain);
    const y = countAxis(heights, log);
    const [first, last] = x.domain;
    const outline = [...heights, 0].map((height, i) => ({
      x: first + ((last - first) * i) / BINS,
      y: height > 0 ? Math.max(y.domain[0], y.place(height)) : y.domain[0],
    }));
    const rule = (value: number, align: 'left' | 'right') => ({
      data: { values: [{ x: x.place(value), text: numberText(value) }] },
      layer: [
        { mark: { type: 'rule' as const, color: RED, strokeDash: [5, 3], strokeWidth: 1.5, aria: false } },
        {
          mark: { type: 'text' as const, align, baseline: 'bottom' as const, color: RED, fontSize: 11, aria: false },
          encoding: { y: { value: -6 }, text: { field: 'text', type: 'nominal' as const } },
        },
      ],
    });
    const plot = frame({
      width,
      height: 150,
      x: { axis: x, title: 'value', grid: false },
      y: { axis: y, title: 'values' },
      overhang: range === null ? 0 : textWidth(numberText(range), LABEL_SIZE) + 2,
    });
    return {
      ...plot.layout,
      description: `Histogram of ${numberText(total)} values`,
      encoding: { x: plot.x },
      layer: [
        {
          data: { values: outline },
          mark: { type: 'area', interpolate: 'step-after', color: BLUE, opacity: 0.8, aria: false },
          encoding: { y: plot.y, y2: { datum: y.domain[0] } },
        },
        ...(range === null ? [] : [rule(-range, 'right'), rule(range, 'left')]),
      ],
    };
  };
  return { compact: true, draw };
}

/** The magnitude that half of the values lie below, by the middles of their bins. */
function typicalMagnitude(edges: readonly number[], counts: readonly number[]): number {
  const bins = counts.map((count, i) => ({ count, size: Math.abs(((edges[i] ?? 0) + (edges[i + 1] ?? 0)) / 2) }));
  let left = bins.reduce((sum, { count }) => sum + count, 0) / 2;
  for (const { count, size } of bins.sort((a, b) => a.size - b.size)) {
    left -= count;
    if (left <= 0 && size > 0) return size;
  }
  return 0;
}

/** Counts in equal bins over the domain; each bin gives to those that it overlaps, by how much it does. */
function rebin(edges: readonly number[], counts: readonly number[], [low, high]: readonly [number, number]): number[] {
  const bins = new Array<number>(BINS).fill(0);
  const place = (edge: number) => Math.min(BINS, Math.max(0, ((edge - low) / (high - low)) * BINS));
  for (const [i, count] of counts.entries()) {
    const from = place(edges[i] as number);
    const to = Math.max(place(edges[i + 1] as number), from);
    const first = Math.min(BINS - 1, Math.floor(from));
    for (let k = first; k === first || (k < to && k < BINS); k++) {
      const share = to > from ? (Math.min(to, k + 1) - Math.max(from, k)) / (to - from) : 1;
      bins[k] = (bins[k] as number) + count * share;
    }
  }
  return bins;
}

function countAxis(heights: readonly number[], log: boolean): Axis {
  const tallest = Math.max(1, most(heights));
  const lowest = least(heights.filter((height) => height > 0));
  // From below the lowest, so that it is seen.
  return log ? logAxis(Math.min(lowest, tallest) / 2, tallest, 4) : linearAxis(0, tallest, 4);
}

export interface RangeRow {
  readonly site: string;
  /** null, here and below, where there is no such number. */
  readonly min: number | null;
  readonly max: number | null;
  /** Quantiles of 0.1 % and 99.9 %. */
  readonly low: number | null;
  readonly high: number | null;
  readonly mean: number | null;
  readonly std: number | null;
}

interface Part {
  readonly name: string;
  readonly color: string;
  readonly thickness: number;
  readonly ends: (row: RangeRow) => readonly [number | null, number | null];
}

/** What is drawn of each row, one over the other. */
const PARTS: readonly Part[] = [
  { name: 'min to max', color: GREY, thickness: 2, ends: ({ min, max }) => [min, max] },
  { name: '0.1 % to 99.9 %', color: '#86bfe0', thickness: 10, ends: ({ low, high }) => [low, high] },
  {
    name: 'mean ± std',
    color: '#004d7a',
    thickness: 4,
    ends: ({ mean, std }) => (mean === null || std === null ? [null, null] : [mean - std, mean + std]),
  },
];

/** Where the values at each site lie. The axis is symmetric logarithmic where sites differ much. */
export function rangesChart(rows: readonly RangeRow[]): Chart {
  const extremes = rows.flatMap(({ min, max }) => [min, max]).filter(isFiniteNumber);
  const ends = extremes.length > 0 ? extremes : [-1, 1];
  const sizes = rows.map(({ low, high }) => Math.max(Math.abs(low ?? 0), Math.abs(high ?? 0)));
  const typical = least(sizes.filter((size) => size > 0));
  const draw = (width: number): TopLevelSpec => {
    const x = signedAxis(least(ends), most(ends), Number.isFinite(typical) ? typical : 0, ticksAcross(width * 0.7));
    const [first, last] = x.domain;
    const place = (value: number) => Math.min(last, Math.max(first, x.place(value)));
    const labels = siteLabels(
      rows.map(({ site }) => site),
      isNarrow(width) ? 16 : 30,
    );
    const ticks = labels.map((label, at) => ({ at, label }));
    const y: Axis = { place: (row) => row, domain: [rows.length - 0.5, -0.5], ticks };
    const empty = rows.flatMap(({ min }, i) => (isFiniteNumber(min) ? [] : [{ x: first, y: i }]));
    const plot = frame({
      width,
      height: 18 * Math.max(1, rows.length),
      x: { axis: x, title: 'value' },
      y: { axis: y, title: null, grid: false, ticks: false },
      legend: PARTS.map(({ name }) => name),
    });
    return {
      ...plot.layout,
      description: `The ranges of values at ${rows.length} sites`,
      encoding: { x: plot.x, y: plot.y },
      layer: [
        ...PARTS.map(({ name, thickness, ends }) => ({
          data: {
            values: rows.flatMap((row, i) => {
              const [from, to] = ends(row);
              if (!isFiniteNumber(from) || !isFiniteNumber(to)) return [];
              const tip = `${row.site}, ${name}: ${numberText(from)} to ${numberText(to)}`;
              return [{ x: place(from), to: place(to), y: i, tip }];
            }),
          },
          mark: { type: 'rule' as const, strokeWidth: thickness },
          encoding: {
            x2: { field: 'to' },
            color: {
              datum: name,
              scale: { domain: PARTS.map((part) => part.name), range: PARTS.map((part) => part.color) },
              legend: plot.legend && { ...plot.legend, symbolType: 'stroke', symbolStrokeWidth: 5 },
            },
            description: { field: 'tip', type: 'nominal' as const },
          },
        })),
        {
          data: { values: empty },
          mark: { type: 'text', text: 'no finite value', align: 'left', dx: 4, color: RED, fontSize: 11, aria: false },
        },
      ],
    };
  };
  return { draw };
}
