/**
 * A dense map on packed slots by its diagonals, with baby steps and giant steps (Halevi, Shoup, CRYPTO 2014 and 2018).
 *
 * A value with places 0 to w - 1 repeats in all slots with period P, a power of two; places that no feature has are zero, or
 * anything that the next map does not read. With M the power of two above the result's places, extended diagonal k < M has in
 * slot i the weight from what is at place (i + k) mod P to what is at place i mod M. The sum over k of d_k * rot(x, k), folded
 * by rotations of M, 2M, …, P/2, has the result with period M.
 */

/** Where the features of a value are: feature j at place `at[j]`. */
export interface Places {
  readonly at: Int32Array;
  /** Places, the empty ones among them. */
  readonly width: number;
}

export interface DiagonalPlan {
  readonly from: Places;
  readonly to: Places;
  /** Period of the slots that come in, or the result's where that is longer; and the result's. */
  readonly period: number;
  readonly outPeriod: number;
  /** Baby steps 0 to babies - 1; a giant step is a rotation by `giant`. */
  readonly giant: number;
  readonly babies: number;
  readonly giants: number;
  /** Non-empty diagonals: k = j * giant + b. */
  readonly diagonals: readonly number[];
  /** Rotations of the sums after rescaling. */
  readonly folds: readonly number[];
}

interface Matrix {
  readonly outs: number;
  readonly ins: number;
  readonly weights: ArrayLike<number>;
}

export const powerOfTwo = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** One after the other. */
export const contiguous = (count: number): Places => ({
  at: Int32Array.from({ length: count }, (_, j) => j),
  width: count,
});

/** @param period of the slots that come in */
export function planDiagonals({ outs, ins, weights }: Matrix, from: Places, to: Places, period: number): DiagonalPlan {
  const outPeriod = powerOfTwo(to.width);
  const wide = Math.max(period, outPeriod);
  const used = new Uint8Array(outPeriod);
  for (let r = 0; r < outs; r++) {
    const place = to.at[r] as number;
    for (let c = 0; c < ins; c++)
      if (weights[r * ins + c] !== 0) used[((from.at[c] as number) - place + 2 * wide) % outPeriod] = 1;
  }
  const diagonals = [...used.keys()].filter((k) => used[k]);
  if (diagonals.length === 0) diagonals.push(0);
  let best = { giant: 1, babies: 1, giants: 1, rotations: Number.POSITIVE_INFINITY };
  for (let giant = 1; giant <= outPeriod; giant *= 2) {
    const babies = 1 + Math.max(...diagonals.map((k) => k % giant));
    const giants = 1 + Math.floor((diagonals.at(-1) as number) / giant);
    const rotations = babies - 1 + giants - 1;
    if (rotations < best.rotations) best = { giant, babies, giants, rotations };
  }
  const folds: number[] = [];
  for (let f = outPeriod; f < wide; f *= 2) folds.push(f);
  const { giant, babies, giants } = best;
  return { from, to, period: wide, outPeriod, giant, babies, giants, diagonals, folds };
}

/** Rotations that a plan makes, and the steps that it needs keys for. */
export function rotationsOf({ babies, giants, giant, folds }: DiagonalPlan): { count: number; steps: number[] } {
  const steps = [...(babies > 1 ? [1] : []), ...(giants > 1 ? [giant] : []), ...folds];
  return { count: babies - 1 + giants - 1 + folds.length, steps };
}

interface Weighted extends Matrix {
  readonly rows: Float64Array;
  readonly columns: Float64Array;
}

/** Makes the diagonals of a map: diagonal k, moved right by its giant step, as it stands in `slots` slots. */
export function diagonalMaker(map: Weighted, plan: DiagonalPlan, slots: number): (k: number) => Float64Array {
  const { ins, weights, rows, columns } = map;
  const { from, to, period, outPeriod, giant } = plan;
  const rowAt = inverse(to, outPeriod);
  const columnAt = inverse(from, period);
  return (k) => {
    const shift = k - (k % giant);
    const out = new Float64Array(slots);
    for (let i = 0; i < period; i++) {
      const r = rowAt[i % outPeriod] as number;
      const c = columnAt[(i + k) % period] as number;
      if (r >= 0 && c >= 0)
        out[(i + shift) % period] = (weights[r * ins + c] as number) * (rows[r] as number) * (columns[c] as number);
    }
    for (let i = period; i < slots; i++) out[i] = out[i % period] as number;
    return out;
  };
}

/** Which feature is at a place; -1 for none. */
function inverse({ at }: Places, period: number): Int32Array {
  const features = new Int32Array(period).fill(-1);
  for (const [j, place] of at.entries()) features[place] = j;
  return features;
}

/** Numbers of features at their places, with a period, in all slots. */
export function periodic(values: ArrayLike<number>, { at }: Places, period: number, slots: number): Float64Array {
  const out = new Float64Array(slots);
  for (const [j, place] of at.entries()) for (let i = place; i < slots; i += period) out[i] = values[j] as number;
  return out;
}
