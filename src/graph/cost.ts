/** What a model costs: its size, its arithmetic, and what private inference makes of it. */
import { graphAttr, intAttr } from './attributes.ts';
import type { Body, Graph, LocalFunction, Model, Node, Value } from './ir.ts';
import { KNOWN, levelsOf, NON_POLYNOMIAL } from './levels.ts';
import { comparisonsOf, type Multiplications, macsOf, multiplicationsOf, nodeKind } from './multiplications.ts';
import type { Types } from './shapes.ts';
import { elementCount } from './tensor.ts';
import { allBodies, bodiesWithin, callCounts, functionTable, nestedGraphs, topologicalOrder } from './walk.ts';

export interface Cost {
  /** Elements of all initializers, whatever their type; tensors of Constant nodes are not counted. */
  readonly parameters: number;
  /** Multiply-accumulates for one input. */
  readonly macs: number;
  /** Scalar multiplications for one input, by kind. */
  readonly multiplications: Multiplications;
  /** Comparisons for one input with which MaxPool, GlobalMaxPool, ReduceMax and ReduceMin find their extremes. */
  readonly poolComparisons: number;
  /** How often each operator runs, by name; those of other domains as `domain::name`. */
  readonly nodes: Readonly<Record<string, number>>;
  /** Multiplicative depth. */
  readonly depth: number;
  /** Operators that are no polynomials of the data, and how many of each kind. */
  readonly nonPolynomial: number;
  readonly nonPolynomialNodes: Readonly<Record<string, number>>;
}

/**
 * Counts what a model costs. Bodies of functions count once per call, calls themselves do not. Nested graphs count once,
 * also those of loops; of an If whose condition is known without a run, only `nodes` counts the branch not taken.
 *
 * - `parameters`: see `Cost`; an initializer that is listed twice counts once.
 * - `macs`: of Conv, ConvTranspose, Gemm, MatMul and their quantised forms, where they depend on the model's input.
 *   Sizes that are symbolic or unknown count as 1. A numeric batch (the size with which both the first input and the
 *   first output begin) is divided out.
 * - `multiplications`: under the same conventions, the multiply-accumulates, and of the other operators that have levels
 *   (see `depth`) one product for each output, but for: Pow with a constant exponent, floor(log2 n) squarings and a
 *   product for each further bit of n; ReduceSumSquare and ReduceProd, over their inputs; Einsum, over all its indices;
 *   interpolation, by the weights that it takes. Ciphertext: both factors depend on the model's input; plaintext: one does.
 * - `poolComparisons`: a window of k elements takes k - 1, whether or not some of them are padding.
 * - `depth`: the largest number of multiplicative levels on a path from an input to an output. One level: Conv,
 *   ConvTranspose, Gemm, MatMul, BatchNormalization, Einsum and Mul, by constants or by data; Div by a constant;
 *   AveragePool, GlobalAveragePool, ReduceMean and Mean, which multiply by 1/n; ReduceSumSquare; interpolation; scales of
 *   DequantizeLinear. ceil(log2 n): Pow with a constant exponent n, ReduceProd of n elements. None: what only adds or
 *   moves elements, what works on constants, and what is computed from shapes.
 * - `nonPolynomial`: every other operator that depends on the model's input (Relu, MaxPool, Softmax, Div by data,
 *   comparisons, Where and If on data, quantisation, operators of unknown domains). They have no levels. Cast counts as
 *   the identity.
 *
 * @param types of the same model, from `inferTypes`
 */
export function cost(model: Model, types: Types): Cost {
  const state: State = { model, find: functionTable(model), calls: new Map(), orders: new Map(), open: [] };
  const env = new Map<Value, Flow>();
  for (const { value } of model.graph.inputs) if (!value.initializer) env.set(value, DATA);
  const { outputs, totals } = flowThrough(state, model.graph, env, types);
  const batch = batchSize(model, types);
  const perInput = (count: number) => Math.round(count / batch);
  return {
    parameters: parameters(model),
    macs: perInput(totals.macs),
    multiplications: { ciphertext: perInput(totals.ciphertext), plaintext: perInput(totals.plaintext) },
    poolComparisons: perInput(totals.comparisons),
    nodes: histogram(model),
    depth: Math.max(0, ...outputs.map((flow) => flow.get(0) ?? 0)),
    nonPolynomial: [...totals.nonPolynomial.values()].reduce((a, b) => a + b, 0),
    nonPolynomialNodes: Object.fromEntries(totals.nonPolynomial),
  };
}

function parameters(model: Model): number {
  const tensors = new Map(
    [...allBodies(model)].flatMap((body) =>
      body.kind === 'graph' ? body.initializers.map(({ value, tensor }) => [value, tensor] as const) : [],
    ),
  );
  return [...tensors.values()].reduce((sum, { dims }) => sum + elementCount(dims), 0);
}

