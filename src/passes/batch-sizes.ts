/** The arithmetic of shapes under computation, as exporters with dynamic shapes write it, with the batch as an unknown. */
import { intAttr, intsAttr, tensorAttr } from '../graph/attributes.ts';
import type { ElementType } from '../graph/ir.ts';
import { elementCount, elementType, toNumbers } from '../graph/tensor.ts';
import { axisAttribute, frontAxis, plainNumbers, type Site, type Size } from './batch-flow.ts';

type SizeRule = (site: Site) => readonly Size[] | null;

/** Elements of the first output where it is a scalar or vector of sizes; null where that is not known. */
export function sizesOf(site: Site): readonly Size[] | null {
  const rule = Object.hasOwn(SIZE_RULES, site.node.op) ? SIZE_RULES[site.node.op] : undefined;
  return rule ? rule(site) : null;
}

const depends = (size: Size) => size === 'batch' || size === 'other';

/** A result that is not followed further: it still matters whether it depends on the batch. */
const blurred = (...sizes: Size[]): Size => (sizes.some(depends) ? 'other' : 'unknown');

const add = (a: Size, b: Size): Size => {
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  if (a === 0) return b;
  return b === 0 ? a : blurred(a, b);
};

const multiply = (a: Size, b: Size): Size => {
  if (typeof a === 'number' && typeof b === 'number') return a * b;
  if (a === 1) return b;
  return b === 1 ? a : blurred(a, b);
};

const subtract = (a: Size, b: Size): Size => {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return b === 0 ? a : blurred(a, b);
};

/** Integers only, where positive ones divide alike in every runtime. */
const divide = (a: Size, b: Size): Size => {
  if (typeof a === 'number' && typeof b === 'number' && a >= 0 && b > 0) return Math.trunc(a / b);
  return b === 1 ? a : blurred(a, b);
};

/** B is at least 1, so a placeholder such as -1 or 0 never equals it. */
const equal = (a: Size, b: Size): Size => {
  if (typeof a === 'number' && typeof b === 'number') return a === b ? 1 : 0;
  if ((a === 'batch' && isBelowOne(b)) || (b === 'batch' && isBelowOne(a))) return 0;
  return a === 'batch' && b === 'batch' ? 1 : blurred(a, b);
};
const isBelowOne = (size: Size) => typeof size === 'number' && size < 1;

const integer = (elem: ElementType | null) => elem === 'int64' || elem === 'int32';

/** Element by element, a scalar or single element going with all of the other's. */
function zip(count: number, combine: (...sizes: Size[]) => Size): SizeRule {
  return (site) => {
    const lists = Array.from({ length: count }, (_, index) => site.sizes(index));
    // A lone element may come with rank 0 or 1: only the elements matter here, never the rank.
    const length = lists.reduce((longest, list) => Math.max(longest, list?.length ?? 0), 0);
    if (lists.some((list) => !list || (list.length !== length && list.length !== 1))) return null;
    return Array.from({ length }, (_, i) =>
      combine(...lists.map((list) => (list?.length === 1 ? list[0] : list?.[i]) ?? 'other')),
    );
  };
}

const same: SizeRule = (site) => site.sizes(0);

/** Reshapes of vectors and scalars to the same; anything of a higher rank is no list of sizes any more. */
const flat: SizeRule = (site) => ((site.outputShape(0)?.length ?? 2) <= 1 ? site.sizes(0) : null);

function shapeOf(site: Site): readonly Size[] | null {
  const shape = site.shape(0);
  if (!shape) return null;
  const axis = site.batchAxis(0);
  const all = shape.map((dim, at): Size => (at === axis ? 'batch' : typeof dim === 'number' ? dim : 'unknown'));
  // Array.slice clamps as the standard does.
  return all.slice(intAttr(site.node, 'start') ?? 0, intAttr(site.node, 'end') ?? all.length);
}

