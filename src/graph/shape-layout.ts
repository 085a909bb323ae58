/** Type rules of the operators that move elements and compute with shapes. */
import { intAttr, intsAttr, stringAttr, tensorAttr } from './attributes.ts';
import type { Dim } from './ir.ts';
import { castElement, constantFact, constantNode, rounded, sliceRange } from './shape-data.ts';
import {
  addDim,
  allNumbers,
  axisOf,
  broadcast,
  type Call,
  DATA_LIMIT,
  fact,
  input,
  integers,
  productDim,
  quotientDim,
  type Rule,
  type Shape,
  scaleDim,
  unifyDim,
  unknownShape,
  vector,
  withDim,
} from './shape-facts.ts';
import { elementType } from './tensor.ts';

/** How many numbers the input at `index` holds, if it is a vector of known length. */
function lengthOf(call: Call, index: number): number | null {
  const shape = input(call, index).shape;
  const length = shape?.length === 1 ? shape[0] : null;
  return typeof length === 'number' && length <= DATA_LIMIT ? length : null;
}

/** The shape that a vector of sizes states, as far as it is known. */
function statedShape(call: Call, index: number): Shape | null {
  const target = input(call, index).data;
  const length = lengthOf(call, index);
  if (target) return target;
  return length === null ? null : unknownShape(length);
}

const reshape: Rule = (call) => {
  const x = input(call, 0);
  const target = intsAttr(call.node, 'shape') ?? statedShape(call, 1);
  return [fact(x.elem, target && reshaped(x.shape, target, intAttr(call.node, 'allowzero') === 1), x.data)];
};

/** Solves for the one size that the target leaves open, where there is only one. */
function reshaped(from: Shape | null, target: Shape, allowZero: boolean): Dim[] {
  const copied = (at: number) => target[at] === 0 && !allowZero;
  const out = target.map((dim, at) => (copied(at) ? (from?.[at] ?? null) : dim === -1 ? null : dim));
  const open = out.flatMap((dim, at) => (dim === null && !copied(at) ? [at] : []));
  const [slot] = open;
  if (!from || slot === undefined || open.length > 1) return out;
  // Copied sizes cancel, even unknown ones.
  const kept = (dims: Shape) => dims.filter((_, at) => !copied(at));
  out[slot] = quotientDim(
    kept(from),
    kept(out).filter((dim) => dim !== null),
  );
  return out;
}

const flatten: Rule = (call) => {
  const x = input(call, 0);
  const axis = intAttr(call.node, 'axis') ?? 1;
  if (!x.shape) return [fact(x.elem, unknownShape(2))];
  const at = axis < 0 ? axis + x.shape.length : axis;
  return [fact(x.elem, [productDim(x.shape.slice(0, at)), productDim(x.shape.slice(at))])];
};

const transpose: Rule = (call) => {
  const x = input(call, 0);
  const perm = intsAttr(call.node, 'perm') ?? x.shape?.map((_, at) => at).reverse();
  return [fact(x.elem, perm?.map((at) => x.shape?.[at] ?? null) ?? null)];
};

const squeeze: Rule = (call) => {
  const x = input(call, 0);
  const axes = integers(call, 'axes', 1);
  const { shape } = x;
  if (!shape) return [fact(x.elem, null)];
  if (axes === undefined) return [fact(x.elem, allNumbers(shape)?.filter((dim) => dim !== 1) ?? null, x.data)];
  const gone = allNumbers(axes)?.map((axis) => axisOf(axis, shape.length));
  const length = lengthOf(call, 1);
  if (!gone) return [fact(x.elem, length === null ? null : unknownShape(shape.length - length))];
  return [
    fact(
      x.elem,
      shape.filter((_, at) => !gone.includes(at)),
      x.data,
    ),
  ];
};

const unsqueeze: Rule = (call) => {
  const x = input(call, 0);
  const axes = integers(call, 'axes', 1);
  const count = axes?.length ?? lengthOf(call, 1);
  if (!x.shape || count === null) return [fact(x.elem, null)];
  const rank = x.shape.length + count;
  const added = allNumbers(axes)?.map((axis) => axisOf(axis, rank));
  if (!added) return [fact(x.elem, unknownShape(rank))];
  const old = [...x.shape];
  const shape = Array.from({ length: rank }, (_, at) => (added.includes(at) ? 1 : (old.shift() ?? null)));
  return [fact(x.elem, shape, x.data)];
};

const concat: Rule = (call) => {
  const parts = call.inputs.map((_, index) => input(call, index));
  const elem = parts.find((part) => part.elem)?.elem ?? null;
  const rank = parts.find((part) => part.shape)?.shape?.length;
  if (rank === undefined) return [fact(elem, null)];
  const axis = axisOf(intAttr(call.node, 'axis') ?? 1, rank);
  let shape: Dim[] = withDim(unknownShape(rank), axis, 0);
  for (const part of parts)
    shape = shape.map((dim, at) => (at === axis ? addDim : unifyDim)(dim, part.shape?.[at] ?? null));
  return [fact(elem, shape, rank === 1 ? concatData(parts) : null)];
};

