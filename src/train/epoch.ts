/** The steps of one epoch: progress, checkpoints, interruption; what `train` and `quail` have in common. */
import { SisyphusError } from '../errors.ts';
import type { NdArray } from '../eval/session.ts';
import type { OnProgress } from '../progress.ts';
import type { Stepper } from './step.ts';
import type { FedBatch, LossWeights, TrainingStep } from './training-step.ts';

/** What an epoch has seen so far. */
export interface EpochSums {
  /** Steps that are done. */
  step: number;
  loss: number;
  correct: number;
  seen: number;
  gradientNorm: number;
  seconds: number;
  /** Batches that were left out, and how many of them came last. */
  skipped: number;
  inRow: number;
}

export const NOTHING_SEEN: EpochSums = {
  step: 0,
  loss: 0,
  correct: 0,
  seen: 0,
  gradientNorm: 0,
  seconds: 0,
  skipped: 0,
  inRow: 0,
};

export interface EpochRun {
  readonly step: TrainingStep;
  readonly stepper: Stepper;
  /** From the step on where `sums` are. */
  readonly batches: AsyncIterable<FedBatch>;
  readonly rate: number;
  /** Of the parts of the loss. Default: the objective alone. */
  readonly weights?: LossWeights;
  /** Number of the epoch's first step in the whole run. */
  readonly firstStep: number;
  /** Rows of the epoch. */
  readonly rows: number;
  /** For people. */
  readonly task: string;
  /** A finite loss above this is as bad as none. Default: none is. */
  readonly limit?: number;
  /** How many bad batches in a row are left out, instead of ending the epoch. Default 0. */
  readonly patience?: number;
  readonly save: () => Promise<void>;
  /** Seconds between checkpoints. Default 60. */
  readonly checkpointEvery?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
}

const CHECKPOINT_SECONDS = 60;

/**
 * @param sums goes on with every step
 * @returns null, or the batch as it was fed whose loss or gradients are no numbers or above the limit, where patience is at
 * its end: that step is undone
 * @throws SisyphusError `aborted` after the signal
 */
export async function runEpoch(run: EpochRun, sums: EpochSums): Promise<{ fed: NdArray[]; loss: number } | null> {
  const {
    step,
    stepper,
    rate,
    firstStep,
    rows,
    task,
    limit = Number.MAX_VALUE,
    patience = 0,
    signal,
    onProgress,
  } = run;
  const every = 1000 * (run.checkpointEvery ?? CHECKPOINT_SECONDS);
  let [clock, saved] = [performance.now(), performance.now()];
  for await (const batch of run.batches) {
    const fed = step.feed(batch, rate, firstStep + sums.step, run.weights);
    const [loss = 0, correct = 0, norm = 0] = (await stepper.run(fed)).map((array) => Number(array.data[0]));
    if (!(loss <= limit) || !Number.isFinite(norm)) {
      stepper.undo();
      if (sums.inRow >= patience) return { fed, loss };
      sums.step++;
      sums.skipped++;
      sums.inRow++;
      continue;
    }
    sums.step++;
    sums.inRow = 0;
    sums.loss += loss * batch.count;
    sums.correct += correct;
    sums.seen += batch.count;
    sums.gradientNorm = Math.max(sums.gradientNorm, norm);
    const now = performance.now();
    sums.seconds += (now - clock) / 1000;
    clock = now;
    onProgress?.({ task, done: sums.seen, total: rows, unit: 'images', note: `loss ${shown(sums.loss / sums.seen)}` });
    if (signal?.aborted) throw new SisyphusError('aborted', 'interrupted');
    if (now - saved > every) {
      await run.save();
      saved = performance.now();
      clock = saved;
    }
  }
  return null;
}

const shown = (loss: number): string => (loss >= 1e-3 ? loss.toFixed(4) : loss.toExponential(2));
