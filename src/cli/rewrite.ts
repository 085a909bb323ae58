import type { Command } from 'commander';
import { didYouMean, SisyphusError } from '../errors.ts';
import { readModel } from '../graph/read.ts';
import { serialize } from '../graph/write.ts';
import { parseActivations } from '../passes/select-sites.ts';
import { FORMS, type Form } from '../poly/plan.ts';
import { type ModelRewrite, type RewriteOptions, type RewriteReport, rewrite, rewriteModel } from '../rewrite.ts';
import { VERSION } from '../version.ts';
import { collect, positiveNumber, wholeNumber } from './options.ts';
import { bytes, type CommonOptions, dim, makeOutput, nextStep, type Output, type Streams, warning } from './output.ts';
import { changes, tellPass } from './pass-report.ts';
import { addCalibrationOptions, calibrationOptions, type RunFlags } from './run-options.ts';

interface Flags
  extends CommonOptions,
    Omit<RewriteOptions, 'activations' | 'calibration' | 'form' | 'passes' | 'seed' | 'signal'>,
    Partial<Omit<RunFlags, 'limit' | 'partial'>> {
  readonly activations?: string;
  readonly form?: string;
  readonly passes?: string[];
}

export function rewriteCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('rewrite')
    .summary('replace activations by polynomials, and other rewrites')
    .description(
      'Replaces the activations of an ONNX model by polynomials and writes MODEL.poly.onnx beside it. Other rewrites run before that with --passes (see `sisyphus passes`).',
    )
    .argument('<model>', 'ONNX file')
    .option(
      '--poly <spec>',
      'deg=4,a=5 | preset=NAME (see `sisyphus presets`) | taylor | quad | coeffs=c0:c1:c2, or GLOB=SPEC for some sites (repeatable)',
      collect,
    )
    .option('--plan <file>', 'replace what this plan says, in place of --poly (see `sisyphus plan`)')
    .option('--activations <kinds>', 'which functions: relu,gelu,… | relu-family | all (default: relu-family)')
    .option('--only <glob>', 'only sites with such a name (repeatable)', collect)
    .option('--skip <glob>', 'leave sites with such a name alone (repeatable)', collect)
    .option('--form <form>', `how polynomials are evaluated: ${FORMS.join(' | ')} (default: least depth)`)
    .option('--amm <file>', 'insert ApproxMinMaxNorm with the ranges of this statistics file')
    .option('--mm', 'insert the true min-max normalisation, taken at run time')
    .option('--passes <names>', 'passes to run first, in this order (comma-separated, repeatable)', collect)
    .option('--opset <n>', 'convert to this opset first', wholeNumber('--opset', 7, 23))
    .option('--target <name>', 'lower the result for a compiler, as `lower` does: portable, ace, crypten, …')
    .option(
      '--check <n>',
      'compare with the original on n random inputs after the exact passes',
      wholeNumber('--check', 0, 1e6),
    )
    .option(
      '--rtol <x>',
      'what --check allows, relative to the largest output (default: 1e-4)',
      positiveNumber('--rtol'),
    )
    .option('--seed <n>', 'seed of random inputs and choices', wholeNumber('--seed', 0, 2 ** 32 - 1), 0)
    .option('-o, --output <file>', "where to write; '-' for standard output")
    .option('--external-data', 'put the weights into a file of their own, OUTPUT.data')
    .option('--force', 'replace an existing output')
    .option('--dry-run', 'do everything but write');
  addCalibrationOptions(command, false).action(async (file: string, flags: Flags) => {
    const toStdout = flags.output === '-';
    if (toStdout && flags.json) throw new SisyphusError('usage', '--json and -o - both want standard output');
    const output = makeOutput(streams, flags, toStdout);
    const progress = flags.data === undefined ? null : (await import('./progress.ts')).showProgress(streams, flags);
    const calibration = calibrationOptions(flags, signal, progress?.onProgress ?? (() => {}));
    const options = { ...toOptions(flags), signal, ...(calibration && { calibration }) };
    output.say(dim(`sisyphus ${VERSION} rewrite ${file}`));
    if (toStdout) {
      const { model, ...report } = await rewriteModel(readModel(file), options, file).finally(progress?.stop);
      tell(output, report, flags, null);
      if (!flags.dryRun) streams.out(serialize(model, { inline: true }));
      return;
    }
    const report = await rewrite(file, options).finally(progress?.stop);
    tell(output, report, flags, report.size);
    const written = Object.entries(report.files);
    output.result(
      written.length === 0
        ? 'dry run: nothing was written'
        : `wrote ${written.map(([name, size]) => `${name} (${bytes(size)})`).join(' and ')}`,
    );
    if (report.output) output.say(nextStep('inspect', file, report.output));
    output.finish(report);
  });
}

function toOptions(flags: Flags): RewriteOptions {
  const { poly, plan, opset, target, amm, mm, only, skip, check, seed, rtol, output, force, dryRun, externalData } =
    flags;
  const { activations, form, passes } = flags;
  const rest = {
    poly,
    plan,
    opset,
    target,
    amm,
    mm,
    only,
    skip,
    check,
    seed,
    rtol,
    output,
    force,
    dryRun,
    externalData,
  };
  const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  return {
    ...given,
    ...(activations !== undefined && { activations: parseActivations(activations) }),
    ...(form !== undefined && { form: parseForm(form) }),
    ...(passes && { passes: passes.flatMap((names) => names.split(',')).filter(Boolean) }),
  };
}

function parseForm(word: string): Form {
  const form = FORMS.find((candidate) => candidate === word);
  if (form) return form;
  throw new SisyphusError('usage', `--form: unknown form '${word}'${didYouMean(word, FORMS)}`);
}

function tell(
  output: Output,
  report: Omit<ModelRewrite, 'model'>,
  flags: Flags,
  size: RewriteReport['size'] | null,
): void {
  for (const text of report.notes) output.say(`  ${text}`);
  for (const text of report.warnings) output.say(warning(`  ! ${text}`));
  // Lowering looks for a lot that is not there.
  for (const pass of report.passes)
    if (flags.target === undefined || flags.verbose || pass.applied.length > 0)
      tellPass(output, pass, flags.verbose ?? false);
  if (report.check)
    output.say(
      'skipped' in report.check
        ? `  check skipped: ${report.check.skipped}`
        : `  check passed: ${report.check.runs} random inputs, largest difference ${report.check.maxError.toPrecision(3)} at a scale of ${report.check.scale.toPrecision(3)}`,
    );
  output.say(changes(report.before, report.after, size));
  const left = Object.entries(report.after.nonPolynomialNodes).map(([op, count]) => `${count} ${op}`);
  if (left.length > 0) output.say(`  not polynomial yet: ${left.join(', ')}`);
}
