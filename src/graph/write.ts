/** IR -> messages -> files. What the IR does not model is taken over from the message that was read. */
import { createWriteStream } from 'node:fs';
import { open, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { finished } from 'node:stream/promises';
import { SisyphusError } from '../errors.ts';
import type { Attribute, Graph, LocalFunction, Model, Node, Port } from './ir.ts';
import { fileError } from './read.ts';
import { byteLength, type ExternalRange, rawBytes, type Tensor } from './tensor.ts';
import {
  type AttributeProto,
  copyMessage,
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
  /** Put the weights into `FILE.data`. Default: when the model came so, or when it nears protobuf's 2 GiB. */
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
const COPY_CHUNK = 1 << 22;

/** The model as bytes, in chunks that are partly views of what was read. External data stays where it is. */
export function encode(model: Model): Uint8Array[] {
  return encodeModel(modelToProto(model));
}

/**
 * The model as one buffer, for handing it to a runtime.
 * @param options.inline read external data and put it inside
 */
export function serialize(model: Model, options: { inline?: boolean } = {}): Uint8Array {
  const proto = modelToProto(model, options.inline ? inlineTensor : keepTensor);
  return Buffer.concat(encodeModel(proto));
}

/**
 * Writes a model. The file appears under its name only when it is complete.
 * @returns the files written and their sizes in bytes
 * @throws SisyphusError `file` (exists without `force`, no space, …), `aborted`
 */
export async function writeModel(model: Model, file: string, options: WriteOptions = {}): Promise<Map<string, number>> {
  const tensors = model.graph.initializers.map(({ tensor }) => tensor);
  const cameExternal = tensors.some((tensor) => tensor.external);
  const inlineSize = tensors.reduce((sum, tensor) => sum + inlineBytes(tensor), 0);
  const external = options.externalData ?? (cameExternal || inlineSize > INLINE_LIMIT);
  const dataFile = `${file}.data`;
  const targets = external ? [file, dataFile] : [file];
  if (!options.force) for (const target of targets) await refuseExisting(target);

  const temporary = targets.map((target) => `${target}.${process.pid}.tmp`);
  try {
    const layout = external ? planExternal(tensors) : null;
    if (layout) await writeData(layout, temporary[1] as string, options.signal);
    const place = layout ? externalizer(layout, path.basename(dataFile)) : inlineTensor;
    const chunks = encodeModel(modelToProto(model, place));
    const size = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    if (size >= 2 ** 31)
      throw new SisyphusError(
        'too-large',
        `${file}: ${size} bytes, beyond protobuf's 2 GiB; write with --external-data`,
      );
    await writeChunks(chunks, temporary[0] as string, options.signal);
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
    for (const target of temporary) await rm(target, { force: true });
    if (cause instanceof SisyphusError) throw cause;
    if (options.signal?.aborted)
      throw new SisyphusError('aborted', `${file}: interrupted; nothing was written`, { cause });
    throw fileError(file, cause);
  }
}

async function refuseExisting(file: string): Promise<void> {
  const exists = await stat(file).then(
    () => true,
    () => false,
  );
  if (exists)
    throw new SisyphusError('file', `${file}: exists already; give --force to replace it, or another name with -o`);
}

async function writeChunks(chunks: Uint8Array[], file: string, signal?: AbortSignal): Promise<void> {
  const handle = await open(file, 'wx');
  try {
    // Many small chunks (one for each node) are gathered; large ones go out as they are.
    for (let start = 0; start < chunks.length; start += 512) {
      signal?.throwIfAborted();
      const batch = chunks.slice(start, start + 512);
      const { bytesWritten } = await handle.writev(batch);
      await writeRest(handle, batch, bytesWritten);
    }
  } finally {
    await handle.close();
  }
}

/** The system may write less than it was given (2 GiB at most a call, or a disk that fills up). */
async function writeRest(handle: Awaited<ReturnType<typeof open>>, chunks: Uint8Array[], done: number): Promise<void> {
  let skip = done;
  for (const chunk of chunks) {
    if (skip < chunk.length) await handle.writeFile(chunk.subarray(skip));
    skip = Math.max(0, skip - chunk.length);
  }
}

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
    proto.raw_data?.length ?? 0,
  );
}

interface DataLayout {
  readonly places: Map<Tensor, { offset: number; length: number }>;
  readonly size: number;
}

function planExternal(tensors: readonly Tensor[]): DataLayout {
  const places: DataLayout['places'] = new Map();
  let end = 0;
  for (const tensor of tensors) {
    if (tensor.elem === 'string' || tensor.elem === 'undefined') continue;
    const length = byteLength(tensor.elem, tensor.dims);
    if (length < EXTERNAL_MINIMUM && !tensor.external) continue;
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    places.set(tensor, { offset, length });
    end = offset + length;
  }
  return { places, size: end };
}