/** Parts of known length but unknown contents leave gaps only where they are. */
function concatData(parts: readonly { shape: Shape | null; data: readonly Dim[] | null }[]): Dim[] | null {
  const out: Dim[] = [];
  for (const { shape, data } of parts) {
    const length = shape?.[0];
    if (typeof length !== 'number' || out.length + length > DATA_LIMIT) return null;
    out.push(...(data ?? unknownShape(length)));
  }
  return out;
}

const split: Rule = (call) => {
  const x = input(call, 0);
  const count = call.node.outputs.length;
  const none = call.node.outputs.map(() => fact(x.elem, null));
  const { shape } = x;
  if (!shape) return none;
  const axis = axisOf(intAttr(call.node, 'axis') ?? 0, shape.length);
  const dim = shape[axis] ?? null;
  const sizes = integers(call, 'split', 1);
  const chunk = typeof dim === 'number' ? Math.ceil(dim / (intAttr(call.node, 'num_outputs') ?? count)) : null;
  let from = 0;
  return call.node.outputs.map((_, index) => {
    const even = chunk !== null && typeof dim === 'number' ? Math.min(chunk, dim - chunk * index) : null;
    const size = sizes ? (sizes[index] ?? null) : sizes === null ? null : count === 1 ? dim : even;
    const to = typeof size === 'number' ? from + size : Number.NaN;
    const data = shape.length === 1 && !Number.isNaN(to) ? (x.data?.slice(from, to) ?? null) : null;
    from = to;
    return fact(x.elem, withDim(shape, axis, size), data);
  });
};

const slice: Rule = (call) => {
  const x = input(call, 0);
  const { shape } = x;
  if (!shape) return [fact(x.elem, null)];
  const starts = integers(call, 'starts', 1);
  const ends = integers(call, 'ends', 2);
  const axes = integers(call, 'axes', 3);
  const steps = integers(call, 'steps', 4);
  const count = starts?.length ?? ends?.length ?? lengthOf(call, 1) ?? shape.length;
  const along = axes === undefined ? Array.from({ length: count }, (_, i) => i) : allNumbers(axes);
  if (!along) return [fact(x.elem, unknownShape(shape.length))];
  const out = [...shape];
  let data = shape.length === 1 ? x.data : null;
  for (const [i, axis] of along.entries()) {
    const at = axisOf(axis, shape.length);
    const [start, end, step] = [starts?.[i], ends?.[i], steps === undefined ? 1 : steps?.[i]];
    const dim = shape[at] ?? null;
    out[at] = null;
    if (typeof start !== 'number' || typeof step !== 'number') data = null;
    else if (typeof dim === 'number' && typeof end === 'number') {
      const { from, length } = sliceRange(dim, start, end, step);
      out[at] = length;
      data = data && Array.from({ length }, (_, k) => data?.[from + k * step] ?? null);
    } else {
      data = null;
      const whole = typeof end === 'number' ? end >= 2 ** 31 - 1 : end === dim;
      if (start === 0 && step === 1 && whole) out[at] = dim;
    }
  }
  return [fact(x.elem, out, data)];
};

const gather: Rule = (call) => {
  const x = input(call, 0);
  const indices = input(call, 1);
  if (!x.shape) return [fact(x.elem, null)];
  const axis = axisOf(intAttr(call.node, 'axis') ?? 0, x.shape.length);
  const { data } = x;
  const picked =
    data && x.shape.length === 1
      ? (indices.data?.map((i) => (typeof i === 'number' ? (data[i < 0 ? i + data.length : i] ?? null) : null)) ?? null)
      : null;
  if (!indices.shape) return [fact(x.elem, null)];
  return [fact(x.elem, [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)], picked)];
};

const gatherND: Rule = (call) => {
  const x = input(call, 0);
  const indices = input(call, 1).shape;
  const batch = intAttr(call.node, 'batch_dims') ?? 0;
  const depth = indices?.at(-1);
  if (!x.shape || !indices || typeof depth !== 'number') return [fact(x.elem, null)];
  return [fact(x.elem, [...indices.slice(0, -1), ...x.shape.slice(batch + depth)])];
};

const expand: Rule = (call) => {
  const x = input(call, 0);
  const shape = broadcast([x.shape, statedShape(call, 1)]);
  return [fact(x.elem, shape, x.data?.length === 1 ? fill(shape, x.data[0] ?? null) : null)];
};

function fill(shape: Shape | null, value: Dim): Dim[] | null {
  const count = shape && productDim(shape);
  return typeof count === 'number' && count <= DATA_LIMIT ? Array<Dim>(count).fill(value) : null;
}

const tile: Rule = (call) => {
  const x = input(call, 0);
  const repeats = input(call, 1).data;
  return [fact(x.elem, x.shape?.map((dim, at) => scaleDim(dim, repeats?.[at] ?? null)) ?? null)];
};

const shapeOf: Rule = (call) => {
  const { shape } = input(call, 0);
  const start = intAttr(call.node, 'start') ?? 0;
  return [shape ? vector(shape.slice(start, intAttr(call.node, 'end'))) : fact('int64', [null])];
};

