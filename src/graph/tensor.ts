/**
 * Tensors: immutable, over the bytes that were read. Nothing is decoded before somebody asks for numbers.
 */
import { constants } from 'node:buffer';
import { SisyphusError } from '../errors.ts';
import { ELEMENT_TYPES, type ElementType } from './ir.ts';
import { byteCount, type ExternalRange, type FileRange, rangeOf, readRange } from './ranges.ts';
import { message, type TensorProto } from './wire.ts';

export interface Tensor {
  readonly name: string;
  readonly elem: ElementType;
  readonly dims: readonly number[];
  /** Where the bytes lie when they are not in the model file. Validated when the model was read. See `dataRange`. */
  readonly external: ExternalRange | null;
  readonly proto: TensorProto;
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

/** Where the data of external tensors lies, by message: tensors in attributes exist only as messages. */
const located = new WeakMap<TensorProto, ExternalRange>();

/** Wraps a TensorProto; the reader gives `external` where the data lies in another file, which is then remembered. */
export function tensorFromProto(
  proto: TensorProto,
  external: ExternalRange | null = located.get(proto) ?? null,
): Tensor {
  if (external) located.set(proto, external);
  const dims = (proto.dims ?? []).map(Number);
  return { name: proto.name ?? '', elem: elementType(proto.data_type ?? 0), dims, external, proto };
}

export const isExternal = (proto: TensorProto): boolean => proto.data_location === EXTERNAL;

/**
 * A new tensor of any numeric element type from numbers.
 * @param values in row-major order; floating-point types round to nearest even, integers must fit exactly
 * @throws SisyphusError `tensor` where the count is not the product of `dims`, a number is no value of the element type,
 * or the element type has no numbers
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

/** Rounding to a floating-point element type, as its arithmetic does; the identity for double. */
export function rounding(elem: ElementType): (value: number) => number {
  if (elem === 'float') return Math.fround;
  if (elem === 'float16') return (value) => float16ToNumber(numberToFloat16(value));
  if (elem === 'bfloat16') return (value) => bfloat16ToNumber(numberToBfloat16(value));
  return (value) => value;
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
 * values beyond 2^53 are an error, or are `rounded`.
 * @throws SisyphusError `tensor` where the data has the wrong length or the element type has no numbers
 */
export function toNumbers(tensor: Tensor, options: { rounded?: boolean } = {}): Float64Array {
  const { elem, name } = tensor;
  const read = READERS[elem];
  if (!read) throw new SisyphusError('tensor', `tensor '${name}': elements of type ${elem} can't be read as numbers`);
  const bytes = rawBytes(tensor);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Float64Array(elementCount(tensor.dims));
  const wide = (elem === 'int64' || elem === 'uint64') && !options.rounded;
  for (let i = 0; i < out.length; i++) {
    const value = read(view, i);
    if (wide && !Number.isSafeInteger(value))
      throw new SisyphusError('tensor', `tensor '${name}': the value at index ${i} does not fit 53 bits`);
    out[i] = value;
  }
  return out;
}

/**
 * The elements as raw little-endian bytes: a view of what was read wherever that is possible. What was left in a file
 * is read anew by every call.
 * @throws SisyphusError `tensor` where the data has the wrong length, `external-data` or `file` where it can't be read
 */
export function rawBytes(tensor: Tensor): Uint8Array {
  const expected = checkedLength(tensor);
  if (!tensor.external && isExternal(tensor.proto))
    throw new SisyphusError('external-data', `tensor '${tensor.name}': its external data was never located`);
  const range = dataRange(tensor);
  if (range && range.length > constants.MAX_LENGTH)
    throw new SisyphusError('too-large', `tensor '${tensor.name}': ${range.length} bytes do not fit one buffer`);
  if (range) return readRange(range);
  let bytes: Uint8Array;
  // Messages inherit an empty default for absent bytes, so only a field of their own counts.
  if (Object.hasOwn(tensor.proto, 'raw_data')) bytes = tensor.proto.raw_data ?? new Uint8Array();
  else bytes = storedBytes(tensor, expected);
  if (bytes.length !== expected) throw badLength(tensor, `${bytes.length} bytes of data`, `${expected}`);
  return bytes;
}

/**
 * Where the data lies if it was not read: in another file (`external`), or in the model file itself.
 * @throws SisyphusError `tensor` where the range has the wrong length
 */
export function dataRange(tensor: Tensor): FileRange | null {
  const range = tensor.external ?? rangeOf(tensor.proto.raw_data);
  if (!range) return null;
  const expected = checkedLength(tensor);
  if (range.length !== expected) throw badLength(tensor, `${range.length} bytes of data`, `${expected}`);
  return range;
}

/** Whether the data was left out, as in files that show a network without its weights. */
export function isStripped(tensor: Tensor): boolean {
  const { proto } = tensor;
  if (tensor.external || isExternal(proto) || elementCount(tensor.dims) === 0) return false;
  const typed = [proto.float_data, proto.int32_data, proto.int64_data, proto.double_data, proto.uint64_data];
  const stored = [...typed, proto.string_data, proto.$unknowns?.filter(isUnpackedData)];
  return byteCount(proto.raw_data) === 0 && stored.every((runs) => (runs?.length ?? 0) === 0);
}

/**
 * What is wrong with the data's length, or null; data that was left out altogether is not wrong. Looks at sizes, and
 * decodes only what is stored as short runs of variable-length numbers.
 */
export function dataProblem(tensor: Tensor): string | null {
  const { elem, proto, dims } = tensor;
  if (tensor.external || BITS[elem] === undefined || isStripped(tensor)) return null;
  const decodes = !Object.hasOwn(proto, 'raw_data') && !FIXED_FIELDS[elem];
  if (decodes && elementCount(dims) > 1 << 16) return null;
  try {
    const range = dataRange(tensor);
    if (!range) rawBytes(tensor);
    else if (range.length !== checkedLength(tensor))
      throw badLength(tensor, `${range.length} bytes of data`, `${checkedLength(tensor)}`);
    return null;
  } catch (cause) {
    if (cause instanceof SisyphusError) return cause.message;
    throw cause;
  }
}

/** Strings of a string tensor. */
export function toStrings(tensor: Tensor): string[] {
  return (tensor.proto.string_data ?? []).map((bytes) => Buffer.from(bytes).toString('utf8'));
}

/** Bytes that the tensor must have; refuses shapes that no memory can hold before anything is allocated. */
function checkedLength(tensor: Tensor): number {
  const length = byteLength(tensor.elem, tensor.dims);
  if (!Number.isSafeInteger(length) || tensor.dims.some((dim) => dim < 0))
    throw new SisyphusError('tensor', `tensor '${tensor.name}': impossible shape [${tensor.dims}]`);
  return length;
}

function badLength(tensor: Tensor, found: string, expected: string): SisyphusError {
  const { name, elem, dims } = tensor;
  return new SisyphusError(
    'tensor',
    `tensor '${name}': ${found}, but ${elem} [${dims}] needs ${expected}; the file is damaged`,
  );
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

/** Lowest and highest value of the integers, as far as numbers hold them. */
const RANGES: Partial<Record<ElementType, readonly [number, number]>> = {
  int8: [-(2 ** 7), 2 ** 7 - 1],
  uint8: [0, 2 ** 8 - 1],
  int16: [-(2 ** 15), 2 ** 15 - 1],
  uint16: [0, 2 ** 16 - 1],
  int32: [-(2 ** 31), 2 ** 31 - 1],
  uint32: [0, 2 ** 32 - 1],
  int64: [-(2 ** 63), 2 ** 63 - 1024],
  uint64: [0, 2 ** 64 - 2048],
};

function encodeNumbers(elem: ElementType, values: ArrayLike<number>, name: string): Uint8Array {
  const write = WRITERS[elem];
  if (!write) throw new SisyphusError('tensor', `tensor '${name}': can't make elements of type ${elem} from numbers`);
  const range = RANGES[elem];
  const bytes = new Uint8Array(byteLength(elem, [values.length]));
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (range && !(Number.isInteger(value) && value >= range[0] && value <= range[1]))
      throw new SisyphusError('tensor', `tensor '${name}': ${value} at index ${i} is no value of type ${elem}`);
    write(view, i, value);
  }
  return bytes;
}

/** The typed field that holds the elements of each type, and its number. All else is in `int32_data`, as bit patterns. */
const FIXED_FIELDS: Partial<Record<ElementType, readonly ['float_data' | 'double_data', 4 | 10]>> = {
  float: ['float_data', 4],
  complex64: ['float_data', 4],
  double: ['double_data', 10],
  complex128: ['double_data', 10],
};
const VARINT_FIELDS: Partial<Record<ElementType, readonly ['int64_data' | 'uint64_data', 7 | 11]>> = {
  int64: ['int64_data', 7],
  uint64: ['uint64_data', 11],
  uint32: ['uint64_data', 11],
};

/** Raw bytes from the typed data fields, bit by bit as they are. */
function storedBytes(tensor: Tensor, expected: number): Uint8Array {
  const fixed = FIXED_FIELDS[tensor.elem];
  if (fixed) {
    const [field, number] = fixed;
    const runs = dataRuns(tensor.proto, tensor.proto[field], number, number === 4 ? 5 : 1);
    return runs.length === 1 ? (runs[0] as Uint8Array) : Buffer.concat(runs);
  }
  const [field, number] = VARINT_FIELDS[tensor.elem] ?? (['int32_data', 5] as const);
  return varintBytes(tensor, dataRuns(tensor.proto, tensor.proto[field], number, 0), expected);
}

/** Whether an unknown field is an element of a typed data field that was written unpacked. */
export const isUnpackedData = (bytes: Uint8Array): boolean => DATA_TAGS.has(bytes[0] ?? 0);
const DATA_TAGS = new Set([(4 << 3) | 5, 5 << 3, 7 << 3, (10 << 3) | 1, 11 << 3]);

/** Packed runs, and unpacked elements, which the schema leaves among the unknown fields (tags of one byte). */
function dataRuns(
  proto: TensorProto,
  packed: readonly Uint8Array[] = [],
  field: number,
  wireType: number,
): readonly Uint8Array[] {
  const tag = (field << 3) | wireType;
  const single = (proto.$unknowns ?? []).filter((bytes) => bytes[0] === tag).map((bytes) => bytes.subarray(1));
  return single.length > 0 ? [...packed, ...single] : packed;
}

/** Elements narrower than their varints keep the low bits; those below eight bits are packed into bytes already. */
function varintBytes(tensor: Tensor, runs: readonly Uint8Array[], expected: number): Uint8Array {
  const width = Math.max(1, (BITS[tensor.elem] ?? 0) / 8);
  const count = expected / width;
  const needed = `${count} numbers`;
  const present = runs.reduce((sum, run) => sum + run.length, 0);
  // Every number takes at least a byte: a hostile shape is refused before anything is allocated.
  if (present < count) throw badLength(tensor, `${present} bytes of data`, needed);
  const bytes = new Uint8Array(expected);
  const view = new DataView(bytes.buffer);
  const halves: [number, number] = [0, 0];
  let index = 0;
  for (const run of runs)
    for (let at = 0; at < run.length; index++) {
      at = readVarint(run, at, halves, tensor);
      if (index >= count) throw badLength(tensor, `more than ${count} numbers`, needed);
      const [low, high] = halves;
      if (tensor.elem === 'bool') bytes[index] = low | high ? 1 : 0;
      else if (width === 1) bytes[index] = low;
      else if (width === 2) view.setUint16(2 * index, low, true);
      else view.setUint32(width * index, low, true);
      if (width === 8) view.setUint32(8 * index + 4, high, true);
    }
  if (index < count) throw badLength(tensor, `${index} numbers`, needed);
  return bytes;
}

/** Reads one varint into its low and high 32 bits and returns where it ends. */
function readVarint(bytes: Uint8Array, start: number, halves: [number, number], tensor: Tensor): number {
  let low = 0;
  let high = 0;
  for (let at = start, shift = 0; shift < 70; at++, shift += 7) {
    const byte = bytes[at];
    if (byte === undefined) break;
    const bits = byte & 127;
    if (shift < 32) low |= bits << shift;
    if (shift === 28) high = bits >> 4;
    else if (shift > 28) high |= bits << (shift - 32);
    if (byte < 128) {
      halves[0] = low;
      halves[1] = high;
      return at + 1;
    }
  }
  throw new SisyphusError('tensor', `tensor '${tensor.name}': a number in its data is cut off; the file is damaged`);
}

const scratch = new DataView(new ArrayBuffer(8));

export function bfloat16ToNumber(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

export const numberToBfloat16 = (value: number): number => encodeFloat(value, 7, 127);

export function float16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export const numberToFloat16 = (value: number): number => encodeFloat(value, 10, 15);

/** The 16-bit pattern with a `fraction` of so many bits that is nearest to a number; ties go to the even one. */
function encodeFloat(value: number, fraction: number, bias: number): number {
  const infinity = (2 * bias + 1) << fraction;
  if (Number.isNaN(value)) return infinity | (1 << (fraction - 1));
  scratch.setFloat64(0, value);
  const top = scratch.getUint32(0);
  const sign = top >>> 31 ? 0x8000 : 0;
  const exponent = ((top >>> 20) & 0x7ff) - 1023;
  if (exponent > bias) return sign | infinity;
  const magnitude = Math.abs(value);
  // Below the normal numbers the spacing stays that of the smallest of them. A carry runs on into the exponent.
  const lowest = 1 - bias;
  if (exponent < lowest) return sign | roundHalfEven(magnitude * 2 ** (fraction - lowest));
  const bits = roundHalfEven((magnitude / 2 ** exponent - 1) * 2 ** fraction);
  return sign | (((exponent + bias) << fraction) + bits);
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
