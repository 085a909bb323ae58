/** Data such as networks give: what the tests of charts and pages draw. */
import type { EvalReport } from '../../src/eval/accuracy.ts';
import type { CompareReport } from '../../src/eval/compare.ts';
import type { ProbedModel, ProbedSite, ProbeReport } from '../../src/eval/probe.ts';
import type { ValueStatistics } from '../../src/eval/statistics.ts';
import { gainChart, lossChart, type MaximaSeries, maximaChart } from '../../src/view/charts.ts';
import { type HistogramData, histogramChart, type RangeRow, rangesChart } from '../../src/view/distribution-charts.ts';
import type { Report } from '../../src/view/html.ts';

export const LENET = ['/conv1/Relu', '/conv2/Relu', '/fc1/Relu', '/fc2/Relu'];

/** As in a ResNet: '/layer1/layer1.0/relu/Relu', … */
export const resnetSites = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => {
    const stage = 1 + Math.floor((4 * i) / count);
    return `/layer${stage}/layer${stage}.${i >> 1}/relu${i % 2 === 0 ? '' : '_1'}/Relu`;
  });

const SERIES = ['ace_resnet32_cifar10_pre', 'r32.deg=2,a=5', 'r32.deg=4,a=10', 'r32.quad', 'r32.taylor'];

/** Five models, of which the fourth becomes non-finite from the layer with index 8 on. */
export const fiveSeries = (sites: readonly string[]): MaximaSeries[] =>
  SERIES.map((name, k) => ({
    name,
    points: sites.map((site, i) => ({
      site,
      value:
        name === 'r32.quad' ? (i < 8 ? 3 * 10 ** (4 * i) : Infinity) : 2 + k + Math.abs(Math.sin(i + k)) * 1.2 ** i,
    })),
  }));

/** A bell of 200 bins over [-reach, reach]. */
export function bell(reach: number): HistogramData {
  const edges = Array.from({ length: 201 }, (_, i) => (reach * (i - 100)) / 100);
  return { edges, counts: edges.slice(1).map((_, i) => Math.round(1e5 * Math.exp(-(((i - 99.5) / 30) ** 2)))) };
}

export const rangeRows = (sites: readonly string[], growth = 1.05): RangeRow[] =>
  sites.map((site, i) => {
    const size = 3 * growth ** i;
    return { site, min: -size, max: 1.4 * size, low: -0.6 * size, high: 0.8 * size, mean: -0.1 * size, std: size / 4 };
  });

export const gains = (sites: readonly string[]) =>
  sites.map((site, i) => ({ site, gain: i % 7 === 5 ? null : 1 + 0.6 * Math.sin(i) }));

export const losses = (epochs: number) =>
  ['training', 'validation'].map((name, k) => ({
    name,
    points: Array.from({ length: epochs }, (_, i) => ({ x: i + 1, y: 2 / (i + 1) + k * 0.1 })),
  }));

const lossAxes = { x: 'epoch', y: 'loss', log: true };

/** Every kind of chart, with few and with many sites, with values of all sizes, and what a report has besides. */
export const ALL_KINDS: Report = {
  title: 'All kinds of charts',
  subtitle: 'cifar10, test split; onnxruntime on cpu',
  sections: [
    {
      heading: 'Lines',
      text: ['A paragraph of the text that a report has between a heading and what is measured.'],
      verdict: { level: 'good', text: 'all values are finite' },
      charts: [
        { title: '31 layers', caption: 'One model fails.', spec: maximaChart(fiveSeries(resnetSites(31))) },
        { title: '4 layers', spec: maximaChart(fiveSeries(LENET).slice(0, 2)) },
        { title: '12 layers', spec: maximaChart(fiveSeries(resnetSites(12)).slice(0, 4)) },
        { title: '121 layers', spec: maximaChart(fiveSeries(resnetSites(121)).slice(2)) },
        { title: 'Loss', spec: lossChart(losses(40), lossAxes) },
        { title: 'Long loss', spec: lossChart(losses(400), lossAxes) },
      ],
    },
    {
      heading: 'Layers',
      verdict: { level: 'warning', text: 'a layer leaves its range' },
      charts: [
        { title: 'Ranges', spec: rangesChart(rangeRows(resnetSites(31))) },
        { title: 'Ranges that differ much', spec: rangesChart(rangeRows(resnetSites(31), 10)) },
        { title: 'Ranges of 4 layers', spec: rangesChart(rangeRows(LENET)) },
        { title: 'Gain', spec: gainChart(gains(resnetSites(31))) },
        { title: 'Gain of 4 layers', spec: gainChart(gains(LENET)) },
      ],
    },
    {
      heading: 'Distributions',
      verdict: { level: 'bad', text: 'values are not finite' },
      charts: [
        { title: 'Linear', spec: histogramChart(bell(4), { range: 3 }) },
        { title: 'Logarithmic', spec: histogramChart(bell(12), { range: 10, log: true }) },
        { title: 'Range far out', spec: histogramChart(bell(0.5), { range: 128.5, log: true }) },
        { title: 'Huge', spec: histogramChart({ edges: [-1e30, -1, 0, 1, 3e38], counts: [1, 9000, 9000, 2] }) },
      ],
    },
    {
      heading: 'A table',
      table: {
        head: ['layer', 'min', 'max', 'images'],
        rows: resnetSites(31).map((site, i) => [site, -i / 3, i % 5 === 0 ? null : 1.5 ** i, 10000 * i]),
      },
    },
  ],
};

