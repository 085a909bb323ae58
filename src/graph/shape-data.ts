/** Elements of small tensors, so far as they are known without a run: what shapes are computed from. */
import { attribute, floatAttr, floatsAttr, intAttr, intsAttr, tensorAttr } from './attributes.ts';
import type { Dim, ElementType, Node } from './ir.ts';
import { broadcast, type Call, DATA_LIMIT, type Fact, fact, input } from './shape-facts.ts';
import { elementCount, elementType, FLOAT_TYPES, rawBytes, type Tensor, toNumbers } from './tensor.ts';

const INTEGERS: ReadonlySet<ElementType | null> = new Set<ElementType | null>([
  'int64',
  'int32',
  'int16',
  'int8',
  'uint8',
  'uint16',
  'uint32',
  'uint64',
]);
/** Small float tensors matter as the scales of Resize, and where exporters compute sizes in floating point. */
const FLOAT_LIMIT = 16;

/** The type of a constant, and its elements where they may be shapes, axes or scales. */
export function constantFact(tensor: Tensor): Fact {
  const { elem, dims } = tensor;
  const limit = INTEGERS.has(elem) || elem === 'bool' ? DATA_LIMIT : FLOAT_TYPES.has(elem) ? FLOAT_LIMIT : -1;
  return fact(elem, dims, elementCount(dims) <= limit ? elements(tensor) : null);
}

/** null where the data is damaged or missing. */
function elements(tensor: Tensor): Dim[] | null {
  try {
    if (tensor.elem === 'int64') return int64Numbers(tensor);
    return [...toNumbers(tensor)].map((number) => (Number.isFinite(number) ? number : null));
  } catch {
    return null;
  }
}

/** Slices end at the largest int64, which `toNumbers` refuses. Rounding it is harmless: it only has to be large. */
function int64Numbers(tensor: Tensor): number[] {
  const bytes = rawBytes(tensor);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length >> 3 }, (_, i) => Number(view.getBigInt64(8 * i, true)));
}

/** What a Constant node makes. */
export function constantNode(node: Node): Fact {
  const tensor = tensorAttr(node, 'value');
  if (tensor) return constantFact(tensor);
  const int = intAttr(node, 'value_int');
  if (int !== undefined) return fact('int64', [], [int]);
  const float = floatAttr(node, 'value_float');
  if (float !== undefined) return fact('float', [], [float]);
  const ints = intsAttr(node, 'value_ints');
  if (ints) return fact('int64', [ints.length], ints);
  const floats = floatsAttr(node, 'value_floats');
  if (floats) return fact('float', [floats.length], floats.length <= FLOAT_LIMIT ? floats : null);
  if (attribute(node, 'value_string')) return fact('string', []);
  const strings = attribute(node, 'value_strings');
  if (strings) return fact('string', [strings.proto.strings?.length ?? 0]);
  const sparse = attribute(node, 'sparse_value')?.proto.sparse_tensor;
  return fact(sparse ? elementType(sparse.values?.data_type ?? 0) : null, sparse?.dims?.map(Number) ?? null);
}

/** Combines two elements; null where the result is unknown. */
export type Combine = (a: Dim, b: Dim) => Dim;

const onNumbers =
  (compute: (a: number, b: number) => number): Combine =>
  (a, b) =>
    typeof a === 'number' && typeof b === 'number' ? compute(a, b) : null;

const product = onNumbers((a, b) => a * b);
const sum = onNumbers((a, b) => a + b);
const difference = onNumbers((a, b) => a - b);
const quotient = onNumbers((a, b) => (b === 0 ? Number.NaN : a / b));
const equality = onNumbers((a, b) => (a === b ? 1 : 0));

/** Arithmetic on elements; sizes that are only names pass through what does not change them. */
export const COMBINE: Readonly<Record<string, Combine>> = {
  Add: (a, b) => (a === 0 ? b : b === 0 ? a : sum(a, b)),
  Sub: (a, b) => (b === 0 ? a : a === b && a !== null ? 0 : difference(a, b)),
  Mul: (a, b) => (a === 1 ? b : b === 1 ? a : a === 0 || b === 0 ? 0 : product(a, b)),
  Div: (a, b) => (b === 1 ? a : quotient(a, b)),
  Mod: onNumbers((a, b) => a - Math.floor(a / b) * b),
  Max: (a, b) => (a === b ? a : onNumbers(Math.max)(a, b)),
  Min: (a, b) => (a === b ? a : onNumbers(Math.min)(a, b)),
  // A size is never negative, which decides the comparison with the -1 of Expand's targets.
  Equal: (a, b) => {
    if (a !== null && a === b) return 1;
    const [x, y] = typeof a === 'string' ? [b, a] : [a, b];
    return typeof x === 'number' && typeof y === 'string' && x < 0 ? 0 : equality(a, b);
  },
  Greater: onNumbers((a, b) => (a > b ? 1 : 0)),
  Less: onNumbers((a, b) => (a < b ? 1 : 0)),
  GreaterOrEqual: onNumbers((a, b) => (a >= b ? 1 : 0)),
  LessOrEqual: onNumbers((a, b) => (a <= b ? 1 : 0)),
  And: onNumbers((a, b) => (a && b ? 1 : 0)),
  Or: onNumbers((a, b) => (a || b ? 1 : 0)),
};

/** Elements of an operator of `COMBINE`, left to right over its inputs. */
export function combineData(call: Call): readonly Dim[] | null {
  const combine = COMBINE[call.node.op];
  const [first, ...rest] = call.inputs.map((_, index) => input(call, index));
  if (!combine || !first) return null;
  let at = first;
  for (const next of rest) {
    const shape = broadcast([at.shape, next.shape]);
    const count = shape?.every((dim) => typeof dim === 'number') ? elementCount(shape) : null;
    const left = spread(at, count);
    const right = spread(next, count);
    if (!left || !right) return null;
    at = fact(
      at.elem,
      shape,
      left.map((a, i) => rounded(combine(a, right[i] ?? null), at.elem)),
    );
  }
  return at.data;
}

/** The elements of a tensor that is broadcast to `count` elements; null where the order of them is not plain. */
export function spread(of: Fact, count: number | null): readonly Dim[] | null {
  if (!of.data || count === null || count > DATA_LIMIT) return null;
  if (of.data.length === count) return of.data;
  return of.data.length === 1 ? Array<Dim>(count).fill(of.data[0] ?? null) : null;
}

/** As the element type holds it: integers truncate, floats are rounded to single precision. */
export function rounded(value: Dim, elem: ElementType | null): Dim {
  if (typeof value !== 'number') return value;
  if (!Number.isFinite(value)) return null;
  return INTEGERS.has(elem) ? Math.trunc(value) : elem === 'float' ? Math.fround(value) : value;
}

/** What Cast makes of an element. */
export function castElement(value: Dim, elem: ElementType | null): Dim {
  if (elem === 'bool') return typeof value === 'number' ? Number(value !== 0) : null;
  return elem === 'string' ? null : rounded(value, elem);
}

/** Where Slice begins along an axis of known size, and how many elements it takes, as numpy has it. */
export function sliceRange(size: number, start: number, end: number, step: number): { from: number; length: number } {
  const clamp = (index: number, low: number, high: number) =>
    Math.min(Math.max(index < 0 ? index + size : index, low), high);
  const from = step > 0 ? clamp(start, 0, size) : clamp(start, 0, size - 1);
  const to = step > 0 ? clamp(end, 0, size) : clamp(end, -1, size - 1);
  return { from, length: Math.max(0, Math.ceil((to - from) / step)) };
}
