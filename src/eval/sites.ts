/**
 * The nonlinear layers of a model, for watching them: activation functions, and what stands in their place in a
 * polynomial network.
 */
import { constantOf, constantScalar } from '../graph/constants.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { FLOAT_TYPES } from '../graph/tensor.ts';
import { allBodies, topologicalOrder } from '../graph/walk.ts';
import { findActivations, withUniqueNames } from '../passes/activation-sites.ts';
import { scalarFunction } from '../passes/expression.ts';
import { type Skip, siteName } from '../passes/pass.ts';
import type { ActivationKind } from '../poly/activations.ts';

export interface NonlinearSite {
  /** A polynomial that `rewrite` made carries the name of the activation that it replaced, so models align by it. */
  readonly name: string;
  /** 'relu', 'polynomial', 'square', … */
  readonly label: string;
  readonly kind: ActivationKind | 'polynomial';
  readonly input: Value;
  readonly output: Value;
  /** The layer as a function of one number; null where channels differ or it isn't known. */
  readonly f: ((x: number) => number) | null;
}

/**
 * The nonlinear layers of the main graph in topological order; those of nested graphs and functions are `skipped`,
 * because their values can't be read from outside. A product of an unknown with itself, or a power of it, is one too.
 */
export function nonlinearSites(model: Model, types: Types): { sites: NonlinearSite[]; skipped: Skip[] } {
  const order = new Map(topologicalOrder(model.graph).map((node, index) => [node, index]));
  const skipped: Skip[] = [];
  const found: { site: NonlinearSite; at: number }[] = [];
  const inside = new Set<Node>();
  for (const site of findActivations(model, types).sites) {
    const at = order.get(site.node);
    if (at === undefined || site.node.body !== model.graph) {
      skipped.push({ site: site.name, reason: HIDDEN });
      continue;
    }
    if (constantOf(model, site.input)) continue;
    for (const node of site.nodes) inside.add(node);
    const [activation, ...others] = site.activations;
    const f = activation && others.length === 0 ? activation.f : null;
    const { name, kind, input, output } = site;
    found.push({ at, site: { name, label: activation?.label ?? kind, kind, input, output, f } });
  }
  for (const polynomial of emittedPolynomials(model)) {
    for (const node of polynomial.nodes) inside.add(node);
    const { name, input, output, last } = polynomial;
    const f = scalarFunction(model, last, input);
    found.push({
      at: order.get(last) ?? 0,
      site: { name, label: 'polynomial', kind: 'polynomial', input, output, f },
    });
  }
  for (const [node, at] of order) {
    const power = inside.has(node) ? null : powerOf(model, types, node);
    const output = node.outputs[0];
    if (!power || !output) continue;
    const f = scalarFunction(model, node, power.input);
    found.push({
      at,
      site: { name: siteName(node), label: power.label, kind: 'polynomial', input: power.input, output, f },
    });
  }
  for (const site of hiddenPolynomials(model, types)) skipped.push({ site, reason: HIDDEN });
  found.sort((a, b) => a.at - b.at);
  return { sites: withUniqueNames(found.map(({ site }) => site)), skipped };
}

const HIDDEN = 'inside a function or a nested graph, whose values are not visible';

/** Polynomials and powers in functions and nested graphs, by name. */
function hiddenPolynomials(model: Model, types: Types): Set<string> {
  const names = new Set<string>();
  for (const body of allBodies(model)) {
    if (body === model.graph) continue;
    for (const node of body.nodes) {
      const name = emittedName(node) ?? (powerOf(model, types, node) ? siteName(node) : undefined);
      if (name !== undefined) names.add(name);
    }
  }
  return names;
}

/** The site whose polynomial a node is part of, as `rewrite` names them: SITE/poly/mul, SITE/poly/add_1, … */
function emittedName(node: Node): string | undefined {
  if (node.domain !== '' || !['Mul', 'Add', 'Sub'].includes(node.op)) return undefined;
  return /^(.+)\/poly\/(?:mul|add|sub)(?:_\d+)?$/s.exec(node.name)?.[1];
}

interface EmittedPolynomial {
  readonly name: string;
  readonly nodes: readonly Node[];
  readonly last: Node;
  readonly input: Value;
  readonly output: Value;
}

/** The polynomials that `rewrite` emitted in the main graph, known by the names of their nodes. */
function emittedPolynomials(model: Model): EmittedPolynomial[] {
  const groups = new Map<string, Node[]>();
  for (const node of model.graph.nodes) {
    const name = emittedName(node);
    if (name === undefined) continue;
    const group = groups.get(name);
    if (group) group.push(node);
    else groups.set(name, [node]);
  }
  return [...groups].flatMap(([name, nodes]) => {
    const own = new Set(nodes);
    const entering = new Set(
      nodes.flatMap(({ inputs }) =>
        inputs.filter((value) => value && !(value.producer && own.has(value.producer)) && !constantOf(model, value)),
      ),
    );
    const leaving = nodes.filter(({ outputs: [value] }) =>
      value ? [...value.users.keys()].some((user) => 'kind' in user || !own.has(user)) : false,
    );
    const [input] = entering;
    const [last] = leaving;
    const output = last?.outputs[0];
    // Other tools may have merged or renamed parts of it; then its powers are found one by one.
    if (entering.size !== 1 || leaving.length !== 1 || !input || !last || !output) return [];
    return [{ name, nodes, last, input, output }];
  });
}

/** x * x, or x to a constant power of 2 or above. */
function powerOf(model: Model, types: Types, node: Node): { input: Value; label: string } | null {
  const [a, b] = node.inputs;
  if (node.domain !== '' || !a || !b || constantOf(model, a)) return null;
  const elem = types.get(a).elem;
  if (elem !== null && !FLOAT_TYPES.has(elem)) return null;
  if (node.op === 'Mul' && a === b) return { input: a, label: 'square' };
  if (node.op !== 'Pow') return null;
  const exponent = constantScalar(model, b);
  return exponent !== null && exponent >= 2 ? { input: a, label: `power ${exponent}` } : null;
}

/** The nodes of a layer that read its input, in order: those between its input and its output. */
export function readersOf({ input, output }: Pick<NonlinearSite, 'input' | 'output'>): Node[] {
  const inside = new Set<Node>();
  const queue = [output.producer];
  for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
    if (!node || inside.has(node)) continue;
    inside.add(node);
    for (const value of node.inputs) if (value && value !== input) queue.push(value.producer);
  }
  return (input.body?.nodes ?? []).filter((node) => inside.has(node) && node.inputs.includes(input));
}
