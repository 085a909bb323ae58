import { type Command, Option } from 'commander';
import { LAYOUTS } from '../data/dataset.ts';
import type { EpochRecord, TrainOptions, TrainStart } from '../train/train.ts';
import { VERSION } from '../version.ts';
import { notNegative, positiveNumber, wholeNumber } from './options.ts';
import { type CommonOptions, dim, makeOutput, nextStep, type Output, type Streams, thousands } from './output.ts';

type Flags = CommonOptions & Omit<TrainOptions, 'signal' | 'onProgress' | 'onStart' | 'onEpoch'>;

export function trainCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const count = (flag: string, least = 1) => wholeNumber(flag, least, 2 ** 31 - 1);
  program
    .command('train')
    .summary('train the weights of a model on labelled data')
    .description(
      'Trains an ONNX model by stochastic gradient descent and writes a run folder: config.json, metrics.ndjson, checkpoints, last.onnx and best.onnx (the epoch with the best test accuracy). Defaults are those of the paper’s authors. Ctrl-C saves; --resume goes on exactly there.',
    )
    .argument('<model>', 'ONNX file')
    .option('--data <name:path>', 'mnist:DIR, cifar10:DIR, npz:FILE, synthetic, …; its train split is trained on')
    .option('--epochs <n>', 'times that all images are seen (default: 50)', count('--epochs'))
    .option('--lr <rate>', 'learning rate of the first epoch (default: 0.1; adam, adamw 0.001)', positiveNumber('--lr'))
    .option('--momentum <m>', 'of sgd (default: 0.5); beta1 of adam and adamw (0.9)', notNegative('--momentum'))
    .addOption(new Option('--nesterov', 'look ahead along the velocity (default for sgd)').default(undefined))
    .option('--no-nesterov', 'plain momentum')
    .option(
      '--weight-decay <d>',
      'L2, on all parameters; decoupled with adamw (default: 5e-4)',
      notNegative('--weight-decay'),
    )
    .option(
      '--schedule <schedule>',
      'cosine[,floor=0.01] | constant | step[,at=0.5:0.75,factor=0.1], per epoch (default: cosine)',
    )
    .option('--batch <n>', 'images in a step (default: 128)', count('--batch'))
    .option('--augment <list>', 'crop[=4],flip[=0.5],rotate[=20] in this order (default: none)')
    .option('--loss <loss>', 'ce (cross-entropy) | mse (to the one-hot label) (default: ce)')
    .option('--optimizer <name>', 'sgd | adam | adamw (default: sgd)')
    .option(
      '--clip-range <times>',
      'bound inputs of nonlinear layers, in training alone, to so many times their calibrated range (1.05)',
      positiveNumber('--clip-range'),
    )
    .option(
      '--range-penalty <spec>',
      'on what lies beyond: huber=10,from=0.8 | power=0.006,p=10,warmup=4,from=0.96 (PILLAR)',
    )
    .option('--range <a>', 'for both: [-a, a] at every layer, in place of calibrated ranges', positiveNumber('--range'))
    .addOption(
      new Option(
        '--norm <name>',
        'polynorm: each sample is normalised before each layer, by additions and products; hermite: activations become quadratics in AESPA’s basis',
      ).choices(['polynorm', 'hermite']),
    )
    .option('--teacher <file>', 'learn from this model’s logits too')
    .option('--temperature <T>', 'of the teacher’s logits (default: 4)', positiveNumber('--temperature'))
    .option('--distill <share>', 'of the loss that the teacher makes (default: 0.9)', notNegative('--distill'))
    .option('--clip-norm <n>', 'largest common norm of the gradients (default: none)', positiveNumber('--clip-norm'))
    .option('--seed <n>', 'of order, augmentation and dropout (default: 42)', wholeNumber('--seed', 0, 2 ** 31 - 1))
    .option('--limit <n>', 'at most n training images, chosen at random by the seed', count('--limit'))
    .option(
      '--normalize <spec>',
      'raw | mean=…,std=… | mnist, cifar10, … (default: what the model records, else usual)',
    )
    .option('--resize <size>', '32 | HxW | short=256,crop=224')
    .addOption(new Option('--layout <layout>', 'layout of the model’s input (default: found)').choices([...LAYOUTS]))
    .option('--backend <name>', 'auto | tensorflow | onnxruntime | cpu (default: auto)')
    .option('--device <device>', 'for onnxruntime: auto | cpu | cuda[:n] | webgpu (default: cpu)')
    .option('--threads <n>', 'threads for one operator', wholeNumber('--threads', 1, 1024))
    .option('--workers <n>', 'threads that prepare batches (default: 1)', wholeNumber('--workers', 0, 64))
    .option('--run <folder>', 'run folder (default: MODEL.train)')
    .option('--resume', 'go on with the run in the folder; options that are not given are taken from there')
    .option(
      '--checkpoint-every <s>',
      'seconds between checkpoints within an epoch (default: 60)',
      positiveNumber('--checkpoint-every'),
    )
    .option('-o, --output <file>', 'copy the best model there')
    .option('--force', 'start anew in a folder that holds a run; replace an existing output')
    .action(async (file: string, flags: Flags) => {
      const output = makeOutput(streams, flags);
      output.say(dim(`sisyphus ${VERSION} train ${file}`));
      // Loaded only now: other commands start faster without.
      const [{ train }, { parseBackend }, { showProgress }] = await Promise.all([
        import('../train/train.ts'),
        import('../train/choose-backend.ts'),
        import('./progress.ts'),
      ]);
      const { json: _json, quiet: _quiet, verbose: _verbose, backend, ...options } = flags;
      const progress = showProgress(streams, flags);
      const report = await train(file, {
        ...options,
        ...(backend !== undefined && { backend: parseBackend(backend) }),
        signal,
        onProgress: progress.onProgress,
        onStart: (start) => tellStart(output, start),
        onEpoch: (epoch) => {
          progress.stop();
          output.say(epochLine(epoch));
        },
      }).finally(progress.stop);
      const best = report.bestTestAccuracy === null ? '' : ` (${percent(report.bestTestAccuracy)} % of the test split)`;
      output.result(`best: epoch ${report.bestEpoch}${best}`);
      output.result(`wrote ${report.output ?? report.best}`);
      output.say(nextStep('eval', report.output ?? report.best, '--data', report.settings.data));
      output.finish(report);
    });
}