function histogram(model: Model): Record<string, number> {
  const find = functionTable(model);
  const counts = new Map<string, number>();
  for (const [root, times] of [[model.graph, 1] as const, ...callCounts(model)])
    for (const body of times > 0 ? bodiesWithin(root) : [])
      for (const node of body.nodes) {
        const name = nodeKind(node);
        if (!find(node)) counts.set(name, (counts.get(name) ?? 0) + times);
      }
  return Object.fromEntries(counts);
}

function batchSize(model: Model, types: Types): number {
  const input = model.graph.inputs.find(({ value }) => !value.initializer)?.value;
  const output = model.graph.outputs[0]?.value;
  const [first, last] = [input, output].map((value) => value && types.get(value).shape);
  const size = first && first.length > 1 && first[0] === last?.[0] ? first[0] : 1;
  return typeof size === 'number' && size > 0 ? size : 1;
}

/**
 * How a value depends on the inputs of the body that is looked at: by input, the most levels on the way. Empty for
 * constants and what is computed from constants and shapes.
 */
type Flow = ReadonlyMap<number, number>;
/** The inputs of the main graph are one source. */
const DATA: Flow = new Map([[0, 0]]);
const CONSTANT: Flow = new Map();

interface Totals extends Multiplications {
  readonly macs: number;
  readonly comparisons: number;
  /** How many of each operator. */
  readonly nonPolynomial: ReadonlyMap<string, number>;
}
interface Result {
  readonly outputs: readonly Flow[];
  readonly totals: Totals;
}
const NOTHING: Totals = { macs: 0, ciphertext: 0, plaintext: 0, comparisons: 0, nonPolynomial: new Map() };
const only = (node: Node, counts: boolean): Totals['nonPolynomial'] =>
  counts ? new Map([[nodeKind(node), 1]]) : NOTHING.nonPolynomial;

function plus(a: Totals, b: Totals): Totals {
  return {
    macs: a.macs + b.macs,
    ciphertext: a.ciphertext + b.ciphertext,
    plaintext: a.plaintext + b.plaintext,
    comparisons: a.comparisons + b.comparisons,
    nonPolynomial: b.nonPolynomial.size === 0 ? a.nonPolynomial : together(a.nonPolynomial, b.nonPolynomial),
  };
}

function together(a: Totals['nonPolynomial'], b: Totals['nonPolynomial']): Totals['nonPolynomial'] {
  const counts = new Map(a);
  for (const [kind, count] of b) counts.set(kind, (counts.get(kind) ?? 0) + count);
  return counts;
}

interface State {
  readonly model: Model;
  readonly find: (node: Node) => LocalFunction | undefined;
  /** Results of calls, by function, types within it, and what is known of its inputs. */
  readonly calls: Map<LocalFunction, Map<Types, Map<string, Result>>>;
  readonly orders: Map<Body, readonly Node[]>;
  readonly open: LocalFunction[];
}
const MAX_DEPTH = 100;

const isData = (flow: Flow | undefined): boolean => flow !== undefined && flow.size > 0;

/** The longest ways of all, `levels` further on. */
function join(flows: readonly (Flow | undefined)[], levels = 0): Flow {
  const out = new Map<number, number>();
  for (const flow of flows)
    for (const [source, level] of flow ?? []) out.set(source, Math.max(level + levels, out.get(source) ?? 0));
  return out;
}

/** Follows the data through a body whose inputs are in `env`, which gets what the nodes make. */
function flowThrough(state: State, body: Body, env: Map<Value, Flow>, types: Types): Result {
  const order = state.orders.get(body) ?? topologicalOrder(body);
  state.orders.set(body, order);
  const flowOf = (value: Value | null): Flow => (value && env.get(value)) ?? CONSTANT;
  let totals = NOTHING;
  for (const node of order) {
    const result = nodeFlow(state, node, node.inputs.map(flowOf), env, types);
    totals = plus(totals, result.totals);
    for (const [i, value] of node.outputs.entries()) if (value) env.set(value, result.outputs[i] ?? CONSTANT);
  }
  return { outputs: body.outputs.map(({ value }) => flowOf(value)), totals };
}

