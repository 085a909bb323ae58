/**
 * What keeps pre-activations in range while a network is trained: a clip that only training has, and a penalty on what lies
 * outside (PILLAR, Diaa et al. 2024, arXiv 2306.08538; range-aware training, Baruch et al. 2023, arXiv 2304.14836). The
 * polynomials themselves stay as they are: coefficients that move with the clip in front of them drift off.
 */
import { SisyphusError } from '../errors.ts';
import { type CalibrationOptions, calibrate } from '../eval/calibration.ts';
import { type NonlinearSite, nonlinearSites, readersOf } from '../eval/sites.ts';
import { addConstant, addNode, cloneModel, setInput } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { makeTensor } from '../graph/tensor.ts';
import { channelRangesOf, rangesOf } from '../passes/ranges.ts';
import { tf } from './tf.ts';

/** Where the inputs of a nonlinear layer should stay. */
export interface Bounds {
  readonly site: string;
  /** The value that goes into it. */
  readonly value: string;
  /** Half-widths: one, or one for each channel (axis 1). */
  readonly limits: readonly number[];
  /** Of the limits as a tensor that broadcasts against the value. */
  readonly shape: readonly number[];
}

/** Nearly dead channels have no range of their own: at least this share of the layer's. */
const FLOOR = 0.25;

/**
 * Ranges of the layers: by channel as `refit` recorded them, else measured on training images.
 * @param measured the network to measure, whose layers have the same names; the teacher, where there is one
 * @throws SisyphusError `unsupported` where there is no layer to bound
 */
export async function calibratedBounds(
  model: Model,
  where: string,
  measured: Model,
  calibration: CalibrationOptions,
): Promise<Bounds[]> {
  const sites = visibleSites(model, where);
  const recorded = channelRangesOf(model);
  const known = new Map<string, readonly number[]>(recorded);
  if (sites.some(({ name }) => !known.has(name))) {
    const single = rangesOf(model);
    for (const [name, limits] of await measuredLimits(measured, where, calibration)) {
      if (known.has(name)) continue;
      const range = single.get(name);
      known.set(name, range === undefined ? limits : limits.map((limit) => Math.min(limit, range)));
    }
  }
  return sites.map((site) => boundsFor(model, site, known.get(site.name) ?? []));
}

/** The same range for all layers. */
export function uniformBounds(model: Model, where: string, range: number): Bounds[] {
  return visibleSites(model, where).map((site) => boundsFor(model, site, [range]));
}

/** Largest magnitudes by channel at each nonlinear layer, on training images. */
export async function measuredLimits(
  model: Model,
  where: string,
  calibration: CalibrationOptions,
): Promise<Map<string, readonly number[]>> {
  const { sites } = await calibrate(model, where, calibration);
  return new Map(
    sites.map(({ name, input }) => [
      name,
      input.channelMax.map((max, c) => Math.max(Math.abs(max ?? 0), Math.abs(input.channelMin[c] ?? 0))),
    ]),
  );
}

/** Of those layers of a model, or of a part of one, that limits are known for. */
export function boundsWithin(model: Model, limits: ReadonlyMap<string, readonly number[]>): Bounds[] {
  const { sites } = nonlinearSites(model, inferTypes(model));
  return sites.flatMap((site) => {
    const known = limits.get(site.name);
    return known ? [boundsFor(model, site, known)] : [];
  });
}

function visibleSites(model: Model, where: string): NonlinearSite[] {
  const { sites } = nonlinearSites(model, inferTypes(model));
  if (sites.length > 0) return sites;
  throw new SisyphusError('unsupported', `${where}: has no nonlinear layer whose range could be kept`);
}

function boundsFor(model: Model, { name, input }: NonlinearSite, limits: readonly number[]): Bounds {
  const shape = inferTypes(model).get(input).shape ?? [];
  const layer = limits.reduce((a, b) => Math.max(a, b), 0);
  if (!(layer > 0 && Number.isFinite(layer)))
    throw new SisyphusError('data', `'${name}': its range is ${layer}, which says nothing; refit it first`);
  const perChannel = limits.length > 1 && shape[1] === limits.length;
  const floored = (perChannel ? limits : [layer]).map((limit) => Math.max(limit, FLOOR * layer));
  return {
    site: name,
    value: input.name,
    limits: floored,
    shape: perChannel ? [floored.length, ...shape.slice(2).map(() => 1)] : [],
  };
}

/** A copy in which the layers read values bounded to a multiple of their range; for training alone. */
export function clipped(model: Model, bounds: readonly Bounds[], factor: number): Model {
  const copy = cloneModel(model);
  const { sites } = nonlinearSites(copy, inferTypes(copy));
  for (const { site: name, limits, shape } of bounds) {
    const site = sites.find((each) => each.name === name);
    if (!site) throw new SisyphusError('internal', `no layer '${name}'`);
    const readers = readersOf(site);
    const [first = null] = readers;
    const constant = (what: string, sign: number) => {
      const values = limits.map((limit) => sign * factor * limit);
      return addConstant(copy, copy.graph, makeTensor(`${name}/clip/${what}`, 'float', shape, values), first);
    };
    const below = addNode(
      copy,
      copy.graph,
      { op: 'Min', name: `${name}/clip/min`, inputs: [site.input, constant('high', 1)] },
      first,
    );
    const within = addNode(
      copy,
      copy.graph,
      { op: 'Max', name: `${name}/clip/max`, inputs: [below.outputs[0] ?? null, constant('low', -1)] },
      first,
    );
    for (const reader of readers)
      for (const [index, value] of reader.inputs.entries())
        if (value === site.input) setInput(reader, index, within.outputs[0] ?? null);
  }
  return copy;
}

