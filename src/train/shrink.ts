/**
 * `sisyphus shrink`: retrains a network so that its pre-activations stay in smaller ranges, before anything is replaced
 * (range-aware training, Baruch et al. 2023, arXiv 2304.14836): polynomials then need less degree for the same error. The
 * network learns from itself as it was, and from the labels.
 */
import { SisyphusError } from '../errors.ts';
import { calibrate } from '../eval/calibration.ts';
import { outputName, refuseTarget } from '../files.ts';
import type { Model } from '../graph/ir.ts';
import { readModel } from '../graph/read.ts';
import { writeModel } from '../graph/write.ts';
import { type EpochRecord, type TrainOptions, type TrainReport, train } from './train.ts';

export interface ShrinkOptions
  extends Omit<TrainOptions, 'clipRange' | 'rangePenalty' | 'norm' | 'teacher' | 'temperature' | 'loss' | 'output'> {
  /** Of the measured ranges that values are to stay in. Default 0.5. */
  readonly to?: number;
  /** Of the penalty on what lies outside. Default 10. */
  readonly penalty?: number;
  /** Default: `MODEL.shrink.onnx` beside the model. */
  readonly output?: string;
}

export interface ShrunkSite {
  readonly name: string;
  /** Largest magnitude before the layer, over the calibration images. */
  readonly before: number;
  readonly after: number;
}

export interface ShrinkReport {
  readonly model: string;
  readonly output: string;
  readonly run: string;
  readonly epochs: readonly EpochRecord[];
  readonly sites: readonly ShrunkSite[];
  readonly settings: TrainReport['settings'];
}

/** @throws SisyphusError as `train` */
export async function shrink(file: string, options: ShrinkOptions): Promise<ShrinkReport> {
  const { to = 0.5, penalty = 10, output = outputName(file, 'shrink'), ...rest } = options;
  if (!(to > 0 && to <= 1)) throw new SisyphusError('usage', `--to: ${to} is no share of the ranges, from 0 to 1`);
  if (!(penalty > 0 && Number.isFinite(penalty)))
    throw new SisyphusError('usage', `--penalty: ${penalty} is not above 0`);
  await refuseTarget(output, options.force || options.resume || false);
  const trained = await train(file, {
    ...rest,
    epochs: options.epochs ?? 5,
    lr: options.lr ?? 0.005,
    momentum: options.momentum ?? 0.9,
    nesterov: options.nesterov ?? false,
    clipNorm: options.clipNorm ?? 1,
    teacher: file,
    rangePenalty: `huber=${penalty},from=${to}`,
    run: options.run ?? `${file.replace(/\.onnx$/i, '')}.shrink`,
  });
  const model = readModel(trained.last);
  const reach = async (measured: Model) => {
    const { data, normalize, resize, layout } = trained.settings;
    const { sites } = await calibrate(measured, file, {
      data,
      ...(normalize !== undefined && { normalize }),
      ...(resize !== undefined && { resize }),
      ...(layout !== undefined && { layout }),
      ...(options.signal && { signal: options.signal }),
    });
    return sites.map(({ name, input }) => ({
      name,
      reach: Math.max(Math.abs(input.min ?? Infinity), Math.abs(input.max ?? Infinity)),
    }));
  };
  const [before, after] = [await reach(readModel(file)), await reach(model)];
  await writeModel(model, output, { force: options.force || options.resume || false });
  return {
    model: file,
    output,
    run: trained.run,
    epochs: trained.epochs,
    sites: before.map(({ name, reach: old }, i) => ({ name, before: old, after: after[i]?.reach ?? Number.NaN })),
    settings: trained.settings,
  };
}
