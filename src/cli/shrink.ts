import type { Command } from 'commander';
import type { ShrinkOptions, ShrinkReport } from '../train/shrink.ts';
import { VERSION } from '../version.ts';
import { notNegative, positiveNumber, wholeNumber } from './options.ts';
import { type CommonOptions, dim, makeOutput, nextStep, type Output, type Streams, table } from './output.ts';
import { epochLine } from './train.ts';

type Flags = CommonOptions & Omit<ShrinkOptions, 'signal' | 'onProgress' | 'onStart' | 'onEpoch' | 'backend'>;

export function shrinkCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const count = (flag: string, least = 1) => wholeNumber(flag, least, 2 ** 31 - 1);
  program
    .command('shrink')
    .summary('retrain a network so that its pre-activations stay in smaller ranges, before anything is replaced')
    .description(
      'Trains with a penalty on inputs of activations beyond a share of the range that they have now, and with the network as it was for a teacher. Polynomials then fit better at the same degree: `refit` the result.',
    )
    .argument('<model>', 'ONNX file')
    .option('--data <name:path>', 'mnist:DIR, cifar10:DIR, npz:FILE, synthetic, …; its train split is trained on')
    .option('--to <share>', 'of the ranges as they are (default: 0.5)', positiveNumber('--to'))
    .option('--penalty <weight>', 'on what lies outside (default: 10)', positiveNumber('--penalty'))
    .option('--epochs <n>', 'default: 5', count('--epochs'))
    .option('--lr <rate>', 'of the first epoch (default: 0.005)', positiveNumber('--lr'))
    .option('--momentum <m>', 'default: 0.9', notNegative('--momentum'))
    .option('--weight-decay <d>', 'L2 (default: 5e-4)', notNegative('--weight-decay'))
    .option('--clip-norm <n>', 'largest common norm of the gradients (default: 1)', positiveNumber('--clip-norm'))
    .option(
      '--distill <share>',
      'of the loss that the network as it was makes (default: 0.9)',
      notNegative('--distill'),
    )
    .option('--batch <n>', 'images in a step (default: 128)', count('--batch'))
    .option('--augment <list>', 'crop[=4],flip[=0.5],rotate[=20] (default: none)')
    .option('--limit <n>', 'at most n training images, chosen at random by the seed', count('--limit'))
    .option('--seed <n>', 'of order and augmentation (default: 42)', count('--seed', 0))
    .option(
      '--normalize <spec>',
      'raw | mean=…,std=… | mnist, cifar10, … (default: what the model records, else usual)',
    )
    .option('--threads <n>', 'threads for one operator', wholeNumber('--threads', 1, 1024))
    .option('--run <folder>', 'run folder (default: MODEL.shrink)')
    .option('--resume', 'go on with the run in the folder')
    .option('-o, --output <file>', 'default: MODEL.shrink.onnx')
    .option('--force', 'start anew in a folder that holds a run; replace an existing output')
    .action(async (file: string, flags: Flags) => {
      const output = makeOutput(streams, flags);
      output.say(dim(`sisyphus ${VERSION} shrink ${file}`));
      // Loaded only now: other commands start faster without.
      const [{ shrink }, { showProgress }] = await Promise.all([import('../train/shrink.ts'), import('./progress.ts')]);
      const { json: _json, quiet: _quiet, verbose: _verbose, ...options } = flags;
      const progress = showProgress(streams, flags);
      const report = await shrink(file, {
        ...options,
        signal,
        onProgress: progress.onProgress,
        onEpoch: (epoch) => {
          progress.stop();
          output.say(epochLine(epoch));
        },
      }).finally(progress.stop);
      tell(output, report);
      output.finish(report);
    });
}

function tell(output: Output, { sites, output: file, settings }: ShrinkReport): void {
  output.say(
    table(
      ['layer', 'largest |x| before', 'after'],
      sites.map(({ name, before, after }) => [name, before.toPrecision(3), after.toPrecision(3)]),
      true,
    ),
  );
  output.result(`wrote ${file}`);
  output.say(nextStep('refit', file, '--data', settings.data));
}
