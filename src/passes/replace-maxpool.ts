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

/** @returns why not, with nothing changed */
function replace(model: Model, node: Node, types: Types): string | null {
  const pool = planAverage(model, node, types);
  if (typeof pool === 'string') return pool;
  average(model, pool, 0, pool.output);
  return null;
}

const SHARED = ['kernel_shape', 'strides', 'pads', 'auto_pad', 'ceil_mode'];

/** A MaxPool that can become an AveragePool. */
export interface PoolPlan {
  readonly node: Node;
  readonly input: Value;
  readonly output: Value;
  /** The windows, as AveragePool states them. */
  readonly attributes: readonly Attribute[];
}

/** @returns why not, where AveragePool can't have the same windows */
export function planAverage(model: Model, node: Node, types: Types): PoolPlan | string {
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
  return { node, input, output, attributes: [...kept, ...dilations] };
}

/**
 * Puts the AveragePool in the MaxPool's place.
 * @param countPadding whether zeros around the input count
 * @param output the MaxPool's own, or none for a new value
 * @returns the AveragePool's output, and the node that comes after it
 */
export function average(
  model: Model,
  { node, input, attributes }: PoolPlan,
  countPadding: 0 | 1,
  output?: Value,
): { value: Value; next: Node | null } {
  const [, indices] = node.outputs;
  const next = removeNode(node);
  if (indices) dropValueInfo(node.body, (value) => value === indices);
  // Below opset 7 padding never counts, and there is no such attribute.
  const counts = opsetOf(model, node.body) >= 7 ? [intAttribute('count_include_pad', countPadding)] : [];
  const name = `${siteName(node)}_average`;
  const spec = { op: 'AveragePool', name, inputs: [input], attributes: [...attributes, ...counts] };
  const made = addNode(model, node.body, { ...spec, ...(output && { outputs: [output] }) }, next);
  return { value: made.outputs[0] as Value, next };
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
