/** The reports of `eval`, `probe` and `compare` as pages; the paper's Figure 2, and curves of polynomials, as drawings. */
import type { PolynomialReport } from '../describe-polynomial.ts';
import type { EvalReport, EvaluatedModel } from '../eval/accuracy.ts';
import type { CompareReport } from '../eval/compare.ts';
import type { PreprocessingText } from '../eval/preprocessing.ts';
import type { ProbedModel, ProbedSite, ProbeReport } from '../eval/probe.ts';
import type { ValueStatistics } from '../eval/statistics.ts';
import { namedActivation } from '../poly/activations.ts';
import { evaluate, parsePolynomial } from '../poly/polynomial.ts';
import { shortNames } from '../short-names.ts';
import { gainChart, lossChart, maximaChart } from './charts.ts';
import { histogramChart, rangesChart } from './distribution-charts.ts';
import { htmlReport, type ReportTable, type Section } from './html.ts';
import { type Chart, renderSvg } from './svg.ts';

/** The largest |activation| after each nonlinear layer, one line for each model, on a logarithmic scale. */
export const maximaSvg = (report: ProbeReport): Promise<string> => renderSvg(maxima(report.models));

export function maxima(models: readonly ProbedModel[]): Chart {
  const names = shortNames(models);
  return maximaChart(
    models.map(({ sites }, i) => ({
      name: names[i] ?? '',
      points: sites.map(({ name, output }) => ({ site: name, value: largest(output) })),
    })),
  );
}

/** Infinity where a value is not finite: that is what the figure is about. */
function largest({ min, max, nan, inf }: ValueStatistics): number {
  return nan + inf > 0 || min === null || max === null ? Number.POSITIVE_INFINITY : Math.max(-min, max);
}

const howItRan = (data: string, split: string, device: string) => `${data}, ${split} split; onnxruntime on ${device}`;

function preprocessingLine({ normalize, resize, layout }: PreprocessingText): string {
  return `normalize ${normalize}${resize ? `, resize ${resize}` : ''}, ${layout}`;
}

export function evalPage(report: EvalReport): Promise<string> {
  const [first] = report.models;
  const percent = (share: number | null) => (share === null ? null : (100 * share).toFixed(2));
  const rows = report.models.map((model) => [
    model.path,
    percent(model.top1),
    percent(model.top1Finite),
    percent(model.top5),
    model.nan,
    model.inf,
    model.images,
    Math.round(model.imagesPerSecond),
  ]);
  const details = ({ path: file, preprocessing, batch, batching, output, partial }: EvaluatedModel) =>
    `${file}: ${preprocessingLine(preprocessing)}; batch ${batch}, ${batching}; logits '${output}'${partial ? '; interrupted' : ''}`;
  return htmlReport({
    title: 'Accuracy',
    ...(first && { subtitle: howItRan(first.data, first.split, report.device.name) }),
    sections: [
      {
        heading: 'Models',
        text: [
          'Top-1 and top-5 count an input whose logits are not all finite as wrong; "finite" leaves such inputs out.',
        ],
        table: {
          head: ['model', 'top-1 %', 'finite %', 'top-5 %', 'NaN inputs', 'Inf inputs', 'images', 'images/s'],
          rows,
        },
      },
      { heading: 'How they ran', text: report.models.map(details) },
    ],
  });
}

export function probePage(report: ProbeReport): Promise<string> {
  const [first] = report.models;
  const several = report.models.length > 1;
  return htmlReport({
    title: several ? 'Activations of several networks' : `Activations of ${shortNames(report.models)[0] ?? ''}`,
    ...(first && { subtitle: howItRan(first.data, first.split, report.device.name) }),
    sections: [
      {
        heading: 'Largest activation after each nonlinear layer',
        charts: [{ title: 'Largest |activation|, logarithmic scale', spec: maxima(report.models) }],
      },
      ...report.models.flatMap((model, i) => modelSections(model, several ? (shortNames(report.models)[i] ?? '') : '')),
    ],
  });
}

function modelSections(model: ProbedModel, name: string): Section[] {
  const { escape: score, sites, images, sampled, preprocessing, batching, batch, partial } = model;
  const titled = (heading: string) => (name ? `${name}: ${heading}` : heading);
  const how = [
    `${images} images${partial ? ' (interrupted)' : ''}; moments, quantiles and histograms from ${sampled} of them.`,
    `${preprocessingLine(preprocessing)}; batch ${batch}, ${batching}.`,
  ];
  if (sites.length === 0) return [{ heading: titled('no nonlinear layer'), text: how }];
  const gains = sites.map(({ name: site, gain }) => ({ site, gain }));
  return [
    {
      heading: titled('verdict'),
      verdict: { level: score.level, text: score.verdict },
      text: how,
      charts: [
        { title: 'Where the inputs of each layer lie', spec: rangesChart(sites.map(rangeRow)) },
        {
          title: 'Gain of each layer',
          caption: 'How much an excess of variance at the input of a layer grows: 1 for ReLU around 0, 2 for a square.',
          spec: gainChart(gains),
        },
      ],
    },
    { heading: titled('layers'), details: true, table: siteTable(sites) },
    {
      heading: titled('histograms'),
      details: true,
      charts: sites.flatMap(({ name: site, input, range }) =>
        input.histogram ? [{ title: site, spec: histogramChart(input.histogram, { range, log: true }) }] : [],
      ),
    },
  ];
}

