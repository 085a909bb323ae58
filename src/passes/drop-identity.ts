/**
 * Before: y = Identity(x), or y, mask = Dropout(x) as it runs at inference
 * After: the readers of y read x
 * Conditions: Dropout: opset < 12 (7 to 11 know no training; below 7 `is_test` is set), or `training_mode` absent or the
 *   constant false; nobody reads its mask. Where y is an output of its body, x must be a value that a node of the same
 *   body makes and that is no output itself: x then takes over y's name. So an Identity between a function's input and
 *   output, or between an outer value and a subgraph's output, stays. The ratio does not matter.
 * Algebra: y = x
 */
import { intAttr, isReference } from '../graph/attributes.ts';
import { constantScalar } from '../graph/constants.ts';
import { dropValueInfo, pruneUnused, removeNode, replaceUses } from '../graph/edit.ts';
import type { Model, Node } from '../graph/ir.ts';
import { allBodies, opsetOf, topologicalOrder } from '../graph/walk.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';

export const dropIdentity: Pass = {
  name: 'drop-identity',
  summary: 'Remove Identity nodes, and Dropout nodes that do nothing at inference',
  exact: true,
  run(model) {
    const applied: Change[] = [];
    const skipped: Skip[] = [];
    for (const body of [...allBodies(model)])
      for (const node of [...topologicalOrder(body)]) {
        if (node.domain !== '' || (node.op !== 'Identity' && node.op !== 'Dropout')) continue;
        const site = siteName(node);
        const reason = refusal(model, node) ?? drop(node);
        if (reason !== null) skipped.push({ site, reason });
        else applied.push({ site, detail: `${node.op} removed` });
      }
    return { pass: 'drop-identity', applied, skipped };
  },
};

/** Whether a Dropout passes its input through: null where it does, else why it may not. */
export function dropoutRefusal(model: Model, node: Node): string | null {
  const opset = opsetOf(model, node.body);
  if (opset >= 12) {
    const mode = node.inputs[2];
    return !mode || constantScalar(model, mode) === 0 ? null : 'its training_mode is not constantly false';
  }
  if (opset >= 7) return null;
  const reference = node.attributes.some((attr) => attr.name === 'is_test' && isReference(attr));
  return !reference && intAttr(node, 'is_test') ? null : 'its is_test is not set, so it drops at random';
}

function refusal(model: Model, node: Node): string | null {
  const [input] = node.inputs;
  const [output, ...more] = node.outputs;
  if (!input || !output) return 'it has no input or no output';
  if (node.op === 'Dropout' && more.some((value) => value && value.users.size > 0)) return 'its mask is read';
  return node.op === 'Dropout' ? dropoutRefusal(model, node) : null;
}

/** @returns why not, with nothing changed */
function drop(node: Node): string | null {
  const [input, ...rest] = node.inputs;
  const [output] = node.outputs;
  if (!input || !output) return 'it has no input or no output';
  if (!replaceUses(output, input))
    return `it gives the output '${output.name}' its name, which '${input.name}' can't take over`;
  const gone = new Set(node.outputs);
  removeNode(node);
  dropValueInfo(node.body, (value) => gone.has(value));
  pruneUnused(rest);
  return null;
}
