/** Activation functions as mathematics: what is fitted, and where it is not smooth. */
import { didYouMean, SisyphusError } from '../errors.ts';

export interface Activation {
  /** As `--activations` calls it. */
  readonly kind: ActivationKind;
  /** The function, for people, with its parameters: 'leaky-relu(0.1)'. */
  readonly label: string;
  readonly f: (x: number) => number;
  /** Its derivative, between the kinks. */
  readonly slope: (x: number) => number;
  /** Where a derivative jumps; fits integrate piecewise between these. */
  readonly kinks: readonly number[];
  /** Value and slope at 0; at a kink the mean of the two one-sided slopes (so x/2 for ReLU, as the paper has it). */
  readonly tangent: readonly [number, number];
  /** So many Taylor coefficients at 0; absent where it has a kink there. */
  readonly series?: (terms: number) => number[];
}

export const ACTIVATION_KINDS = [
  'relu',
  'clip',
  'leaky-relu',
  'prelu',
  'sigmoid',
  'tanh',
  'elu',
  'selu',
  'celu',
  'gelu',
  'silu',
  'hard-sigmoid',
  'hard-swish',
  'softplus',
  'mish',
] as const;
export type ActivationKind = (typeof ACTIVATION_KINDS)[number];

/** What is replaced unless `--activations` says otherwise. */
export const RELU_FAMILY: readonly ActivationKind[] = ['relu', 'clip', 'leaky-relu', 'prelu'];

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const sigmoidSlope = (x: number) => sigmoid(x) * sigmoid(-x);
const softplus = (x: number) => (x > 30 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x)));
const clamp = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high);

export const relu: Activation = {
  kind: 'relu',
  label: 'relu',
  f: (x) => Math.max(0, x),
  slope: (x) => Number(x > 0),
  kinks: [0],
  tangent: [0, 0.5],
};

/** min(max(x, 0), limit); ReLU6 has the limit 6. */
export const clip = (limit: number): Activation => ({
  kind: 'clip',
  label: `clip(0,${limit})`,
  f: (x) => clamp(x, 0, limit),
  slope: (x) => Number(x > 0 && x < limit),
  kinks: [0, limit],
  tangent: [0, 0.5],
});

/** x where positive, slope * x elsewhere. */
export const leakyRelu = (slope: number, kind: 'leaky-relu' | 'prelu' = 'leaky-relu'): Activation => ({
  kind,
  label: `${kind}(${round(slope)})`,
  f: (x) => (x >= 0 ? x : slope * x),
  slope: (x) => (x > 0 ? 1 : slope),
  kinks: [0],
  tangent: [0, (1 + slope) / 2],
});

export const sigmoidActivation: Activation = {
  kind: 'sigmoid',
  label: 'sigmoid',
  f: sigmoid,
  slope: sigmoidSlope,
  kinks: [],
  tangent: [0.5, 0.25],
  series: (terms) => sigmoidSeries([0, 1], terms),
};
export const tanh: Activation = {
  kind: 'tanh',
  label: 'tanh',
  f: Math.tanh,
  slope: (x) => 1 - Math.tanh(x) ** 2,
  kinks: [],
  tangent: [0, 1],
  series: (terms) => tanhSeries([0, 1], terms),
};

export const elu = (alpha: number): Activation => ({
  kind: 'elu',
  label: `elu(${round(alpha)})`,
  f: (x) => (x >= 0 ? x : alpha * Math.expm1(x)),
  slope: (x) => (x > 0 ? 1 : alpha * Math.exp(x)),
  kinks: [0],
  tangent: [0, (1 + alpha) / 2],
});
export const selu = (alpha: number, gamma: number): Activation => ({
  kind: 'selu',
  label: `selu(${round(alpha)},${round(gamma)})`,
  f: (x) => gamma * (x >= 0 ? x : alpha * Math.expm1(x)),
  slope: (x) => gamma * (x > 0 ? 1 : alpha * Math.exp(x)),
  kinks: [0],
  tangent: [0, (gamma * (1 + alpha)) / 2],
});
export const celu = (alpha: number): Activation => ({
  kind: 'celu',
  label: `celu(${round(alpha)})`,
  f: (x) => (x >= 0 ? x : alpha * Math.expm1(x / alpha)),
  slope: (x) => (x > 0 ? 1 : Math.exp(x / alpha)),
  kinks: [0],
  tangent: [0, 1],
});

