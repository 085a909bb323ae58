/** What shape inference knows of a value, and the arithmetic of dimensions that may be names or unknown. */
import { SisyphusError } from '../errors.ts';
import { intsAttr } from './attributes.ts';
import type { Dim, ElementType, Node, TensorType } from './ir.ts';

export type Shape = readonly Dim[];

/**
 * A type, and the elements in row-major order where they are few and at least partly known: shapes under computation.
 * A name among them stands for the size that it stands for in shapes; null is an unknown number.
 */
export interface Fact extends TensorType {
  readonly data: readonly Dim[] | null;
}

/** Longest tensor whose elements are followed. Shapes are shorter; some index tables are not. */
export const DATA_LIMIT = 1024;

export const UNKNOWN: Fact = { elem: null, shape: null, data: null };

export const fact = (elem: ElementType | null, shape: Shape | null, data: readonly Dim[] | null = null): Fact => ({
  elem,
  // A negative size comes of an invalid model, or of a placeholder that stands in a shape under computation.
  shape: shape?.every((dim) => typeof dim !== 'number' || dim >= 0) ? shape : (shape?.map(statedDim) ?? null),
  data: data && data.length <= DATA_LIMIT && data.some((entry) => entry !== null) ? data : null,
});

/** A vector of int64 with these elements. */
export const vector = (data: readonly Dim[]): Fact => fact('int64', [data.length], data);

export const unknownShape = (rank: number): Dim[] => Array.from({ length: rank }, () => null);

/** Two statements about one dimension that both hold: a number says more than a name, and a name more than nothing. */
export function unifyDim(a: Dim, b: Dim): Dim {
  if (typeof a === 'number') return a;
  if (typeof b === 'number') return b;
  return a ?? b;
}

/** What holds for both of two alternatives. */
export function mergeFacts(a: Fact, b: Fact): Fact {
  const data = a.data && b.data && a.data.length === b.data.length ? a.data.map(same(b.data)) : null;
  return fact(a.elem === b.elem ? a.elem : null, mergeShapes(a.shape, b.shape), data);
}

function mergeShapes(a: Shape | null, b: Shape | null): Shape | null {
  return a && b && a.length === b.length ? a.map(same(b)) : null;
}
const same = (other: readonly Dim[]) => (dim: Dim, index: number) => (dim === other[index] ? dim : null);

/** What was inferred, with its gaps filled by what the file states. */
export function completeFact(inferred: Fact, declared: TensorType | null): Fact {
  if (!declared) return inferred;
  const elem = inferred.elem ?? (declared.elem === 'undefined' ? null : declared.elem);
  const stated = declared.shape?.map(statedDim) ?? null;
  if (!inferred.shape || !stated || inferred.shape.length !== stated.length)
    return { ...inferred, elem, shape: inferred.shape ?? stated };
  return { ...inferred, elem, shape: inferred.shape.map((dim, i) => dim ?? stated[i] ?? null) };
}

/** Exporters write -1, '?' or 'None' where they know nothing; as a name it would make unrelated dimensions equal. */
function statedDim(dim: Dim): Dim {
  if (typeof dim === 'number') return dim >= 0 ? dim : null;
  return dim !== null && /^(\?|-1|none|unk|unknown)$/i.test(dim) ? null : dim;
}

/** numpy broadcasting of two dimensions. A name is taken for more than 1 where the other side is a larger number. */
export function broadcastDim(a: Dim, b: Dim): Dim {
  if (a === b) return a;
  if (a === 1) return b;
  if (b === 1) return a;
  if (typeof a === 'number') return typeof b === 'number' ? null : a;
  return typeof b === 'number' ? b : null;
}

/** The shape that all broadcast to; null where one of them has no known rank. */
export function broadcast(shapes: readonly (Shape | null)[]): Shape | null {
  let result: Shape = [];
  for (const shape of shapes) {
    if (!shape) return null;
    const rank = Math.max(result.length, shape.length);
    const [left, right] = [result, shape].map((dims) => [...Array<Dim>(rank - dims.length).fill(1), ...dims]);
    result = Array.from({ length: rank }, (_, i) => broadcastDim(left?.[i] ?? null, right?.[i] ?? null));
  }
  return result;
}

/** The product; a name survives only alone. */
export function productDim(dims: readonly Dim[]): Dim {
  return quotientDim(dims, []);
}

/** product(dims) / product(divisors), with equal names cancelled; null where it is no number and no single name. */
export function quotientDim(dims: readonly Dim[], divisors: readonly Dim[]): Dim {
  const top = factors(dims);
  const bottom = factors(divisors);
  if (!top || !bottom || bottom.number === 0) return null;
  if (top.number === 0) return 0;
  for (const name of bottom.names) {
    const at = top.names.indexOf(name);
    if (at < 0) return null;
    top.names.splice(at, 1);
  }
  const number = top.number / bottom.number;
  const [name] = top.names;
  if (name === undefined) return Number.isInteger(number) ? number : null;
  return number === 1 && top.names.length === 1 ? name : null;
}

function factors(dims: readonly Dim[]): { number: number; names: string[] } | null {
  if (dims.includes(0)) return { number: 0, names: [] };
  const result = { number: 1, names: [] as string[] };
  for (const dim of dims) {
    if (dim === null) return null;
    if (typeof dim === 'number') result.number *= dim;
    else result.names.push(dim);
  }
  return result;
}

/** a + b: numbers add, and a name stays itself when nothing is added. */
export function addDim(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  if (a === 0) return b;
  return b === 0 ? a : null;
}

/** floor(a · factor), where a name stays itself when multiplied by 1. */
export function scaleDim(dim: Dim, factor: Dim): Dim {
  if (factor === 1) return dim;
  if (dim === 1) return typeof factor === 'number' ? Math.floor(factor) : factor;
  return typeof dim === 'number' && typeof factor === 'number' ? Math.floor(dim * factor) : null;
}

/**
 * The axis counted from the front.
 * @throws SisyphusError `invalid-model` where the rank does not have it
 */
export function axisOf(axis: Dim | undefined, rank: number): number {
  const at = typeof axis === 'number' && axis < 0 ? axis + rank : axis;
  if (typeof at !== 'number' || !(at >= 0 && at < rank))
    throw new SisyphusError('invalid-model', `axis ${axis} of a tensor of rank ${rank}`);
  return at;
}

/** The shape with one dimension replaced. */
export const withDim = (shape: Shape, axis: number, dim: Dim): Dim[] =>
  shape.map((old, at) => (at === axis ? dim : old));

/** One node at one place: its inputs as known there, null where an optional one is left out. */
export interface Call {
  readonly node: Node;
  readonly inputs: readonly (Fact | null)[];
  readonly opset: number;
}
/** What an operator makes of its inputs, output by output. May throw, which means that nothing is known. */
export type Rule = (call: Call) => readonly Fact[];

export const input = (call: Call, index: number): Fact => call.inputs[index] ?? UNKNOWN;

/**
 * Integers that are an attribute in some opsets and an input in others: undefined where they are left out, null where
 * they are only known to the run.
 */
export function integers(call: Call, name: string, index: number): readonly Dim[] | null | undefined {
  const attr = intsAttr(call.node, name);
  if (attr) return attr;
  const given = call.inputs[index];
  if (!given) return undefined;
  return given.shape?.includes(0) ? [] : given.data;
}

export function allNumbers(dims: readonly Dim[] | null | undefined): number[] | null {
  return dims?.every((dim) => typeof dim === 'number') ? [...dims] : null;
}
