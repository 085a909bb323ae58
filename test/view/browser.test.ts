import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { VERSION } from '../../src/version.ts';
import { gainChart, lossChart, maximaChart } from '../../src/view/charts.ts';
import { histogramChart, rangesChart } from '../../src/view/distribution-charts.ts';
import { htmlReport, type Report } from '../../src/view/html.ts';
import { browserMissing, openBrowser } from '../support/browser.ts';

/** A number in [0, 1) that looks random. */
const scatter = (i: number) => Math.abs(Math.sin(12.9898 * i) * 43758.5453) % 1;

const RESNET = [
  '/relu/Relu',
  ...[1, 2, 3].flatMap((stage) =>
    [0, 1, 2, 3, 4].flatMap((block) =>
      ['relu', 'relu_1'].map((relu) => `/layer${stage}/layer${stage}.${block}/${relu}/Relu`),
    ),
  ),
];
const DENSENET = Array.from({ length: 121 }, (_, i) => `/features/denseblock${1 + (i >> 5)}/relu${i}/Relu`);

/** Four models as the paper has them: one is fine, two escape to infinity and NaN, one has a dead layer. */
const models = (sites: readonly string[]) => {
  const points = (value: (i: number) => number) => sites.map((site, i) => ({ site, value: value(i / sites.length) }));
  const beyond = (x: number) => (x > 3.4e38 ? Number.POSITIVE_INFINITY : x);
  return [
    { name: 'resnet32', points: points((t) => 3 + 4 * t + scatter(t)) },
    { name: 'resnet32.deg4', points: points((t) => beyond(10 ** (60 * t) * (1 + scatter(t)))) },
    { name: 'resnet32.quad', points: points((t) => (t > 0.6 ? Number.NaN : 10 ** (100 * t * t))) },
    {
      name: 'a-model-with-a-rather-long-name.quail',
      points: points((t) => (t > 0.2 && t < 0.22 ? 0 : 4 + scatter(t))),
    },
  ];
};

const ranges = (sites: readonly string[], decades: number) =>
  sites.map((site, i) => {
    const size = 10 ** (decades * i);
    if (decades > 0 && i === sites.length - 1)
      return { site, min: null, max: null, low: null, high: null, mean: null, std: null };
    return { site, min: -3.3 * size, max: 4.9 * size, low: -2 * size, high: 3 * size, mean: 0.3 * size, std: size };
  });

/** Normally distributed, in bins that grow towards the ends, as `probe` has them. */
function normal(deviation: number) {
  const positive = Array.from({ length: 90 }, (_, k) => deviation * 2 ** ((k - 60) / 16));
  const edges = [...positive.map((x) => -x).reverse(), ...positive];
  const density = (x: number) => Math.exp(-0.5 * (x / deviation) ** 2) / deviation;
  const width = (i: number) => (edges[i + 1] ?? 0) - (edges[i] ?? 0);
  return { edges, counts: edges.slice(1).map((x, i) => Math.round(4e5 * width(i) * density(x - width(i) / 2))) };
}

const odd = '<img src=x onerror="alert(1)">&amp;\u0007\u202e';
const head = ['layer', 'function', 'min', 'max', 'mean', 'std', '99.9 % |x|', 'NaN', 'Inf', 'gain', '% outside'];
const REPORT: Report = {
  title: `Activations of ${odd}`,
  subtitle: 'cifar10, test split; onnxruntime on cpu',
  sections: [
    {
      heading: 'ResNet-32',
      verdict: { level: 'bad', text: 'escapes at /layer2/layer2.3/relu_1/Relu: 9,873 of 10,000 inputs are not finite' },
      text: ['Moments, quantiles and histograms come from 256 of 10000 images.'],
      charts: [
        { title: 'Largest |activation|', caption: 'On a logarithmic scale.', spec: maximaChart(models(RESNET)) },
        { title: 'Gain', spec: gainChart(RESNET.map((site, i) => ({ site, gain: 3 * scatter(i) }))) },
        { title: 'Ranges', spec: rangesChart(ranges(RESNET, 1)) },
      ],
      table: {
        head,
        rows: RESNET.map((site, i) => [site, 'deg=4,a=5', -3.2, 1234567 * i, 0.1234, null, 3e36, i, 0, 1.5, '12.34']),
      },
    },
    {
      heading: `LeNet ${odd}`,
      verdict: { level: 'good', text: 'all inputs stay inside' },
      charts: [
        { title: odd, spec: maximaChart(models(['relu1', odd, 'relu3', 'relu4'])) },
        { title: 'Twenty sites', spec: maximaChart(models(RESNET.slice(0, 20))) },
        { title: 'Ranges', spec: rangesChart(ranges(['relu1', 'relu2', 'relu3', 'relu4'], 0)) },
        { title: 'relu1', spec: histogramChart(normal(1.2), { range: 5 }) },
        { title: 'relu2', spec: histogramChart(normal(0.4), { range: 12.34, log: true }) },
        { title: 'relu3', spec: histogramChart(normal(1e12), { range: 5, log: true }) },
      ],
    },
    {
      heading: 'DenseNet-121',
      verdict: { level: 'warning', text: 'close to the edge of the range' },
      details: true,
      charts: [
        { title: 'Largest |activation|', spec: maximaChart(models(DENSENET)) },
        {
          title: 'Loss',
          spec: lossChart(
            ['train', 'test'].map((name, k) => ({
              name,
              points: Array.from({ length: 200 }, (_, i) => ({
                x: i / 10,
                y: Math.exp(-i / 60) + 0.1 * scatter(i + k),
              })),
            })),
            { x: 'epoch', y: 'loss', log: true },
          ),
        },
      ],
    },
  ],
};

