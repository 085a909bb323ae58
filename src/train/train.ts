/**
 * `sisyphus train`: trains the weights of an ONNX model on labelled data. One step (forward, loss, gradients, optimizer)
 * is one function of tensors (`step.ts`); batches come from worker threads (`data/training-batches.ts`); the run folder
 * has everything that going on after an interruption needs. Defaults are those of the paper's authors (SGD, rate 0.1,
 * Nesterov momentum 0.5, weight decay 5e-4 on all parameters, cosine per epoch to 0, batches of 128, 50 epochs).
 */
import { createHash } from 'node:crypto';
import { formatAugment, parseAugment } from '../data/augment.ts';
import type { Layout } from '../data/dataset.ts';
import { openTrainingData, type TrainingData } from '../data/training-batches.ts';
import { SisyphusError } from '../errors.ts';
import type { CalibrationOptions } from '../eval/calibration.ts';
import { openRows } from '../eval/feed.ts';
import { type Preprocessing, type PreprocessingText, recordPreprocessing } from '../eval/preprocessing.ts';
import type { NdArray } from '../eval/session.ts';
import { refuseTarget } from '../files.ts';
import { setMetadata } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';
import { readModel } from '../graph/read.ts';
import { serialize, writeModel } from '../graph/write.ts';
import { settleHermite } from '../passes/hermite.ts';
import type { OnProgress } from '../progress.ts';
import { VERSION } from '../version.ts';
import { type BackendChoice, type BackendName, useBackend } from './choose-backend.ts';
import { type Distillation, distillation } from './distillation.ts';
import { whereItBegan } from './diverged.ts';
import { type EpochSums, NOTHING_SEEN, runEpoch } from './epoch.ts';
import { classification, type LossName, parseLoss } from './losses.ts';
import { type Lowered, lower } from './lower.ts';
import { measure } from './measure.ts';
import { normalised, parseNorm } from './normalisations.ts';
import { makeOptimizer, parseOptimizer } from './optimizers.ts';
import { raise } from './raise.ts';
import {
  type Bounds,
  calibratedBounds,
  clipped,
  parsePenalty,
  type RangePenalty,
  rangePenalty,
  uniformBounds,
  weightsAt,
} from './range-control.ts';
import { openRunFolder, type RunFolder, readConfig } from './run-folder.ts';
import type { NamedTensors } from './safetensors.ts';
import { parseSchedule, rateAt } from './schedules.ts';
import { makeStepper, type Stepper } from './step.ts';
import { type FedBatch, labelled, type TrainingStep, trainingStep } from './training-step.ts';

/** What a run is, and what has to be the same when it is resumed. */
export interface TrainSettings extends PreprocessingText {
  /** `NAME:PATH`; its training split is trained on, its test split measured after each epoch. */
  readonly data: string;
  readonly epochs?: number;
  /** Learning rate of the first epoch. */
  readonly lr?: number;
  /** Of sgd; for adam and adamw it is beta1. Default 0.5, adam and adamw 0.9. */
  readonly momentum?: number;
  readonly nesterov?: boolean;
  readonly weightDecay?: number;
  /** cosine | step | constant, see `parseSchedule`. */
  readonly schedule?: string;
  readonly batch?: number;
  /** See `parseAugment`. Default: none. */
  readonly augment?: string;
  readonly loss?: string;
  readonly optimizer?: string;
  /** Largest common norm of the gradients. Default: no limit. */
  readonly clipNorm?: number;
  readonly seed?: number;
  /** In training alone, inputs of nonlinear layers are bounded to so many times their calibrated range. */
  readonly clipRange?: number;
  /** See `parsePenalty`. */
  readonly rangePenalty?: string;
  /** For the penalty and the clip: one range for all layers, in place of the calibrated ones. */
  readonly range?: number;
  /** polynorm | hermite, see `normalised`. */
  readonly norm?: string;
  /** A model whose logits are learnt from beside the labels. */
  readonly teacher?: string;
  /** Of the teacher's logits. Default 4. */
  readonly temperature?: number;
  /** Of the teacher against the labels. Default 0.9. */
  readonly distill?: number;
  /** How many training images at most, a random choice by the seed. */
  readonly limit?: number;
}