const rangeRow = ({ name, input }: ProbedSite) => ({
  site: name,
  min: input.min,
  max: input.max,
  low: input.q001,
  high: input.q999,
  mean: input.mean,
  std: input.std,
});

function siteTable(sites: readonly ProbedSite[]): ReportTable {
  const rounded = (x: number | null) => (x === null ? null : Number(x.toPrecision(4)));
  return {
    head: [
      'layer',
      'function',
      ...['min', 'max', 'mean', 'std', '99.9 % |x|', 'max |y|', 'NaN', 'Inf', 'inputs not finite', 'gain', 'a'],
      'leaving [-a, a] %',
    ],
    rows: sites.map(({ name, label, input, output, nonFiniteInputs, gain, range, leaving }) => [
      name,
      label,
      ...[input.min, input.max, input.mean, input.std, input.abs999].map(rounded),
      output.min === null || output.max === null ? null : rounded(Math.max(-output.min, output.max)),
      input.nan + output.nan,
      input.inf + output.inf,
      nonFiniteInputs,
      rounded(gain),
      range,
      leaving === null ? null : rounded(100 * leaving),
    ]),
  };
}

export function comparePage(report: CompareReport): Promise<string> {
  const { models, layers, output, tolerance, firstDiverging, agreement, nonFinite } = report;
  const rows: [string, string | number | null][] = [
    ['images', report.images],
    ['same argmax, %', (100 * agreement).toFixed(2)],
    ['largest difference of the outputs', output.maxAbs],
    ['mean difference', output.meanAbs],
    ['rms of the difference, relative', output.relative],
    ['largest magnitude', output.scale],
    ...models.map((file, i): [string, number] => [`inputs not finite in ${file}`, nonFinite[i] ?? 0]),
  ];
  const points = layers.map(({ relative }, i) => ({ x: i + 1, y: relative ?? Number.NaN }));
  return htmlReport({
    title: 'Comparison',
    subtitle: `${models.join(' and ')} on ${howItRan(report.data, report.split, report.device)}`,
    sections: [
      {
        heading: 'Outputs',
        verdict: firstDiverging
          ? {
              level: 'warning',
              text: `first layer beyond ${tolerance}: '${firstDiverging.name}' (${firstDiverging.ops[0]})`,
            }
          : { level: 'good', text: `no common layer is beyond ${tolerance}` },
        table: { head: ['', 'value'], rows },
      },
      {
        heading: 'Layers',
        text: [`${layers.length} values have a namesake in the other model; compared on ${report.sampled} images.`],
        ...(layers.length > 0 && {
          charts: [
            {
              title: 'rms of the difference, relative to the first model',
              spec: lossChart([{ name: 'difference', points }], { x: 'value', y: 'relative rms', log: true }),
            },
          ],
        }),
      },
      {
        heading: 'Values',
        details: true,
        table: {
          head: ['value', 'operators', 'relative rms', 'largest', 'scale', 'finite in one'],
          rows: layers.map(({ name, ops, relative, maxAbs, scale, finiteInOne }) => [
            name,
            ops[0] === ops[1] ? ops[0] : ops.join(' / '),
            relative,
            maxAbs,
            scale,
            finiteInOne,
          ]),
        },
      },
    ],
  });
}

/** The curve of a polynomial beside its activation, a quarter beyond the interval on both sides, as an SVG file. */
export async function polynomialSvg(report: PolynomialReport): Promise<string> {
  const polynomial = parsePolynomial(report.polynomial);
  const activation = namedActivation(report.fn);
  const [low, high] = report.interval;
  const [from, to] = [low - (high - low) / 4, high + (high - low) / 4];
  const xs = Array.from({ length: 401 }, (_, i) => from + ((to - from) * i) / 400);
  // Beyond the interval polynomials leave every picture.
  const tallest = 2 * Math.max(...xs.map((x) => Math.abs(activation.f(x))), 1e-6);
  const line = (name: string, f: (x: number) => number) => ({
    name,
    points: xs.map((x) => ({ x, y: f(x) })).filter(({ y }) => Math.abs(y) <= tallest),
  });
  const lines = [line(report.activation, activation.f), line(report.spec, (x) => evaluate(polynomial, x))];
  return renderSvg(lossChart(lines, { x: 'x', y: 'y' }));
}
