import { type Command, Option } from 'commander';
import { LAYOUTS } from '../data/dataset.ts';
import { SisyphusError } from '../errors.ts';
import { writeFileSafely } from '../files.ts';
import type { PlannedStage, QuailOptions, QuailReport, QuailStart, StageRecord } from '../train/quail/quail.ts';
import { VERSION } from '../version.ts';
import { collect, notNegative, positiveNumber, wholeNumber } from './options.ts';
import {
  type CommonOptions,
  dim,
  makeOutput,
  nextStep,
  type Output,
  type Streams,
  table,
  thousands,
} from './output.ts';

interface Flags
  extends CommonOptions,
    Omit<QuailOptions, 'signal' | 'onProgress' | 'onStart' | 'onNote' | 'onStage' | 'probe'> {
  readonly plan?: boolean;
  readonly report?: string;
  readonly svg?: string;
}

/** Test images that the largest activations are taken from. */
const PROBED = 1000;

export function quailCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const count = (flag: string, least = 1) => wholeNumber(flag, least, 2 ** 31 - 1);
  program
    .command('quail')
    .summary('replace activations and retrain, stage by stage (QuaIL, with --amm ApproxMinMaxNorm)')
    .description(
      'Replaces every activation by a polynomial and retrains: stage by stage the student imitates the activations of its teacher, then cross-entropy fine-tunes it, unfreezing from the last stage to the first. Defaults are those of the paper’s authors. A stage that diverges starts again at a quarter of its rate; where that does not help the run ends with exit code 3 and the network as far as it came. Ctrl-C saves; --resume goes on exactly there.',
    )
    .argument('<model>', 'ONNX file')
    .option('--plan', 'only list the stages, their weights and shapes')
    .option('--data <name:path>', 'mnist:DIR, cifar10:DIR, npz:FILE, synthetic, …; its train split is trained on')
    .option('--poly <spec>', 'what activations become, [GLOB=]SPEC (default: quad); repeatable', collect)
    .option('--only <glob>', 'replace only activations whose name matches; repeatable', collect)
    .option('--skip <glob>', 'keep activations whose name matches; repeatable', collect)
    .option('--epochs <n>', 'of imitation, for each stage (default: 50)', count('--epochs', 0))
    .option(
      '--finetune-epochs <n>',
      'of each step of fine-tuning (default: as --epochs)',
      count('--finetune-epochs', 0),
    )
    .option(
      '--lr <rate>',
      'learning rate of a stage’s first epoch (default: 0.1; adam, adamw 0.001)',
      positiveNumber('--lr'),
    )
    .option('--finetune-lr <rate>', 'the same of fine-tuning (default: as --lr)', positiveNumber('--finetune-lr'))
    .option(
      '--stage <glob=settings>',
      'other settings for some stages: GLOB=epochs=5,lr=0.01,clip-norm=1; repeatable',
      collect,
    )
    .option(
      '--stop-when <share>',
      'end a stage when an epoch’s loss fell by less than this share (default: never)',
      notNegative('--stop-when'),
    )
    .option('--amm', 'min-max normalisation before each polynomial, exported with stored ranges')
    .option('--mm', 'the same training, exported with the ranges of the very batch')
    .addOption(
      new Option('--norm <name>', 'polynorm: each sample is normalised before each polynomial').choices(['polynorm']),
    )
    .option(
      '--clip-range <times>',
      'bound inputs of polynomials, in training alone, to so many times the teacher’s range',
      positiveNumber('--clip-range'),
    )
    .option('--range-penalty <spec>', 'on what lies beyond: huber=10,from=0.8 | power=0.006,p=10,warmup=4')
    .option('--insert-batchnorm', 'batch normalisation in stages that have none')
    .addOption(
      new Option(
        '--init <how>',
        'fit squares to the activation by channel before training: where no batch norm is, always, never',
      ).choices(['auto', 'fit', 'teacher']),
    )
    .option('--momentum <m>', 'of sgd (default: 0.5); beta1 of adam and adamw (0.9)', notNegative('--momentum'))
    .addOption(new Option('--nesterov', 'look ahead along the velocity (default for sgd)').default(undefined))
    .option('--no-nesterov', 'plain momentum')
    .option('--weight-decay <d>', 'L2 (default: 0; 5e-4 on mnist without --amm)', notNegative('--weight-decay'))
    .option('--schedule <schedule>', 'as in train, within each stage (default: cosine,floor=0.01)')
    .option('--optimizer <name>', 'sgd | adam | adamw (default: sgd)')
    .option('--clip-norm <n>', 'largest common norm of the gradients (default: none)', positiveNumber('--clip-norm'))
    .option('--backoff <n>', 'times that a stage starts again after divergence (default: 5)', count('--backoff', 0))
    .option(
      '--diverge-at <times>',
      'a loss above so many times the first one is divergence (default: 10)',
      positiveNumber('--diverge-at'),
    )
    .option('--batch <n>', 'images in a step (default: 128)', count('--batch'))
    .option('--augment <list>', 'crop[=4],flip[=0.5],rotate[=20] in this order (default: none, which is much faster)')
    .option('--seed <n>', 'of order, augmentation and dropout (default: 42)', wholeNumber('--seed', 0, 2 ** 31 - 1))
    .option('--limit <n>', 'at most n training images, chosen at random by the seed', count('--limit'))
    .option(
      '--normalize <spec>',
      'raw | mean=…,std=… | mnist, cifar10, … (default: what the model records, else usual)',
    )
    .option('--resize <size>', '32 | HxW | short=256,crop=224')
    .addOption(new Option('--layout <layout>', 'layout of the model’s input (default: found)').choices([...LAYOUTS]))
    .option(
      '--cache-memory <GB>',
      'for values of frozen stages (default: a quarter of the machine’s)',
      notNegative('--cache-memory'),
    )
    .option('--cache-disk <GB>', 'the same on disk, in the run folder (default: 0)', notNegative('--cache-disk'))
    .option(
      '--test-images <n>',
      'test images measured after each stage (default: 2000; start and end: all)',
      count('--test-images'),
    )
    .option('--backend <name>', 'auto | tensorflow | onnxruntime | cpu (default: auto)')
    .option('--device <device>', 'for onnxruntime: auto | cpu | cuda[:n] | webgpu (default: cpu)')
    .option('--threads <n>', 'threads for one operator', wholeNumber('--threads', 1, 1024))
    .option('--workers <n>', 'threads that prepare batches (default: 1)', wholeNumber('--workers', 0, 64))
    .option('--run <folder>', 'run folder (default: MODEL.quail)')
    .option('--resume', 'go on with the run in the folder; options that are not given are taken from there')
    .option(
      '--checkpoint-every <s>',
      'seconds between checkpoints within an epoch (default: 60)',
      positiveNumber('--checkpoint-every'),
    )
    .option('-o, --output <file>', 'default: MODEL.quail.onnx')
    .option('--report <file>', 'the report as a page (default: report.html in the run folder)')
    .option(
      '--svg <file>',
      'Figure 2: the largest activations of teacher and result (default: maxima.svg in the run folder)',
    )
    .option('--force', 'start anew in a folder that holds a run; replace an existing output')
    .action(async (file: string, flags: Flags) => {
      const output = makeOutput(streams, flags);
      output.say(dim(`sisyphus ${VERSION} quail ${file}`));
      // Loaded only now: other commands start faster without.
      const [{ quail, quailPlan }, { parseBackend }, { showProgress }] = await Promise.all([
        import('../train/quail/quail.ts'),
        import('../train/choose-backend.ts'),
        import('./progress.ts'),
      ]);
      const { json: _json, quiet: _quiet, verbose: _verbose, plan, report: page, svg, backend, ...options } = flags;
      if (plan) {
        const stages = await quailPlan(file, options);
        tellPlan(output, stages);
        output.finish({ model: file, stages });
        return;
      }
      const progress = showProgress(streams, flags);
      const say = (text: string) => {
        progress.stop();
        output.say(text);
      };
      const report = await quail(file, {
        ...options,
        ...(backend !== undefined && { backend: parseBackend(backend) }),
        probe: PROBED,
        signal,
        onProgress: progress.onProgress,
        onStart: (start) => tellStart(say, start),
        onNote: (note) => say(dim(`    ${note}`)),
        onStage: (stage) => say(stageLine(stage)),
      }).finally(progress.stop);
      await writePages(report, page ?? `${report.run}/report.html`, svg ?? `${report.run}/maxima.svg`);
      tellEnd(output, report);
      output.finish(report);
      if (report.stopped)
        throw new SisyphusError(
          'gate',
          `${report.stopped.reason}; ${report.output} has what was reached; take a smaller --lr, --clip-norm, or --stage for this one`,
        );
    });
}

