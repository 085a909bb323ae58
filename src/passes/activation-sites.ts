/** Where a model's activation functions are: the sites that `replace-activation`, `insert-amm` and `inspect` work on. */
import { floatAttr, referenced, stringAttr } from '../graph/attributes.ts';
import { constantNumbers, constantOf, constantScalar } from '../graph/constants.ts';
import type { Body, ElementType, LocalFunction, Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { FLOAT_TYPES } from '../graph/tensor.ts';
import { allBodies, callCounts, functionTable, opsetOf, rootBody, topologicalOrder } from '../graph/walk.ts';
import {
  ACTIVATION_KINDS,
  type Activation,
  type ActivationKind,
  celu,
  clip,
  elu,
  gelu,
  hardSigmoid,
  hardSwish,
  leakyRelu,
  mish,
  relu,
  selu,
  sigmoidActivation,
  softplusActivation,
  tanh,
} from '../poly/activations.ts';
import { matchExpression } from './expression.ts';
import type { Skip } from './pass.ts';

export interface ActivationSite {
  /** Unique within the model: the node's name, else that of its output; 'function/…' for those inside a function. */
  readonly name: string;
  readonly kind: ActivationKind;
  /** One, or one for each element of `parameterShape` (PRelu with a slope per channel). */
  readonly activations: readonly Activation[];
  readonly parameterShape: readonly number[];
  readonly input: Value;
  readonly output: Value;
  /** The node that makes `output`. */
  readonly node: Node;
  /** All nodes of a function spelled with several; `node` is one of them. */
  readonly nodes: readonly Node[];
  readonly elem: ElementType;
  /** How often one run of the model evaluates it; above 1 only inside functions. */
  readonly calls: number;
}

export interface ActivationSites {
  readonly sites: readonly ActivationSite[];
  /** Activations that cannot be treated as such, with reasons. */
  readonly refused: readonly Skip[];
}

/**
 * Finds the activations of the given kinds in the main graph, in graphs nested in it, and in functions.
 * @param types of the same model, unchanged since
 */
export function findActivations(
  model: Model,
  types: Types,
  kinds: ReadonlySet<ActivationKind> = new Set(ACTIVATION_KINDS),
): ActivationSites {
  const sites: ActivationSite[] = [];
  const refused: Skip[] = [];
  const names = siteNames(model);
  const calls = callCounts(model);
  const find = finder(model, types, kinds);
  for (const body of allBodies(model)) {
    const here: ActivationSite[] = [];
    const consumed = new Set<Node>();
    // From the last node to the first, so that a spelling with several nodes is found before its parts.
    for (const node of [...topologicalOrder(body)].reverse()) {
      if (consumed.has(node)) continue;
      const name = names(node);
      const match = find(node);
      if (!match) continue;
      if ('reason' in match) {
        refused.push({ site: name, reason: match.reason });
        continue;
      }
      for (const inner of privateNodes(match.nodes, node)) consumed.add(inner);
      here.push({ ...match, name, calls: callsOf(body, calls) });
    }
    sites.push(...here.reverse());
  }
  return { sites: withUniqueNames(sites), refused };
}

/** Functions of one name in two domains, or a name that looks like a path into one, would share a site name. */
export function withUniqueNames<Site extends { readonly name: string }>(sites: readonly Site[]): Site[] {
  const taken = new Set<string>();
  return sites.map((site) => {
    let name = site.name;
    for (let n = 2; taken.has(name); n++) name = `${site.name}#${n}`;
    taken.add(name);
    return { ...site, name };
  });
}

type Match = Omit<ActivationSite, 'name' | 'calls'>;
type Found = Pick<Match, 'activations' | 'parameterShape' | 'input' | 'nodes'>;
type Refusal = { readonly reason: string };

function finder(model: Model, types: Types, kinds: ReadonlySet<ActivationKind>) {
  const keepsShape = (constant: Value, input: Value) => {
    const dims = constantOf(model, constant)?.dims ?? [];
    const shape = types.get(input).shape;
    if (!shape) return dims.length <= 1 && dims.every((dim) => dim === 1);
    const offset = shape.length - dims.length;
    return offset >= 0 && dims.every((dim, i) => dim === 1 || dim === shape[offset + i]);
  };
  const callee = functionTable(model);
  return (node: Node): Match | Refusal | null => {
    const output = node.outputs[0];
    if (!output || node.domain !== '' || callee(node)) return null;
    const kind = PARAMETRIC.get(node.op);
    if (kind && referenced(node).length > 0)
      return kinds.has(kind) ? { reason: "its parameters are attributes that the function's caller gives" } : null;
    const found = DIRECT.get(node.op)?.(model, node) ?? expression(model, node, keepsShape);
    if (!found || 'reason' in found) return found && kinds.has(found.kind) ? { reason: found.reason } : null;
    const [first] = found.activations;
    if (!first || !kinds.has(first.kind)) return null;
    const elem = types.get(found.input).elem ?? types.get(output).elem;
    if (!elem)
      return { reason: `the element type of '${found.input.name}' is unknown, so constants for it can't be made` };
    if (!FLOAT_TYPES.has(elem)) return { reason: `it works on ${elem}; polynomials here are for floating point` };
    return { ...found, kind: first.kind, output, node, elem };
  };
}

function expression(model: Model, node: Node, keepsShape: (constant: Value, input: Value) => boolean): Found | null {
  const match = matchExpression(model, node, keepsShape);
  return match && { activations: [match.activation], parameterShape: [], input: match.input, nodes: match.nodes };
}

type DirectMatcher = (model: Model, node: Node) => Found | (Refusal & { kind: ActivationKind }) | null;

/** A single operator that is an activation, its attributes read with the defaults of the specification. */
const direct =
  (make: (node: Node) => Activation): DirectMatcher =>
  (_, node) => {
    const input = node.inputs[0];
    return input ? { activations: [make(node)], parameterShape: [], input, nodes: [node] } : null;
  };

/** Operators with attributes that shape the function. */
const PARAMETRIC: ReadonlyMap<string, ActivationKind> = new Map([
  ['LeakyRelu', 'leaky-relu'],
  ['Clip', 'clip'],
  ['Elu', 'elu'],
  ['Selu', 'selu'],
  ['Celu', 'celu'],
  ['Gelu', 'gelu'],
  ['HardSigmoid', 'hard-sigmoid'],
]);
const DIRECT: ReadonlyMap<string, DirectMatcher> = new Map(
  Object.entries<DirectMatcher>({
    Relu: direct(() => relu),
    LeakyRelu: direct((node) => leakyRelu(floatAttr(node, 'alpha') ?? 0.01)),
    Clip: matchClip,
    PRelu: matchPRelu,
    Sigmoid: direct(() => sigmoidActivation),
    Tanh: direct(() => tanh),
    Elu: direct((node) => elu(floatAttr(node, 'alpha') ?? 1)),
    Selu: direct((node) =>
      selu(floatAttr(node, 'alpha') ?? 1.6732632423543772, floatAttr(node, 'gamma') ?? 1.0507009873554805),
    ),
    Celu: direct((node) => celu(floatAttr(node, 'alpha') ?? 1)),
    Gelu: direct((node) => gelu(stringAttr(node, 'approximate') === 'tanh')),
    HardSigmoid: direct((node) => hardSigmoid(floatAttr(node, 'alpha') ?? 0.2, floatAttr(node, 'beta') ?? 0.5)),
    HardSwish: direct(() => hardSwish),
    Softplus: direct(() => softplusActivation),
    Mish: direct(() => mish),
  }),
);

/** Clip with min 0 is ReLU, or ReLU6 and its like; the bounds are attributes before opset 11. */
function matchClip(model: Model, node: Node): Found | (Refusal & { kind: ActivationKind }) | null {
  const [input, minimum, maximum] = node.inputs;
  if (!input) return null;
  const asInputs = opsetOf(model, node.body) >= 11;
  const low = asInputs ? (minimum ? constantScalar(model, minimum) : -Infinity) : (floatAttr(node, 'min') ?? -Infinity);
  const high = asInputs ? (maximum ? constantScalar(model, maximum) : Infinity) : (floatAttr(node, 'max') ?? Infinity);
  if (low === null || high === null) return { kind: 'clip', reason: 'the bounds of Clip are not constant' };
  if (low !== 0) return { kind: 'clip', reason: `Clip from ${low} is no ReLU: that starts at 0` };
  if (high <= 0) return { kind: 'clip', reason: `Clip from 0 to ${high} is constant` };
  const activation = high >= 3e38 ? relu : clip(high);
  return { activations: [activation], parameterShape: [], input, nodes: [node] };
}

/** PRelu with a constant slope, which may differ by channel. */
function matchPRelu(model: Model, node: Node): Found | (Refusal & { kind: ActivationKind }) | null {
  const [input, slope] = node.inputs;
  if (!input) return null;
  const numbers = constantNumbers(model, slope, 1 << 20);
  const dims = constantOf(model, slope)?.dims;
  if (!numbers || !dims || numbers.length === 0) return { kind: 'prelu', reason: 'the slope of PRelu is not constant' };
  const same = numbers.every((value) => value === numbers[0]);
  const slopes = same ? [numbers[0] as number] : [...numbers];
  const made = new Map<number, Activation>();
  const activations = slopes.map((value) => {
    const activation = made.get(value) ?? leakyRelu(value, 'prelu');
    made.set(value, activation);
    return activation;
  });
  return { activations, parameterShape: same ? [] : dims, input, nodes: [node] };
}

/** Nodes of a spelling that nothing outside of it reads; the others stay and are sites of their own. */
function privateNodes(nodes: readonly Node[], last: Node): Node[] {
  const inside = new Set<unknown>(nodes);
  const isPrivate = (node: Node) =>
    node === last || node.outputs.every((value) => !value || [...value.users.keys()].every((user) => inside.has(user)));
  // What only a shared node reads is shared with it.
  for (let shared = nodes.filter((node) => !isPrivate(node)); shared.some((node) => inside.delete(node)); )
    shared = nodes.filter((node) => inside.has(node) && !isPrivate(node));
  return nodes.filter((node) => inside.has(node));
}

function callsOf(body: Body, calls: Map<LocalFunction, number>): number {
  const root = rootBody(body);
  return root.kind === 'function' ? (calls.get(root) ?? 0) : 1;
}

/** Node names are optional in ONNX and need not be unique; value names are both. */
function siteNames(model: Model): (node: Node) => string {
  const count = new Map<string, number>();
  for (const body of allBodies(model))
    for (const node of body.nodes)
      count.set(qualified(node, node.name), (count.get(qualified(node, node.name)) ?? 0) + 1);
  return (node) => {
    const unique = node.name !== '' && count.get(qualified(node, node.name)) === 1;
    return qualified(node, unique ? node.name : (node.outputs.find((value) => value)?.name ?? node.op));
  };
}

function qualified(node: Node, name: string): string {
  const root = rootBody(node.body);
  return root.kind === 'function' ? `${root.name}/${name}` : name;
}