/**
 * huber: excess over `from` times the range, squared up to an excess of 1 and linear beyond. power: |x / (from range)|^p,
 * with the authors' warm-up of four epochs.
 */
export type PenaltySpec =
  | { readonly kind: 'huber'; readonly weight: number; readonly from: number }
  | {
      readonly kind: 'power';
      readonly weight: number;
      readonly from: number;
      readonly power: number;
      readonly warmup: number;
    };

/** `huber=10,from=0.8` or `power=0.006,p=10,warmup=4,from=0.96`. @throws SisyphusError `usage` */
export function parsePenalty(text: string): PenaltySpec {
  const entries = new Map(
    text.split(',').map((entry): [string, number] => {
      const [key = '', value = ''] = entry.split('=', 2);
      return [key.trim(), value.trim() === '' ? Number.NaN : Number(value)];
    }),
  );
  const kind = entries.has('power') ? 'power' : 'huber';
  const known = kind === 'power' ? ['power', 'p', 'warmup', 'from'] : ['huber', 'from'];
  const weight = entries.get(kind) ?? Number.NaN;
  const from = entries.get('from') ?? (kind === 'power' ? 0.96 : 1);
  const [power, warmup] = [entries.get('p') ?? 10, entries.get('warmup') ?? 4];
  const fine =
    [...entries.keys()].every((key) => known.includes(key)) &&
    [weight, from].every((value) => value > 0 && Number.isFinite(value)) &&
    power >= 2 &&
    Number.isInteger(warmup) &&
    warmup >= 0;
  if (!fine)
    throw new SisyphusError(
      'usage',
      `--range-penalty '${text}': write it as huber=10,from=0.8 or power=0.006,p=10,warmup=4,from=0.96`,
    );
  return kind === 'huber' ? { kind, weight, from } : { kind, weight, from, power, warmup };
}

/** PILLAR's first epochs: exponents, shares of the weight, and no objective in the very first. */
const WARMUP = [
  { power: 4, share: 1 / 100, objective: 0 },
  { power: 6, share: 1 / 50, objective: 1 },
  { power: 8, share: 1 / 10, objective: 1 },
  { power: 10, share: 1 / 5, objective: 1 },
] as const;

/** The parts of the loss in an epoch, from 0. */
export function weightsAt(spec: PenaltySpec, epoch: number) {
  const { weight } = spec;
  if (spec.kind === 'huber') return { objective: 1, penalty: weight, power: 2 };
  const { power, warmup } = spec;
  if (epoch >= warmup) return { objective: 1, penalty: weight, power };
  const place = WARMUP[Math.floor((epoch * WARMUP.length) / warmup)] as (typeof WARMUP)[number];
  return { objective: place.objective, penalty: weight * place.share, power: Math.min(power, place.power) };
}

export interface RangePenalty {
  /** Names of the values that it is of. */
  readonly values: readonly string[];
  /** Mean over rows and layers of the sum over elements. */
  loss(values: ReadonlyMap<string, tf.Tensor>, power: tf.Scalar): tf.Scalar;
}

export function rangePenalty(spec: PenaltySpec, bounds: readonly Bounds[]): RangePenalty {
  return {
    values: bounds.map(({ value }) => value),
    loss(values, power) {
      const layers = bounds.map(({ value, limits, shape }) => {
        const x = values.get(value) as tf.Tensor;
        const inverse = tf.tensor(
          limits.map((limit) => 1 / (spec.from * limit)),
          shape.length > 0 ? [...shape] : [],
        );
        const sum = spec.kind === 'power' ? tf.sum(tf.pow(tf.mul(tf.abs(x), inverse), power)) : excess(x, inverse);
        return tf.div(sum, x.shape[0] as number);
      });
      return tf.div(tf.addN(layers), layers.length) as tf.Scalar;
    },
  };
}

/**
 * Sum of h(s), where s is what t = x / range exceeds [-1, 1] by, and h(s) = s²/2 up to 1 and |s| - 1/2 beyond. Its slope is
 * s bounded to [-1, 1], which the forward pass has already: half of the work of what the tape would record.
 */
function excess(x: tf.Tensor, inverse: tf.Tensor): tf.Scalar {
  return tf.customGrad((given, save) => {
    const t = tf.mul(given as tf.Tensor, inverse);
    const s = tf.sub(t, tf.clipByValue(t, -1, 1));
    const slope = tf.clipByValue(s, -1, 1);
    (save as tf.GradSaveFunc)([slope, inverse]);
    return {
      value: tf.sum(tf.mul(slope, tf.sub(s, tf.mul(slope, 0.5)))),
      gradFunc: (dy: tf.Tensor, [own, factor]: tf.Tensor[]) =>
        tf.mul(own as tf.Tensor, tf.mul(dy, factor as tf.Tensor)),
    };
  })(x) as tf.Scalar;
}
