/** Which attributes a target wants written out, and the form of linear layers: P005, P007, P008, P009, P029. */
import { attribute, floatAttr, intAttr } from '../../graph/attributes.ts';
import { constantOf } from '../../graph/constants.ts';
import { type Draft, onNodes } from '../finding.ts';
import type { TargetName } from '../targets.ts';

type Needs = Partial<Record<TargetName, readonly string[]>>;

/** By operator and target, what must be there. */
const NEEDED: Readonly<Record<string, Needs>> = {
  Conv: {
    crypten: ['strides', 'pads', 'dilations'],
    athos: ['strides', 'kernel_shape'],
    ace: ['kernel_shape', 'strides', 'pads', 'dilations', 'group'],
    'concrete-ml': ['kernel_shape', 'strides', 'pads', 'dilations'],
    helayers: ['kernel_shape', 'strides', 'pads', 'group'],
  },
  AveragePool: {
    crypten: ['strides'],
    athos: ['strides', 'kernel_shape'],
    ace: ['kernel_shape', 'strides'],
    'concrete-ml': ['kernel_shape', 'strides', 'pads'],
  },
  MaxPool: { athos: ['strides', 'kernel_shape'] },
  Gemm: { crypten: ['alpha', 'beta'] },
  Softmax: { crypten: ['axis'] },
  Transpose: { crypten: ['perm'] },
  Flatten: { helayers: ['axis'] },
};

export const explicitAttributes = onNodes(Object.keys(NEEDED), (node) => {
  const byMissing = new Map<string, TargetName[]>();
  for (const [target, needed] of Object.entries(NEEDED[node.op] ?? {})) {
    const missing = needed.filter((name) => !attribute(node, name)).join(', ');
    if (missing) byMissing.set(missing, [...(byMissing.get(missing) ?? []), target as TargetName]);
  }
  return [...byMissing].map(([missing, targets]) => ({
    rule: 'P005',
    severity: Object.fromEntries(targets.map((target) => [target, 'rejected'])) as Draft['severity'],
    why: `${node.op} must state ${missing}`,
    fix: 'set-attributes',
  }));
});

export const convBias = onNodes(['Conv'], (node) =>
  node.inputs[2] ? [] : [{ rule: 'P007', severity: { ace: 'rejected' }, why: 'it has no bias', fix: 'set-attributes' }],
);

export const gemm = onNodes(['Gemm'], (node, { model }) => {
  const drafts: Omit<Draft, 'site'>[] = [];
  const [transA, transB] = [intAttr(node, 'transA') ?? 0, intAttr(node, 'transB') ?? 0];
  const [alpha, beta] = [floatAttr(node, 'alpha') ?? 1, floatAttr(node, 'beta') ?? 1];
  if (transB !== 1 || transA !== 0)
    drafts.push({
      rule: 'P008',
      severity: { ace: 'wrong', helayers: 'wrong' },
      why: `transA ${transA}, transB ${transB}: weights are taken as [out, in] whatever it says`,
      fix: 'set-gemm',
    });
  if (alpha !== 1 || beta !== 1)
    drafts.push({
      rule: 'P009',
      severity: {
        athos: 'wrong',
        ace: 'wrong',
        helayers: 'wrong',
        ...((alpha !== 1 || (beta !== 0 && beta !== 1)) && { 'concrete-ml': 'rejected' }),
      },
      why: `alpha ${alpha} and beta ${beta} are ignored`,
      fix: 'set-gemm',
    });
  if (!node.inputs[2])
    drafts.push({
      rule: 'P005',
      severity: { crypten: 'rejected', athos: 'rejected', portable: 'rejected' },
      why: 'Gemm must have three inputs: it has no bias',
      fix: 'set-gemm',
    });
  const width = constantOf(model, node.inputs[1])?.dims[transB];
  if (width !== undefined && (width & (width - 1)) !== 0)
    drafts.push({
      rule: 'P029',
      severity: { ace: 'unverified', portable: 'info' },
      why: `${width} inputs are no power of two: ACE computed 784 -> 128 -> 10 wrongly at 4096 slots, rightly at 8192`,
      fix: 'more slots (P024), and compare the compiled program with the model',
    });
  return drafts;
});
