/**
 * Type and shape inference: an analysis, which changes nothing. This file walks the graphs, their nested graphs and
 * the functions they call; `shape-rules.ts` knows the operators.
 */
import { graphAttr, intAttr, intsAttr, isReference, referenced } from './attributes.ts';
import type { Attribute, Body, Dim, Graph, LocalFunction, Model, Node, TensorType, Value } from './ir.ts';
import { constantFact } from './shape-data.ts';
import {
  axisOf,
  type Call,
  completeFact,
  type Fact,
  fact,
  mergeFacts,
  type Shape,
  UNKNOWN,
  unifyDim,
} from './shape-facts.ts';
import { applyRule } from './shape-rules.ts';
import { allNodes, functionTable, nestedGraphs, opsetOf, topologicalOrder } from './walk.ts';

/** The result of `inferTypes`. */
export interface Types {
  /**
   * What is known of a value: inferred, else as the file states it. Both parts may be null. A value inside a function
   * gets what holds in all calls of it.
   */
  get(value: Value): TensorType;
  /**
   * The elements of a small tensor so far as they are known without a run, in row-major order: constants, and what is
   * computed from them and from shapes. A name stands for the size of a symbolic dimension, null for an unknown number.
   */
  elements(value: Value): readonly Dim[] | null;
  /**
   * The types inside a function as one call of it sees them (the same object for calls with equal inputs); these same
   * types for a node that calls none.
   */
  inside(call: Node): Types;
  /** The node with the attributes that the call states in place of references to them, where these are types of a call. */
  resolve(node: Node): Node;
}

/** Visits per node after which calls are no longer told apart: nested loops and calls could multiply without end. */
const VISITS = 100;
const MAX_DEPTH = 100;
/** Rounds in which a loop's state may lose sizes before nothing is assumed of it. */
const MAX_ROUNDS = 3;

/** One body with one set of inputs: the main graph, or a function as some calls see it; nested graphs included. */
interface Frame {
  /** null for an optional input of a function that its caller leaves out. */
  readonly facts: Map<Value, Fact | null>;
  readonly calls: Map<Node, Frame>;
  /** What attribute references stand for; null where callers disagree. */
  readonly given: ReadonlyMap<string, Attribute> | null;
  outputs: readonly Fact[];
}

interface State {
  readonly model: Model;
  readonly find: (node: Node) => LocalFunction | undefined;
  readonly orders: Map<Body, readonly Node[]>;
  readonly frames: Map<string, Frame>;
  /** What holds in all frames. */
  readonly merged: Map<Value, Fact>;
  /** Functions being inferred, outermost first. */
  readonly open: LocalFunction[];
  /** Functions with calls that were not followed, so that their inputs may be anything. */
  readonly anyInput: Set<LocalFunction>;
  /** Numbers for what has no other key. */
  readonly ids: Map<object, number>;
  budget: number;
}

/**
 * Infers element types and shapes of all values of a model, from the inputs' declared types and the constants.
 *
 * Symbolic dimensions keep their names; what is computed from shapes is followed through integer tensors, names
 * included. A declared type only fills gaps, in the result and for what is inferred from it. Never throws: unknown
 * operators, invalid nodes, cycles and undefined names only leave values unknown.
 * Source: the operators of the ONNX standard (onnx.ai/onnx/operators), opsets 7 to 23.
 */
export function inferTypes(model: Model): Types {
  const state: State = {
    model,
    find: functionTable(model),
    orders: new Map(),
    frames: new Map(),
    merged: new Map(),
    open: [],
    anyInput: new Set(),
    ids: new Map(),
    budget: VISITS * Math.max(1000, [...allNodes(model)].length),
  };
  const main: Frame = { facts: new Map(), calls: new Map(), given: null, outputs: [] };
  runGraph(
    state,
    main,
    model.graph,
    model.graph.inputs.map(({ value }) => inputFact(model, value)),
  );
  mergeInto(state.merged, main);
  for (const fn of state.anyInput) inferFunction(state, fn, null); // the set may grow on the way
  const views = new Map<Frame | undefined, Types>();
  const view = (frame: Frame | undefined): Types => {
    const known = views.get(frame);
    if (known) return known;
    const knownOf = (value: Value) => frame?.facts.get(value) ?? state.merged.get(value);
    const types: Types = {
      get: (value) => typeOf(knownOf(value), value),
      elements: (value) => knownOf(value)?.data ?? null,
      resolve: (node) => resolve(node, frame?.given ?? null),
      inside: (call) => (state.find(call) ? view(frame?.calls.get(call)) : types),
    };
    views.set(frame, types);
    return types;
  };
  return view(main);
}

function typeOf(known: Fact | undefined, value: Value): TensorType {
  const { elem, shape } = known ?? completeFact(UNKNOWN, value.declared);
  return { elem, shape };
}