const percent = (fraction: number): string => (100 * fraction).toFixed(2);

function tellPlan(output: Output, stages: readonly PlannedStage[]): void {
  output.result(
    table(
      ['', 'stage', 'imitates', 'weights', 'batch norm', 'tensors'],
      stages.map(({ name, shape, parameters, batchnorm }, i) => [
        `${i + 1}`,
        name,
        `[${shape.join(', ')}]`,
        thousands(parameters.reduce((sum, { dims }) => sum + dims.reduce((a, b) => a * b, 1), 0)),
        batchnorm ? 'yes' : 'no',
        parameters.map(({ name: tensor, dims }) => `${tensor} [${dims.join(', ')}]`).join('\n'),
      ]),
      false,
    ),
  );
}

function tellStart(
  say: (text: string) => void,
  { backend, run, stages, rows, teacherAccuracy, settings, done }: QuailStart,
): void {
  const {
    epochs,
    finetuneEpochs,
    optimizer,
    lr,
    finetuneLr,
    momentum,
    nesterov,
    weightDecay,
    schedule,
    batch,
    augment,
    seed,
  } = settings;
  say(dim(`  ${backend.name} on ${backend.device}: ${backend.why}`));
  say(
    `  ${stages.length} stages; ${thousands(rows)} images; the teacher has ${percent(teacherAccuracy)} % of the test split`,
  );
  say(
    dim(
      `  ${settings.poly.join(', ')}${settings.amm ? ' with min-max normalisation' : ''}; ${epochs} epochs a stage, ${finetuneEpochs} a step of fine-tuning; ${optimizer} lr ${lr}${finetuneLr === lr ? '' : ` and ${finetuneLr}`} momentum ${momentum}${nesterov ? ' nesterov' : ''} weight decay ${weightDecay}, ${schedule}, batch ${batch}, augment ${augment}, seed ${seed}`,
    ),
  );
  say(dim(`  run folder ${run}`));
  if (done > 0) say(`  goes on after ${done} stages`);
}

