/** What `probe -o` writes: statistics that `rewrite --amm` and `--poly deg=4,a=FILE` read, by layer. */
import type { ActivationStatistics } from '../passes/statistics.ts';
import { VERSION } from '../version.ts';
import type { ProbedModel } from './probe.ts';

/**
 * The statistics of a model's nonlinear layers as JSON. `sites[NAME].channelMin` and `channelMax` are those of the
 * layer's input (the pre-activation), as are all entries but `output`.
 */
export function statisticsFile(model: ProbedModel): string {
  const { path, data, split, images, sampled, preprocessing, partial } = model;
  const sites = Object.fromEntries(
    model.sites.map(({ name, input, output, label, shape, range, leaving, gain }) => [
      name,
      { function: label, shape, ...input, output, range, leaving, gain },
    ]),
  );
  const origin = { model: path, data, split, images, sampled, preprocessing, partial };
  return `${JSON.stringify({ sisyphus: VERSION, ...origin, sites }, null, 1)}\n`;
}

/** The same as if it had been written and read: for callers that have probed a model themselves. */
export function statisticsOf(model: ProbedModel): ActivationStatistics {
  return { sites: Object.fromEntries(model.sites.map(({ name, input }) => [name, input])) };
}
