/**
 * Linear layers whose weights can be fitted anew: Conv, Gemm, and MatMul with constant weights, as matrices from features to
 * outputs. Layers whose outputs meet in a sum (the convolution of a block and that of its shortcut) are fitted together.
 */
import { floatAttr, intAttr } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { elementCount, makeTensor } from '../graph/tensor.ts';
import { topologicalOrder } from '../graph/walk.ts';
import { applyAffine, floats, planAffine, setConstant } from '../passes/affine.ts';
import { siteName } from '../passes/pass.ts';
import { type Windows, windowsOf } from '../passes/windows.ts';

export interface LinearLayer {
  readonly name: string;
  readonly node: Node;
  /** What it reads. */
  readonly input: Value;
  readonly output: Value;
  /** Each group of outputs reads its own part of the features. */
  readonly groups: number;
  readonly outputs: number;
  /** Of one group. Of convolutions in the order channel, row, column, as the weights lie. */
  readonly features: number;
  /** Of convolutions. */
  readonly windows: Windows | null;
  /** The Add of its bias, where it has none of its own. */
  readonly add: Node | null;
}

/** Layers that are fitted together, towards what the teacher has at `target`. */
export interface LinearGroup {
  readonly target: Value;
  readonly layers: readonly LinearLayer[];
}

/** The groups in an order in which each depends on earlier ones only. Main graph; layers that can't be read are left out. */
export function linearGroups(model: Model): LinearGroup[] {
  const types = inferTypes(model);
  const groups = new Map<Value, LinearLayer[]>();
  for (const node of topologicalOrder(model.graph)) {
    const layer = readLayer(model, node, types);
    if (!layer) continue;
    const { target, add } = followed(model, layer, types);
    const list = groups.get(target) ?? [];
    groups.set(target, [...list, add ? { ...layer, add } : layer]);
  }
  const order = new Map(topologicalOrder(model.graph).map((node, i) => [node, i]));
  const place = ({ target }: LinearGroup) => order.get(target.producer as Node) ?? 0;
  return [...groups].map(([target, layers]) => ({ target, layers })).sort((a, b) => place(a) - place(b));
}

function readLayer(model: Model, node: Node, types: Types): LinearLayer | null {
  const [input, weight] = node.inputs;
  const [output] = node.outputs;
  if (node.domain !== '' || !input || !output || constantOf(model, input)) return null;
  const values = floats(model, weight);
  if (typeof values === 'string' || values.tensor.elem !== 'float' || types.get(input).elem !== 'float') return null;
  const { dims } = values.tensor;
  const shared = { name: siteName(node), node, input, output, add: null };
  if (node.op === 'Conv') {
    const windows = windowsOf(model, node, types);
    if (typeof windows === 'string') return null;
    const groups = intAttr(node, 'group') ?? 1;
    return { ...shared, groups, outputs: dims[0] ?? 0, features: elementCount(dims.slice(1)), windows };
  }
  const rank = types.get(input).shape?.length;
  if (dims.length !== 2 || rank === undefined) return null;
  const [rows = 0, columns = 0] = dims;
  if (node.op === 'Gemm' && (intAttr(node, 'transA') ?? 0) === 0) {
    const transposed = (intAttr(node, 'transB') ?? 0) !== 0;
    const [features, outputs] = transposed ? [columns, rows] : [rows, columns];
    return { ...shared, groups: 1, outputs, features, windows: null };
  }
  if (node.op === 'MatMul' && rank >= 2)
    return { ...shared, groups: 1, outputs: columns, features: rows, windows: null };
  return null;
}