function stageLine({
  phase,
  stage,
  name,
  start,
  loss,
  lr,
  testAccuracy,
  nonFinite,
  seconds,
  values,
}: StageRecord): string {
  const to = start === null || loss === null ? 'not trained' : `loss ${start.toPrecision(3)} -> ${loss.toPrecision(3)}`;
  const bad = nonFinite > 0 ? `, ${thousands(nonFinite)} images not finite` : '';
  return `  ${phase} ${stage} ${name}: ${to}, test ${percent(testAccuracy)} %${bad} (lr ${lr.toPrecision(3)}, ${seconds.toFixed(1)} s, values from ${values})`;
}

async function writePages(report: QuailReport, page: string, svg: string): Promise<void> {
  const [{ quailPage }, { maximaSvg }] = await Promise.all([
    import('../view/quail-page.ts'),
    import('../view/pages.ts'),
  ]);
  await writeFileSafely(page, await quailPage(report), { force: true });
  if (report.probe) await writeFileSafely(svg, await maximaSvg(report.probe), { force: true });
}

function tellEnd(output: Output, report: QuailReport): void {
  const { teacherAccuracy, testAccuracy, nonFinite, mm, settings, stopped } = report;
  const what = stopped ? 'reached' : settings.mm ? 'result, with true ranges in batches of 100' : 'result';
  output.result(
    `${what}: ${percent(testAccuracy)} % of the test split (teacher ${percent(teacherAccuracy)} %), ${nonFinite} images not finite`,
  );
  if (mm && !settings.mm)
    output.result(`with true ranges, in batches of 100: ${percent(mm.testAccuracy)} % (${mm.file})`);
  output.result(`wrote ${report.output}`);
  output.say(nextStep('probe', report.output, '--data', settings.data));
}
