/**
 * Before: y = Gemm(Flatten(GlobalAveragePool(x))), or an AveragePool with one window
 * After:  y = Gemm'(Flatten(x)): the mean is in the weights, a level less
 * Conditions: nobody else reads what is in between; the Gemm is in the form of `set-gemm`; x is of a known size
 * Algebra: W'[o, c H W + i] = W[o, c] / (H W)
 */
import { floatAttr, intAttr } from '../graph/attributes.ts';
import { dropValueInfo, removeNode, replaceUses } from '../graph/edit.ts';
import type { Node, Value } from '../graph/ir.ts';
import { elementCount, makeTensor } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import { at, floats, setConstant } from './affine.ts';
import { type NodeOutcome, nodePass } from './node-pass.ts';
import { isGlobal, windowsOf } from './windows.ts';

export const foldGlobalPool = nodePass(
  { name: 'fold-global-pool', summary: 'Fold GlobalAveragePool into the Gemm after it', exact: true },
  ['GlobalAveragePool', 'AveragePool'],
  ({ model, types }, pool): NodeOutcome => {
    const [x] = pool.inputs;
    const [pooled] = pool.outputs;
    if (!x || !pooled) return null;
    if (pool.op === 'AveragePool') {
      const windows = windowsOf(model, pool, types());
      if (typeof windows === 'string' || !isGlobal(windows)) return null;
    }
    const size = types().get(x).shape?.slice(2);
    if (size?.length !== 2 || !size.every((dim) => typeof dim === 'number')) return { reason: 'its size is not known' };
    const flatten = onlyReader(pooled, 'Flatten');
    const gemm = flatten && onlyReader(flatten.outputs[0] as Value, 'Gemm');
    if (!flatten || !gemm || (intAttr(flatten, 'axis') ?? 1) !== 1)
      return { reason: 'no Flatten and Gemm alone read it' };
    const weights = floats(model, gemm.inputs[1]);
    if (typeof weights === 'string') return { reason: `the weight of ${label(gemm)} ${weights}` };
    if (
      (intAttr(gemm, 'transB') ?? 0) !== 1 ||
      (intAttr(gemm, 'transA') ?? 0) !== 0 ||
      (floatAttr(gemm, 'alpha') ?? 1) !== 1
    )
      return { reason: `${label(gemm)} is not in the form of set-gemm` };
    const [outs = 0, channels = 0] = weights.tensor.dims;
    const inner = elementCount(size as number[]);
    const values = Float64Array.from(
      { length: outs * channels * inner },
      (_, i) => at(weights.values, Math.floor(i / inner)) / inner,
    );
    if (!replaceUses(pooled, x)) return { reason: 'its output is public' };
    removeNode(pool);
    dropValueInfo(pool.body, (value) => value === pooled || value === flatten.outputs[0]);
    setConstant(model, gemm, 1, makeTensor(weights.name, weights.tensor.elem, [outs, channels * inner], values));
    return { detail: `folded into ${label(gemm)}, whose weight is now [${outs},${channels * inner}]` };
  },
);

/** The node that alone reads a value, as its first input. */
function onlyReader(value: Value, op: string): Node | null {
  const [user, more] = value.users.keys();
  return user && !more && 'op' in user && user.op === op && user.domain === '' && user.inputs[0] === value
    ? user
    : null;
}