let html: string;
beforeAll(async () => {
  html = await htmlReport(REPORT);
});

describe('a report', () => {
  it('is one file that loads and runs nothing', () => {
    expect(html).toContain("default-src 'none'; style-src 'unsafe-inline'; img-src data:");
    expect(html.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/https?:|<script|<img|javascript:|@import/);
    expect(html).not.toMatch(/[^\P{Cc}\n]/u);
    expect(html).toContain(`sisyphus ${VERSION}</footer>`);
    const ids = [...html.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('writes numbers for people', async () => {
    const cells = [1234567, -1234567, 0.123456789, 1e38, null, Number.NaN, '92.64 %', 'text', -0.5];
    const table = { head: cells.map((_, i) => String(i)), rows: [cells] };
    const page = await htmlReport({ title: 't', sections: [{ heading: 'h', table }], time: '2026-11-22' });
    const shown = [...page.matchAll(/<t[dh](?: scope="row")?( class="number")?>([^<]*)<\/t[dh]>/g)];
    expect(shown.map(([, , text]) => text)).toEqual([
      '1,234,567',
      '-1,234,567',
      '0.1235',
      '1e38',
      '–',
      'NaN',
      '92.64 %',
      'text',
      '-0.5',
    ]);
    expect(shown.map(([, number]) => number !== undefined)).toEqual([1, 1, 1, 1, 0, 1, 1, 0, 1].map(Boolean));
    expect(page).toContain(', 2026-11-22</footer>');
  });
});

describe.skipIf(browserMissing)('a report in a browser', () => {
  let browser: Browser;
  const said: string[] = [];
  beforeAll(async () => {
    browser = await openBrowser();
  });
  afterAll(() => browser.close());

  async function open(width: number, colorScheme: 'light' | 'dark' = 'light'): Promise<Page> {
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
    page.on('console', (message) => said.push(message.text()));
    page.on('pageerror', (error) => said.push(error.message));
    page.on('request', (request) => void (request.url() === 'http://report.test/' || said.push(request.url())));
    // A page of the web, so that it may ask for an icon.
    await page.route('**', (route) => route.fulfill({ contentType: 'text/html', body: html }));
    await page.goto('http://report.test/');
    await page.locator('details').evaluateAll((all) => {
      for (const details of all) details.setAttribute('open', '');
    });
    return page;
  }

  it.each([1280, 841, 375, 320])('fits a window of %i pixels', async (width) => {
    const page = await open(width);
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(width);
    expect(await page.evaluate(textFaults)).toEqual([]);
    expect(Number(await page.evaluate(smallestText))).toBeGreaterThanOrEqual(width < 375 ? 8 : 8.9);
    expect(said).toEqual([]);
    await page.close();
  });

  it.each(['light', 'dark'] as const)('has enough contrast in the %s scheme', async (scheme) => {
    const page = await open(1280, scheme);
    expect(await page.evaluate(lowContrast)).toEqual([]);
    await page.close();
  });

  it('prints the drawings of the page, not those of the phone', async () => {
    const page = await open(1280);
    await page.setViewportSize({ width: 600, height: 900 });
    await page.emulateMedia({ media: 'print' });
    expect(await page.locator('.narrow svg').first().isVisible()).toBe(false);
    expect(await page.locator('.wide svg').first().isVisible()).toBe(true);
    await page.close();
  });
});

// These run in the page: as text, because the project's types know no browser.

/** Texts of drawings that reach out of them, or over each other. */
const textFaults = `(() => {
  const faults = [];
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    if (frame.width === 0) continue;
    const texts = [...svg.querySelectorAll('text')].filter((text) => text.textContent.trim());
    const turned = (text) => /rotate\\((?!0\\))/.test(text.getAttribute('transform'));
    for (const text of texts) {
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        faults.push('cut off: ' + text.textContent);
    }
    // Boxes of slanted texts overlap where the texts do not: they are a line's height apart along the axis.
    const level = texts.filter((text) => !turned(text)).map((text) => [text.textContent, text.getBoundingClientRect()]);
    for (const [i, [one, a]] of level.entries())
      for (const [two, b] of level.slice(i + 1))
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
          faults.push(one + ' over ' + two);
    const slanted = texts.filter(turned).map((text) => text.getBoundingClientRect().right);
    for (let i = 1; i < slanted.length; i++)
      if (slanted[i] - slanted[i - 1] < 9) faults.push('names too close');
  }
  return faults;
})()`;

/** In pixels of the screen, over all drawings and the page. */
const smallestText = `Math.min(...[...document.querySelectorAll('svg text, p, td, th, h1, h2, h3, footer')]
  .filter((element) => element.getBoundingClientRect().width > 0)
  .map((element) => {
    const svg = element.closest('svg');
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return scale * parseFloat(getComputedStyle(element).fontSize);
  }))`;

/** Texts of the page whose contrast is below 4.5 (WCAG 2.2, relative luminance). */
const lowContrast = `(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => channels(color).slice(0, 3)
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('h1, h2, h3, p, strong, th, td, footer, svg text')].filter((element) => {
    const style = getComputedStyle(element);
    const ink = luminance(element.tagName === 'text' ? style.fill : style.color);
    const [low, high] = [ink, luminance(behind(element))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05) < 4.5;
  }).map((element) => element.tagName + ': ' + element.textContent);
})()`;
