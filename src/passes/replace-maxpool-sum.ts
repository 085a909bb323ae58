/**
 * Before: y = MaxPool(x)
 * After: y = k AveragePool(x) over the same windows, which have k elements and in which zeros around the input count: the
 *   scaled mean pool of CryptoNets (Gilad-Bachrach et al., ICML 2016), a sum without a division. The factor k goes into
 *   the weights of the Conv, ConvTranspose, Gemm or MatMul that reads y, directly or through operators that scale with
 *   their input (Flatten, Reshape, Squeeze, Unsqueeze, Transpose, Identity, Dropout at inference, average pools); where
 *   there is no such reader, y = Mul(AveragePool(x), k).
 * Conditions: those of `replace-maxpool`; opset 7 or higher, a known window and element type. To fold k: every value on
 *   the way has one reader, in the same body, and is no output; the weights are constants of a float type.
 * Algebra: W (k x) + b = (k W) x + b, computed in float64 and rounded once; padding with zeros scales as well. The model
 *   computes another function afterwards and has to be trained for it. At the far edge with ceil_mode, where a window
 *   hangs over the padding, it is k times whatever AveragePool gives.
 */
import { attribute, intsAttr, isReference } from '../graph/attributes.ts';
import { addConstant, addNode } from '../graph/edit.ts';
import type { ElementType, Model, Node, Value } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { elementCount, makeTensor, type Tensor, toNumbers } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import { allBodies, opsetOf, topologicalOrder } from '../graph/walk.ts';
import { floats, setConstant } from './affine.ts';
import { dropoutRefusal } from './drop-identity.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';
import { average, type PoolPlan, planAverage } from './replace-maxpool.ts';

export const replaceMaxpoolSum: Pass = {
  name: 'replace-maxpool-sum',
  summary: 'Replace MaxPool by the sum over the same windows (a scaled mean pool), its factor folded into weights',
  exact: false,
  run(model) {
    const applied: Change[] = [];
    const skipped: Skip[] = [];
    let types: Types | undefined;
    // Backwards: the factor of a pool then passes through the average that a later one has become.
    for (const body of [...allBodies(model)].reverse())
      for (const node of [...topologicalOrder(body)].reverse()) {
        if (node.domain !== '' || node.op !== 'MaxPool') continue;
        types ??= inferTypes(model);
        const site = siteName(node);
        const plan = planSum(model, node, types);
        if (typeof plan === 'string') skipped.push({ site, reason: plan });
        else applied.push({ site, detail: replace(model, plan) });
      }
    return { pass: 'replace-maxpool-sum', applied: applied.reverse(), skipped: skipped.reverse() };
  },
};

interface SumPlan extends PoolPlan {
  /** Elements of a window. */
  readonly k: number;
  readonly elem: ElementType;
}

function planSum(model: Model, node: Node, types: Types): SumPlan | string {
  const plan = planAverage(model, node, types);
  if (typeof plan === 'string') return plan;
  const opset = opsetOf(model, node.body);
  if (opset < 7) return `AveragePool can't count padding at opset ${opset}`;
  const kernel = attribute(node, 'kernel_shape');
  if (!kernel) return 'it has no kernel_shape';
  if (isReference(kernel)) return "its window is given by the function's caller";
  const elem = types.get(plan.input).elem ?? types.get(plan.output).elem;
  if (!elem) return 'its element type is unknown, so a factor for it can not be made';
  return { ...plan, k: elementCount(intsAttr(node, 'kernel_shape') ?? []), elem };
}

/** @returns what was done */
function replace(model: Model, plan: SumPlan): string {
  const { node, output, k, elem } = plan;
  const folded = k === 1 ? null : foldFactor(model, output, k);
  if (k === 1 || folded) {
    average(model, plan, 1, output);
    return folded
      ? `MaxPool became a sum; its factor ${k} is in the weights of ${label(folded)}`
      : 'MaxPool became a sum';
  }
  const { value, next } = average(model, plan, 1);
  const name = `${siteName(node)}_sum`;
  const factor = addConstant(model, node.body, makeTensor(`${name}_factor`, elem, [], [k]), next);
  addNode(model, node.body, { op: 'Mul', name, inputs: [value, factor], outputs: [output] }, next);
  return `MaxPool became a sum; a Mul multiplies by its factor ${k}`;
}

/** Operators whose output scales with their first input. */
const SCALES: ReadonlySet<string> = new Set([
  ...['Identity', 'Flatten', 'Reshape', 'Squeeze', 'Unsqueeze', 'Transpose', 'Dropout'],
  ...['AveragePool', 'GlobalAveragePool'],
]);

/** Multiplies the weights that a value ends in. @returns their node, or null, with nothing changed, where there is none */
function foldFactor(model: Model, from: Value, k: number): Node | null {
  let value = from;
  for (;;) {
    const reader = onlyReader(value);
    if (reader?.domain !== '') return null;
    const weights = weightsFor(model, reader, value, k);
    if (weights) {
      setConstant(model, reader, weights.index, weights.tensor);
      return reader;
    }
    if (!SCALES.has(reader.op) || reader.inputs[0] !== value || !reader.outputs[0]) return null;
    if (reader.op === 'Dropout' && dropoutRefusal(model, reader) !== null) return null;
    value = reader.outputs[0];
  }
}

/** The node that reads a value, once, if nobody else does. */
function onlyReader(value: Value): Node | null {
  const [[user, times] = []] = [...value.users];
  return user && 'op' in user && value.users.size === 1 && times === 1 && user.body === value.body ? user : null;
}

/** The constant factor of a product with a value, multiplied by k; null where there is none. */
function weightsFor(model: Model, node: Node, value: Value, k: number): { index: number; tensor: Tensor } | null {
  const at = node.inputs.indexOf(value);
  const index =
    (node.op === 'Conv' || node.op === 'ConvTranspose') && at === 0
      ? 1
      : (node.op === 'Gemm' || node.op === 'MatMul') && at < 2
        ? 1 - at
        : null;
  const weights = index === null ? null : floats(model, node.inputs[index]);
  if (index === null || weights === null || typeof weights === 'string') return null;
  const { elem, dims } = weights.tensor;
  const values = weights.values.map((weight) => k * weight);
  const tensor = makeTensor(weights.name, elem, dims, values);
  return toNumbers(tensor).every(Number.isFinite) ? { index, tensor } : null;
}