export interface TrainOptions extends Partial<TrainSettings> {
  readonly backend?: BackendName;
  readonly device?: string;
  readonly threads?: number;
  /** Threads that make batches. Default 1. */
  readonly workers?: number;
  /** The run folder. Default: the model's name with `.train` for `.onnx`. */
  readonly run?: string;
  /** Copy the best model there. */
  readonly output?: string;
  /** Go on with the run in the folder; what is not given is taken from there. */
  readonly resume?: boolean;
  readonly force?: boolean;
  /** Seconds between checkpoints within an epoch. Default 60. */
  readonly checkpointEvery?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
  readonly onStart?: (start: TrainStart) => void;
  readonly onEpoch?: (epoch: EpochRecord) => void;
}

export interface TrainStart {
  readonly backend: BackendChoice;
  readonly run: string;
  readonly parameters: number;
  readonly rows: number;
  readonly stepsPerEpoch: number;
  /** Epochs that are done already, and steps of the next one. */
  readonly from: { readonly epoch: number; readonly step: number };
  readonly settings: Settled;
}

/** Fractions in 0..1. */
export interface EpochRecord {
  /** From 1. */
  readonly epoch: number;
  readonly lr: number;
  /** Mean over the training images, each at the step that saw it. */
  readonly loss: number;
  readonly trainAccuracy: number;
  /** Of the running estimates, over the whole test split; null where the data have none. */
  readonly testAccuracy: number | null;
  /** Largest norm of the gradients of a step. */
  readonly gradientNorm: number;
  /** Of the steps, without the test. */
  readonly seconds: number;
}

export interface TrainReport {
  readonly model: string;
  readonly run: string;
  readonly last: string;
  readonly best: string;
  readonly output: string | null;
  readonly bestEpoch: number;
  readonly bestTestAccuracy: number | null;
  readonly epochs: readonly EpochRecord[];
  readonly backend: BackendChoice;
  readonly settings: Settled;
}

/** Settings that may be absent. */
type Open = 'clipNorm' | 'limit' | 'clipRange' | 'rangePenalty' | 'range' | 'norm' | 'teacher';
type Settled = Required<Omit<TrainSettings, Open | keyof PreprocessingText>> &
  Pick<TrainSettings, 'normalize' | 'resize' | 'layout'> & {
    readonly [K in Open]: NonNullable<TrainSettings[K]> | null;
  };

/**
 * @throws SisyphusError `unsupported` for models that can't be lowered, naming node and operator; `gate` where the loss is
 * no number any more, naming the layer where that began; `aborted` after the signal, when the checkpoint is written
 */
export async function train(file: string, options: TrainOptions): Promise<TrainReport> {
  const folder = options.run ?? `${file.replace(/\.onnx$/i, '')}.train`;
  if (options.output !== undefined) await refuseTarget(options.output, options.force || options.resume || false);
  // A run goes on as it was started, unless that is asked to be otherwise, which is refused below.
  const given: TrainOptions = options.resume ? { ...(await readConfig(folder)), ...defined(options) } : options;
  const settings = settle(given);
  const original = readModel(file);
  const bytes = serialize(original, { inline: true });
  const model = await withNorm(original, file, settings, options);
  const control = await openControl(model, file, settings, options);
  const lowered = await lower(control.model, file);
  if (lowered.inputs.length > 1)
    throw new SisyphusError(
      'unsupported',
      `${file}: has ${lowered.inputs.length} inputs (${lowered.inputs.map(({ name }) => `'${name}'`).join(', ')}), and models with one are trained`,
    );
  if (lowered.parameters.length === 0)
    throw new SisyphusError('unsupported', `${file}: stores no weights of layers, so there is nothing to train`);
  const { backend: wanted, device, threads } = given;
  const backend = await useBackend({ backend: wanted, device, threads });
  const job = await openJob(model, file, lowered, settings, options);
  const { penalty, teacher } = control;
  try {
    const run = await openRunFolder(
      folder,
      {
        version: VERSION,
        model: createHash('sha256').update(bytes).digest('hex'),
        backend: backend.name,
        ...settings,
      },
      {
        resume: options.resume,
        force: options.force,
        own: /^(best|last)\.onnx$/,
        keep: (record, saved) => Number(record.epoch) <= placeOf(saved).epoch,
      },
    );
    return await trainAll({ ...job, run, backend, file, settings, options, model, lowered, penalty, teacher });
  } finally {
    await job.data.close();
  }
}

async function withNorm(model: Model, file: string, settings: Settled, options: TrainOptions): Promise<Model> {
  if (settings.norm === null) return model;
  return normalised(model, file, parseNorm(settings.norm), calibrationOf(settings, options));
}