function nodeFlow(state: State, node: Node, inputs: readonly Flow[], env: Map<Value, Flow>, types: Types): Result {
  const fn = state.find(node);
  if (fn) return callFlow(state, fn, inputs, types.inside(node));
  const resolved = types.resolve(node);
  const nested = nestedGraphs(resolved);
  if (nested.length > 0) return nestedFlow(state, resolved, inputs, nested, env, types);
  if (!inputs.some(isData)) return { outputs: [], totals: NOTHING };
  const operands = { node: resolved, isData: (index: number) => isData(inputs[index]), types };
  const levels = levelsOf(operands);
  if (levels === KNOWN) return { outputs: [], totals: NOTHING };
  const polynomial = levels !== NON_POLYNOMIAL;
  const out = join(inputs, polynomial ? levels : 0);
  const macs = macsOf(node, types);
  const products = multiplicationsOf(operands, macs, levels);
  const totals = { macs, ...products, comparisons: comparisonsOf(operands), nonPolynomial: only(node, !polynomial) };
  return { outputs: node.outputs.map(() => out), totals };
}

/** A function's own ways, with the ways to its inputs in front. */
function callFlow(state: State, fn: LocalFunction, inputs: readonly Flow[], types: Types): Result {
  if (state.open.includes(fn) || state.open.length >= MAX_DEPTH)
    return { outputs: fn.outputs.map(() => join(inputs)), totals: NOTHING };
  const byTypes = state.calls.get(fn) ?? new Map<Types, Map<string, Result>>();
  const byInputs = byTypes.get(types) ?? new Map<string, Result>();
  state.calls.set(fn, byTypes);
  byTypes.set(types, byInputs);
  const key = inputs.map((flow) => Number(isData(flow))).join('');
  let result = byInputs.get(key);
  if (!result) {
    const env = new Map<Value, Flow>();
    for (const [i, { value }] of fn.inputs.entries()) env.set(value, isData(inputs[i]) ? new Map([[i, 0]]) : CONSTANT);
    state.open.push(fn);
    result = flowThrough(state, fn, env, types);
    state.open.pop();
    byInputs.set(key, result);
  }
  const outputs = result.outputs.map((flow) => join([...flow].map(([source, level]) => join([inputs[source]], level))));
  return { outputs, totals: result.totals };
}

/** If has the ways of both branches, unless its condition is known; loops have those of one round. */
function nestedFlow(
  state: State,
  node: Node,
  inputs: readonly Flow[],
  nested: readonly Graph[],
  env: Map<Value, Flow>,
  types: Types,
): Result {
  const body = graphAttr(node, 'body');
  const op = node.domain === '' ? node.op : '';
  if (body && (op === 'Loop' || op === 'Scan')) return loopFlow(state, node, body, inputs, env, types);
  const [condition] = (node.inputs[0] && types.elements(node.inputs[0])) ?? [];
  const taken = graphAttr(node, condition === 0 ? 'else_branch' : 'then_branch');
  const possible = op === 'If' && typeof condition === 'number' && taken ? [taken] : nested;
  const branches = possible.map((graph) => flowThrough(state, graph, env, types));
  const choice = join(op === 'If' ? inputs.slice(0, 1) : inputs);
  const outputs = node.outputs.map((_, i) => join([choice, ...branches.map((branch) => branch.outputs[i])]));
  const own = { ...NOTHING, nonPolynomial: only(node, isData(choice)) };
  return { outputs, totals: branches.map(({ totals }) => totals).reduce(plus, own) };
}

/** The state of a loop is data as soon as one round makes it so. */
function loopFlow(
  state: State,
  node: Node,
  body: Graph,
  inputs: readonly Flow[],
  env: Map<Value, Flow>,
  types: Types,
): Result {
  // Loop reads a trip count and a condition first; its body reads the round and the condition, and makes a condition.
  const isLoop = node.op === 'Loop';
  const lead = isLoop ? 2 : 0;
  const states = inputs.length - lead - (isLoop ? 0 : (intAttr(node, 'num_scan_inputs') ?? 0));
  let carried = inputs.slice(lead);
  for (;;) {
    for (const [i, { value }] of body.inputs.entries()) env.set(value, carried[i - lead] ?? CONSTANT);
    const { outputs, totals } = flowThrough(state, body, env, types);
    const results = isLoop ? outputs.slice(1) : outputs;
    const late = (flow: Flow, i: number) => i < states && !isData(flow) && isData(results[i]);
    if (!carried.some(late)) {
      const choice = join(isLoop ? [...inputs.slice(0, lead), ...outputs.slice(0, 1)] : []);
      const own = { ...NOTHING, nonPolynomial: only(node, isData(choice)) };
      const merged = results.map((flow, i) => join([choice, flow, ...carried.slice(i, i < states ? i + 1 : i)]));
      return { outputs: merged, totals: plus(totals, own) };
    }
    const fresh = (flow: Flow = CONSTANT): Flow => new Map([...flow.keys()].map((source) => [source, 0]));
    carried = carried.map((flow, i) => (late(flow, i) ? fresh(results[i]) : flow));
  }
}
