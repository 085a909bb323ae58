/** What is known before the model runs. */
import { floatAttr, floatsAttr, intAttr, intsAttr, referenced, tensorAttr } from './attributes.ts';
import type { ElementType, Model, Node, Value } from './ir.ts';
import { isStripped, makeTensor, type Tensor, toNumbers } from './tensor.ts';

/**
 * The constant that a value always holds, or null. Initializers count unless the caller of the model may override them
 * (from IR 4 on: those that are inputs as well); so do Constant nodes, seen through Identity.
 */
export function constantOf(model: Model, value: Value | null | undefined): Tensor | null {
  let at = value;
  const seen = new Set<Value>(); // a broken file may hold a cycle
  while (at?.producer?.op === 'Identity' && at.producer.domain === '' && !seen.has(at)) {
    seen.add(at);
    at = at.producer.inputs[0];
  }
  if (!at) return null;
  if (at.initializer) {
    const given = at.isInput && model.irVersion >= 4;
    return given || isStripped(at.initializer) ? null : at.initializer;
  }
  return at.producer ? constantNode(at.producer) : null;
}

function constantNode(node: Node): Tensor | null {
  if (node.domain !== '') return null;
  if (node.op !== 'Constant' || referenced(node).length > 0) return null;
  const tensor = tensorAttr(node, 'value');
  if (tensor) return tensor;
  const vector = (elem: ElementType, values: number[] | undefined) =>
    values && makeTensor(node.name, elem, [values.length], values);
  const scalar = (elem: ElementType, number: number | undefined) =>
    number === undefined ? undefined : makeTensor(node.name, elem, [], [number]);
  return (
    scalar('float', floatAttr(node, 'value_float')) ??
    scalar('int64', intAttr(node, 'value_int')) ??
    vector('float', floatsAttr(node, 'value_floats')) ??
    vector('int64', intsAttr(node, 'value_ints')) ??
    null
  );
}

/**
 * The constant as numbers, or null where there is none or it is longer than `limit` elements. Integers beyond 2^53, such
 * as the INT64_MAX that exporters write for "to the end", come out rounded.
 */
export function constantNumbers(model: Model, value: Value | null | undefined, limit = 1 << 16): Float64Array | null {
  const tensor = constantOf(model, value);
  if (!tensor || tensor.elem === 'string' || tensor.dims.reduce((a, b) => a * b, 1) > limit) return null;
  return toNumbers(tensor, { rounded: true });
}

/** The one number that a constant holds in every element, or null. */
export function constantScalar(model: Model, value: Value | null | undefined): number | null {
  const numbers = constantNumbers(model, value);
  const first = numbers?.[0];
  return first !== undefined && numbers?.every((number) => number === first) ? first : null;
}
