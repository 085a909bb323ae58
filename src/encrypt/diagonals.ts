/**
 * A dense map on packed slots by its diagonals, with baby steps and giant steps (Halevi, Shoup, CRYPTO 2014 and 2018).
 *
 * Slot i of a ciphertext holds feature i mod P (zero beyond the features), all slots filled. With M the power of two above
 * the outputs, extended diagonal k < M is d_k[i] = W[i mod M][(i + k) mod P]; sum over k of d_k * rot(x, k), folded by
 * rotations of M, 2M, …, P/2, has the outputs with period M.
 */

export interface DiagonalPlan {
  /** Period of the input's slots, and of the output's. */
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

export const powerOfTwo = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** @param period of the slots that come in */
export function planDiagonals(
  { outs, ins, weights }: { readonly outs: number; readonly ins: number; readonly weights: ArrayLike<number> },
  period: number,
): DiagonalPlan {
  const outPeriod = powerOfTwo(outs);
  const wide = Math.max(period, outPeriod);
  const used = new Uint8Array(outPeriod);
  for (let r = 0; r < outs; r++)
    for (let c = 0; c < ins; c++)
      if (weights[r * ins + c] !== 0) used[(((c - r) % outPeriod) + outPeriod) % outPeriod] = 1;
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
  return { period: wide, outPeriod, giant, babies, giants, diagonals, folds };
}

/** Rotations that a plan makes, and the steps that it needs keys for. */
export function rotationsOf({ babies, giants, giant, folds }: DiagonalPlan): { count: number; steps: number[] } {
  const steps = [...(babies > 1 ? [1] : []), ...(giants > 1 ? [giant] : []), ...folds];
  return { count: babies - 1 + giants - 1 + folds.length, steps };
}

interface Weighted {
  readonly outs: number;
  readonly ins: number;
  readonly weights: ArrayLike<number>;
  readonly rows: Float64Array;
  readonly columns: Float64Array;
}

/** Diagonal k, moved right by its giant step, as it stands in `slots` slots. */
export function diagonal(map: Weighted, plan: DiagonalPlan, k: number, slots: number): Float64Array {
  const { outs, ins, weights, rows, columns } = map;
  const { period, outPeriod, giant } = plan;
  const shift = k - (k % giant);
  const out = new Float64Array(slots);
  for (let i = 0; i < period; i++) {
    const r = i % outPeriod;
    const c = (i + k) % period;
    if (r < outs && c < ins)
      out[(i + shift) % period] = (weights[r * ins + c] as number) * (rows[r] as number) * (columns[c] as number);
  }
  for (let i = period; i < slots; i++) out[i] = out[i % period] as number;
  return out;
}

/** A list with a period, in all slots. */
export function periodic(values: ArrayLike<number>, period: number, slots: number): Float64Array {
  const out = new Float64Array(slots);
  for (let i = 0; i < slots; i++) out[i] = i % period < values.length ? (values[i % period] as number) : 0;
  return out;
}
