/** Ways through a model. */
import type { Body, Graph, LocalFunction, Model, Node, Value } from './ir.ts';

/** Graphs nested in a node, in attribute order. */
export const nestedGraphs = (node: Node): Graph[] => node.attributes.flatMap((attr) => [...attr.graphs]);

/** A body and all graphs nested in it, outermost first. */
export function* bodiesWithin(body: Body): Generator<Body> {
  yield body;
  for (const node of body.nodes) for (const graph of nestedGraphs(node)) yield* bodiesWithin(graph);
}

/** The main graph, the functions, and everything nested in them. */
export function* allBodies(model: Model): Generator<Body> {
  yield* bodiesWithin(model.graph);
  for (const fn of model.functions) yield* bodiesWithin(fn);
}

/** All nodes of a model, those of nested graphs and functions included. */
export function* allNodes(model: Model): Generator<Node> {
  for (const body of allBodies(model)) yield* body.nodes;
}

/** The outermost body around a node: the main graph or a function. */
export function rootBody(body: Body): Body {
  let at = body;
  while (at.kind === 'graph' && at.owner) at = at.owner.body;
  return at;
}

/** The opset of the default domain that a body's nodes are read under. */
export function opsetOf(model: Model, body: Body): number {
  const root = rootBody(body);
  const opsets = root.kind === 'function' ? root.opsets : model.opsets;
  return opsets.get('') ?? model.opsets.get('') ?? 0;
}

/** Finds the function that a node calls, if it calls one. */
export function functionTable(model: Model): (node: Node) => LocalFunction | undefined {
  const key = (domain: string, name: string, overload: string) => JSON.stringify([domain, name, overload]);
  const table = new Map(model.functions.map((fn) => [key(fn.domain, fn.name, fn.overload), fn]));
  return (node) => table.get(key(node.domain, node.op, node.proto?.overload ?? ''));
}

/** Functions in an order in which each comes before those that it calls, and one function of each cycle of calls. */
export function callOrder(model: Model): { order: LocalFunction[]; recursive: LocalFunction[] } {
  const find = functionTable(model);
  const calls = (fn: LocalFunction) =>
    [...bodiesWithin(fn)].flatMap((body) => body.nodes.map(find).filter((called) => called !== undefined));
  const state = new Map<LocalFunction, 'open' | 'done'>();
  const finished: LocalFunction[] = [];
  const recursive: LocalFunction[] = [];
  // A stack of its own: chains of calls may be longer than the engine's.
  for (const start of model.functions) {
    const stack = state.has(start) ? [] : [{ fn: start, calls: calls(start) }];
    state.set(start, state.get(start) ?? 'open');
    for (let top = stack.at(-1); top; top = stack.at(-1)) {
      const next = top.calls.pop();
      if (!next) {
        stack.pop();
        state.set(top.fn, 'done');
        finished.push(top.fn);
      } else if (state.get(next) === 'open') recursive.push(next);
      else if (!state.has(next)) {
        state.set(next, 'open');
        stack.push({ fn: next, calls: calls(next) });
      }
    }
  }
  return { order: finished.reverse(), recursive };
}

/** How many times one run of the model executes each function: call sites, multiplied along the chains of calls. */
export function callCounts(model: Model): Map<LocalFunction, number> {
  const find = functionTable(model);
  const counts = new Map(model.functions.map((fn) => [fn, 0]));
  const addCalls = (root: Body, times: number) => {
    for (const body of bodiesWithin(root))
      for (const node of body.nodes) {
        const fn = find(node);
        if (fn) counts.set(fn, (counts.get(fn) ?? 0) + times);
      }
  };
  addCalls(model.graph, 1);
  for (const fn of callOrder(model).order) addCalls(fn, counts.get(fn) ?? 0);
  return counts;
}

/**
 * Nodes in an order in which each comes after those it reads: the file's own where that is one. Nodes of a cycle are
 * left out.
 */
export function topologicalOrder(body: Body): readonly Node[] {
  const sources = new Map<Node, Set<Node>>();
  const readers = new Map<Node, Node[]>();
  const seen = new Set<Node>();
  let sorted = true;
  for (const node of body.nodes) {
    const own = new Set<Node>();
    for (const { producer } of readValues(node)) if (producer && producer.body === body) own.add(producer);
    sources.set(node, own);
    for (const source of own) {
      sorted &&= seen.has(source);
      const list = readers.get(source);
      if (list) list.push(node);
      else readers.set(source, [node]);
    }
    seen.add(node);
  }
  if (sorted) return body.nodes;
  const order = body.nodes.filter((node) => sources.get(node)?.size === 0);
  for (let i = 0; i < order.length; i++) {
    const node = order[i] as Node;
    for (const reader of readers.get(node) ?? []) {
      const left = sources.get(reader) as Set<Node>;
      left.delete(node);
      if (left.size === 0) order.push(reader);
    }
  }
  return order;
}

/** What a node reads, directly or from within its nested graphs. */
export function readValues(node: Node): Value[] {
  const own = node.inputs.filter((value) => value !== null);
  const inner = nestedGraphs(node).flatMap((graph) => [
    ...graph.nodes.flatMap(readValues),
    ...graph.outputs.map(({ value }) => value),
  ]);
  return [...own, ...inner];
}
