/** A part of a graph as a model of its own. */
import { didYouMean, SisyphusError } from '../errors.ts';
import { typeMessage } from './edit.ts';
import type { Model, Node, Value } from './ir.ts';
import { modelFromProto } from './read.ts';
import { inferTypes } from './shapes.ts';
import { topologicalOrder } from './walk.ts';
import { copyMessage, type GraphProto, type NodeProto } from './wire.ts';
import { modelToProto } from './write.ts';

/**
 * The part of the main graph that computes some values from others; all keep their names. Metadata, opsets and functions
 * come along, and of the initializers those that are read.
 * @param from values that become inputs, as far as the part reads them
 * @param to values that become outputs, in this order; none of them among `from`
 * @throws SisyphusError `usage` where the model has no such value, or `to` depends on an input that is not in `from`
 */
export function extract(model: Model, from: readonly string[], to: readonly string[]): Model {
  const values = valuesByName(model);
  const find = (name: string): Value => {
    const value = values.get(name);
    if (value) return value;
    throw new SisyphusError('usage', `the graph has no value '${name}'${didYouMean(name, [...values.keys()])}`);
  };
  const given = new Set(from.map(find));
  const wanted = to.map(find);
  const passed = wanted.find((value) => given.has(value));
  if (passed) throw new SisyphusError('usage', `'${passed.name}' is given, so it is not computed`);
  const { nodes, read } = needed(wanted, given);
  const loose = [...read, ...wanted].find((value) => !value.producer && !value.initializer && !given.has(value));
  if (loose) throw new SisyphusError('usage', `'${wanted[0]?.name}' depends on '${loose.name}', which is not given`);
  const types = inferTypes(model);
  const proto = modelToProto(model);
  const { node: protos = [], initializer = [], value_info = [] } = proto.graph ?? {};
  const byNode = new Map(model.graph.nodes.map((node, i) => [node, protos[i] as NodeProto]));
  const names = new Set([...read, ...wanted].map(({ name }) => name));
  const inputs = [...given].filter((value) => read.has(value));
  const fed = new Set(inputs.map(({ name }) => name));
  const cut = new Set([...fed, ...to]);
  const graph = copyMessage(proto.graph as GraphProto, {
    node: topologicalOrder(model.graph)
      .filter((node) => nodes.has(node))
      .map((node) => withoutOutputs(byNode.get(node) as NodeProto, inputs)),
    initializer: initializer.filter(({ name = '' }) => names.has(name) && !fed.has(name)),
    sparse_initializer: (proto.graph?.sparse_initializer ?? []).filter(({ values: part }) =>
      names.has(part?.name ?? ''),
    ),
    input: inputs.map((value) => typeMessage(value.name, types.get(value))),
    output: wanted.map((value) => typeMessage(value.name, types.get(value))),
    value_info: value_info.filter(({ name = '' }) => !cut.has(name)),
  });
  return modelFromProto(copyMessage(proto, { graph }), model.folder);
}

function valuesByName(model: Model): Map<string, Value> {
  const { inputs, initializers, nodes } = model.graph;
  const all = [...initializers, ...inputs].map(({ value }) => value);
  for (const { outputs } of nodes) for (const value of outputs) if (value) all.push(value);
  return new Map(all.map((value) => [value.name, value]));
}

/** Nodes that `wanted` depends on but for what is given, and all values that these read. */
function needed(wanted: readonly Value[], given: ReadonlySet<Value>) {
  const nodes = new Set<Node>();
  const read = new Set<Value>();
  const queue = [...wanted];
  for (let value = queue.pop(); value; value = queue.pop()) {
    const node = value.producer;
    if (!node || nodes.has(node) || given.has(value)) continue;
    nodes.add(node);
    // Values of graphs inside the node come with it.
    for (const input of readBy(node).filter(({ body }) => body === node.body)) {
      read.add(input);
      queue.push(input);
    }
  }
  return { nodes, read };
}

/** Inputs, and what graphs inside the node read from outside. */
function readBy(node: Node): Value[] {
  const inner = node.attributes.flatMap(({ graphs }) =>
    graphs.flatMap((graph) => [...graph.nodes.flatMap(readBy), ...graph.outputs.map(({ value }) => value)]),
  );
  return [...node.inputs, ...inner].filter((value) => value !== null);
}

/** A node that makes a given value beside others makes it under another name. */
function withoutOutputs(proto: NodeProto, given: readonly Value[]): NodeProto {
  const names = new Set(given.map(({ name }) => name));
  const { output = [] } = proto;
  if (!output.some((name) => names.has(name))) return proto;
  return copyMessage(proto, { output: output.map((name) => (names.has(name) ? `${name}/again` : name)) });
}
