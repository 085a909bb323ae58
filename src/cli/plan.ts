import type { Command } from 'commander';
import { SisyphusError } from '../errors.ts';
import { refuseTarget } from '../files.ts';
import { parseActivations } from '../passes/select-sites.ts';
import type { Method } from '../planner/methods.ts';
import type { PlannedSite, PlanOptions, PlanReport } from '../planner/plan.ts';
import type { Quality } from '../planner/trial.ts';
import { parseSpec } from '../poly/spec.ts';
import { VERSION } from '../version.ts';
import { collect, wholeNumber } from './options.ts';
import {
  bold,
  type CommonOptions,
  dim,
  makeOutput,
  nextStep,
  type Output,
  type Streams,
  table,
  thousands,
} from './output.ts';
import { addCalibrationOptions, calibrationOptions, type RunFlags } from './run-options.ts';

interface Flags extends CommonOptions, Omit<RunFlags, 'limit' | 'partial'> {
  readonly budget?: string;
  readonly method: string;
  readonly poly?: string;
  readonly degrees?: readonly number[];
  readonly perChannel?: boolean;
  readonly activations?: string;
  readonly only?: string[];
  readonly skip?: string[];
  readonly logits?: string;
  readonly output?: string;
  readonly force?: boolean;
}

export function planCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('plan')
    .summary('which activations to keep, and which polynomials for the others')
    .description(
      'Chooses on a few labelled inputs which activations of a trained network stay and what the others become. Nothing is trained; `rewrite --plan` carries the plan out.',
    )
    .argument('<model>', 'ONNX file')
    .option(
      '--budget <limits>',
      'relus=50% (elements that may stay) | sites=8 (activations to replace) | depth=40 (of the network; alone: none stays) | accuracy=0.5% (points that may be lost); comma-separated',
    )
    .option(
      '--method <method>',
      'dp: a dynamic programme over sites and degrees (OLA) | greedy (FIONA) | channels: dp, then single channels change places | delphi: its score | safenet: single channels, ranked | random: what to beat',
      'dp',
    )
    .option(
      '--degrees <list>',
      'degrees to choose from, by the least squares under the measured density (default: 2,4)',
      degreeList,
    )
    .option('--per-channel', 'a polynomial for each channel; with random, single channels stay')
    .option('--poly <spec>', 'this polynomial in place of measured ones: deg=2,a=5 | deg=4,a=data | coeffs=…')
    .option('--activations <kinds>', 'which functions: relu,gelu,… | relu-family | all (default: relu-family)')
    .option('--only <glob>', 'only sites with such a name (repeatable)', collect)
    .option('--skip <glob>', 'leave sites with such a name alone (repeatable)', collect)
    .option('--logits <name>', 'the output that holds the logits (default: the first one with a number for each class)')
    .option('--seed <n>', 'seed of the inputs and of random choices', wholeNumber('--seed', 0, 2 ** 32 - 1), 0)
    .option('-o, --output <file>', 'write the plan as JSON, for rewrite --plan FILE')
    .option('--force', 'replace an existing plan');
  addCalibrationOptions(command, true).action(async (file: string, flags: Flags) => {
    if (flags.output !== undefined) await refuseTarget(flags.output, flags.force ?? false);
    const output = makeOutput(streams, flags);
    output.say(dim(`sisyphus ${VERSION} plan ${file} · ${flags.data} ${flags.split ?? ''}`.trimEnd()));
    // Loaded only now: other commands start faster without.
    const [{ planReplacement }, { showProgress }] = await Promise.all([
      import('../planner/plan.ts'),
      import('./progress.ts'),
    ]);
    const progress = showProgress(streams, flags);
    const calibration = calibrationOptions(flags, signal, progress.onProgress);
    if (!calibration) throw new SisyphusError('usage', '--data: give NAME:PATH');
    const report = await planReplacement(file, { ...calibration, ...toOptions(flags) }).finally(progress.stop);
    tell(output, report, flags);
    if (report.output !== null) {
      output.result(`wrote ${report.output}`);
      output.say(nextStep('rewrite', file, '--plan', report.output));
    }
    output.finish(report);
  });
}

const degreeList = (value: string): number[] => value.split(',').map((word) => wholeNumber('--degrees', 1, 10)(word));

function toOptions(flags: Flags): Partial<PlanOptions> & { output?: string; force?: boolean } {
  const { budget, method, poly, degrees, perChannel, activations, only, skip, logits, output, force } = flags;
  return {
    // `planModel` says what is wrong with it.
    method: method as Method,
    ...(budget !== undefined && { budget }),
    ...(poly !== undefined && { recipe: parseSpec(poly) }),
    ...(degrees && { degrees }),
    ...(perChannel && { perChannel }),
    ...(activations !== undefined && { activations: parseActivations(activations) }),
    ...(only && { only }),
    ...(skip && { skip }),
    ...(logits !== undefined && { logits }),
    ...(output !== undefined && { output }),
    ...(force && { force }),
  };
}

function tell(output: Output, report: PlanReport, flags: Flags): void {
  const { sites, before, after, elements, depth, evaluations, seconds } = report;
  for (const note of report.notes) output.say(`  ${note}`);
  output.say();
  output.say(
    table(
      ['activation', 'elements', 'becomes', 'error alone', ''],
      sites.map((site) => siteRow(site, flags)),
      true,
    ),
  );
  output.say();
  const replaced = sites.filter(({ polynomial }) => polynomial !== null).length;
  output.result(
    `  ${bold(`${replaced} of ${sites.length} activations are replaced`)}; ${thousands(elements.kept)} of ${thousands(elements.all)} elements stay (${percent(elements.kept / elements.all)})`,
  );
  output.result(`  expected ${quality(before, after)}; depth ${depth.before} -> ${depth.after}`);
  output.say(dim(`  ${evaluations} networks measured in ${seconds.toFixed(1)} s`));
}

function siteRow(
  { name, elements, degree, polynomial, channels, sensitivity, reason }: PlannedSite,
  flags: Flags,
): string[] {
  const what = polynomial === null ? 'stays' : flags.verbose ? polynomial : `degree ${degree}`;
  const partly = channels ? `, ${channels[0]} of ${channels[1]} channels stay` : '';
  const error = sensitivity === null ? '-' : sensitivity.toPrecision(3);
  return [name, elements === null ? '-' : thousands(elements), `${what}${partly}`, error, reason ?? ''];
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

function quality(before: Quality, after: Quality): string {
  const same = `${percent(after.agreement)} decided as before`;
  const known = before.accuracy !== null && after.accuracy !== null;
  return known ? `accuracy ${percent(before.accuracy ?? 0)} -> ${percent(after.accuracy ?? 0)}, ${same}` : same;
}