/** Measurements on training images. */
const calibrationOf = (
  { data, normalize, resize, layout }: Settled,
  { threads, signal }: TrainOptions,
): CalibrationOptions => ({
  data,
  ...(normalize !== undefined && { normalize }),
  ...(resize !== undefined && { resize }),
  ...(layout !== undefined && { layout }),
  ...(threads && { threads }),
  ...(signal && { signal }),
});

interface Control {
  /** What is trained: the model, with clips if they are asked for. */
  readonly model: Model;
  readonly penalty: RangePenalty | null;
  readonly teacher: Distillation | null;
}

/** What training has beside the model and its labels. */
async function openControl(model: Model, file: string, settings: Settled, options: TrainOptions): Promise<Control> {
  const { clipRange, rangePenalty: penalty, range, teacher, temperature, distill: weight } = settings;
  const taught = teacher === null ? null : readModel(teacher);
  let bounds: readonly Bounds[] = [];
  if (clipRange !== null || penalty !== null) {
    bounds =
      range === null
        ? await calibratedBounds(model, file, taught ?? model, calibrationOf(settings, options))
        : uniformBounds(model, file, range);
  }
  return {
    model: clipRange === null ? model : clipped(model, bounds, clipRange),
    penalty: penalty === null ? null : rangePenalty(parsePenalty(penalty), bounds),
    teacher: taught && (await distillation(taught, teacher ?? '', { temperature, weight })),
  };
}

const defined = (options: object) =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

/** @throws SisyphusError `usage`, `spec` */
function settle(options: TrainOptions): Settled {
  const { data, normalize, resize, layout, clipNorm = null, limit = null } = options;
  const { clipRange = null, rangePenalty = null, range = null, norm = null, teacher = null } = options;
  if (!data) throw new SisyphusError('usage', 'training needs data: give --data NAME:PATH');
  const optimizer = parseOptimizer(options.optimizer ?? 'sgd');
  const schedule = options.schedule ?? 'cosine';
  parseSchedule(schedule);
  const settings: Settled = {
    data,
    epochs: options.epochs ?? 50,
    lr: options.lr ?? (optimizer === 'sgd' ? 0.1 : 1e-3),
    momentum: options.momentum ?? (optimizer === 'sgd' ? 0.5 : 0.9),
    nesterov: options.nesterov ?? optimizer === 'sgd',
    weightDecay: options.weightDecay ?? 5e-4,
    schedule,
    batch: options.batch ?? 128,
    augment: formatAugment(parseAugment(options.augment ?? 'none')),
    loss: parseLoss(options.loss ?? 'ce'),
    optimizer,
    clipNorm,
    seed: options.seed ?? 42,
    limit,
    clipRange,
    rangePenalty,
    range,
    norm,
    teacher,
    temperature: options.temperature ?? 4,
    distill: options.distill ?? 0.9,
    ...(normalize !== undefined && { normalize }),
    ...(resize !== undefined && { resize }),
    ...(layout !== undefined && { layout }),
  };
  const whole = (value: number, name: string) => {
    if (!Number.isInteger(value) || value < 1)
      throw new SisyphusError('usage', `--${name}: ${value} is not a whole number above 0`);
  };
  whole(settings.epochs, 'epochs');
  whole(settings.batch, 'batch');
  for (const [name, value, below] of [
    ['lr', settings.lr, Infinity],
    ['momentum', settings.momentum, 1],
    ['weight-decay', settings.weightDecay, Infinity],
    ['clip-norm', settings.clipNorm ?? 0, Infinity],
  ] as const)
    if (!(value >= 0 && value < below))
      throw new SisyphusError('usage', `--${name}: ${value} is out of range${below === 1 ? ' [0, 1)' : ''}`);
  if (rangePenalty !== null) parsePenalty(rangePenalty);
  if (norm !== null) parseNorm(norm);
  for (const [name, value] of [
    ['clip-range', clipRange],
    ['range', range],
    ['temperature', settings.temperature],
  ] as const)
    if (value !== null && !(value > 0 && Number.isFinite(value)))
      throw new SisyphusError('usage', `--${name}: ${value} is no number above 0`);
  if (!(settings.distill >= 0 && settings.distill <= 1))
    throw new SisyphusError('usage', `--distill: ${settings.distill} is no share from 0 to 1`);
  if (range !== null && clipRange === null && rangePenalty === null)
    throw new SisyphusError('usage', '--range is for --clip-range and --range-penalty: give one of them');
  if (settings.clipNorm === 0) throw new SisyphusError('usage', '--clip-norm: 0 would leave nothing of the gradients');
  return settings;
}