async function writeData(layout: DataLayout, file: string, signal?: AbortSignal): Promise<void> {
  const stream = createWriteStream(file, { flags: 'wx', highWaterMark: COPY_CHUNK });
  const done = finished(stream);
  done.catch(() => {}); // reported below; a rejection must not go unhandled while the loop still runs
  const put = async (bytes: Uint8Array) => {
    signal?.throwIfAborted();
    if (!stream.write(bytes))
      await Promise.race([new Promise<void>((resolve) => stream.once('drain', () => resolve())), done]);
  };
  let at = 0;
  try {
    for (const [tensor, { offset, length }] of layout.places) {
      if (offset > at) await put(new Uint8Array(offset - at));
      if (tensor.external) await copyRange(tensor.external, put);
      else await put(rawBytes(tensor));
      at = offset + length;
    }
  } catch (cause) {
    stream.destroy();
    throw cause;
  }
  stream.end();
  await done;
}

async function copyRange(range: ExternalRange, put: (bytes: Uint8Array) => Promise<void>): Promise<void> {
  const handle = await open(range.path, 'r');
  try {
    for (let done = 0; done < range.length; ) {
      const buffer = Buffer.allocUnsafe(Math.min(COPY_CHUNK, range.length - done));
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, range.offset + done);
      if (bytesRead === 0)
        throw new SisyphusError('external-data', `${range.path}: ends before byte ${range.offset + range.length}`);
      await put(buffer.subarray(0, bytesRead));
      done += bytesRead;
    }
  } finally {
    await handle.close();
  }
}

type PlaceTensor = (tensor: Tensor) => TensorProto;

const keepTensor: PlaceTensor = (tensor) => tensor.proto;

function inlineTensor(tensor: Tensor): TensorProto {
  if (!tensor.external) return tensor.proto;
  return copyMessage(tensor.proto, { raw_data: rawBytes(tensor), external_data: undefined, data_location: undefined });
}

function externalizer(layout: DataLayout, location: string): PlaceTensor {
  return (tensor) => {
    const place = layout.places.get(tensor);
    if (!place) return tensor.proto;
    const entries = { location, offset: String(place.offset), length: String(place.length) };
    return copyMessage(tensor.proto, {
      raw_data: undefined,
      float_data: undefined,
      int32_data: undefined,
      int64_data: undefined,
      double_data: undefined,
      uint64_data: undefined,
      external_data: Object.entries(entries).map(([key, value]) =>
        message<StringEntry>('StringStringEntryProto', { key, value }),
      ),
      data_location: 1,
    });
  };
}

/** Messages for the IR; those of an untouched model equal the ones that were read. */
export function modelToProto(model: Model, place: PlaceTensor = keepTensor): ModelProto {
  return copyMessage(model.proto, {
    graph: graphToProto(model.graph, place),
    opset_import: opsetsToProto(model.proto.opset_import, model.opsets),
    functions: model.functions.length > 0 || model.proto.functions ? model.functions.map(functionToProto) : undefined,
    metadata_props: [...model.metadata],
  });
}

function opsetsToProto(read: OpsetProto[] = [], opsets: ReadonlyMap<string, number>): OpsetProto[] {
  return read.map((entry) => {
    const version = opsets.get(entry.domain === 'ai.onnx' ? '' : (entry.domain ?? ''));
    return version === undefined || version === Number(entry.version ?? 0) ? entry : copyMessage(entry, { version });
  });
}

function graphToProto(graph: Graph, place: PlaceTensor = keepTensor): GraphProto {
  return copyMessage(graph.proto, {
    node: graph.nodes.map(nodeToProto),
    initializer: graph.initializers.map(({ value, tensor }) => {
      const proto = place(tensor);
      return (proto.name ?? '') === value.name ? proto : copyMessage(proto, { name: value.name });
    }),
    input: graph.inputs.map(portToProto),
    output: graph.outputs.map(portToProto),
    value_info: graph.valueInfo.map(portToProto),
  });
}

function functionToProto(fn: LocalFunction): FunctionProto {
  return copyMessage(fn.proto, {
    node: fn.nodes.map(nodeToProto),
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

function nodeToProto(node: Node): NodeProto {
  const changes = {
    input: node.inputs.map((value) => value?.name ?? ''),
    output: node.outputs.map((value) => value?.name ?? ''),
    attribute: node.attributes.map(attributeToProto),
  };
  if (node.proto) return copyMessage(node.proto, changes);
  const identity = {
    op_type: node.op,
    ...(node.name && { name: node.name }),
    ...(node.domain && { domain: node.domain }),
  };
  return message<NodeProto>('NodeProto', { ...changes, ...identity });
}

function attributeToProto(attribute: Attribute): AttributeProto {
  if (attribute.graphs.length === 0) return attribute.proto;
  const graphs = attribute.graphs.map((graph) => graphToProto(graph));
  const single = attribute.proto.g !== undefined && attribute.proto.g !== null;
  const rest = single ? graphs.slice(1) : graphs;
  return copyMessage(attribute.proto, {
    g: single ? graphs[0] : undefined,
    graphs: rest.length > 0 ? rest : undefined,
  });
}
