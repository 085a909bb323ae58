/**
 * Before: y = BatchNormalization(x) that `fold-batchnorm` left
 * After:  y = scale x + shift, a Mul and an Add by channel
 * Conditions: those of `fold-batchnorm` on the node itself; x has a known rank of at least 2
 * Algebra: scale = gamma / sqrt(var + epsilon), shift = beta - scale mean
 */
import { addConstant, addNode, dropValueInfo, pruneUnused, removeNode } from '../graph/edit.ts';
import type { Value } from '../graph/ir.ts';
import { makeTensor } from '../graph/tensor.ts';
import { readAffine } from './fold-batchnorm.ts';
import { nodePass } from './node-pass.ts';
import { siteName } from './pass.ts';

export const replaceBatchnorm = nodePass(
  { name: 'replace-batchnorm', summary: 'Write BatchNormalization as Mul and Add', exact: true },
  ['BatchNormalization'],
  ({ model, types }, node) => {
    const affine = readAffine(model, node);
    if (typeof affine === 'string') return { reason: affine };
    const [x] = node.inputs;
    const [y, ...rest] = node.outputs;
    const { shape, elem } = x ? types().get(x) : { shape: null, elem: null };
    if (!x || !y || !elem || !shape || shape.length < 2) return { reason: 'the shape of its input is not known' };
    const dims = [1, affine.scale.length, ...shape.slice(2).map(() => 1)];
    const parameters = node.inputs.slice(1);
    const name = siteName(node);
    const next = removeNode(node);
    dropValueInfo(node.body, (value) => rest.includes(value));
    const constant = (what: 'scale' | 'shift') =>
      addConstant(model, node.body, makeTensor(`${name}/${what}`, elem, dims, affine[what]), next);
    const scaled = addNode(model, node.body, { op: 'Mul', name: `${name}/mul`, inputs: [x, constant('scale')] }, next);
    const inputs = [scaled.outputs[0] as Value, constant('shift')];
    addNode(model, node.body, { op: 'Add', name: `${name}/add`, inputs, outputs: [y] }, next);
    pruneUnused(parameters);
    return { detail: 'a Mul and an Add' };
  },
);
