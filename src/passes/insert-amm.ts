/**
 * ApproxMinMaxNorm and its true form, between a pre-activation x and its activation (Garimella, Jha, Reagen 2021,
 * section 4, Eq. 2; alpha = 2 and beta = 1 map the channel's range to [-1, 1]).
 *
 * Before:  y = activation(x)
 * After:   y = activation(alpha (x - min) / (max - min) - beta)         min and max per channel (axis 1)
 * AMM:     min and max are stored numbers, so the map is affine: folded into the BatchNormalization, Conv or Gemm that
 *          makes x where nothing else reads x, else one Mul and one Add.
 * MM:      min and max are taken at run time over all axes but the channel's: ReduceMin, ReduceMax, Sub, Div.
 * Conditions: one operator as activation, in a graph (not in a function); for MM a known rank.
 * A constant channel (max = min) has no range to divide by: AMM divides by 1 there, MM adds a tiny number to every range.
 */
import { SisyphusError } from '../errors.ts';
import { floatAttribute, intsAttribute } from '../graph/attributes.ts';
import { addConstant, addNode, importDomain } from '../graph/edit.ts';
import type { ElementType, Model, Value } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { makeTensor } from '../graph/tensor.ts';
import { opsetOf } from '../graph/walk.ts';
import { type ActivationSite, findActivations } from './activation-sites.ts';
import { feed, insertAffine, type Reader } from './insert-affine.ts';
import { emptyReport, type Pass, type PassReport } from './pass.ts';
import { refuseStrangers, storedRanges } from './ranges.ts';
import { type SiteSelection, selectedKinds, siteFilter } from './select-sites.ts';
import type { ActivationStatistics } from './statistics.ts';

export interface InsertAmmOptions extends SiteSelection {
  /** Stored ranges; without them the true minimum and maximum are taken at run time (MM). */
  readonly statistics?: ActivationStatistics;
  readonly alpha?: number;
  readonly beta?: number;
}

export const insertAmm: Pass<InsertAmmOptions> = {
  name: 'insert-amm',
  summary: 'per-channel min-max normalisation before activations, from statistics (--amm) or at run time (--mm)',
  exact: false,
  run: runInsertAmm,
};

function runInsertAmm(model: Model, options: InsertAmmOptions): PassReport {
  const { alpha = 2, beta = 1, statistics } = options;
  const types = inferTypes(model);
  const { sites } = findActivations(model, types, selectedKinds(options));
  const report = emptyReport(insertAmm.name);
  const leftOut = siteFilter(options, sites);
  if (statistics) refuseStrangers(statistics, model, types, '--amm');
  for (const site of sites) {
    const reason = leftOut(site) ?? unsuited(site);
    if (reason) {
      report.skipped.push({ site: site.name, reason });
      continue;
    }
    const result = statistics
      ? insertStored(model, types, site, statistics, alpha, beta)
      : insertTrue(model, types, site, alpha, beta);
    if ('reason' in result) report.skipped.push({ site: site.name, ...result });
    else report.applied.push({ site: site.name, ...result });
  }
  return report;
}

export type Result = { readonly detail: string } | { readonly reason: string };

function unsuited(site: ActivationSite): string | null {
  if (site.calls !== 1 || site.node.body.kind === 'function')
    return 'inside a function, whose calls would share one range';
  return site.nodes.length === 1 ? null : 'spelled with several operators; insert the normalisation by hand';
}

/** AMM: an affine map of each channel. */
function insertStored(
  model: Model,
  types: Types,
  site: ActivationSite,
  statistics: ActivationStatistics,
  alpha: number,
  beta: number,
): Result {
  const stored = storedRanges(statistics, site.name);
  if (typeof stored === 'string') return { reason: stored };
  const { channelMin, channelMax } = stored;
  const shape = types.get(site.input).shape;
  if (!shape || shape.length < 2)
    return { reason: `the shape of '${site.input.name}' is unknown or has no channel axis` };
  const channels = shape[1];
  if (channelMin.length !== channelMax.length || (typeof channels === 'number' && channels !== channelMin.length))
    throw new SisyphusError(
      'file',
      `--amm: site '${site.name}' has ${channels} channels, but the statistics hold ${channelMin.length} minima and ${channelMax.length} maxima`,
    );
  const ranges = channelMin.map((min, c) => {
    const range = (channelMax[c] as number) - min;
    if (range < 0)
      throw new SisyphusError(
        'spec',
        `--amm: site '${site.name}', channel ${c}: the minimum ${min} is above the maximum ${channelMax[c]}`,
      );
    return range;
  });
  return insertRanges(model, types, site, { min: channelMin, range: ranges, alpha, beta });
}

/** A channel's range, and what it is mapped to: [-beta, alpha - beta]. */
export interface Ranges {
  readonly min: ArrayLike<number>;
  /** Of a constant channel 0, which divides by 1. */
  readonly range: ArrayLike<number>;
  readonly alpha: number;
  readonly beta: number;
}

