/** Pages of small reports. */
import { describe, expect, it } from 'vitest';
import { comparePage, evalPage, maximaSvg, probePage } from '../../src/view/pages.ts';
import { COMPARE, EVAL, failedModel, probedModel, probeReport } from './samples.ts';

/** The cells of each row of a page's tables. */
const rows = (html: string) =>
  [...html.matchAll(/<tr>(.*?)<\/tr>/g)].map(([, row = '']) =>
    [...row.matchAll(/>([^<]*)<\/t[dh]>/g)].map(([, cell]) => cell),
  );
const rowOf = (html: string, name: string) =>
  rows(html)
    .find(([first]) => first === name)
    ?.slice(1);
const headings = (html: string) => [...html.matchAll(/<h2>([^<]*)<\/h2>/g)].map(([, text]) => text);

function checkPage(html: string): void {
  expect(html).not.toMatch(/undefined|\[object|>null<|NaN %/);
  const ids = [...html.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id);
  expect(new Set(ids).size).toBe(ids.length);
  expect(html.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/https?:|<script|<[^>]* on\w+=/i);
}

describe('evalPage', () => {
  it('has a row for each model, and dashes for what there is not', async () => {
    const html = await evalPage(EVAL);
    checkPage(html);
    expect(rowOf(html, 'nets/lenet.onnx')).toEqual(['98.77', '98.77', '99.90', '0', '0', '1,200', '1,234']);
    expect(rowOf(html, 'nets/lenet.quad.onnx')).toEqual(['0.00', '–', '0.00', '1,200', '0', '1,200', '1,234']);
    expect(html).toContain('cifar10, test split; onnxruntime on cpu');
    expect(html.match(/; interrupted/g)).toHaveLength(1);
    expect(await evalPage(EVAL)).toBe(html);
  });

  it('of no model at all', async () => {
    checkPage(await evalPage({ ...EVAL, models: [] }));
  });
});

describe('probePage', () => {
  it('one network: verdict, charts, table, histograms', async () => {
    const html = await probePage(probeReport(probedModel('nets/lenet.onnx')));
    checkPage(html);
    expect(html).toContain('<h1>Activations of lenet</h1>');
    expect(html).toContain('<p class="verdict good"><strong>Good:</strong> stays in range</p>');
    expect(headings(html)).toEqual([
      'Largest activation after each nonlinear layer',
      'verdict',
      'layers',
      'histograms',
    ]);
    expect(html.match(/<div class="compact">/g)).toHaveLength(4);
    expect(rowOf(html, '/conv1/Relu')?.slice(0, 3)).toEqual(['Relu', '-4', '2']);
  });

  it('several networks, one with a layer of which nothing is known', async () => {
    const html = await probePage(probeReport(probedModel('a/one.onnx'), failedModel('a/two.onnx')));
    checkPage(html);
    expect(headings(html)).toEqual(expect.arrayContaining(['one: verdict', 'two: verdict']));
    const unknown = rows(html).filter(([name, kind]) => name === '/fc2/Relu' && kind === 'Polynomial');
    const dashes = (count: number) => new Array<string>(count).fill('–');
    expect(unknown).toEqual([['/fc2/Relu', 'Polynomial', ...dashes(6), '24', '6', '7', ...dashes(3)]]);
    // One layer of two networks without a histogram.
    expect(html.match(/<div class="compact">/g)).toHaveLength(7);
  });

  it('a network without nonlinear layers, and none', async () => {
    const html = await probePage(probeReport(probedModel('linear.onnx', [])));
    checkPage(html);
    expect(headings(html)).toContain('no nonlinear layer');
    checkPage(await probePage(probeReport()));
  });

  it('escapes what models are called', async () => {
    const html = await probePage(probeReport(probedModel('<b onclick="x">&.onnx', [])));
    checkPage(html);
    expect(html).toContain('&lt;b onclick=&quot;x&quot;&gt;&amp;');
  });
});

describe('maximaSvg', () => {
  it('draws each network, and what is not finite apart', async () => {
    const svg = await maximaSvg(probeReport(probedModel('a/one.onnx'), failedModel('a/two.onnx')));
    expect(svg.match(/<title>/g)).toHaveLength(8);
    expect(svg).toContain('/fc2/Relu (layer 4), two: inf');
    expect(svg).toContain('/conv1/Relu (layer 1), one: 3');
  });
});

describe('comparePage', () => {
  it('says where two models begin to differ', async () => {
    const html = await comparePage(COMPARE);
    checkPage(html);
    expect(html).toContain('first layer beyond 0.001: &#39;/fc1/Relu_output_0&#39; (Relu)'.replaceAll('&#39;', "'"));
    expect(rowOf(html, 'same argmax, %')).toEqual(['87.50']);
    expect(rowOf(html, 'rms of the difference, relative')).toEqual(['–']);
    expect(rowOf(html, 'inputs not finite in b.onnx')).toEqual(['3']);
    expect(rowOf(html, '/conv1/Relu_output_0')?.slice(0, 2)).toEqual(['Relu / Add', '1e-7']);
    expect(rowOf(html, '/conv2/Relu_output_0')?.[1]).toBe('–');
  });

  it('of models that agree, or have no common layer', async () => {
    const html = await comparePage({ ...COMPARE, layers: [], firstDiverging: null });
    checkPage(html);
    expect(html).toContain('no common layer is beyond 0.001');
    expect(html).not.toContain('<svg');
  });
});
