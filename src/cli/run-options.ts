/** The options that every command which runs models on data has, and what they mean to the library. */
import { type Command, Option } from 'commander';
import { LAYOUTS } from '../eval/input.ts';
import type { RunOptions } from '../eval/run.ts';
import { LOG_LEVELS, type LogLevel } from '../eval/session.ts';
import type { OnProgress } from '../progress.ts';
import { wholeNumber } from './options.ts';

export interface RunFlags {
  readonly data: string;
  readonly split?: 'train' | 'test';
  readonly limit?: number;
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
  return command
    .requiredOption('--data <name:path>', 'data set: cifar10:DIR, mnist:DIR, imagefolder:DIR, npz:FILE, synthetic, …')
    .addOption(new Option('--split <split>', 'which part of it').choices(['train', 'test']).default('test'))
    .option(
      '--limit <n>',
      'at most n inputs: the first ones, or with --seed random ones',
      wholeNumber('--limit', 1, COUNT),
    )
    .option('--seed <n>', 'choose the inputs of --limit at random', wholeNumber('--seed', 0, 2 ** 32 - 1))
    .option('--batch <n>', 'inputs that run at once (default: 100)', wholeNumber('--batch', 1, 1e6))
    .option(
      '--normalize <spec>',
      'raw | scale=1/255 | mean=…,std=… | mnist, cifar10, imagenet, … (default: what the model records, else the data set’s usual one)',
    )
    .option('--resize <size>', '32 | HxW | short=256,crop=224')
    .addOption(new Option('--layout <layout>', 'layout of the model’s input (default: found)').choices([...LAYOUTS]))
    .option('--device <device>', 'auto | cpu | cuda[:n] | webgpu', 'cpu')
    .option('--threads <n>', 'threads for one operator', wholeNumber('--threads', 1, 1024))
    .addOption(new Option('--log-level <level>', 'what onnxruntime itself logs').choices(LOG_LEVELS).default('fatal'))
    .option('--partial', 'when interrupted, report what was seen so far');
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
