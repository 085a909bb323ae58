/**
 * Recognises an activation function in whatever way it is spelled. A few elementwise nodes that depend on one value and
 * on constants are a function of one number: it is evaluated at sample points and compared with the known functions.
 * This finds Max(x, 0), Where(x > 0, x, 0), Min(Max(x, 0), 6), x * sigmoid(x), 0.5 x (1 + erf(x / sqrt 2)), … alike.
 */
import { floatAttr, referenced } from '../graph/attributes.ts';
import { constantScalar } from '../graph/constants.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import {
  type Activation,
  clip,
  erf,
  gelu,
  hardSigmoid,
  hardSwish,
  leakyRelu,
  mish,
  relu,
  sigmoidActivation,
  silu,
  softplusActivation,
} from '../poly/activations.ts';

type NumberFunction = (...args: number[]) => number;
/** Operators as functions of numbers; those with attributes are made for the node. */
const ELEMENTWISE: ReadonlyMap<string, (node: Node) => NumberFunction> = new Map(
  Object.entries<(node: Node) => NumberFunction>({
    Add: () => (a, b) => a + b,
    Sub: () => (a, b) => a - b,
    Mul: () => (a, b) => a * b,
    Div: () => (a, b) => a / b,
    Pow: () => (a, b) => a ** b,
    Neg: () => (a) => -a,
    Abs: () => Math.abs,
    Exp: () => Math.exp,
    Log: () => Math.log,
    Sqrt: () => Math.sqrt,
    Erf: () => erf,
    Tanh: () => Math.tanh,
    Sigmoid: () => sigmoidActivation.f,
    Softplus: () => softplusActivation.f,
    Relu: () => relu.f,
    HardSigmoid: (node) => hardSigmoid(floatAttr(node, 'alpha') ?? 0.2, floatAttr(node, 'beta') ?? 0.5).f,
    Max: () => Math.max,
    Min: () => Math.min,
    // From opset 11 on the bounds are inputs.
    Clip: (node) => {
      const low = floatAttr(node, 'min');
      const high = floatAttr(node, 'max');
      return (x, min = low ?? Number.NEGATIVE_INFINITY, max = high ?? Number.POSITIVE_INFINITY) =>
        Math.min(Math.max(x, min), max);
    },
    Greater: () => (a, b) => Number(a > b),
    GreaterOrEqual: () => (a, b) => Number(a >= b),
    Less: () => (a, b) => Number(a < b),
    LessOrEqual: () => (a, b) => Number(a <= b),
    Not: () => (a) => Number(a === 0),
    Where: () => (condition, a, b) => (condition ? a : b),
    Cast: () => (a) => a,
    Identity: () => (a) => a,
  }),
);
/** Without one of these an expression is a polynomial, which is nothing to replace. */
const BENT = new Set([
  ...['Abs', 'Exp', 'Log', 'Sqrt', 'Erf', 'Tanh', 'Sigmoid', 'Softplus', 'Relu', 'HardSigmoid', 'Max', 'Min', 'Clip'],
  ...['Greater', 'GreaterOrEqual', 'Less', 'LessOrEqual'],
]);
/** What the last node of a spelling can be; the operators that are activations themselves are matched directly. */
const LAST = new Set(['Mul', 'Div', 'Add', 'Sub', 'Neg', 'Max', 'Min', 'Where', 'Log']);
/** Nodes of a spelling. */
const MATCHING = 12;
/** Enough for composites of degrees 15, 27, 29 and series of degree 200 in any form. */
const EVALUATION = 2000;
/** Only casts of these keep the number: others truncate, or change the element type. */
const TRUTH = new Set(['Greater', 'GreaterOrEqual', 'Less', 'LessOrEqual', 'Not']);

export interface Expression {
  readonly input: Value;
  readonly activation: Activation;
  /** All nodes of the spelling, the last one included. */
  readonly nodes: readonly Node[];
}

/** The activation that ends in `last`, or null. `keepsShape` tells whether a constant operand leaves x's shape alone. */
export function matchExpression(
  model: Model,
  last: Node,
  keepsShape: (constant: Value, input: Value) => boolean,
): Expression | null {
  if (last.domain !== '' || !LAST.has(last.op)) return null;
  // The farthest input first: Max(Min(x, 6), 0) is ReLU6 of x, not ReLU of Min(x, 6).
  for (const input of ancestors(model, last).reverse()) {
    const compiled = compile(model, last, input, MATCHING);
    if (!compiled) continue;
    const { f, nodes, constants } = compiled;
    if (!nodes.some(({ op }) => BENT.has(op))) continue;
    const numbers = constants.map((constant) => constantScalar(model, constant) ?? 0);
    const activation = identify(f, numbers);
    if (activation && constants.every((constant) => keepsShape(constant, input))) return { input, activation, nodes };
  }
  return null;
}

