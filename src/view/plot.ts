/** What the charts share: colours, and the frame around a plot. */
import type { Axis } from './axes.ts';
import { LABEL_SIZE, NARROW } from './svg.ts';
import { textWidth } from './text.ts';

/** Colours of Okabe and Ito, which colour-blind people can tell apart; those that stand out from white come first. */
export const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#555555'];
export const [BLUE, RED, GREY] = ['#0072b2', '#b3261e', '#777777'];

/** How many ticks have room side by side. */
export const ticksAcross = (width: number): number => Math.max(4, Math.floor(width / 70));

export const isNarrow = (width: number): boolean => width <= NARROW;

const MARGIN = 6;
/** The height of a line of text. */
const ROW = 18;

export interface FrameAxis {
  readonly axis: Axis;
  readonly title: string | null;
  readonly grid?: boolean;
  readonly ticks?: boolean;
  readonly labelAngle?: number;
}

export interface FrameOptions {
  /** With all that is around the plot, in pixels. */
  readonly width: number;
  /** Of the plot alone. */
  readonly height: number;
  readonly x: FrameAxis;
  readonly y: FrameAxis;
  /** What each entry of the legend says. Default: no legend. */
  readonly legend?: readonly string[];
  /** Room for text that reaches beyond the right end of the plot. */
  readonly overhang?: number;
}

/**
 * Where plot, axes and legend are: parts of the specification, and the encodings of the fields `x` and `y`. Room is
 * measured here, because vega without a canvas takes text for a third wider than it is. Labels are data, never parts of
 * expressions.
 */
export function frame({ width, height, x, y, legend = [], overhang = 0 }: FrameOptions) {
  const angle = ((x.labelAngle ?? 0) * Math.PI) / 180;
  const longest = widest(x.axis);
  const lastLabel = textWidth(x.axis.ticks.at(-1)?.label ?? '', LABEL_SIZE);
  // Slanted labels end below their ticks, so they reach out on the left.
  const [leftReach, rightReach] = angle === 0 ? [0, lastLabel / 2] : [Math.cos(angle) * longest - 20, 0];
  const left = Math.ceil(MARGIN + 8 + Math.max(widest(y.axis), leftReach));
  const right = Math.ceil(MARGIN + Math.max(overhang, rightReach));
  const labels = 10 + Math.abs(Math.sin(angle)) * longest + Math.abs(Math.cos(angle)) * LABEL_SIZE;
  const columns = legendColumns(legend, width - 2 * MARGIN);
  const key = columns > 0 ? Math.ceil(legend.length / columns) * ROW + 6 : 0;
  const top = MARGIN + 6 + key + (y.title === null ? 0 : 9 + ROW);
  const ticks = { x: x.axis.ticks, y: y.axis.ticks };
  return {
    layout: {
      width: width - left - right,
      height,
      autosize: 'none' as const,
      padding: { left, right, top, bottom: MARGIN + labels + (x.title === null ? 0 : ROW) },
      params: [
        ...(['x', 'y'] as const).flatMap((name) => [
          { name: `${name}Ticks`, value: ticks[name].map(({ at }) => at) },
          { name: `${name}Labels`, value: ticks[name].map(({ label }) => label) },
        ]),
        { name: 'names', value: [...legend] },
      ],
    },
    x: channel('x', x, { titleY: labels + 4, titleBaseline: 'top' as const }),
    // Upright above the axis, where it takes no width.
    y: channel('y', y, {
      titleX: MARGIN - left,
      titleY: -19,
      titleAngle: 0,
      titleAlign: 'left' as const,
      titleBaseline: 'bottom' as const,
    }),
    legend:
      columns > 0
        ? {
            title: null,
            orient: 'none' as const,
            direction: 'horizontal' as const,
            columns,
            legendX: MARGIN - left,
            legendY: MARGIN - top,
          }
        : null,
  };
}

const widest = ({ ticks }: Axis): number => most([0, ...ticks.map(({ label }) => textWidth(label, LABEL_SIZE))]);

/** Columns are as wide as vega takes their text for. */
function legendColumns(names: readonly string[], width: number): number {
  const column = 30 + 0.8 * LABEL_SIZE * most([0, ...names.map((name) => name.length)]);
  return Math.min(names.length, Math.max(1, Math.floor(width / column)));
}

function channel<T extends object>(name: 'x' | 'y', { axis, title, ...style }: FrameAxis, place: T) {
  return {
    field: name,
    type: 'quantitative' as const,
    scale: { domain: [...axis.domain], nice: false, zero: false },
    axis: {
      title,
      values: axis.ticks.map(({ at }) => at),
      labelExpr: `${name}Labels[indexof(${name}Ticks, datum.value)]`,
      labelLimit: 0,
      labelOverlap: false,
      labelFlush: false,
      ...place,
      ...style,
    },
  };
}

export const isFiniteNumber = (x: number | null | undefined): x is number => Number.isFinite(x);

// Not Math.min(...list): that fails on long lists.
export const least = (list: readonly number[]): number =>
  list.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
export const most = (list: readonly number[]): number =>
  list.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
