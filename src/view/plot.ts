/** What the charts share: colours, the frame, and axes that show what `axes.ts` computes. */
import type { Axis } from './axes.ts';
import { NARROW } from './svg.ts';

/** Colours of Okabe and Ito, which colour-blind people can tell apart; those that stand out from white come first. */
export const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#555555'];
export const [BLUE, RED, GREY] = ['#0072b2', '#b3261e', '#777777'];

/** How many ticks have room side by side. */
export const ticksAcross = (width: number): number => Math.max(3, Math.floor(width / 80));

export const isNarrow = (width: number): boolean => width <= NARROW;

/** A width that includes axes and legends, a height that does not, and the labels of the ticks. */
export const frame = (width: number, height: number, x: Axis, y: Axis) => ({
  width,
  height,
  autosize: { type: 'fit-x' as const, contains: 'padding' as const },
  params: [
    { name: 'xTicks', value: x.ticks.map(({ at }) => at) },
    { name: 'xLabels', value: x.ticks.map(({ label }) => label) },
    { name: 'yTicks', value: y.ticks.map(({ at }) => at) },
    { name: 'yLabels', value: y.ticks.map(({ label }) => label) },
  ],
});

interface ChannelStyle {
  readonly grid?: boolean;
  readonly labelAngle?: number;
  readonly ticks?: boolean;
}

/** The encoding of the field `x` or `y` along an axis of the frame. Labels are data, never parts of an expression. */
export const channel = (name: 'x' | 'y', axis: Axis, title: string | null, style: ChannelStyle = {}) => ({
  field: name,
  type: 'quantitative' as const,
  scale: { domain: [...axis.domain], nice: false, zero: false },
  axis: {
    title,
    values: axis.ticks.map(({ at }) => at),
    labelExpr: `${name}Labels[indexof(${name}Ticks, datum.value)]`,
    labelLimit: 0,
    labelOverlap: false,
    ...style,
  },
});

export const isFiniteNumber = (x: number | null | undefined): x is number => Number.isFinite(x);

// Not Math.min(...list): that fails on long lists.
export const least = (list: readonly number[]): number => list.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
export const most = (list: readonly number[]): number => list.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
