/** Which node made the first value that is not finite. */
import type { Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { topologicalOrder } from '../graph/walk.ts';
import { siteName } from '../passes/pass.ts';
import type { FeedBatch } from './feed.ts';
import { PREPROCESSING_PREFIX } from './input.ts';
import { arrayNumbers, type NdArray, type Session } from './session.ts';
import type { NonlinearSite } from './sites.ts';
import { byMemory, observable, valueBytes, withOutputs } from './taps.ts';

export interface FirstNonFinite {
  /** The node's name, its operator, and the value that it made; the node is null where the data are to blame. */
  readonly node: string | null;
  readonly op: string | null;
  readonly value: string;
  readonly kind: 'NaN' | 'Infinity' | '-Infinity';
  /** The nonlinear layer that the node is part of, or the last one before it. */
  readonly site: string | null;
}

/**
 * Runs a batch once more with all values of the main graph as outputs.
 * @returns the first value in topological order that depends on the input and is not finite; null where all are finite
 */
export async function locateNonFinite(
  model: Model,
  types: Types,
  batch: FeedBatch,
  sites: readonly NonlinearSite[],
  open: (model: Model) => Promise<Session>,
): Promise<FirstNonFinite | null> {
  for (const [name, array] of batch.feeds) {
    const kind = nonFiniteKind(array);
    if (kind) return { node: null, op: null, value: originalInput(model, name), kind, site: null };
  }
  const candidates = observable(model, types);
  if (candidates.length === 0) return null;
  const copy = withOutputs(
    model,
    types,
    candidates.map(({ value }) => value),
  );
  const session = await open(copy);
  try {
    for (const group of byMemory(candidates, ({ value }) => valueBytes(types, value, batch.rows))) {
      const results = await session.run(
        batch.feeds,
        group.map(({ value }) => value.name),
      );
      for (const { node, value } of group) {
        const kind = nonFiniteKind(results.get(value.name));
        if (kind)
          return {
            node: siteName(node),
            op: node.op,
            value: value.name,
            kind,
            site: siteAt(topologicalOrder(model.graph), sites, node),
          };
      }
    }
    return null;
  } finally {
    await session.release();
  }
}

/** The model's own input behind the nodes that `planInput` put in front of it. */
function originalInput(model: Model, name: string): string {
  const last = model.graph.nodes.findLast((node) => node.name.startsWith(PREPROCESSING_PREFIX));
  return last?.outputs[0]?.name ?? name;
}

function nonFiniteKind(array: NdArray | undefined): FirstNonFinite['kind'] | null {
  if (!array || array.elem === 'string') return null;
  const data = array.elem === 'float' ? (array.data as Float32Array) : arrayNumbers(array);
  // As statistics count, what float32 can't hold is infinite.
  for (const x of data)
    if (!Number.isFinite(Math.fround(x))) return Number.isNaN(x) ? 'NaN' : x > 0 ? 'Infinity' : '-Infinity';
  return null;
}

function siteAt(nodes: readonly Node[], sites: readonly NonlinearSite[], node: Node): string | null {
  const order = new Map(nodes.map((each, index) => [each, index]));
  const at = order.get(node) ?? 0;
  const place = (value: Value) => (value.producer ? (order.get(value.producer) ?? -1) : -1);
  const inside = sites.find(({ input, output }) => place(input) < at && at <= place(output) && reaches(output, node));
  return (inside ?? sites.findLast(({ output }) => place(output) < at))?.name ?? null;
}

/** Is the node among those that the value is computed from, without a linear layer in between? */
function reaches(value: Value, node: Node): boolean {
  const queue = value.producer ? [value.producer] : [];
  for (let steps = 0; queue.length > 0 && steps < 200; steps++) {
    const next = queue.pop() as Node;
    if (next === node) return true;
    if (next.op === 'Mul' || next.op === 'Add' || next.op === 'Pow')
      for (const input of next.inputs) if (input?.producer) queue.push(input.producer);
  }
  return false;
}
