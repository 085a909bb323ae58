/** Charts over layers or time, from plain data. */
import { countingAxis, linearAxis } from './axes.ts';
import { lineChart } from './line-chart.ts';
import { BLUE, type FrameAxis, frame, GREY, isFiniteNumber, isNarrow, least, most, ticksAcross } from './plot.ts';
import { type Chart, LABEL_SIZE } from './svg.ts';
import { numberText, siteLabels, textWidth } from './text.ts';

export interface MaximaSeries {
  readonly name: string;
  /** The largest magnitude after each nonlinear layer, in order; NaN or Infinity where it is not finite. */
  readonly points: readonly { readonly site: string; readonly value: number }[];
}

/**
 * The largest magnitude after each nonlinear layer, one line for each model (the paper's Fig. 2). Sites are aligned by
 * name, in the order of the first series; those of other series alone come where these have them.
 */
export function maximaChart(series: readonly MaximaSeries[]): Chart {
  const sites = mergeOrder(series.map(({ points }) => points.map(({ site }) => site)));
  const layers = new Map(sites.map((site, i) => [site, i + 1]));
  const lines = series.map(({ name, points }) => ({
    name,
    points: points.map(({ site, value }) => {
      const x = layers.get(site) as number;
      return { x, y: value, tip: `${site} (layer ${x}), ${name}: ${numberText(value)}` };
    }),
  }));
  return {
    draw: (width) =>
      lineChart(lines, {
        width,
        description: `The largest magnitude after each of ${sites.length} nonlinear layers`,
        x: siteAxis(sites, width),
        y: { title: 'largest |activation|', log: true },
      }),
  };
}

export interface LineSeries {
  readonly name: string;
  readonly points: readonly { readonly x: number; readonly y: number }[];
}

export interface LossOptions {
  /** What is along each axis, such as 'epoch' and 'loss'. */
  readonly x: string;
  readonly y: string;
  /** A logarithmic y axis. */
  readonly log?: boolean;
}

/** Lines over a number such as the epoch; a line ends where it stops being finite. */
export function lossChart(series: readonly LineSeries[], options: LossOptions): Chart {
  const lines = series.map(({ name, points }) => ({
    name,
    points: points
      .filter(({ x }) => Number.isFinite(x))
      .map(({ x, y }) => ({ x, y, tip: `${name}, ${options.x} ${numberText(x)}: ${numberText(y)}` })),
  }));
  const xs = lines.flatMap(({ points }) => points.map(({ x }) => x));
  const [low, high] = xs.length > 0 ? [least(xs), most(xs)] : [0, 1];
  return {
    draw: (width) =>
      lineChart(lines, {
        width,
        description: `${options.y} by ${options.x}`,
        x: { axis: linearAxis(low, high, ticksAcross(width)), title: options.x },
        y: { title: options.y, log: options.log ?? false },
      }),
  };
}

export interface GainPoint {
  readonly site: string;
  /** How much an excess of variance grows in the layer (`gainOf`); null where it can't be told. */
  readonly gain: number | null;
}

/** The gain of each layer, from the rule at 1, above which deviations grow. */
export function gainChart(points: readonly GainPoint[]): Chart {
  const bars = points.flatMap(({ site, gain }, i) =>
    isFiniteNumber(gain) ? [{ x: i + 1, y: gain, tip: `${site} (layer ${i + 1}): ${numberText(gain)}` }] : [],
  );
  const gains = bars.map(({ y }) => y);
  const y = linearAxis(Math.min(0, least(gains)), Math.max(2, most(gains)), 6);
  const sites = points.map(({ site }) => site);
  return {
    draw: (width) => {
      const plot = frame({
        width,
        height: isNarrow(width) ? 160 : 200,
        x: { ...siteAxis(sites, width), grid: false },
        y: { axis: y, title: 'gain' },
      });
      return {
        ...plot.layout,
        description: `The gain of each of ${points.length} nonlinear layers`,
        data: { values: bars },
        encoding: { x: plot.x, y: plot.y },
        layer: [
          {
            data: { values: [{ y: 1 }] },
            mark: { type: 'rule', color: GREY, strokeDash: [5, 3], strokeWidth: 1.5, aria: false },
            encoding: { x: { value: 0 }, x2: { value: 'width' } },
          },
          {
            mark: { type: 'rule', color: BLUE, opacity: 0.5, strokeWidth: 2, aria: false },
            encoding: { y2: { datum: 1 } },
          },
          {
            mark: { type: 'point', filled: true, color: BLUE, size: 45, opacity: 1 },
            encoding: { description: { field: 'tip', type: 'nominal' } },
          },
        ],
      };
    },
  };
}

/** All names, each once: those of the first list in order, others right after the one that precedes them in their list. */
function mergeOrder([first = [], ...rest]: readonly (readonly string[])[]): string[] {
  const order = [...new Set(first)];
  const known = new Set(order);
  for (const list of rest) {
    let previous = -1;
    for (const name of list) {
      if (known.has(name)) previous = order.indexOf(name);
      else order.splice(++previous, 0, name);
      known.add(name);
    }
  }
  return order;
}

/** How many sites get their names on the axis. */
const NAMED_SITES = 20;

/** Sites along the x axis: names where there is room, else numbers. */
function siteAxis(sites: readonly string[], width: number): FrameAxis {
  const counting = countingAxis(sites.length, 2 * ticksAcross(width));
  if (sites.length > NAMED_SITES) return { axis: counting, title: 'nonlinear layer' };
  const labels = siteLabels(sites, isNarrow(width) ? 20 : 26);
  const longest = most(labels.map((label) => textWidth(label, LABEL_SIZE)));
  const flat = (longest + 8) * sites.length < width - 80;
  return {
    axis: { ...counting, ticks: labels.map((label, i) => ({ at: i + 1, label })) },
    title: 'nonlinear layer',
    labelAngle: flat ? 0 : isNarrow(width) ? -90 : -45,
  };
}