/** Goes on through additions for as long as nobody else reads the sum so far. */
function followed(model: Model, { output, node }: LinearLayer, types: Types): { target: Value; add: Node | null } {
  let [target, add]: [Value, Node | null] = [output, null];
  for (;;) {
    const [next, ...others] = [...target.users];
    if (!next || others.length > 0) return { target, add };
    const [reader, uses] = next;
    if (!('op' in reader) || reader.op !== 'Add' || reader.domain !== '' || uses !== 1) return { target, add };
    const [sum] = reader.outputs;
    const other = reader.inputs.find((value) => value !== target);
    if (!sum || !other || reader.body !== node.body) return { target, add };
    const same = `${types.get(sum).shape}` === `${types.get(target).shape}`;
    if (!same) return { target, add };
    if (constantOf(model, other)) {
      // Constants of a convolution that has its own bias are just another addend.
      if (target === output && node.op === 'MatMul') add = reader;
    } else if (`${types.get(other).shape}` !== `${types.get(sum).shape}`) return { target, add };
    target = sum;
  }
}

/** [outputs, features of a group], as the layer multiplies. */
export function weightsOf(model: Model, { node, outputs, features }: LinearLayer): Float64Array {
  const read = floats(model, node.inputs[1]);
  if (typeof read === 'string') throw new Error(read);
  const { values } = read;
  if (node.op === 'Conv') return values;
  const transposed = node.op === 'Gemm' && (intAttr(node, 'transB') ?? 0) !== 0;
  const alpha = node.op === 'Gemm' ? Math.fround(floatAttr(node, 'alpha') ?? 1) : 1;
  const matrix = new Float64Array(outputs * features);
  for (let k = 0; k < outputs; k++)
    for (let f = 0; f < features; f++)
      matrix[k * features + f] = alpha * (values[transposed ? k * features + f : f * outputs + k] as number);
  return matrix;
}

/** Whether a constant can be added to its outputs. */
export function takesBias(model: Model, layer: LinearLayer): boolean {
  const plan = biasPlan(model, layer, new Float64Array(layer.outputs));
  return typeof plan !== 'string' && plan.add === null;
}

const biasPlan = (model: Model, { node, add, outputs }: LinearLayer, shift: Float64Array) =>
  planAffine(model, add ?? node, { scale: new Float64Array(outputs).fill(1), shift }, () => inferTypes(model));

/**
 * Adds to the weights, in place.
 * @param weights [outputs, features of a group]; @param bias [outputs], null where the layer takes none
 */
export function addToLayer(model: Model, layer: LinearLayer, weights: Float64Array, bias: Float64Array | null): void {
  const { node, outputs, features } = layer;
  const read = floats(model, node.inputs[1]);
  if (typeof read === 'string') throw new Error(read);
  const { tensor, values } = read;
  const transposed = node.op === 'Gemm' && (intAttr(node, 'transB') ?? 0) !== 0;
  const alpha = node.op === 'Gemm' ? Math.fround(floatAttr(node, 'alpha') ?? 1) : 1;
  const straight = node.op === 'Conv' || transposed;
  const next = Float64Array.from(values);
  for (let k = 0; k < outputs; k++)
    for (let f = 0; f < features; f++) {
      const at = straight ? k * features + f : f * outputs + k;
      next[at] = (next[at] as number) + (weights[k * features + f] as number) / alpha;
    }
  setConstant(model, node, 1, makeTensor(read.name, tensor.elem, tensor.dims, next));
  if (!bias) return;
  const plan = biasPlan(model, layer, bias);
  if (typeof plan === 'string') throw new Error(plan);
  applyAffine(model, plan);
}

/** The constant that its node itself adds, [outputs]; that of an Add behind it is not part of its output. */
export function biasOf(model: Model, { node, outputs }: LinearLayer): Float64Array {
  const bias = new Float64Array(outputs);
  if (node.op === 'MatMul' || !node.inputs[2]) return bias;
  const read = floats(model, node.inputs[2]);
  if (typeof read === 'string') throw new Error(read);
  const beta = node.op === 'Gemm' ? Math.fround(floatAttr(node, 'beta') ?? 1) : 1;
  return bias.map((_, k) => beta * (read.values[read.values.length === 1 ? 0 : k] as number));
}
