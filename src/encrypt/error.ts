/** What encryption does to a logit, before anything is encrypted. */
import type { DiagonalPlan } from './diagonals.ts';
import { applyMap, applyMonic, type MonicLayer, type Program } from './program.ts';

/** Deviations that the largest of some hundred logits stays within. */
const DEVIATIONS = 4;

/**
 * The error of a logit in units of the noise that one rounding adds to a slot. Variances are propagated: a fresh ciphertext
 * has one unit; a map sums those of its inputs, each with a rotation's on top, by its squared weights, and adds a rounding for
 * each slot that its folds sum up and for each fold; a polynomial multiplies by its squared slope and adds two.
 * @param inputs whose features the slopes are taken at
 */
export function errorFactor(
  { maps, layers }: Pick<Program, 'maps' | 'layers'>,
  plans: readonly DiagonalPlan[],
  inputs: readonly Float64Array[],
): number {
  let worst = 0;
  for (const input of inputs) {
    let x = input;
    let variance = new Float64Array(input.length).fill(1);
    for (const [i, map] of maps.entries()) {
      const { outs, ins, weights, rows, columns } = map;
      const { period, outPeriod } = plans[i] as DiagonalPlan;
      const next = new Float64Array(outs);
      for (let r = 0; r < outs; r++) {
        let sum = 0;
        for (let c = 0; c < ins; c++)
          sum += ((weights[r * ins + c] as number) * (columns[c] as number)) ** 2 * ((variance[c] as number) + 1);
        next[r] = sum * (rows[r] as number) ** 2 + (2 * period) / outPeriod;
      }
      const y = applyMap(map, x);
      const layer = layers[i];
      variance = layer ? next.map((v, j) => v * slope(layer, y[j] as number, j) ** 2 + 2) : next;
      x = layer ? y.map((u, j) => applyMonic(layer, u, j)) : y;
    }
    worst = Math.max(worst, ...variance);
  }
  return DEVIATIONS * Math.sqrt(worst);
}

function slope({ degree, coefficients }: MonicLayer, u: number, feature: number): number {
  let value = degree;
  for (let k = degree - 1; k > 0; k--) value = value * u + k * (coefficients[k]?.[feature] as number);
  return value;
}