const NO_VALUES: ValueStatistics = {
  ...{ min: null, max: null, mean: null, std: null, q001: null, median: null, q999: null, abs999: null },
  ...{ histogram: null, nan: 12, inf: 3, channelMin: [null], channelMax: [null] },
  ...{ channelMean: [null], channelStd: [null] },
};

const values = (size: number): ValueStatistics => ({
  ...{
    min: -size,
    max: size / 2,
    mean: 0.1,
    std: size / 4,
    q001: -size / 2,
    median: 0,
    q999: size / 3,
    abs999: size / 2,
  },
  ...{ histogram: bell(size), nan: 0, inf: 0, channelMin: [-size], channelMax: [size / 2] },
  ...{ channelMean: [0.1], channelStd: [size / 4] },
});

const site = (name: string, i: number): ProbedSite => ({
  ...{ name, label: 'Relu', kind: 'relu', shape: [1, 8, 4, 4] },
  ...{ input: values(4 + i), output: values(3 + i), range: 5, leaving: 0.25, nonFiniteInputs: 0, gain: 1.25 },
});

/** One of whose sites no number is known. */
const failed = (name: string): ProbedSite => ({
  ...{ name, label: 'Polynomial', kind: 'polynomial', shape: [1, 8] },
  ...{ input: NO_VALUES, output: NO_VALUES, range: null, leaving: null, nonFiniteInputs: 7, gain: null },
});

const HOW = {
  ...{ images: 1200, seconds: 3, data: 'cifar10', split: 'test', batch: 64, batching: 'as exported', device: 'cpu' },
  partial: false,
};
const PREPROCESSING = { normalize: 'cifar10', layout: 'nchw' };
const DEVICE = { name: 'cpu', why: 'asked for' };

export const probedModel = (path: string, sites: readonly ProbedSite[] = LENET.map(site)): ProbedModel => ({
  ...HOW,
  ...{
    path,
    sampled: 256,
    preprocessing: PREPROCESSING,
    sites,
    skipped: [],
    nonFiniteOutputs: 0,
    firstNonFinite: null,
  },
  escape: { gain: 1.25, excess: null, level: 'good', verdict: 'stays in range' },
});

export const probeReport = (...models: ProbedModel[]): ProbeReport => ({ models, device: DEVICE });

export const failedModel = (path: string): ProbedModel =>
  probedModel(path, [...LENET.slice(0, 3).map(site), failed('/fc2/Relu')]);

export const EVAL: EvalReport = {
  models: ['nets/lenet.onnx', 'nets/lenet.quad.onnx'].map((path, i) => ({
    ...HOW,
    ...{ path, top1: i === 0 ? 0.98765 : 0, top5: i === 0 ? 0.999 : 0, top1Finite: i === 0 ? 0.98765 : null },
    ...{ top5Finite: null, nonFinite: 1200 * i, nan: 1200 * i, inf: 0, imagesPerSecond: 1234.4, output: 'logits' },
    ...{ preprocessing: { ...PREPROCESSING, source: 'data set' }, partial: i === 1 },
  })),
  device: DEVICE,
};

const layer = (name: string, relative: number | null) => ({
  ...{
    name,
    ops: ['Relu', 'Add'] as const,
    maxAbs: 0.25,
    meanAbs: 0.01,
    relative,
    scale: 12,
    finiteInOne: 0,
    values: 64,
  },
});

export const COMPARE: CompareReport = {
  ...HOW,
  ...{ models: ['a.onnx', 'b.onnx'], sampled: 256, outputs: ['y', 'y'], output: layer('y', null) },
  ...{ outputDiverges: false, agreement: 0.875, nonFinite: [0, 3], nonFiniteInBoth: 0, unmatched: 0, tolerance: 1e-3 },
  layers: [layer('/conv1/Relu_output_0', 1e-7), layer('/conv2/Relu_output_0', null), layer('/fc1/Relu_output_0', 0.5)],
  firstDiverging: layer('/fc1/Relu_output_0', 0.5),
};
