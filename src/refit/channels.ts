/**
 * The polynomial of an activation, by channel: least squares from what the student's layer gives to what the teacher's
 * activation made of its own, under the measured density; sums are streamed, in float64.
 */
import { CholeskyDecomposition, Matrix } from 'ml-matrix';
import { SisyphusError } from '../errors.ts';
import type { Activation } from '../poly/activations.ts';
import type { Block, Places } from './rows.ts';

export interface TailGuard {
  /** Of values spread evenly over the tail range, relative to what was measured. */
  readonly mass: number;
  /** The tail range, in multiples of the largest value of the channel, or of a quarter of the layer's. */
  readonly width: number;
}

export interface ChannelFitOptions {
  readonly degree: number;
  readonly perChannel: boolean;
  readonly tail: TailGuard | null;
  /** Of one channel's function, which the tail follows; one, or one for each channel. */
  readonly activations: readonly Activation[];
}

/** Least values that a range counts as: a quarter of the layer's. Nearly dead channels would have none otherwise. */
export const FLOOR = 0.25;

/** Sums for the normal equations of all channels. */
export interface Moments {
  readonly channels: number;
  readonly degree: number;
  /** What x is divided by, for each channel. */
  readonly scale: Float64Array;
  /** Powers of x up to twice the degree, [channels, 2 degree + 1]. */
  readonly x: Float64Array;
  /** Powers of x times y, [channels, degree + 1]. */
  readonly xy: Float64Array;
  readonly yy: Float64Array;
}

/** Largest magnitudes of the channels in a block, into `limits`. */
export function largest(
  { channels, positions, channelStride, positionStride }: Places,
  block: Block,
  limits: Float64Array,
): void {
  const { data } = block;
  const size = channels * positions;
  for (let row = 0; row < data.length; row += size)
    for (let c = 0; c < channels; c++) {
      let most = limits[c] as number;
      for (let i = 0, at = row + c * channelStride; i < positions; i++, at += positionStride) {
        const value = Math.abs(data[at] as number);
        if (value > most) most = value;
      }
      limits[c] = most;
    }
}

/** Bounds values by channel, in place; what is no number becomes 0. */
export function clamp(
  { channels, positions, channelStride, positionStride }: Places,
  data: Float32Array,
  limits: Float64Array,
): void {
  const size = channels * positions;
  for (let row = 0; row < data.length; row += size)
    for (let c = 0; c < channels; c++) {
      const limit = limits[c] as number;
      for (let i = 0, at = row + c * channelStride; i < positions; i++, at += positionStride) {
        const value = data[at] as number;
        if (value > limit) data[at] = limit;
        else if (value < -limit) data[at] = -limit;
        else if (Number.isNaN(value)) data[at] = 0;
      }
    }
}

/** @param limits largest magnitude of x, for each channel */
export function emptyMoments(degree: number, limits: Float64Array, tail: TailGuard | null): Moments {
  const channels = limits.length;
  const layer = limits.reduce((a, b) => Math.max(a, b), 0);
  const wide = tail ? Math.max(tail.width, 1) : 1;
  return {
    channels,
    degree,
    scale: limits.map((limit) => wide * (tail ? Math.max(limit, FLOOR * layer) : limit) || layer || 1),
    x: new Float64Array(channels * (2 * degree + 1)),
    xy: new Float64Array(channels * (degree + 1)),
    yy: new Float64Array(channels),
  };
}

/** Takes in a block: x as the student has it, y as it is to become. */
export function addBlock(moments: Moments, places: Places, x: Float32Array, y: Float32Array): void {
  const { channels, degree, scale } = moments;
  const { positions, channelStride, positionStride } = places;
  const size = channels * positions;
  const [wide, narrow] = [2 * degree + 1, degree + 1];
  const [own, cross] = [new Float64Array(wide), new Float64Array(narrow)];
  for (let c = 0; c < channels; c++) {
    const factor = 1 / (scale[c] as number);
    own.fill(0);
    cross.fill(0);
    let squares = 0;
    for (let row = 0; row < x.length; row += size)
      for (let i = 0, at = row + c * channelStride; i < positions; i++, at += positionStride) {
        const t = (x[at] as number) * factor;
        const target = y[at] as number;
        squares += target * target;
        let power = 1;
        for (let k = 0; k < narrow; k++) {
          own[k] = (own[k] as number) + power;
          cross[k] = (cross[k] as number) + power * target;
          power *= t;
        }
        for (let k = narrow; k < wide; k++) {
          own[k] = (own[k] as number) + power;
          power *= t;
        }
      }
    for (let k = 0; k < wide; k++) moments.x[c * wide + k] = (moments.x[c * wide + k] as number) + (own[k] as number);
    for (let k = 0; k < narrow; k++)
      moments.xy[c * narrow + k] = (moments.xy[c * narrow + k] as number) + (cross[k] as number);
    moments.yy[c] = (moments.yy[c] as number) + squares;
  }
}

/** Points that stand for the tail. */
const TAIL_POINTS = 401;
/** Of the mean diagonal: digits that float64 has to spare. */
const RIDGE = 1e-7;

/**
 * A channel of few values, as dense layers have them, is fitted as if it had so many more, which are like those of the
 * whole layer.
 */
