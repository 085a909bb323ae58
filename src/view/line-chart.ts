/** Lines on an axis where every value has a place: those that are not finite, or have no logarithm, in a lane of their own. */
import type { TopLevelSpec } from 'vega-lite';
import { type Axis, linearAxis, logAxis } from './axes.ts';
import { COLORS, type FrameAxis, frame, isNarrow, least, most } from './plot.ts';
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
  readonly x: FrameAxis;
  readonly y: { readonly title: string; readonly log: boolean };
}

/** A line that meets a value that is not finite ends there, and a new one begins after it. */
export function lineChart(lines: readonly Line[], { width, description, x, y }: LineOptions): TopLevelSpec {
  const narrow = isNarrow(width);
  const scale = laneScale(lines, y.log);
  const rows = lines.flatMap(({ points }, i) => {
    let segment = 0;
    return points.map((point) => {
      const finite = Number.isFinite(point.y);
      const place = { x: point.x, y: scale.place(point.y, i), segment };
      if (!finite) segment++;
      return { ...place, line: String(i), twin: String(i), tip: point.tip, finite };
    });
  });
  const names = lines.length > 1 ? lines.map(({ name }) => shorten(name, narrow ? 32 : 60)) : [];
  const yAxis = { axis: scale.axis, title: y.title };
  const plot = frame({ width, height: narrow ? 250 : 320, x: { ...x, grid: false }, y: yAxis, legend: names });
  const marked = lines.every(({ points }) => points.length <= MARKED_POINTS);
  const legend = plot.legend && { ...plot.legend, labelExpr: 'names[datum.value]', ...(marked ? {} : STROKES) };
  // Legends of one field become one, so what stays out of it has a field of its own.
  const styled = <T>(list: readonly T[], inLegend: boolean) => ({
    field: inLegend ? 'line' : 'twin',
    type: 'nominal' as const,
    scale: { domain: lines.map((_, i) => String(i)), range: lines.map((_, i) => list[i % list.length] as T) },
    legend: inLegend ? legend : null,
  });
  const color = styled(COLORS, true);
  const points = { color, shape: styled(SHAPES, marked), description: { field: 'tip', type: 'nominal' as const } };
  const size = rows.length > 200 ? 18 : 38;
  return {
    ...plot.layout,
    description,
    encoding: { x: plot.x, y: plot.y },
    layer: [
      ...scale.lanes.map((lane) => ({
        data: { values: [lane] },
        mark: { type: 'rect' as const, color: lane.color, aria: false },
        encoding: { x: { value: 0 }, x2: { value: 'width' as const }, y2: { field: 'to' } },
      })),
      {
        data: { values: rows },
        mark: { type: 'line', strokeWidth: 1.8, strokeJoin: 'round', aria: false },
        encoding: {
          color,
          strokeDash: styled(DASHES, !marked),
          detail: { field: 'segment', type: 'nominal' },
        },
      },
      {
        data: { values: rows.filter(({ finite }) => finite && marked) },
        mark: { type: 'point', filled: true, size, opacity: 1 },
        encoding: points,
      },
      {
        data: { values: rows.filter(({ finite }) => !finite) },
        mark: { type: 'point', filled: false, size: 1.3 * size, strokeWidth: 1.8, opacity: 1 },
        encoding: points,
      },
    ],
  };
}

const STROKES = { symbolType: 'stroke', symbolSize: 300 };

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
  const above = broken.length === 0 ? 0 : height * Math.max(0.14, 0.05 * (broken.length + 1));
  const lowest = log ? least(all.filter((y) => Number.isFinite(y))) : 1;
  const below = lowest <= 0 ? height * 0.14 : 0;
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
