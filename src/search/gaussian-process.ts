/**
 * Gaussian-process regression: Matérn 5/2 with a length-scale for each coordinate, a constant mean and Gaussian noise
 * (Rasmussen and Williams 2006, chapters 2, 4.2 and 5.4). Hyperparameters maximise the marginal likelihood, with gamma
 * priors that keep them sane where there are few values.
 */
import { CholeskyDecomposition, Matrix } from 'ml-matrix';

export interface Hyperparameters {
  /** One for each coordinate, in its units. */
  readonly lengths: readonly number[];
  /** Variance of the function. */
  readonly variance: number;
  /** Variance of the noise. */
  readonly noise: number;
}

/** Density proportional to x^(shape - 1) exp(-rate x). */
export interface Gamma {
  readonly shape: number;
  readonly rate: number;
}

export interface Priors {
  readonly length: Gamma;
  readonly variance: Gamma;
  readonly noise: Gamma;
  /** Noise is never less. */
  readonly leastNoise: number;
}

/** Those of BoTorch 0.4, for coordinates in 0..1 and values of variance 1; the least noise is far below. */
export const PRIORS: Priors = {
  length: { shape: 3, rate: 6 },
  variance: { shape: 2, rate: 0.15 },
  noise: { shape: 1.1, rate: 0.05 },
  leastNoise: 1e-6,
};

export interface GaussianProcess {
  readonly hyperparameters: Hyperparameters;
  /** Log marginal likelihood plus log priors at the hyperparameters. */
  readonly objective: number;
  /** Of the function, without noise. */
  predict(x: readonly number[]): { readonly mean: number; readonly deviation: number };
}

/**
 * @param points n of d coordinates; @param values n, finite
 * @throws RangeError where there are no points
 */
export function fitGaussianProcess(
  points: readonly (readonly number[])[],
  values: readonly number[],
  priors: Priors = PRIORS,
): GaussianProcess {
  const d = points[0]?.length;
  if (d === undefined || points.length !== values.length)
    throw new RangeError('there is a value for each of some points');
  const spread = variance(values) || 1;
  let best: { theta: number[]; objective: number } | null = null;
  for (const length of STARTS) {
    const start = [...new Array<number>(d).fill(Math.log(length)), Math.log(spread), Math.log(1e-3 * spread)];
    const end = ascend((theta) => logPosterior(points, values, theta, priors), start);
    if (end && (best === null || end.objective > best.objective)) best = end;
  }
  const theta = best?.theta ?? [...new Array<number>(d).fill(0), Math.log(spread), Math.log(0.1 * spread)];
  return withHyperparameters(points, values, unpack(theta, priors), best?.objective ?? Number.NEGATIVE_INFINITY);
}

const STARTS = [0.1, 0.3, 1];

const variance = (values: readonly number[]): number => {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
};

function unpack(theta: readonly number[], { leastNoise }: Priors): Hyperparameters {
  const all = theta.map((t) => Math.exp(Math.min(Math.max(t, -40), 40)));
  const [variance, noise] = all.slice(-2) as [number, number];
  return { lengths: all.slice(0, -2), variance, noise: leastNoise + noise };
}

const ROOT5 = Math.sqrt(5);

/** Correlation at distance r, in length-scales. */
const matern = (r: number): number => (1 + ROOT5 * r + (5 / 3) * r * r) * Math.exp(-ROOT5 * r);

function distance(a: readonly number[], b: readonly number[], lengths: readonly number[]): number {
  let sum = 0;
  for (let i = 0; i < lengths.length; i++) sum += (((a[i] as number) - (b[i] as number)) / (lengths[i] as number)) ** 2;
  return Math.sqrt(sum);
}

interface Solved {
  readonly cholesky: CholeskyDecomposition;
  /** Generalised least squares of the constant. */
  readonly mean: number;
  /** K^-1 (y - mean). */
  readonly alpha: readonly number[];
  readonly residuals: readonly number[];
}

/** @returns null where the covariance is singular to rounding */
function solve(
  points: readonly (readonly number[])[],
  values: readonly number[],
  { lengths, variance, noise }: Hyperparameters,
): Solved | null {
  const n = points.length;
  const covariance = new Matrix(n, n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j <= i; j++) {
      const k = variance * matern(distance(points[i] ?? [], points[j] ?? [], lengths)) + (i === j ? noise : 0);
      covariance.set(i, j, k);
      covariance.set(j, i, k);
    }
  const cholesky = new CholeskyDecomposition(covariance);
  if (!cholesky.isPositiveDefinite()) return null;
  const solved = cholesky.solve(new Matrix(values.map((value) => [value, 1])));
  const [y, ones] = [solved.getColumn(0), solved.getColumn(1)];
  const mean = y.reduce((a, b) => a + b, 0) / ones.reduce((a, b) => a + b, 0);
  return {
    cholesky,
    mean,
    alpha: y.map((value, i) => value - mean * (ones[i] as number)),
    residuals: values.map((value) => value - mean),
  };
}

/**
 * Log marginal likelihood plus log priors (without their constants), and the gradient.
 * @param theta logarithms of the length-scales, of the variance and of the noise above its least
 * @returns null where the covariance is singular to rounding
 */
