/**
 * `sisyphus polynomialize`: the recommended path from a trained network to a polynomial one, in one command: average pools
 * for max pools if asked for, batch norms folded, polynomials and weights refitted (`refit`), fine-tuning with clip, range
 * penalty and the original as teacher (`train`), and a report of what that cost and how near to escaping it comes.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { SisyphusError } from './errors.ts';
import { type ProbedModel, probeModel } from './eval/probe.ts';
import { outputName, refuseTarget } from './files.ts';
import { cloneModel, setMetadata } from './graph/edit.ts';
import type { Model } from './graph/ir.ts';
import { readModel } from './graph/read.ts';
import { assertValid } from './graph/verify.ts';
import { writeModel } from './graph/write.ts';
import { summarize } from './inspect.ts';
import { replaceMaxpool } from './passes/replace-maxpool.ts';
import { type RefitOptions, type RefitReport, refitModel } from './refit/refit.ts';
import { type Drift, type Verified, verify } from './refit/verify.ts';
import type { EpochRecord, TrainReport } from './train/train.ts';
import { VERSION } from './version.ts';

export const POOLS = ['keep', 'average'] as const;

export interface PolynomializeOptions extends Omit<RefitOptions, 'autoDegree'> {
  /** Levels that the network may have: degrees are chosen within them. */
  readonly depth?: number;
  /** What becomes of max pools, which are no polynomials. Default keep. */
  readonly pools?: (typeof POOLS)[number];
  /** Of fine-tuning. Default 0: none. */
  readonly epochs?: number;
  /** Of its first epoch. Default 0.003; where all degrees are below 4, 0.02. */
  readonly lr?: number;
  /** Training images, a random choice. Default: all. */
  readonly trainImages?: number;
  /** Default: crop,flip for CIFAR and Tiny ImageNet, else none. */
  readonly augment?: string;
  /** See `parsePenalty`. */
  readonly rangePenalty?: string;
  /** Test images that the report is made on. Default: all, and 1000 of them for drifts and ranges. */
  readonly testImages?: number;
  readonly onEpoch?: (epoch: EpochRecord) => void;
}

/** Where a layer's values come closest to leaving the range that its polynomial was made for. */
export interface Closest {
  readonly site: string;
  /** Largest magnitude over the range; above 1 it is left. */
  readonly times: number;
  /** Share of the images with a value outside. */
  readonly leaving: number;
}

export interface PolynomializeReport {
  readonly model: string;
  readonly output: string;
  readonly refit: Omit<RefitReport, 'model' | 'output'>;
  /** null without fine-tuning. */
  readonly training: Pick<TrainReport, 'run' | 'epochs' | 'settings'> | null;
  /** On the test split, or on what there is. */
  readonly test: Verified;
  readonly drifts: readonly Verified[];
  /** The strongest noise, and the strongest contrast, that no more than a thousandth of the images escape under. */
  readonly stands: { readonly noise: number; readonly contrast: number };
  readonly closest: readonly Closest[];
  readonly verdict: ProbedModel['escape'];
  /** Levels and activations before and after. */
  readonly depth: { readonly before: number; readonly after: number };
  /** Activations that are left, and what else is no polynomial. */
  readonly nonPolynomial: number;
  readonly seconds: number;
}

/** Images that drifts and ranges are measured on. */
const DRIFTED = 1000;
const DRIFTS: readonly Drift[] = [
  ...[0.1, 0.2, 0.4, 0.8].map((amount): Drift => ({ kind: 'noise', amount })),
  ...[1.25, 1.5, 2, 3].map((amount): Drift => ({ kind: 'contrast', amount })),
];