/** x Phi(x), or its tanh form (Hendrycks and Gimpel, arXiv 1606.08415). */
export const gelu = (approximate: boolean): Activation => (approximate ? GELU_TANH : GELU);
const GELU: Activation = {
  kind: 'gelu',
  label: 'gelu',
  f: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  slope: (x) => 0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI),
  kinks: [],
  tangent: [0, 0.5],
  series(terms) {
    // phi = sum of (-1/2)^n x^2n / n! / sqrt(2 pi), integrated for Phi.
    const phi = new Array<number>(terms).fill(0);
    for (let n = 0, c = 1 / Math.sqrt(2 * Math.PI); 2 * n < terms; n++, c *= -0.5 / n) phi[2 * n] = c;
    return timesX(phi.map((_, k) => (k === 0 ? 0.5 : (phi[k - 1] as number) / k)));
  },
};
const CUBIC = 0.044715;
const GELU_SCALE = Math.sqrt(2 / Math.PI);
const GELU_TANH: Activation = {
  kind: 'gelu',
  label: 'gelu(tanh)',
  f: (x) => 0.5 * x * (1 + Math.tanh(GELU_SCALE * (x + CUBIC * x ** 3))),
  slope(x) {
    const t = Math.tanh(GELU_SCALE * (x + CUBIC * x ** 3));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU_SCALE * (1 + 3 * CUBIC * x * x);
  },
  kinks: [],
  tangent: [0, 0.5],
  series: (terms) => {
    const t = tanhSeries([0, GELU_SCALE, 0, GELU_SCALE * CUBIC], terms);
    return timesX(t.map((c, k) => (k === 0 ? 0.5 : 0.5 * c)));
  },
};

/** x sigmoid(alpha x); SiLU has alpha 1. */
export const silu = (alpha = 1): Activation => ({
  kind: 'silu',
  label: alpha === 1 ? 'silu' : `swish(${round(alpha)})`,
  f: (x) => x * sigmoid(alpha * x),
  slope: (x) => sigmoid(alpha * x) + alpha * x * sigmoidSlope(alpha * x),
  kinks: [],
  tangent: [0, 0.5],
  series: (terms) => timesX(sigmoidSeries([0, alpha], terms)),
});

export const hardSigmoid = (alpha: number, beta: number): Activation => ({
  kind: 'hard-sigmoid',
  label: `hard-sigmoid(${round(alpha)},${round(beta)})`,
  f: (x) => clamp(alpha * x + beta, 0, 1),
  slope: (x) => (alpha * x + beta > 0 && alpha * x + beta < 1 ? alpha : 0),
  kinks: alpha === 0 ? [] : [-beta / alpha, (1 - beta) / alpha],
  tangent: [clamp(beta, 0, 1), beta > 0 && beta < 1 ? alpha : 0],
});
/** x max(0, min(1, x/6 + 1/2)). */
export const hardSwish: Activation = {
  kind: 'hard-swish',
  label: 'hard-swish',
  f: (x) => x * clamp(x / 6 + 0.5, 0, 1),
  slope: (x) => (x <= -3 ? 0 : x >= 3 ? 1 : x / 3 + 0.5),
  kinks: [-3, 3],
  tangent: [0, 0.5],
  series: (terms) => [0, 1 / 2, 1 / 6].slice(0, terms),
};
export const softplusActivation: Activation = {
  kind: 'softplus',
  label: 'softplus',
  f: softplus,
  slope: sigmoid,
  kinks: [],
  tangent: [Math.LN2, 0.5],
  series: softplusSeries,
};
/** x tanh(softplus(x)) (Misra, arXiv 1908.08681). */
export const mish: Activation = {
  kind: 'mish',
  label: 'mish',
  f: (x) => x * Math.tanh(softplus(x)),
  slope(x) {
    const t = Math.tanh(softplus(x));
    return t + x * (1 - t * t) * sigmoid(x);
  },
  kinks: [],
  tangent: [0, 0.6],
  series: (terms) => timesX(tanhSeries(softplusSeries(terms), terms)),
};

