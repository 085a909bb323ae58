/**
 * Bytes <-> protobuf messages. The only file that imports protobufjs.
 *
 * Decoding copies no tensor data (byte fields are views of the input) and keeps unknown fields; encoding returns a list
 * of chunks in which large byte fields are the very views that were read, so that a model is never in memory twice, or
 * ranges of files that were not read at all.
 */
import protobuf from 'protobufjs';
import { SisyphusError } from '../errors.ts';
import { type FileRange, rangeOf, readRange } from './ranges.ts';
import { ONNX_SCHEMA } from './schema.ts';

/** Fields that this schema does not know are kept by protobufjs in `$unknowns` (raw bytes, tag included). */
export interface Message {
  readonly $unknowns?: Uint8Array[];
}
/** A 64-bit integer as protobufjs hands it out. */
export type Int64 = number | { readonly low: number; readonly high: number; toNumber(): number; toString(): string };

export interface StringEntry extends Message {
  key?: string;
  value?: string;
}
export interface TensorProto extends Message {
  dims?: Int64[];
  data_type?: number;
  name?: string;
  float_data?: Uint8Array[];
  int32_data?: Uint8Array[];
  string_data?: Uint8Array[];
  int64_data?: Uint8Array[];
  raw_data?: Uint8Array;
  double_data?: Uint8Array[];
  uint64_data?: Uint8Array[];
  external_data?: StringEntry[];
  data_location?: number;
}
export interface SparseTensorProto extends Message {
  values?: TensorProto;
  indices?: TensorProto;
  dims?: Int64[];
}
export interface DimensionProto extends Message {
  dim_value?: Int64;
  dim_param?: string;
}
export interface ShapeProto extends Message {
  dim?: DimensionProto[];
}
export interface TensorTypeProto extends Message {
  elem_type?: number;
  shape?: ShapeProto;
}
export interface TypeProto extends Message {
  tensor_type?: TensorTypeProto;
}
export interface ValueInfoProto extends Message {
  name?: string;
  type?: TypeProto;
}
export interface AttributeProto extends Message {
  name?: string;
  type?: number;
  f?: number;
  i?: Int64;
  s?: Uint8Array;
  t?: TensorProto;
  g?: GraphProto;
  floats?: number[];
  ints?: Int64[];
  strings?: Uint8Array[];
  tensors?: TensorProto[];
  graphs?: GraphProto[];
  ref_attr_name?: string;
  sparse_tensor?: SparseTensorProto;
  sparse_tensors?: SparseTensorProto[];
}
export interface NodeProto extends Message {
  input?: string[];
  output?: string[];
  name?: string;
  op_type?: string;
  attribute?: AttributeProto[];
  domain?: string;
  overload?: string;
}
export interface AnnotationProto extends Message {
  tensor_name?: string;
}
export interface GraphProto extends Message {
  node?: NodeProto[];
  name?: string;
  initializer?: TensorProto[];
  input?: ValueInfoProto[];
  output?: ValueInfoProto[];
  value_info?: ValueInfoProto[];
  quantization_annotation?: AnnotationProto[];
  sparse_initializer?: SparseTensorProto[];
}
export interface OpsetProto extends Message {
  domain?: string;
  version?: Int64;
}
export interface FunctionProto extends Message {
  name?: string;
  input?: string[];
  output?: string[];
  attribute?: string[];
  node?: NodeProto[];
  opset_import?: OpsetProto[];
  domain?: string;
  attribute_proto?: AttributeProto[];
  value_info?: ValueInfoProto[];
  overload?: string;
}
export interface ModelProto extends Message {
  ir_version?: Int64;
  producer_name?: string;
  producer_version?: string;
  graph?: GraphProto;
  opset_import?: OpsetProto[];
  metadata_props?: StringEntry[];
  training_info?: Message[];
  functions?: FunctionProto[];
}

// Read when a reader is constructed and global to protobufjs: set once, before any decoding.
protobuf.Reader.discardUnknown = false;
protobuf.BufferReader.discardUnknown = false;

const root = protobuf.parse(ONNX_SCHEMA, { keepCase: true }).root;
const type = (name: string) => root.lookupType(`onnx.${name}`);
const ModelType = type('ModelProto');

/** Messages by name, for creating new ones; protobufjs gives them the prototype that `encode` expects. */
export function message<T extends Message>(name: string, fields: T): T {
  return type(name).create(fields as Record<string, unknown>) as unknown as T;
}

