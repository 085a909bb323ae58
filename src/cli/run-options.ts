/** The options that every command which runs models on data has, and what they mean to the library. */
import { type Command, Option } from 'commander';
import { LAYOUTS } from '../data/dataset.ts';
import type { CalibrationOptions } from '../eval/calibration.ts';
import type { RunOptions } from '../eval/run.ts';
import { LOG_LEVELS, type LogLevel } from '../eval/session.ts';
import type { OnProgress } from '../progress.ts';
import { wholeNumber } from './options.ts';

export interface RunFlags {
  readonly data: string;
  readonly split?: 'train' | 'test';
  readonly limit?: number;
  readonly images?: number;
  readonly seed?: number;
  readonly batch?: number;
  readonly normalize?: string;
  readonly resize?: string;
  readonly layout?: string;
  readonly device?: string;
  readonly threads?: number;
  readonly logLevel?: LogLevel;
  readonly partial?: boolean;
}

const COUNT = 2 ** 31 - 1;

export function addRunOptions(command: Command): Command {
  command
    .requiredOption('--data <name:path>', DATA_HELP)
    .addOption(new Option('--split <split>', 'which part of it').choices(['train', 'test']).default('test'))
    .option(
      '--limit <n>',
      'at most n inputs: the first ones, or with --seed random ones',
      wholeNumber('--limit', 1, COUNT),
    )
    .option('--seed <n>', 'choose the inputs of --limit at random', wholeNumber('--seed', 0, 2 ** 32 - 1))
    .option('--partial', 'when interrupted, report what was seen so far');
  return addModelRunOptions(command);
}

const DATA_HELP = 'data set: cifar10:DIR, mnist:DIR, imagefolder:DIR, npz:FILE, synthetic, …';

/** How a model is run and what it is fed. */
export function addModelRunOptions(command: Command): Command {
  return command
    .option('--batch <n>', 'inputs that run at once (default: 100)', wholeNumber('--batch', 1, 1e6))
    .option(
      '--normalize <spec>',
      'raw | scale=1/255 | mean=…,std=… | mnist, cifar10, imagenet, … (default: what the model records, else the data set’s usual one)',
    )
    .option('--resize <size>', '32 | HxW | short=256,crop=224')
    .addOption(new Option('--layout <layout>', 'layout of the model’s input (default: found)').choices([...LAYOUTS]))
    .option('--device <device>', 'auto | cpu | cuda[:n] | webgpu', 'cpu')
    .option('--threads <n>', 'threads for one operator', wholeNumber('--threads', 1, 1024))
    .addOption(new Option('--log-level <level>', 'what onnxruntime itself logs').choices(LOG_LEVELS).default('fatal'));
}

/** For commands that measure a model on a few inputs of the training data. `--seed` is up to the command. */
export function addCalibrationOptions(command: Command, required: boolean): Command {
  const [flag, what] = ['--data <name:path>', `${DATA_HELP}; measured on, labels unused`] as const;
  if (required) command.requiredOption(flag, DATA_HELP);
  else command.option(flag, what);
  command
    .addOption(
      new Option('--split <split>', 'which part of it (default: train, where there is one)').choices(['train', 'test']),
    )
    .option('--images <n>', 'how many inputs, chosen at random (default: 500)', wholeNumber('--images', 1, COUNT));
  return addModelRunOptions(command);
}

/** @returns null without --data */
export function calibrationOptions(
  { images, ...flags }: Omit<RunFlags, 'data'> & { readonly data?: string },
  signal: AbortSignal,
  onProgress: OnProgress,
): CalibrationOptions | null {
  const { data } = flags;
  if (data === undefined) return null;
  return { ...runOptions({ ...flags, data }, signal, onProgress), ...(images !== undefined && { images }) };
}

export function runOptions(flags: RunFlags, signal: AbortSignal, onProgress: OnProgress): RunOptions {
  const { data, split, limit, seed, batch, normalize, resize, layout, device, threads, logLevel, partial } = flags;
  return {
    data,
    ...(split && { split }),
    ...(limit !== undefined && { limit }),
    ...(seed !== undefined && { seed }),
    ...(batch !== undefined && { batch }),
    ...(normalize !== undefined && { normalize }),
    ...(resize !== undefined && { resize }),
    ...(layout !== undefined && { layout }),
    ...(device !== undefined && { device }),
    ...(threads !== undefined && { threads }),
    ...(logLevel && { logLevel }),
    ...(partial && { partial }),
    signal,
    onProgress,
  };
}
