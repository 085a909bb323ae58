/**
 * Before: y = BatchNormalization(P(x)), with P a Conv, ConvTranspose, Gemm, MatMul, or MatMul and Add of a constant
 * After: y = P'(x), with other weights and bias; a lone MatMul is followed by an Add in place of the normalization
 * Conditions: inference (training_mode 0, no training outputs; spatial 1 below opset 9); weights, bias and all
 *   parameters are constants of a float type; nobody else reads P's output, and it is no output of its body; both nodes
 *   are in one body. MatMul: the product is known to have rank 2, so that its channels are the columns of the weights.
 * Algebra: scale = gamma / sqrt(var + epsilon), shift = beta - scale mean; folded as `affine.ts` says
 */
import { floatAttr, intAttr, referenced } from '../graph/attributes.ts';
import { addConstant, addNode, dropValueInfo, pruneUnused, removeNode, replaceUses } from '../graph/edit.ts';
import type { Model, Node } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { label } from '../graph/verify.ts';
import { allBodies, opsetOf } from '../graph/walk.ts';
import { type Affine, type AffinePlan, applyAffine, at, floats, planAffine, producerOf } from './affine.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';

export const foldBatchnorm: Pass = {
  name: 'fold-batchnorm',
  summary: 'Fold BatchNormalization into the weights of the Conv, ConvTranspose, Gemm or MatMul before it',
  exact: true,
  run(model) {
    const applied: Change[] = [];
    const skipped: Skip[] = [];
    let known: Types | undefined;
    const types = () => (known ??= inferTypes(model));
    for (const body of [...allBodies(model)])
      for (const node of [...body.nodes]) {
        if (node.domain !== '' || node.op !== 'BatchNormalization') continue;
        const site = siteName(node);
        const plan = planFold(model, node, types);
        if (typeof plan === 'string') {
          skipped.push({ site, reason: plan });
          continue;
        }
        applied.push({ site, detail: `folded into ${label(plan.producer)}` });
        applyFold(model, node, plan);
      }
    return { pass: 'fold-batchnorm', applied, skipped };
  },
};

function planFold(model: Model, bn: Node, types: () => Types): AffinePlan | string {
  const affine = readAffine(model, bn);
  if (typeof affine === 'string') return affine;
  const before = producerOf(bn, bn.inputs[0]);
  if (typeof before === 'string') return before;
  return planAffine(model, before, affine, types);
}

function ownReason(model: Model, bn: Node): string | null {
  const opset = opsetOf(model, bn.body);
  if (opset < 7) return `its meaning at opset ${opset} is another one`;
  if (referenced(bn).length > 0) return "its attributes are given by the function's caller";
  if (opset < 9 && (intAttr(bn, 'spatial') ?? 1) !== 1) return 'it normalizes each position (spatial=0)';
  if (opset >= 14 && (intAttr(bn, 'training_mode') ?? 0) !== 0) return 'it is in training mode';
  const extra = bn.outputs.slice(1).filter((value) => value !== null);
  // Below opset 14 it is the presence of these outputs that selects training.
  if (opset < 14 && extra.length > 0) return 'it is in training mode (it has outputs for running statistics)';
  if (extra.some((value) => value.users.size > 0)) return 'its running statistics are read';
  const [output] = bn.outputs;
  if (!output) return 'it has no output';
  const elsewhere = [...output.users.keys()].some((user) => 'nodes' in user && user !== bn.body);
  return elsewhere ? `a nested graph returns its output '${output.name}'` : null;
}

/** What a normalisation does at inference, by channel; or why that is not known before it runs. */
export function readAffine(model: Model, bn: Node): Affine | string {
  const bad = ownReason(model, bn);
  if (bad) return bad;
  const parameters: Float64Array[] = [];
  for (const [index, name] of ['scale', 'bias', 'mean', 'variance'].entries()) {
    const numbers = floats(model, bn.inputs[index + 1]);
    if (typeof numbers === 'string') return `its ${name} ${numbers}`;
    parameters.push(numbers.values);
  }
  const [gamma, beta, mean, variance] = parameters as [Float64Array, Float64Array, Float64Array, Float64Array];
  if (parameters.some((values) => values.length !== gamma.length)) return 'its parameters differ in length';
  // Attributes are float32, also those of a model that was built in memory and never written.
  const epsilon = Math.fround(floatAttr(bn, 'epsilon') ?? 1e-5);
  const scale = gamma.map((value, c) => value / Math.sqrt(at(variance, c) + epsilon));
  return { scale, shift: beta.map((value, c) => value - at(scale, c) * at(mean, c)) };
}

function applyFold(model: Model, bn: Node, plan: AffinePlan): void {
  const [input] = bn.inputs;
  const [output] = bn.outputs;
  if (!input || !output) return;
  applyAffine(model, plan);
  const parameters = bn.inputs.slice(1);
  // The output's only reader is the normalization, so it is not public and takes over any public name.
  if (!plan.add) replaceUses(output, input);
  const next = removeNode(bn);
  if (plan.add) {
    const shift = addConstant(model, bn.body, plan.add, next);
    addNode(
      model,
      bn.body,
      { op: 'Add', name: `${siteName(bn)}_add`, inputs: [input, shift], outputs: [output] },
      next,
    );
  }
  const gone = new Set(bn.outputs.slice(plan.add ? 1 : 0));
  dropValueInfo(bn.body, (value) => gone.has(value));
  pruneUnused(parameters);
}
