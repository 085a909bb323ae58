/** What a QuaIL run is, and the defaults of the paper's authors. */
import os from 'node:os';
import { formatAugment, parseAugment } from '../../data/augment.ts';
import { SisyphusError } from '../../errors.ts';
import type { PreprocessingText } from '../../eval/preprocessing.ts';
import { globMatcher } from '../../poly/spec.ts';
import { parseOptimizer } from '../optimizers.ts';
import { parsePenalty } from '../range-control.ts';
import { parseSchedule } from '../schedules.ts';

/** How one stage is trained. */
export interface StageSettings {
  readonly epochs: number;
  readonly finetuneEpochs: number;
  /** Learning rate of its first epoch. */
  readonly lr: number;
  readonly finetuneLr: number;
  readonly clipNorm: number | null;
  /** Ends when an epoch's mean loss is not at least this share below the one before; null: never. */
  readonly stopWhen: number | null;
}

export interface QuailSettings extends Partial<StageSettings>, PreprocessingText {
  /** `NAME:PATH`; its training split is trained on, its test split measured after each stage. */
  readonly data: string;
  /** What activations become, see `parseSiteSpec`. Default: quad. */
  readonly poly?: readonly string[];
  readonly only?: readonly string[];
  readonly skip?: readonly string[];
  /** Min-max normalisation before each activation; exported with stored ranges. */
  readonly amm?: boolean;
  /** The same training; exported with the true ranges at run time. */
  readonly mm?: boolean;
  readonly insertBatchnorm?: boolean;
  /** polynorm: each sample is normalised before each activation, see `passes/insert-polynorm.ts`. */
  readonly norm?: string;
  /** In training alone, inputs of polynomials are bounded to so many times the teacher's range. */
  readonly clipRange?: number;
  /** On what lies beyond it, see `parsePenalty`. */
  readonly rangePenalty?: string;
  /** auto | fit | teacher */
  readonly init?: string;
  /** `GLOB=key=value,…`: other settings for the stages whose names match. */
  readonly stage?: readonly string[];
  readonly momentum?: number;
  readonly nesterov?: boolean;
  readonly weightDecay?: number;
  readonly schedule?: string;
  readonly optimizer?: string;
  readonly batch?: number;
  /** See `parseAugment`. Default: none, which lets values be kept from epoch to epoch. */
  readonly augment?: string;
  readonly seed?: number;
  /** How many training images at most, a random choice by the seed. */
  readonly limit?: number;
  /** How often a stage that diverges starts again at a quarter of its rate. */
  readonly backoff?: number;
  /** A loss above so many times that of the start is divergence. */
  readonly divergeAt?: number;
  /** GB of kept values. */
  readonly cacheMemory?: number;
  readonly cacheDisk?: number;
}

export type Settled = StageSettings &
  Pick<QuailSettings, 'normalize' | 'resize' | 'layout'> & {
    readonly [K in
      | 'data'
      | 'poly'
      | 'only'
      | 'skip'
      | 'amm'
      | 'mm'
      | 'insertBatchnorm'
      | 'stage'
      | 'momentum'
      | 'nesterov'
      | 'weightDecay'
      | 'schedule'
      | 'optimizer'
      | 'batch'
      | 'augment'
      | 'seed'
      | 'backoff'
      | 'divergeAt'
      | 'cacheMemory'
      | 'cacheDisk']-?: NonNullable<QuailSettings[K]>;
  } & {
    readonly init: 'auto' | 'fit' | 'teacher';
    readonly limit: number | null;
    readonly norm: 'polynorm' | null;
    readonly clipRange: number | null;
    readonly rangePenalty: string | null;
  };

const INITS = ['auto', 'fit', 'teacher'] as const;

/**
 * SGD, rate 0.1, Nesterov momentum 0.5, cosine to a hundredth, 50 epochs a stage, no weight decay but for QuaIL without AMM
 * on MNIST (5e-4).
 * @throws SisyphusError `usage`, `spec`
 */
export function settle(options: Partial<QuailSettings>): Settled {
  const { data, normalize, resize, layout } = options;
  if (!data) throw new SisyphusError('usage', 'QuaIL needs data: give --data NAME:PATH');
  const optimizer = parseOptimizer(options.optimizer ?? 'sgd');
  const amm = Boolean(options.amm || options.mm);
  const lr = options.lr ?? (optimizer === 'sgd' ? 0.1 : 1e-3);
  const epochs = options.epochs ?? 50;
  const schedule = options.schedule ?? 'cosine,floor=0.01';
  parseSchedule(schedule);
  const init = INITS.find((known) => known === (options.init ?? 'auto'));
  if (!init) throw new SisyphusError('usage', `--init: '${options.init}' is none of ${INITS.join(', ')}`);
  if (options.insertBatchnorm && amm)
    throw new SisyphusError(
      'usage',
      '--insert-batchnorm: min-max normalisation undoes what a batch norm before it does',
    );
  refuseControl(options, amm);
  const settings: Settled = {
    data,
    poly: options.poly ?? ['quad'],
    only: options.only ?? [],
    skip: options.skip ?? [],
    amm,
    mm: options.mm ?? false,
    insertBatchnorm: options.insertBatchnorm ?? false,
    init,
    norm: options.norm === 'polynorm' ? options.norm : null,
    clipRange: options.clipRange ?? null,
    rangePenalty: options.rangePenalty ?? null,
    stage: options.stage ?? [],
    epochs,
    finetuneEpochs: options.finetuneEpochs ?? epochs,
    lr,
    finetuneLr: options.finetuneLr ?? lr,
    clipNorm: options.clipNorm ?? null,
    stopWhen: options.stopWhen ?? null,
    momentum: options.momentum ?? (optimizer === 'sgd' ? 0.5 : 0.9),
    nesterov: options.nesterov ?? optimizer === 'sgd',
    weightDecay: options.weightDecay ?? (/^mnist(:|$)/.test(data) && !amm ? 5e-4 : 0),
    schedule,
    optimizer,
    batch: options.batch ?? 128,
    augment: formatAugment(parseAugment(options.augment ?? 'none')),
    seed: options.seed ?? 42,
    limit: options.limit ?? null,
    backoff: options.backoff ?? 5,
    divergeAt: options.divergeAt ?? 10,
    cacheMemory: options.cacheMemory ?? Math.floor(os.totalmem() / 4e9),
    cacheDisk: options.cacheDisk ?? 0,
    ...(normalize !== undefined && { normalize }),
    ...(resize !== undefined && { resize }),
    ...(layout !== undefined && { layout }),
  };
  checkStage(settings, '');
  for (const text of settings.stage) parseStage(text);
  const least = (name: string, value: number, from: number, below = Number.POSITIVE_INFINITY) => {
    if (!(value >= from && value < below)) throw new SisyphusError('usage', `--${name}: ${value} is out of range`);
  };
  least('momentum', settings.momentum, 0, 1);
  least('weight-decay', settings.weightDecay, 0);
  least('batch', settings.batch, 1);
  least('backoff', settings.backoff, 0);
  least('diverge-at', settings.divergeAt, 1);
  least('cache-memory', settings.cacheMemory, 0);
  least('cache-disk', settings.cacheDisk, 0);
  return settings;
}

