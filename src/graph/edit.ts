/**
 * The verbs that change a graph. They keep every link right in both directions; nothing else may write to the IR.
 */
import { SisyphusError } from '../errors.ts';
import { tensorAttribute } from './attributes.ts';
import type { Attribute, Body, Dim, Graph, LocalFunction, Model, Node, Port, TensorType, Value } from './ir.ts';
import { addUser, dropUser, mutable, newValue } from './links.ts';
import { modelFromProto } from './read.ts';
import { elementCode, type Tensor } from './tensor.ts';
import {
  copyMessage,
  type DimensionProto,
  message,
  type ShapeProto,
  type StringEntry,
  type TensorTypeProto,
  type TypeProto,
  type ValueInfoProto,
} from './wire.ts';
import { modelToProto } from './write.ts';

/** An independent copy. Tensor data, which is immutable, is shared. */
export function cloneModel(model: Model): Model {
  return modelFromProto(modelToProto(model), model.folder);
}

/** A name that nothing in the model uses: `base`, or `base_1`, `base_2`, …; it counts as used from now on. */
export function freshName(model: Model, base: string): string {
  let name = base;
  for (let n = 1; model.names.has(name); n++) name = `${base}_${n}`;
  mutable(model).names.add(name);
  return name;
}

export interface NodeSpec {
  readonly op: string;
  readonly domain?: string;
  /** Base of the node's name and of its outputs' names. */
  readonly name: string;
  readonly inputs: readonly (Value | null)[];
  readonly attributes?: readonly Attribute[];
  /** Values without producer that the node takes over (of a node that was removed), or how many new ones. Default 1. */
  readonly outputs?: readonly Value[] | number;
}

/** Adds a node right before `before`, or at the end. Returns it; its outputs are in `outputs`. */
export function addNode(model: Model, body: Body, spec: NodeSpec, before: Node | null = null): Node {
  const name = freshName(model, spec.name);
  const node: Node = {
    name,
    op: spec.op,
    domain: spec.domain ?? '',
    inputs: [...spec.inputs],
    outputs: [],
    attributes: [...(spec.attributes ?? [])],
    body,
    proto: null,
  };
  const wanted = spec.outputs ?? 1;
  const outputs =
    typeof wanted === 'number'
      ? Array.from({ length: wanted }, () => newValue(freshName(model, `${name}_output`), body))
      : wanted;
  for (const [index, value] of outputs.entries()) {
    if (value.producer) throw new SisyphusError('internal', `the value '${value.name}' has a producer already`);
    Object.assign(mutable(value), { producer: node, index, body });
  }
  mutable(node).outputs = [...outputs];
  for (const value of node.inputs) if (value) addUser(value, node);
  const at = before ? body.nodes.indexOf(before) : body.nodes.length;
  mutable(body).nodes.splice(at, 0, node);
  return node;
}

/**
 * Removes a node. Its outputs lose their producer: give them another (`addNode` with `outputs`) or leave them unused.
 * @returns the node that came after it, which is where a replacement goes
 */
export function removeNode(node: Node): Node | null {
  unlink(node);
  const nodes = mutable(node.body).nodes;
  const at = nodes.indexOf(node);
  if (at < 0) throw new SisyphusError('internal', `the node '${node.name}' was removed already`);
  nodes.splice(at, 1);
  return nodes[at] ?? null;
}

function unlink(node: Node): void {
  for (const value of node.inputs) if (value) dropUser(value, node);
  for (const value of node.outputs) if (value) mutable(value).producer = null;
  for (const graph of node.attributes.flatMap((attr) => attr.graphs)) {
    for (const inner of graph.nodes) unlink(inner);
    for (const { value } of graph.outputs) dropUser(value, graph);
  }
}

/** Makes one input slot of a node read another value; slots beyond the end are added as absent ones. */
export function setInput(node: Node, index: number, value: Value | null): void {
  const old = node.inputs[index];
  if (old) dropUser(old, node);
  const inputs = mutable(node).inputs;
  while (inputs.length < index) inputs.push(null);
  inputs[index] = value;
  if (value) addUser(value, node);
}

