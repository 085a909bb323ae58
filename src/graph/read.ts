/** Files and messages -> IR. Reading never judges a graph: `verify` does, so that odd files can at least be looked at. */
import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { resolveExternal } from './external.ts';
import type { Attribute, Body, Graph, LocalFunction, Model, Node, Port, TensorType, Value } from './ir.ts';
import { addUser, type Mutable, mutable, newValue } from './links.ts';
import { SKIM_LIMITS, type SkimLimits, skimModel } from './skim.ts';
import { elementType, isExternal, type Tensor, tensorFromProto } from './tensor.ts';
import {
  type AttributeProto,
  decodeModel,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  type NodeProto,
  type OpsetProto,
  type TensorProto,
  type ValueInfoProto,
} from './wire.ts';

const MAX_FILE = 2 ** 31; // protobuf's own limit

/**
 * Reads an ONNX file. External data is located and checked but not read, and the large weights of a large file stay
 * there too until somebody asks for them: the file must not change meanwhile.
 * @param options.skim for tests: what is large
 * @throws SisyphusError `file`, `not-onnx`, `external-data`
 */
export function readModel(file: string, options: { skim?: SkimLimits } = {}): Model {
  const skim = options.skim ?? SKIM_LIMITS;
  const folder = path.dirname(path.resolve(file));
  let bytes: Buffer;
  try {
    const stat = statSync(file);
    if (stat.isDirectory()) throw new SisyphusError('file', `${file}: is a folder; give the .onnx file inside it`);
    if (stat.isCharacterDevice() || stat.isBlockDevice())
      throw new SisyphusError('file', `${file}: is a device, not a file`);
    if (stat.size >= MAX_FILE)
      throw new SisyphusError(
        'file',
        `${file}: ${stat.size} bytes, but protobuf files end at 2 GiB; export with external data`,
      );
    const skimmed = stat.size >= skim.file ? skimModel(file, skim.tensor) : null;
    if (skimmed) return modelFromProto(skimmed, folder);
    bytes = readFileSync(file);
  } catch (cause) {
    if (cause instanceof SisyphusError) throw cause;
    throw fileError(file, cause);
  }
  try {
    return parseModel(bytes, { where: file, folder });
  } catch (cause) {
    // Several models may be read at once, so what a tensor lacks is said of its file.
    if (!(cause instanceof SisyphusError) || cause.message.startsWith(file)) throw cause;
    throw new SisyphusError(cause.code, `${file}: ${cause.message}`, { cause });
  }
}

/** What the operating system said, in words. */
export function fileError(file: string, cause: unknown): SisyphusError {
  const code = (cause as NodeJS.ErrnoException)?.code;
  const words: Record<string, string> = {
    ENOENT: 'no such file or folder',
    EACCES: 'permission denied',
    ENOSPC: 'no space left on the disk',
    EROFS: 'the file system is read-only',
    EISDIR: 'is a folder',
  };
  return new SisyphusError('file', `${file}: ${(code && words[code]) ?? (cause as Error).message}`, { cause });
}

/** Reads a model from bytes, which must not be changed afterwards: tensors are views of them. */
export function parseModel(bytes: Uint8Array, options: { where?: string; folder?: string } = {}): Model {
  const buffer = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return modelFromProto(decodeModel(buffer, options.where ?? 'model'), options.folder);
}

/** Builds the linked graph over a message. */
export function modelFromProto(proto: ModelProto, folder: string | undefined): Model {
  const context: Context = { folder, names: new Set() };
  refuseExternal(proto.training_info, 'its training information');
  const functions = (proto.functions ?? []).map((fn) => readFunction(fn, context));
  const graph = readGraph(proto.graph as GraphProto, null, null, context);
  return {
    graph,
    functions,
    irVersion: Number(proto.ir_version ?? 0),
    opsets: opsets(proto.opset_import),
    metadata: [...(proto.metadata_props ?? [])],
    names: context.names,
    folder,
    proto,
  };
}

interface Context {
  readonly folder: string | undefined;
  readonly names: Set<string>;
}

/** 'ai.onnx' is the long spelling of the default domain. */
const canonicalDomain = (domain: string | undefined) => (domain === 'ai.onnx' ? '' : (domain ?? ''));

function opsets(imports: OpsetProto[] = []): Map<string, number> {
  return new Map(imports.map(({ domain, version }) => [canonicalDomain(domain), Number(version ?? 0)]));
}

/** Names visible in a body; what it does not define itself is looked for outside. */
interface Scope {
  readonly own: Map<string, Value>;
  readonly outer: Scope | null;
}

function lookup(scope: Scope, name: string): Value | undefined {
  for (let at: Scope | null = scope; at; at = at.outer) {
    const value = at.own.get(name);
    if (value) return value;
  }
  return undefined;
}

function readGraph(proto: GraphProto, owner: Node | null, outer: Scope | null, context: Context): Graph {
  const graph: Mutable<Graph> = {
    kind: 'graph',
    name: proto.name ?? '',
    owner,
    inputs: [],
    outputs: [],
    valueInfo: [],
    nodes: [],
    initializers: [],
    proto,
  };
  const body = graph as Graph;
  const scope: Scope = { own: new Map(), outer };
  for (const info of proto.input ?? [])
    graph.inputs.push({ value: declareInput(info.name ?? '', info, body, scope, context), info });
  for (const tensorProto of proto.initializer ?? []) {
    const tensor = readTensor(tensorProto, context);
    const value = scope.own.get(tensor.name) ?? declare(tensor.name, body, scope, context);
    mutable(value).initializer = tensor;
    mutable(value).declared ??= { elem: tensor.elem, shape: tensor.dims };
    graph.initializers.push({ value, tensor });
  }
  refuseExternal(proto.sparse_initializer, 'a sparse initializer');
  for (const sparse of proto.sparse_initializer ?? []) declare(sparse.values?.name ?? '', body, scope, context);
  link(body, proto.node ?? [], scope, context);
  graph.valueInfo = statedTypes(proto.value_info, scope);
  graph.outputs = (proto.output ?? []).map((info) => readOutput(info.name ?? '', info, body, scope));
  return body;
}

