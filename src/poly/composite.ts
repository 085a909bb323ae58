/**
 * Composites of polynomials that approximate the sign, and with them ReLU: x (1 + sign(x / B)) / 2.
 *
 * Minimax composites: Lee, Lee, No, Kim 2020 and Lee et al. 2021 (arXiv 2105.10879). The f and g polynomials: Cheon, Kim,
 * Kim 2020; their compositions: SMART-PAF (Tong et al. 2024).
 */
import { SisyphusError } from '../errors.ts';
import { MAX_DEGREE } from './fit.ts';
import { exchange, golden } from './minimax.ts';
import {
  chebyshevSeries,
  evaluateSeries,
  type Polynomial,
  powerSeries,
  prune,
  type Series,
  toChebyshev,
} from './polynomial.ts';

export interface SignComposite {
  /** Odd, on [-1, 1], and with values there: the stages in the order in which they are applied. */
  readonly stages: readonly Series[];
  readonly epsilon: number;
  /** The largest |1 - p(x)| for epsilon <= x <= 1; 1 is among the places where it is reached. */
  readonly error: number;
}

/**
 * The composite of minimax odd polynomials that is closest to the sign on [-1, -epsilon] and [epsilon, 1]. Each stage is
 * the minimax polynomial on what the one before leaves: [1 - E, 1 + E], scaled to end at 1.
 * @param degrees odd
 * @param epsilon between 0 and 1
 * @throws SisyphusError `spec`
 */
export function signComposite(degrees: readonly number[], epsilon: number): SignComposite {
  const wrong = degrees.find((degree) => !(degree % 2 === 1 && degree >= 1 && degree <= MAX_DEGREE));
  if (degrees.length === 0 || wrong !== undefined)
    throw new SisyphusError(
      'spec',
      `sign composite: stage degrees are odd, 1 to ${MAX_DEGREE - 1}, not ${wrong ?? 'none'}`,
    );
  if (!(epsilon > 0 && epsilon < 1))
    throw new SisyphusError('spec', `sign composite: epsilon=${epsilon} is not between 0 and 1`);
  const stages: Series[] = [];
  let low = epsilon;
  let error = 1;
  for (const [i, degree] of degrees.entries()) {
    const terms = Array.from({ length: (degree + 1) / 2 }, (_, k) => 2 * k + 1);
    const found = exchange(() => 1, terms, [low, 1], [low, 1], [-1, 1]);
    error = found.error;
    const scale = i + 1 < degrees.length ? 1 / (1 + error) : 1;
    stages.push(
      chebyshevSeries(
        found.coefficients.map((c) => c * scale),
        [-1, 1],
      ),
    );
    // A stage that is all but exact leaves no interval: some room.
    low = Math.min((1 - error) / (1 + error), 0.999);
  }
  return { stages, epsilon, error };
}

/** Degrees of the stages for a precision of 2^-alpha (Lee et al. 2021, their Table 2). */
export const ALPHA_DEGREES: Readonly<Record<number, readonly number[]>> = {
  4: [5],
  5: [13],
  6: [3, 7],
  7: [7, 7],
  8: [7, 15],
  9: [15, 15],
  10: [7, 7, 13],
  11: [7, 7, 27],
  12: [7, 15, 27],
  13: [15, 15, 27],
  14: [15, 27, 29],
};

const known = new Map<number, SignComposite>();

/**
 * The composite for alpha from 4 to 14: of its degrees, the one whose ReLU on [-1, 1] has the least largest error. Beyond
 * epsilon that error is half of the sign's, at 1; a larger epsilon makes it smaller, and the error within epsilon larger.
 * The best epsilon is where the two are equal, and the secant method finds it.
 * @throws SisyphusError `spec` for another alpha
 */
export function preciseSign(alpha: number): SignComposite {
  const degrees = ALPHA_DEGREES[alpha];
  if (!degrees) throw new SisyphusError('spec', `alpha=${alpha} is no whole number from 4 to 14`);
  const made = known.get(alpha);
  if (made) return made;
  const attempt = (exponent: number) => {
    const composite = signComposite(degrees, 2 ** exponent);
    return { exponent, composite, excess: Math.log2(errorWithin(composite) / (composite.error / 2)) };
  };
  // All alphas have their best epsilon in between: about 2^(1 - alpha), or 2^-1.5 for the least.
  let [last, now] = [attempt(-alpha), attempt(1 - alpha)];
  for (let step = 0; step < 20 && Math.abs(now.excess) > 1e-6; step++) {
    const slope = (now.excess - last.excess) / (now.exponent - last.exponent);
    [last, now] = [now, attempt(Math.min(-1, now.exponent - now.excess / slope))];
  }
  known.set(alpha, now.composite);
  return now.composite;
}

/** The largest error of ReLU between 0 and epsilon, where the sign rises from 0. */
function errorWithin({ stages, epsilon }: SignComposite): number {
  const error = (x: number) => (x * (1 - stages.reduce((value, series) => evaluateSeries(series, value), x))) / 2;
  return error(golden(error, 0, epsilon));
}

/**
 * ReLU on [-bound, bound] from a sign; with a slope, leaky ReLU: x ((1 + slope) / 2 + (1 - slope) / 2 sign(x / bound)).
 * @param stages odd, on [-1, 1]
 */
export function reluComposite(stages: readonly Series[], bound: number, slope = 0): Polynomial {
  return {
    gated: true,
    stages: stages.map((series, i) => {
      const coefficients = prune(toChebyshev(series, [-1, 1]).coefficients, 1);
      const last = i + 1 === stages.length;
      const scaled = last
        ? coefficients.map((c, k) => ((1 - slope) / 2) * c + (k === 0 ? (1 + slope) / 2 : 0))
        : coefficients;
      return chebyshevSeries(scaled, i === 0 ? [-bound, bound] : [-1, 1]);
    }),
  };
}

const odd = (...coefficients: number[]): Series => powerSeries(coefficients.flatMap((c) => [0, c]));

/** The polynomials of Cheon, Kim, Kim 2020: f_n flatten the sign near 1, g_n are steep at 0. */
export const CHEON = {
  f1: odd(1.5, -0.5),
  f2: odd(1.875, -1.25, 0.375),
  f3: odd(35 / 16, -35 / 16, 21 / 16, -5 / 16),
  g1: odd(2.076171875, -1.3271484375),
  g2: odd(3.255859375, -5.96484375, 3.70703125),
  g3: odd(4.4814453125, -16.1884765625, 25.013671875, -12.55859375),
} as const;
const { f1, f2, g1, g2, g3 } = CHEON;

/** The composites of SMART-PAF in the order in which Cheon et al. apply them, g first; alpha7 is `preciseSign(7)`. */
export const SMART_PAF = {
  f1f1g1g1: [g1, g1, f1, f1],
  alpha7: null,
  f2g3: [g3, f2],
  f2g2: [g2, f2],
  f1g2: [g2, f1],
} as const satisfies Readonly<Record<string, readonly Series[] | null>>;
export type SmartPaf = keyof typeof SMART_PAF;

/** @param published the order of SMART-PAF's code, f first, which is 3 to 8 times less accurate */
export function smartPaf(name: SmartPaf, published = false): readonly Series[] {
  const stages = SMART_PAF[name] ?? preciseSign(7).stages;
  return published && name !== 'alpha7' ? [...stages].reverse() : stages;
}
