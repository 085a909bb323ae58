/**
 * `sisyphus probe`: what happens at every nonlinear layer while a data set runs through a model. Extremes, counts of NaN
 * and infinities and the share of inputs that leave the range cover every input; moments, quantiles and histograms are
 * taken from whole batches spread evenly over the data (`sample` inputs at least).
 *
 * Reading every value of every layer costs several times the inference itself. So most batches run a model that reduces
 * each layer to the minimum, maximum and sum of each row and channel; where a sum is not finite, and for the sample, the
 * same batch runs again with the values themselves as outputs.
 */
import type { Model } from '../graph/ir.ts';
import { readModel } from '../graph/read.ts';
import { inferTypes } from '../graph/shapes.ts';
import type { Skip } from '../passes/pass.ts';
import { rangesOf } from '../passes/ranges.ts';
import type { ActivationKind } from '../poly/activations.ts';
import { type Device, formatDevice, parseDevice } from './device.ts';
import { type Feed, type FeedBatch, openFeed, samplePlan } from './feed.ts';
import { gainOf } from './gain.ts';
import { type FirstNonFinite, locateNonFinite } from './locate.ts';
import { type PreprocessingText, preprocessingText } from './preprocessing.ts';
import { endsEarly, openModel, type RunOptions, untilAborted } from './run.ts';
import { chooseDevice } from './session.ts';
import { nonlinearSites } from './sites.ts';
import { finishRunning, finiteBins, startRunning, type ValueStatistics } from './statistics.ts';
import { completeOutputs, type ExtremeTaps, runFull, runLight, tapExtremes, tapValues, type Watched } from './taps.ts';
import { type EscapeScore, escapeScore } from './verdict.ts';

export interface ProbeOptions extends RunOptions {
  /** Count inputs with |x| above this at a layer. Default: the range that `rewrite` fitted the layer's polynomial on. */
  readonly range?: number;
  /** How many inputs moments, quantiles and histograms are taken from, at least. Default 256. */
  readonly sample?: number;
}

export interface ProbedSite {
  readonly name: string;
  readonly label: string;
  readonly kind: ActivationKind | 'polynomial';
  /** Of one input. */
  readonly shape: readonly number[];
  /** Before the nonlinearity. */
  readonly input: ValueStatistics;
  /** After it. */
  readonly output: ValueStatistics;
  /** [-range, range] is where its input should stay; null where nothing says so. */
  readonly range: number | null;
  /** Share of the inputs with a value outside of the range, or not finite; null without a range. */
  readonly leaving: number | null;
  /** Inputs with a value that is not finite, before or after the nonlinearity. */
  readonly nonFiniteInputs: number;
  /** See `gainOf`; null where it can't be told. */
  readonly gain: number | null;
}

export interface ProbedModel {
  readonly path: string;
  readonly images: number;
  /** How many of them moments, quantiles and histograms come from. */
  readonly sampled: number;
  readonly seconds: number;
  readonly data: string;
  readonly split: string;
  readonly batch: number;
  readonly batching: string;
  readonly preprocessing: PreprocessingText;
  readonly device: string;
  readonly partial: boolean;
  readonly sites: readonly ProbedSite[];
  /** Nonlinear layers whose values can't be read. */
  readonly skipped: readonly Skip[];
  /** Inputs for which an output of the model is not finite. */
  readonly nonFiniteOutputs: number;
  /** Where it began, in the first input that it happened to; null where all is finite. */
  readonly firstNonFinite: FirstNonFinite | null;
  readonly escape: EscapeScore;
}

export interface ProbeReport {
  readonly models: readonly ProbedModel[];
  readonly device: { readonly name: string; readonly why: string };
}

const DEFAULT_SAMPLE = 256;

/**
 * Probes models on one data set.
 * @throws SisyphusError as `evaluate` does
 */
