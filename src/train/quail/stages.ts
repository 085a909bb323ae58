/**
 * The stages of a network, one for each activation (Garimella, Jha, Reagen 2021, section 4): a stage is everything that
 * its activation depends on and no earlier activation does. So the convolution of a shortcut belongs to the stage that
 * adds it. The last stage ends at the logits.
 */
import { didYouMean, SisyphusError } from '../../errors.ts';
import { logitsOf } from '../../eval/logits.ts';
import { nonlinearSites } from '../../eval/sites.ts';
import type { Model, Node, Value } from '../../graph/ir.ts';
import { inferTypes } from '../../graph/shapes.ts';
import { topologicalOrder } from '../../graph/walk.ts';

export interface Stage {
  /** Of the activation; `logits` for the last one. */
  readonly name: string;
  /** What goes into the activation; null for the logits. */
  readonly input: string | null;
  /** The value that is imitated. */
  readonly output: string;
  /** Values of earlier stages, or the model's input, that this stage or a later one reads. */
  readonly carries: readonly string[];
  readonly nodes: ReadonlySet<Node>;
}

export const LOGITS = 'logits';

/**
 * @param names of activations, or of what stands in their place; others are part of the stage that they feed
 * @returns stages in an order in which each depends on earlier ones only; the first carries the model's input
 * @throws SisyphusError `unsupported` where a name is not among the visible nonlinear layers
 */
export function cutStages(model: Model, where: string, names: readonly string[]): Stage[] {
  const types = inferTypes(model);
  const { sites } = nonlinearSites(model, types);
  const known = new Set(sites.map(({ name }) => name));
  const missing = names.find((name) => !known.has(name));
  if (missing !== undefined)
    throw new SisyphusError('unsupported', `${where}: '${missing}' can't be watched${didYouMean(missing, [...known])}`);
  const data = dataNodes(model);
  const wanted = new Set(names);
  const ends: { name: string; input: Value | null; output: Value }[] = [
    ...sites.filter(({ name }) => wanted.has(name)),
    { name: LOGITS, input: null, output: logitsOf(model.graph.outputs[0]?.value as Value, types) },
  ];
  const taken = new Set<Node>();
  const parts = ends.map((end) => {
    const nodes = new Set<Node>();
    const stack = [end.output.producer];
    while (stack.length > 0) {
      const node = stack.pop();
      if (!node || taken.has(node) || !data.has(node)) continue;
      taken.add(node);
      nodes.add(node);
      for (const value of node.inputs) stack.push(value?.producer ?? null);
    }
    return { ...end, nodes };
  });
  // From the last to the first: what is read from before.
  const stages: Stage[] = [];
  let carried = new Set<Value>();
  for (const { name, input, output, nodes } of parts.toReversed()) {
    const read = [...nodes].flatMap(({ inputs }) =>
      inputs.flatMap((value) => (value && isData(value, data) ? [value] : [])),
    );
    carried = new Set([...carried, ...read].filter(({ producer }) => !producer || !nodes.has(producer)));
    const carries = [...carried].map((value) => value.name).sort();
    stages.unshift({ name, input: input?.name ?? null, output: output.name, carries, nodes });
  }
  return stages;
}

/** Nodes whose values depend on the model's input. */
function dataNodes(model: Model): ReadonlySet<Node> {
  const found = new Set<Node>();
  for (const node of topologicalOrder(model.graph))
    if (node.inputs.some((value) => value && isData(value, found))) found.add(node);
  return found;
}

const isData = (value: Value, nodes: ReadonlySet<Node>): boolean =>
  value.producer ? nodes.has(value.producer) : value.isInput && !value.initializer;
