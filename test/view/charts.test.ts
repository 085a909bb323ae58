/** What each chart draws, counted in its SVG. */
import { describe, expect, it } from 'vitest';
import { gainChart, lossChart, maximaChart } from '../../src/view/charts.ts';
import { histogramChart, rangesChart } from '../../src/view/distribution-charts.ts';
import { type Chart, NARROW, renderSvg, WIDE } from '../../src/view/svg.ts';
import { bell, fiveSeries, gains, LENET, losses, rangeRows, resnetSites } from './samples.ts';

const titles = (svg: string) => [...svg.matchAll(/<title>([^<]*)<\/title>/g)].map(([, title = '']) => title);
const texts = (svg: string) => [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(([, text = '']) => text);
const count = (svg: string, part: string) => svg.split(part).length - 1;
/** Drawn lines, which have a width of their own. */
const strokes = (svg: string, width: string) => count(svg, `stroke-width="${width}"`);

describe('maximaChart', () => {
  it.each([WIDE, NARROW])('has one legend entry for each series, in its colour (%d px)', async (width) => {
    const series = fiveSeries(resnetSites(31));
    const svg = await renderSvg(maximaChart(series), { width });
    for (const { name } of series) expect(texts(svg).filter((text) => text === name)).toHaveLength(1);
    const blackSymbols = [...svg.matchAll(/<path[^>]*>/g)].filter(([tag]) =>
      /(?:fill|stroke)="(?:black|#000)"/.test(tag),
    );
    expect(blackSymbols).toEqual([]);
  });

  it('marks every point, those that are not finite without a fill, and says what each is', async () => {
    const svg = await renderSvg(maximaChart(fiveSeries(resnetSites(31))));
    expect(titles(svg)).toHaveLength(5 * 31);
    expect(titles(svg).filter((title) => title.endsWith(': inf'))).toHaveLength(23);
    expect(titles(svg)[0]).toBe('/layer1/layer1.0/relu/Relu (layer 1), ace_resnet32_cifar10_pre: 2');
    expect(texts(svg)).toContain('non-finite');
    const hollow = [...svg.matchAll(/<path([^>]*)><title>[^<]*: inf</g)];
    expect(hollow.every(([, tag = '']) => !/ fill="#/.test(tag))).toBe(true);
  });

  it('has a lane for values that are not finite only where there are some', async () => {
    const svg = await renderSvg(maximaChart(fiveSeries(LENET)));
    expect(texts(svg)).not.toContain('non-finite');
    expect(texts(svg)).toEqual(expect.arrayContaining(['conv1', 'conv2', 'fc1', 'fc2']));
  });

  it('aligns sites by name, in the order of the first series', async () => {
    const point = (site: string) => ({ site, value: 2 });
    const chart = maximaChart([
      { name: 'one', points: ['a', 'c'].map(point) },
      { name: 'two', points: ['a', 'b', 'c', 'd'].map(point) },
    ]);
    const svg = await renderSvg(chart);
    expect(texts(svg).filter((text) => /^[a-d]$/.test(text))).toEqual(['a', 'b', 'c', 'd']);
    expect(titles(svg)).toContain('c (layer 3), one: 2');
  });
});

describe('lossChart', () => {
  it('draws one line for each series, split where it is not finite', async () => {
    const points = [1, 2, Number.NaN, 2, 1].map((y, x) => ({ x, y }));
    const svg = await renderSvg(lossChart([{ name: 'a', points }], { x: 'epoch', y: 'loss' }));
    expect(titles(svg)).toHaveLength(5);
    expect(titles(svg).filter((title) => title.endsWith('NaN'))).toEqual(['a, epoch 2: NaN']);
    const plain = await renderSvg(lossChart(losses(40), { x: 'epoch', y: 'loss' }));
    expect(strokes(plain, '1.8')).toBe(2);
    expect(strokes(svg, '1.8')).toBe(3); // two parts, and the mark of what is not finite
  });

  it('leaves the marks out of long lines', async () => {
    const svg = await renderSvg(lossChart(losses(400), { x: 'epoch', y: 'loss' }));
    expect(titles(svg)).toEqual([]);
  });

  it('gives 0 a lane on a logarithmic axis', async () => {
    const points = [1, 0.1, 0].map((y, x) => ({ x, y }));
    const svg = await renderSvg(lossChart([{ name: 'a', points }], { x: 'x', y: 'y', log: true }));
    expect(titles(svg)).toHaveLength(3);
    expect(count(svg, '#f1f1f1')).toBe(1);
  });
});

describe('gainChart', () => {
  it('draws the gains that are known', async () => {
    const points = gains(resnetSites(31));
    const known = points.filter(({ gain }) => gain !== null);
    const svg = await renderSvg(gainChart(points));
    expect(titles(svg)).toHaveLength(known.length);
    expect([...svg.matchAll(/<line[^>]* stroke-width="2"/g)]).toHaveLength(known.length);
    expect(count(svg, 'stroke-dasharray="5,3"')).toBe(1);
  });
});

describe('rangesChart', () => {
  it('draws three bars for each site and says where there is no value', async () => {
    const none = { site: '/fc/Relu', min: null, max: null, low: null, high: null, mean: null, std: null };
    const svg = await renderSvg(rangesChart([...rangeRows(LENET), none]));
    for (const width of ['2', '10', '4']) expect(strokes(svg, width)).toBe(LENET.length);
    expect(texts(svg).filter((text) => text === 'no finite value')).toHaveLength(1);
  });

  it('has more than a lonely 0 on its axis', async () => {
    const svg = await renderSvg(rangesChart(rangeRows(LENET)), { width: NARROW });
    expect(texts(svg).filter((text) => /^-?\d+$/.test(text)).length).toBeGreaterThan(2);
  });
});

describe('histogramChart', () => {
  it('draws an area, and two rules where there is a range', async () => {
    const bare = await renderSvg(histogramChart(bell(4)));
    expect(count(bare, 'stroke-dasharray')).toBe(0);
    const ranged = await renderSvg(histogramChart(bell(4), { range: 3 }));
    expect(count(ranged, 'stroke-dasharray="5,3"')).toBe(2);
    expect(texts(ranged)).toEqual(expect.arrayContaining(['-3', '3']));
  });
});

const NOTHING = { site: 's', min: null, max: null, low: null, high: null, mean: null, std: null };
const at = (...values: number[]) => [{ name: 'm', points: values.map((value, i) => ({ site: `s${i}`, value })) }];
const overTime = (...values: number[]) => [{ name: 'm', points: values.map((y, x) => ({ x, y })) }];
const epochs = { x: 'epoch', y: 'loss' };
const EMPTY: [string, Chart][] = [
  ['maxima: no series', maximaChart([])],
  ['maxima: no site', maximaChart(at())],
  ['maxima: one site', maximaChart(at(3))],
  ['maxima: zeros', maximaChart(at(0, 0))],
  ['maxima: nothing finite', maximaChart(at(Number.NaN, Infinity))],
  ['maxima: 1e38 and 1e-38', maximaChart(at(3e38, 1e-38))],
  ['loss: nothing', lossChart([], epochs)],
  ['loss: one point', lossChart(overTime(1), epochs)],
  ['loss: all equal', lossChart(overTime(0, 0, 0), epochs)],
  ['loss: negative, logarithmic', lossChart(overTime(-1, -2), { ...epochs, log: true })],
  ['loss: nothing finite', lossChart(overTime(Number.NaN), epochs)],
  ['gain: no site', gainChart([])],
  ['gain: none known', gainChart([{ site: 's', gain: null }])],
  ['gain: zero', gainChart([{ site: 's', gain: 0 }])],
  ['ranges: no site', rangesChart([])],
  ['ranges: no value', rangesChart([NOTHING])],
  ['ranges: zeros', rangesChart([{ site: 's', min: 0, max: 0, low: 0, high: 0, mean: 0, std: 0 }])],
  ['histogram: no bin', histogramChart({ edges: [], counts: [] })],
  ['histogram: one bin', histogramChart({ edges: [0, 1], counts: [5] }, { range: 2 })],
  ['histogram: one value', histogramChart({ edges: [2, 2], counts: [5] }, { log: true })],
  ['histogram: empty bins', histogramChart({ edges: [0, 1, 2], counts: [0, 0] }, { log: true })],
];

describe('with nothing much to draw', () => {
  it.each(EMPTY)('%s', async (_, chart) => {
    const width = NARROW;
    const svg = await renderSvg(chart, { width });
    expect(svg).not.toMatch(/NaN[, "]|Infinity|undefined|null/);
    // Vega rounds the plot and what is around it, each by itself.
    expect(Math.abs(Number(/ width="([\d.]+)"/.exec(svg)?.[1]) - width)).toBeLessThanOrEqual(1);
    expect(texts(svg).length).toBeGreaterThan(0);
  });
});
