/** SVG text: names of others in it, ids, and that nothing in it runs or loads. */
import { describe, expect, it } from 'vitest';
import { lossChart, maximaChart } from '../../src/view/charts.ts';
import { histogramChart, rangesChart } from '../../src/view/distribution-charts.ts';
import { NARROW, renderSvg } from '../../src/view/svg.ts';
import { escapeText, numberText, printable, shorten, siteLabels, textWidth } from '../../src/view/text.ts';
import { bell, fiveSeries, LENET, rangeRows, resnetSites } from './samples.ts';

const named = (name: string) => [name, 'other'].map((series) => ({ name: series, points: [{ site: name, value: 2 }] }));

/** Throws where tags don't nest, or an attribute or text holds what XML forbids. */
function checkWellFormed(svg: string): void {
  const open: string[] = [];
  const rest = svg.replace(
    /<(\/?)([a-zA-Z]+)((?: [\w:-]+="[^"<]*")*)\s*(\/?)>/g,
    (_, end, name, _attributes, alone) => {
      if (end) expect(open.pop()).toBe(name);
      else if (!alone) open.push(name);
      return '';
    },
  );
  expect(open).toEqual([]);
  expect(rest).not.toMatch(/[<>]/);
  expect(svg.replace(/&(?:amp|lt|gt|quot|apos|#\d+|#x[\da-f]+);/gi, '')).not.toContain('&');
  expect(svg).not.toMatch(/[^\P{Cc}\t\n\r]|[\p{Cs}\uFFFE\uFFFF]/u);
}

const NAMES = [
  '<script>alert(1)</script>',
  '" onload="alert(1)',
  "a & b && 'c' &lt; &#x0;",
  ']]> <!-- --> <![CDATA[',
  'bell\u0007 null\0 delete\x7f half\ud800',
  'n'.repeat(3000),
  'größer 层 مرحبا 🙂\u202e',
  '{{x}} datum.value + alert(1)',
  '',
  '/',
];

describe('names', () => {
  it.each(NAMES.map((name) => [name.slice(0, 30), name]))('%j stays text', async (_, name) => {
    const svg = await renderSvg(maximaChart(named(name)), { width: NARROW });
    checkWellFormed(svg);
    expect(svg).not.toMatch(/<script|<[^>]* on\w+=/i);
    checkWellFormed(await renderSvg(rangesChart(rangeRows([name])), { width: NARROW }));
    checkWellFormed(await renderSvg(lossChart([], { x: name, y: name }), { width: NARROW }));
  });
});

describe('a drawing', () => {
  const charts = [
    maximaChart(fiveSeries(resnetSites(31))),
    rangesChart(rangeRows(LENET)),
    histogramChart(bell(4), { range: 3 }),
  ];

  it('is the same each time, and loads nothing', async () => {
    for (const chart of charts) {
      const svg = await renderSvg(chart);
      expect(await renderSvg(chart)).toBe(svg);
      checkWellFormed(svg);
      expect(svg.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(
        /https?:|<script|<image|<style|javascript:| on\w+=/i,
      );
      expect(svg).toMatch(/^<svg role="img" aria-label="[^"]+"/);
    }
  });

  it('has ids of its own, and refers to no other', async () => {
    const [one, two] = await Promise.all(
      ['a-', 'b-'].map((idPrefix) => renderSvg(charts[0] as (typeof charts)[0], { idPrefix })),
    );
    const ids = (svg = '') => [...svg.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id);
    expect(new Set([...ids(one), ...ids(two)]).size).toBe(ids(one).length + ids(two).length);
    const used = [...(one ?? '').matchAll(/url\(#([^)]*)\)/g)].map(([, id]) => id);
    expect(ids(one)).toEqual(expect.arrayContaining(used));
  });
});

describe('text', () => {
  it('numbers', () => {
    const numbers = [0, -0, 0.25, 1200, 123456.7, 1e6, 3.4028e38, 1e-5, -2.5, Infinity, -Infinity, Number.NaN];
    const words = ['0', '0', '0.25', '1200', '123500', '1e6', '3.403e38', '1e-5', '-2.5', 'inf', '-inf', 'NaN'];
    expect(numbers.map((x) => numberText(x))).toEqual(words);
  });

  it('shortened names keep their ends, by whole characters', () => {
    expect(shorten('abcdef', 6)).toBe('abcdef');
    expect(shorten('abcdef', 4)).toBe('…def');
    expect(shorten('🙂🙂🙂🙂', 3)).toBe('…🙂🙂');
  });

  it('labels of sites leave out what all end with, never all of a name', () => {
    expect(siteLabels(['/a/relu/Relu', '/b/relu/Relu'], 20)).toEqual(['a', 'b']);
    expect(siteLabels(['/a/Relu'], 20)).toEqual(['a/Relu']);
    expect(siteLabels(['/x', '/x'], 20)).toEqual(['x', 'x']);
    expect(siteLabels(['/'], 20)).toEqual(['/']);
    expect(siteLabels([], 20)).toEqual([]);
  });

  it('escapes', () => {
    expect(escapeText('<a href="x">&\0')).toBe('&lt;a href=&quot;x&quot;&gt;&amp;\uFFFD');
    expect(printable('a\tb\n\ud800🙂')).toBe('a\tb\n\uFFFD🙂');
    expect(textWidth('', 11)).toBe(0);
  });
});
