/** What is known before the model runs. */
import { floatAttr, floatsAttr, intAttr, intsAttr, referenced, tensorAttr } from './attributes.ts';
import type { ElementType, Model, Value } from './ir.ts';
import { makeTensor, type Tensor, toNumbers } from './tensor.ts';

/**
 * The constant that a value always holds, or null. Initializers count unless the caller of the model may override them
 * (from IR 4 on: those that are inputs as well); so do Constant nodes, seen through Identity.
 */
export function constantOf(model: Model, value: Value | null | undefined): Tensor | null {
  if (!value) return null;
  if (value.initializer) return value.isInput && model.irVersion >= 4 ? null : value.initializer;
  const node = value.producer;
  if (node?.domain !== '') return null;
  if (node.op === 'Identity') return constantOf(model, node.inputs[0]);
  if (node.op !== 'Constant' || referenced(node).length > 0) return null;
  const tensor = tensorAttr(node, 'value');
  if (tensor) return tensor;
  const vector = (elem: ElementType, values: number[] | undefined) =>
    values && makeTensor(value.name, elem, [values.length], values);
  const scalar = (elem: ElementType, number: number | undefined) =>
    number === undefined ? undefined : makeTensor(value.name, elem, [], [number]);
  return (
    scalar('float', floatAttr(node, 'value_float')) ??
    scalar('int64', intAttr(node, 'value_int')) ??
    vector('float', floatsAttr(node, 'value_floats')) ??
    vector('int64', intsAttr(node, 'value_ints')) ??
    null
  );
}

/** The constant as numbers, or null where there is none or it is longer than `limit` elements. */
export function constantNumbers(model: Model, value: Value | null | undefined, limit = 1 << 16): Float64Array | null {
  const tensor = constantOf(model, value);
  if (!tensor || tensor.elem === 'string' || tensor.dims.reduce((a, b) => a * b, 1) > limit) return null;
  return toNumbers(tensor);
}

/** The one number that a constant holds in every element, or null. */
export function constantScalar(model: Model, value: Value | null | undefined): number | null {
  const numbers = constantNumbers(model, value);
  const first = numbers?.[0];
  return first !== undefined && numbers?.every((number) => number === first) ? first : null;
}
