/**
 * Folds an affine map of the channels, y = scale x + shift, into the node that makes x: for `fold-batchnorm` and for
 * ApproxMinMaxNorm, which are such maps.
 *
 * P is a Conv, ConvTranspose, Gemm, MatMul, MatMul and Add of a constant, or a BatchNormalization; its weights are
 * constants of a float type. s (W x + b) + t = (s W) x + (s b + t), computed in float64 and rounded once to the type of
 * the weights. For Gemm, alpha A B + beta C, the new C has beta inside. Weights that others read too are copied under a
 * fresh name. Whether anybody else reads x is for the caller to know.
 */
import { attribute, floatAttr, floatAttribute, intAttr, referenced } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import { addConstant, pruneUnused, setAttribute, setInitializer, setInput } from '../graph/edit.ts';
import type { ElementType, Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { elementCount, FLOAT_TYPES, makeTensor, type Tensor, toNumbers } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import { opsetOf } from '../graph/walk.ts';
import { siteName } from './pass.ts';

/** y = scale·x + shift, for each channel. */
export interface Affine {
  readonly scale: Float64Array;
  readonly shift: Float64Array;
}

/** Everything that the change needs, computed before anything is touched. */
export interface AffinePlan {
  /** The node with the weights. */
  readonly producer: Node;
  /** Input slots and what they will hold. */
  readonly slots: readonly { readonly node: Node; readonly index: number; readonly tensor: Tensor }[];
  /** What is still to be added to x, where nothing has a bias to take it. */
  readonly add: Tensor | null;
}

/** How `producer` would take the map over, or why it can't. Changes nothing. */
export function planAffine(model: Model, producer: Node, affine: Affine, types: () => Types): AffinePlan | string {
  if (producer.domain !== '') return `it reads ${label(producer)}, which has no weights to fold it into`;
  if (referenced(producer).length > 0) return `the attributes of ${label(producer)} are given by the function's caller`;
  const { op } = producer;
  if (op === 'Conv' || op === 'ConvTranspose') return planConv(model, producer, affine);
  if (op === 'Gemm') return planGemm(model, producer, affine);
  if (op === 'MatMul') return planMatMul(model, producer, null, affine, types);
  if (op === 'Add') return planAdd(model, producer, affine, types);
  if (op === 'BatchNormalization') return planNormalization(model, producer, affine);
  return `it reads ${label(producer)}, which has no weights to fold it into`;
}

/** Carries a plan out, but for its `add`. */
export function applyAffine(model: Model, plan: AffinePlan): void {
  for (const { node, index, tensor } of plan.slots) setConstant(model, node, index, tensor);
  if (plan.producer.op === 'Gemm' && attribute(plan.producer, 'beta'))
    setAttribute(plan.producer, floatAttribute('beta', 1));
}

/** The node before, if this is its only reader. */
export function producerOf(reader: Node, value: Value | null | undefined): Node | string {
  const node = value?.producer;
  if (!value || !node) return 'no node comes before it';
  if (node.body !== reader.body) return `${label(node)} before it is outside of its graph`;
  if (value.users.size > 1 || value.users.get(reader) !== 1)
    return value.users.has(reader.body)
      ? `'${value.name}', which it reads, is an output itself`
      : `others read '${value.name}' too`;
  return node;
}

export const at = (values: Float64Array, index: number): number => values[index] as number;

export interface Floats {
  readonly name: string;
  readonly tensor: Tensor;
  readonly values: Float64Array;
}

/** @returns the constant, or what is wrong with it */
export function floats(model: Model, value: Value | null | undefined): Floats | string {
  const tensor = constantOf(model, value);
  if (!value) return 'is missing';
  if (!tensor) return `'${value.name}' is not constant`;
  if (!FLOAT_TYPES.has(tensor.elem)) return `is of type ${tensor.elem}`;
  return { name: value.name, tensor, values: toNumbers(tensor) };
}

/** Rounds to the type of the weights; a string where that leaves its range (or the parameters were no numbers). */
function rounded(name: string, elem: ElementType, dims: readonly number[], values: Float64Array): Tensor | string {
  const tensor = makeTensor(name, elem, dims, values);
  if (toNumbers(tensor).every(Number.isFinite)) return tensor;
  return `the folded '${name}' would not be finite in ${elem}`;
}

function planConv(model: Model, conv: Node, affine: Affine): AffinePlan | string {
  const weights = floats(model, conv.inputs[1]);
  if (typeof weights === 'string') return `the weight of ${label(conv)} ${weights}`;
  const { dims } = weights.tensor;
  const [rows = 0, columns = 0] = dims;
  const groups = intAttr(conv, 'group') ?? 1;
  const transposed = conv.op === 'ConvTranspose';
  const channels = transposed ? columns * groups : rows;
  if (dims.length < 3 || channels !== affine.scale.length || groups < 1 || rows % groups !== 0)
    return `the weight of ${label(conv)} [${dims}] does not fit its ${affine.scale.length} channels`;
  const inner = elementCount(dims.slice(2));
  const scaled = weights.values.map((value, i) => {
    const row = Math.floor(i / (inner * columns));
    // Conv: [out, in/group, …]. ConvTranspose: [in, out/group, …], where a group's inputs make a block of outputs.
    const channel = transposed ? Math.floor(row / (rows / groups)) * columns + (Math.floor(i / inner) % columns) : row;
    return value * at(affine.scale, channel);
  });
  const weight = rounded(weights.name, weights.tensor.elem, dims, scaled);
  if (typeof weight === 'string') return weight;
  const bias = planBias(model, conv, 2, affine, weight);
  if (typeof bias === 'string') return bias;
  const slots = [
    { node: conv, index: 1, tensor: weight },
    { node: conv, index: 2, tensor: bias },
  ];
  return { producer: conv, slots, add: null };
}

/** The new bias of a node that has one value for each channel, or none. */
function planBias(model: Model, node: Node, index: number, affine: Affine, weight: Tensor): Tensor | string {
  const channels = affine.scale.length;
  if (!node.inputs[index]) return rounded(`${siteName(node)}_bias`, weight.elem, [channels], affine.shift);
  const bias = floats(model, node.inputs[index]);
  if (typeof bias === 'string') return `the bias of ${label(node)} ${bias}`;
  if (bias.values.length !== channels) return `the bias of ${label(node)} has ${bias.values.length} values`;
  const values = affine.shift.map((value, c) => at(affine.scale, c) * at(bias.values, c) + value);
  return rounded(bias.name, bias.tensor.elem, bias.tensor.dims, values);
}

function planGemm(model: Model, gemm: Node, affine: Affine): AffinePlan | string {
  const weights = floats(model, gemm.inputs[1]);
  if (typeof weights === 'string') return `the weight of ${label(gemm)} ${weights}`;
  const transposed = (intAttr(gemm, 'transB') ?? 0) !== 0;
  const weight = scaleMatrix(weights, affine, transposed, gemm);
  if (typeof weight === 'string') return weight;
  const bias = planGemmBias(model, gemm, affine, weight);
  if (typeof bias === 'string') return bias;
  const slots = [
    { node: gemm, index: 1, tensor: weight },
    { node: gemm, index: 2, tensor: bias },
  ];
  return { producer: gemm, slots, add: null };
}

/** Scales the columns of a matrix, or the rows of one that is used transposed. */
function scaleMatrix(weights: Floats, affine: Affine, transposed: boolean, node: Node): Tensor | string {
  const { dims } = weights.tensor;
  const [rows = 0, columns = 0] = dims;
  if (dims.length !== 2 || (transposed ? rows : columns) !== affine.scale.length)
    return `the weight of ${label(node)} [${dims}] does not fit its ${affine.scale.length} channels`;
  const scaled = weights.values.map(
    (value, i) => value * at(affine.scale, transposed ? Math.floor(i / columns) : i % columns),
  );
  return rounded(weights.name, weights.tensor.elem, dims, scaled);
}

/** C broadcasts to [M, N]: the new one keeps its rows if it has several and always has all columns. */
function planGemmBias(model: Model, gemm: Node, affine: Affine, weight: Tensor): Tensor | string {
  const channels = affine.scale.length;
  const beta = Math.fround(floatAttr(gemm, 'beta') ?? 1);
  if (!gemm.inputs[2] || beta === 0) return rounded(`${siteName(gemm)}_bias`, weight.elem, [channels], affine.shift);
  const bias = floats(model, gemm.inputs[2]);
  if (typeof bias === 'string') return `the bias of ${label(gemm)} ${bias}`;
  const { dims } = bias.tensor;
  const columns = dims.at(-1) ?? 1;
  const rows = dims.length === 2 ? (dims[0] ?? 1) : 1;
  if (dims.length > 2 || (columns !== channels && columns !== 1))
    return `the bias of ${label(gemm)} [${dims}] does not fit its ${channels} channels`;
  const values = Float64Array.from({ length: rows * channels }, (_, i) => {
    const c = i % channels;
    const old = at(bias.values, Math.floor(i / channels) * columns + (columns === 1 ? 0 : c));
    return at(affine.scale, c) * beta * old + at(affine.shift, c);
  });
  return rounded(bias.name, bias.tensor.elem, dims.length === 2 ? [rows, channels] : [channels], values);
}

function planAdd(model: Model, add: Node, affine: Affine, types: () => Types): AffinePlan | string {
  const side = add.inputs.findIndex((value) => value?.producer?.op === 'MatMul' && !constantOf(model, value));
  const before = side < 0 ? null : producerOf(add, add.inputs[side]);
  if (before === null) return `it reads ${label(add)}, which adds to no product with weights`;
  if (typeof before === 'string') return before;
  if (before.op !== 'MatMul') return `it reads ${label(add)}, which adds to no product with weights`;
  return planMatMul(model, before, { node: add, index: 1 - side }, affine, types);
}

function planMatMul(
  model: Model,
  matmul: Node,
  add: { node: Node; index: number } | null,
  affine: Affine,
  types: () => Types,
): AffinePlan | string {
  const weights = floats(model, matmul.inputs[1]);
  if (typeof weights === 'string') return `the weight of ${label(matmul)} ${weights}`;
  const rank = rankOf(matmul.outputs[0], types) ?? rankOf(matmul.inputs[0], types);
  if (rank !== 2)
    return `its channels are known to be the columns of ${label(matmul)} for rank 2 only, and the rank is ${rank ?? 'unknown'}`;
  const weight = scaleMatrix(weights, affine, false, matmul);
  if (typeof weight === 'string') return weight;
  const scaled = { node: matmul, index: 1, tensor: weight };
  if (!add) {
    const shift = rounded(`${siteName(matmul)}_bias`, weight.elem, [affine.scale.length], affine.shift);
    return typeof shift === 'string' ? shift : { producer: matmul, slots: [scaled], add: shift };
  }
  const bias = planAddBias(model, add.node, add.index, affine);
  if (typeof bias === 'string') return bias;
  return { producer: matmul, slots: [scaled, { ...add, tensor: bias }], add: null };
}

const rankOf = (value: Value | null | undefined, types: () => Types): number | null =>
  value ? (types().get(value).shape?.length ?? null) : null;

/** A bias that is the same for every row of the product. */
function planAddBias(model: Model, add: Node, index: number, affine: Affine): Tensor | string {
  const channels = affine.scale.length;
  const bias = floats(model, add.inputs[index]);
  if (typeof bias === 'string') return `what ${label(add)} adds ${bias}`;
  const { dims } = bias.tensor;
  if (dims.length > 2 || (bias.values.length !== 1 && !(bias.values.length === channels && dims.at(-1) === channels)))
    return `what ${label(add)} adds, [${dims}], does not fit its ${channels} channels`;
  const values = affine.shift.map(
    (value, c) => at(affine.scale, c) * at(bias.values, bias.values.length === 1 ? 0 : c) + value,
  );
  return rounded(bias.name, bias.tensor.elem, dims.length === 2 ? [1, channels] : [channels], values);
}

/** Its own scale and bias, which belong to the channels already. */
function planNormalization(model: Model, bn: Node, affine: Affine): AffinePlan | string {
  if (opsetOf(model, bn.body) < 9 && (intAttr(bn, 'spatial') ?? 1) !== 1)
    return `${label(bn)} normalizes each position`;
  const [scale, bias] = [floats(model, bn.inputs[1]), floats(model, bn.inputs[2])];
  if (typeof scale === 'string') return `the scale of ${label(bn)} ${scale}`;
  if (typeof bias === 'string') return `the bias of ${label(bn)} ${bias}`;
  const channels = affine.scale.length;
  if (scale.values.length !== channels || bias.values.length !== channels)
    return `the parameters of ${label(bn)} do not fit ${channels} channels`;
  const tensors = [
    rounded(
      scale.name,
      scale.tensor.elem,
      [channels],
      scale.values.map((value, c) => value * at(affine.scale, c)),
    ),
    rounded(
      bias.name,
      bias.tensor.elem,
      [channels],
      bias.values.map((value, c) => value * at(affine.scale, c) + at(affine.shift, c)),
    ),
  ];
  const slots: { node: Node; index: number; tensor: Tensor }[] = [];
  for (const [i, tensor] of tensors.entries()) {
    if (typeof tensor === 'string') return tensor;
    slots.push({ node: bn, index: i + 1, tensor });
  }
  return { producer: bn, slots, add: null };
}

/** New data for one input slot: in place where nobody else reads the old data, under a fresh name otherwise. */
export function setConstant(model: Model, node: Node, index: number, tensor: Tensor): void {
  const old = node.inputs[index] ?? null;
  const own = old?.initializer && old.users.size === 1 && old.users.get(node) === 1;
  if (old && own && `${old.initializer?.dims}` === `${tensor.dims}`) setInitializer(old, tensor);
  else {
    setInput(node, index, addConstant(model, node.body, tensor, node));
    pruneUnused([old]);
  }
}
