/**
 * `sisyphus quail`: QuaIL of the paper (Garimella, Jha, Reagen 2021, section 4). Stage by stage the student learns to
 * imitate its teacher's activations with a polynomial in their place (mean squared error, everything before frozen); then
 * cross-entropy fine-tunes it, unfreezing one stage after the other from the last to the first. Defaults are those of the
 * paper's authors, with two differences: frozen batch norms stay as they are (theirs go on normalising with the batch),
 * and stages behind the one that is trained are not computed at all, so that they can't overflow.
 */
import { createHash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { parseAugment } from '../../data/augment.ts';
import { openTrainingData, type TrainingData } from '../../data/training-batches.ts';
import { SisyphusError } from '../../errors.ts';
import { calibrate } from '../../eval/calibration.ts';
import { type Device, formatDevice, parseDevice } from '../../eval/device.ts';
import { openRows } from '../../eval/feed.ts';
import { type Preprocessing, recordPreprocessing } from '../../eval/preprocessing.ts';
import { type ProbedModel, type ProbeReport, probeModel } from '../../eval/probe.ts';
import { makeBudget } from '../../eval/row-store.ts';
import { chooseDevice, type NdArray } from '../../eval/session.ts';
import { statisticsOf } from '../../eval/statistics-file.ts';
import { outputName, refuseTarget } from '../../files.ts';
import { cloneModel, setMetadata } from '../../graph/edit.ts';
import { extract } from '../../graph/extract.ts';
import type { Model } from '../../graph/ir.ts';
import { readModel } from '../../graph/read.ts';
import { assertValid } from '../../graph/verify.ts';
import { serialize, writeModel } from '../../graph/write.ts';
import { type AmmMode, settleAmm } from '../../passes/settle-amm.ts';
import type { ActivationStatistics } from '../../passes/statistics.ts';
import { CALIBRATE, sourceOf } from '../../poly/recipe.ts';
import { parseSiteSpec } from '../../poly/spec.ts';
import type { OnProgress } from '../../progress.ts';
import { VERSION } from '../../version.ts';
import { type BackendChoice, type BackendName, useBackend } from '../choose-backend.ts';
import { whereItBegan } from '../diverged.ts';
import { type EpochSums, NOTHING_SEEN, runEpoch } from '../epoch.ts';
import { classification, IMITATION, type Objective } from '../losses.ts';
import { type Lowered, lower } from '../lower.ts';
import { measure } from '../measure.ts';
import { makeOptimizer, parseOptimizer } from '../optimizers.ts';
import { raise } from '../raise.ts';
import {
  boundsWithin,
  clipped,
  measuredLimits,
  type PenaltySpec,
  parsePenalty,
  type RangePenalty,
  rangePenalty,
  weightsAt,
} from '../range-control.ts';
import { openRunFolder, type RunFolder, readConfig } from '../run-folder.ts';
import type { NamedTensors } from '../safetensors.ts';
import { parseSchedule, rateAt } from '../schedules.ts';
import { makeStepper, type Stepper } from '../step.ts';
import { type LossWeights, type TrainingStep, trainingStep } from '../training-step.ts';
import { type QuailSettings, type Settled, type StageSettings, settingsOf, settle } from './settings.ts';
import type { StageData } from './stage-data.ts';
import { cutStages, LOGITS, type Stage } from './stages.ts';
import { type Planned, plannedSites, type Recipe, replaceStage, rowsFreed, runnable } from './student.ts';
import { makeStageValues, type Network, type StageValues } from './values.ts';
import { worstChannel } from './worst-channel.ts';

export interface QuailOptions extends Partial<QuailSettings> {
  readonly backend?: BackendName;
  readonly device?: string;
  readonly threads?: number;
  /** Threads that make batches. Default 1. */
  readonly workers?: number;
  /** The run folder. Default: the model's name with `.quail` for `.onnx`. */
  readonly run?: string;
  /** Default: `MODEL.quail.onnx` beside the model. */
  readonly output?: string;
  readonly resume?: boolean;
  readonly force?: boolean;
  readonly checkpointEvery?: number;
  /** How many test images accuracy is taken from after each stage, a random choice. Default 2000; the ends take all. */
  readonly testImages?: number;
  /** How many test images the largest activations of teacher and result are taken from. Default 0: none. */
  readonly probe?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
  readonly onStart?: (start: QuailStart) => void;
  /** What is done to a stage, and what comes of it. */
  readonly onNote?: (note: string) => void;
  readonly onStage?: (stage: StageRecord) => void;
}

export interface QuailStart {
  readonly backend: BackendChoice;
  readonly run: string;
  readonly stages: readonly string[];
  readonly rows: number;
  readonly teacherAccuracy: number;
  readonly settings: Settled;
  /** Whether an earlier session is continued, and how many stages of both phases it ended. */
  readonly done: number;
}

export type Phase = 'imitation' | 'finetuning';

/** What a stage came to. Fractions in 0..1. */
export interface StageRecord {
  readonly phase: Phase;
  /** From 1, in the order of the network. */
  readonly stage: number;
  readonly name: string;
  readonly epochs: number;
  /** Of the last start, after so many back-offs. */
  readonly lr: number;
  readonly backoffs: number;
  /** Loss of a few batches before the first step, and mean of the last epoch; null where nothing was trained. */
  readonly start: number | null;
  readonly loss: number | null;
  /** Of the whole network on some test images: in imitation, the stages up to here and the teacher's own behind them. */
  readonly testAccuracy: number;
  readonly nonFinite: number;
  readonly seconds: number;
  /** `memory`, `disk` or `computed`: where what it read came from. */
  readonly values: string;
  readonly notes: readonly string[];
}

/** An epoch of a stage. */
export interface QuailEpoch {
  readonly phase: Phase;
  readonly stage: number;
  readonly name: string;
  readonly epoch: number;
  readonly lr: number;
  /** Mean over the rows, each at the step that saw it. */
  readonly loss: number;
  /** In fine-tuning. */
  readonly trainAccuracy?: number;
  readonly gradientNorm: number;
  readonly seconds: number;
  /** Batches whose loss was no number, or beyond all measure. */
  readonly skipped: number;
}

export interface QuailReport {
  readonly model: string;
  readonly run: string;
  readonly output: string;
  /** After imitation; null where it was not reached. */
  readonly stage1: string | null;
  readonly teacherAccuracy: number;
  readonly testAccuracy: number;
  /** Test images with an output that is not finite. */
  readonly nonFinite: number;
  /** With true min-max, where the training was for min-max normalisation; it depends on the batch, which was 100. */
  readonly mm: { readonly file: string; readonly testAccuracy: number } | null;
  readonly stages: readonly StageRecord[];
  readonly epochs: readonly QuailEpoch[];
  /** The teacher, the result, and with min-max normalisation the other form of it. */
  readonly probe: ProbeReport | null;
  /** Where it ended early, and why: the output has what was reached until then. */
  readonly stopped: {
    readonly phase: Phase;
    readonly stage: number;
    readonly name: string;
    readonly reason: string;
  } | null;
  readonly seconds: number;
  readonly backend: BackendChoice;
  readonly settings: Settled;
}

/** A stage as `--plan` lists it. */
export interface PlannedStage {
  readonly name: string;
  readonly activation: boolean;
  readonly parameters: readonly { readonly name: string; readonly dims: readonly number[] }[];
  /** Of the value that is imitated, for one row. */
  readonly shape: readonly number[];
  readonly carries: readonly string[];
  readonly batchnorm: boolean;
}

/**
 * The stages that `quail` would train.
 * @throws SisyphusError as `quail`
 */
export async function quailPlan(file: string, options: Partial<QuailSettings> = {}): Promise<PlannedStage[]> {
  const teacher = await rowsFreed(readModel(file));
  assertValid(teacher, file);
  const settings = settle({ data: 'none', ...options });
  const planned = plannedSites(teacher, file, {
    poly: settings.poly.map(parseSiteSpec),
    ...selection(settings),
    ...anyRange,
  });
  const stages = cutStages(
    teacher,
    file,
    planned.map(({ name }) => name),
  );
  const taken = new Set<string>();
  const list: PlannedStage[] = [];
  for (const { name, output, carries, nodes } of stages) {
    const model = extract(teacher, carries, [output]);
    const { parameters } = await lower(model, file, { trains: (parameter) => !taken.has(parameter.name) });
    for (const parameter of parameters) taken.add(parameter.name);
    list.push({
      name,
      activation: name !== LOGITS,
      parameters: parameters.map(({ name, dims }) => ({ name, dims })),
      shape: (model.graph.outputs[0]?.value.declared?.shape ?? [])
        .slice(1)
        .map((dim) => (typeof dim === 'number' ? dim : 0)),
      carries,
      batchnorm: [...nodes].some(({ op }) => op === 'BatchNormalization'),
    });
  }
  return list;
}

const selection = ({ only, skip }: Settled) => ({
  ...(only.length > 0 && { only }),
  ...(skip.length > 0 && { skip }),
});

/** Stands for ranges that are measured later: which activations a polynomial takes the place of does not depend on them. */
const anyRange = { statistics: () => undefined };

/**
 * @returns what was reached, also where a stage diverged (`stopped`)
 * @throws SisyphusError `unsupported` for models that can't be trained, naming node and operator; `aborted` after the
 * signal, when the checkpoint is written
 */
export async function quail(file: string, options: QuailOptions): Promise<QuailReport> {
  const folder = options.run ?? `${file.replace(/\.onnx$/i, '')}.quail`;
  const output = options.output ?? outputName(file, 'quail');
  await refuseTarget(output, options.force || options.resume || false);
  const given: QuailOptions = options.resume ? { ...(await readConfig(folder)), ...defined(options) } : options;
  const settings = settle(given);
  const original = readModel(file);
  assertValid(original, file);
  const teacher = await rowsFreed(original);
  const { device: wanted, threads } = given;
  const { device } = await chooseDevice(parseDevice(wanted ?? 'cpu'));
  const backend = await useBackend({ backend: given.backend, device: wanted, threads });
  const statistics = await readStatistics(teacher, file, settings, options);
  const replace = { poly: settings.poly.map(parseSiteSpec), ...selection(settings), statistics };
  const planned = plannedSites(teacher, file, replace);
  const limits = await limitsFor(teacher, file, planned, settings, options);
  const names = planned.map(({ name }) => name);
  const stages = cutStages(teacher, file, names);
  const { dataset, preprocessing } = await openRows(original, file, { ...settings, split: 'train' });
  const open = (shuffle: boolean): Promise<TrainingData> =>
    openTrainingData(dataset, {
      batch: settings.batch,
      seed: settings.seed,
      augment: parseAugment(settings.augment),
      normalize: preprocessing.normalize,
      layout: preprocessing.layout,
      shuffle,
      ...(settings.limit !== null && { limit: settings.limit }),
      ...(options.workers !== undefined && { workers: options.workers }),
      ...(options.signal && { signal: options.signal }),
      ...(options.onProgress && { onProgress: options.onProgress }),
    });
  const bytes = serialize(original, { inline: true });
  const run = await openRunFolder(
    folder,
    { version: VERSION, model: createHash('sha256').update(bytes).digest('hex'), backend: backend.name, ...settings },
    {
      resume: options.resume,
      force: options.force,
      own: /^(student-\d+|stage1|final|final-mm)\.onnx$/,
      keep: (record, saved) => Number(record.record) < placeOf(saved).records,
    },
  );
  return await runAll({
    file,
    output,
    run,
    backend,
    device,
    original,
    teacher,
    stages,
    planned,
    limits,
    recipe: {
      replace,
      amm: settings.amm,
      insertBatchnorm: settings.insertBatchnorm,
      norm: settings.norm,
      init: settings.init,
    },
    perStage: settingsOf(
      settings,
      stages.map(({ name }) => name),
    ),
    open,
    preprocessing,
    settings,
    options,
  });
}

const defined = (options: object) =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

/** Ranges that polynomials ask to be measured: of the teacher, on a few rows of the data. */
async function readStatistics(
  teacher: Model,
  file: string,
  settings: Settled,
  options: QuailOptions,
): Promise<(source: string) => ActivationStatistics | undefined> {
  const sources = new Set(settings.poly.map((text) => sourceOf(parseSiteSpec(text).spec.recipe)));
  const named = [...sources].find((source) => source !== null && source !== CALIBRATE);
  if (named)
    throw new SisyphusError(
      'usage',
      `--poly: 'a=${named}' names a file; QuaIL measures ranges on its own data: leave a away`,
    );
  if (!sources.has(CALIBRATE)) return () => undefined;
  const { data, seed } = settings;
  const { threads, signal } = options;
  const probed = await calibrate(teacher, file, {
    data,
    seed,
    ...(settings.normalize !== undefined && { normalize: settings.normalize }),
    ...(threads && { threads }),
    ...(signal && { signal }),
  });
  const measured = statisticsOf(probed);
  return () => measured;
}

/** Ranges that range control keeps the student in. */
async function limitsFor(
  teacher: Model,
  file: string,
  planned: readonly Planned[],
  settings: Settled,
  { threads, signal }: QuailOptions,
): Promise<ReadonlyMap<string, readonly number[]>> {
  if (settings.clipRange === null && settings.rangePenalty === null) return new Map();
  const square = planned.find((site) => site.square);
  if (square)
    throw new SisyphusError(
      'usage',
      `--clip-range and --range-penalty keep the teacher's ranges, but the square at '${square.name}' is rescaled: give --poly deg=2,a=data or the like`,
    );
  const { data, normalize, seed } = settings;
  return measuredLimits(teacher, file, {
    data,
    seed,
    ...(normalize !== undefined && { normalize }),
    ...(threads && { threads }),
    ...(signal && { signal }),
  });
}

interface Job {
  readonly file: string;
  readonly output: string;
  readonly run: RunFolder;
  readonly backend: BackendChoice;
  readonly device: Device;
  readonly original: Model;
  /** The original, for any number of rows. */
  readonly teacher: Model;
  /** Of the teacher. */
  readonly stages: readonly Stage[];
  readonly planned: readonly Planned[];
  /** Of the teacher's layers, by channel; none without range control. */
  readonly limits: ReadonlyMap<string, readonly number[]>;
  readonly recipe: Recipe;
  readonly perStage: readonly StageSettings[];
  readonly open: (shuffle: boolean) => Promise<TrainingData>;
  readonly preprocessing: Preprocessing;
  readonly settings: Settled;
  readonly options: QuailOptions;
}

/** Where a run is. */
interface Place extends EpochSums {
  phase: Phase | 'done';
  /** Index of the stage that is trained. */
  stage: number;
  /** Its activation is replaced in the student's file. */
  prepared: boolean;
  notes: string[];
  /** Epochs of it that are complete. */
  epoch: number;
  start: number | null;
  /** The largest loss of a batch before the first step. */
  worst: number;
  /** Mean loss of the last epoch. */
  last: number | null;
  backoffs: number;
  /** Of the learning rate, after back-offs. */
  factor: number;
  /** The student's file; null for the original. */
  student: string | null;
  /** The file of the student before this stage was prepared. */
  base: string | null;
  /** Nothing more is to be trained in this stage. */
  ended: boolean;
  stageSeconds: number;
  /** Lines of the metrics. */
  records: number;
  teacherAccuracy: number | null;
  spent: number;
  done: StageRecord[];
  stopped: QuailReport['stopped'];
}

const START: Place = {
  ...NOTHING_SEEN,
  phase: 'imitation',
  stage: 0,
  prepared: false,
  notes: [],
  epoch: 0,
  start: null,
  worst: 0,
  last: null,
  backoffs: 0,
  factor: 1,
  student: null,
  base: null,
  ended: false,
  stageSeconds: 0,
  records: 0,
  teacherAccuracy: null,
  spent: 0,
  done: [],
  stopped: null,
};

const placeOf = (saved: NamedTensors | null): Place =>
  saved ? (JSON.parse(saved.metadata.progress as string) as Place) : structuredClone(START);

/** What a run holds while it goes on. */
interface State extends Job {
  readonly place: Place;
  readonly values: StageValues;
  student: Model;
  /** What a checkpoint within a stage has; taken once. */
  restored: NamedTensors['tensors'] | null;
}

async function runAll(job: Job): Promise<QuailReport> {
  const { run, file, stages, settings, options } = job;
  const place = placeOf(run.checkpoint);
  const student = place.student === null ? withPreprocessing(job) : readModel(run.file(place.student));
  const started = performance.now();
  const state: State = { ...job, place, student, values: valuesOf(job), restored: run.checkpoint?.tensors ?? null };
  try {
    if (place.teacherAccuracy === null) {
      place.teacherAccuracy = (await measure(withPreprocessing(job), file, { ...options, data: settings.data })).top1;
    }
    options.onStart?.({
      backend: job.backend,
      run: run.path,
      stages: stages.map(({ name }) => name),
      rows: await state.values.rows(),
      teacherAccuracy: place.teacherAccuracy,
      settings,
      done: place.done.length,
    });
    while (place.phase !== 'done' && !place.stopped) {
      await runStage(state);
      if (!place.stopped) await goOn(state);
    }
  } finally {
    await state.values.close();
  }
  place.spent += (performance.now() - started) / 1000;
  return finish(state);
}

function valuesOf({ teacher, stages, settings, options, open, device, file, run }: Job): StageValues {
  const input = teacher.graph.inputs.find(({ value }) => !value.initializer)?.value;
  const [lead, ...shape] = input?.declared?.shape ?? [];
  if (!input || typeof lead === 'number' || !shape.every((dim) => typeof dim === 'number'))
    throw new SisyphusError(
      'unsupported',
      `${file}: its input has to take any number of rows of known shape; export the model with a free batch dimension`,
    );
  const { signal, onProgress, threads } = options;
  return makeStageValues({
    teacher: { model: teacher, stages },
    input: { name: input.name, shape },
    open,
    batch: settings.batch,
    seed: settings.seed,
    fixed: settings.augment === 'none',
    budget: makeBudget({ memory: 1e9 * settings.cacheMemory, disk: 1e9 * settings.cacheDisk, folder: run.path }),
    name: file,
    device,
    threads,
    signal,
    onProgress,
  });
}

/** To the next stage, which starts from what this one made. */
async function goOn(state: State): Promise<void> {
  const { place, stages, run } = state;
  const { phase, stage } = place;
  const last = phase === 'imitation' ? stage + 1 === stages.length : stage === 0;
  Object.assign(place, {
    ...NOTHING_SEEN,
    prepared: false,
    notes: [],
    epoch: 0,
    start: null,
    last: null,
    backoffs: 0,
    factor: 1,
    ended: false,
    stageSeconds: 0,
    phase: !last ? phase : phase === 'imitation' ? 'finetuning' : 'done',
    stage: last ? (phase === 'imitation' ? stage : 0) : stage + (phase === 'imitation' ? 1 : -1),
  });
  if (last && phase === 'imitation')
    await writeModel(await exported(state, 'stored'), run.file(STAGE1), { force: true });
  const old = [place.base, place.student];
  await keepStudent(state);
  place.base = place.student;
  await save(state, null);
  await removeModels(state, old);
}

const STAGE1 = 'stage1.onnx';

/** Writes the student under a new name, then the checkpoint that knows it. */
async function keepStudent(state: State): Promise<void> {
  const { place, run } = state;
  const next = `student-${1 + Number(/\d+/.exec(place.student ?? '0')?.[0] ?? 0)}.onnx`;
  await writeModel(state.student, run.file(next), { force: true });
  place.student = next;
  await save(state, null);
}

async function removeModels({ run, place }: State, names: readonly (string | null)[]): Promise<void> {
  for (const name of names)
    if (name !== null && name !== place.student && name !== place.base) await rm(run.file(name), { force: true });
}

const TEST_IMAGES = 2000;

interface Training {
  readonly step: TrainingStep;
  readonly stepper: Stepper;
  /** Of the parts of the loss, in the first epoch. */
  readonly weights?: LossWeights;
}

async function save({ run, place }: State, training: Training | null): Promise<void> {
  const values = (await training?.stepper.read()) ?? [];
  const tensors = new Map(
    values.map((data, i) => [
      training?.step.names[i] as string,
      { dims: training?.step.state[i]?.dims as readonly number[], data },
    ]),
  );
  await run.save({ tensors, metadata: { progress: JSON.stringify(place) } });
}

/** A stage from its start, or from where the checkpoint left it, to its end: its record, or that the run stops there. */
async function runStage(state: State): Promise<void> {
  const { place, planned, recipe, file, values } = state;
  const index = place.stage;
  const say = (note: string) => {
    place.notes.push(note);
    state.options.onNote?.(`${state.stages[index]?.name}: ${note}`);
  };
  if (place.phase === 'imitation' && !place.prepared) {
    const target = planned.find(({ name }) => name === state.stages[index]?.name);
    if (target) {
      const network = await networkOf(state, state.student);
      const notes = await replaceStage(state.student, network.stages[index] as Stage, target.square, recipe, () =>
        values.sample(network, index),
      );
      for (const note of notes) say(note);
    }
    place.prepared = true;
    await keepStudent(state);
  }
  const names = planned.map(({ name }) => name);
  // For any number of rows, with normalisations that can be trained.
  const free = await rowsFreed(state.student);
  const stages = cutStages(free, file, names);
  const end = place.phase === 'imitation' ? index : stages.length - 1;
  const { carries } = stages[index] as Stage;
  const { output } = stages[end] as Stage;
  const model = extract(free, carries, [output]);
  const before = new Set<string>();
  for (const { nodes } of stages.slice(0, index))
    for (const node of nodes) for (const value of node.inputs) if (value) before.add(value.name);
  const where = `${file}, stage '${stages[index]?.name}'`;
  const { clipRange, rangePenalty: penaltyText } = state.settings;
  const bounds = boundsWithin(model, state.limits);
  const bounded = clipRange === null ? model : clipped(model, bounds, clipRange);
  const penalty = penaltyText === null || bounds.length === 0 ? null : parsePenalty(penaltyText);
  const lowered = await lower(bounded, where, { trains: ({ name }) => !before.has(name) });
  const reads = lowered.inputs.map(({ name }) => name);
  const network = await networkOf(state, state.student);
  const own = state.perStage[index] as StageSettings;
  const epochs = place.phase === 'imitation' ? own.epochs : own.finetuneEpochs;
  const data =
    place.phase === 'imitation'
      ? await values.imitation(network, index, reads)
      : await values.finetuning(network, index, reads, epochs);
  const trained = await trainStage(state, {
    lowered,
    data,
    own,
    epochs,
    say,
    where,
    penalty: penalty && { spec: penalty, loss: rangePenalty(penalty, bounds) },
  });
  if (trained) state.student = raise(state.student, trained);
  else if (place.stopped && place.phase === 'imitation')
    // The activation as it was is worth more than a polynomial that could not be trained.
    state.student = place.base === null ? withPreprocessing(state) : readModel(state.run.file(place.base));
  const { top1, nonFinite } = await measure(await runnable(state.student), file, {
    ...state.options,
    data: state.settings.data,
    images: state.options.testImages ?? TEST_IMAGES,
  });
  const record: StageRecord = {
    phase: place.phase as Phase,
    stage: index + 1,
    name: stages[index]?.name ?? '',
    epochs: place.epoch,
    lr: rateOf(place, own),
    backoffs: place.backoffs,
    start: place.start,
    loss: place.last,
    testAccuracy: top1,
    nonFinite,
    seconds: place.stageSeconds,
    values: data.place,
    notes: place.notes,
  };
  place.done.push(record);
  await log(state, { ...record, done: true });
  state.options.onStage?.(record);
}

const networkOf = async ({ planned, file }: State, student: Model): Promise<Network> => {
  const model = await runnable(student);
  return {
    model,
    stages: cutStages(
      model,
      file,
      planned.map(({ name }) => name),
    ),
  };
};

async function log({ run, place }: State, record: Readonly<Record<string, unknown>>): Promise<void> {
  await run.log({ record: place.records, ...record });
  place.records++;
}

const rateOf = ({ phase, factor }: Place, { lr, finetuneLr }: StageSettings): number =>
  (phase === 'imitation' ? lr : finetuneLr) * factor;

/** The teacher, with the preprocessing that it is fed by. */
function withPreprocessing({ original, preprocessing }: Job): Model {
  const copy = cloneModel(original);
  recordPreprocessing(copy, preprocessing);
  return copy;
}

interface StageTraining {
  readonly lowered: Lowered;
  readonly data: StageData;
  readonly own: StageSettings;
  readonly epochs: number;
  readonly say: (note: string) => void;
  /** What errors call the stage. */
  readonly where: string;
  readonly penalty: { readonly spec: PenaltySpec; readonly loss: RangePenalty } | null;
}

/**
 * Trains a stage, again at a quarter of the rate where it diverges.
 * @returns the weights and statistics, or null where those that it started with stay
 */
async function trainStage(state: State, work: StageTraining): Promise<ReadonlyMap<string, Float32Array> | null> {
  const { place, settings } = state;
  const { lowered, epochs, say } = work;
  if (epochs === 0) return null;
  if (lowered.parameters.length === 0) {
    say('it has no weights of its own');
    return null;
  }
  for (;;) {
    const outcome = await tryStage(state, work);
    if ('weights' in outcome) return outcome.weights;
    const { failure, reason, factor } = outcome;
    const retry = factor !== null;
    if (!retry || place.backoffs >= settings.backoff) {
      if (failure === 'diverged') place.stopped = stopOf(state, reason);
      say(failure === 'diverged' ? reason : `${reason}; its weights stay as they were`);
      place.last = null;
      return null;
    }
    place.backoffs++;
    Object.assign(place, { ...NOTHING_SEEN, epoch: 0, last: null, ended: false, factor });
    say(`${reason}; again at rate ${rateOf(place, work.own)}`);
    await save(state, null);
  }
}

const stopOf = ({ place, stages }: State, reason: string): QuailReport['stopped'] => ({
  phase: place.phase as Phase,
  stage: place.stage + 1,
  name: stages[place.stage]?.name ?? '',
  reason,
});

type Outcome =
  | { readonly weights: ReadonlyMap<string, Float32Array> }
  | { readonly failure: 'diverged' | 'worse'; readonly reason: string; readonly factor: number | null };

/**
 * A stage made things worse where the mean loss of its last epoch is above this many times that of the start, and by more
 * than this share of what has learnt nothing: single batches differ by less.
 */
const WORSE = { times: 1.5, share: 0.02 };
/** Orders of rows are told apart by phase, stage and epoch. */
const STAGES = 128;
const EPOCHS = 4096;

async function tryStage(
  state: State,
  { lowered, data, own, epochs, where, say, penalty }: StageTraining,
): Promise<Outcome> {
  const { place, settings, options } = state;
  const { optimizer, momentum, nesterov, weightDecay, seed } = settings;
  const objective: Objective = place.phase === 'imitation' ? IMITATION : classification('ce');
  const id = (place.phase === 'imitation' ? 0 : STAGES) + place.stage;
  const step = trainingStep(lowered, {
    objective,
    optimizer: makeOptimizer({ optimizer: parseOptimizer(optimizer), momentum, nesterov, weightDecay }),
    clipNorm: own.clipNorm,
    seed: seed + id,
    penalty: penalty?.loss ?? null,
  });
  const { restored } = state;
  state.restored = null;
  const stepper = makeStepper(
    step.run,
    step.state.map(({ dims, data: first }, i) => ({
      dims,
      data: restored?.get(step.names[i] as string)?.data ?? first,
    })),
  );
  const training: Training = { step, stepper, ...(penalty && { weights: weightsAt(penalty.spec, 0) }) };
  try {
    const first = step.state.map(({ data: values }) => values);
    if (place.start === null) {
      const losses = await lossesOf(training, data, 0);
      place.start = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
      place.worst = Math.max(...losses);
    }
    if (!Number.isFinite(place.start))
      return {
        failure: 'diverged',
        reason: `${where}: the loss is ${place.start} before the first step`,
        factor: null,
      };
    const scale = await scaleOf(state, data, lowered);
    const limit = settings.divergeAt * Math.max(place.worst, scale);
    while (place.epoch < epochs && !place.ended) {
      const rate = rateOf(place, own) * rateAt(parseSchedule(settings.schedule), place.epoch, epochs);
      const diverged = await runEpoch(
        {
          ...options,
          step,
          stepper,
          batches: data.batches(id * EPOCHS + place.epoch, place.step),
          rate,
          ...(penalty && { weights: weightsAt(penalty.spec, place.epoch) }),
          firstStep: place.epoch * data.stepsPerEpoch,
          rows: await state.values.rows(),
          task: `${taskOf(state)}, epoch ${place.epoch + 1}/${epochs}`,
          limit,
          patience: PATIENCE,
          save: () => save(state, training),
        },
        place,
      );
      if (diverged) {
        const reason = await explain(state, training, lowered, objective, diverged, where);
        stepper.write(first);
        return { failure: 'diverged', reason, factor: await calmer(training, data, place, own) };
      }
      await endEpoch(state, own, rate, say);
      await save(state, training);
    }
    if ((place.last as number) > WORSE.times * place.start + WORSE.share * scale) {
      const [from, to] = [place.start, place.last as number].map((loss) => loss.toPrecision(3));
      return { failure: 'worse', reason: `the loss went from ${from} to ${to}`, factor: place.factor / 4 };
    }
    const values = await stepper.read();
    const all = new Map(step.names.map((name, i) => [name, values[i] as Float32Array]));
    const kept = [...lowered.parameters, ...lowered.statistics].map(({ name }) => name);
    return { weights: new Map(kept.map((name) => [name, all.get(name) as Float32Array])) };
  } catch (error) {
    if (!(error instanceof SisyphusError && error.code === 'aborted')) throw error;
    await save(state, training);
    throw new SisyphusError('aborted', `interrupted in ${taskOf(state)}; --resume goes on there`, { cause: error });
  } finally {
    await stepper.release();
  }
}

/**
 * Bad batches in a row that are left out: an image whose values escape in the frozen stages spoils its batch at any rate, a
 * step that was too large all that follow.
 */
const PATIENCE = 4;

/** How often a rate is halved at most. */
const HALVINGS = 60;

/** Batches that a start, or a single step, is judged by: one may say nothing where few rows are wrong. */
const JUDGES = 8;

/** The losses of a few batches after one step on the first of them; the state stays as it was. */
async function lossesOf({ step, stepper, weights }: Training, data: StageData, rate: number): Promise<number[]> {
  const start = await stepper.read();
  const losses: number[] = [];
  for await (const batch of data.batches(0, 0)) {
    if (losses.length === 0 && rate > 0) await stepper.run(step.feed(batch, rate, 0, weights));
    const [loss] = await stepper.run(step.feed(batch, 0, 1, weights));
    stepper.undo();
    losses.push(Number(loss?.data[0]));
    if (losses.length === JUDGES) break;
  }
  stepper.write(start);
  return losses;
}

/**
 * The factor of the next try: a quarter, and so small that one step from the start makes nothing worse, by half. (Along the
 * steepest direction the loss is nearly a parabola: a step that makes it larger is above 2 / curvature, and with momentum
 * 0.5 everything above 1.5 / curvature grows.)
 */
async function calmer(training: Training, data: StageData, place: Place, own: StageSettings): Promise<number> {
  const mean = (losses: readonly number[]) => losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
  const before = mean(await lossesOf(training, data, 0));
  let factor = place.factor / 4;
  for (let halvings = 0; halvings < HALVINGS; halvings++) {
    const after = mean(await lossesOf(training, data, rateOf({ ...place, factor }, own)));
    if (after <= before) return halvings === 0 ? factor : factor / 2;
    factor /= 2;
  }
  return factor;
}

const taskOf = ({ place, stages }: State): string =>
  `${place.phase} ${place.stage + 1}/${stages.length} ${stages[place.stage]?.name}`;

/** What a loss is like that has learnt nothing: of zeros, or of a guess. */
async function scaleOf({ place }: State, data: StageData, { classes }: Lowered): Promise<number> {
  if (place.phase === 'finetuning') return Math.log(classes ?? 2);
  for await (const { target } of data.batches(0, 0)) {
    const values = target.data as Float32Array;
    let sum = 0;
    for (const value of values) sum += value * value;
    return sum / values.length;
  }
  return 0;
}

async function endEpoch(
  state: State,
  { stopWhen }: StageSettings,
  rate: number,
  say: (note: string) => void,
): Promise<void> {
  const { place, stages } = state;
  const { loss, correct, seen, skipped, gradientNorm, seconds, last } = place;
  const mean = loss / seen;
  const record = {
    phase: place.phase,
    stage: place.stage + 1,
    name: stages[place.stage]?.name,
    epoch: place.epoch + 1,
    lr: rate,
    loss: mean,
    ...(place.phase === 'finetuning' && { trainAccuracy: correct / seen }),
    skipped,
    gradientNorm,
    seconds,
  };
  if (skipped > 0) say(`${skipped} batches left out: they have images whose values escape`);
  place.ended = stopWhen !== null && last !== null && mean > last * (1 - stopWhen);
  place.stageSeconds += seconds;
  Object.assign(place, { ...NOTHING_SEEN, epoch: place.epoch + 1, last: mean });
  await log(state, record);
}

async function explain(
  { place }: State,
  { step, stepper }: Training,
  lowered: Lowered,
  objective: Objective,
  { fed, loss }: { readonly fed: readonly NdArray[]; readonly loss: number },
  where: string,
): Promise<string> {
  const values = await stepper.read();
  const weights = step.state.map(({ dims }, i) => ({ dims, data: values[i] as Float32Array }));
  const channel = await worstChannel(lowered, fed, weights);
  const why = Number.isFinite(loss)
    ? `the loss rose to ${loss.toPrecision(3)}`
    : await whereItBegan(lowered, objective, fed, weights);
  return `${where}: diverged in step ${place.step + 1} of epoch ${place.epoch + 1}: ${why}; ${channel}`;
}

/** The student in plain operators, as it is handed out. True ranges are those of a batch: of any size, then. */
async function exported({ student, settings }: State, mode: AmmMode): Promise<Model> {
  const model = mode === 'true' ? await rowsFreed(student) : cloneModel(student);
  settleAmm(model, { mode });
  const { data, ...rest } = settings;
  setMetadata(model, 'sisyphus.version', VERSION);
  // Folders of this machine are nobody's business.
  setMetadata(model, 'sisyphus.quail', JSON.stringify({ data: data.split(':')[0], ...rest }));
  assertValid(model, 'the result');
  return model;
}

async function finish(state: State): Promise<QuailReport> {
  const { run, output, place, settings, options, file } = state;
  const test = async (mode: AmmMode) => {
    const model = await exported(state, mode);
    return { model, ...(await measure(model, file, { ...options, data: settings.data })) };
  };
  const stored = await test('stored');
  const own = settings.amm ? await test('true') : null;
  await writeModel(stored.model, run.file('final.onnx'), { force: true });
  if (own) await writeModel(own.model, run.file('final-mm.onnx'), { force: true });
  const result = settings.mm && own ? own : stored;
  await writeModel(result.model, output, { force: options.force || options.resume || false });
  return {
    model: file,
    run: run.path,
    output,
    stage1: place.done.some(({ phase }) => phase === 'finetuning') ? run.file(STAGE1) : null,
    teacherAccuracy: place.teacherAccuracy ?? Number.NaN,
    testAccuracy: result.top1,
    nonFinite: result.nonFinite,
    mm: own && { file: run.file('final-mm.onnx'), testAccuracy: own.top1 },
    stages: place.done,
    epochs: (await run.records()).filter(({ done }) => !done) as unknown as QuailEpoch[],
    probe: options.probe
      ? await probed(state, [result.model, ...(own ? [(result === own ? stored : own).model] : [])])
      : null,
    stopped: place.stopped,
    seconds: place.spent,
    backend: state.backend,
    settings,
  };
}

/** What Figure 2 of the paper is drawn of. */
async function probed(state: State, results: readonly Model[]): Promise<ProbeReport> {
  const { file, settings, options, device } = state;
  const { threads, signal, onProgress, probe: limit = 0 } = options;
  const names = [
    file,
    state.output,
    ...(settings.mm ? [state.run.file('final.onnx')] : [state.run.file('final-mm.onnx')]),
  ];
  const models: ProbedModel[] = [];
  for (const [i, model] of [withPreprocessing(state), ...results].entries())
    models.push(
      await probeModel(model, names[i] as string, {
        data: settings.data,
        split: 'test',
        limit,
        device: formatDevice(device),
        ...(threads && { threads }),
        ...(signal && { signal }),
        ...(onProgress && { onProgress }),
      }),
    );
  return { models, device: { name: formatDevice(device), why: 'as asked' } };
}
