/** Normalisations that keep activations in range and that training puts in front of them, or in their place. */
import { didYouMean, SisyphusError } from '../errors.ts';
import { type CalibrationOptions, calibrationRows } from '../eval/calibration.ts';
import { parseDevice } from '../eval/device.ts';
import { openFeed } from '../eval/feed.ts';
import { openModel } from '../eval/run.ts';
import { chooseDevice, type NdArray } from '../eval/session.ts';
import { nonlinearSites, readersOf } from '../eval/sites.ts';
import { withOutputs } from '../eval/taps.ts';
import { cloneModel } from '../graph/edit.ts';
import type { Model, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { findActivations } from '../passes/activation-sites.ts';
import { insertHermite } from '../passes/hermite.ts';
import { insertPolynorm, typicalSample } from '../passes/insert-polynorm.ts';

export const NORMS = ['polynorm', 'hermite'] as const;
/**
 * polynorm: each sample is brought to the mean and variance of a typical one before each nonlinear layer, and stays so in
 * the result. hermite: activations become quadratics in AESPA's basis, each part with its own batch normalisation, and one
 * polynomial by channel in the result.
 */
export type NormName = (typeof NORMS)[number];

/** @throws SisyphusError `usage` */
export function parseNorm(text: string): NormName {
  const name = NORMS.find((known) => known === text);
  if (name) return name;
  throw new SisyphusError('usage', `--norm: unknown '${text}'${didYouMean(text, NORMS)}`);
}

/** Rows that typical values are taken from. */
const ROWS = 100;

/**
 * A copy with the normalisation.
 * @throws SisyphusError `unsupported` where a layer can't have it, naming it
 */
export async function normalised(
  model: Model,
  where: string,
  norm: NormName,
  options: CalibrationOptions,
): Promise<Model> {
  const copy = cloneModel(model);
  const types = inferTypes(copy);
  const layers =
    norm === 'polynorm'
      ? nonlinearSites(copy, types).sites
      : findActivations(copy, types).sites.filter(({ node }) => node.body === copy.graph);
  if (layers.length === 0) throw new SisyphusError('unsupported', `${where}: has no layer for --norm ${norm}`);
  const samples = await sampled(
    model,
    where,
    layers.map(({ input }) => input),
    options,
  );
  const refuse = (name: string, reason: string | null) => {
    if (reason !== null) throw new SisyphusError('unsupported', `${where}: '${name}': no --norm ${norm}: ${reason}`);
  };
  if (norm === 'hermite')
    for (const { name } of layers) {
      const site = findActivations(copy, inferTypes(copy)).sites.find((each) => each.name === name);
      if (!site) throw new SisyphusError('internal', `no activation '${name}'`);
      const { dims, data } = samples.get(site.input.name) as NdArray;
      refuse(name, insertHermite(copy, site, { dims, data: data as Float32Array }));
    }
  else
    for (const layer of nonlinearSites(copy, types).sites) {
      const { dims, data } = samples.get(layer.input.name) as NdArray;
      const { name, input } = layer;
      const typical = typicalSample(dims, data as Float32Array);
      refuse(name, insertPolynorm(copy, { name, input, rank: dims.length }, readersOf(layer), typical));
    }
  return copy;
}

/** Values of a few rows, by name. */
async function sampled(
  model: Model,
  where: string,
  values: readonly Value[],
  options: CalibrationOptions,
): Promise<Map<string, NdArray>> {
  const rows = await calibrationRows({ ...options, images: ROWS });
  const feed = await openFeed(model, where, { ...rows, batch: ROWS });
  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const names = new Set(values.map(({ name }) => name));
  const own = feed.model.graph.nodes.flatMap(({ outputs }) =>
    outputs.filter((value) => value && names.has(value.name)),
  );
  const tapped = withOutputs(
    feed.model,
    inferTypes(feed.model),
    own.filter((value) => value !== null),
  );
  const session = await openModel(tapped, where, device, rows);
  try {
    for await (const { feeds } of feed.batches()) return await session.run(feeds, [...names]);
    return new Map();
  } finally {
    await session.release();
  }
}