function readFunction(proto: FunctionProto, context: Context): LocalFunction {
  const fn: Mutable<LocalFunction> = {
    kind: 'function',
    name: proto.name ?? '',
    domain: canonicalDomain(proto.domain),
    overload: proto.overload ?? '',
    opsets: opsets(proto.opset_import),
    inputs: [],
    outputs: [],
    valueInfo: [],
    nodes: [],
    proto,
  };
  const body = fn as unknown as LocalFunction;
  const scope: Scope = { own: new Map(), outer: null };
  for (const name of proto.input ?? [])
    fn.inputs.push({ value: declareInput(name, null, body, scope, context), info: null });
  for (const attribute of proto.attribute_proto ?? []) locateTensors(attribute, context);
  link(body, proto.node ?? [], scope, context);
  fn.valueInfo = statedTypes(proto.value_info, scope);
  fn.outputs = (proto.output ?? []).map((name) => readOutput(name, null, body, scope));
  return body;
}

/** Two passes over the nodes, so that an order that is not topological still links. */
function link(body: Body, protos: NodeProto[], scope: Scope, context: Context): void {
  const nodes = protos.map((proto) => {
    const node: Mutable<Node> = {
      name: proto.name ?? '',
      op: proto.op_type ?? '',
      domain: canonicalDomain(proto.domain),
      inputs: [],
      outputs: [],
      attributes: [],
      body,
      proto,
    };
    context.names.add(node.name);
    node.outputs = (proto.output ?? []).map((name, index) => {
      if (name === '') return null;
      const value = mutable(declare(name, body, scope, context));
      value.producer = node as Node;
      value.index = index;
      return value as Value;
    });
    mutable(body).nodes.push(node as Node);
    return node;
  });
  for (const node of nodes) {
    const proto = node.proto as NodeProto;
    node.inputs = (proto.input ?? []).map((name) => {
      if (name === '') return null;
      const value = lookup(scope, name) ?? newValue(name, null);
      addUser(value, node as Node);
      return value;
    });
    node.attributes = (proto.attribute ?? []).map((attribute) =>
      readAttribute(attribute, node as Node, scope, context),
    );
  }
}

function readAttribute(proto: AttributeProto, owner: Node, scope: Scope, context: Context): Attribute {
  locateTensors(proto, context);
  const graphs = [...(proto.g ? [proto.g] : []), ...(proto.graphs ?? [])];
  return { name: proto.name ?? '', graphs: graphs.map((graph) => readGraph(graph, owner, scope, context)), proto };
}

/** A name that is defined twice keeps its first value in scope; `verify` reports the second. */
function declare(name: string, body: Body, scope: Scope, context: Context): Value {
  const value = newValue(name, body);
  if (!scope.own.has(name)) scope.own.set(name, value);
  context.names.add(name);
  return value;
}

function declareInput(name: string, info: ValueInfoProto | null, body: Body, scope: Scope, context: Context): Value {
  const value = mutable(declare(name, body, scope, context));
  value.isInput = true;
  value.declared = info ? readType(info) : null;
  return value as Value;
}

function readOutput(name: string, info: ValueInfoProto | null, body: Body, scope: Scope): Port {
  const value = lookup(scope, name) ?? newValue(name, null);
  addUser(value, body);
  if (info) mutable(value).declared ??= readType(info);
  return { value, info };
}

function statedTypes(infos: ValueInfoProto[] = [], scope: Scope): Port[] {
  return infos.map((info) => {
    const value = scope.own.get(info.name ?? '') ?? newValue(info.name ?? '', null);
    mutable(value).declared ??= readType(info);
    return { value, info };
  });
}

function readTensor(proto: TensorProto, context: Context): Tensor {
  const tensor = tensorFromProto(proto);
  if (tensor.external || !isExternal(proto)) return tensor;
  return tensorFromProto(proto, resolveExternal(proto, context.folder));
}

/** Checks external tensors of an attribute; `tensorFromProto` finds their ranges again. */
function locateTensors(proto: AttributeProto, context: Context): void {
  for (const tensor of [...(proto.t ? [proto.t] : []), ...(proto.tensors ?? [])]) readTensor(tensor, context);
  refuseExternal([proto.sparse_tensor, proto.sparse_tensors], `the sparse attribute '${proto.name ?? ''}'`);
}

/** What is carried along as it is must not point to other files: written elsewhere, it would point to nothing. */
function refuseExternal(parts: unknown, what: string): void {
  if (holdsExternal(parts))
    throw new SisyphusError('unsupported', `${what} has external data, which is supported for dense tensors only`);
}

function holdsExternal(part: unknown): boolean {
  if (Array.isArray(part)) return part.some(holdsExternal);
  if (typeof part !== 'object' || part === null || ArrayBuffer.isView(part)) return false;
  return isExternal(part) || Object.values(part).some(holdsExternal);
}

/** The stated type; null for values that are not tensors. */
export function readType(info: ValueInfoProto): TensorType | null {
  const tensor = info.type?.tensor_type;
  if (!tensor) return null;
  const elem = tensor.elem_type ? elementType(tensor.elem_type) : null;
  if (!tensor.shape) return { elem, shape: null };
  const shape = (tensor.shape.dim ?? []).map((dim) => {
    if (Object.hasOwn(dim, 'dim_value')) return Number(dim.dim_value);
    return dim.dim_param || null;
  });
  return { elem, shape };
}
