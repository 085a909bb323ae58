/**
 * Parameters of CKKS for a number of levels: ring degree and primes, at 128-bit security. The budgets are SEAL's
 * (`CoeffModulus::MaxBitCount`, ternary secrets); the three rules on the sizes of the primes were measured on SEAL 4.1.
 */
import { SisyphusError } from '../errors.ts';

/** Ring degree -> most bits of the modulus at 128-bit security. */
export const BUDGETS: ReadonlyMap<number, number> = new Map([
  [4096, 109],
  [8192, 218],
  [16384, 438],
  [32768, 881],
]);
export const MOST_SLOTS = 16384;

export interface Parameters {
  /** Ring degree N; a ciphertext has N/2 slots. */
  readonly degree: number;
  /** Sizes of the primes: q0, one for each level, the special one. */
  readonly bits: readonly number[];
  /** The scale is 2 to this. */
  readonly scaleBits: number;
  readonly levels: number;
  /** Bits of the whole modulus. */
  readonly totalBits: number;
  /** What the largest error of a logit is thought to be at most. */
  readonly expectedError: number;
}

/** Deviation of the noise that a rounding adds to a slot: that of a ternary secret, measured on SEAL. */
const noise = (degree: number, scaleBits: number): number => degree / (6 * 2 ** scaleBits);

export interface Demand {
  readonly levels: number;
  /** Features of the widest value. */
  readonly width: number;
  /** The largest magnitude of a logit in the clear. */
  readonly largestLogit: number;
  /** Of a logit. */
  readonly tolerance: number;
  /** The error of a logit in units of a slot's noise (`errorFactor`). */
  readonly factor: number;
}

/**
 * The smallest ring that holds the features and computes to the tolerance.
 * @throws SisyphusError `unsupported` with the depth and the limit where there is none
 */
export function chooseParameters({ levels, width, largestLogit, tolerance, factor }: Demand): Parameters {
  // The last ciphertext must hold twice the largest logit with room for its sign.
  const margin = Math.max(5, Math.ceil(Math.log2(Math.max(2 * largestLogit, 1e-9) * 2)) + 2);
  for (const [degree, budget] of BUDGETS) {
    if (degree / 2 < width) continue;
    const scaleBits = Math.min(50 - margin, Math.floor((budget - 2 * margin - 10) / (levels + 2)));
    const expectedError = factor * noise(degree, scaleBits);
    if (scaleBits < 25 || expectedError > tolerance) continue;
    const first = scaleBits + margin;
    const special = Math.min(60, budget - first - levels * scaleBits);
    const bits = [first, ...new Array<number>(levels).fill(scaleBits), special];
    return { degree, bits, scaleBits, levels, totalBits: bits.reduce((a, b) => a + b, 0), expectedError };
  }
  throw new SisyphusError(
    'unsupported',
    `the model needs ${levels} levels for an error of ${tolerance}, and SEAL offers ${mostLevels(width, margin, tolerance, factor)} at 128-bit security without bootstrapping: give a larger --tolerance, or a model with fewer activations or lower degrees`,
  );
}

function mostLevels(width: number, margin: number, tolerance: number, factor: number): number {
  let most = 0;
  for (const [degree, budget] of BUDGETS) {
    if (degree / 2 < width) continue;
    for (let levels = 1; levels < 40; levels++) {
      const scaleBits = Math.min(50 - margin, Math.floor((budget - 2 * margin - 10) / (levels + 2)));
      if (scaleBits >= 25 && factor * noise(degree, scaleBits) <= tolerance) most = Math.max(most, levels);
    }
  }
  return most;
}

/**
 * Memory of keys and baby steps at the top level, doubled as measured, in bytes.
 * @param keys rotation keys; the one for products comes on top
 * @param babies ciphertexts that are held at once
 */
export function memoryNeeded({ degree, levels }: Parameters, keys: number, babies: number): number {
  const primes = levels + 1;
  return 2 * (16 * degree * primes * (primes + 1) * (keys + 1) + 16 * degree * primes * babies);
}