const PRIOR = 100;

export interface ChannelFit {
  /** Of the powers of x, constant first: one list, or one for each channel. */
  readonly coefficients: readonly (readonly number[])[];
  /** Root of the mean squared error, relative to that of the target. */
  readonly error: number;
}

/** Solves the normal equations. @throws SisyphusError `data` where the sums are not finite */
export function fitChannels(moments: Moments, options: ChannelFitOptions): ChannelFit {
  const { channels, degree } = moments;
  const narrow = degree + 1;
  const coefficients: number[][] = [];
  let [left, total] = [0, 0];
  const layer = pooled(moments, [...Array(channels).keys()]);
  const list = options.perChannel ? Array.from({ length: channels }, (_, c) => [c]) : [[...Array(channels).keys()]];
  for (const members of list) {
    const { scale, own, cross, squares } = pooled(moments, members);
    const count = own[0] as number;
    if (![...own, ...cross, squares].every(Number.isFinite))
      throw new SisyphusError('data', 'values that are not finite reach it');
    const [measured, target] = [own.map((value) => value / count), cross.map((value) => value / count)];
    const prior = members.length < channels ? PRIOR / (PRIOR + count) : 0;
    const blended = (values: Float64Array, whole: Float64Array) =>
      values.map(
        (value, k) =>
          (1 - prior) * value + (prior * (whole[k] as number) * (layer.scale / scale) ** k) / (layer.own[0] as number),
      );
    const guarded = options.tail
      ? withTail(blended(measured, layer.own), blended(target, layer.cross), scale, options, members[0] ?? 0)
      : { own: blended(measured, layer.own), cross: blended(target, layer.cross) };
    const solved = solve(guarded.own, guarded.cross, narrow);
    coefficients.push(solved.map((value, k) => value / scale ** k));
    let error = squares / count;
    for (let i = 0; i < narrow; i++) {
      error -= 2 * (solved[i] as number) * (target[i] as number);
      for (let j = 0; j < narrow; j++)
        error += (solved[i] as number) * (solved[j] as number) * (measured[i + j] as number);
    }
    left += Math.max(0, error) * count;
    total += squares;
  }
  return { coefficients, error: Math.sqrt(left / (total || 1)) };
}

/** The sums of some channels together, on the widest scale among them. */
function pooled({ scale: scales, x, xy, yy, degree }: Moments, members: readonly number[]) {
  const [wide, narrow] = [2 * degree + 1, degree + 1];
  const scale = members.reduce((most, c) => Math.max(most, scales[c] as number), 0);
  const own = new Float64Array(wide);
  const cross = new Float64Array(narrow);
  let squares = 0;
  for (const c of members) {
    const ratio = (scales[c] as number) / scale;
    for (let k = 0; k < wide; k++) own[k] = (own[k] as number) + (x[c * wide + k] as number) * ratio ** k;
    for (let k = 0; k < narrow; k++) cross[k] = (cross[k] as number) + (xy[c * narrow + k] as number) * ratio ** k;
    squares += yy[c] as number;
  }
  return { scale, own, cross, squares };
}

/** Adds values spread evenly over [-1, 1], times the scale, with the activation as their target. */
function withTail(
  own: Float64Array,
  cross: Float64Array,
  scale: number,
  { tail, activations }: ChannelFitOptions,
  channel: number,
) {
  const { f } = activations[channel] ?? (activations[0] as Activation);
  const mass = (tail as TailGuard).mass / TAIL_POINTS;
  const [powers, products] = [Float64Array.from(own), Float64Array.from(cross)];
  for (let i = 0; i < TAIL_POINTS; i++) {
    const t = (2 * i) / (TAIL_POINTS - 1) - 1;
    const target = f(t * scale);
    let power = mass;
    for (let k = 0; k < powers.length; k++) {
      powers[k] = (powers[k] as number) + power;
      if (k < products.length) products[k] = (products[k] as number) + power * target;
      power *= t;
    }
  }
  return { own: powers, cross: products };
}

function solve(own: Float64Array, cross: Float64Array, size: number): number[] {
  const gram = new Matrix(size, size);
  let trace = 0;
  for (let i = 0; i < size; i++) trace += own[2 * i] as number;
  for (let i = 0; i < size; i++)
    for (let j = 0; j < size; j++) gram.set(i, j, (own[i + j] as number) + (i === j ? (RIDGE * trace) / size : 0));
  return new CholeskyDecomposition(gram).solve(Matrix.columnVector([...cross.subarray(0, size)])).getColumn(0);
}

/** Evaluates in place, one list of coefficients or one for each channel. */
export function applyPolynomials(
  { channels, positions, channelStride, positionStride }: Places,
  data: Float32Array,
  coefficients: readonly (readonly number[])[],
): void {
  const size = channels * positions;
  for (let row = 0; row < data.length; row += size)
    for (let c = 0; c < channels; c++) {
      const list = (coefficients[c] ?? coefficients[0]) as readonly number[];
      for (let i = 0, at = row + c * channelStride; i < positions; i++, at += positionStride) {
        const x = data[at] as number;
        let value = 0;
        for (let k = list.length - 1; k >= 0; k--) value = value * x + (list[k] as number);
        data[at] = value;
      }
    }
}