/** @throws SisyphusError as `refit` and `train` */
export async function polynomialize(file: string, options: PolynomializeOptions): Promise<PolynomializeReport> {
  const start = performance.now();
  const output = options.output ?? outputName(file, 'polynomial');
  const { depth, pools = 'keep', epochs = 0, force = false, onProgress } = options;
  await refuseTarget(output, force);
  if (depth !== undefined && options.poly)
    throw new SisyphusError('usage', '--depth chooses the degrees: leave --poly away');
  const original = readModel(file);
  assertValid(original, file);
  const prepared = cloneModel(original);
  if (pools === 'average') await replaceMaxpool.run(prepared, {});
  const { model: fitted, ...refit } = await refitModel(original, file, {
    ...options,
    student: prepared,
    part: `${output}.part`,
    ...(depth !== undefined && { autoDegree: `depth=${depth}` }),
  });
  let student = fitted;
  let training: PolynomializeReport['training'] = null;
  if (epochs > 0) {
    const tuned = await fineTune(file, output, student, refit, options);
    student = tuned.student;
    training = tuned.training;
  }
  setMetadata(student, 'sisyphus.version', VERSION);
  await writeModel(student, output, { force });
  const data = { ...common(options), split: 'test' as const };
  const [test] = await verify(original, student, file, {
    ...data,
    ...(options.testImages !== undefined && { limit: options.testImages, seed: 0 }),
    ...(onProgress && { onProgress }),
  });
  const some = { ...data, limit: Math.min(DRIFTED, options.testImages ?? DRIFTED), seed: 0 };
  const drifts = await verify(original, student, file, some, DRIFTS);
  const probed = await probeModel(student, output, some);
  const [before, after] = [summarize(original), summarize(student)];
  await rm(`${output}.part`, { force: true });
  return {
    model: file,
    output,
    refit,
    training,
    test: test as Verified,
    drifts,
    stands: { noise: stands(drifts, 'noise', 0), contrast: stands(drifts, 'contrast', 1) },
    closest: closestOf(probed),
    verdict: probed.escape,
    depth: { before: before.depth, after: after.depth },
    nonPolynomial: after.nonPolynomial,
    seconds: (performance.now() - start) / 1000,
  };
}

/** What every step runs its models on. */
function common(options: PolynomializeOptions) {
  const { data, normalize, resize, layout, device, threads, batch, signal } = options;
  return {
    data,
    ...(normalize !== undefined && { normalize }),
    ...(resize !== undefined && { resize }),
    ...(layout !== undefined && { layout }),
    ...(device !== undefined && { device }),
    ...(threads !== undefined && { threads }),
    ...(batch !== undefined && { batch }),
    ...(signal && { signal }),
  };
}

/** Rates of the first epoch: quartics take small steps, see docs/refit.md. */
const RATES = { steep: 0.003, flat: 0.02 };
const PENALTY = 'huber=10,from=0.8';
const CLIP = 1.05;

async function fineTune(
  file: string,
  output: string,
  start: Model,
  refit: Pick<RefitReport, 'layers'>,
  options: PolynomializeOptions,
): Promise<{ student: Model; training: PolynomializeReport['training'] }> {
  const { epochs = 0, lr, trainImages, rangePenalty = PENALTY, resume, force, seed, onEpoch, onProgress } = options;
  const { train } = await import('./train/train.ts');
  const run = `${output.replace(/\.onnx$/i, '')}.train`;
  // Where the training starts, beside its folder: a resumed run makes the same again.
  const from = `${run}.start.onnx`;
  await writeModel(start, from, { force: true });
  const steep = refit.layers.some((layer) => layer.kind === 'activation' && layer.degree >= 4);
  const images = /^(cifar|tiny)/.test(options.data);
  const { batch: _batch, device, ...data } = common(options);
  const going = resume === true && existsSync(run);
  const { epochs: records, settings } = await train(from, {
    ...data,
    ...(device !== undefined && { device }),
    teacher: file,
    clipRange: CLIP,
    rangePenalty,
    epochs,
    lr: lr ?? (steep ? RATES.steep : RATES.flat),
    momentum: 0.9,
    nesterov: false,
    clipNorm: 1,
    augment: options.augment ?? (images ? 'crop,flip' : 'none'),
    ...(trainImages !== undefined && { limit: trainImages }),
    ...(seed !== undefined && { seed }),
    run,
    resume: going,
    force: force === true && !going,
    ...(onProgress && { onProgress }),
    ...(onEpoch && { onEpoch }),
  });
  // Not the best on the test split: that would choose by it.
  const student = readModel(path.join(run, 'last.onnx'));
  await rm(from, { force: true });
  return { student, training: { run, epochs: records, settings } };
}

/** The last amount of the kind up to which hardly any image escapes. */
function stands(drifts: readonly Verified[], kind: Drift['kind'], none: number): number {
  let amount = none;
  for (const { drift, escaped, images } of drifts) {
    if (drift.kind !== kind) continue;
    if (escaped > images / 1000) break;
    amount = 'amount' in drift ? drift.amount : none;
  }
  return amount;
}

const SHOWN = 5;

function closestOf({ sites }: ProbedModel): Closest[] {
  return sites
    .flatMap(({ name, range, input, leaving }) => {
      const reach = Math.max(Math.abs(input.max ?? Infinity), Math.abs(input.min ?? Infinity));
      return range === null ? [] : [{ site: name, times: reach / range, leaving: leaving ?? 0 }];
    })
    .sort((a, b) => b.times - a.times)
    .slice(0, SHOWN);
}
