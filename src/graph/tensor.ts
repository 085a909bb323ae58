/**
 * Tensors: immutable, over the bytes that were read. Nothing is decoded before somebody asks for numbers.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { SisyphusError } from '../errors.ts';
import { ELEMENT_TYPES, type ElementType } from './ir.ts';
import { type Message, message, type TensorProto } from './wire.ts';

export interface Tensor {
  readonly name: string;
  readonly elem: ElementType;
  readonly dims: readonly number[];
  /** Where the bytes lie when they are not in the model file. Validated when the model was read. */
  readonly external: ExternalRange | null;
  readonly proto: TensorProto;
}

/** A checked range of an existing file. */
export interface ExternalRange {
  readonly path: string;
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

const EXTERNAL = 1; // TensorProto.DataLocation

/** Bits per element; strings have none. Four- and two-bit elements are packed without gaps. */
const BITS: Partial<Record<ElementType, number>> = {
  float: 32,
  uint8: 8,
  int8: 8,
  uint16: 16,
  int16: 16,
  int32: 32,
  int64: 64,
  bool: 8,
  float16: 16,
  double: 64,
  uint32: 32,
  uint64: 64,
  complex64: 64,
  complex128: 128,
  bfloat16: 16,
  float8e4m3fn: 8,
  float8e4m3fnuz: 8,
  float8e5m2: 8,
  float8e5m2fnuz: 8,
  uint4: 4,
  int4: 4,
  float4e2m1: 4,
  float8e8m0: 8,
  uint2: 2,
  int2: 2,
};

export const FLOAT_TYPES: ReadonlySet<ElementType> = new Set<ElementType>(['float', 'double', 'float16', 'bfloat16']);

export function elementType(code: number): ElementType {
  return ELEMENT_TYPES[code] ?? 'undefined';
}
export const elementCode = (elem: ElementType): number => ELEMENT_TYPES.indexOf(elem);

/** Number of elements; the product of the dimensions. */
export const elementCount = (dims: readonly number[]): number => dims.reduce((product, dim) => product * dim, 1);

/** Bytes that the elements take in `raw_data` or an external file. */
export function byteLength(elem: ElementType, dims: readonly number[]): number {
  const bits = BITS[elem];
  if (bits === undefined) throw new SisyphusError('tensor', `elements of type ${elem} have no fixed size`);
  return Math.ceil((elementCount(dims) * bits) / 8);
}

/** Wraps a TensorProto; `external` is given by the reader where the data lies in another file. */
export function tensorFromProto(proto: TensorProto, external: ExternalRange | null = null): Tensor {
  const dims = (proto.dims ?? []).map(Number);
  return { name: proto.name ?? '', elem: elementType(proto.data_type ?? 0), dims, external, proto };
}

export const isExternal = (proto: TensorProto): boolean => proto.data_location === EXTERNAL;

/**
 * A new tensor of any numeric element type from numbers.
 * @param values in row-major order; rounded to the element type (float16 and bfloat16 to nearest even)
 * @throws SisyphusError `tensor` where the count is not the product of `dims`, or for element types without numbers
 */
export function makeTensor(
  name: string,
  elem: ElementType,
  dims: readonly number[],
  values: ArrayLike<number>,
): Tensor {
  if (values.length !== elementCount(dims))
    throw new SisyphusError('tensor', `tensor '${name}': ${values.length} values for the shape [${dims}]`);
  return fromRaw(name, elem, dims, encodeNumbers(elem, values, name));
}

/** A tensor over raw little-endian bytes, which are not copied. */
export function fromRaw(name: string, elem: ElementType, dims: readonly number[], bytes: Uint8Array): Tensor {
  const proto = message<TensorProto>('TensorProto', {
    dims: [...dims],
    data_type: elementCode(elem),
    name,
    raw_data: bytes,
  });
  return { name, elem, dims: [...dims], external: null, proto };
}

/**
 * The elements as numbers, in row-major order. float64 holds every element type exactly but int64 and uint64, whose
 * values beyond 2^53 are an error.
 * @throws SisyphusError `tensor` where the data has the wrong length or the element type has no numbers
 */
export function toNumbers(tensor: Tensor): Float64Array {
  const count = checkedCount(tensor);
  const stored = storedValues(tensor, count);
  if (stored) return stored;
  const bytes = rawBytes(tensor);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Float64Array(count);
  const read = READERS[tensor.elem];
  if (!read)
    throw new SisyphusError(
      'tensor',
      `tensor '${tensor.name}': elements of type ${tensor.elem} can't be read as numbers`,
    );
  for (let i = 0; i < count; i++) {
    out[i] = read(view, i);
    if (Math.abs(out[i] as number) > Number.MAX_SAFE_INTEGER && (tensor.elem === 'int64' || tensor.elem === 'uint64'))
      throw new SisyphusError('tensor', `tensor '${tensor.name}': the value at index ${i} does not fit 53 bits`);
  }
  return out;
}

/** The elements as raw little-endian bytes: a view of what was read wherever that is possible. Reads external data. */
export function rawBytes(tensor: Tensor): Uint8Array {
  const count = checkedCount(tensor);
  const expected = byteLength(tensor.elem, tensor.dims);
  let bytes: Uint8Array;
  if (tensor.external) bytes = readExternal(tensor.external);
  else if (tensor.proto.raw_data !== undefined) bytes = tensor.proto.raw_data;
  else {
    const stored = storedValues(tensor, count);
    if (!stored) throw badLength(tensor, 0, expected);
    bytes = encodeNumbers(tensor.elem, stored, tensor.name);
  }
  if (bytes.length !== expected) throw badLength(tensor, bytes.length, expected);
  return bytes;
}

/** Strings of a string tensor. */
export function toStrings(tensor: Tensor): string[] {
  return (tensor.proto.string_data ?? []).map((bytes) => Buffer.from(bytes).toString('utf8'));
}

function checkedCount(tensor: Tensor): number {
  const count = elementCount(tensor.dims);
  if (!Number.isSafeInteger(count) || tensor.dims.some((dim) => dim < 0))
    throw new SisyphusError('tensor', `tensor '${tensor.name}': impossible shape [${tensor.dims}]`);
  return count;
}

function badLength(tensor: Tensor, found: number, expected: number): SisyphusError {
  return new SisyphusError(
    'tensor',
    `tensor '${tensor.name}': ${found} bytes of data, but ${tensor.elem} [${tensor.dims}] needs ${expected}; the file is damaged`,
  );
}

function readExternal(range: ExternalRange): Uint8Array {
  const bytes = Buffer.allocUnsafe(range.length);
  const file = openSync(range.path, 'r');
  try {
    let done = 0;
    while (done < range.length) {
      const read = readSync(file, bytes, done, Math.min(range.length - done, 1 << 30), range.offset + done);
      if (read === 0)
        throw new SisyphusError('external-data', `${range.path}: ends before byte ${range.offset + range.length}`);
      done += read;
    }
  } finally {
    closeSync(file);
  }
  return bytes;
}

type Reader = (view: DataView, index: number) => number;
const READERS: Partial<Record<ElementType, Reader>> = {
  float: (view, i) => view.getFloat32(4 * i, true),
  double: (view, i) => view.getFloat64(8 * i, true),
  float16: (view, i) => float16ToNumber(view.getUint16(2 * i, true)),
  bfloat16: (view, i) => bfloat16ToNumber(view.getUint16(2 * i, true)),
  int8: (view, i) => view.getInt8(i),
  uint8: (view, i) => view.getUint8(i),
  bool: (view, i) => (view.getUint8(i) ? 1 : 0),
  int16: (view, i) => view.getInt16(2 * i, true),
  uint16: (view, i) => view.getUint16(2 * i, true),
  int32: (view, i) => view.getInt32(4 * i, true),
  uint32: (view, i) => view.getUint32(4 * i, true),
  int64: (view, i) => Number(view.getBigInt64(8 * i, true)),
  uint64: (view, i) => Number(view.getBigUint64(8 * i, true)),
};

type Writer = (view: DataView, index: number, value: number) => void;
const WRITERS: Partial<Record<ElementType, Writer>> = {
  float: (view, i, v) => view.setFloat32(4 * i, v, true),
  double: (view, i, v) => view.setFloat64(8 * i, v, true),
  float16: (view, i, v) => view.setUint16(2 * i, numberToFloat16(v), true),
  bfloat16: (view, i, v) => view.setUint16(2 * i, numberToBfloat16(v), true),
  int8: (view, i, v) => view.setInt8(i, v),
  uint8: (view, i, v) => view.setUint8(i, v),
  bool: (view, i, v) => view.setUint8(i, v ? 1 : 0),
  int16: (view, i, v) => view.setInt16(2 * i, v, true),
  uint16: (view, i, v) => view.setUint16(2 * i, v, true),
  int32: (view, i, v) => view.setInt32(4 * i, v, true),
  uint32: (view, i, v) => view.setUint32(4 * i, v, true),
  int64: (view, i, v) => view.setBigInt64(8 * i, BigInt(v), true),
  uint64: (view, i, v) => view.setBigUint64(8 * i, BigInt(v), true),
};

function encodeNumbers(elem: ElementType, values: ArrayLike<number>, name: string): Uint8Array {
  const write = WRITERS[elem];
  if (!write) throw new SisyphusError('tensor', `tensor '${name}': can't make elements of type ${elem} from numbers`);
  const bytes = new Uint8Array(byteLength(elem, [values.length]));
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < values.length; i++) write(view, i, values[i] as number);
  return bytes;
}