const round = (x: number) => Number(x.toPrecision(6));

type Maker = (parameters: readonly number[]) => Activation;
/** By name; parameters that are not given are those of ONNX, or what is common. */
const NAMED: ReadonlyMap<string, { readonly make: Maker; readonly parameters: number }> = new Map(
  Object.entries<readonly [number, Maker]>({
    relu: [0, () => relu],
    relu6: [0, () => clip(6)],
    clip: [1, ([limit = 6]) => clip(limit)],
    'leaky-relu': [1, ([slope = 0.01]) => leakyRelu(slope)],
    prelu: [1, ([slope = 0.25]) => leakyRelu(slope, 'prelu')],
    sigmoid: [0, () => sigmoidActivation],
    tanh: [0, () => tanh],
    elu: [1, ([alpha = 1]) => elu(alpha)],
    selu: [2, ([alpha = 1.6732632423543772, gamma = 1.0507009873554805]) => selu(alpha, gamma)],
    celu: [1, ([alpha = 1]) => celu(alpha)],
    gelu: [0, () => gelu(false)],
    'gelu-tanh': [0, () => gelu(true)],
    silu: [0, () => silu()],
    swish: [1, ([alpha = 1]) => silu(alpha)],
    'hard-sigmoid': [2, ([alpha = 0.2, beta = 0.5]) => hardSigmoid(alpha, beta)],
    'hard-swish': [0, () => hardSwish],
    softplus: [0, () => softplusActivation],
    mish: [0, () => mish],
  }).map(([name, [parameters, make]]) => [name, { parameters, make }]),
);

/** 'gelu', 'leaky-relu(0.1)', …: an activation by name, with its parameters. @throws SisyphusError `spec` */
export function namedActivation(text: string): Activation {
  const [, name = '', list] = /^\s*([\w-]+)\s*(?:\(([^)]*)\))?\s*$/.exec(text) ?? [];
  const entry = NAMED.get(name);
  if (!entry) throw new SisyphusError('spec', `unknown activation '${text}'${didYouMean(text, [...NAMED.keys()])}`);
  const parameters =
    list === undefined ? [] : list.split(',').map((word) => (word.trim() === '' ? Number.NaN : Number(word)));
  if (!parameters.every(Number.isFinite)) throw new SisyphusError('spec', `'${text}': parameters are finite numbers`);
  if (parameters.length > entry.parameters)
    throw new SisyphusError('spec', `'${text}': ${name} takes ${entry.parameters || 'no'} parameters`);
  return entry.make(parameters);
}

/** Taylor coefficients of tanh(u), from t' = (1 - t^2) u'. @param u those of u */
function tanhSeries(u: readonly number[], terms: number): number[] {
  const t = [Math.tanh(u[0] ?? 0)];
  const rest = [1 - (t[0] as number) ** 2]; // of 1 - t^2
  for (let k = 1; k < terms; k++) {
    let sum = 0;
    for (let i = 1; i <= k; i++) sum += i * (u[i] ?? 0) * (rest[k - i] as number);
    t.push(sum / k);
    let square = 0;
    for (let i = 0; i <= k; i++) square += (t[i] as number) * (t[k - i] as number);
    rest.push(-square);
  }
  return t.slice(0, terms);
}

/** sigmoid(u) = (1 + tanh(u / 2)) / 2. */
function sigmoidSeries(u: readonly number[], terms: number): number[] {
  const half = u.map((c) => c / 2);
  return tanhSeries(half, terms).map((c, k) => (k === 0 ? (1 + c) / 2 : c / 2));
}

/** The integral of sigmoid. */
function softplusSeries(terms: number): number[] {
  const slope = sigmoidSeries([0, 1], terms);
  return [Math.LN2, ...slope.map((c, k) => c / (k + 1))].slice(0, terms);
}

const timesX = (series: readonly number[]): number[] => [0, ...series].slice(0, series.length);

/** Error function to float64 accuracy: Maclaurin series inside, continued fraction of erfc outside. */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 2.5) {
    let term = z;
    let sum = z;
    for (let n = 1; Math.abs(term) > 1e-17 * sum && n < 200; n++) {
      term *= (-z * z) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / ((z + fraction) * Math.sqrt(Math.PI)));
}