/** A shallow copy that also carries the unknown fields, with `changes` applied; `undefined` removes a field. */
export function copyMessage<T extends Message>(source: T, changes: { [K in keyof T]?: T[K] | undefined } = {}): T {
  const copy: Record<string, unknown> = Object.create(Object.getPrototypeOf(source));
  const { $unknowns, ...fields } = { $unknowns: source.$unknowns, ...source, ...changes };
  for (const [key, value] of Object.entries(fields)) if (value !== undefined) copy[key] = value;
  // As protobufjs keeps them: out of sight of everything that enumerates fields.
  if ($unknowns) Object.defineProperty(copy, '$unknowns', { value: $unknowns, writable: true, configurable: true });
  return copy as unknown as T;
}

/**
 * Decodes a ModelProto. The result holds views of `bytes`, which must not be changed afterwards.
 * @throws SisyphusError `not-onnx` where the bytes are no ModelProto; the message guesses what they are instead.
 */
export function decodeModel(bytes: Buffer, where: string): ModelProto {
  const refuse = (what: string, cause?: unknown) => new SisyphusError('not-onnx', `${where}: ${what}`, { cause });
  if (bytes.length === 0) throw refuse('the file is empty; export the model again');
  if (bytes[0] === 0x1f && bytes[1] === 0x8b)
    throw refuse('this is a gzip stream, not ONNX; unpack it with gunzip first');
  if (bytes[0] === 0x50 && bytes[1] === 0x4b) throw refuse('this is a zip archive, not ONNX; unpack it first');
  if (/^\s*[{[<]/.test(bytes.toString('latin1', 0, 16)))
    throw refuse('this is text (JSON or XML), not a binary ONNX file');
  if (bytes.toString('latin1', 0, 40).startsWith('version https://git-lfs'))
    throw refuse('this is a git-lfs pointer; fetch the file itself with git lfs pull');
  let model: ModelProto;
  try {
    model = ModelType.decode(bytes) as unknown as ModelProto;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw refuse(
      `not an ONNX file, or a damaged or truncated one (protobuf: ${reason}); export or copy it again`,
      cause,
    );
  }
  if (!model.graph) throw refuse('the file holds no graph, so it is not an ONNX model');
  return model;
}

/** A part of an encoded message: its bytes, or where they lie. */
export type Chunk = Uint8Array | FileRange;

/** The encoded message as chunks in order; large byte fields are passed through as views, not copied. */
export const encodeModel = (model: ModelProto): Uint8Array[] =>
  encodeChunks(model).map((chunk) => (chunk instanceof Uint8Array ? chunk : readRange(chunk)));

/** The same without reading anything: what was left in a file is given as a range of it. */
export function encodeChunks(model: ModelProto): Chunk[] {
  const writer = new ChunkWriter();
  ModelType.encode(model as never, writer as unknown as InstanceType<typeof protobuf.Writer>);
  return writer.finish();
}

const LARGE = 4096; // bytes; below it copying is cheaper than another chunk

/** What protobufjs' generated encoders call, with nested messages kept as chunk lists until their length is known. */
class ChunkWriter {
  private frames: Frame[] = [newFrame()];

  private get top(): Frame {
    return this.frames[this.frames.length - 1] as Frame;
  }
  uint32(value: number) {
    this.top.small.uint32(value);
    return this;
  }
  int32(value: number) {
    this.top.small.int32(value);
    return this;
  }
  int64(value: Int64) {
    this.top.small.int64(value as never);
    return this;
  }
  float(value: number) {
    this.top.small.float(value);
    return this;
  }
  string(value: string) {
    this.top.small.string(value);
    return this;
  }
  raw(value: Uint8Array) {
    this.top.small.raw(value);
    return this;
  }
  bytes(value: Uint8Array) {
    const range = rangeOf(value);
    if (range) {
      this.top.small.uint32(range.length);
      append(this.top, [range]);
    } else if (value.length < LARGE) this.top.small.bytes(value);
    else {
      this.top.small.uint32(value.length);
      append(this.top, [value]);
    }
    return this;
  }
  fork() {
    this.frames.push(newFrame());
    return this;
  }
  ldelim() {
    const chunks = closeFrame(this.frames.pop() as Frame);
    const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    this.top.small.uint32(length);
    if (length >= LARGE) append(this.top, chunks);
    else
      for (const chunk of chunks)
        if (chunk instanceof Uint8Array) this.top.small.raw(chunk);
        else append(this.top, [chunk]);
    return this;
  }
  finish(): Chunk[] {
    return closeFrame(this.top);
  }
}

interface Frame {
  small: InstanceType<typeof protobuf.Writer>;
  readonly chunks: Chunk[];
}

const newFrame = (): Frame => ({ small: protobuf.Writer.create(), chunks: [] });

function append(frame: Frame, chunks: Chunk[]) {
  closeFrame(frame);
  for (const chunk of chunks) frame.chunks.push(chunk);
}

function closeFrame(frame: Frame): Chunk[] {
  if (frame.small.len > 0) frame.chunks.push(frame.small.finish());
  frame.small = protobuf.Writer.create();
  return frame.chunks;
}