/** The caller of the model may replace the initializers that are inputs, from IR 4 on, by data of the declared type. */
function inputFact(model: Model, { initializer, declared }: Value): Fact {
  if (!initializer) return UNKNOWN;
  if (model.irVersion < 4) return constantFact(initializer);
  return fact(initializer.elem, declared ? null : initializer.dims);
}

function mergeInto(merged: Map<Value, Fact>, frame: Frame): void {
  for (const [value, known] of frame.facts) {
    const before = merged.get(value);
    if (known) merged.set(value, before ? mergeFacts(before, known) : known);
  }
}

const lookup = (frame: Frame, value: Value): Fact | null => {
  const known = frame.facts.get(value);
  return known === undefined ? completeFact(UNKNOWN, value.declared) : known;
};

/** Infers a graph within a frame and returns what is known of its outputs. */
function runGraph(state: State, frame: Frame, graph: Graph, inputs: readonly (Fact | undefined)[]): Fact[] {
  for (const { value, tensor } of graph.initializers) if (!value.isInput) frame.facts.set(value, constantFact(tensor));
  for (const [i, { value }] of graph.inputs.entries())
    frame.facts.set(value, completeFact(inputs[i] ?? UNKNOWN, value.declared));
  return runNodes(state, frame, graph);
}

function runNodes(state: State, frame: Frame, body: Body): Fact[] {
  const opset = opsetOf(state.model, body);
  const order = state.orders.get(body) ?? topologicalOrder(body);
  state.orders.set(body, order);
  for (const node of order) {
    state.budget--;
    const inputs = node.inputs.map((value) => value && lookup(frame, value));
    const outputs = inferNode(state, frame, node, { node: resolve(node, frame.given), inputs, opset });
    for (const [i, value] of node.outputs.entries())
      if (value) frame.facts.set(value, completeFact(outputs[i] ?? UNKNOWN, value.declared));
  }
  return body.outputs.map(({ value }) => lookup(frame, value) ?? UNKNOWN);
}

/** The node with the caller's attributes in place of references to them; one that the caller leaves out is absent. */
function resolve(node: Node, given: Frame['given']): Node {
  if (!given || referenced(node).length === 0) return node;
  const attributes = node.attributes.flatMap((attr) => {
    if (!isReference(attr)) return [attr];
    const actual = given.get(attr.proto.ref_attr_name ?? '');
    return actual ? [{ ...actual, name: attr.name }] : [];
  });
  return { ...node, attributes };
}

/** @param node as it stands in the graph; `call.node` has its attribute references resolved */
function inferNode(state: State, frame: Frame, node: Node, call: Call): readonly Fact[] {
  const fn = state.find(node);
  if (fn) {
    const called = inferFunction(state, fn, call);
    if (called) frame.calls.set(node, called);
    return called?.outputs ?? [];
  }
  const nested = nestedGraphs(call.node);
  if (nested.length === 0) return applyRule(call);
  const control = node.domain === '' && Object.hasOwn(CONTROL, node.op) ? CONTROL[node.op] : undefined;
  const run = (graph: Graph, inputs: readonly (Fact | undefined)[]) => runGraph(state, frame, graph, inputs);
  try {
    if (control) return control(call, run, state);
  } catch {
    // An invalid node: nothing is known of what it makes, and of what its graphs get.
  }
  for (const graph of nested) run(graph, []);
  return [];
}

/**
 * A function's frame for a call; calls with equal inputs share one.
 * @param call null for any inputs and attributes
 * @returns null where the call is not followed, because of recursion
 */
function inferFunction(state: State, fn: LocalFunction, call: Call | null): Frame | null {
  if (state.open.includes(fn) || state.open.length >= MAX_DEPTH) {
    state.anyInput.add(fn);
    return null;
  }
  const known = state.budget > 0 ? call : null;
  const given = known && callerAttributes(fn, known.node);
  const inputs = fn.inputs.map((_, i) => (known ? (known.inputs[i] ?? null) : UNKNOWN));
  const key = JSON.stringify([idOf(state, fn), inputs, given && [...given].map((entry) => attributeKey(state, entry))]);
  const before = state.frames.get(key);
  if (before) return before;
  const frame: Frame = { facts: new Map(), calls: new Map(), given, outputs: [] };
  for (const [i, { value }] of fn.inputs.entries()) frame.facts.set(value, inputs[i] ?? null);
  state.open.push(fn);
  frame.outputs = runNodes(state, frame, fn);
  state.open.pop();
  mergeInto(state.merged, frame);
  state.frames.set(key, frame);
  return frame;
}

