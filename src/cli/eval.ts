import type { Command } from 'commander';
import { SisyphusError } from '../errors.ts';
import type { Accuracy, EvaluatedModel } from '../eval/accuracy.ts';
import { VERSION } from '../version.ts';
import { type CommonOptions, dim, makeOutput, type Streams, table, thousands, warning } from './output.ts';
import { reportTarget } from './report.ts';
import { addRunOptions, type RunFlags, runOptions } from './run-options.ts';

interface Flags extends CommonOptions, RunFlags {
  readonly logits?: string;
  readonly savePreprocessing?: boolean;
  readonly report?: string;
  readonly force?: boolean;
}

export function evalCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('eval')
    .summary('accuracy of models on a data set')
    .description(
      'Counts how many inputs each model classifies right. An input with a logit that is NaN or infinite counts as wrong; the accuracy over the other inputs stands in parentheses.',
    )
    .argument('<models...>', 'ONNX files');
  addRunOptions(command)
    .option('--logits <name>', 'the output that holds the logits (default: the first one with a number for each class)')
    .option('--save-preprocessing', 'record the preprocessing in the models’ metadata, for later runs')
    .option('--report <file>', 'write the results as one HTML file')
    .option('--force', 'replace an existing report')
    .action(async (files: string[], flags: Flags) => {
      const output = makeOutput(streams, flags);
      const page = await reportTarget(flags);
      output.say(dim(`sisyphus ${VERSION} eval · ${flags.data} ${flags.split ?? 'test'}`));
      // Loaded only now: other commands start faster without.
      const [{ evaluate }, { showProgress }] = await Promise.all([
        import('../eval/accuracy.ts'),
        import('./progress.ts'),
      ]);
      const progress = showProgress(streams, flags);
      const report = await evaluate(files, {
        ...runOptions(flags, signal, progress.onProgress),
        ...(flags.logits !== undefined && { logits: flags.logits }),
        ...(flags.savePreprocessing && { savePreprocessing: true }),
      }).finally(progress.stop);
      if (flags.device === 'auto') output.say(`  device ${report.device.name}: ${report.device.why}`);
      for (const model of report.models) for (const note of notes(model)) output.say(note);
      const rows = report.models.map((model) => [
        model.path,
        percentage(model.top1, model.top1Finite, model),
        percentage(model.top5, model.top5Finite, model),
        thousands(model.nan),
        thousands(model.inf),
        thousands(model.images),
        thousands(Math.round(model.imagesPerSecond)),
      ]);
      output.result(table(['model', 'top-1 %', 'top-5 %', 'NaN', 'Inf', 'images', 'images/s'], rows, true));
      if (flags.savePreprocessing)
        for (const { path, partial } of report.models)
          if (!partial) output.say(`recorded the preprocessing in ${path}`);
      await page?.write((pages) => pages.evalPage(report), output);
      output.finish(report);
      if (report.models.length < files.length || report.models.some(({ partial }) => partial))
        throw new SisyphusError('aborted', 'interrupted: the figures cover only the images that are counted above');
    });
}

/** '1.28 (71.11)': with the inputs that are not finite counted as wrong, and without them. */
export function percentage(all: number, finite: number | null, { nonFinite }: Pick<Accuracy, 'nonFinite'>): string {
  const text = (share: number) => (100 * share).toFixed(2);
  if (nonFinite === 0) return text(all);
  return `${text(all)} (${finite === null ? '-' : text(finite)})`;
}

/** What a user should know about how a model was run. */
function notes({ path, preprocessing, batching, batch, partial }: EvaluatedModel): string[] {
  const { source, normalize, resize, layout } = preprocessing;
  const how = `normalize ${normalize}${resize ? `, resize ${resize}` : ''}, ${layout}`;
  return [
    dim(`  ${path}: ${how}${source === 'model' ? ' (recorded in the model)' : ''}; batch ${batch}, ${batching}`),
    ...(source === 'default'
      ? [warning(`  ! ${path}: no --normalize, and the model records none: taken what is usual for the data set`)]
      : []),
    ...(partial ? [warning(`  ! ${path}: interrupted before all inputs were seen`)] : []),
  ];
}