function gather(site: Site): readonly Size[] | null {
  const [data, indices] = [site.sizes(0), plainNumbers(site.sizes(1))];
  if (!data || !indices || site.shape(0)?.length !== 1 || (site.shape(1)?.length ?? 2) > 1) return null;
  const picked = indices.map((index) => data[frontAxis(index, data.length) ?? -1]);
  return picked.every((size) => size !== undefined) ? picked : null;
}

function concat(site: Site): readonly Size[] | null {
  const lists = site.node.inputs.map((_, index) => (site.shape(index)?.length === 1 ? site.sizes(index) : null));
  return lists.every((list) => list !== null) ? lists.flat() : null;
}

function slice(site: Site): readonly Size[] | null {
  const data = site.shape(0)?.length === 1 ? site.sizes(0) : null;
  const one = (name: string, index: number): number | null => {
    const list = site.opset < 10 ? (intsAttr(site.node, name) ?? null) : plainNumbers(site.sizes(index));
    return list?.length === 1 ? (list[0] ?? null) : null;
  };
  const [start, end] = [one('starts', 1), one('ends', 2)];
  const step = site.opset >= 10 && site.node.inputs[4] ? one('steps', 4) : 1;
  return data && start !== null && end !== null && step === 1 ? data.slice(start, end) : null;
}

const choose = (condition: Size, a: Size, b: Size): Size => {
  if (typeof condition === 'number') return condition ? a : b;
  return a === b && !depends(condition) ? a : blurred(condition, a, b);
};

function constantOfShape(site: Site): readonly Size[] | null {
  const shape = plainNumbers(site.sizes(0));
  if (!shape || shape.length > 1 || site.shape(0)?.length !== 1) return null;
  const value = tensorAttr(site.node, 'value');
  if (value && (value.elem === 'string' || elementCount(value.dims) !== 1)) return null;
  const fill = value ? (toNumbers(value)[0] ?? 0) : 0;
  const [length = 1] = shape;
  return length <= 64 ? Array<Size>(length).fill(fill) : null;
}

function product(site: Site): readonly Size[] | null {
  const sizes = site.shape(0)?.length === 1 && !intAttr(site.node, 'noop_with_empty_axes') ? site.sizes(0) : null;
  return sizes ? [sizes.reduce(multiply, 1)] : null;
}

function count(site: Site): readonly Size[] | null {
  const shape = site.shape(0);
  const axis = site.batchAxis(0);
  const all = shape?.map((dim, at): Size => (at === axis ? 'batch' : typeof dim === 'number' ? dim : 'unknown'));
  return all ? [all.reduce(multiply, 1)] : null;
}

/** Casts among integers and to floating point keep sizes; a cast to bool does not. */
function cast(site: Site): readonly Size[] | null {
  const to = elementType(intAttr(site.node, 'to') ?? 0);
  const sizes = site.sizes(0);
  const whole = sizes?.every((size) => typeof size !== 'number' || Number.isInteger(size)) ?? false;
  return integer(to) || to === 'float' || to === 'double' ? (whole ? sizes : null) : null;
}

const dividing = zip(2, divide);

const SIZE_RULES: Readonly<Record<string, SizeRule>> = {
  Shape: shapeOf,
  Size: count,
  Gather: (site) => (axisAttribute(site.node, 'axis', 0, 1) === 0 ? gather(site) : null),
  Concat: concat,
  Slice: slice,
  Squeeze: flat,
  Unsqueeze: flat,
  Reshape: (site) => (site.flow(1).kind === 'independent' ? flat(site) : null),
  Identity: same,
  Cast: cast,
  Add: zip(2, add),
  Sub: zip(2, subtract),
  Mul: zip(2, multiply),
  // Fractions can come of floating point; they are no sizes.
  Div: (site) => (integer(site.elem(0)) ? dividing(site) : null),
  Equal: zip(2, equal),
  Where: zip(3, choose),
  ConstantOfShape: constantOfShape,
  ReduceProd: product,
};
