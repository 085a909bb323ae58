/**
 * Moves a factor along the edges of a graph: back into what makes a value, or forth into what reads it. Layers with
 * weights take it; pools and reshapes pass it on; where a sum joins two branches, the shorter one gets a product of its
 * own if it is at least a level shorter, so that no path becomes deeper.
 */
import { intAttr } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import { addConstant, addNode, setInput } from '../graph/edit.ts';
import type { Body, ElementType, Model, Node, Value } from '../graph/ir.ts';
import { levelsOf } from '../graph/levels.ts';
import type { Types } from '../graph/shapes.ts';
import { elementCount, makeTensor, type Tensor, toNumbers } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import { topologicalOrder } from '../graph/walk.ts';
import { applyAffine, at, floats, planAffine, setConstant } from './affine.ts';
import { expand } from './element-polynomials.ts';
import { siteName } from './pass.ts';

/** The model as it stands, with what is known of it. */
export interface ScaleContext {
  readonly model: Model;
  readonly types: Types;
  readonly depths: ReadonlyMap<Value, number>;
}

/** What is still to be done: every change is known to be possible before the first is made. */
export type Edits = (() => void)[];

/** The levels from the inputs of the main graph to each of its values; operators that are no polynomials count none. */
export function depthsOf(model: Model, types: Types): Map<Value, number> {
  const depths = new Map<Value, number>();
  for (const { value } of model.graph.inputs) if (!value.initializer) depths.set(value, 0);
  for (const node of topologicalOrder(model.graph)) {
    const inputs = node.inputs.map((value) => (value ? depths.get(value) : undefined));
    if (inputs.every((depth) => depth === undefined)) continue;
    const levels = levelsOf({ node, types, isData: (i) => inputs[i] !== undefined });
    const depth = Math.max(...inputs.map((d) => d ?? 0)) + (typeof levels === 'number' ? levels : 0);
    for (const output of node.outputs) if (output) depths.set(output, depth);
  }
  return depths;
}

/** Nodes that pass a factor of their input on to their output, or back. */
const PASSIVE = new Set(['AveragePool', 'GlobalAveragePool', 'Identity', 'Dropout']);

/**
 * How what makes `value` would make `factor` times it, by channel (axis 1).
 * @param readers all who may read it
 * @returns the changes, or why not
 */
export function scaleProducer(
  context: ScaleContext,
  value: Value,
  readers: ReadonlySet<Node>,
  factor: Float64Array,
): Edits | string {
  const { model, types } = context;
  const node = value.producer;
  if (!node) return `no layer makes '${value.name}'`;
  if ([...value.users.keys()].some((user) => !('op' in user) || !readers.has(user)))
    return `others read '${value.name}' too`;
  if (node.domain !== '') return `it reads ${label(node)}, which takes no factor`;
  const only = new Set([node]);
  const [input] = node.inputs;
  if (PASSIVE.has(node.op) && input) return scaleProducer(context, input, only, factor);
  if (node.op === 'Flatten' && input) {
    const channels = channelFactor(types, input, factor);
    return channels ? scaleProducer(context, input, only, channels) : `${label(node)} mixes channels`;
  }
  if (node.op === 'Mul') return scaleProduct(context, node, factor);
  if (node.op === 'Add' && node.inputs.every((term) => !constantOf(model, term)))
    return scaleSum(context, node, factor);
  const plan = planAffine(model, node, { scale: factor, shift: new Float64Array(factor.length) }, () => types);
  return typeof plan === 'string' ? plan : [() => applyAffine(model, plan)];
}

function scaleSum(context: ScaleContext, add: Node, factor: Float64Array): Edits | string {
  const [a, b] = add.inputs;
  if (!a || !b || a === b) return `${label(add)} adds a value to itself`;
  const sides = [a, b].map((side) => {
    const edits = scaleProducer(context, side, new Set([add]), factor);
    return typeof edits === 'string' ? (multiplyEdge(context, side, add, factor) ?? edits) : edits;
  });
  const reason = sides.find((side) => typeof side === 'string');
  return reason ?? (sides as Edits[]).flat();
}

/** A product with the factor between a value and the sum that reads it; null where the path through it would be deeper. */
function multiplyEdge(
  { model, types, depths }: ScaleContext,
  value: Value,
  add: Node,
  factor: Float64Array,
): Edits | null {
  const output = add.outputs[0];
  const slack = (output && depths.get(output)) ?? 0;
  const { elem, shape } = types.get(value);
  if (!elem || !shape || slack - (depths.get(value) ?? 0) < 1 || value.users.get(add) !== 1) return null;
  return [
    () => {
      const dims = [1, factor.length, ...shape.slice(2).map(() => 1)];
      const name = `${siteName(add)}/scale`;
      const constant = addConstant(model, add.body, makeTensor(name, elem, dims, factor), add);
      const spec = { op: 'Mul', name, inputs: [value, constant] };
      const made = addNode(model, add.body, spec, add).outputs[0] as Value;
      setInput(add, add.inputs.indexOf(value), made);
    },
  ];
}

