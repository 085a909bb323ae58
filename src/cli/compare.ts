import type { Command } from 'commander';
import { SisyphusError } from '../errors.ts';
import type { ComparedLayer, CompareReport } from '../eval/compare.ts';
import { VERSION } from '../version.ts';
import { positiveNumber, wholeNumber } from './options.ts';
import { type CommonOptions, dim, makeOutput, type Streams, shortNumber, table, thousands } from './output.ts';
import { reportTarget } from './report.ts';
import { addRunOptions, type RunFlags, runOptions } from './run-options.ts';

interface Flags extends CommonOptions, RunFlags {
  readonly tolerance?: number;
  readonly sample?: number;
  readonly report?: string;
  readonly force?: boolean;
}

export function compareCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('compare')
    .summary('how far apart two models are, layer by layer')
    .description(
      'Runs two models on the same inputs and compares their outputs and all intermediate values that have the same name in both.',
    )
    .argument('<first>', 'ONNX file')
    .argument('<second>', 'ONNX file');
  addRunOptions(command)
    .option(
      '--tolerance <x>',
      'rms of the difference, relative to the first model, from which on a layer has diverged (default: 1e-3)',
      positiveNumber('--tolerance'),
    )
    .option(
      '--sample <n>',
      'inputs that layers are compared on (default: 256)',
      wholeNumber('--sample', 1, 2 ** 31 - 1),
    )
    .option('--report <file>', 'write the results as one HTML file')
    .option('--force', 'replace an existing report')
    .action(async (first: string, second: string, flags: Flags) => {
      const output = makeOutput(streams, flags);
      const page = await reportTarget(flags);
      output.say(dim(`sisyphus ${VERSION} compare · ${flags.data} ${flags.split ?? 'test'}`));
      // Loaded only now: other commands start faster without.
      const [{ compare }, { showProgress }] = await Promise.all([
        import('../eval/compare.ts'),
        import('./progress.ts'),
      ]);
      const progress = showProgress(streams, flags);
      const report = await compare(first, second, {
        ...runOptions(flags, signal, progress.onProgress),
        ...(flags.tolerance !== undefined && { tolerance: flags.tolerance }),
        ...(flags.sample !== undefined && { sample: flags.sample }),
      }).finally(progress.stop);
      if (flags.device === 'auto') output.say(`  device ${report.device}`);
      output.result(table(['', 'value'], summary(report), true));
      const shown = flags.verbose ? report.layers : report.layers.slice(0, 0);
      if (shown.length > 0) output.say(table(HEAD, shown.map(layerRow), true));
      output.result(`  ${verdict(report)}`);
      await page?.write((pages) => pages.comparePage(report), output);
      output.finish(report);
      if (report.partial) throw new SisyphusError('aborted', 'interrupted: the figures cover only the images seen');
    });
}

const HEAD = ['value', 'operator', 'relative rms', 'largest', 'scale', 'finite in one'];

const relative = ({ relative }: Pick<ComparedLayer, 'relative'>) => (relative === null ? '-' : shortNumber(relative));

function layerRow(layer: ComparedLayer): string[] {
  const { name, ops, maxAbs, scale, finiteInOne } = layer;
  const op = ops[0] === ops[1] ? ops[0] : `${ops[0]} / ${ops[1]}`;
  return [name, op, relative(layer), shortNumber(maxAbs), shortNumber(scale), thousands(finiteInOne)];
}

function summary(report: CompareReport): string[][] {
  const { output, outputs, nonFinite, models } = report;
  const name = outputs[0] === outputs[1] ? outputs[0] : outputs.join(' / ');
  return [
    ['images', thousands(report.images)],
    ['same argmax', `${(100 * report.agreement).toFixed(2)} %`],
    [`largest difference of ${name}`, shortNumber(output.maxAbs)],
    ['mean difference', shortNumber(output.meanAbs)],
    ['rms of the difference, relative', relative(output)],
    ['largest magnitude', shortNumber(output.scale)],
    ...models.map((path, i) => [`not finite in ${path}`, thousands(nonFinite[i] ?? 0)]),
    ['layers compared', `${report.layers.length} (${report.unmatched} without a namesake of the same shape)`],
  ];
}

function verdict({ firstDiverging, tolerance, layers, outputDiverges }: CompareReport): string {
  if (firstDiverging) {
    const { name, ops, finiteInOne } = firstDiverging;
    const how =
      finiteInOne > 0
        ? `${thousands(finiteInOne)} values are finite in only one of the two`
        : `relative rms ${relative(firstDiverging)}`;
    return `first layer beyond ${tolerance}: '${name}' (${ops[0]}): ${how}`;
  }
  if (layers.length === 0) return 'no intermediate value has a namesake in the other model';
  return outputDiverges
    ? `no common layer is beyond ${tolerance}, but the outputs are: they diverge after the last common layer`
    : `no layer is beyond ${tolerance}: the models agree`;
}