export function logPosterior(
  points: readonly (readonly number[])[],
  values: readonly number[],
  theta: readonly number[],
  priors: Priors,
): { objective: number; gradient: number[] } | null {
  const hyper = unpack(theta, priors);
  const solved = solve(points, values, hyper);
  if (!solved) return null;
  const { cholesky, alpha, residuals } = solved;
  const { lengths, variance, noise } = hyper;
  const n = points.length;
  const lower = cholesky.lowerTriangularMatrix;
  let objective = -(n / 2) * Math.log(2 * Math.PI);
  for (let i = 0; i < n; i++)
    objective -= 0.5 * (residuals[i] as number) * (alpha[i] as number) + Math.log(lower.get(i, i));
  const inverse = cholesky.solve(Matrix.eye(n));
  // d/dt = tr((alpha alpha^T - K^-1) dK/dt) / 2. The mean is where its own derivative is 0.
  const gradient = new Array<number>(lengths.length + 2).fill(0);
  const add = (index: number, value: number) => {
    gradient[index] = (gradient[index] as number) + value;
  };
  for (let i = 0; i < n; i++)
    for (let j = 0; j <= i; j++) {
      const weight = (i === j ? 0.5 : 1) * ((alpha[i] as number) * (alpha[j] as number) - inverse.get(i, j));
      const [a, b] = [points[i] ?? [], points[j] ?? []];
      const r = distance(a, b, lengths);
      const slope = variance * (5 / 3) * (1 + ROOT5 * r) * Math.exp(-ROOT5 * r);
      for (const [k, length] of lengths.entries())
        add(k, weight * slope * (((a[k] as number) - (b[k] as number)) / length) ** 2);
      add(lengths.length, weight * variance * matern(r));
      if (i === j) add(lengths.length + 1, weight * (noise - priors.leastNoise));
    }
  const parts = [...lengths.map((x) => [x, priors.length] as const), [variance, priors.variance] as const];
  for (const [index, [x, { shape, rate }]] of [...parts, [noise, priors.noise] as const].entries()) {
    objective += (shape - 1) * Math.log(x) - rate * x;
    // In the logarithm of x itself; of the noise only what is above its least.
    const inner = index === parts.length ? (noise - priors.leastNoise) / noise : 1;
    add(index, (shape - 1 - rate * x) * inner);
  }
  return { objective, gradient };
}

type Valued = { objective: number; gradient: number[] } | null;

const ITERATIONS = 60;

/** BFGS with backtracking (Nocedal and Wright 2006, algorithm 6.1), uphill. */
function ascend(
  f: (theta: readonly number[]) => Valued,
  start: number[],
): { theta: number[]; objective: number } | null {
  let theta = start;
  let here = f(theta);
  if (!here) return null;
  const n = start.length;
  let inverse = Matrix.eye(n);
  for (let iteration = 0; iteration < ITERATIONS; iteration++) {
    const gradient = Matrix.columnVector(here.gradient);
    if (gradient.max() < 1e-5 && gradient.min() > -1e-5) break;
    let step = inverse.mmul(gradient);
    if (step.dot(gradient) <= 0) {
      inverse = Matrix.eye(n);
      step = gradient.clone();
    }
    const longest = Math.max(step.max(), -step.min());
    if (longest > 2) step.mul(2 / longest);
    let next: Valued = null;
    let size = 1;
    for (; size > 1e-4; size /= 2) {
      const trial = theta.map((value, i) => value + size * step.get(i, 0));
      next = f(trial);
      if (next && next.objective >= here.objective + 1e-4 * size * step.dot(gradient)) break;
      next = null;
    }
    if (!next) break;
    const moved = step.mul(size);
    theta = theta.map((value, i) => value + moved.get(i, 0));
    const change = Matrix.columnVector(
      here.gradient.map((g, i) => g - ((next as { gradient: number[] }).gradient[i] as number)),
    );
    const curvature = change.dot(moved);
    if (curvature > 1e-10) {
      const left = Matrix.eye(n).sub(moved.mmul(change.transpose()).div(curvature));
      inverse = left.mmul(inverse).mmul(left.transpose()).add(moved.mmul(moved.transpose()).div(curvature));
    }
    const gained = next.objective - here.objective;
    here = next;
    if (gained < 1e-6) break;
  }
  return { theta, objective: here.objective };
}

/** The process with given hyperparameters. */
export function withHyperparameters(
  points: readonly (readonly number[])[],
  values: readonly number[],
  hyperparameters: Hyperparameters,
  objective: number = Number.NaN,
): GaussianProcess {
  const { lengths, variance } = hyperparameters;
  let { noise } = hyperparameters;
  let solved = solve(points, values, hyperparameters);
  // Points that nearly coincide: more noise makes the covariance regular.
  while (!solved) {
    noise = Math.max(10 * noise, 1e-12 * variance);
    solved = solve(points, values, { lengths, variance, noise });
  }
  const { mean, alpha, cholesky } = solved;
  const inverse = cholesky.solve(Matrix.eye(points.length)).to2DArray();
  return {
    hyperparameters: { lengths, variance, noise },
    objective,
    predict(x) {
      const k = points.map((point) => variance * matern(distance(x, point, lengths)));
      let [sum, explained] = [mean, 0];
      for (let i = 0; i < k.length; i++) {
        const [ki, row] = [k[i] as number, inverse[i] as number[]];
        sum += ki * (alpha[i] as number);
        let product = 0;
        for (let j = 0; j < k.length; j++) product += (row[j] as number) * (k[j] as number);
        explained += ki * product;
      }
      return { mean: sum, deviation: Math.sqrt(Math.max(0, variance - explained)) };
    },
  };
}