const size: Rule = (call) => {
  const { shape } = input(call, 0);
  return [fact('int64', [], shape && [productDim(shape)])];
};

const constantOfShape: Rule = (call) => {
  const shape = statedShape(call, 0);
  const tensor = tensorAttr(call.node, 'value');
  const value = tensor ? constantFact(tensor) : fact('float', [1], [0]);
  return [fact(value.elem, shape, fill(shape, value.data?.[0] ?? null))];
};

const range: Rule = (call) => {
  const [start, limit, delta] = [0, 1, 2].map((index) => input(call, index).data?.[0] ?? null);
  const elem = input(call, 0).elem ?? input(call, 1).elem;
  if (start === 0 && delta === 1 && typeof limit === 'string') return [fact(elem, [limit])];
  if (typeof start !== 'number' || typeof limit !== 'number' || typeof delta !== 'number') return [fact(elem, [null])];
  const length = Math.max(0, Math.ceil((limit - start) / delta));
  const data = length > DATA_LIMIT ? null : Array.from({ length }, (_, i) => rounded(start + i * delta, elem));
  return [fact(elem, [length], data)];
};

const oneHot: Rule = (call) => {
  const { shape } = input(call, 0);
  const elem = input(call, 2).elem;
  if (!shape) return [fact(elem, null)];
  const axis = axisOf(intAttr(call.node, 'axis') ?? -1, shape.length + 1);
  return [fact(elem, [...shape.slice(0, axis), input(call, 1).data?.[0] ?? null, ...shape.slice(axis)])];
};

const topK: Rule = (call) => {
  const x = input(call, 0);
  const k = intAttr(call.node, 'k') ?? input(call, 1).data?.[0] ?? null;
  const shape = x.shape && withDim(x.shape, axisOf(intAttr(call.node, 'axis') ?? -1, x.shape.length), k);
  return [fact(x.elem, shape), fact('int64', shape)];
};

const nonZero: Rule = (call) => {
  const { shape } = input(call, 0);
  return [fact('int64', [shape ? Math.max(1, shape.length) : null, null])];
};

/** Whole blocks move between the channels and the two spatial axes. */
const blocks =
  (rule: (dims: Shape, area: number, side: number) => Dim[]): Rule =>
  (call) => {
    const x = input(call, 0);
    const side = intAttr(call.node, 'blocksize') ?? 1;
    return [fact(x.elem, x.shape?.length === 4 ? rule(x.shape, side * side, side) : unknownShape(4))];
  };
const depthToSpace = blocks(([n = null, c = null, h = null, w = null], area, side) => [
  n,
  quotientDim([c], [area]),
  scaleDim(h, side),
  scaleDim(w, side),
]);
const spaceToDepth = blocks(([n = null, c = null, h = null, w = null], area, side) => [
  n,
  scaleDim(c, area),
  quotientDim([h], [side]),
  quotientDim([w], [side]),
]);

const cast: Rule = (call) => {
  const x = input(call, 0);
  const elem = call.node.op === 'CastLike' ? input(call, 1).elem : elementType(intAttr(call.node, 'to') ?? 0);
  return [fact(elem === 'undefined' ? null : elem, x.shape, x.data?.map((entry) => castElement(entry, elem)) ?? null)];
};

/** Every letter of the equation is a dimension; an ellipsis stops the inference. */
const einsum: Rule = (call) => {
  const elem = input(call, 0).elem;
  const [left = '', right] = (stringAttr(call.node, 'equation') ?? '').replace(/\s/g, '').split('->');
  if (left === '' || left.includes('.')) return [fact(elem, null)];
  const sizes = new Map<string, Dim>();
  for (const [index, letters] of left.split(',').entries())
    for (const [at, letter] of [...letters].entries())
      sizes.set(letter, unifyDim(sizes.get(letter) ?? null, input(call, index).shape?.[at] ?? null));
  const once = [...sizes.keys()].filter((letter) => left.split(letter).length === 2).sort();
  return [
    fact(
      elem,
      [...(right ?? once)].map((letter) => sizes.get(letter) ?? null),
    ),
  ];
};

/** Rules by operator of the default domain. */
export const LAYOUT_RULES: Readonly<Record<string, Rule>> = {
  Reshape: reshape,
  Flatten: flatten,
  Transpose: transpose,
  Squeeze: squeeze,
  Unsqueeze: unsqueeze,
  Concat: concat,
  Split: split,
  Slice: slice,
  Gather: gather,
  GatherElements: (call) => [fact(input(call, 0).elem, input(call, 1).shape)],
  GatherND: gatherND,
  Expand: expand,
  Tile: tile,
  Shape: shapeOf,
  Size: size,
  Constant: (call) => [constantNode(call.node)],
  ConstantOfShape: constantOfShape,
  Range: range,
  OneHot: oneHot,
  TopK: topK,
  NonZero: nonZero,
  DepthToSpace: depthToSpace,
  SpaceToDepth: spaceToDepth,
  Cast: cast,
  CastLike: cast,
  Einsum: einsum,
};
