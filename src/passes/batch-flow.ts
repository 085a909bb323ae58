/**
 * Where the batch is in every value of a graph: the analysis under `set-batch`.
 *
 * Every value is one of three things once the graph runs with B rows instead of 1. `rows`: it has size B along one axis,
 * on which the original has 1, and slice b is what the original computes from row b alone. `sizes`: few integers that
 * depend on B itself and not on what is in the rows (shapes under computation). `independent`: the same whatever the
 * rows are and however many. A node for which none of this can be shown stops the analysis with the reason.
 */
import { intAttr } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import type { Dim, ElementType, Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { elementCount, type Tensor } from '../graph/tensor.ts';
import { allNodes, functionTable, nestedGraphs, opsetOf, readValues, topologicalOrder } from '../graph/walk.ts';
import { BATCH_RULES, keptRank, nameOf } from './batch-rules.ts';
import { sizesOf } from './batch-sizes.ts';
import { dropoutRefusal } from './drop-identity.ts';
import { wholeNumbers } from './integers.ts';
import { siteName } from './pass.ts';

/** A number; 'batch' for B; 'unknown' for a number that is not known but does not depend on B; 'other' for one that does. */
export type Size = number | 'batch' | 'unknown' | 'other';

export type Flow =
  | { readonly kind: 'independent' }
  | { readonly kind: 'rows'; readonly axis: number }
  /** Elements of a scalar or vector. */
  | { readonly kind: 'sizes' };

/** Why the batch can't be set, and at which node. */
export interface Refusal {
  readonly site: string;
  readonly reason: string;
}

/** A change that the batch needs, made only once everything is known to work. */
export interface Edit {
  readonly site: string;
  readonly detail: string;
  apply(): void;
}

export interface Analysis {
  readonly flows: ReadonlyMap<Value, Flow>;
  readonly edits: readonly Edit[];
  readonly refusal: Refusal | null;
}

/** What a rule sees of one node. */
export interface Site {
  readonly model: Model;
  readonly node: Node;
  readonly opset: number;
  flow(index: number): Flow;
  /** Axis of the batch in an input, or null where the input is left out or has none. */
  batchAxis(index: number): number | null;
  /** Shape with one row; null where the rank is unknown or the input left out. */
  shape(index: number): readonly Dim[] | null;
  elem(index: number): ElementType | null;
  /** Elements of an input that is a vector or scalar, as far as they are known. */
  sizes(index: number): readonly Size[] | null;
  outputShape(index: number): readonly Dim[] | null;
  edit(detail: string, apply: () => void): void;
}

/** The batch axis of all outputs, or why there is none. */
export type BatchRule = (site: Site) => number | string;

const INDEPENDENT: Flow = { kind: 'independent' };
const SIZES: Flow = { kind: 'sizes' };

/** Their results differ from run to run, so rows can't agree with runs of their own. */
const RANDOM = new Set([
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
  'Multinomial',
  'Bernoulli',
]);

/** Vectors up to this length are followed as sizes. */
const LONGEST = 64;

/** @param inputs the graph inputs that hold rows, along axis 0 */
export function followBatch(model: Model, types: Types, inputs: ReadonlySet<Value>): Analysis {
  const graph = model.graph;
  const callee = functionTable(model);
  const opset = opsetOf(model, graph);
  const flows = new Map<Value, Flow>();
  const sizes = new Map<Value, readonly Size[] | null>();
  // Ranks where type inference knows none: it has no rules for other domains.
  const ranks = new Map<Value, number>();
  const edits: Edit[] = [];
  for (const value of inputs) flows.set(value, { kind: 'rows', axis: 0 });

  const flowOf = (value: Value | null | undefined): Flow => (value && flows.get(value)) ?? INDEPENDENT;
  const shapeOf = (value: Value | null | undefined): readonly Dim[] | null => {
    const rank = value && ranks.get(value);
    const shape = (value && types.get(value).shape) ?? (rank ? Array<Dim>(rank).fill(null) : null);
    const flow = flowOf(value);
    // Inputs whose leading dimension is symbolic already are looked at with one row like all others.
    return flow.kind === 'rows' ? (shape?.map((dim, axis) => (axis === flow.axis ? 1 : dim)) ?? null) : shape;
  };
  const elemOf = (value: Value | null | undefined) => (value ? types.get(value).elem : null);
  const knownSizes = (value: Value | null | undefined): readonly Size[] | null => {
    if (!value || flowOf(value).kind === 'rows') return null;
    const known = sizes.get(value);
    if (known !== undefined) return known;
    const found = constantSizes(constantOf(model, value));
    sizes.set(value, found);
    return found;
  };

  for (const node of allNodes(model))
    if (draws(model, node))
      return { flows, edits, refusal: { site: siteName(node), reason: `${node.op} draws random numbers` } };
  for (const node of topologicalOrder(graph)) {
    const refuse = (reason: string): Analysis => ({ flows, edits, refusal: { site: siteName(node), reason } });
    const dependent = readValues(node).some((value) => flowOf(value).kind !== 'independent');
    const site: Site = {
      model,
      node,
      opset,
      flow: (index) => flowOf(node.inputs[index]),
      batchAxis(index) {
        const flow = flowOf(node.inputs[index]);
        return flow.kind === 'rows' ? flow.axis : null;
      },
      shape: (index) => shapeOf(node.inputs[index]),
      elem: (index) => elemOf(node.inputs[index]),
      sizes: (index) => knownSizes(node.inputs[index]),
      outputShape: (index) => shapeOf(node.outputs[index]),
      edit: (detail, apply) => edits.push({ site: siteName(node), detail, apply }),
    };
    const computed = node.domain === '' && !callee(node) ? sizesOf(site) : null;
    const [first] = node.outputs;
    if (computed && first && computed.length <= LONGEST) {
      const varies = computed.some((size) => size === 'batch' || size === 'other');
      sizes.set(first, computed);
      flows.set(first, varies ? SIZES : INDEPENDENT);
      continue;
    }
    if (!dependent) continue;
    const axis = callee(node)
      ? `the function ${node.domain}.${node.op} depends on the input; inline it first`
      : nestedGraphs(node).length > 0
        ? `${node.op} depends on the input, and its subgraphs are not followed`
        : applyRule(site);
    if (typeof axis === 'string') return refuse(axis);
    for (const value of node.outputs) if (value) flows.set(value, { kind: 'rows', axis });
    const rank = keptRank(site);
    if (rank !== null && first && !types.get(first).shape) ranks.set(first, rank);
  }
  return { flows, edits, refusal: null };
}

function draws(model: Model, node: Node): boolean {
  if (node.domain !== '') return false;
  return RANDOM.has(node.op) || (node.op === 'Dropout' && dropoutRefusal(model, node) !== null);
}

function applyRule(site: Site): number | string {
  const { node } = site;
  const name = nameOf(node);
  const rule = BATCH_RULES.get(name);
  if (!rule) return `${name} is not known to keep rows apart`;
  const counted = node.inputs.findIndex((_, index) => site.flow(index).kind === 'sizes');
  if (counted >= 0 && !SIZE_INPUTS.has(node.op))
    return `${name} computes with the number of rows ('${node.inputs[counted]?.name}')`;
  const axis = rule(site);
  return typeof axis === 'string' ? `${name} ${axis}` : axis;
}

/** Operators whose rules look at computed sizes themselves. */
const SIZE_INPUTS = new Set(['Reshape', 'Expand', 'ConstantOfShape', 'Resize']);

function constantSizes(tensor: Tensor | null): readonly Size[] | null {
  if (!tensor || tensor.dims.length > 1 || elementCount(tensor.dims) > LONGEST) return null;
  const numeric =
    tensor.elem === 'int64' || tensor.elem === 'int32' || tensor.elem === 'float' || tensor.elem === 'bool';
  return numeric ? wholeNumbers(tensor) : null;
}

/** Counted from the front, or null where the rank does not have it. */
export function frontAxis(axis: number, rank: number): number | null {
  const front = axis < 0 ? axis + rank : axis;
  return front >= 0 && front < rank ? front : null;
}

/** The attribute `name` (default `otherwise`) as an axis of a tensor of this rank. */
export function axisAttribute(node: Node, name: string, otherwise: number, rank: number): number | null {
  return frontAxis(intAttr(node, name) ?? otherwise, rank);
}

/** Sizes that are all plain numbers, or null. */
export function plainNumbers(sizes: readonly Size[] | null): number[] | null {
  return sizes?.every((size) => typeof size === 'number') ? [...sizes] : null;
}