/** Drops the input slots from `length` on. */
export function truncateInputs(node: Node, length: number): void {
  for (const value of node.inputs.slice(length)) if (value) dropUser(value, node);
  mutable(node).inputs.length = Math.min(length, node.inputs.length);
}

/** Sets an attribute, in place of one with its name if there is one. */
export function setAttribute(node: Node, attr: Attribute): void {
  const attributes = mutable(node).attributes;
  const at = attributes.findIndex(({ name }) => name === attr.name);
  if (at < 0) attributes.push(attr);
  else attributes[at] = attr;
}

export function removeAttribute(node: Node, name: string): void {
  mutable(node).attributes = node.attributes.filter((attr) => attr.name !== name);
}

/**
 * Makes every reader of `old` read `next`. A graph output keeps its public name: the survivor takes it over.
 * @returns false, with nothing changed, where that is impossible: `old` is an output and `next` is public itself
 */
export function replaceUses(old: Value, next: Value): boolean {
  const bodies = [...old.users.keys()].filter(isBody);
  const survivorIsPublic =
    next.isInput || next.initializer || next.body !== old.body || [...next.users.keys()].some(isBody);
  if (bodies.length > 0 && (survivorIsPublic || bodies.some((body) => body !== old.body))) return false;
  for (const user of [...old.users.keys()]) {
    if (isBody(user)) replaceOutputs(user, old, next);
    else for (const [index, value] of user.inputs.entries()) if (value === old) setInput(user, index, next);
  }
  if (bodies.length > 0) {
    const name = old.name;
    mutable(old).name = next.name;
    mutable(next).name = name;
    mutable(next).declared ??= old.declared;
    const owner = next.body as Body;
    mutable(owner).valueInfo = owner.valueInfo.filter(({ value }) => value !== next && value !== old);
  }
  return true;
}

const isBody = (user: Node | Body): user is Body => 'nodes' in user;

function replaceOutputs(body: Body, old: Value, next: Value): void {
  mutable(body).outputs = body.outputs.map((port) => {
    if (port.value !== old) return port;
    dropUser(old, body);
    addUser(next, body);
    return { value: next, info: port.info };
  });
}

/**
 * A constant in a body: an initializer, or a Constant node where the body can have none (functions; nested graphs below
 * IR 4). Below IR 4 an initializer of the main graph must be listed among the inputs too.
 * @param before the node that will read it
 */
export function addConstant(model: Model, body: Body, tensor: Tensor, before: Node | null): Value {
  if (body.kind === 'function' || (model.irVersion < 4 && body.owner)) {
    const spec = {
      op: 'Constant',
      name: tensor.name || 'constant',
      inputs: [],
      attributes: [tensorAttribute('value', tensor)],
    };
    return addNode(model, body, spec, before).outputs[0] as Value;
  }
  // The tensors of Constant nodes need no names; values do.
  const value = mutable(newValue(freshName(model, tensor.name || 'constant'), body));
  const type = { elem: tensor.elem, shape: tensor.dims };
  value.initializer = tensor;
  value.declared = type;
  mutable(body).initializers.push({ value: value as Value, tensor });
  if (model.irVersion < 4) {
    value.isInput = true;
    mutable(body).inputs.push({ value: value as Value, info: typeMessage(value.name, type) });
  }
  return value as Value;
}

/** Gives an initializer other data under the same name; every reader sees it. */
export function setInitializer(value: Value, tensor: Tensor): void {
  const graph = value.body as Graph;
  mutable(value).initializer = tensor;
  mutable(value).declared = { elem: tensor.elem, shape: tensor.dims };
  mutable(graph).initializers = graph.initializers.map((entry) => (entry.value === value ? { value, tensor } : entry));
}

/** Turns a value without producer into an initializer of its graph. */
export function makeInitializer(value: Value, tensor: Tensor): void {
  const graph = value.body as Graph;
  mutable(value).initializer = tensor;
  mutable(graph).initializers.push({ value, tensor });
}