/**
 * Values from the typed data fields, or null where the tensor does not use them. ONNX keeps small integers, bool,
 * float16 and bfloat16 (as bit patterns) in `int32_data`, and uint32 in `uint64_data`.
 */
function storedValues(tensor: Tensor, count: number): Float64Array | null {
  const { proto, elem } = tensor;
  if (tensor.external || proto.raw_data !== undefined) return null;
  const out = new Float64Array(checkLength(tensor, count));
  let index = 0;
  const put = (value: number) => {
    if (index < count) out[index] = value;
    index++;
  };
  if (elem === 'float') fixedRuns(proto, 4, proto.float_data, (view, at) => put(view.getFloat32(at, true)));
  else if (elem === 'double') fixedRuns(proto, 10, proto.double_data, (view, at) => put(view.getFloat64(at, true)));
  else if (elem === 'int64')
    varintRuns(proto, 7, proto.int64_data, (v) => put(exactNumber(BigInt.asIntN(64, v), tensor)));
  else if (elem === 'uint64' || elem === 'uint32')
    varintRuns(proto, 11, proto.uint64_data, (v) => put(exactNumber(v, tensor)));
  else if (elem === 'float16') varintRuns(proto, 5, proto.int32_data, (v) => put(float16ToNumber(Number(v & 0xffffn))));
  else if (elem === 'bfloat16')
    varintRuns(proto, 5, proto.int32_data, (v) => put(bfloat16ToNumber(Number(v & 0xffffn))));
  else if (SMALL_INTEGERS.has(elem)) varintRuns(proto, 5, proto.int32_data, (v) => put(Number(BigInt.asIntN(32, v))));
  else return null;
  if (index !== count)
    throw new SisyphusError(
      'tensor',
      `tensor '${tensor.name}': ${index} elements, but its shape [${tensor.dims}] needs ${count}; the file is damaged`,
    );
  return out;
}

