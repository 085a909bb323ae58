/**
 * Activations that stay for some channels (axis 1) while the others are replaced: the channels are gathered apart, so that
 * only those which keep it are elements of a ReLU, and put back in order.
 */
import { intAttribute } from '../graph/attributes.ts';
import { addConstant, addNode } from '../graph/edit.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { makeTensor } from '../graph/tensor.ts';
import type { Refusal } from '../poly/recipe.ts';
import type { ActivationSite } from './activation-sites.ts';

export interface KeptChannels {
  /** Channels that keep the activation, and the others; both ascending, neither empty. */
  readonly keep: readonly number[];
  readonly rest: readonly number[];
}

/** Operators that are the activation by themselves, with nothing that belongs to single channels. */
const OPERATORS = new Set(['Relu', 'LeakyRelu', 'Clip', 'Sigmoid', 'Tanh', 'Elu', 'Selu', 'Celu', 'Gelu', 'Mish']);

/** @returns why the site can't be split, or the channels */
export function keepChannels(site: ActivationSite, types: Types, keep: readonly number[]): KeptChannels | Refusal {
  const channels = types.get(site.input).shape?.[1];
  if (typeof channels !== 'number') return { reason: `the number of channels of '${site.input.name}' is not known` };
  const kept = new Set(keep);
  const stranger = [...kept].find((c) => c >= channels);
  if (stranger !== undefined) return { reason: `channel ${stranger} is to keep it, and there are ${channels}` };
  if (kept.size === channels) return { reason: 'all its channels are to keep it' };
  if (site.nodes.length > 1 || !OPERATORS.has(site.node.op))
    return { reason: 'only activations of one operator without parameters by channel can stay for some channels' };
  const all = Array.from({ length: channels }, (_, c) => c);
  return { keep: all.filter((c) => kept.has(c)), rest: all.filter((c) => !kept.has(c)) };
}

/**
 * Splits the input of a site whose node was removed.
 * @param before where the nodes go
 * @param emit what the channels that are replaced become
 */
export function splitChannels(
  model: Model,
  { node, name, input, output }: ActivationSite,
  before: Node | null,
  { keep, rest }: KeptChannels,
  emit: (part: Value) => Value,
): void {
  const { body } = node;
  const gather = (what: string, value: Value, channels: readonly number[], outputs?: readonly Value[]): Value => {
    const indices = makeTensor(`${name}/${what}/channels`, 'int64', [channels.length], channels);
    const inputs = [value, addConstant(model, body, indices, before)];
    const spec = { op: 'Gather', name: `${name}/${what}`, inputs, attributes: [intAttribute('axis', 1)] };
    return addNode(model, body, { ...spec, ...(outputs && { outputs }) }, before).outputs[0] as Value;
  };
  const { op, attributes } = node;
  const inputs = [gather('keep', input, keep), ...node.inputs.slice(1)];
  const [kept] = addNode(model, body, { op, name: `${name}/kept`, inputs, attributes }, before).outputs;
  const parts = [kept as Value, emit(gather('replace', input, rest))];
  const concat = { op: 'Concat', name: `${name}/join`, inputs: parts, attributes: [intAttribute('axis', 1)] };
  const [joined] = addNode(model, body, concat, before).outputs;
  const places = [...keep, ...rest];
  const order = places.map((_, channel) => places.indexOf(channel));
  gather('order', joined as Value, order, [output]);
}