interface Data {
  readonly data: TrainingData;
  readonly preprocessing: Preprocessing & { readonly layout: Layout };
}

async function openJob(
  model: Model,
  file: string,
  lowered: Lowered,
  settings: Settled,
  options: TrainOptions,
): Promise<Data> {
  const { signal, onProgress, workers } = options;
  const { dataset, preprocessing } = await openRows(model, file, {
    ...settings,
    split: 'train',
    ...(signal && { signal }),
  });
  const classes = lowered.classes;
  if (dataset.classes !== null && classes !== null && dataset.classes > classes)
    throw new SisyphusError('usage', `${file}: has ${classes} classes, but ${settings.data} has ${dataset.classes}`);
  const data = await openTrainingData(dataset, {
    batch: settings.batch,
    seed: settings.seed,
    augment: parseAugment(settings.augment),
    normalize: preprocessing.normalize,
    layout: preprocessing.layout,
    ...(settings.limit !== null && { limit: settings.limit }),
    ...(workers !== undefined && { workers }),
    ...(signal && { signal }),
    ...(onProgress && { onProgress }),
  });
  const { rows } = lowered;
  if (rows !== null && (settings.batch !== rows || data.rows % rows !== 0)) {
    await data.close();
    const whole = data.rows - (data.rows % rows);
    throw new SisyphusError('usage', `${file}: takes ${rows} rows at a time; give --batch ${rows} --limit ${whole}`);
  }
  return { data, preprocessing };
}

interface Job extends Data, Omit<Control, 'model'> {
  readonly run: RunFolder;
  readonly backend: BackendChoice;
  readonly file: string;
  readonly model: Model;
  readonly lowered: Lowered;
  readonly settings: Settled;
  readonly options: TrainOptions;
}

const BEST = 'best.onnx';
const LAST = 'last.onnx';

/** Where a run is, and what it has seen of the epoch that it is in. */
interface Progress extends EpochSums {
  /** Epochs that are complete. */
  epoch: number;
  best: { epoch: number; score: number; testAccuracy: number | null } | null;
}

const START: Progress = { ...NOTHING_SEEN, epoch: 0, best: null };

const placeOf = (saved: NamedTensors | null): Progress =>
  saved ? (JSON.parse(saved.metadata.progress as string) as Progress) : { ...START };

async function trainAll(job: Job): Promise<TrainReport> {
  const { run, lowered, settings, options, data } = job;
  const { optimizer, momentum, nesterov, weightDecay, loss, clipNorm, seed } = settings;
  const step = trainingStep(lowered, {
    objective: classification(loss as LossName),
    optimizer: makeOptimizer({ optimizer: parseOptimizer(optimizer), momentum, nesterov, weightDecay }),
    clipNorm,
    seed,
    penalty: job.penalty,
    teacher: job.teacher,
  });
  const place = placeOf(run.checkpoint);
  const saved = run.checkpoint?.tensors;
  const stepper = makeStepper(
    step.run,
    step.state.map(({ dims, data: first }, i) => ({ dims, data: saved?.get(step.names[i] as string)?.data ?? first })),
  );
  const { backend } = job;
  const from = { epoch: place.epoch, step: place.step };
  const parameters = lowered.parameters.reduce((sum, { value }) => sum + value.length, 0);
  const { rows, stepsPerEpoch } = data;
  options.onStart?.({ backend, run: run.path, parameters, rows, stepsPerEpoch, from, settings });
  const epochs: EpochRecord[] = [];
  try {
    while (place.epoch < settings.epochs) {
      await trainEpoch(job, step, stepper, place);
      epochs.push(await finishEpoch(job, step, stepper, place));
    }
  } catch (error) {
    // Wherever it came from: waiting for a batch, a step, the test.
    if (!(error instanceof SisyphusError && error.code === 'aborted')) throw error;
    await saveCheckpoint(job, step, stepper, place);
    const where = `after step ${place.step} of epoch ${place.epoch + 1}`;
    throw new SisyphusError('aborted', `interrupted ${where}; --resume goes on there`, { cause: error });
  } finally {
    await stepper.release();
  }
  const { output = null } = options;
  const { best } = place;
  if (output !== null)
    await writeModel(readModel(run.file(BEST)), output, { force: options.force || options.resume || false });
  return {
    model: job.file,
    run: run.path,
    last: run.file(LAST),
    best: run.file(BEST),
    output,
    bestEpoch: best?.epoch ?? 0,
    bestTestAccuracy: best?.testAccuracy ?? null,
    epochs,
    backend,
    settings,
  };
}

