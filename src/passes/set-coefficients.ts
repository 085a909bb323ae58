/**
 * Before: constants that are added to or multiplied with data, in any shape that broadcasts
 * After:  in the shape that a compiler wants: `full`, the data's own; `vector`, [1] for a single number and [1, C, 1, 1] for
 *   channels; `constant`, Constant nodes, of rank 0 for a single number
 * Conditions: Add and Mul of the main graph with one constant; the shape of the data is known (`full`, `vector`), but
 *   that a batch may stay open where it is 1 in the constant
 * Algebra: none, broadcasting is written out
 */
import { tensorAttribute } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import { addNode, pruneUnused, setInput } from '../graph/edit.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { FLOAT_TYPES, makeTensor, type Tensor, toNumbers } from '../graph/tensor.ts';
import { setConstant } from './affine.ts';
import { expand } from './element-polynomials.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';

export const COEFFICIENT_STYLES = ['full', 'vector', 'constant'] as const;
export interface SetCoefficientsOptions {
  readonly style: (typeof COEFFICIENT_STYLES)[number];
}

export const setCoefficients: Pass<SetCoefficientsOptions> = {
  name: 'set-coefficients',
  summary: 'Give the constants of Add and Mul the shape that a target takes',
  exact: true,
  run(model, { style }) {
    const applied: Change[] = [];
    const skipped: Skip[] = [];
    const types = inferTypes(model);
    let grown = 0;
    for (const node of [...model.graph.nodes]) {
      if (node.domain !== '' || (node.op !== 'Add' && node.op !== 'Mul')) continue;
      const index = node.inputs.findIndex((value) => constantOf(model, value));
      const data = node.inputs[1 - index];
      const tensor = constantOf(model, node.inputs[index]);
      if (index < 0 || !data || !tensor || constantOf(model, data) || !FLOAT_TYPES.has(tensor.elem)) continue;
      const site = siteName(node);
      const shape = types.get(data).shape?.map((dim, axis) => (axis === 0 && typeof dim !== 'number' ? 1 : dim));
      const styled = shape?.every((dim) => typeof dim === 'number')
        ? inStyle(tensor, style, shape as number[])
        : `the shape of '${data.name}' is not known`;
      if (typeof styled === 'string') skipped.push({ site, reason: styled });
      else if (place(model, node, index, styled, style)) {
        grown += styled.dims.reduce((a, b) => a * b, 1) - tensor.dims.reduce((a, b) => a * b, 1);
        applied.push({
          site,
          detail: `[${tensor.dims}] -> ${style === 'constant' ? 'Constant ' : ''}[${styled.dims}]`,
        });
      }
    }
    if (grown > 0) applied.push({ site: model.graph.name, detail: `${grown} elements more` });
    return { pass: setCoefficients.name, applied, skipped };
  },
};

function inStyle(tensor: Tensor, style: SetCoefficientsOptions['style'], shape: readonly number[]): Tensor | string {
  const { dims, elem, name } = tensor;
  const fits =
    dims.length <= shape.length && dims.every((dim, i) => dim === 1 || dim === shape[shape.length - dims.length + i]);
  if (!fits) return `its constant [${dims}] makes the result larger than [${shape}]`;
  const values = toNumbers(tensor);
  if (style === 'full') return makeTensor(name, elem, shape, expand({ dims, values }, shape));
  const single = values.every((value) => value === values[0]);
  if (single) return makeTensor(name, elem, style === 'vector' ? [1] : [], values.subarray(0, 1));
  const padded = [...shape.slice(0, shape.length - dims.length).map(() => 1), ...dims];
  return makeTensor(name, elem, padded, values);
}

/** @returns false where it is so already */
function place(
  model: Model,
  node: Node,
  index: number,
  tensor: Tensor,
  style: SetCoefficientsOptions['style'],
): boolean {
  const old = node.inputs[index] as Value;
  const isNode = old.producer?.op === 'Constant';
  const same = `${constantOf(model, old)?.dims}` === `${tensor.dims}`;
  if (same && isNode === (style === 'constant')) return false;
  if (style !== 'constant') setConstant(model, node, index, tensor);
  else {
    const attributes = [tensorAttribute('value', tensor)];
    const made = addNode(
      model,
      node.body,
      { op: 'Constant', name: tensor.name || siteName(node), inputs: [], attributes },
      node,
    );
    setInput(node, index, made.outputs[0] as Value);
    pruneUnused([old]);
  }
  return true;
}
