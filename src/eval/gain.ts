/**
 * The gain of a layer: how much an excess of variance at its input grows at its output. With pre-activations
 * m + sqrt(v) (x - m), v = 1 being what was measured, gain = d log Var[f] / d log v at v = 1: 1 for ReLU around 0, 2 for
 * x^2. The product over the layers tells how a small deviation escapes; it takes each layer's input to be the previous
 * one's output up to a linear map, so with skip connections it is an upper bound.
 */
import type { Bin } from './statistics.ts';

const STEP = 0.02;

/**
 * @param bins the measured distribution of the layer's input
 * @returns null where the function or the distribution leaves nothing to compare (constant, or not finite)
 */
export function gainOf(f: (x: number) => number, bins: readonly Bin[]): number | null {
  let [total, sum] = [0, 0];
  for (const { from, to, count } of bins) {
    total += count;
    sum += (count * (from + to)) / 2;
  }
  if (total === 0) return null;
  const mean = sum / total;
  const share = ({ count }: Bin) => count / total;
  const variance = (v: number) => {
    const scale = Math.sqrt(v);
    const values = bins.map(({ from, to }) => f(mean + scale * ((from + to) / 2 - mean)));
    const sumOf = (term: (y: number) => number) => values.reduce((so, y, i) => so + share(bins[i] as Bin) * term(y), 0);
    const average = sumOf((y) => y);
    const spread = sumOf((y) => (y - average) ** 2);
    return spread > 1e-18 * average ** 2 ? spread : 0; // of a constant only rounding is left
  };
  const gain = (Math.log(variance(Math.exp(STEP))) - Math.log(variance(Math.exp(-STEP)))) / (2 * STEP);
  return Number.isFinite(gain) ? gain : null;
}