/** Turns an initializer of the main graph into an input, which has to be fed from now on. */
export function makeInput(model: Model, value: Value): void {
  const { graph } = model;
  mutable(graph).initializers = graph.initializers.filter((entry) => entry.value !== value);
  const type = value.declared ?? { elem: null, shape: null };
  if (!value.isInput) mutable(graph).inputs.push({ value, info: typeMessage(value.name, type) });
  Object.assign(mutable(value), { initializer: null, isInput: true });
}

/** States another type for a value wherever the file states one; `shape` may hold names. */
export function setType(value: Value, type: TensorType): void {
  mutable(value).declared = type;
  const body = value.body;
  if (!body) return;
  const update = (port: Port): Port =>
    port.value === value && port.info ? { value, info: typeMessage(value.name, type, port.info) } : port;
  mutable(body).inputs = body.inputs.map(update);
  mutable(body).outputs = body.outputs.map(update);
  mutable(body).valueInfo = body.valueInfo.map(update);
}

/**
 * Puts a new input in the place of one of the main graph's, which becomes a value without producer: a node has to take
 * it over (`addNode` with `outputs`).
 */
export function replaceInput(model: Model, old: Value, base: string, type: TensorType): Value {
  const value = newValue(freshName(model, base), model.graph);
  Object.assign(mutable(value), { declared: type, isInput: true });
  mutable(old).isInput = false;
  mutable(model.graph).inputs = model.graph.inputs.map((port) =>
    port.value === old ? { value, info: typeMessage(value.name, type) } : port,
  );
  return value;
}

/** Adds an input to the main graph, which has to be fed from now on. */
export function addInput(model: Model, base: string, type: TensorType): Value {
  const value = newValue(freshName(model, base), model.graph);
  Object.assign(mutable(value), { declared: type, isInput: true });
  mutable(model.graph).inputs.push({ value, info: typeMessage(value.name, type) });
  return value;
}

/** Makes an intermediate value of the main graph an output too; it keeps its name. */
export function addOutput(model: Model, value: Value, type: TensorType): void {
  mutable(model.graph).outputs.push({ value, info: typeMessage(value.name, type) });
  addUser(value, model.graph);
}

/** Forgets what the file states about intermediate values for which `drop` holds. */
export function dropValueInfo(body: Body, drop: (value: Value) => boolean): void {
  mutable(body).valueInfo = body.valueInfo.filter(({ value }) => !drop(value));
}

/** A ValueInfoProto that states a type; of an existing one only the type is replaced. */
export function typeMessage(name: string, type: TensorType, read?: ValueInfoProto): ValueInfoProto {
  const shape = type.shape && message<ShapeProto>('TensorShapeProto', { dim: type.shape.map(dimension) });
  const tensor = { elem_type: elementCode(type.elem ?? 'undefined'), ...(shape && { shape }) };
  const typeProto = message<TypeProto>('TypeProto', {
    tensor_type: message<TensorTypeProto>('TypeProto.Tensor', tensor),
  });
  return read
    ? copyMessage(read, { type: typeProto })
    : message<ValueInfoProto>('ValueInfoProto', { name, type: typeProto });
}

function dimension(dim: Dim): DimensionProto {
  const fields = typeof dim === 'number' ? { dim_value: dim } : dim === null ? {} : { dim_param: dim };
  return message<DimensionProto>('TensorShapeProto.Dimension', fields);
}

/** Sets an entry of the model's metadata. */
export function setMetadata(model: Model, key: string, value: string): void {
  const metadata = mutable(model).metadata;
  const entry = message<StringEntry>('StringStringEntryProto', { key, value });
  const at = metadata.findIndex((candidate) => candidate.key === key);
  if (at < 0) metadata.push(entry);
  else metadata[at] = entry;
}

export function dropMetadata(model: Model, key: string): void {
  mutable(model).metadata = model.metadata.filter((entry) => entry.key !== key);
}

