import { type Command, Option } from 'commander';
import { parseActivations } from '../passes/select-sites.ts';
import { POOLS, type PolynomializeOptions, type PolynomializeReport } from '../polynomialize.ts';
import type { Verified } from '../refit/verify.ts';
import { VERSION } from '../version.ts';
import { collect, positiveNumber, wholeNumber } from './options.ts';
import { type CommonOptions, dim, makeOutput, nextStep, type Output, type Streams } from './output.ts';
import { fitLine } from './refit.ts';
import { addCalibrationOptions, type RunFlags } from './run-options.ts';
import { epochLine } from './train.ts';

interface Flags
  extends CommonOptions,
    Pick<PolynomializeOptions, 'depth' | 'pools' | 'epochs' | 'lr' | 'trainImages' | 'augment' | 'rangePenalty'>,
    Omit<RunFlags, 'limit' | 'partial'> {
  readonly poly?: string[];
  readonly only?: string[];
  readonly skip?: string[];
  readonly activations?: string;
  readonly testImages?: number;
  readonly output?: string;
  readonly resume?: boolean;
  readonly force?: boolean;
}

const COUNT = 2 ** 31 - 1;

export function polynomializeCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('polynomialize')
    .summary('the recommended path: refit, fine-tune if asked for, and say what was lost')
    .description(
      'From a trained network to a polynomial one in one command: polynomials and weights are fitted to what the layers really get (`refit`), degrees chosen within a depth if one is given, the result fine-tuned against the original if --epochs is, with values kept in range, and what is left is measured: accuracy, where values come closest to escaping, how much noise and contrast inputs may have before they do. Ctrl-C saves; --resume goes on.',
    )
    .argument('<model>', 'ONNX file')
    .option('--poly <spec>', 'deg=N, or GLOB=deg=N for some activations (default: deg=4); repeatable', collect)
    .option(
      '--depth <levels>',
      'multiplicative levels that the network may have, in place of --poly: degrees 2 and 4 by activation',
      wholeNumber('--depth', 1, 1e6),
    )
    .addOption(
      new Option('--pools <what>', 'max pools stay, or become average pools (default: keep)').choices([...POOLS]),
    )
    .option('--epochs <n>', 'of fine-tuning (default: 0)', wholeNumber('--epochs', 0, COUNT))
    .option(
      '--lr <rate>',
      'of its first epoch (default: 0.003; with degrees below 4 only, 0.02)',
      positiveNumber('--lr'),
    )
    .option(
      '--train-images <n>',
      'that it sees, chosen at random (default: all)',
      wholeNumber('--train-images', 1, COUNT),
    )
    .option('--augment <list>', 'crop[=4],flip[=0.5],rotate[=20] (default: crop,flip for CIFAR and Tiny ImageNet)')
    .option('--range-penalty <spec>', 'as in train (default: huber=10,from=0.8)')
    .option('--activations <kinds>', 'which functions: relu,gelu,… | relu-family | all (default: relu-family)')
    .option('--only <glob>', 'replace only activations whose name matches; repeatable', collect)
    .option('--skip <glob>', 'keep activations whose name matches; repeatable', collect)
    .option('--seed <n>', 'of images and places (default: 0), and of training (42)', wholeNumber('--seed', 0, COUNT))
    .option(
      '--test-images <n>',
      'that the result is measured on (default: all)',
      wholeNumber('--test-images', 1, COUNT),
    )
    .option('-o, --output <file>', 'default: MODEL.polynomial.onnx')
    .option('--resume', 'go on where it was interrupted')
    .option('--force', 'replace what is there');
  addCalibrationOptions(command, true).action(async (file: string, flags: Flags) => {
    const output = makeOutput(streams, flags);
    output.say(dim(`sisyphus ${VERSION} polynomialize ${file} · ${flags.data}`));
    // Loaded only now: other commands start faster without.
    const [{ polynomialize }, { showProgress }] = await Promise.all([
      import('../polynomialize.ts'),
      import('./progress.ts'),
    ]);
    const progress = showProgress(streams, flags);
    const say = (text: string) => {
      progress.stop();
      output.say(text);
    };
    const { json: _json, quiet: _quiet, verbose: _verbose, activations, ...options } = flags;
    const report = await polynomialize(file, {
      ...(options as PolynomializeOptions),
      ...(activations !== undefined && { activations: parseActivations(activations) }),
      signal,
      onProgress: progress.onProgress,
      onNote: (note) => say(dim(`  ${note}`)),
      onFit: (record, index, total) => say(`  ${index + 1}/${total} ${fitLine(record)}`),
      onEpoch: (epoch) => say(epochLine(epoch)),
    }).finally(progress.stop);
    tell(output, report);
    output.finish(report);
  });
}

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

function tell(output: Output, report: PolynomializeReport): void {
  const { test, drifts, stands, closest, verdict, depth, nonPolynomial, refit } = report;
  output.result(lossLine(test));
  output.say(`  depth ${depth.before} -> ${depth.after}; ${nonPolynomial} operators left that are no polynomials`);
  for (const { site, reason } of refit.kept) output.say(`  kept ${site}: ${reason}`);
  output.say(`  ${verdict.verdict}`);
  const [first] = closest;
  if (first)
    output.say(
      `  closest to escaping: ${closest.map(({ site, times }) => `${site} ${times.toFixed(2)}`).join(', ')} of the range`,
    );
  for (const each of drifts) output.say(dim(`    ${driftLine(each)}`));
  output.result(`  inputs stand noise of ${stands.noise} deviations and contrast x${stands.contrast}`);
  output.result(`wrote ${report.output}`);
  output.say(nextStep('lower', report.output, '--target', 'portable'));
}

function lossLine({ accuracy, teacherAccuracy, agreement, nonFinite, escaped, images }: Verified): string {
  const kept =
    accuracy === null || teacherAccuracy === null ? '' : `${percent(teacherAccuracy)} -> ${percent(accuracy)}; `;
  return `  ${kept}agrees with the original on ${percent(agreement)} of ${images} images; ${nonFinite} not finite, ${escaped} escaped`;
}

function driftLine({ drift, agreement, escaped }: Verified): string {
  const what =
    drift.kind === 'contrast' ? `contrast x${drift.amount}` : `noise ${'amount' in drift ? drift.amount : 0}`;
  return `${what}: agrees on ${percent(agreement)}, ${escaped} escaped`;
}
