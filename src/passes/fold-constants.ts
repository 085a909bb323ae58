/**
 * Before: nodes of the main graph whose inputs are all constants, directly or through other such nodes
 * After: initializers with their results, under the same names; what only they read is gone
 * Conditions: operators of the standard domain that give the same result each time; nested graphs read constants only.
 *   A result above `limit` bytes that is larger than the constants it is made of is not stored: its node stays, and
 *   what it reads is folded instead. Constant nodes stay. Below IR 4 the new initializers are inputs as well, as that
 *   version demands, under fresh names; where a graph returns the value it becomes a Constant node.
 *   Nodes of functions and nested graphs are left alone; what they read of the main graph may be folded.
 * Algebra: none; onnxruntime computes the values, all in one session. If that fails, each node gets its own, so that
 *   only those that can't be computed, and what reads them, stay.
 */
import { SisyphusError } from '../errors.ts';
import { type NdArray, openSession, tensorFromArray } from '../eval/session.ts';
import { tensorAttribute } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import {
  addConstant,
  addNode,
  dropValueInfo,
  makeInitializer,
  pruneUnused,
  removeNode,
  replaceUses,
  setType,
} from '../graph/edit.ts';
import type { Body, LocalFunction, Model, Node, Value } from '../graph/ir.ts';
import { modelFromProto } from '../graph/read.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { byteLength, type Tensor } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import { bodiesWithin, functionTable, nestedGraphs, readValues, topologicalOrder } from '../graph/walk.ts';
import {
  copyMessage,
  type GraphProto,
  type ModelProto,
  message,
  type NodeProto,
  type TensorProto,
  type ValueInfoProto,
} from '../graph/wire.ts';
import { modelToProto, serialize } from '../graph/write.ts';
import { dropoutRefusal } from './drop-identity.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';

export interface FoldConstantsOptions {
  /** Bytes up to which a result is stored even if it is larger than what it is made of. Default 1 MiB. */
  readonly limit?: number;
}

const DEFAULT_LIMIT = 1 << 20;
/** Results that are known to be larger are not even computed. */
const LARGEST = 2 ** 30;

export const foldConstants: Pass<FoldConstantsOptions> = {
  name: 'fold-constants',
  summary: 'Compute what depends on constants only, and store it',
  exact: true,
  async run(model, options) {
    let types: Types | undefined;
    const job: Job = {
      model,
      limit: options.limit ?? DEFAULT_LIMIT,
      types: () => (types ??= inferTypes(model)),
      proto: modelToProto(model),
      find: functionTable(model),
      results: new Map(),
      failed: new Map(),
      stay: new Map(),
      foldable: new Set(),
    };
    await solve(job);
    const applied = store(job);
    const left = [...job.failed, ...job.stay];
    const skipped: Skip[] = left.map(([node, reason]) => ({ site: siteName(node), reason }));
    return { pass: 'fold-constants', applied, skipped };
  },
};

interface Job {
  readonly model: Model;
  readonly limit: number;
  /** Inferred before anything changes, if at all. */
  readonly types: () => Types;
  /** The model's messages, from before anything changes; `graph.node` is parallel to the graph's nodes. */
  readonly proto: ModelProto;
  readonly find: (node: Node) => LocalFunction | undefined;
  readonly results: Map<Value, NdArray>;
  /** Nodes that read constants only but can't be computed, and why. */
  readonly failed: Map<Node, string>;
  /** Nodes in topological order that can be computed. */
  foldable: Set<Node>;
  /** Those of them whose results are too large to be stored. What reads them may be folded all the same. */
  readonly stay: Map<Node, string>;
}

/** Computes what has to be stored. Each round that finds a node to stay turns what it reads into something to store. */
async function solve(job: Job): Promise<void> {
  findFoldable(job);
  for (;;) {
    const wanted = wantedValues(job);
    let settled = true;
    for (const value of wanted) {
      const known = job.results.get(value);
      const reason = known ? storageReason(job, value, known) : sizeReason(job, value);
      if (!reason || !value.producer) continue;
      job.stay.set(value.producer, reason);
      settled = false;
    }
    if (!settled) continue;
    const missing = wanted.filter((value) => !job.results.has(value));
    if (missing.length === 0) return;
    await compute(job, missing);
  }
}

function findFoldable(job: Job): void {
  job.foldable = new Set();
  for (const node of topologicalOrder(job.model.graph)) {
    const reads = outerReads(job.model, node);
    if (isConstantNode(node) || reads.length === 0 || !reads.every((value) => isConstant(job, value))) continue;
    const reason = job.failed.get(node) ?? refusal(job, node);
    if (reason) job.failed.set(node, reason);
    else job.foldable.add(node);
  }
}

