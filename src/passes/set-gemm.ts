/**
 * Before: y = Gemm(x, W, b) in any form, or MatMul(x, W) with or without an Add of b after it
 * After:  y = Gemm(x, W', b') with transA 0, transB 1, alpha and beta 1, W' [out, in], b' [out]
 * Conditions: x has rank 2; W and b are constants of a float type; b is one number for each column (or for all)
 * Algebra: alpha x W + beta b = x (alpha W) + (beta b)
 */
import { floatAttr, floatAttribute, intAttr, intAttribute, referenced } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import { addConstant, addNode, dropValueInfo, pruneUnused, removeNode } from '../graph/edit.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import { makeTensor, type Tensor } from '../graph/tensor.ts';
import { at, type Floats, floats } from './affine.ts';
import { type NodeContext, type NodeOutcome, nodePass } from './node-pass.ts';
import { siteName } from './pass.ts';

export const setGemm = nodePass(
  { name: 'set-gemm', summary: 'Write linear layers as Gemm with transB=1, alpha=beta=1 and a bias', exact: true },
  ['Gemm', 'MatMul'],
  rewrite,
);

function rewrite(context: NodeContext, node: Node): NodeOutcome {
  const { model, types } = context;
  const [x, w] = node.inputs;
  if (!x || !w || referenced(node).length > 0) return null;
  if (constantOf(model, x)) return { reason: 'its weights come first' };
  if (types().get(x).shape?.length !== 2) return { reason: 'its input is not known to have rank 2' };
  const gemm = node.op === 'Gemm';
  if (gemm && (intAttr(node, 'transA') ?? 0) !== 0) return { reason: 'it transposes the data' };
  const weights = floats(model, w);
  if (typeof weights === 'string') return { reason: `its weight ${weights}` };
  if (weights.tensor.dims.length !== 2) return { reason: 'its weight is no matrix' };
  const add = gemm ? null : biasAfter(model, node);
  const transposed = gemm && (intAttr(node, 'transB') ?? 0) !== 0;
  const outs = weights.tensor.dims[transposed ? 0 : 1] ?? 0;
  const biasValue = gemm ? node.inputs[2] : add?.bias;
  const bias = biasValue ? floats(model, biasValue) : null;
  if (typeof bias === 'string') return { reason: `its bias ${bias}` };
  const scales = { alpha: gemm ? (floatAttr(node, 'alpha') ?? 1) : 1, beta: gemm ? (floatAttr(node, 'beta') ?? 1) : 1 };
  if (bias && bias.values.length !== 1 && (bias.values.length !== outs || bias.tensor.dims.at(-1) !== outs))
    return { reason: `its bias is of the shape [${bias.tensor.dims}]` };
  if (isNormal(node, bias, outs)) return null;
  replace(model, node, add?.node ?? null, [
    transpose(weights, transposed, scales.alpha),
    makeTensor(
      bias?.name ?? `${siteName(node)}_bias`,
      weights.tensor.elem,
      [outs],
      Float64Array.from({ length: outs }, (_, i) =>
        bias ? Math.fround(scales.beta) * at(bias.values, bias.values.length === 1 ? 0 : i) : 0,
      ),
    ),
  ]);
  return { detail: gemm ? 'in the form x W^T + b' : `${add ? 'MatMul and Add' : 'MatMul'} became Gemm` };
}

const ATTRIBUTES = { alpha: 1, beta: 1, transA: 0, transB: 1 } as const;

function isNormal(node: Node, bias: Floats | null, outs: number): boolean {
  if (node.op !== 'Gemm' || !bias || `${bias.tensor.dims}` !== `${outs}`) return false;
  const names = new Set(node.attributes.map(({ name }) => name));
  const stated = Object.keys(ATTRIBUTES).every((name) => names.has(name));
  return stated && floatAttr(node, 'alpha') === 1 && floatAttr(node, 'beta') === 1 && intAttr(node, 'transB') === 1;
}

/** The Add of a constant that is the product's only reader. */
function biasAfter(model: Model, node: Node): { node: Node; bias: Value } | null {
  const [product] = node.outputs;
  const [user, more] = product ? [...product.users.keys()] : [];
  if (!product || !user || more || !('op' in user) || user.op !== 'Add' || user.domain !== '') return null;
  const bias = user.inputs.find((value) => value !== product);
  const columns = constantOf(model, node.inputs[1])?.dims[1];
  const tensor = constantOf(model, bias);
  const fits = tensor && tensor.dims.length <= 2 && (tensor.dims.at(-1) === columns || tensor.dims.length === 0);
  return bias && fits && tensor.dims.slice(0, -1).every((dim) => dim === 1) ? { node: user, bias } : null;
}

function transpose({ name, tensor, values }: Floats, transposed: boolean, alpha: number): Tensor {
  const [rows = 0, columns = 0] = tensor.dims;
  const factor = Math.fround(alpha);
  if (transposed)
    return makeTensor(name, tensor.elem, tensor.dims, factor === 1 ? values : values.map((v) => v * factor));
  const out = new Float64Array(values.length);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) out[c * rows + r] = factor * at(values, r * columns + c);
  return makeTensor(name, tensor.elem, [columns, rows], out);
}

function replace(model: Model, node: Node, add: Node | null, tensors: readonly Tensor[]): void {
  const [x] = node.inputs;
  const last = add ?? node;
  const output = last.outputs[0] as Value;
  const old = [...node.inputs.slice(1), ...(add?.inputs ?? [])].filter((value) => value && constantOf(model, value));
  const next = removeNode(last);
  const inner = node.outputs[0] as Value;
  if (add) {
    removeNode(node);
    dropValueInfo(node.body, (value) => value === inner);
  }
  pruneUnused(old);
  const constants = tensors.map((tensor) => addConstant(model, node.body, tensor, next));
  const attributes = [...node.attributes.filter(({ name }) => !(name in ATTRIBUTES)), ...gemmAttributes()];
  addNode(
    model,
    node.body,
    { op: 'Gemm', name: siteName(node), inputs: [x ?? null, ...constants], attributes, outputs: [output] },
    next,
  );
}

/** alpha and beta are floats although they are whole. */
const gemmAttributes = () => [
  intAttribute('transA', 0),
  intAttribute('transB', 1),
  floatAttribute('alpha', 1),
  floatAttribute('beta', 1),
];
