/** Operators that take a shape: where the batch is in what they make, and which constants have to change for it. */
import { intAttr } from '../graph/attributes.ts';
import { addConstant, pruneUnused, setInitializer, setInput } from '../graph/edit.ts';
import type { Dim } from '../graph/ir.ts';
import { makeTensor } from '../graph/tensor.ts';
import { type BatchRule, plainNumbers, type Site, type Size } from './batch-flow.ts';

const LOST = 'does not keep the batch as an axis of its own';

/** The product, or null where a factor is unknown. */
function product(dims: readonly Dim[]): number | null {
  return dims.every((dim) => typeof dim === 'number') ? dims.reduce((a, b) => a * b, 1) : null;
}

/** Where an axis can be in another shape with the same elements in the same order: what comes before it is as much. */
function places(before: number | null, from: number, shape: readonly Dim[]): number[] {
  const found = [...shape.keys()].filter((at) => {
    if (shape[at] !== 1) return false;
    return (from === 0 && at === 0) || (before !== null && product(shape.slice(0, at)) === before);
  });
  // Of several axes of size 1, the one that stays where it was comes first.
  return found.sort((a, b) => Number(b === from) - Number(a === from));
}

/** The two axes are products of the input's axes on either side of `axis`; the batch must be alone on its side. */
export const flattenRule: BatchRule = (site) => {
  const [axis, shape] = [site.batchAxis(0), site.shape(0)];
  if (axis === null || !shape) return 'has an input of unknown rank';
  const given = intAttr(site.node, 'axis') ?? 1;
  const cut = given < 0 ? given + shape.length : given;
  const side = axis < cut ? shape.slice(0, cut) : shape.slice(cut);
  return product(side) === 1 ? (axis < cut ? 0 : 1) : LOST;
};

export const reshapeRule: BatchRule = (site) => {
  const [axis, shape] = [site.batchAxis(0), site.shape(0)];
  if (axis === null) return 'gives a constant the shape of the batch';
  if (!shape) return 'has an input of unknown rank';
  if (site.flow(1).kind === 'rows') return 'takes its shape from what is in the rows';
  const target = site.sizes(1);
  if (!target) return 'has a target shape that is not known';
  const zeroCopies = site.opset < 14 || !intAttr(site.node, 'allowzero');
  const result = oneRowShape(target, shape, zeroCopies, site.outputShape(0));
  const before = product(shape.slice(0, axis));
  const candidates = places(before, axis, result);
  const context = { axis, zeroCopies, result };
  const right = candidates.find((at) => followsBatch(target, at, context));
  if (right !== undefined) return right;
  const numbers = plainNumbers(target);
  if (!numbers) return LOST;
  for (const at of candidates) {
    const changed = withBatch(numbers, at, context);
    if (!changed) continue;
    site.edit(`target [${numbers.join(', ')}] -> [${changed.join(', ')}]`, () => setTarget(site, changed));
    return at;
  }
  return LOST;
};

interface ReshapeContext {
  readonly axis: number;
  readonly zeroCopies: boolean;
  /** What comes out for one row. */
  readonly result: readonly Dim[];
}

/** The resulting shape for one row. Where -1 can't be computed here, shape inference may know. */
function oneRowShape(
  target: readonly Size[],
  shape: readonly Dim[],
  zeroCopies: boolean,
  inferred: readonly Dim[] | null,
): Dim[] {
  const dims = target.map((size, at): Dim => {
    if (size === 'batch') return 1;
    if (typeof size !== 'number' || size === -1) return null;
    return size === 0 && zeroCopies ? (shape[at] ?? null) : size;
  });
  const hole = target.indexOf(-1);
  const rest = product(dims.filter((_, at) => at !== hole));
  const all = product(shape);
  if (hole >= 0) dims[hole] = all !== null && rest ? all / rest : inferredDim(inferred, hole);
  return dims;
}

function inferredDim(inferred: readonly Dim[] | null, at: number): Dim {
  const dim = inferred?.[at];
  return typeof dim === 'number' ? dim : null;
}

/** Whether the target is right for any number of rows as it stands: B at `at`, and nowhere else. */
function followsBatch(target: readonly Size[], at: number, { axis, zeroCopies }: ReshapeContext): boolean {
  const size = target[at];
  const has = size === 'batch' || size === -1 || (size === 0 && zeroCopies && at === axis);
  return has && othersFixed(target, at, { axis, zeroCopies });
}

function othersFixed(
  target: readonly Size[],
  at: number,
  { axis, zeroCopies }: Pick<ReshapeContext, 'axis' | 'zeroCopies'>,
): boolean {
  return target.every((size, index) => {
    if (index === at) return true;
    if (size === 0) return zeroCopies && index !== axis;
    return size !== 'batch' && size !== 'other';
  });
}

/** The target with the batch at `at`, which is 1 so far; null where there is no way to write it. */
function withBatch(target: readonly number[], at: number, context: ReshapeContext): number[] | null {
  if (target[at] !== 1 || !othersFixed(target, at, context)) return null;
  const changed = [...target];
  if (context.zeroCopies && at === context.axis) changed[at] = 0;
  else {
    // There can be one -1 only: the other one gets the size that it stands for.
    const hole = target.indexOf(-1);
    const size = context.result[hole];
    if (hole >= 0 && typeof size !== 'number') return null;
    if (hole >= 0) changed[hole] = Number(size);
    changed[at] = -1;
  }
  return changed;
}

/** Constants that others read too stay as they are. */
function setTarget({ model, node }: Site, target: readonly number[]): void {
  const old = node.inputs[1];
  const tensor = makeTensor(old?.name || `${node.name}/shape`, 'int64', [target.length], target);
  if (old?.initializer && old.body === node.body && old.users.size === 1 && old.users.get(node) === 1)
    setInitializer(old, tensor);
  else {
    setInput(node, 1, addConstant(model, node.body, tensor, node));
    pruneUnused([old ?? null]);
  }
}

export const expandRule: BatchRule = (site) => {
  const [axis, shape, target] = [site.batchAxis(0), site.shape(0), site.sizes(1)];
  if (!shape) return 'has an input of unknown rank';
  if (site.flow(1).kind === 'rows') return 'takes its shape from what is in the rows';
  if (!target) return 'has a target shape that is not known';
  const rank = Math.max(shape.length, target.length);
  const wide = target.flatMap((size, at) => (size === 'batch' || size === 'other' ? [at + rank - target.length] : []));
  if (axis === null) {
    // Copies of a constant, one for each row.
    const [at = 0, ...more] = wide;
    const own = at - (rank - shape.length);
    const single = own < 0 || shape[own] === 1;
    const exact = target[at - (rank - target.length)] === 'batch';
    return more.length === 0 && exact && single ? at : 'gives a constant the shape of the batch';
  }
  const at = axis + rank - shape.length;
  if (wide.some((other) => other !== at)) return 'repeats the batch as often as it has rows';
  const size = at < rank - target.length ? 1 : target[at - (rank - target.length)];
  return size === 1 || size === 'batch' ? at : 'repeats the batch axis, or an unknown number of times';
};

export const constantOfShapeRule: BatchRule = (site) => {
  const target = site.sizes(0) ?? [];
  const at = target.indexOf('batch');
  const single = target.every((size, index) => index === at || (size !== 'batch' && size !== 'other'));
  return at >= 0 && single ? at : 'gives a constant the shape of the batch';
};