const percent = (share: number): string => (100 * share).toFixed(2);

function tellStart(
  output: Output,
  { backend, run, parameters, rows, stepsPerEpoch, from, settings }: TrainStart,
): void {
  const { optimizer, lr, momentum, nesterov, weightDecay, schedule, batch, augment, loss, seed, epochs } = settings;
  output.say(dim(`  ${backend.name} on ${backend.device}: ${backend.why}`));
  output.say(
    `  ${thousands(parameters)} parameters; ${thousands(rows)} images, ${thousands(stepsPerEpoch)} steps an epoch`,
  );
  output.say(
    dim(
      `  ${epochs} epochs of ${loss}, ${optimizer} lr ${lr} momentum ${momentum}${nesterov ? ' nesterov' : ''} weight decay ${weightDecay}, ${schedule}, batch ${batch}, augment ${augment}, seed ${seed}`,
    ),
  );
  output.say(dim(`  run folder ${run}`));
  if (from.epoch + from.step > 0) output.say(`  goes on after epoch ${from.epoch}, step ${from.step}`);
}

export function epochLine({ epoch, lr, loss, trainAccuracy, testAccuracy, seconds }: EpochRecord): string {
  const test = testAccuracy === null ? '' : `, test ${percent(testAccuracy)} %`;
  return `  epoch ${epoch}: loss ${loss.toFixed(4)}, train ${percent(trainAccuracy)} %${test} (lr ${lr.toPrecision(3)}, ${seconds.toFixed(1)} s)`;
}
