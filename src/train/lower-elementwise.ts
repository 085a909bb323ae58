/** Operators that work element by element: arithmetic, activations, comparisons, casts. */
import { floatAttr, intAttr, stringAttr } from '../graph/attributes.ts';
import { elementType } from '../graph/tensor.ts';
import { broadcastTo } from './lower-arrange.ts';
import { binary, type Lowering, type Lowerings, type Site, unary, unsupported } from './lowering.ts';
import { tf } from './tf.ts';

/** Left to right over any number of inputs. */
const chain =
  (compute: (a: tf.Tensor, b: tf.Tensor) => tf.Tensor): Lowering =>
  ({ node }) =>
  (input) =>
    node.inputs.map((_, index) => input(index)).reduce((a, b) => compute(a, b));

const mean: Lowering = (site) => {
  const sum = chain(tf.add)(site);
  return (input, run) => tf.div(sum(input, run) as tf.Tensor, site.node.inputs.length);
};

const power: Lowering = (site) => {
  const [exponent, ...more] = site.isKnown(1) ? site.numbers(1) : [];
  // Products are exact where pow is not, and their gradients need no logarithm.
  if (exponent === 2 && more.length === 0) return (input) => tf.square(input(0));
  if (exponent === 3 && more.length === 0) return (input) => tf.mul(tf.square(input(0)), input(0));
  return (input) => tf.pow(input(0), input(1));
};

/** max(-x, 0), so that x = relu(x) - below(x). */
const below = (x: tf.Tensor) => tf.relu(tf.neg(x));

/** max(x, 0) + alpha (exp(min(x, 0) / width) - 1): nothing overflows. */
const elu = (x: tf.Tensor, alpha: number, width: number): tf.Tensor =>
  tf.add(tf.relu(x), tf.mul(tf.sub(tf.exp(tf.div(below(x), -width)), 1), alpha));

const hardSigmoid = (x: tf.Tensor, alpha: number, beta: number) => tf.clipByValue(tf.add(tf.mul(x, alpha), beta), 0, 1);

const gelu: Lowering = ({ node }) => {
  const form = stringAttr(node, 'approximate') || 'none';
  const gated = (x: tf.Tensor, gate: tf.Tensor) => tf.mul(tf.mul(x, 0.5), tf.add(gate, 1));
  if (form === 'none') return (input) => gated(input(0), tf.erf(tf.mul(input(0), Math.SQRT1_2)));
  if (form !== 'tanh') throw unsupported(`its approximate is '${form}'`);
  return (input) => {
    const x = input(0);
    const inner = tf.add(x, tf.mul(tf.mul(tf.square(x), x), 0.044715));
    return gated(x, tf.tanh(tf.mul(inner, Math.sqrt(2 / Math.PI))));
  };
};

const clip: Lowering = (site) => {
  const bound = (name: string, index: number) =>
    site.opset < 11 ? floatAttr(site.node, name) : site.has(index) ? site.numbers(index)[0] : undefined;
  const low = bound('min', 1) ?? -Infinity;
  const high = bound('max', 2) ?? Infinity;
  return low === 0 && high === Infinity ? (input) => tf.relu(input(0)) : (input) => tf.clipByValue(input(0), low, high);
};

const where: Lowering = (site) => {
  const shape = site.result();
  return (input) =>
    tf.where(tf.cast(input(0), 'bool'), broadcastTo(input(1), shape), broadcastTo(input(2), shape)) as tf.Tensor;
};

/** Between floats and masks. */
const cast: Lowering = ({ node }) => {
  const to = elementType(intAttr(node, 'to') ?? 0);
  if (to !== 'float' && to !== 'bool') throw unsupported(`it casts data to ${to}, and only float32 is trained`);
  return (input) => tf.cast(input(0), to === 'bool' ? 'bool' : 'float32');
};

/** With float attributes as the node states them, or their defaults. */
const withFloats =
  <const Names extends Readonly<Record<string, number>>>(
    defaults: Names,
    compute: (x: tf.Tensor, attributes: Record<keyof Names, number>) => tf.Tensor,
  ): Lowering =>
  ({ node }: Site) => {
    const entries = Object.entries(defaults).map(([name, value]) => [name, floatAttr(node, name) ?? value]);
    const values = Object.fromEntries(entries) as Record<keyof Names, number>;
    return (input) => compute(input(0), values);
  };

export const ELEMENTWISE_LOWERINGS: Lowerings = {
  Add: binary(tf.add),
  Sub: binary(tf.sub),
  Mul: binary(tf.mul),
  Div: binary(tf.div),
  Pow: power,
  Sum: chain(tf.add),
  Max: chain(tf.maximum),
  Min: chain(tf.minimum),
  Mean: mean,
  Neg: unary(tf.neg),
  Abs: unary(tf.abs),
  Sqrt: unary(tf.sqrt),
  Reciprocal: unary((x) => tf.div(1, x)),
  Exp: unary(tf.exp),
  Log: unary(tf.log),
  Erf: unary(tf.erf),
  Sign: unary(tf.sign),
  Sin: unary(tf.sin),
  Cos: unary(tf.cos),
  Relu: unary(tf.relu),
  Sigmoid: unary(tf.sigmoid),
  Tanh: unary(tf.tanh),
  Softplus: unary(tf.softplus),
  Softsign: unary((x) => tf.div(x, tf.add(tf.abs(x), 1))),
  Mish: unary((x) => tf.mul(x, tf.tanh(tf.softplus(x)))),
  HardSwish: unary((x) => tf.mul(x, hardSigmoid(x, 1 / 6, 0.5))),
  Gelu: gelu,
  Clip: clip,
  PRelu: binary((x, slope) => tf.sub(tf.relu(x), tf.mul(below(x), slope))),
  LeakyRelu: withFloats({ alpha: 0.01 }, (x, { alpha }) => tf.leakyRelu(x, alpha)),
  Elu: withFloats({ alpha: 1 }, (x, { alpha }) => elu(x, alpha, 1)),
  Celu: withFloats({ alpha: 1 }, (x, { alpha }) => elu(x, alpha, alpha)),
  Selu: withFloats({ alpha: 1.6732632, gamma: 1.050701 }, (x, { alpha, gamma }) => tf.mul(elu(x, alpha, 1), gamma)),
  HardSigmoid: withFloats({ alpha: 0.2, beta: 0.5 }, (x, { alpha, beta }) => hardSigmoid(x, alpha, beta)),
  Swish: withFloats({ alpha: 1 }, (x, { alpha }) => tf.mul(x, tf.sigmoid(tf.mul(x, alpha)))),
  ThresholdedRelu: withFloats({ alpha: 1 }, (x, { alpha }) => tf.mul(x, tf.cast(tf.greater(x, alpha), 'float32'))),
  Where: where,
  Cast: cast,
  Greater: binary(tf.greater),
  Less: binary(tf.less),
  GreaterOrEqual: binary(tf.greaterEqual),
  LessOrEqual: binary(tf.lessEqual),
  Equal: binary(tf.equal),
  Not: unary(tf.logicalNot),
  And: binary(tf.logicalAnd),
  Or: binary(tf.logicalOr),
};
