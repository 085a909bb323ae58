/** Lines and lanes of the chart of maxima, and what its labels say. */
import { describe, expect, it } from 'vitest';
import { type MaximaSeries, maximaChart } from '../../src/view/charts.ts';
import { renderSvg } from '../../src/view/svg.ts';
import { numberText, shorten, siteLabels } from '../../src/view/text.ts';

const series = (name: string, values: Record<string, number>): MaximaSeries => ({
  name,
  points: Object.entries(values).map(([site, value]) => ({ site, value })),
});

const tips = (svg: string) => [...svg.matchAll(/<title>([^<]*)<\/title>/g)].map(([, text]) => text);
const texts = (svg: string) => [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(([, text]) => text);
/** Of each line that is drawn: how many points it has, and its style. */
const lines = (svg: string) =>
  [...svg.matchAll(/<path d="(M[^Z"]*L[^Z"]*)" (stroke="#[^>]*?)\/>/g)].map(([, d = '', style]) => ({
    points: d.split('L').length,
    style,
  }));

describe('lines', () => {
  it('end at a value that is not finite; every such value is shown', async () => {
    const values = { a: 1, b: Number.POSITIVE_INFINITY, c: Number.NaN, d: 5, e: 6 };
    const svg = await renderSvg(maximaChart([series('quad', values)]));
    expect(texts(svg)).toContain('non-finite');
    expect(lines(svg).map(({ points }) => points)).toEqual([2, 2]);
    expect(tips(svg)).toEqual(expect.arrayContaining(['b (layer 2), quad: inf', 'c (layer 3), quad: NaN']));
    expect(tips(svg)).toHaveLength(5);
  });

  it('go through zeros, below the logarithmic axis', async () => {
    const svg = await renderSvg(maximaChart([series('dead', { a: 10, b: 0, c: 100 })]));
    expect(texts(svg)).toContain('0');
    expect(lines(svg).map(({ points }) => points)).toEqual([3]);
  });

  it('pass over sites that their model does not have', async () => {
    const chart = maximaChart([series('one', { a: 1, c: 1, d: 1 }), series('two', { z: 1, a: 1, b: 1, d: 1, e: 1 })]);
    const svg = await renderSvg(chart);
    expect(texts(svg).filter((text) => /^[a-z]$/.test(text ?? ''))).toEqual(['z', 'a', 'b', 'c', 'd', 'e']);
    expect(lines(svg).map(({ points }) => points)).toEqual([3, 5]);
  });

  it('of ten models with one name differ', async () => {
    const many = Array.from({ length: 10 }, (_, i) => series('same name', { a: i + 1, b: 2 * i + 1 }));
    const svg = await renderSvg(maximaChart(many));
    expect(new Set(lines(svg).map(({ style }) => style)).size).toBe(10);
    expect(texts(svg).filter((text) => text === 'same name')).toHaveLength(10);
  });
});

describe('text', () => {
  it('numbers are short', () => {
    const numbers = [0, 1234, 0.123456, 1e-9, 3.4028235e38, -5, Number.NaN, Number.NEGATIVE_INFINITY];
    expect(numbers.map((x) => numberText(x))).toEqual(['0', '1234', '0.1235', '1e-9', '3.403e38', '-5', 'NaN', '-inf']);
  });

  it('labels leave out what all sites share', () => {
    expect(siteLabels(['/relu/Relu', '/layer1/relu_1/Relu'], 20)).toEqual(['relu', 'layer1/relu_1']);
    expect(siteLabels(['relu', '', '/'], 20)).toEqual(['relu', '', '/']);
    expect(shorten('layer1/layer1.0/relu_1', 10)).toBe('….0/relu_1');
  });
});
