/** IR -> messages -> files. What the IR does not model is taken over from the message that was read. */
import { randomBytes } from 'node:crypto';
import { readSync, writeSync } from 'node:fs';
import { type FileHandle, lstat, open, realpath, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { SisyphusError } from '../errors.ts';
import type { Attribute, Graph, LocalFunction, Model, Node, Port } from './ir.ts';
import { byteCount, changed, type FileRange, fileStamp, readRange, standIn } from './ranges.ts';
import { fileError } from './read.ts';
import { byteLength, dataRange, isExternal, isUnpackedData, rawBytes, type Tensor, tensorFromProto } from './tensor.ts';
import { allBodies } from './walk.ts';
import {
  type AttributeProto,
  type Chunk,
  copyMessage,
  encodeChunks,
  encodeModel,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  message,
  type NodeProto,
  type OpsetProto,
  type StringEntry,
  type TensorProto,
  type ValueInfoProto,
} from './wire.ts';

export interface WriteOptions {
  /** Replace an existing file. Default: refuse. */
  readonly force?: boolean;
  /**
   * Put the weights into `FILE.data`. Default: when the model came so, or when it nears protobuf's 2 GiB. Constants
   * inside of nodes go there only if they came from such a file.
   */
  readonly externalData?: boolean;
  /** Stops writing and removes what was written. */
  readonly signal?: AbortSignal;
}

/** 2 GiB less room for length prefixes and for consumers that count generously. */
const INLINE_LIMIT = 2 ** 31 - 2 ** 26;
/** Tensors below this stay in the model file, as the official tools do. */
const EXTERNAL_MINIMUM = 1024;
/** Offsets are multiples of the page size, so that consumers can map the file. */
const ALIGNMENT = 4096;
/** Small enough to stay in a processor's cache between reading and writing. */
const COPY_CHUNK = 1 << 18;
/** How much is copied without looking at anything else. */
const COPY_SLICE = 1 << 22;
/** How much is written between two looks at the abort signal. */
const WRITE_BATCH = 1 << 25;
const PROTOBUF_LIMIT = 2 ** 31;

/** The model as bytes, in chunks that are partly views of what was read. External data stays where it is. */
export function encode(model: Model): Uint8Array[] {
  return encodeModel(modelToProto(model));
}

/** How many bytes `encode` would give, without reading what was left in the model's file. */
export const encodedSize = (model: Model): number => totalLength(encodeChunks(modelToProto(model)));

/**
 * The model as one buffer, for handing it to a runtime.
 * @param options.inline read external data and put it inside
 */
export function serialize(model: Model, options: { inline?: boolean } = {}): Uint8Array {
  const proto = modelToProto(model, options.inline ? inlineTensor : keepTensor);
  const chunks = encodeChunks(proto);
  const bytes = Buffer.allocUnsafe(checkedSize(chunks, 'the model'));
  let at = 0;
  for (const chunk of chunks) {
    const place = bytes.subarray(at, at + chunk.length);
    if (chunk instanceof Uint8Array) place.set(chunk);
    else readRange(chunk, place);
    at += chunk.length;
  }
  return bytes;
}

/**
 * Writes a model. The file appears under its name only when it is complete.
 * @returns the files written and their sizes in bytes
 * @throws SisyphusError `file` (exists without `force`, no space, …), `aborted`
 */
export async function writeModel(model: Model, file: string, options: WriteOptions = {}): Promise<Map<string, number>> {
  const tensors = [...dataTensors(model)];
  const cameExternal = tensors.some((tensor) => tensor.external);
  const inlineSize = tensors.reduce((sum, tensor) => sum + inlineBytes(tensor), 0);
  const external = options.externalData ?? (cameExternal || inlineSize > INLINE_LIMIT);
  if (!external && inlineSize >= PROTOBUF_LIMIT) throw tooLarge(file, inlineSize);
  const layout = external ? planExternal(tensors) : null;
  const dataFile = `${file}.data`;
  const targets = layout ? [file, dataFile] : [file];
  for (const target of targets) await refuseExisting(target, options.force ?? false);
  // With the data file both are written anew and stay consistent; alone, the model would take its own weights' place.
  const real = await realpath(file).catch(() => path.resolve(file));
  const source = tensors.find((tensor) => tensor.external?.path === real);
  if (source)
    throw new SisyphusError(
      'file',
      `${file}: holds the weights of the model ('${source.name}'); give another name with -o`,
    );

  const suffix = `${randomBytes(6).toString('hex')}.tmp`;
  const temporary = targets.map((target) => `${target}.${suffix}`);
  try {
    if (layout) await writeData(layout, temporary[1] as string, options.signal);
    const place = layout ? externalizer(layout, path.basename(dataFile)) : inlineTensor;
    const chunks = encodeChunks(modelToProto(model, place));
    const size = checkedSize(chunks, file);
    await writeChunks(chunks, temporary[0] as string, options.signal);
    options.signal?.throwIfAborted();
    // The data first: a model must never stand there without it.
    for (let i = targets.length - 1; i >= 0; i--) await rename(temporary[i] as string, targets[i] as string);
    return new Map(
      layout
        ? [
            [file, size],
            [dataFile, layout.size],
          ]
        : [[file, size]],
    );
  } catch (cause) {
    for (const target of temporary) await rm(target, { force: true }).catch(() => {}); // the first failure is the one to tell
    if (cause instanceof SisyphusError) throw cause;
    if (options.signal?.aborted)
      throw new SisyphusError('aborted', `${file}: interrupted; nothing was written`, { cause });
    throw fileError(file, cause);
  }
}

const totalLength = (chunks: readonly Chunk[]) => chunks.reduce((sum, chunk) => sum + chunk.length, 0);

function checkedSize(chunks: readonly Chunk[], what: string): number {
  const size = totalLength(chunks);
  if (size >= PROTOBUF_LIMIT) throw tooLarge(what, size);
  return size;
}

function tooLarge(what: string, size: number): SisyphusError {
  const limit = `${what}: ${size} bytes, beyond protobuf's 2 GiB`;
  return new SisyphusError('too-large', `${limit}; write with --external-data`);
}

async function refuseExisting(file: string, force: boolean): Promise<void> {
  const found = await lstat(file).catch(() => null);
  const target = found && (await stat(file).catch(() => null));
  if (target && !target.isFile() && !target.isDirectory())
    throw new SisyphusError(
      'file',
      `${file}: is no regular file; give another name with -o, or '-' for standard output`,
    );
  if (target?.isDirectory()) throw new SisyphusError('file', `${file}: is a folder; give the name of a file with -o`);
  if (!found && !(await stat(path.dirname(file)).catch(() => null)))
    throw new SisyphusError('file', `${file}: there is no folder '${path.dirname(file)}'; create it first`);
  if (found && !force)
    throw new SisyphusError('file', `${file}: exists already; give --force to replace it, or another name with -o`);
}

async function writeChunks(chunks: readonly Chunk[], file: string, signal?: AbortSignal): Promise<void> {
  const handle = await open(file, 'wx');
  const buffer = Buffer.allocUnsafeSlow(COPY_CHUNK); // takes memory only where a range is copied through it
  try {
    for (const batch of batches(chunks)) {
      signal?.throwIfAborted();
      if (Array.isArray(batch)) await writeAll(handle, batch, null);
      else await copyRange(batch, buffer, handle, null, signal);
    }
  } finally {
    await handle.close();
  }
}

/** Many small chunks (about one for each node) go out together, a large one in parts, and a range by itself. */
function* batches(chunks: readonly Chunk[]): Generator<Uint8Array[] | FileRange> {
  let batch: Uint8Array[] = [];
  let size = 0;
  for (const chunk of chunks) {
    if (!(chunk instanceof Uint8Array)) {
      if (batch.length > 0) yield batch;
      yield chunk;
      batch = [];
      size = 0;
      continue;
    }
    for (let start = 0; start < chunk.length; start += WRITE_BATCH) {
      const part = chunk.subarray(start, start + WRITE_BATCH);
      batch.push(part);
      size += part.length;
      if (size < WRITE_BATCH && batch.length < 512) continue;
      yield batch;
      batch = [];
      size = 0;
    }
  }
  yield batch;
}

/** The system may write less than it was given, as on a disk that fills up. `position` null: where the last write ended. */
async function writeAll(handle: FileHandle, chunks: readonly Uint8Array[], position: number | null): Promise<void> {
  let rest = chunks.filter((chunk) => chunk.length > 0);
  for (let at = position; rest.length > 0; ) {
    let { bytesWritten } = await handle.writev(rest, at ?? undefined);
    if (at !== null) at += bytesWritten;
    rest = rest.flatMap((chunk) => {
      const done = Math.min(bytesWritten, chunk.length);
      bytesWritten -= done;
      return done < chunk.length ? [chunk.subarray(done)] : [];
    });
  }
}

/** All tensors whose data may lie outside of the model file: initializers, and those within attributes that came so. */
function* dataTensors(model: Model): Generator<Tensor> {
  for (const body of allBodies(model)) {
    if (body.kind === 'graph') for (const { tensor } of body.initializers) yield tensor;
    else for (const proto of body.proto.attribute_proto ?? []) yield* externalTensors(proto);
    for (const node of body.nodes) for (const { proto } of node.attributes) yield* externalTensors(proto);
  }
}

const externalTensors = (proto: AttributeProto): Tensor[] =>
  [...(proto.t ? [proto.t] : []), ...(proto.tensors ?? [])].filter(isExternal).map((tensor) => tensorFromProto(tensor));

/** Bytes that a tensor takes when it is written into the model file. */
function inlineBytes(tensor: Tensor): number {
  if (tensor.external) return tensor.external.length;
  const { proto } = tensor;
  const runs = [
    proto.float_data,
    proto.int32_data,
    proto.int64_data,
    proto.double_data,
    proto.uint64_data,
    proto.string_data,
  ];
  return runs.reduce(
    (sum, run) => sum + (run ?? []).reduce((all, bytes) => all + bytes.length, 0),
    byteCount(proto.raw_data),
  );
}

/** Where the data goes, by message: the same data under two names is written once. Gaps between tensors are holes. */
interface DataLayout {
  readonly places: Map<TensorProto, { tensor: Tensor; offset: number; length: number }>;
  readonly size: number;
}

/** null where no tensor is large enough to be moved. */
function planExternal(tensors: readonly Tensor[]): DataLayout | null {
  const places: DataLayout['places'] = new Map();
  let end = 0;
  for (const tensor of tensors) {
    if (places.has(tensor.proto) || tensor.elem === 'string' || tensor.elem === 'undefined') continue;
    const length = byteLength(tensor.elem, tensor.dims);
    if (length < EXTERNAL_MINIMUM && !tensor.external) continue;
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    places.set(tensor.proto, { tensor, offset, length });
    end = offset + length;
  }
  return places.size > 0 ? { places, size: end } : null;
}

async function writeData(layout: DataLayout, file: string, signal?: AbortSignal): Promise<void> {
  const handle = await open(file, 'wx');
  const buffer = Buffer.allocUnsafeSlow(COPY_CHUNK);
  try {
    for (const { tensor, offset } of layout.places.values()) {
      const range = dataRange(tensor);
      if (range) await copyRange(range, buffer, handle, offset, signal);
      else
        for (let done = 0, bytes = rawBytes(tensor); done < bytes.length; done += WRITE_BATCH) {
          signal?.throwIfAborted();
          await writeAll(handle, [bytes.subarray(done, done + WRITE_BATCH)], offset + done);
        }
    }
    await handle.truncate(layout.size); // in case it ends with an empty tensor
  } finally {
    await handle.close();
  }
}

/** `position` null: where the last write ended. `buffer` is what it copies through. */
async function copyRange(
  range: FileRange,
  buffer: Buffer,
  to: FileHandle,
  position: number | null,
  signal?: AbortSignal,
): Promise<void> {
  const from = await open(range.path, 'r').catch((cause) => {
    throw changed(range, cause);
  });
  const checkStamp = async () => {
    if (fileStamp(await from.stat()) !== range.stamp) throw changed(range);
  };
  try {
    await checkStamp();
    for (let done = 0; done < range.length; ) {
      // Synchronous in between, because changing threads for every buffer costs more than the copying.
      for (const end = Math.min(range.length, done + COPY_SLICE); done < end; ) {
        const part = buffer.subarray(0, Math.min(buffer.length, end - done));
        const read = readSync(from.fd, part, 0, part.length, range.offset + done);
        if (read === 0) throw changed(range);
        for (let written = 0; written < read; )
          written += writeSync(
            to.fd,
            part,
            written,
            read - written,
            position === null ? null : position + done + written,
          );
        done += read;
      }
      await setImmediate(); // lets an interrupt through
      signal?.throwIfAborted();
    }
    await checkStamp(); // what was written may have changed amid reading
  } finally {
    await from.close();
  }
}

type PlaceTensor = (tensor: Tensor) => TensorProto;

const keepTensor: PlaceTensor = (tensor) => tensor.proto;

function inlineTensor(tensor: Tensor): TensorProto {
  if (!tensor.external) return tensor.proto;
  const raw_data = standIn(tensor.external);
  return copyMessage(tensor.proto, { raw_data, external_data: undefined, data_location: undefined });
}

function externalizer(layout: DataLayout, location: string): PlaceTensor {
  return (tensor) => {
    const { proto } = tensor;
    const place = layout.places.get(proto);
    if (!place) return proto;
    const entries = { location, offset: String(place.offset), length: String(place.length) };
    return copyMessage(proto, {
      raw_data: undefined,
      float_data: undefined,
      int32_data: undefined,
      int64_data: undefined,
      double_data: undefined,
      uint64_data: undefined,
      $unknowns: proto.$unknowns?.filter((bytes) => !isUnpackedData(bytes)),
      external_data: Object.entries(entries).map(([key, value]) =>
        message<StringEntry>('StringStringEntryProto', { key, value }),
      ),
      data_location: 1,
    });
  };
}

/** Messages for the IR; those of an untouched model equal the ones that were read. */
export function modelToProto(model: Model, place: PlaceTensor = keepTensor): ModelProto {
  const read = Number(model.proto.ir_version ?? 0);
  return copyMessage(model.proto, {
    ...(model.irVersion !== read && { ir_version: model.irVersion }),
    graph: graphToProto(model.graph, place),
    opset_import: opsetsToProto(model.proto.opset_import, model.opsets),
    functions:
      model.functions.length > 0 || model.proto.functions
        ? model.functions.map((fn) => functionToProto(fn, place))
        : undefined,
    metadata_props: [...model.metadata],
  });
}

function opsetsToProto(read: OpsetProto[] = [], opsets: ReadonlyMap<string, number>): OpsetProto[] {
  return read.map((entry) => {
    const version = opsets.get(entry.domain === 'ai.onnx' ? '' : (entry.domain ?? ''));
    return version === undefined || version === Number(entry.version ?? 0) ? entry : copyMessage(entry, { version });
  });
}

function graphToProto(graph: Graph, place: PlaceTensor): GraphProto {
  return copyMessage(graph.proto, {
    node: graph.nodes.map((node) => nodeToProto(node, place)),
    initializer: graph.initializers.map(({ value, tensor }) => {
      const proto = place(tensor);
      return (proto.name ?? '') === value.name ? proto : copyMessage(proto, { name: value.name });
    }),
    input: graph.inputs.map(portToProto),
    output: graph.outputs.map(portToProto),
    value_info: graph.valueInfo.map(portToProto),
  });
}

function functionToProto(fn: LocalFunction, place: PlaceTensor): FunctionProto {
  return copyMessage(fn.proto, {
    node: fn.nodes.map((node) => nodeToProto(node, place)),
    ...(fn.proto.attribute_proto && {
      attribute_proto: fn.proto.attribute_proto.map((attribute) => placeTensors(attribute, place)),
    }),
    input: fn.inputs.map(({ value }) => value.name),
    output: fn.outputs.map(({ value }) => value.name),
    value_info: fn.valueInfo.map(portToProto),
    opset_import: opsetsToProto(fn.proto.opset_import, fn.opsets),
  });
}

function portToProto({ value, info }: Port): ValueInfoProto {
  if (!info) throw new SisyphusError('internal', `the value '${value.name}' has no type information to write`);
  return (info.name ?? '') === value.name ? info : copyMessage(info, { name: value.name });
}

function nodeToProto(node: Node, place: PlaceTensor): NodeProto {
  const changes = {
    input: node.inputs.map((value) => value?.name ?? ''),
    output: node.outputs.map((value) => value?.name ?? ''),
    attribute: node.attributes.map((attribute) => attributeToProto(attribute, place)),
  };
  if (node.proto)
    return copyMessage(node.proto, { ...changes, ...((node.proto.name ?? '') !== node.name && { name: node.name }) });
  const identity = {
    op_type: node.op,
    ...(node.name && { name: node.name }),
    ...(node.domain && { domain: node.domain }),
  };
  return message<NodeProto>('NodeProto', { ...changes, ...identity });
}

function attributeToProto(attribute: Attribute, place: PlaceTensor): AttributeProto {
  const proto = placeTensors(attribute.proto, place);
  if (attribute.graphs.length === 0) return proto;
  const graphs = attribute.graphs.map((graph) => graphToProto(graph, place));
  const single = proto.g !== undefined && proto.g !== null;
  const rest = single ? graphs.slice(1) : graphs;
  return copyMessage(proto, { g: single ? graphs[0] : undefined, graphs: rest.length > 0 ? rest : undefined });
}

/** Tensors of attributes stay where they are unless they came from another file, which the output may not reach. */
function placeTensors(proto: AttributeProto, place: PlaceTensor): AttributeProto {
  if (externalTensors(proto).length === 0) return proto;
  const put = (tensor: TensorProto) => (isExternal(tensor) ? place(tensorFromProto(tensor)) : tensor);
  return copyMessage(proto, {
    ...(proto.t && { t: put(proto.t) }),
    ...(proto.tensors && { tensors: proto.tensors.map(put) }),
  });
}