const SMALL_INTEGERS = new Set<ElementType>(['int32', 'int16', 'uint16', 'int8', 'uint8', 'bool']);

/** Every element takes at least one byte, so a count beyond the bytes present is refused before anything is allocated. */
function checkLength(tensor: Tensor, count: number): number {
  const { proto } = tensor;
  const runs = [
    proto.float_data,
    proto.int32_data,
    proto.int64_data,
    proto.double_data,
    proto.uint64_data,
    unknownsOf(proto),
  ];
  const bytes = runs.flatMap((run) => run ?? []).reduce((sum, run) => sum + run.length, 0);
  if (count > bytes) throw badLength(tensor, bytes, byteLength(tensor.elem, tensor.dims));
  return count;
}

const unknownsOf = (proto: Message): Uint8Array[] => proto.$unknowns ?? [];

/** Walks packed runs of 4- or 8-byte elements, and unpacked ones, which the schema leaves among the unknown fields. */
function fixedRuns(
  proto: TensorProto,
  field: 4 | 10,
  runs: Uint8Array[] = [],
  visit: (view: DataView, at: number) => void,
) {
  const size = field === 4 ? 4 : 8;
  for (const run of runs) {
    const view = new DataView(run.buffer, run.byteOffset, run.byteLength);
    for (let at = 0; at + size <= run.length; at += size) visit(view, at);
  }
  const tag = (field << 3) | (field === 4 ? 5 : 1);
  for (const run of unknownsOf(proto))
    if (run[0] === tag) visit(new DataView(run.buffer, run.byteOffset, run.byteLength), 1);
}

function varintRuns(proto: TensorProto, field: 5 | 7 | 11, runs: Uint8Array[] = [], visit: (value: bigint) => void) {
  for (const run of runs) for (let at = 0; at < run.length; ) at = readVarint(run, at, visit);
  for (const run of unknownsOf(proto)) if (run[0] === field << 3) readVarint(run, 1, visit);
}

function readVarint(bytes: Uint8Array, start: number, visit: (value: bigint) => void): number {
  const first = bytes[start] as number;
  if (first < 128) {
    visit(BigInt(first));
    return start + 1;
  }
  let value = 0n;
  let at = start;
  for (let shift = 0n; shift < 70n; shift += 7n) {
    const byte = bytes[at++];
    if (byte === undefined)
      throw new SisyphusError('tensor', 'a number is cut off inside a tensor; the file is damaged');
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) break;
  }
  visit(BigInt.asUintN(64, value));
  return at;
}

function exactNumber(value: bigint, tensor: Tensor): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number))
    throw new SisyphusError('tensor', `tensor '${tensor.name}': ${value} does not fit 53 bits`);
  return number;
}

const scratch = new DataView(new ArrayBuffer(8));

export function bfloat16ToNumber(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

export function numberToBfloat16(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff; // to nearest, ties to even
}

export function float16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export function numberToFloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude >= 65520) return sign | 0x7c00; // rounds to infinity
  if (magnitude < 2 ** -14) return sign | roundHalfEven(magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  // log2 may round up just below a power of two; the carry of the fraction corrects the other direction.
  const fixed = magnitude < 2 ** exponent ? exponent - 1 : exponent;
  return sign | (((fixed + 15) << 10) + roundHalfEven((magnitude / 2 ** fixed - 1) * 1024));
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
