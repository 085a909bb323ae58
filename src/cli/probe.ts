import type { Command } from 'commander';
import { SisyphusError } from '../errors.ts';
import type { ProbedModel, ProbedSite, ProbeReport } from '../eval/probe.ts';
import { statisticsFile } from '../eval/statistics-file.ts';
import { refuseTarget, writeFileSafely } from '../files.ts';
import { shortNames } from '../short-names.ts';
import { VERSION } from '../version.ts';
import { positiveNumber, wholeNumber } from './options.ts';
import {
  bold,
  type CommonOptions,
  dim,
  failure,
  makeOutput,
  type Output,
  type Streams,
  shortNumber,
  table,
  thousands,
  warning,
} from './output.ts';
import { addRunOptions, type RunFlags, runOptions } from './run-options.ts';

interface Flags extends CommonOptions, RunFlags {
  readonly output?: string;
  readonly svg?: string;
  readonly report?: string;
  readonly range?: number;
  readonly sample?: number;
  readonly force?: boolean;
}

export function probeCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('probe')
    .summary('where activations escape: statistics of every nonlinear layer')
    .description(
      'Runs data through models and shows, for the input and output of every nonlinear layer, extremes, moments, quantiles, NaN and infinities, and which inputs leave the range that a polynomial was made for. Several models are overlaid.',
    )
    .argument('<models...>', 'ONNX files');
  addRunOptions(command)
    .option('-o, --output <file>', 'write the statistics as JSON, for rewrite --amm FILE and --poly deg=4,a=FILE')
    .option('--svg <file>', 'draw the largest activation after each nonlinear layer (Figure 2 of the paper)')
    .option('--report <file>', 'write everything as one HTML file')
    .option(
      '--range <a>',
      'count inputs that leave [-a, a] (default: the range that each polynomial was fitted on)',
      positiveNumber('--range'),
    )
    .option(
      '--sample <n>',
      'inputs that moments, quantiles and histograms are taken from (default: 256)',
      wholeNumber('--sample', 1, 2 ** 31 - 1),
    )
    .option('--force', 'replace existing files')
    .action(async (files: string[], flags: Flags) => {
      const targets = [flags.output, flags.svg, flags.report].filter((file) => file !== undefined);
      if (flags.output !== undefined && files.length > 1)
        throw new SisyphusError('usage', '-o: the statistics are those of one model; give one');
      if (new Set(targets).size < targets.length)
        throw new SisyphusError('usage', '-o, --svg and --report name the same file');
      // Before the work, not after it.
      for (const file of targets) await refuseTarget(file, flags.force ?? false);
      const output = makeOutput(streams, flags);
      output.say(dim(`sisyphus ${VERSION} probe · ${flags.data} ${flags.split ?? 'test'}`));
      // Loaded only now: other commands start faster without.
      const [{ probe }, { showProgress }] = await Promise.all([import('../eval/probe.ts'), import('./progress.ts')]);
      const progress = showProgress(streams, flags);
      const report = await probe(files, {
        ...runOptions(flags, signal, progress.onProgress),
        ...(flags.range !== undefined && { range: flags.range }),
        ...(flags.sample !== undefined && { sample: flags.sample }),
      }).finally(progress.stop);
      tell(output, report, flags);
      for (const file of await writeResults(report, flags)) output.result(`wrote ${file}`);
      output.finish(report);
      if (report.models.length < files.length || report.models.some(({ partial }) => partial))
        throw new SisyphusError('aborted', 'interrupted: the figures cover only the images that are counted above');
    });
}

async function writeResults(report: ProbeReport, flags: Flags): Promise<string[]> {
  const written: string[] = [];
  const write = async (file: string | undefined, make: () => Promise<string> | string) => {
    if (file === undefined) return;
    await writeFileSafely(file, await make(), { force: flags.force ?? false });
    written.push(file);
  };
  const [first] = report.models;
  if (first) await write(flags.output, () => statisticsFile(first));
  if (flags.svg !== undefined || flags.report !== undefined) {
    const { maximaSvg, probePage } = await import('../view/pages.ts');
    await write(flags.svg, () => maximaSvg(report));
    await write(flags.report, () => probePage(report));
  }
  return written;
}

/** Sites of a model that are shown without -v; of several models, only what they have in common is. */
const SHOWN = 40;

function tell(output: Output, report: ProbeReport, flags: Flags): void {
  if (flags.device === 'auto') output.say(`  device ${report.device.name}: ${report.device.why}`);
  for (const model of report.models) {
    const { path: file, images, sampled, preprocessing, sites, skipped, escape: score, batching, batch } = model;
    output.say();
    output.say(`  ${bold(file)}: ${thousands(images)} images, moments and quantiles from ${thousands(sampled)}`);
    output.say(dim(`  normalize ${preprocessing.normalize}, ${preprocessing.layout}; batch ${batch}, ${batching}`));
    const shown = flags.verbose ? sites : report.models.length > 1 ? [] : sites.slice(0, SHOWN);
    if (sites.length === 0) output.say('  no nonlinear layer');
    if (shown.length > 0) output.say(siteTable(shown));
    if (shown.length > 0 && shown.length < sites.length)
      output.say(`  … and ${sites.length - shown.length} more layers (-v)`);
    for (const { site, reason } of skipped) output.say(`  not probed: ${site}: ${reason}`);
    const paint = score.level === 'good' ? (text: string) => text : score.level === 'bad' ? failure : warning;
    output.result(`  ${paint(`${file}: ${score.verdict}`)}`);
  }
  if (report.models.length > 1) {
    output.say();
    output.say(`  ${bold('largest |activation| after each layer')}`);
    output.say(overlay(report.models, shortNames(report.models)));
  }
}

function siteTable(sites: readonly ProbedSite[]): string {
  const ranged = sites.some(({ range }) => range !== null);
  const head = ['layer', 'function', 'min', 'max', 'mean', 'std', '99.9 % |x|', 'max |y|', 'NaN', 'Inf', 'gain'];
  const rows = sites.map(({ name, label, input, output, range, leaving, gain }) => [
    name,
    label,
    ...[input.min, input.max, input.mean, input.std, input.abs999, largest(output)].map(shortNumber),
    thousands(input.nan + output.nan),
    thousands(input.inf + output.inf),
    gain === null ? '-' : gain.toFixed(2),
    ...(ranged ? [range === null ? '-' : shortNumber(range), leaving === null ? '-' : (100 * leaving).toFixed(2)] : []),
  ]);
  return table(ranged ? [...head, 'a', '% outside'] : head, rows, true);
}

/** The largest magnitude among the finite values. */
function largest({ min, max }: ProbedSite['output']): number | null {
  return min === null || max === null ? null : Math.max(-min, max);
}

/** The paper's Figure 2 as a table. */
function overlay(models: readonly ProbedModel[], names: readonly string[]): string {
  const layers = [...new Set(models.flatMap(({ sites }) => sites.map(({ name }) => name)))];
  const bySite = models.map(({ sites }) => new Map(sites.map((site) => [site.name, site])));
  const rows = layers.map((name) => [
    name,
    ...bySite.map((sites) => {
      const site = sites.get(name);
      if (!site) return '-';
      return site.output.nan + site.output.inf > 0 ? 'not finite' : shortNumber(largest(site.output));
    }),
  ]);
  return table(['layer', ...names], rows, true);
}