/** What a node and its nested graphs read of the main graph. */
const outerReads = (model: Model, node: Node): Value[] =>
  readValues(node).filter(({ body }) => body === model.graph || body === null);

function isConstant({ model, foldable }: Job, value: Value): boolean {
  if (value.initializer) return !(value.isInput && model.irVersion >= 4);
  const node = value.producer;
  return node !== null && (isConstantNode(node) || foldable.has(node));
}

const isConstantNode = (node: Node): boolean => node.op === 'Constant' && node.domain === '';

const RANDOM = new Set([
  'Bernoulli',
  'Multinomial',
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
]);

function refusal(job: Job, node: Node): string | null {
  for (const inner of [node, ...nestedGraphs(node).flatMap((graph) => [...bodiesWithin(graph)].flatMap(nodesOf))]) {
    if (job.find(inner)) return `${label(inner)} calls a function of the model`;
    if (inner.domain !== '') return `${label(inner)} is of the domain '${inner.domain}'`;
    if (RANDOM.has(inner.op)) return `${label(inner)} is random`;
    if (inner.op === 'Loop') return `${label(inner)} may run for any time`;
    const dropout = inner.op === 'Dropout' ? dropoutRefusal(job.model, inner) : null;
    if (dropout) return dropout;
  }
  for (const value of node.outputs) {
    const size = value && knownSize(job, value);
    if (size && size > LARGEST) return `its result takes ${size} bytes`;
  }
  return null;
}
const nodesOf = (body: Body): readonly Node[] => body.nodes;

/** Results that something reads which stays. */
function wantedValues({ model, foldable, stay }: Job): Value[] {
  const stays = (user: Node | Body): boolean => {
    const at = outermost(model, user);
    return !('op' in at) || !foldable.has(at) || stay.has(at);
  };
  return [...foldable]
    .filter((node) => !stay.has(node))
    .flatMap((node) => node.outputs.filter((value) => value !== null))
    .filter((value) => [...value.users.keys()].some(stays));
}

/** The node of the main graph that a reader is, or is inside of; the main graph itself for its outputs. */
function outermost(model: Model, user: Node | Body): Node | Body {
  let at = user;
  while (at !== model.graph) {
    if ('op' in at) {
      if (at.body === model.graph) return at;
      at = at.body;
    } else if (at.kind === 'graph' && at.owner) at = at.owner;
    else return at;
  }
  return at;
}

function storageReason(job: Job, value: Value, { elem, dims }: NdArray): string | null {
  return elem === 'string' ? 'its result is text' : tooLarge(job, value, byteLength(elem, dims));
}

/** The same before it is computed, from what inference knows. */
function sizeReason(job: Job, value: Value): string | null {
  const size = knownSize(job, value);
  return size === null ? null : tooLarge(job, value, size);
}

function knownSize(job: Job, value: Value): number | null {
  const { elem, shape } = job.types().get(value);
  const dims = shape?.filter((dim) => typeof dim === 'number');
  if (!elem || elem === 'string' || elem === 'undefined' || !dims || dims.length !== shape?.length) return null;
  return byteLength(elem, dims);
}

function tooLarge(job: Job, value: Value, size: number): string | null {
  if (size <= job.limit) return null;
  const source = sourceBytes(job, value);
  if (size <= source) return null;
  return `its result takes ${size} bytes, more than the limit of ${job.limit} and than the ${source} it is made of`;
}

/** Bytes of all stored constants that a value is computed from. */
function sourceBytes(job: Job, value: Value): number {
  let sum = 0;
  for (const source of ancestors(job, [value], () => false).sources) {
    const tensor = constantOf(job.model, source);
    if (tensor && tensor.elem !== 'string') sum += byteLength(tensor.elem, tensor.dims);
  }
  return sum;
}

interface Ancestors {
  readonly nodes: Set<Node>;
  /** Initializers, and what Constant nodes make. */
  readonly sources: Set<Value>;
}

/** @param known values that need no computing */
function ancestors({ model, foldable }: Job, values: readonly Value[], known: (value: Value) => boolean): Ancestors {
  const nodes = new Set<Node>();
  const sources = new Set<Value>();
  const queue = [...values];
  for (let value = queue.pop(); value; value = queue.pop()) {
    const node = value.producer;
    if (!node || !foldable.has(node) || known(value)) sources.add(value);
    else if (!nodes.has(node)) {
      nodes.add(node);
      queue.push(...outerReads(model, node));
    }
  }
  return { nodes, sources };
}

