/**
 * Finds what a graph computes element by element from one value with additions and multiplications alone, however it is
 * spelled (Horner, powers, Pow, a normalisation before it, …), and says it as coefficients.
 */
import { constantOf } from '../graph/constants.ts';
import type { Body, Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { FLOAT_TYPES, toNumbers } from '../graph/tensor.ts';
import { topologicalOrder } from '../graph/walk.ts';

/** One number, or one for each element of `dims`, which broadcast to the shape of the source. */
export interface Coefficient {
  readonly dims: readonly number[];
  readonly values: Float64Array;
}

/** output = sum over k of coefficients[k] * source^k. */
export interface ElementPolynomial {
  readonly source: Value;
  readonly output: Value;
  /** Constant first; at least two, the last one not zero everywhere. */
  readonly coefficients: readonly Coefficient[];
  /** The nodes from one to the other, in order; nobody else reads what they make, but for the output. */
  readonly nodes: readonly Node[];
}

/** Above this degree powers of x are no basis to add up in; such polynomials are composites of parts that are found. */
const MAX_DEGREE = 8;

interface Form {
  readonly source: Value;
  readonly coefficients: readonly Coefficient[];
}

/**
 * All polynomials of the main graph, in topological order, each as long as it can be: what it ends in is read by
 * something else, and what it starts from is made by something else, or by a polynomial of several values.
 */
export function elementPolynomials(model: Model, types: Types): ElementPolynomial[] {
  const order = topologicalOrder(model.graph);
  // What others read too is an end, and what goes on from there starts anew; that may make more of them.
  const ends = new Set<Value>();
  for (;;) {
    const forms = new Map<Value, Form>();
    for (const node of order) {
      const [output] = node.outputs;
      const form = output && formOf(model, types, node, output, forms, ends);
      if (form) forms.set(output, form);
    }
    const found = [...forms.keys()].filter((value) => !isInner(value, forms));
    if (found.every((value) => ends.has(value)))
      return found.flatMap((output) => {
        const { source, coefficients } = forms.get(output) as Form;
        return coefficients.length < 2 ? [] : [{ source, output, coefficients, nodes: between(order, output, source) }];
      });
    for (const value of found) ends.add(value);
  }
}

/** Whether every reader goes on with a polynomial of the same source. */
function isInner(value: Value, forms: ReadonlyMap<Value, Form>): boolean {
  const source = forms.get(value)?.source;
  const readers = [...value.users.keys()];
  return (
    readers.length > 0 &&
    readers.every((user) => {
      const next = isBody(user) ? null : user.outputs[0];
      return next ? forms.get(next)?.source === source : false;
    })
  );
}

const isBody = (user: Node | Body): user is Body => 'nodes' in user;

function between(order: readonly Node[], output: Value, source: Value): Node[] {
  const nodes = new Set<Node>();
  const visit = (value: Value | null): void => {
    const node = value?.producer;
    if (!node || value === source || nodes.has(node) || node.op === 'Constant') return;
    nodes.add(node);
    for (const input of node.inputs) visit(input);
  };
  visit(output);
  return order.filter((node) => nodes.has(node));
}

/** What a node makes, as a polynomial of the value that all its operands are polynomials of; null for anything else. */
function formOf(
  model: Model,
  types: Types,
  node: Node,
  output: Value,
  forms: ReadonlyMap<Value, Form>,
  ends: ReadonlySet<Value>,
): Form | null {
  const rule = node.domain === '' ? RULES[node.op] : undefined;
  const type = types.get(output);
  if (!rule || !type.elem || !FLOAT_TYPES.has(type.elem)) return null;
  const operands = node.inputs.map((value) => value && operandOf(model, value, forms, ends));
  const data = operands.filter((operand) => operand?.source);
  const source = data[0]?.source;
  if (!source || operands.includes(null)) return direct(node, rule, output, model, types);
  if (data.some((operand) => operand?.source !== source)) return direct(node, rule, output, model, types);
  return finish(rule(operands as Operand[]), source, types) ?? direct(node, rule, output, model, types);
}

/** The node alone, as a polynomial of its one data operand: where what comes before is too much to take in. */
function direct(node: Node, rule: Rule, output: Value, model: Model, types: Types): Form | null {
  const data = [...new Set(node.inputs.filter((value) => value && !constantOf(model, value)))];
  const [source] = data;
  if (data.length !== 1 || !source || source === output) return null;
  const operands = node.inputs.map((value) =>
    value === source ? { source, coefficients: [ZERO, ONE] } : operandOf(model, value as Value, new Map(), new Set()),
  );
  return operands.includes(null) ? null : finish(rule(operands as Operand[]), source, types);
}

/** @returns null where the coefficients do not fit the source, so that the result would have another shape */
function finish(coefficients: readonly Coefficient[] | null, source: Value, types: Types): Form | null {
  const shape = types.get(source).shape;
  if (!coefficients || !shape || coefficients.length - 1 > MAX_DEGREE) return null;
  const fits = ({ dims }: Coefficient) =>
    dims.length <= shape.length && dims.every((dim, i) => dim === 1 || dim === shape[shape.length - dims.length + i]);
  let length = coefficients.length;
  while (length > 0 && coefficients[length - 1]?.values.every((value) => value === 0)) length--;
  return coefficients.every(fits) ? { source, coefficients: coefficients.slice(0, length) } : null;
}

/** A polynomial of `source`, or a constant where that is null. */
interface Operand {
  readonly source: Value | null;
  readonly coefficients: readonly Coefficient[];
}

const scalar = (value: number): Coefficient => ({ dims: [], values: Float64Array.of(value) });
const ZERO = scalar(0);
const ONE = scalar(1);

function operandOf(
  model: Model,
  value: Value,
  forms: ReadonlyMap<Value, Form>,
  ends: ReadonlySet<Value>,
): Operand | null {
  const tensor = constantOf(model, value);
  if (tensor) {
    const values = tensor.elem === 'string' ? null : toNumbers(tensor, { rounded: true });
    return values && { source: null, coefficients: [{ dims: tensor.dims, values }] };
  }
  return (ends.has(value) ? null : forms.get(value)) ?? { source: value, coefficients: [ZERO, ONE] };
}

type Rule = (operands: readonly Operand[]) => readonly Coefficient[] | null;

const RULES: Readonly<Record<string, Rule>> = {
  Add: ([a, b]) => (a && b ? combine(a, b, (x, y) => x + y) : null),
  Sub: ([a, b]) => (a && b ? combine(a, b, (x, y) => x - y) : null),
  Mul: ([a, b]) => (a && b ? convolve(a.coefficients, b.coefficients) : null),
  Neg: ([a]) => a?.coefficients.map((c) => broadcast(ZERO, c, (x, y) => x - y) as Coefficient) ?? null,
  Identity: ([a]) => a?.coefficients ?? null,
  Div: ([a, b]) => {
    const [divisor] = b?.coefficients ?? [];
    if (!a || b?.source || !divisor || divisor.values.includes(0)) return null;
    return all(a.coefficients.map((c) => broadcast(c, divisor, (x, y) => x / y)));
  },
  Pow: ([a, b]) => {
    const exponents = b?.source === null ? b.coefficients[0]?.values : undefined;
    const n = exponents?.[0] ?? Number.NaN;
    if (!a || !exponents?.every((value) => value === n) || !Number.isInteger(n) || n < 1 || n > MAX_DEGREE) return null;
    let power: readonly Coefficient[] | null = a.coefficients;
    for (let k = 1; k < n && power; k++) power = convolve(power, a.coefficients);
    return power;
  },
};

type Both = (a: number, b: number) => number;

function combine(a: Operand, b: Operand, f: Both): Coefficient[] | null {
  const length = Math.max(a.coefficients.length, b.coefficients.length);
  return all(Array.from({ length }, (_, k) => broadcast(a.coefficients[k] ?? ZERO, b.coefficients[k] ?? ZERO, f)));
}

function convolve(a: readonly Coefficient[], b: readonly Coefficient[]): Coefficient[] | null {
  if (a.length + b.length - 2 > MAX_DEGREE) return null;
  const sums: (Coefficient | null)[] = Array.from({ length: a.length + b.length - 1 }, () => ZERO);
  for (const [i, x] of a.entries())
    for (const [j, y] of b.entries()) {
      const product = broadcast(x, y, (left, right) => left * right);
      const sum = sums[i + j];
      sums[i + j] = product && sum ? broadcast(sum, product, (left, right) => left + right) : null;
    }
  return all(sums);
}

const all = (list: readonly (Coefficient | null)[]): Coefficient[] | null =>
  list.every((item) => item !== null) ? (list as Coefficient[]) : null;

/** Element by element, as ONNX broadcasts; null where the shapes do not fit. */
function broadcast(a: Coefficient, b: Coefficient, f: Both): Coefficient | null {
  const rank = Math.max(a.dims.length, b.dims.length);
  const from = (dims: readonly number[], i: number) => dims[i - rank + dims.length] ?? 1;
  const dims = Array.from({ length: rank }, (_, i) => Math.max(from(a.dims, i), from(b.dims, i)));
  if (dims.some((dim, i) => [a, b].some((side) => from(side.dims, i) !== dim && from(side.dims, i) !== 1))) return null;
  const [left, right] = [expand(a, dims), expand(b, dims)];
  return { dims, values: left.map((value, i) => f(value, right[i] as number)) };
}

/** The values of a coefficient for each element of a shape that it broadcasts to. */
export function expand({ dims, values }: Coefficient, shape: readonly number[]): Float64Array {
  const count = shape.reduce((product, dim) => product * dim, 1);
  if (values.length === 1) return new Float64Array(count).fill(values[0] as number);
  if (values.length === count) return values;
  let strides = 1;
  const steps = new Array<number>(shape.length).fill(0);
  for (let i = 1; i <= dims.length; i++) {
    const dim = dims[dims.length - i] as number;
    if (dim > 1) steps[shape.length - i] = strides;
    strides *= dim;
  }
  const out = new Float64Array(count);
  const at = new Array<number>(shape.length).fill(0);
  for (let i = 0, from = 0; i < count; i++) {
    out[i] = values[from] as number;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += steps[axis] as number;
      at[axis] = (at[axis] as number) + 1;
      if ((at[axis] as number) < (shape[axis] as number)) break;
      from -= (steps[axis] as number) * (shape[axis] as number);
      at[axis] = 0;
    }
  }
  return out;
}

/**
 * One number for each channel (axis 1), or null where positions of a channel differ.
 * @param shape of the value that the coefficient belongs to: [batch, channels, …], known but for the batch
 */
export function perChannel(coefficient: Coefficient, shape: readonly number[]): Float64Array | null {
  const [, channels = 1, ...spatial] = shape;
  const inner = spatial.reduce((product, dim) => product * dim, 1);
  const values = expand(coefficient, [1, ...shape.slice(1)]);
  const out = Float64Array.from({ length: channels }, (_, c) => values[c * inner] as number);
  return values.every((value, i) => value === out[Math.floor(i / inner)]) ? out : null;
}
