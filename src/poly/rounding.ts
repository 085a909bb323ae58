/** Coefficients that are cheap or exact in integers: powers of two, and multiples of 2^-bits. */
import { SisyphusError } from '../errors.ts';
import type { Activation } from './activations.ts';
import type { Coefficients, Interval } from './polynomial.ts';

/** Each coefficient as the power of two with the nearest exponent, so that a product is a shift (Faster CryptoNets). */
export const toPowersOfTwo = (coefficients: Coefficients): Coefficients =>
  coefficients.map((c) => (c === 0 ? 0 : Math.sign(c) * 2 ** Math.round(Math.log2(Math.abs(c)))));

/** Most nodes of the search, which starts from rounding one by one and keeps the best so far. */
const MOST_NODES = 200_000;

/**
 * The multiples of 2^-bits with the least squared error over a grid of points: rounding one coefficient is made up for by
 * the others (PILLAR, arXiv 2306.08538, which takes a mixed-integer solver for it). A closest-vector problem, solved by
 * enumeration in the order of Schnorr and Euchner from the triangular factor of the grid's normal equations.
 * @param coefficients the least-squares fit, constant first
 * @param bits after the binary point
 * @param step spacing of the grid; a smaller one where the interval would have few points
 * @throws SisyphusError `spec` for bits that are not 0 to 52
 */
export function toFixedPoint(
  activation: Activation,
  coefficients: Coefficients,
  bits: number,
  [low, high]: Interval,
  step = 0.01,
): Coefficients {
  if (!(Number.isInteger(bits) && bits >= 0 && bits <= 52))
    throw new SisyphusError('spec', `bits=${bits} is no whole number from 0 to 52`);
  const size = coefficients.length;
  const unit = 2 ** -bits;
  const count = Math.min(1e5, Math.max(10 * size, Math.round((high - low) / step))) + 1;
  const points = Float64Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));
  const columns = coefficients.map((_, k) => points.map((x) => unit * x ** k));
  const { factor, target } = triangular(columns, points.map(activation.f));
  const integers = coefficients.map((c) => Math.round(c / unit));
  const residual = (row: number) =>
    integers.reduce((rest, n, k) => rest - (factor[row]?.[k] as number) * n, target[row] as number);
  let best = { cost: integers.reduce((sum, _, row) => sum + residual(row) ** 2, 0), integers: [...integers] };
  let nodes = 0;
  const search = (row: number, cost: number): void => {
    if (cost >= best.cost || nodes > MOST_NODES) return;
    if (row < 0) {
      best = { cost, integers: [...integers] };
      return;
    }
    const own = factor[row] as Float64Array;
    let rest = target[row] as number;
    for (let k = row + 1; k < size; k++) rest -= (own[k] as number) * (integers[k] as number);
    const pivot = own[row] as number;
    const centre = rest / pivot;
    const nearest = Math.round(centre);
    const side = centre >= nearest ? 1 : -1;
    for (let i = 0; ; i++) {
      nodes++;
      // nearest, then outwards on both sides in turn
      const candidate = nearest + side * (i % 2 === 1 ? (i + 1) / 2 : -i / 2);
      const more = (pivot * (candidate - centre)) ** 2;
      if (cost + more >= best.cost || nodes > MOST_NODES) return;
      integers[row] = candidate;
      search(row - 1, cost + more);
    }
  };
  search(size - 1, 0);
  return best.integers.map((n) => (n === 0 ? 0 : n * unit));
}

/** QR by Gram-Schmidt, twice: the upper triangular factor, and the right side in the orthogonal basis. */
function triangular(columns: readonly Float64Array[], values: Float64Array) {
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, x, i) => sum + x * (b[i] as number), 0);
  const basis: Float64Array[] = [];
  const factor = columns.map(() => new Float64Array(columns.length));
  for (const [k, column] of columns.entries()) {
    const rest = Float64Array.from(column);
    for (let pass = 0; pass < 2; pass++)
      for (const [j, known] of basis.entries()) {
        const part = dot(rest, known);
        ((factor[j] as Float64Array)[k] as number) += part;
        for (let i = 0; i < rest.length; i++) (rest[i] as number) -= part * (known[i] as number);
      }
    const norm = Math.sqrt(dot(rest, rest));
    (factor[k] as Float64Array)[k] = norm;
    basis.push(rest.map((x) => x / norm));
  }
  return { factor, target: Float64Array.from(basis, (known) => dot(values, known)) };
}