/** Fills `results` for the values, or moves nodes from `foldable` to `failed` where that is impossible. */
async function compute(job: Job, values: readonly Value[]): Promise<void> {
  const known = (value: Value) => job.results.has(value);
  const { nodes, sources } = ancestors(job, values, known);
  const order = [...job.foldable].filter((node) => nodes.has(node));
  try {
    await evaluate(job, 'the constant part of the model', order, sources, values);
  } catch {
    for (const node of order) await computeAlone(job, node);
    findFoldable(job);
  }
}

async function computeAlone(job: Job, node: Node): Promise<void> {
  const reads = outerReads(job.model, node);
  const ready = (value: Value) => !value.producer || isConstantNode(value.producer) || job.results.has(value);
  if (!reads.every(ready)) return; // something before it has failed
  const outputs = node.outputs.filter((value) => value !== null && !job.results.has(value));
  try {
    await evaluate(job, label(node), [node], new Set(reads), outputs as Value[]);
  } catch (cause) {
    job.failed.set(node, cause instanceof Error ? cause.message : String(cause));
  }
}

/** Runs some nodes and keeps the values that are wanted of them. */
async function evaluate(
  job: Job,
  name: string,
  nodes: readonly Node[],
  sources: ReadonlySet<Value>,
  wanted: readonly Value[],
): Promise<void> {
  const part = modelFromProto(partialProto(job, nodes, sources, wanted), job.model.folder);
  const session = await openSession(serialize(part, { inline: true }), { optimize: false, name });
  try {
    const results = await session.run(new Map());
    for (const value of wanted) {
      const array = results.get(value.name);
      if (!array) throw new SisyphusError('unsupported', `${name}: onnxruntime gives no '${value.name}'`);
      job.results.set(value, array);
    }
  } finally {
    await session.release();
  }
}

/** A model of some of the nodes, without inputs. */
function partialProto(
  { model, proto, results }: Job,
  nodes: readonly Node[],
  sources: ReadonlySet<Value>,
  wanted: readonly Value[],
): ModelProto {
  const indices = new Map(model.graph.nodes.map((node, index) => [node, index]));
  const constants = [...sources].flatMap(({ producer }) => (producer && isConstantNode(producer) ? [producer] : []));
  const initializers = [...sources].flatMap((value): TensorProto[] => {
    const computed = results.get(value);
    const tensor = value.initializer ?? (computed && tensorFromArray(value.name, computed));
    return tensor ? [copyMessage(tensor.proto, { name: value.name })] : [];
  });
  const graph = {
    node: [...new Set([...constants, ...nodes])].map(
      (node) => proto.graph?.node?.[indices.get(node) ?? -1] as NodeProto,
    ),
    initializer: initializers,
    output: wanted.map(({ name }) => message<ValueInfoProto>('ValueInfoProto', { name })),
    input: undefined,
    value_info: undefined,
    sparse_initializer: undefined,
    quantization_annotation: undefined,
  };
  return copyMessage(proto, {
    graph: copyMessage(proto.graph as GraphProto, graph),
    // From IR 4 on initializers need not be inputs.
    ir_version: Math.max(model.irVersion, 4),
    functions: undefined,
    training_info: undefined,
  });
}

/** Takes all nodes out that were folded, and puts the results in that are still read. */
function store(job: Job): Change[] {
  const { model, results } = job;
  const { graph } = model;
  const wanted = new Set(wantedValues(job));
  const gone = [...job.foldable].filter((node) => !job.stay.has(node));
  const sources = gone.flatMap((node) => outerReads(model, node));
  for (const node of gone) removeNode(node);
  const applied = new Map<Node, Change>();
  for (const node of gone) applied.set(node, { site: siteName(node), detail: `${node.op} is not needed any more` });
  for (const node of gone)
    for (const value of node.outputs) {
      const array = value && wanted.has(value) ? results.get(value) : undefined;
      if (!value || !array) continue;
      storeValue(model, value, tensorFromArray(value.name, array));
      applied.set(node, { site: siteName(node), detail: `${node.op} stored as ${array.elem} [${array.dims}]` });
    }
  const dead = new Set(gone.flatMap((node) => node.outputs));
  dropValueInfo(graph, (value) => dead.has(value));
  pruneUnused(sources);
  return [...applied.values()];
}

function storeValue(model: Model, value: Value, tensor: Tensor): void {
  const { graph } = model;
  const isOutput = [...value.users.keys()].some((user) => 'nodes' in user);
  if (model.irVersion >= 4) {
    makeInitializer(value, tensor);
    if (!isOutput) setType(value, { elem: tensor.elem, shape: tensor.dims });
  } else if (isOutput) {
    const attributes = [tensorAttribute('value', tensor)];
    addNode(
      model,
      graph,
      { op: 'Constant', name: value.name, inputs: [], attributes, outputs: [value] },
      graph.nodes[0],
    );
  } else replaceUses(value, addConstant(model, graph, tensor, null));
}
