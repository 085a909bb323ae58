/**
 * Before: Sub, Neg, Div by a constant, Pow to a small whole number, Sum
 * After:  Add and Mul; where a value meets itself, with zero added to one of them on request
 * Conditions: float types; Pow up to 8. Opset 7 or later.
 * Algebra: x - c = x + (-c), c - x = (-1) x + c, x - y = x + (-1) y, x / c = x (1 / c), x^n = x (x (…))
 */
import { constantOf, constantScalar } from '../graph/constants.ts';
import { addConstant, addNode, dropValueInfo, pruneUnused, removeNode, replaceUses, setInput } from '../graph/edit.ts';
import type { ElementType, Model, Node, Value } from '../graph/ir.ts';
import { FLOAT_TYPES, makeTensor, type Tensor, toNumbers } from '../graph/tensor.ts';
import { opsetOf } from '../graph/walk.ts';
import { type NodeContext, type NodeOutcome, nodePass } from './node-pass.ts';
import { siteName } from './pass.ts';

export const replaceArithmetic = nodePass(
  { name: 'replace-arithmetic', summary: 'Write Sub, Neg, Div, Pow and Sum with Add and Mul', exact: true },
  ['Sub', 'Neg', 'Div', 'Pow', 'Sum'],
  rewrite,
);

/** Before: Mul(x, x), Add(x, x). After: Mul(x, x + 0), Mul(x, 2): no node reads a value twice. */
export const replaceRepeated = nodePass(
  { name: 'replace-repeated', summary: 'Let no product or sum read one value twice', exact: true },
  ['Mul', 'Add'],
  ({ model, types }, node) => {
    const [a, b] = node.inputs;
    if (!a || a !== b) return null;
    const { elem } = types().get(a);
    if (!elem || !FLOAT_TYPES.has(elem)) return { reason: 'it is of no float type' };
    if (node.op === 'Add') {
      splice(model, node, (emit) => emit('Mul', a, constant(model, node, elem, 2)));
      return { detail: 'x + x became 2 x' };
    }
    const zero = constant(model, node, elem, 0);
    const copy = addNode(model, node.body, { op: 'Add', name: `${siteName(node)}/copy`, inputs: [a, zero] }, node);
    setInput(node, 1, copy.outputs[0] ?? null);
    return { detail: 'x x became x (x + 0)' };
  },
);

function constant(model: Model, node: Node, elem: ElementType, number: number): Value {
  return addConstant(model, node.body, makeTensor(`${siteName(node)}/c`, elem, [], [number]), node);
}

type Emit = (op: string, a: Value, b: Value) => Value;

/** Puts other nodes in a node's place. */
function splice(model: Model, node: Node, build: (emit: Emit) => Value): void {
  const [output] = node.outputs;
  const result = build((op, a, b) => {
    const spec = { op, name: `${siteName(node)}/${op.toLowerCase()}`, inputs: [a, b] };
    return addNode(model, node.body, spec, node).outputs[0] as Value;
  });
  const old = [...node.inputs];
  if (output) replaceUses(output, result);
  removeNode(node);
  dropValueInfo(node.body, (value) => value === output);
  pruneUnused(old.filter((value) => value && constantOf(model, value)));
}

function rewrite({ model, types }: NodeContext, node: Node): NodeOutcome {
  const [a, b] = node.inputs;
  const [output] = node.outputs;
  const elem = output && types().get(output).elem;
  if (!a || !elem || !FLOAT_TYPES.has(elem)) return { reason: 'it is of no float type' };
  if (opsetOf(model, node.body) < 7) return { reason: 'it broadcasts otherwise below opset 7' };
  const [left, right] = [constantOf(model, a), b ? constantOf(model, b) : null];
  if (left && (right || !b)) return { reason: 'it is a constant' };
  const made = (detail: string, build: (emit: Emit) => Value): NodeOutcome => {
    splice(model, node, build);
    return { detail };
  };
  const mapped = (tensor: Tensor, f: (x: number) => number) =>
    addConstant(model, node.body, makeTensor(tensor.name, tensor.elem, tensor.dims, toNumbers(tensor).map(f)), node);
  const minus = () => constant(model, node, elem, -1);
  if (node.op === 'Neg') return made('-x became (-1) x', (emit) => emit('Mul', a, minus()));
  if (node.op === 'Sum') {
    const terms = node.inputs.filter((value) => value !== null);
    if (terms.length < 2) return { reason: 'it has one term' };
    return made(`${terms.length} terms`, (emit) => terms.reduce((sum, term) => emit('Add', sum, term)));
  }
  if (!b) return { reason: 'it has one input' };
  if (node.op === 'Sub') {
    if (right)
      return made('x - c became x + (-c)', (emit) =>
        emit(
          'Add',
          a,
          mapped(right, (x) => -x),
        ),
      );
    return made(left ? 'c - x became (-1) x + c' : 'x - y became x + (-1) y', (emit) =>
      emit('Add', left ? emit('Mul', b, minus()) : a, left ? a : emit('Mul', b, minus())),
    );
  }
  if (node.op === 'Div') {
    if (!right || toNumbers(right).includes(0)) return { reason: 'it divides by data or by zero' };
    return made('x / c became x (1 / c)', (emit) =>
      emit(
        'Mul',
        a,
        mapped(right, (x) => 1 / x),
      ),
    );
  }
  const n = constantScalar(model, b);
  if (n === null || !Number.isInteger(n) || n < 2 || n > 8)
    return { reason: 'its exponent is no whole number from 2 to 8' };
  return made(`x^${n} became products`, (emit) => power(emit, a, n));
}

/** With the least depth: by squaring. */
function power(emit: Emit, x: Value, n: number): Value {
  if (n === 1) return x;
  const half = power(emit, x, Math.floor(n / 2));
  const square = emit('Mul', half, half);
  return n % 2 === 0 ? square : emit('Mul', square, x);
}