export async function probe(files: readonly string[], options: ProbeOptions): Promise<ProbeReport> {
  const { device, why } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const models = await untilAborted(files, options, async (path) =>
    probeFeed(await openFeed(readModel(path), path, options), device, options),
  );
  return { models, device: { name: formatDevice(device), why } };
}

/** Probes a model in memory. @param where what messages call it */
export async function probeModel(model: Model, where: string, options: ProbeOptions): Promise<ProbedModel> {
  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  return probeFeed(await openFeed(model, where, options), device, options);
}

async function probeFeed(feed: Feed, device: Device, options: ProbeOptions): Promise<ProbedModel> {
  const { model, where } = feed;
  const types = inferTypes(model);
  const { sites, skipped } = nonlinearSites(model, types);
  const ranges = rangesOf(model);
  const watched = sites.map(
    (site): Watched => ({
      site,
      range: options.range ?? ranges.get(site.name) ?? null,
      input: startRunning(),
      output: startRunning(),
      shape: [],
      nonFiniteInputs: 0,
    }),
  );
  const open = (tapped: Model) => openModel(tapped, where, device, options);
  const start = performance.now();
  const { isSampled, all } = samplePlan(feed, options.sample ?? DEFAULT_SAMPLE);
  const seen = { images: 0, sampled: 0, nonFiniteOutputs: 0 };
  // The batch that shows the earliest layer with a value that is not finite.
  let offender: { readonly batch: FeedBatch; readonly at: number } | null = null;
  let partial = false;
  const full = await tapValues(model, types, watched, feed.batch, open);
  let light: ExtremeTaps | null = null;
  try {
    if (!all) light = await tapExtremes(model, types, watched, open);
    let index = 0;
    let at = Number.POSITIVE_INFINITY; // the first bad layer of a batch; the next one most likely has it too
    for await (const batch of feed.batches()) {
      const sample = isSampled(index++);
      const short = !sample && at === Number.POSITIVE_INFINITY;
      let bad = light && short ? await runLight(light, watched, batch) : null;
      if (bad === null) {
        const result = await runFull(full, batch, sample);
        at = result.firstBad;
        bad = result.badOutputs;
      }
      if ((bad > 0 && !offender) || at < (offender?.at ?? Number.POSITIVE_INFINITY)) offender = { batch, at };
      seen.nonFiniteOutputs += bad;
      seen.images += batch.count;
      if (sample) seen.sampled += batch.count;
      options.onProgress?.({ task: where, done: seen.images, total: feed.count, unit: 'images' });
    }
  } catch (error) {
    if (!endsEarly(error, options, seen.images)) throw error;
    partial = true;
  } finally {
    await full.session.release();
    await light?.session.release();
  }
  completeOutputs(watched);
  const probed = watched.map((one) => finishSite(one, seen.images));
  const firstNonFinite = offender && (await locateNonFinite(model, types, offender.batch, sites, open));
  const { nonFiniteOutputs } = seen;
  return {
    path: where,
    ...seen,
    seconds: (performance.now() - start) / 1000,
    data: options.data,
    split: feed.dataset.split,
    batch: feed.batch,
    batching: feed.batching,
    preprocessing: preprocessingText(feed.preprocessing),
    device: formatDevice(device),
    partial,
    sites: probed,
    skipped,
    firstNonFinite,
    escape: escapeScore({
      sites: probed,
      images: seen.images,
      nonFiniteOutputs,
      firstNonFinite,
      hidden: skipped.length,
    }),
  };
}

function finishSite({ site, range, input, output, shape, nonFiniteInputs }: Watched, images: number): ProbedSite {
  const { name, label, kind, f } = site;
  return {
    name,
    label,
    kind,
    shape,
    input: finishRunning(input),
    output: finishRunning(output),
    range,
    leaving: range === null ? null : input.leavingRows / images,
    nonFiniteInputs,
    gain: f && gainOf(f, finiteBins(input)),
  };
}
