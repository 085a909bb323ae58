/** The invariants of a well-formed model, as a list of what breaks them. */
import { SisyphusError } from '../errors.ts';
import type { Body, Graph, Model, Node, Value } from './ir.ts';
import { dataProblem, rawBytes, type Tensor } from './tensor.ts';
import { allBodies, bodiesWithin, callOrder, topologicalOrder } from './walk.ts';

/** The versions that this program knows the meaning of. */
export const OPSETS = { min: 7, max: 23 } as const;
export const MAX_IR = 13;

/**
 * Looks for everything that would make a rewrite meaningless: names without a definition, names defined twice, cycles,
 * links that disagree, missing or unknown opset versions.
 * @returns one sentence for each problem; empty for a well-formed model
 */
export function verify(model: Model): string[] {
  let problems = versionProblems(model);
  for (const fn of callOrder(model).recursive) problems.push(`the function ${fn.domain}.${fn.name} calls itself`);
  for (const body of allBodies(model)) {
    // Damaged files have more problems than a call has room for arguments.
    problems = problems.concat(definitionProblems(body), linkProblems(body));
    const order = topologicalOrder(body);
    if (order.length < body.nodes.length) {
      const inOrder = new Set(order);
      const stuck = body.nodes.filter((node) => !inOrder.has(node));
      problems.push(`${describe(body)} has a cycle through ${label(stuck[0] as Node)}`);
    }
  }
  return problems;
}

/** @throws SisyphusError `invalid-model` with the first problem and the number of all */
export function assertValid(model: Model, where: string): void {
  const problems = verify(model);
  if (problems.length === 0) return;
  const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : '';
  throw new SisyphusError(
    'invalid-model',
    `${where}: not a valid model: ${problems[0]}${more}; repair or export it again`,
  );
}

/** What a person calls a node: its name, or what it makes. */
export function label(node: Node): string {
  return `${node.op} '${node.name || (node.outputs.find((value) => value)?.name ?? '')}'`;
}

function describe(body: Body): string {
  if (body.kind === 'function') return `function ${body.domain}.${body.name}`;
  return body.owner ? `the graph '${body.name}' inside ${label(body.owner)}` : 'the graph';
}

function versionProblems(model: Model): string[] {
  const problems: string[] = [];
  if (model.irVersion < 1) problems.push('it states no IR version');
  if (model.irVersion > MAX_IR)
    problems.push(`its IR version ${model.irVersion} is newer than ${MAX_IR}, the newest known here`);
  const needsOpset = [model.graph, ...model.functions].some((root) =>
    [...bodiesWithin(root)].some((body) => body.nodes.some((n) => n.domain === '')),
  );
  const opset = model.opsets.get('');
  if (opset === undefined) {
    if (needsOpset && !model.functions.some((fn) => fn.opsets.has('')))
      problems.push('it imports no opset, so its operators have no meaning');
  } else if (opset < OPSETS.min || opset > OPSETS.max)
    problems.push(`its opset ${opset} is outside of ${OPSETS.min} to ${OPSETS.max}; convert it to one of these`);
  return problems;
}

function definitionProblems(body: Body): string[] {
  const problems: string[] = [];
  const defined = new Map<string, Value>();
  const define = (value: Value, what: string) => {
    const first = defined.get(value.name);
    if (first && first !== value)
      problems.push(`'${value.name}' is defined twice in ${describe(body)}, the second time by ${what}`);
    defined.set(value.name, value);
  };
  for (const { value } of body.inputs) define(value, 'an input');
  if (body.inputs.length !== new Set(body.inputs.map(({ value }) => value)).size)
    problems.push(`${describe(body)} lists an input twice`);
  if (body.kind === 'graph') {
    for (const { value, tensor } of body.initializers) {
      define(value, 'an initializer');
      const problem = dataProblem(tensor);
      if (problem) problems.push(problem);
    }
    for (const name of conflictingInitializers(body))
      problems.push(`the initializer '${name}' is defined twice with different data`);
  }
  for (const node of body.nodes) for (const value of node.outputs) if (value) define(value, label(node));
  for (const node of body.nodes)
    for (const value of node.inputs)
      if (value && !isDefined(value)) problems.push(`${label(node)} reads '${value.name}', which nothing defines`);
  for (const { value } of body.outputs)
    if (!isDefined(value)) problems.push(`${describe(body)} returns '${value.name}', which nothing defines`);
  return problems;
}

/** The same data twice is harmless; different data under one name has no meaning. */
function conflictingInitializers(graph: Graph): string[] {
  const first = new Map<Value, Tensor>();
  return graph.initializers.flatMap(({ value, tensor }) => {
    const earlier = first.get(value);
    if (!earlier) first.set(value, tensor);
    return earlier && !sameData(earlier, tensor) ? [value.name] : [];
  });
}

function sameData(a: Tensor, b: Tensor): boolean {
  if (a.elem !== b.elem || `${a.dims}` !== `${b.dims}`) return false;
  if (a.elem === 'string') {
    const strings = (tensor: Tensor) => (tensor.proto.string_data ?? []).map((bytes) => Buffer.from(bytes));
    const others = strings(b);
    return strings(a).every((bytes, i) => others[i]?.equals(bytes));
  }
  try {
    return Buffer.from(rawBytes(a)).equals(rawBytes(b));
  } catch (cause) {
    if (cause instanceof SisyphusError) return false;
    throw cause;
  }
}

const isDefined = (value: Value) =>
  value.producer !== null || value.isInput || value.initializer !== null || isSparse(value);

function isSparse(value: Value): boolean {
  return (
    value.body?.kind === 'graph' &&
    (value.body.proto.sparse_initializer ?? []).some((sparse) => sparse.values?.name === value.name)
  );
}

/** Both directions of every link, as `edit.ts` keeps them. */
function linkProblems(body: Body): string[] {
  const problems: string[] = [];
  const present = new Set(body.nodes);
  for (const value of [...body.outputs.map((port) => port.value), ...body.nodes.flatMap((node) => node.inputs)])
    if (value?.producer && value.producer.body === body && !present.has(value.producer))
      problems.push(`'${value.name}' is made by ${label(value.producer)}, which is not in its graph any more`);
  for (const node of body.nodes) {
    if (node.body !== body) problems.push(`${label(node)} does not know the graph it is in`);
    const reads = new Map<Value, number>();
    for (const value of node.inputs) if (value) reads.set(value, (reads.get(value) ?? 0) + 1);
    for (const [value, times] of reads)
      if (value.users.get(node) !== times) problems.push(`'${value.name}' does not know its reader ${label(node)}`);
    for (const [index, value] of node.outputs.entries())
      if (value && (value.producer !== node || value.index !== index))
        problems.push(`'${value.name}' does not know its producer ${label(node)}`);
  }
  return problems;
}