/** Declares another opset for the default domain, of the model and of those functions that import it. */
export function setOpset(model: Model, version: number): void {
  mutable(model).opsets.set('', version);
  for (const fn of model.functions) if (fn.opsets.has('')) mutable(fn).opsets.set('', version);
}

/** Declares a domain's operator set; with null that nothing of it is used any more. */
export function importDomain(model: Model, domain: string, version: number | null): void {
  if (version === null) mutable(model).opsets.delete(domain);
  else mutable(model).opsets.set(domain, version);
}

/**
 * Removes nodes that nobody reads, among `candidates` and whatever becomes unread with them, and initializers that
 * become unread too. Initializers that are inputs stay: they are part of the public signature.
 * @returns how many nodes and initializers went
 */
export function pruneUnused(candidates: Iterable<Value | null>): { nodes: number; initializers: number } {
  const queue = [...candidates];
  const initializers = new Map<Graph, Set<Value>>();
  const nodes = new Map<Body, Set<Node>>();
  while (queue.length > 0) {
    const value = queue.pop();
    if (!value || value.users.size > 0) continue;
    const node = value.producer;
    if (node) {
      if (node.outputs.some((output) => output && output.users.size > 0)) continue;
      for (const input of node.inputs) queue.push(input);
      for (const input of capturedBy(node)) queue.push(input);
      unlink(node);
      into(nodes, node.body).add(node);
    } else if (value.initializer && !value.isInput && value.body?.kind === 'graph')
      into(initializers, value.body).add(value);
  }
  for (const [body, gone] of nodes) {
    mutable(body).nodes = body.nodes.filter((node) => !gone.has(node));
    const dead = new Set([...gone].flatMap((node) => node.outputs));
    dropValueInfo(body, (value) => dead.has(value));
  }
  for (const [graph, gone] of initializers)
    mutable(graph).initializers = graph.initializers.filter(({ value }) => !gone.has(value));
  const count = (sets: Iterable<Set<unknown>>) => [...sets].reduce((sum, set) => sum + set.size, 0);
  return { nodes: count(nodes.values()), initializers: count(initializers.values()) };
}

/** Values from outside that the graphs inside a node read. */
function capturedBy(node: Node): (Value | null)[] {
  return node.attributes.flatMap((attr) =>
    attr.graphs.flatMap((graph) => [
      ...graph.nodes.flatMap((inner) => [...inner.inputs, ...capturedBy(inner)]),
      ...graph.outputs.map(({ value }) => value),
    ]),
  );
}

function into<K, V>(map: Map<K, Set<V>>, key: K): Set<V> {
  const set = map.get(key) ?? new Set<V>();
  map.set(key, set);
  return set;
}

/** Removes functions from the model's list; the caller has made sure that nothing calls them. */
export function removeFunctions(model: Model, gone: ReadonlySet<LocalFunction>): void {
  mutable(model).functions = model.functions.filter((fn) => !gone.has(fn));
}

/** States the types of intermediate values of a body, in place of all that it states so far. */
export function stateTypes(body: Body, types: ReadonlyMap<Value, TensorType>): void {
  mutable(body).valueInfo = [...types].map(([value, type]) => {
    mutable(value).declared = type;
    return { value, info: typeMessage(value.name, type) };
  });
}

/** Puts the nodes of a body in another order, which has all of them. */
export function orderNodes(body: Body, order: readonly Node[]): void {
  mutable(body).nodes = [...order];
}

/** Gives a node or a value another name: `base`, or one made of it that is free. Readers follow. */
export function rename(model: Model, renamed: Node | Value, base: string): void {
  mutable(renamed).name = freshName(model, base);
}

/** Takes an initializer off the list of inputs, so that no caller can give it another value. */
export function hideInitializer(model: Model, value: Value): void {
  mutable(value).isInput = false;
  mutable(model.graph).inputs = model.graph.inputs.filter((port) => port.value !== value);
}

export function setIrVersion(model: Model, version: number): void {
  mutable(model).irVersion = version;
}
