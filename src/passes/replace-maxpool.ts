/**
 * Before: y = MaxPool(x)
 * After: y = AveragePool(x) over the same windows; padding does not count
 * Conditions: x is of a float type; the indices of the maxima are not read; no dilation below opset 19, no ceil_mode
 *   below opset 10. The storage order of the indices does not matter.
 * Algebra: none; the model computes another function afterwards and has to be trained for it
 */
import { attribute, intAttribute, intsAttr, isReference } from '../graph/attributes.ts';
import { addNode, dropValueInfo, removeNode } from '../graph/edit.ts';
import type { Attribute, Model, Node, Value } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { FLOAT_TYPES } from '../graph/tensor.ts';
import { allBodies, opsetOf } from '../graph/walk.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';

export const replaceMaxpool: Pass = {
  name: 'replace-maxpool',
  summary: 'Replace MaxPool by AveragePool over the same windows',
  exact: false,
  run(model) {
    const applied: Change[] = [];
    const skipped: Skip[] = [];
    let types: Types | undefined;
    for (const body of [...allBodies(model)])
      for (const node of [...body.nodes]) {
        if (node.domain !== '' || node.op !== 'MaxPool') continue;
        types ??= inferTypes(model);
        const site = siteName(node);
        const reason = replace(model, node, types);
        if (reason !== null) skipped.push({ site, reason });
        else applied.push({ site, detail: 'MaxPool became AveragePool' });
      }
    return { pass: 'replace-maxpool', applied, skipped };
  },
};

const SHARED = ['kernel_shape', 'strides', 'pads', 'auto_pad', 'ceil_mode'];

/** @returns why not, with nothing changed */
function replace(model: Model, node: Node, types: Types): string | null {
  const opset = opsetOf(model, node.body);
  const [input] = node.inputs;
  const [output, indices] = node.outputs;
  if (!input || !output) return 'it has no input or no output';
  if (indices && indices.users.size > 0) return 'the indices of the maxima are read';
  const elem = elementOf(input, output, types, opset);
  if (elem) return elem;
  const kept = SHARED.flatMap((name) => attribute(node, name) ?? []);
  if (opset < 10 && attribute(node, 'ceil_mode')) return `AveragePool knows no ceil_mode at opset ${opset}`;
  const dilations = dilationsOf(node, opset);
  if (typeof dilations === 'string') return dilations;

  const next = removeNode(node);
  if (indices) dropValueInfo(node.body, (value) => value === indices);
  const attributes = [...kept, ...dilations, intAttribute('count_include_pad', 0)];
  const spec = { op: 'AveragePool', name: `${siteName(node)}_average`, inputs: [input], attributes, outputs: [output] };
  addNode(model, node.body, spec, next);
  return null;
}

function elementOf(input: Value, output: Value, types: Types, opset: number): string | null {
  const elem = types.get(input).elem ?? types.get(output).elem;
  if (elem) return FLOAT_TYPES.has(elem) ? null : `AveragePool has no version for ${elem}`;
  return opset < 12 ? null : 'its element type is unknown, so it may be one that AveragePool has no version for';
}

/** The attribute to take over, if any. */
function dilationsOf(node: Node, opset: number): Attribute[] | string {
  const dilations = attribute(node, 'dilations');
  if (!dilations) return [];
  if (opset >= 19) return [dilations];
  if (isReference(dilations)) return "its dilations are given by the function's caller";
  const wide = intsAttr(node, 'dilations')?.some((dilation) => dilation !== 1);
  return wide ? `AveragePool knows no dilations at opset ${opset}` : [];
}
