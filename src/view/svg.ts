/** Vega-lite specifications as SVG text, without a browser or a canvas. */
import type { Config, TopLevelSpec } from 'vega-lite';
import { SisyphusError } from '../errors.ts';
import { escapeText, printable } from './text.ts';

/** A chart is drawn for the width it is shown at, because text does not shrink with it. */
export interface Chart {
  /** It needs no more than the narrow width: pages put several side by side. */
  readonly compact?: boolean;
  /** @param width of the whole drawing, in pixels */
  readonly draw: (width: number) => TopLevelSpec;
}

export const WIDE = 860;
export const NARROW = 350;

/** Of labels, in pixels. */
export const LABEL_SIZE = 11;

const INK = '#222';
const FAINT = '#e4e4e4';
const FONT = 'system-ui, sans-serif';

const text = {
  labelFont: FONT,
  titleFont: FONT,
  labelFontSize: LABEL_SIZE,
  titleFontSize: 12,
  titleFontWeight: 'normal',
};
const STYLE: Config = {
  background: 'white',
  font: FONT,
  view: { stroke: null },
  axis: { ...text, labelColor: INK, titleColor: INK, gridColor: FAINT, domainColor: '#888', tickColor: '#888' },
  legend: { ...text, labelColor: INK, symbolSize: 70, labelLimit: 0 },
} as Config;

export interface SvgOptions {
  /** Of the drawing, in pixels. Default: `WIDE`, or `NARROW` for a compact chart. */
  readonly width?: number;
  /** Where every id in the SVG starts: one of its own for each drawing of a page. */
  readonly idPrefix?: string;
}

/** Draws a chart. Equal charts give equal text. */
export async function renderSvg(chart: Chart, options: SvgOptions = {}): Promise<string> {
  // Loading vega takes as long as all the rest of the program.
  const [vega, { compile }] = await Promise.all([import('vega'), import('vega-lite')]);
  const spec = chart.draw(options.width ?? (chart.compact ? NARROW : WIDE));
  const logger = strictLogger();
  const view = new vega.View(vega.parse(compile(spec, { config: STYLE, logger }).spec), { renderer: 'none', logger });
  try {
    return tidy(printable(await view.toSVG()), options.idPrefix ?? 'chart-', spec.description ?? '');
  } finally {
    view.finalize();
  }
}

/** What vega would print is a mistake in a chart. */
function strictLogger() {
  const fail = (...words: readonly unknown[]): never => {
    throw new SisyphusError('internal', `vega: ${words.join(' ')}`);
  };
  const logger = { level: () => logger, error: fail, warn: fail, info: () => logger, debug: () => logger };
  return logger as never;
}

/**
 * What vega says of every mark to screen readers becomes the tooltip of the marks that have a description, and one label
 * for the whole. Ids are counted by this drawing alone. Within tags vega escapes angle brackets, so tags end at the first.
 */
function tidy(svg: string, idPrefix: string, description: string): string {
  const ids = new Map<string, string>();
  const own = (id: string) => {
    if (!ids.has(id)) ids.set(id, `${idPrefix}${ids.size + 1}`);
    return ids.get(id) as string;
  };
  return svg.replace(/<[^>]*>/g, (tag) => {
    const [, mark, title] = /^<(path|line|rect) .*aria-label="([^"]*)".*\/>$/s.exec(tag) ?? [];
    const bare = tag
      .replace(/ (?:aria-[a-z]+|role|class|pointer-events|xmlns:xlink|version)="[^"]*"/g, '')
      .replace(/ id="([^"]*)"/g, (_, id) => ` id="${own(id)}"`)
      .replace(/ (?:d|transform)="[^"]*"/g, shortNumbers)
      .replace(/="url\(#([^)]*)\)"/g, (_, id) => `="url(#${own(id)})"`);
    if (tag.startsWith('<svg ')) return bare.replace('<svg', `<svg role="img" aria-label="${escapeText(description)}"`);
    return title ? `${bare.slice(0, -2)}><title>${title}</title></${mark}>` : bare;
  });
}

/** A hundredth of a pixel is enough. */
const shortNumbers = (path: string): string =>
  path.replace(/\d+\.\d{3,}(?![\de])/g, (number) => String(Number(Number(number).toFixed(2))));
