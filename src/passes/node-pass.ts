/** What most passes are: something done to each node of some operators in the main graph. */
import type { Model, Node } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { topologicalOrder } from '../graph/walk.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';

export interface NodeContext {
  readonly model: Model;
  /** Of the model as it stands. */
  types(): Types;
}

/** A change made (`detail`), nothing made with a reason, or nothing that is worth a word (null). */
export type NodeOutcome = { readonly detail: string } | { readonly reason: string } | null;

/**
 * A pass that looks at the nodes with such operators, of the standard domain and in topological order.
 * @param rewrite checks first, changes afterwards
 */
export function nodePass(
  about: Pick<Pass, 'name' | 'summary' | 'exact'>,
  operators: readonly string[],
  rewrite: (context: NodeContext, node: Node) => NodeOutcome,
): Pass {
  return {
    ...about,
    run(model) {
      const applied: Change[] = [];
      const skipped: Skip[] = [];
      let known: Types | undefined;
      const context: NodeContext = { model, types: () => (known ??= inferTypes(model)) };
      for (const node of [...topologicalOrder(model.graph)]) {
        // An earlier rewrite may have taken it away.
        if (node.domain !== '' || !operators.includes(node.op) || !model.graph.nodes.includes(node)) continue;
        const site = siteName(node);
        const outcome = rewrite(context, node);
        if (outcome === null) continue;
        if ('reason' in outcome) skipped.push({ site, reason: outcome.reason });
        else {
          applied.push({ site, detail: outcome.detail });
          known = undefined;
        }
      }
      return { pass: about.name, applied, skipped };
    },
  };
}