/** The affine map of known ranges, before whatever reads the value. */
export function insertRanges(
  model: Model,
  types: Types,
  reader: Reader,
  { min, range, alpha, beta }: Ranges,
  fold = true,
): Result {
  const scale = Float64Array.from(range, (width) => alpha / (width > 0 ? width : 1));
  const shift = Float64Array.from(min, (low, c) => -low * (scale[c] as number) - beta);
  const constant = Array.from(range).filter((width) => !(width > 0)).length;
  const result = insertAffine(model, types, reader, { scale, shift }, { what: 'amm', fold });
  return 'reason' in result || constant === 0
    ? result
    : { detail: `${result.detail}; ${constant} constant channels left unscaled` };
}

/** The operator that training knows: its ranges are those of the batch, and it keeps running averages of them. */
export const TRAINABLE = 'ApproxMinMaxNorm';
/** Of operators that only we know; no file that is handed out has them. */
export const DOMAIN = 'sisyphus';

/**
 * Inserts a normalisation to be trained: ApproxMinMaxNorm(x, min, range, seen), with running estimates [C] and the number of
 * batches that they have seen, [1]. `settleAmm` makes plain operators of it.
 * @param first what the estimates are as long as no batch was seen
 * @returns why nothing was done, or null
 */
export function insertTrainableAmm(
  model: Model,
  site: ActivationSite,
  first: Pick<Ranges, 'min' | 'range'> | null = null,
  alpha = 2,
  beta = 1,
): string | null {
  const reason = unsuited(site);
  const channels = inferTypes(model).get(site.input).shape?.[1];
  if (reason) return reason;
  if (typeof channels !== 'number') return `the number of channels of '${site.input.name}' is unknown`;
  if (site.elem !== 'float') return `it is ${site.elem}, and float32 is trained`;
  const { body } = site.node;
  const name = `${site.name}/amm`;
  const constant = (what: string, values: ArrayLike<number>) =>
    addConstant(model, body, makeTensor(`${name}/${what}`, 'float', [values.length], values), site.node);
  const ones = new Float64Array(channels).fill(1);
  const { min = ones, range = ones } = first ?? {};
  const inputs = [site.input, constant('min', min), constant('range', range), constant('seen', [0])];
  const attributes = [floatAttribute('alpha', alpha), floatAttribute('beta', beta)];
  importDomain(model, DOMAIN, 1);
  const node = addNode(model, body, { op: TRAINABLE, domain: DOMAIN, name, inputs, attributes }, site.node);
  feed(site, node.outputs[0] as Value);
  return null;
}

/** Smaller than any range that matters, and not lost in the element type. */
const TINY: Partial<Record<ElementType, number>> = { float16: 1e-4, bfloat16: 1e-12, float: 1e-12, double: 1e-24 };

/** MM: the range of the very inputs that are evaluated, so results depend on the batch. */
export function insertTrue(model: Model, types: Types, site: Reader, alpha: number, beta: number): Result {
  const shape = types.get(site.input).shape;
  if (!shape || shape.length < 2)
    return { reason: `the shape of '${site.input.name}' is unknown or has no channel axis` };
  const body = site.node.body;
  const named = (name: string) => `${site.name}/mm/${name}`;
  const scalar = (name: string, value: number) =>
    addConstant(model, body, makeTensor(named(name), site.elem, [], [value]), site.node);
  const axes = shape.map((_, axis) => axis).filter((axis) => axis !== 1);
  const axesAsInput = opsetOf(model, body) >= 18;
  const axesValue = axesAsInput
    ? addConstant(model, body, makeTensor(named('axes'), 'int64', [axes.length], axes), site.node)
    : null;
  const reduce = (op: string, name: string) =>
    addNode(
      model,
      body,
      {
        op,
        name: named(name),
        inputs: axesValue ? [site.input, axesValue] : [site.input],
        attributes: axesValue ? [] : [intsAttribute('axes', axes)],
      },
      site.node,
    ).outputs[0] as Value;
  const step = (op: string, name: string, a: Value, b: Value) =>
    addNode(model, body, { op, name: named(name), inputs: [a, b] }, site.node).outputs[0] as Value;
  const min = reduce('ReduceMin', 'min');
  const range = step(
    'Add',
    'range',
    step('Sub', 'span', reduce('ReduceMax', 'max'), min),
    scalar('tiny', TINY[site.elem] ?? 1e-12),
  );
  const unit = step('Div', 'unit', step('Sub', 'offset', site.input, min), range);
  const scaled = step('Mul', 'scaled', unit, scalar('alpha', alpha));
  feed(site, step('Sub', 'out', scaled, scalar('beta', beta)));
  return { detail: `min and max over axes ${axes.join(', ')} at run time, so results depend on the batch` };
}
