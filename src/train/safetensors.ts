/**
 * Tensors with names in one file, in the safetensors format (a length, a JSON header, the data one after the other), which
 * Python reads as well. Checkpoints are such files.
 */
import { readFile } from 'node:fs/promises';
import { SisyphusError } from '../errors.ts';
import { writeFileSafely } from '../files.ts';
import { fileError } from '../graph/read.ts';
import { elementCount } from '../graph/tensor.ts';

export interface NamedTensors {
  readonly tensors: ReadonlyMap<string, { readonly dims: readonly number[]; readonly data: Float32Array }>;
  readonly metadata: Readonly<Record<string, string>>;
}

interface HeaderEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

const METADATA = '__metadata__';

/** Replaces the file; it appears only complete. @throws SisyphusError `file` */
export async function writeSafetensors(file: string, { tensors, metadata }: NamedTensors): Promise<void> {
  const header: Record<string, unknown> = { [METADATA]: metadata };
  let end = 0;
  for (const [name, { dims, data }] of tensors) {
    header[name] = { dtype: 'F32', shape: dims, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  const text = Buffer.from(JSON.stringify(header));
  const start = 8 + Math.ceil(text.length / 8) * 8; // padded with spaces, so that the data are aligned
  const bytes = Buffer.alloc(start + end, ' ');
  bytes.writeBigUInt64LE(BigInt(start - 8), 0);
  text.copy(bytes, 8);
  let at = start;
  for (const { data } of tensors.values()) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  await writeFileSafely(file, bytes, { force: true });
}

/** @throws SisyphusError `file`; `data` for files that are not of the format, or hold other numbers than float32 */
export async function readSafetensors(file: string): Promise<NamedTensors> {
  const bytes = await readFile(file).catch((cause) => {
    throw fileError(file, cause);
  });
  const refuse = (why: string) => new SisyphusError('data', `${file}: ${why}`);
  const start = bytes.length < 8 ? Number.NaN : 8 + Number(bytes.readBigUInt64LE(0));
  if (!(start <= bytes.length)) throw refuse('is no safetensors file, or cut short');
  let header: Record<string, HeaderEntry>;
  try {
    header = JSON.parse(bytes.toString('utf8', 8, start)) as typeof header;
  } catch (cause) {
    throw new SisyphusError('data', `${file}: its header is not JSON`, { cause });
  }
  const { [METADATA]: metadata = {}, ...entries } = header;
  const tensors = new Map<string, { dims: readonly number[]; data: Float32Array }>();
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(entries)) {
    const [from = 0, to = 0] = offsets ?? [];
    if (dtype !== 'F32' || to - from !== 4 * elementCount(shape) || start + to > bytes.length)
      throw refuse(`tensor '${name}' is not float32, or cut short`);
    const data = new Float32Array(elementCount(shape));
    new Uint8Array(data.buffer).set(bytes.subarray(start + from, start + to));
    tensors.set(name, { dims: shape, data });
  }
  return { tensors, metadata: metadata as unknown as Record<string, string> };
}
