/**
 * Arrays in NumPy's .npy format, versions 1.0 to 3.0
 * (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
 */
import { SisyphusError } from '../errors.ts';
import { float16ToNumber } from '../graph/tensor.ts';
import { type Bytes, byteReader } from './bytes.ts';

export interface NpyArray {
  readonly where: string;
  readonly shape: readonly number[];
  /** NumPy's name without the byte order, as 'f4'. */
  readonly dtype: string;
  /** Bytes per element. */
  readonly itemSize: number;
  /** Where the elements begin; they are in row-major order. */
  readonly offset: number;
  bytes(): Bytes;
  /** The elements in some bytes, which may be changed and kept; 64-bit integers become the nearest numbers. */
  decode(bytes: Uint8Array<ArrayBuffer>): Numbers;
}

export type Numbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array;

/** Elements in the byte order of this machine. */
const DECODE: Readonly<Record<string, (buffer: ArrayBuffer) => Numbers>> = {
  b1: (buffer) => new Uint8Array(buffer),
  u1: (buffer) => new Uint8Array(buffer),
  i1: (buffer) => new Int8Array(buffer),
  u2: (buffer) => new Uint16Array(buffer),
  i2: (buffer) => new Int16Array(buffer),
  u4: (buffer) => new Uint32Array(buffer),
  i4: (buffer) => new Int32Array(buffer),
  u8: (buffer) => Float64Array.from(new BigUint64Array(buffer), Number),
  i8: (buffer) => Float64Array.from(new BigInt64Array(buffer), Number),
  f2: (buffer) => Float32Array.from(new Uint16Array(buffer), float16ToNumber),
  f4: (buffer) => new Float32Array(buffer),
  f8: (buffer) => new Float64Array(buffer),
};

const MAX_HEADER = 2 ** 16; // NumPy itself stops at 10,000 unless told to trust the file

/**
 * Reads the header.
 * @param where what errors call the array
 * @param size of the whole in bytes
 * @throws SisyphusError `data` for what is no array of numbers in row-major order, or not complete
 */
export async function openNpy(where: string, size: number, bytes: () => Bytes): Promise<NpyArray> {
  const refuse = (why: string) => new SisyphusError('data', `${where}: ${why}`);
  if (size === 0) throw refuse('is empty');
  const { header, offset } = await readHeader(where, bytes());
  const descr = /['"]descr['"]\s*:\s*(['"])(.*?)\1/.exec(header)?.[2];
  const fortran = /['"]fortran_order['"]\s*:\s*(True|False)/.exec(header)?.[1];
  const dims = /['"]shape['"]\s*:\s*\(([\d,\sL]*)\)/.exec(header)?.[1];
  if (!descr && /['"]descr['"]\s*:\s*\[/.test(header))
    throw refuse('holds records (a structured dtype); save each field as an array of its own');
  if (!descr || !fortran || dims === undefined)
    throw refuse(`has a header that can't be understood: ${header.trim().slice(0, 200)}`);
  const [, order = '', dtype = ''] = /^([<>|=]?)(\w+)$/.exec(descr) ?? [];
  if (dtype === 'O')
    throw refuse('holds Python objects (pickled), not numbers; save an array made by np.stack or with dtype=…');
  const decode = Object.hasOwn(DECODE, dtype) ? DECODE[dtype] : undefined;
  if (!decode) throw refuse(`has the dtype '${descr}'; known are ${Object.keys(DECODE).join(', ')} (use astype)`);
  const itemSize = Number(dtype.slice(1));
  const shape = dims
    .split(',')
    .map((dim) => dim.trim())
    .filter((dim) => dim !== '')
    .map((dim) => Number.parseInt(dim, 10)); // Python 2 wrote 10L
  if (fortran === 'True' && shape.filter((dim) => dim > 1).length > 1)
    throw refuse('is in Fortran order; save np.ascontiguousarray(…) of it');
  const surplus = size - offset - shape.reduce((product, dim) => product * dim, itemSize);
  if (surplus !== 0)
    throw refuse(
      `is ${Math.abs(surplus)} bytes ${surplus < 0 ? 'shorter' : 'longer'} than its header says (${descr} [${shape.join(',')}]); make it again`,
    );
  const swap = order === '>' && itemSize > 1;
  return {
    where,
    shape,
    dtype,
    itemSize,
    offset,
    bytes,
    decode(bytes) {
      if (swap) swapBytes(bytes, itemSize);
      return decode(bytes.buffer);
    },
  };
}

async function readHeader(where: string, bytes: Bytes): Promise<{ header: string; offset: number }> {
  const reader = byteReader(bytes, where);
  const read = async (count: number) => {
    const target = Buffer.alloc(count);
    await reader.fill(target);
    return target;
  };
  try {
    const start = await read(8);
    if (start.toString('latin1', 0, 6) !== '\x93NUMPY')
      throw new SisyphusError('data', `${where}: is no .npy array (begins with ${start.toString('hex', 0, 6)})`);
    const version = start[6] as number;
    if (version < 1 || version > 3)
      throw new SisyphusError('data', `${where}: has .npy version ${version}.${start[7]}; known are 1.0 to 3.0`);
    const length = version === 1 ? (await read(2)).readUInt16LE() : (await read(4)).readUInt32LE();
    if (length > MAX_HEADER)
      throw new SisyphusError('data', `${where}: has a header of ${length} bytes; it is corrupt`);
    const header = (await read(length)).toString(version === 3 ? 'utf8' : 'latin1');
    return { header, offset: (version === 1 ? 10 : 12) + length };
  } finally {
    await reader.close();
  }
}

function swapBytes(bytes: Uint8Array<ArrayBuffer>, itemSize: number): void {
  const buffer = Buffer.from(bytes.buffer);
  if (itemSize === 2) buffer.swap16();
  else if (itemSize === 4) buffer.swap32();
  else buffer.swap64();
}