/** The steps of one epoch that are still to do. */
async function trainEpoch(job: Job, step: TrainingStep, stepper: Stepper, place: Progress): Promise<void> {
  const { data, settings, options } = job;
  if (place.step >= data.stepsPerEpoch) return;
  const save = () => saveCheckpoint(job, step, stepper, place);
  const diverged = await runEpoch(
    {
      ...options,
      step,
      stepper,
      batches: labelledBatches(data, place.epoch, place.step),
      rate: rateIn(settings, place.epoch),
      ...(settings.rangePenalty !== null && { weights: weightsAt(parsePenalty(settings.rangePenalty), place.epoch) }),
      firstStep: place.epoch * data.stepsPerEpoch,
      rows: data.rows,
      task: `epoch ${place.epoch + 1}/${settings.epochs}`,
      save,
    },
    place,
  );
  if (!diverged) return;
  await save();
  throw await divergence(job, step, stepper, diverged.fed, place);
}

async function* labelledBatches(data: TrainingData, epoch: number, from: number): AsyncGenerator<FedBatch> {
  for await (const batch of data.epoch(epoch, from)) yield labelled(batch);
}

const rateIn = ({ lr, schedule, epochs }: Settled, epoch: number): number =>
  lr * rateAt(parseSchedule(schedule), epoch, epochs);

/** Measures, logs and saves what an epoch made; `place` goes on to the next. */
async function finishEpoch(job: Job, step: TrainingStep, stepper: Stepper, place: Progress): Promise<EpochRecord> {
  const { run, settings, options } = job;
  const trained = await trainedModel(job, step, stepper);
  const { top1: testAccuracy } = await measure(trained, job.file, { ...options, data: settings.data });
  const record: EpochRecord = {
    epoch: place.epoch + 1,
    lr: rateIn(settings, place.epoch),
    loss: place.loss / place.seen,
    trainAccuracy: place.correct / place.seen,
    testAccuracy,
    gradientNorm: place.gradientNorm,
    seconds: place.seconds,
  };
  await writeModel(trained, run.file(LAST), { force: true });
  // Without labels to test on, the last epoch counts as the best.
  const score = testAccuracy ?? place.epoch;
  const best = place.best && place.best.score >= score ? place.best : { epoch: record.epoch, score, testAccuracy };
  if (best !== place.best) await writeModel(trained, run.file(BEST), { force: true });
  await run.log({ ...record });
  Object.assign(place, { ...START, epoch: record.epoch, best });
  await saveCheckpoint(job, step, stepper, place);
  options.onEpoch?.(record);
  return record;
}

async function saveCheckpoint({ run }: Job, step: TrainingStep, stepper: Stepper, place: Progress): Promise<void> {
  const values = await stepper.read();
  const tensors = new Map(
    values.map((data, i) => [step.names[i] as string, { dims: step.state[i]?.dims as readonly number[], data }]),
  );
  await run.save({ tensors, metadata: { progress: JSON.stringify(place) } });
}

/** The model with the weights and running statistics of now. */
async function trainedModel(
  { model, lowered, preprocessing, settings }: Job,
  step: TrainingStep,
  stepper: Stepper,
): Promise<Model> {
  const values = await stepper.read();
  const all = new Map(step.names.map((name, i) => [name, values[i] as Float32Array]));
  const trained = raise(
    model,
    new Map([...lowered.parameters, ...lowered.statistics].map(({ name }) => [name, all.get(name) as Float32Array])),
  );
  settleHermite(trained);
  recordPreprocessing(trained, preprocessing);
  setMetadata(trained, 'sisyphus.version', VERSION);
  setMetadata(trained, 'sisyphus.train', JSON.stringify(settings));
  return trained;
}

async function divergence(
  job: Job,
  step: TrainingStep,
  stepper: Stepper,
  fed: readonly NdArray[],
  place: Progress,
): Promise<SisyphusError> {
  const { run, lowered, settings } = job;
  await writeModel(await trainedModel(job, step, stepper), run.file(LAST), { force: true });
  const values = await stepper.read();
  const state = step.state.map(({ dims }, i) => ({ dims, data: values[i] as Float32Array }));
  const where = await whereItBegan(lowered, classification(settings.loss as LossName), fed, state);
  return new SisyphusError(
    'gate',
    `${job.file}: training diverged in step ${place.step + 1} of epoch ${place.epoch + 1}: ${where}. ${run.file(LAST)} has the weights of the step before; take a smaller --lr than ${settings.lr}, or --clip-norm`,
  );
}
