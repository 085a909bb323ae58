/**
 * Before: Reshape, Squeeze, Unsqueeze that keep the batch and make rows of everything else (y [N, F]), or change nothing;
 *   ReduceMean over the spatial axes
 * After:  Flatten with axis 1, or nothing; GlobalAveragePool, with Flatten after it where the axes went
 * Conditions: the shapes are known but for the batch, which is the first axis of both
 * Algebra: none; elements stay in their order
 */
import { intAttr, intAttribute, intsAttr, referenced } from '../graph/attributes.ts';
import { constantNumbers } from '../graph/constants.ts';
import { addNode, dropValueInfo, pruneUnused, removeNode, replaceUses } from '../graph/edit.ts';
import type { Dim, Model, Node, Value } from '../graph/ir.ts';
import { opsetOf } from '../graph/walk.ts';
import { type NodeOutcome, nodePass } from './node-pass.ts';
import { siteName } from './pass.ts';

export const replaceReshape = nodePass(
  {
    name: 'replace-reshape',
    summary: 'Write Reshape and its like as Flatten, ReduceMean over an image as GlobalAveragePool',
    exact: true,
  },
  ['Reshape', 'Squeeze', 'Unsqueeze', 'ReduceMean'],
  ({ model, types }, node): NodeOutcome => {
    const [x] = node.inputs;
    const [y] = node.outputs;
    const [from, to] = [x, y].map((value) => (value ? types().get(value).shape : null));
    if (!x || !y || !from || !to || referenced(node).length > 0) return { reason: 'its shapes are not known' };
    if (node.op === 'ReduceMean') return spatialMean(model, node, x, y, from.length);
    const constants = node.inputs.slice(1);
    if (`${from}` === `${to}` && from.every((dim) => dim !== null)) {
      if (!replaceUses(y, x)) return { reason: 'its output is public' };
      removeNode(node);
      dropValueInfo(node.body, (value) => value === y);
      pruneUnused(constants);
      return { detail: 'it changed nothing' };
    }
    const rest = from.slice(1);
    const features = rest.every((dim) => typeof dim === 'number') ? rest.reduce((a, b) => a * (b as number), 1) : null;
    if (to.length !== 2 || features === null || to[1] !== features || !sameBatch(from[0], to[0]))
      return { reason: `[${from}] -> [${to}] makes no rows of a batch` };
    addNode(model, node.body, flatten(node, x, y), removeNode(node));
    pruneUnused(constants);
    return { detail: `${node.op} became Flatten` };
  },
);

const sameBatch = (a: Dim | undefined, b: Dim | undefined): boolean => a === b || a === null || b === null;

const flatten = (node: Node, x: Value, y: Value) => {
  const name = node.op === 'ReduceMean' ? `${siteName(node)}/flatten` : siteName(node);
  return { op: 'Flatten', name, inputs: [x], attributes: [intAttribute('axis', 1)], outputs: [y] };
};

function spatialMean(model: Model, node: Node, x: Value, y: Value, rank: number): NodeOutcome {
  const opset = opsetOf(model, node.body);
  const given = opset < 18 ? intsAttr(node, 'axes') : constantNumbers(model, node.inputs[1]);
  const axes = [...(given ?? [])].map((axis) => (axis < 0 ? axis + rank : axis)).sort();
  if (rank !== 4 || `${axes}` !== '2,3') return { reason: 'its axes are not those of an image' };
  const keeps = (intAttr(node, 'keepdims') ?? 1) !== 0;
  const constants = node.inputs.slice(1);
  const next = removeNode(node);
  const spec = { op: 'GlobalAveragePool', name: siteName(node), inputs: [x] };
  if (keeps) addNode(model, node.body, { ...spec, outputs: [y] }, next);
  else {
    const pooled = addNode(model, node.body, spec, next).outputs[0] as Value;
    addNode(model, node.body, flatten(node, pooled, y), next);
  }
  pruneUnused(constants);
  return { detail: 'ReduceMean became GlobalAveragePool' };
}
