/** Activation functions as mathematics: what is fitted, and where it is not smooth. */

export interface Activation {
  /** As `--activations` calls it. */
  readonly kind: ActivationKind;
  /** The function, for people, with its parameters: 'leaky-relu(0.1)'. */
  readonly label: string;
  readonly f: (x: number) => number;
  /** Where a derivative jumps; fits integrate piecewise between these. */
  readonly kinks: readonly number[];
  /** Value and slope at 0; at a kink the mean of the two one-sided slopes (so x/2 for ReLU, as the paper has it). */
  readonly tangent: readonly [number, number];
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
const softplus = (x: number) => (x > 30 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x)));
const clamp = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high);

export const relu: Activation = {
  kind: 'relu',
  label: 'relu',
  f: (x) => Math.max(0, x),
  kinks: [0],
  tangent: [0, 0.5],
};

/** min(max(x, 0), limit); ReLU6 has the limit 6. */
export const clip = (limit: number): Activation => ({
  kind: 'clip',
  label: `clip(0,${limit})`,
  f: (x) => clamp(x, 0, limit),
  kinks: [0, limit],
  tangent: [0, 0.5],
});

/** x where positive, slope * x elsewhere. */
export const leakyRelu = (slope: number, kind: 'leaky-relu' | 'prelu' = 'leaky-relu'): Activation => ({
  kind,
  label: `${kind}(${round(slope)})`,
  f: (x) => (x >= 0 ? x : slope * x),
  kinks: [0],
  tangent: [0, (1 + slope) / 2],
});

export const sigmoidActivation: Activation = {
  kind: 'sigmoid',
  label: 'sigmoid',
  f: sigmoid,
  kinks: [],
  tangent: [0.5, 0.25],
};
export const tanh: Activation = { kind: 'tanh', label: 'tanh', f: Math.tanh, kinks: [], tangent: [0, 1] };

export const elu = (alpha: number): Activation => ({
  kind: 'elu',
  label: `elu(${round(alpha)})`,
  f: (x) => (x >= 0 ? x : alpha * Math.expm1(x)),
  kinks: [0],
  tangent: [0, (1 + alpha) / 2],
});
export const selu = (alpha: number, gamma: number): Activation => ({
  kind: 'selu',
  label: `selu(${round(alpha)},${round(gamma)})`,
  f: (x) => gamma * (x >= 0 ? x : alpha * Math.expm1(x)),
  kinks: [0],
  tangent: [0, (gamma * (1 + alpha)) / 2],
});
export const celu = (alpha: number): Activation => ({
  kind: 'celu',
  label: `celu(${round(alpha)})`,
  f: (x) => (x >= 0 ? x : alpha * Math.expm1(x / alpha)),
  kinks: [0],
  tangent: [0, 1],
});

/** x Phi(x), or its tanh form (Hendrycks and Gimpel, arXiv 1606.08415). */
export const gelu = (approximate: boolean): Activation => ({
  kind: 'gelu',
  label: approximate ? 'gelu(tanh)' : 'gelu',
  f: approximate
    ? (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
    : (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  kinks: [],
  tangent: [0, 0.5],
});

/** x sigmoid(alpha x); SiLU has alpha 1. */
export const silu = (alpha = 1): Activation => ({
  kind: 'silu',
  label: alpha === 1 ? 'silu' : `swish(${round(alpha)})`,
  f: (x) => x * sigmoid(alpha * x),
  kinks: [],
  tangent: [0, 0.5],
});

export const hardSigmoid = (alpha: number, beta: number): Activation => ({
  kind: 'hard-sigmoid',
  label: `hard-sigmoid(${round(alpha)},${round(beta)})`,
  f: (x) => clamp(alpha * x + beta, 0, 1),
  kinks: alpha === 0 ? [] : [-beta / alpha, (1 - beta) / alpha],
  tangent: [clamp(beta, 0, 1), beta > 0 && beta < 1 ? alpha : 0],
});
/** x max(0, min(1, x/6 + 1/2)). */
export const hardSwish: Activation = {
  kind: 'hard-swish',
  label: 'hard-swish',
  f: (x) => x * clamp(x / 6 + 0.5, 0, 1),
  kinks: [-3, 3],
  tangent: [0, 0.5],
};
export const softplusActivation: Activation = {
  kind: 'softplus',
  label: 'softplus',
  f: softplus,
  kinks: [],
  tangent: [Math.LN2, 0.5],
};
/** x tanh(softplus(x)) (Misra, arXiv 1908.08681). */
export const mish: Activation = {
  kind: 'mish',
  label: 'mish',
  f: (x) => x * Math.tanh(softplus(x)),
  kinks: [],
  tangent: [0, 0.6],
};

const round = (x: number) => Number(x.toPrecision(6));

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
