import { type Command, Option } from 'commander';
import { parseActivations } from '../passes/select-sites.ts';
import type { RefitOptions, RefitReport } from '../refit/refit.ts';
import { type FitRecord, LINEAR } from '../refit/walk.ts';
import { VERSION } from '../version.ts';
import { collect, notNegative, positiveNumber, wholeNumber } from './options.ts';
import { type CommonOptions, dim, makeOutput, nextStep, type Output, type Streams } from './output.ts';
import { addCalibrationOptions, type RunFlags } from './run-options.ts';

interface Flags
  extends CommonOptions,
    Omit<RunFlags, 'limit' | 'partial' | 'layout' | 'device'>,
    Omit<RefitOptions, keyof RunFlags | 'activations' | 'signal' | 'onProgress' | 'onFit' | 'onNote' | 'split'> {
  readonly activations?: string;
  readonly layout?: string;
  readonly device?: string;
}

export function refitCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('refit')
    .summary('polynomials that fit what each layer really gets, and weights that make up for them; no training')
    .description(
      'Walks the network once from input to logits, with the original beside it: each activation becomes the polynomial, by channel, that comes nearest to the original’s on a few images, and each layer behind it gets the weights that bring it back to the original’s values, in closed form. No labels and no gradients. Ctrl-C keeps what was reached in OUTPUT.part, and --resume goes on from there.',
    )
    .argument('<model>', 'ONNX file')
    .option('--poly <spec>', 'deg=N, or GLOB=deg=N for some activations (default: deg=4); repeatable', collect)
    .option(
      '--auto-degree <goal>',
      'degrees 2 and 4 by activation: depth=60 (levels of the network), or accuracy=0.5% (points lost on other images)',
    )
    .option('--per-channel', 'a polynomial for each channel (default)')
    .option('--no-per-channel', 'one for each layer')
    .addOption(
      new Option(
        '--linear <how>',
        'weights of the layers between: as they are, scaled by channel, channels mixed, or all anew (default: ridge)',
      ).choices([...LINEAR]),
    )
    .option(
      '--lambda <x>',
      'how strongly ridge holds on to the old weights (default: 0.01)',
      positiveNumber('--lambda'),
    )
    .option(
      '--rows <n>',
      'places in the images that weights are fitted on (default: 20000)',
      wholeNumber('--rows', 1, 1e8),
    )
    .option(
      '--tail-guard <spec>',
      'off | mass=2e-5,width=1.5: hold polynomials to the activation where nothing was measured (default: from degree 4 on)',
    )
    .option(
      '--clamp <times>',
      'while fitting, bound values to so many times the original’s (default: 1.1, below degree 4 2)',
      positiveNumber('--clamp'),
    )
    .option('--activations <kinds>', 'which functions: relu,gelu,… | relu-family | all (default: relu-family)')
    .option('--only <glob>', 'replace only activations whose name matches; repeatable', collect)
    .option('--skip <glob>', 'keep activations whose name matches; repeatable', collect)
    .option('--seed <n>', 'of the choice of images and places (default: 0)', wholeNumber('--seed', 0, 2 ** 31 - 1))
    .option(
      '--cache-memory <GB>',
      'for the values of one layer (default: a quarter of the machine’s)',
      notNegative('--cache-memory'),
    )
    .option('--cache-disk <GB>', 'the same on disk, beside the output (default: 0)', notNegative('--cache-disk'))
    .option(
      '--checkpoint-every <s>',
      'seconds between two writings of what was reached (default: 10)',
      notNegative('--checkpoint-every'),
    )
    .option('-o, --output <file>', 'default: MODEL.refit.onnx')
    .option('--resume', 'go on from OUTPUT.part')
    .option('--force', 'replace an existing output');
  addCalibrationOptions(command, true).action(async (file: string, flags: Flags) => {
    const output = makeOutput(streams, flags);
    output.say(dim(`sisyphus ${VERSION} refit ${file} · ${flags.data}`));
    // Loaded only now: other commands start faster without.
    const [{ refit }, { showProgress }] = await Promise.all([import('../refit/refit.ts'), import('./progress.ts')]);
    const progress = showProgress(streams, flags);
    const { json: _json, quiet: _quiet, verbose: _verbose, activations, cacheMemory, cacheDisk, ...options } = flags;
    const report = await refit(file, {
      ...(options as RefitOptions),
      ...(activations !== undefined && { activations: parseActivations(activations) }),
      ...(cacheMemory !== undefined && { cacheMemory: 1e9 * cacheMemory }),
      ...(cacheDisk !== undefined && { cacheDisk: 1e9 * cacheDisk }),
      signal,
      onProgress: progress.onProgress,
      onNote: (note) => {
        progress.stop();
        output.say(dim(`  ${note}`));
      },
      onFit: (record, index, total) => {
        progress.stop();
        output.say(`  ${index + 1}/${total} ${fitLine(record)}`);
      },
    }).finally(progress.stop);
    tell(output, report);
    output.finish(report);
  });
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** What a step came to, in a line. */
export function fitLine(record: FitRecord): string {
  if (record.kind === 'linear')
    return `${record.name}: ${record.how}, error ${percent(record.before)} -> ${percent(record.after)}`;
  const { name, activation, degree, error, range, drift } = record;
  const several = record.coefficients.length > 1 ? `, ${record.coefficients.length} channels` : '';
  const drifted = drift > 1.5 ? `, values up to ${drift.toPrecision(2)} times the original’s` : '';
  return `${name}: ${activation} -> degree ${degree}${several}, error ${percent(error)}, range ${range.toPrecision(3)}${drifted}`;
}

function tell(output: Output, { model, output: file, layers, kept, images, split, seconds, data }: RefitReport): void {
  const replaced = layers.filter(({ kind }) => kind === 'activation').length;
  output.result(
    `${replaced} activations replaced, ${layers.length - replaced} layers fitted anew, on ${images} images (${split}), ${seconds.toFixed(0)} s`,
  );
  for (const { site, reason } of kept) output.say(`  kept ${site}: ${reason}`);
  output.result(`wrote ${file}`);
  output.say(nextStep('compare', model, file, '--data', data));
}