/** The function of a number that the nodes from `input` to the output of `last` compute, or null where it is none. */
export function scalarFunction(model: Model, last: Node, input: Value): ((x: number) => number) | null {
  return compile(model, last, input, EVALUATION)?.f ?? null;
}

/** Values that `node` depends on through elementwise nodes, nearest first. */
function ancestors(model: Model, node: Node): Value[] {
  const found = new Set<Value>();
  let level: Node[] = [node];
  for (let seen = 1; level.length > 0 && seen <= MATCHING; ) {
    const next: Node[] = [];
    for (const value of level.flatMap(({ inputs }) => inputs)) {
      if (!value || found.has(value) || constantScalar(model, value) !== null) continue;
      found.add(value);
      const producer = value.producer;
      if (producer && producer.domain === '' && ELEMENTWISE.has(producer.op)) next.push(producer);
    }
    seen += next.length;
    level = next;
  }
  return [...found];
}

interface Compiled {
  readonly f: (x: number) => number;
  readonly nodes: readonly Node[];
  readonly constants: readonly Value[];
}

/**
 * The expression under `last` as a function of `input` alone, or null where it depends on anything else or has more than
 * `limit` nodes. A call computes each node once, however many read it.
 */
function compile(model: Model, last: Node, input: Value, limit: number): Compiled | null {
  const constants: Value[] = [];
  const nodes: Node[] = [];
  /** Where each value stands in the list that a call fills: x, the constants and the results in order. */
  const places = new Map<Value, number>([[input, 0]]);
  const steps: { readonly apply: NumberFunction; readonly args: readonly number[] }[] = [];
  const put = (value: Value, apply: NumberFunction, args: readonly number[]): number => {
    places.set(value, steps.push({ apply, args }));
    return steps.length;
  };
  const visit = (value: Value): number | null => {
    const place = places.get(value);
    if (place !== undefined) return place;
    const number = constantScalar(model, value);
    if (number !== null) {
      constants.push(value);
      return put(value, () => number, []);
    }
    return value.producer ? visitNode(value.producer, value) : null;
  };
  const visitNode = (node: Node, result: Value): number | null => {
    const make = ELEMENTWISE.get(node.op);
    if (!make || node.domain !== '' || referenced(node).length > 0) return null;
    if (node.op === 'Cast' && !TRUTH.has(node.inputs[0]?.producer?.op ?? '')) return null;
    if (nodes.length >= limit) return null;
    nodes.push(node);
    const args: number[] = [];
    for (const value of node.inputs) {
      const place = value ? visit(value) : null;
      if (place === null) return null;
      args.push(place);
    }
    return put(result, make(node), args);
  };
  const output = last.outputs[0];
  if (!output || visitNode(last, output) === null) return null;
  const f = (x: number): number => {
    const values = [x];
    for (const { apply, args } of steps) values.push(apply(...args.map((place) => values[place] as number)));
    return values.at(-1) as number;
  };
  return { f, nodes, constants };
}

/** Irregular points, dense around 0 where the functions differ most, with both tails. */
const SAMPLES = [
  1e-3, 0.0137, 0.0909, 0.311, 0.577, 0.93, 1.41, 1.87, 2.51, 2.97, 3.19, 4.3, 5.77, 6.31, 8.9, 14.2, 33,
].flatMap((x) => [x, -x * 1.07]);
const TOLERANCE = 1e-5; // float32 constants such as sqrt 2 are off by 1e-7; gelu and its tanh form differ by 5e-4

function identify(f: (x: number) => number, constants: readonly number[]): Activation | null {
  // Whatever a spelling does at one of its constants (Min(Max(x, 0), 255)) shows around it.
  const points = [...SAMPLES, ...constants.flatMap((c) => [0.9 * c, 1.1 * c, 2 * c, -0.9 * c, -1.1 * c, -2 * c])];
  const slope = -f(-1); // of a leaky ReLU
  const limit = f(1e6);
  const candidates = [
    relu,
    ...(limit > 0 && limit < 1e6 ? [clip(limit)] : []),
    ...(Math.abs(slope - 1) > 1e-3 ? [leakyRelu(slope)] : []),
    silu(),
    gelu(false),
    gelu(true),
    hardSwish,
    hardSigmoid(1 / 6, 0.5),
    mish,
    softplusActivation,
  ];
  const same = (activation: Activation) =>
    points.every((x) => Math.abs(f(x) - activation.f(x)) <= TOLERANCE * (1 + Math.abs(activation.f(x))));
  return candidates.find(same) ?? null;
}
