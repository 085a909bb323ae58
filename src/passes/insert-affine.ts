/**
 * Before:  y = activation(x)
 * After:   y = activation(scale x + shift), by channel: folded into the layer that makes x where nothing else reads it and
 *          it has weights, else one Mul and one Add.
 */
import { addConstant, addNode, setInput } from '../graph/edit.ts';
import type { Model, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { makeTensor, toNumbers } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import type { ActivationSite } from './activation-sites.ts';
import { type Affine, applyAffine, planAffine, producerOf } from './affine.ts';

/** An activation, or a node in its place: whatever reads the value. */
export type Reader = Pick<ActivationSite, 'name' | 'node' | 'input' | 'elem'>;

/**
 * @param types of this model
 * @param options.what names the nodes, where there have to be some: SITE/WHAT/mul and SITE/WHAT/add
 * @param options.fold false: nodes in any case
 * @returns where it went, or why nothing was done
 */
export function insertAffine(
  model: Model,
  types: Types,
  site: Reader,
  affine: Affine,
  { what, fold = true }: { readonly what: string; readonly fold?: boolean },
): { readonly detail: string } | { readonly reason: string } {
  const shape = types.get(site.input).shape;
  if (!shape || shape.length < 2)
    return { reason: `the shape of '${site.input.name}' is unknown or has no channel axis` };
  const producer = fold ? producerOf(site.node, site.input) : 'not asked for';
  const plan = typeof producer === 'string' ? producer : planAffine(model, producer, affine, () => types);
  if (typeof plan !== 'string' && !plan.add) {
    applyAffine(model, plan);
    return { detail: `folded into ${label(plan.producer)}` };
  }
  const dims = [affine.scale.length, ...shape.slice(2).map(() => 1)];
  const tensors = (['scale', 'shift'] as const).map((name) =>
    makeTensor(`${site.name}/${what}/${name}`, site.elem, dims, affine[name]),
  );
  for (const [i, name] of ['scale', 'shift'].entries()) {
    const tensor = tensors[i];
    if (tensor && !toNumbers(tensor).every(Number.isFinite))
      return { reason: `its ${name} would not be finite in ${site.elem}` };
  }
  const { body } = site.node;
  const [scale, shift] = tensors.map((tensor) => addConstant(model, body, tensor, site.node)) as [Value, Value];
  const step = (op: string, a: Value, b: Value): Value =>
    addNode(model, body, { op, name: `${site.name}/${what}/${op.toLowerCase()}`, inputs: [a, b] }, site.node)
      .outputs[0] as Value;
  feed(site, step('Add', step('Mul', site.input, scale), shift));
  return { detail: 'one Mul and one Add' };
}

/** Lets the node read another value. Max(0, x) has the activation's input elsewhere than first, Max(x, x, 0) twice. */
export function feed({ node, input }: Pick<Reader, 'node' | 'input'>, value: Value): void {
  for (const [index, old] of node.inputs.entries()) if (old === input) setInput(node, index, value);
}
