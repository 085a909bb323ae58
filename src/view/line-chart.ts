/** Lines on an axis where every value has a place: those that are not finite, or have no logarithm, in a lane of their own. */
import type { TopLevelSpec } from 'vega-lite';
import { type Axis, linearAxis, logAxis } from './axes.ts';
import { COLORS, channel, frame, isNarrow, least, most } from './plot.ts';
import { shorten } from './text.ts';

const SHAPES = ['circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down'];
const DASHES = [
  [1, 0],
  [6, 3],
  [2, 2],
  [8, 2, 2, 2],
  [12, 4],
];
/** Longer lines go without a mark at each point. */
const MARKED_POINTS = 150;

export interface Line {
  readonly name: string;
  readonly points: readonly { readonly x: number; readonly y: number; readonly tip: string }[];
}

interface LineOptions {
  readonly width: number;
  readonly description: string;
  readonly x: { readonly axis: Axis; readonly title: string; readonly labelAngle?: number };
  readonly y: { readonly title: string; readonly log: boolean };
}

/** A line that meets a value that is not finite ends there, and a new one begins after it. */
export function lineChart(lines: readonly Line[], options: LineOptions): TopLevelSpec {
  const { width, description, x } = options;
  const scale = laneScale(lines, options.y.log);
  const rows = lines.flatMap(({ points }, i) => {
    let segment = 0;
    return points.map((point) => {
      const finite = Number.isFinite(point.y);
      const row = { line: String(i), twin: String(i), segment, x: point.x, y: scale.place(point.y, i), tip: point.tip, finite };
      if (!finite) segment++;
      return row;
    });
  });
  const keys = lines.map((_, i) => String(i));
  const cycle = <T>(list: readonly T[]) => keys.map((_, i) => list[i % list.length] as T);
  const marked = lines.every(({ points }) => points.length <= MARKED_POINTS);
  const names = lines.map(({ name }) => shorten(name, isNarrow(width) ? 30 : 60));
  const legend = lines.length > 1 ? legendFor(names, width, marked) : null;
  // Legends of one field become one, so what stays out of it has a field of its own.
  const styled = <T>(list: readonly T[], inLegend: boolean) => ({
    field: inLegend ? 'line' : 'twin',
    type: 'nominal' as const,
    scale: { domain: keys, range: cycle(list) },
    legend: inLegend ? legend : null,
  });
  const pointStyle = {
    color: styled(COLORS, true),
    shape: styled(SHAPES, marked),
    description: { field: 'tip', type: 'nominal' as const },
  };
  const base = frame(width, isNarrow(width) ? 250 : 320, x.axis, scale.axis);
  const style = x.labelAngle === undefined ? {} : { labelAngle: x.labelAngle };
  return {
    ...base,
    description,
    params: [...base.params, { name: 'names', value: names }],
    encoding: {
      x: channel('x', x.axis, x.title, { grid: false, ...style }),
      y: channel('y', scale.axis, options.y.title),
    },
    layer: [
      {
        data: { values: [...scale.lanes] },
        mark: { type: 'rect', aria: false },
        encoding: {
          x: { value: 0 },
          x2: { value: 'width' },
          y2: { field: 'to' },
          color: { field: 'color', type: 'nominal', scale: null },
        },
      },
      {
        data: { values: rows },
        mark: { type: 'line', strokeWidth: 1.8, strokeJoin: 'round', aria: false },
        encoding: {
          color: styled(COLORS, true),
          strokeDash: styled(DASHES, !marked),
          detail: { field: 'segment', type: 'nominal' },
        },
      },
      {
        data: { values: rows.filter(({ finite }) => finite && marked) },
        mark: { type: 'point', filled: true, size: rows.length > 200 ? 18 : 38, opacity: 1 },
        encoding: pointStyle,
      },
      {
        data: { values: rows.filter(({ finite }) => !finite) },
        mark: { type: 'point', filled: false, size: 55, strokeWidth: 2, opacity: 1 },
        encoding: pointStyle,
      },
    ],
  };
}

function legendFor(names: readonly string[], width: number, marked: boolean) {
  const longest = most(names.map((name) => name.length));
  return {
    title: null,
    orient: 'top' as const,
    columns: Math.min(names.length, Math.max(1, Math.floor((width - 80) / (longest * 9 + 30)))),
    labelExpr: 'names[datum.value]',
    ...(marked ? {} : { symbolType: 'stroke', symbolSize: 300 }),
  };
}

interface LaneScale {
  readonly axis: Axis;
  readonly place: (value: number, line: number) => number;
  /** Backgrounds of the lanes. */
  readonly lanes: readonly { readonly y: number; readonly to: number; readonly color: string }[];
}

/** An axis for the values that have a place on it, and lanes above and below for those that have none. */
function laneScale(lines: readonly Line[], log: boolean): LaneScale {
  const all = lines.flatMap(({ points }) => points.map(({ y }) => y));
  const values = all.filter((y) => Number.isFinite(y) && (!log || y > 0));
  const [low, high] = values.length > 0 ? [least(values), most(values)] : [1, 10];
  const axis = (log ? logAxis : linearAxis)(low, high, 7);
  const [bottom, top] = axis.domain;
  const height = top - bottom;
  // Each line has its own height in the lane, so that none hides another.
  const broken = lines.flatMap(({ points }, i) => (points.every(({ y }) => Number.isFinite(y)) ? [] : [i]));
  const above = broken.length === 0 ? 0 : height * 0.05 * (broken.length + 1);
  const lowest = log ? least(all.filter((y) => Number.isFinite(y))) : 1;
  const below = lowest <= 0 ? height * 0.08 : 0;
  const place = (value: number, line: number) => {
    if (!Number.isFinite(value)) return top + (above * (broken.length - broken.indexOf(line))) / (broken.length + 1);
    return log && value <= 0 ? bottom - below / 2 : axis.place(value);
  };
  return {
    axis: {
      place: axis.place,
      domain: [bottom - below, top + above],
      ticks: [
        ...axis.ticks,
        ...(above > 0 ? [{ at: top + above / 2, label: 'non-finite' }] : []),
        ...(below > 0 ? [{ at: bottom - below / 2, label: lowest < 0 ? '≤ 0' : '0' }] : []),
      ],
    },
    place,
    lanes: [
      ...(above > 0 ? [{ y: top, to: top + above, color: '#fbe9e7' }] : []),
      ...(below > 0 ? [{ y: bottom - below, to: bottom, color: '#f1f1f1' }] : []),
    ],
  };
}
