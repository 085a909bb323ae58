/**
 * Before: operators that leave attributes to their defaults, auto_pad, convolutions without bias
 * After:  every attribute written out, pads in numbers, biases of zeros; ceil_mode and auto_pad gone where they say nothing
 * Conditions: two spatial axes of known sizes (Conv, AveragePool, MaxPool)
 * Algebra: none
 */
import {
  attribute,
  floatAttr,
  floatAttribute,
  intAttr,
  intAttribute,
  intsAttr,
  intsAttribute,
} from '../graph/attributes.ts';
import { addConstant, removeAttribute, setAttribute, setInput } from '../graph/edit.ts';
import type { Attribute, Node } from '../graph/ir.ts';
import { makeTensor } from '../graph/tensor.ts';
import { opsetOf } from '../graph/walk.ts';
import { floats } from './affine.ts';
import { type NodeContext, type NodeOutcome, nodePass } from './node-pass.ts';
import { siteName } from './pass.ts';
import { countsPadding, windowsOf } from './windows.ts';

export const setAttributes = nodePass(
  {
    name: 'set-attributes',
    summary: 'Write out every attribute, pads in numbers, and a bias for every convolution',
    exact: true,
  },
  ['Conv', 'AveragePool', 'MaxPool', 'Gemm', 'Flatten', 'Softmax', 'LogSoftmax', 'Transpose'],
  (context, node) => {
    if (['Conv', 'AveragePool', 'MaxPool'].includes(node.op)) return windows(context, node);
    return write(node, defaultsOf(context, node));
  },
);

function windows({ model, types }: NodeContext, node: Node): NodeOutcome {
  const found = windowsOf(model, node, types());
  if (typeof found === 'string') return { reason: found };
  const { kernel, strides, dilations, pads, input, output } = found;
  const conv = node.op === 'Conv';
  const wanted = [
    intsAttribute('kernel_shape', kernel),
    intsAttribute('strides', strides),
    intsAttribute('pads', pads),
    ...(conv ? [intsAttribute('dilations', dilations), intAttribute('group', intAttr(node, 'group') ?? 1)] : []),
    ...(node.op === 'AveragePool' && pads.some((pad) => pad > 0)
      ? [intAttribute('count_include_pad', Number(countsPadding(node)))]
      : []),
  ];
  const fits = [0, 1].every((axis) => {
    const reach = ((kernel[axis] as number) - 1) * (dilations[axis] as number) + 1;
    const size = (input[axis + 2] as number) + (pads[axis] as number) + (pads[axis + 2] as number);
    return Math.floor((size - reach) / (strides[axis] as number)) + 1 === output[axis];
  });
  const dropped = ['auto_pad', ...(fits ? ['ceil_mode'] : [])].filter((name) => attribute(node, name));
  for (const name of dropped) removeAttribute(node, name);
  const done = write(node, wanted);
  const bias = conv && !node.inputs[2] ? addBias({ model }, node) : null;
  if (dropped.length === 0 && !bias) return done;
  return {
    detail: [done && 'detail' in done ? done.detail : '', ...dropped.map((name) => `no ${name}`), bias ?? '']
      .filter(Boolean)
      .join(', '),
  };
}

function addBias({ model }: Pick<NodeContext, 'model'>, conv: Node): string | null {
  const weights = floats(model, conv.inputs[1]);
  if (typeof weights === 'string') return null;
  const [rows = 0] = weights.tensor.dims;
  const zeros = makeTensor(`${siteName(conv)}_bias`, weights.tensor.elem, [rows], new Float64Array(rows));
  setInput(conv, 2, addConstant(model, conv.body, zeros, conv));
  return 'a bias of zeros';
}

function defaultsOf({ model, types }: NodeContext, node: Node): Attribute[] {
  const [x] = node.inputs;
  const rank = x ? types().get(x).shape?.length : undefined;
  switch (node.op) {
    case 'Gemm':
      return [
        floatAttribute('alpha', floatAttr(node, 'alpha') ?? 1),
        floatAttribute('beta', floatAttr(node, 'beta') ?? 1),
        intAttribute('transA', intAttr(node, 'transA') ?? 0),
        intAttribute('transB', intAttr(node, 'transB') ?? 0),
      ];
    case 'Transpose': {
      const axes = rank === undefined ? undefined : Array.from({ length: rank }, (_, i) => rank - 1 - i);
      const perm = intsAttr(node, 'perm') ?? axes;
      return perm ? [intsAttribute('perm', perm)] : [];
    }
    case 'Flatten': {
      const axis = intAttr(node, 'axis') ?? 1;
      return [intAttribute('axis', axis < 0 && rank !== undefined ? axis + rank : axis)];
    }
    default:
      return [intAttribute('axis', intAttr(node, 'axis') ?? (opsetOf(model, node.body) >= 13 ? -1 : 1))];
  }
}

/** Sets what is missing or differs. */
function write(node: Node, wanted: readonly Attribute[]): NodeOutcome {
  const text = ({ proto }: Attribute) => `${proto.i ?? ''}|${proto.f ?? ''}|${(proto.ints ?? []).map(String)}`;
  const missing = wanted.filter((attr) => {
    const present = attribute(node, attr.name);
    return !present || text(present) !== text(attr);
  });
  for (const attr of missing) setAttribute(node, attr);
  return missing.length === 0 ? null : { detail: `${missing.map(({ name }) => name).join(', ')} written out` };
}
