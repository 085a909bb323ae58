/** Calibration: what a few inputs of a data set show of a model, labels unused. */
import { openDataset } from '../data/open.ts';
import { SisyphusError } from '../errors.ts';
import type { Model } from '../graph/ir.ts';
import { type ProbedModel, probeModel } from './probe.ts';
import type { RunOptions } from './run.ts';

export interface CalibrationOptions extends RunOptions {
  /** How many inputs, chosen at random (`seed`). Default 500; `limit` means the same. */
  readonly images?: number;
}

const DEFAULT_IMAGES = 500;

/**
 * The options with the rows to calibrate on filled in: of the training split unless the data set has none, or another is
 * asked for; so many, chosen with the seed.
 */
export async function calibrationRows<T extends CalibrationOptions>(options: T): Promise<T> {
  const { data, images, limit = images ?? DEFAULT_IMAGES, seed = 0, signal } = options;
  const split = options.split ?? ((await hasTraining(data, signal)) ? 'train' : 'test');
  return { ...options, split, limit, seed };
}

async function hasTraining(data: string, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    await openDataset(data, { split: 'train', ...(signal && { signal }) });
    return true;
  } catch (error) {
    // Whatever else is wrong with the data will be said of the split that is opened next.
    if (error instanceof SisyphusError && error.code !== 'aborted') return false;
    throw error;
  }
}

/** Probes a model in memory on all of the calibration rows. */
export async function calibrate(model: Model, where: string, options: CalibrationOptions): Promise<ProbedModel> {
  const rows = await calibrationRows(options);
  return probeModel(model, where, { ...rows, ...(rows.limit !== undefined && { sample: rows.limit }) });
}