/** A product with a constant takes the factor into that. */
function scaleProduct({ model, types }: ScaleContext, mul: Node, factor: Float64Array): Edits | string {
  const index = mul.inputs.findIndex((value) => constantOf(model, value));
  const data = mul.inputs[1 - index];
  const constant = floats(model, mul.inputs[index]);
  const shape = data && types.get(data).shape;
  if (index < 0 || typeof constant === 'string' || !shape) return `${label(mul)} multiplies no constant`;
  const { dims } = constant.tensor;
  const full = [1, factor.length, ...shape.slice(2).map((_, i) => dims[dims.length - shape.length + 2 + i] ?? 1)];
  const inner = elementCount(full.slice(2));
  if (dims.length > shape.length || (dims.length === shape.length && dims[0] !== 1))
    return `the constant of ${label(mul)} is of another shape`;
  const scaled = expand({ dims, values: constant.values }, full).map(
    (value, i) => value * at(factor, Math.floor(i / inner)),
  );
  const tensor = finiteTensor(constant.name, constant.tensor.elem, full, scaled);
  return typeof tensor === 'string' ? tensor : [() => setConstant(model, mul, index, tensor)];
}

/**
 * How all that read `value` would be content with 1/`factor` times what they read now, by channel.
 * @returns the changes, or why not
 */
export function scaleReaders(context: ScaleContext, value: Value, factor: Float64Array): Edits | string {
  const edits: Edits = [];
  for (const user of value.users.keys()) {
    const more = 'op' in user ? scaleReader(context, value, user, factor) : outputReason(value, user);
    if (typeof more === 'string') return more;
    edits.push(...more);
  }
  return edits;
}

const outputReason = (value: Value, _: Body): string => `'${value.name}' is an output`;

function scaleReader(context: ScaleContext, value: Value, node: Node, factor: Float64Array): Edits | string {
  const { model, types } = context;
  const [output] = node.outputs;
  if (node.domain !== '' || !output || node.body !== value.body)
    return `${label(node)} reads it, which takes no factor`;
  const first = node.inputs[0] === value && node.inputs.lastIndexOf(value) === 0;
  if (first && PASSIVE.has(node.op)) return scaleReaders(context, output, factor);
  if (first && node.op === 'Flatten') {
    const shape = types.get(value).shape?.slice(2);
    if (!shape?.every((dim) => typeof dim === 'number') || (intAttr(node, 'axis') ?? 1) !== 1)
      return `${label(node)} is of an unknown shape`;
    const inner = elementCount(shape as number[]);
    const features = Float64Array.from({ length: factor.length * inner }, (_, i) => at(factor, Math.floor(i / inner)));
    return scaleReaders(context, output, features);
  }
  if (node.op === 'Add' && node.inputs.every((term) => !constantOf(model, term)))
    return multiplyEdge(context, value, node, factor) ?? `${label(node)} reads it, and no level is left there`;
  if (node.op === 'Mul') return scaleProduct(context, node, factor);
  return first ? scaleWeights(model, node, factor) : `${label(node)} reads it, which takes no factor`;
}

/** Scales what a layer takes of each input channel. */
export function scaleWeights(model: Model, node: Node, factor: Float64Array): Edits | string {
  const weights = floats(model, node.inputs[1]);
  if (!['Conv', 'Gemm', 'MatMul'].includes(node.op) || typeof weights === 'string')
    return `${label(node)} reads it, which has no weights for a factor`;
  const { dims, elem } = weights.tensor;
  const channel = inputChannel(node, dims, factor.length);
  if (!channel) return `the weights of ${label(node)} [${dims}] do not fit ${factor.length} channels`;
  const scaled = weights.values.map((value, i) => value * at(factor, channel(i)));
  const tensor = finiteTensor(weights.name, elem, dims, scaled);
  return typeof tensor === 'string' ? tensor : [() => setConstant(model, node, 1, tensor)];
}

/** Narrow types overflow. */
function finiteTensor(name: string, elem: ElementType, dims: readonly number[], values: Float64Array): Tensor | string {
  const tensor = makeTensor(name, elem, dims, values);
  return toNumbers(tensor).every(Number.isFinite) ? tensor : `the scaled '${name}' would not be finite in ${elem}`;
}

/** Which input channel each weight multiplies. */
export function inputChannel(node: Node, dims: readonly number[], channels: number): ((i: number) => number) | null {
  const [rows = 0, columns = 0] = dims;
  if (node.op === 'Conv') {
    const groups = intAttr(node, 'group') ?? 1;
    const inner = elementCount(dims.slice(2));
    const perGroup = rows / groups;
    if (columns * groups !== channels) return null;
    return (i) => {
      const row = Math.floor(i / (inner * columns));
      return Math.floor(row / perGroup) * columns + (Math.floor(i / inner) % columns);
    };
  }
  if (dims.length !== 2 || (node.op === 'Gemm' && (intAttr(node, 'transA') ?? 0) !== 0)) return null;
  const byColumn = node.op === 'Gemm' && (intAttr(node, 'transB') ?? 0) !== 0;
  if ((byColumn ? columns : rows) !== channels) return null;
  return byColumn ? (i) => i % columns : (i) => Math.floor(i / columns);
}

/** The factors of the channels that were flattened, where all features of a channel have the same. */
function channelFactor(types: Types, value: Value, features: Float64Array): Float64Array | null {
  const shape = types.get(value).shape;
  const channels = shape?.[1];
  if (typeof channels !== 'number' || features.length % channels !== 0) return null;
  const inner = features.length / channels;
  const out = Float64Array.from({ length: channels }, (_, c) => at(features, c * inner));
  return features.every((factor, i) => factor === at(out, Math.floor(i / inner))) ? out : null;
}
