/**
 * Before: nodes whose outputs nobody reads, initializers that nobody reads, functions that nothing calls
 * After: none of them, in the main graph, the functions and all nested graphs
 * Conditions: initializers that are inputs too stay, as part of the public signature. Models that name tensors outside
 *   of their graphs (training information, quantization annotations) are left alone.
 * Algebra: none; no output depends on what goes
 */
import { pruneUnused, removeFunctions, removeNode } from '../graph/edit.ts';
import type { Body, Initializer, LocalFunction, Model, Node } from '../graph/ir.ts';
import { allBodies, bodiesWithin, functionTable } from '../graph/walk.ts';
import { type Change, type Pass, siteName } from './pass.ts';

export const dropDead: Pass = {
  name: 'drop-dead',
  summary: 'Remove nodes and initializers that nobody reads, and functions that nothing calls',
  exact: true,
  run(model) {
    const reason = refusal(model);
    if (reason) return { pass: 'drop-dead', applied: [], skipped: [{ site: model.graph.name, reason }] };
    const before = [...allBodies(model)].map((body) => [body, contents(body)] as const);
    dropNodes(before);
    const functions = uncalled(model);
    removeFunctions(model, functions);
    // What was inside of something that went is not worth a line of its own.
    const left = new Set(allBodies(model));
    const applied = before.flatMap(([body, was]) => (left.has(body) ? losses(body, was) : []));
    for (const fn of functions)
      applied.push({ site: `${fn.domain}.${fn.name}`, detail: 'function that nothing calls' });
    return { pass: 'drop-dead', applied, skipped: [] };
  },
};

function refusal(model: Model): string | null {
  if ((model.proto.training_info ?? []).length > 0) return 'its training information may name any of its tensors';
  for (const body of allBodies(model))
    if (body.kind === 'graph' && (body.proto.quantization_annotation ?? []).length > 0)
      return 'its quantization annotations may name any of its tensors';
  return null;
}

interface Contents {
  readonly nodes: readonly Node[];
  readonly initializers: readonly Initializer[];
}
const contents = (body: Body): Contents => ({
  nodes: [...body.nodes],
  initializers: body.kind === 'graph' ? [...body.initializers] : [],
});

function dropNodes(bodies: readonly (readonly [Body, Contents])[]): void {
  for (const [body, { nodes }] of bodies)
    for (const node of nodes)
      if (node.outputs.every((value) => value === null) && body.nodes.includes(node)) {
        removeNode(node);
      }
  pruneUnused(
    bodies.flatMap(([, { nodes, initializers }]) => [
      ...initializers.map(({ value }) => value),
      ...nodes.flatMap((node) => node.outputs),
    ]),
  );
}

/** What a body no longer has. */
function losses(body: Body, was: Contents): Change[] {
  const now = contents(body);
  const nodes = new Set(now.nodes);
  const initializers = new Set(now.initializers);
  return [
    ...was.nodes
      .filter((node) => !nodes.has(node))
      .map((node) => ({ site: siteName(node), detail: `${node.op} that nobody reads` })),
    ...was.initializers
      .filter((entry) => !initializers.has(entry))
      .map(({ value, tensor }) => ({
        site: value.name,
        detail: `initializer ${tensor.elem} [${tensor.dims}] that nobody reads`,
      })),
  ];
}

/** Functions that no chain of calls from the main graph reaches. */
function uncalled(model: Model): Set<LocalFunction> {
  const find = functionTable(model);
  const called = new Set<LocalFunction>();
  const queue: Body[] = [model.graph];
  for (let root = queue.pop(); root; root = queue.pop())
    for (const body of bodiesWithin(root))
      for (const node of body.nodes) {
        const fn = find(node);
        if (!fn || called.has(fn)) continue;
        called.add(fn);
        queue.push(fn);
      }
  return new Set(model.functions.filter((fn) => !called.has(fn)));
}