/** The attributes of a function: the caller's, else the defaults. */
function callerAttributes(fn: LocalFunction, node: Node): Map<string, Attribute> {
  const defaults = (fn.proto.attribute_proto ?? []).map((proto) => ({ name: proto.name ?? '', graphs: [], proto }));
  return new Map([...defaults, ...node.attributes].map((attr) => [attr.name, attr]));
}

function idOf(state: State, object: object): number {
  const id = state.ids.get(object) ?? state.ids.size;
  state.ids.set(object, id);
  return id;
}

/** Plain attributes by their values, those that hold tensors or graphs by identity. */
function attributeKey(state: State, [name, { proto }]: [string, Attribute]): unknown {
  const plain = !proto.t && !proto.g && !proto.tensors && !proto.graphs && !proto.sparse_tensor;
  if (!plain || proto.ref_attr_name) return [name, idOf(state, proto)];
  const { type, f, floats } = proto;
  const strings = [proto.s, ...(proto.strings ?? [])].map((bytes) => bytes && [...bytes]);
  return [name, type, f, floats, String(proto.i), proto.ints?.map(String), strings];
}

type Run = (graph: Graph, inputs: readonly (Fact | undefined)[]) => Fact[];
type Control = (call: Call, run: Run, state: State) => readonly Fact[];

/** Functions of exporters ask for ranks and sizes: where these are known, so is the branch. */
const conditional: Control = ({ node, inputs }, run) => {
  const branches = ['then_branch', 'else_branch'].map((name) => graphAttr(node, name));
  const [yes = [], no = []] = branches.map((graph) => (graph ? run(graph, []) : []));
  const condition = inputs[0]?.data?.[0];
  if (typeof condition === 'number') return condition ? yes : no;
  return yes.map((known, i) => mergeFacts(known, no[i] ?? UNKNOWN));
};

/** Runs a loop's body until its state has types that hold before and after any iteration. */
function settle(
  initial: readonly (Fact | null)[],
  state: State,
  iterate: (carried: readonly Fact[]) => { next: readonly Fact[]; rest: readonly Fact[] },
): { carried: readonly Fact[]; rest: readonly Fact[] } {
  let carried = initial.map((known) => (known ? { ...known, data: null } : UNKNOWN));
  for (let round = 0; ; round++) {
    if (round === MAX_ROUNDS || state.budget <= 0) carried = carried.map(() => UNKNOWN);
    const { next, rest } = iterate(carried);
    const held = carried.map((known, i) => mergeFacts(known, next[i] ?? UNKNOWN));
    if (JSON.stringify(held) === JSON.stringify(carried)) return { carried, rest };
    carried = held;
  }
}

const loop: Control = ({ node, inputs }, run, state) => {
  const body = graphAttr(node, 'body');
  if (!body) return [];
  const initial = inputs.slice(2);
  const { carried, rest } = settle(initial, state, (states) => {
    const out = run(body, [fact('int64', []), fact('bool', []), ...states]);
    return { next: out.slice(1, 1 + initial.length), rest: out.slice(1 + initial.length) };
  });
  return [...carried, ...rest.map((slice) => stacked(slice, null, 0))];
};

/** One more axis, of the iterations. */
function stacked({ elem, shape }: Fact, length: Dim, axis: number): Fact {
  if (!shape) return fact(elem, null);
  const at = axisOf(axis, shape.length + 1);
  return fact(elem, [...shape.slice(0, at), length, ...shape.slice(at)]);
}

const scan: Control = ({ node, inputs, opset }, run, state) => {
  const body = graphAttr(node, 'body');
  const scanned = intAttr(node, 'num_scan_inputs') ?? 0;
  if (!body || opset < 9) throw new Error('Scan of opset 8 has batches'); // then only its body is looked at
  const initial = inputs.slice(0, inputs.length - scanned);
  const sequences = inputs.slice(initial.length);
  const axes = intsAttr(node, 'scan_input_axes') ?? [];
  const outputAxes = intsAttr(node, 'scan_output_axes') ?? [];
  let length: Dim = null;
  const slices = sequences.map((sequence, i) => {
    const shape: Shape | null = sequence?.shape ?? null;
    const axis = shape ? axisOf(axes[i] ?? 0, shape.length) : 0;
    length = unifyDim(length, shape?.[axis] ?? null);
    return fact(sequence?.elem ?? null, shape?.filter((_, at) => at !== axis) ?? null);
  });
  const { carried, rest } = settle(initial, state, (states) => {
    const out = run(body, [...states, ...slices]);
    return { next: out.slice(0, initial.length), rest: out.slice(initial.length) };
  });
  return [...carried, ...rest.map((slice, i) => stacked(slice, length, outputAxes[i] ?? 0))];
};

const CONTROL: Readonly<Record<string, Control>> = { If: conditional, Loop: loop, Scan: scan };