/** @throws SisyphusError `usage` where range control does not go with the rest */
function refuseControl({ norm, clipRange, rangePenalty, insertBatchnorm }: Partial<QuailSettings>, amm: boolean): void {
  if (norm !== undefined && norm !== null && norm !== 'polynorm')
    throw new SisyphusError('usage', `--norm '${norm}': QuaIL takes polynorm; hermite is for train`);
  if (norm && (amm || insertBatchnorm))
    throw new SisyphusError('usage', '--norm polynorm stands alone: leave --amm, --mm and --insert-batchnorm away');
  if (rangePenalty) parsePenalty(rangePenalty);
  if (clipRange != null && !(clipRange > 0))
    throw new SisyphusError('usage', `--clip-range: ${clipRange} is not above 0`);
  if ((clipRange != null || rangePenalty) && amm)
    throw new SisyphusError('usage', '--clip-range and --range-penalty: min-max normalisation has ranges of its own');
}

const KEYS: Readonly<Record<string, keyof StageSettings>> = {
  epochs: 'epochs',
  'finetune-epochs': 'finetuneEpochs',
  lr: 'lr',
  'finetune-lr': 'finetuneLr',
  'clip-norm': 'clipNorm',
  'stop-when': 'stopWhen',
};

/** `GLOB=key=value,key=value`. @throws SisyphusError `spec` */
function parseStage(text: string): { matches: (name: string) => boolean; settings: Partial<StageSettings> } {
  const match = new RegExp(`^(?<glob>.+?)=(?<entries>(?:${Object.keys(KEYS).join('|')})=.*)$`, 's').exec(text);
  const refuse = (why: string) =>
    new SisyphusError(
      'spec',
      `--stage '${text}': ${why}; write it as GLOB=epochs=5,lr=0.01 (${Object.keys(KEYS).join(', ')})`,
    );
  if (!match?.groups) throw refuse('it has no pattern and settings');
  const { glob = '', entries = '' } = match.groups;
  const settings: Record<string, number> = {};
  for (const entry of entries.split(',')) {
    const [key = '', value = ''] = entry.split('=').map((word) => word.trim());
    const name = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
    if (!name || value === '' || !Number.isFinite(Number(value))) throw refuse(`'${entry}' is no setting`);
    settings[name] = Number(value);
  }
  checkStage(settings, `--stage '${text}': `);
  return { matches: globMatcher(glob), settings };
}

function checkStage(settings: Partial<StageSettings>, where: string): void {
  for (const name of ['epochs', 'finetuneEpochs'] as const) {
    const value = settings[name] ?? 0;
    if (!Number.isInteger(value) || value < 0)
      throw new SisyphusError(
        'usage',
        `${where}--${name === 'epochs' ? name : 'finetune-epochs'}: ${value} is no count`,
      );
  }
  for (const [name, flag] of [
    ['lr', 'lr'],
    ['finetuneLr', 'finetune-lr'],
    ['clipNorm', 'clip-norm'],
  ] as const) {
    const value = settings[name] ?? 1;
    if (!(value > 0 && Number.isFinite(value)))
      throw new SisyphusError('usage', `${where}--${flag}: ${value} is no number above 0`);
  }
  const { stopWhen } = settings;
  if (typeof stopWhen === 'number' && !(stopWhen >= 0 && stopWhen < 1))
    throw new SisyphusError('usage', `${where}--stop-when: ${stopWhen} is no share in [0, 1)`);
}

/** @throws SisyphusError `spec` where a pattern matches no stage */
export function settingsOf(settled: Settled, names: readonly string[]): StageSettings[] {
  const rules = settled.stage.map((text) => ({ text, ...parseStage(text) }));
  for (const { text, matches } of rules)
    if (!names.some(matches))
      throw new SisyphusError('spec', `--stage '${text}': no stage has such a name; --plan lists them`);
  const { epochs, finetuneEpochs, lr, finetuneLr, clipNorm, stopWhen } = settled;
  const general = { epochs, finetuneEpochs, lr, finetuneLr, clipNorm, stopWhen };
  return names.map((name) =>
    Object.assign({ ...general }, ...rules.filter(({ matches }) => matches(name)).map(({ settings }) => settings)),
  );
}
