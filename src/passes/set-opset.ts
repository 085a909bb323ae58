/**
 * Before: a model under one opset of the default domain
 * After:  the same model under another one: attributes that became inputs (or the other way) moved, nothing else
 * Conditions: every operator on the way is in the table of changes (`opset-changes.ts`) and none of its nodes meets a
 *   change that alters its meaning. Functions and nested graphs are converted too. All of it or nothing. The IR version
 *   and the opsets of other domains stay.
 * Algebra: none; each node keeps its meaning under the version of its operator
 */
import { SisyphusError } from '../errors.ts';
import { referenced } from '../graph/attributes.ts';
import { cloneModel, setOpset } from '../graph/edit.ts';
import type { Model, Node } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { label, OPSETS } from '../graph/verify.ts';
import { bodiesWithin, functionTable, opsetOf } from '../graph/walk.ts';
import { fine, type OpsetSite } from './opset-adapters.ts';
import { OPSET_CHANGES } from './opset-changes.ts';
import { type Change, type Pass, type PassReport, type Skip, siteName } from './pass.ts';

export interface SetOpsetOptions {
  readonly opset: number;
}

export const setOpsetPass: Pass<SetOpsetOptions> = {
  name: 'set-opset',
  summary: 'converts the operators to another opset (--opset)',
  exact: true,
  run: runSetOpset,
};

function runSetOpset(model: Model, { opset: target }: SetOpsetOptions): PassReport {
  const { min, max } = OPSETS;
  if (!Number.isInteger(target) || target < min || target > max)
    throw new SisyphusError('usage', `--opset: ${target} is no opset from ${min} to ${max}`);
  const report = (applied: Change[], skipped: Skip[]): PassReport => ({ pass: setOpsetPass.name, applied, skipped });
  const current = opsetOf(model, model.graph);
  const roots = [model.graph, ...model.functions];
  if (roots.every((root) => opsetOf(model, root) === target))
    return report([], [{ site: 'opset', reason: `it is ${target} already` }]);
  const unknown = roots.map((root) => opsetOf(model, root)).find((opset) => opset < min || opset > max);
  if (unknown !== undefined)
    return report([], [{ site: 'opset', reason: `opset ${unknown} is outside of ${min} to ${max}` }]);
  // Each step builds on the one before it, so whether all of them work is found out on a copy.
  const { refused } = convert(cloneModel(model), target);
  if (refused.length > 0) return report([], refused);
  const { changed } = convert(model, target);
  return report([{ site: 'opset', detail: `${current} -> ${target}` }, ...changed], []);
}

function convert(model: Model, target: number): { changed: Change[]; refused: Skip[] } {
  const types = inferTypes(model);
  const callee = functionTable(model);
  const changed: Change[] = [];
  const refused: Skip[] = [];
  for (const root of [model.graph, ...model.functions]) {
    const current = opsetOf(model, root);
    for (const body of [...bodiesWithin(root)])
      for (const node of [...body.nodes]) {
        if (node.domain !== '' || callee(node)) continue;
        const before = fingerprint(node);
        const reason = convertNode({ model, node, types }, current, target);
        if (reason !== null) refused.push({ site: siteName(node), reason });
        else if (fingerprint(node) !== before)
          changed.push({ site: siteName(node), detail: `${node.op} rewritten for opset ${target}` });
      }
  }
  setOpset(model, target);
  return { changed, refused };
}

/** @returns why the node can't be converted */
function convertNode(site: OpsetSite, current: number, target: number): string | null {
  const { node } = site;
  const history = OPSET_CHANGES.get(node.op);
  if (!history) return `${label(node)}: the versions of ${node.op} are not known here`;
  if (target < history.first) return `${label(node)}: ${node.op} exists from opset ${history.first} on`;
  if (history.gone !== undefined && target >= history.gone)
    return `${label(node)}: ${node.op} exists up to opset ${history.gone - 1}`;
  const up = target > current;
  const [low, high] = up ? [current, target] : [target, current];
  const crossed = history.changes.filter(({ since }) => since > low && since <= high);
  for (const change of up ? crossed : crossed.toReversed()) {
    const step = up ? change.up : change.down;
    const [given] = referenced(node);
    const reason =
      step !== fine && given !== undefined ? `its attribute '${given}' is given by the function's caller` : step(site);
    if (reason !== null) return `${label(node)} changed in opset ${change.since}: ${reason}`;
  }
  return null;
}

/** Differs exactly where a conversion changed the node. */
function fingerprint(node: Node): string {
  return JSON.stringify([
    node.inputs.map((value) => value?.name),
    node.attributes.map(({ name, proto }) => [name, `${proto.i ?? ''}`, proto.ints?.map(String)]),
  ]);
}
