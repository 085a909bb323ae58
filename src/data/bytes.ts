/** Files as streams of bytes, and exact reads from such streams. */
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { pipeline, type Readable, type Transform } from 'node:stream';
import { createGunzip, createInflateRaw } from 'node:zlib';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';

/** Bytes in chunks of any size, none of which is reused. */
export type Bytes = AsyncIterable<Uint8Array>;

const CHUNK = 2 ** 20;

/**
 * The bytes of a file, decompressed where they begin as gzip does, whatever the file is called.
 * @throws SisyphusError `file`; `data` for compressed data that are cut off or corrupt
 */
export async function* fileBytes(file: string): AsyncGenerator<Uint8Array> {
  const [first, second] = await firstBytes(file, 2);
  const source = createReadStream(file, { highWaterMark: CHUNK });
  const gzip = first === 0x1f && second === 0x8b;
  yield* readable(file, gzip ? decoded(source, createGunzip({ chunkSize: CHUNK })) : source);
}

/** A part of a file, inflated where it is deflated (as entries of zip archives are). @throws as `fileBytes` */
export async function* rangeBytes(
  file: string,
  range: { readonly start: number; readonly length: number; readonly deflated: boolean },
): AsyncGenerator<Uint8Array> {
  if (range.length === 0) return;
  const source = createReadStream(file, {
    start: range.start,
    end: range.start + range.length - 1,
    highWaterMark: CHUNK,
  });
  yield* readable(file, range.deflated ? decoded(source, createInflateRaw({ chunkSize: CHUNK })) : source);
}

/** Either stream's failure or end closes both. */
const decoded = (source: Readable, decoder: Transform): Readable => pipeline(source, decoder, () => {});

async function* readable(file: string, stream: Readable): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of stream) yield chunk;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? '';
    const why = code === 'Z_BUF_ERROR' ? 'end too early' : `are corrupt (${(cause as Error).message})`;
    if (code.startsWith('Z_'))
      throw new SisyphusError('data', `${file}: the compressed data ${why}; download the file again`, { cause });
    throw fileError(file, cause);
  }
}

/** The first bytes of a file, fewer where it is shorter. @throws SisyphusError `file` */
export async function firstBytes(file: string, count: number): Promise<Uint8Array> {
  if ((await kindOf(file)) === 'other') throw new SisyphusError('file', `${file}: is neither a file nor a folder`);
  try {
    const handle = await open(file);
    try {
      const { buffer, bytesRead } = await handle.read(new Uint8Array(count), 0, count, 0);
      return buffer.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  } catch (cause) {
    throw fileError(file, cause);
  }
}

/** What is at a path; null for nothing. @throws SisyphusError `file` */
export async function kindOf(path: string): Promise<'file' | 'folder' | 'other' | null> {
  try {
    const found = await stat(path);
    return found.isFile() ? 'file' : found.isDirectory() ? 'folder' : 'other';
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw fileError(path, cause);
  }
}

/** @throws SisyphusError `file` */
export async function fileSize(file: string): Promise<number> {
  try {
    return (await stat(file)).size;
  } catch (cause) {
    throw fileError(file, cause);
  }
}

/** Everything, as UTF-8. For small files. */
export async function textOf(bytes: Bytes): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of bytes) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

/** Exact reads from a stream of bytes; they throw `data` where it ends too early. */
export interface ByteReader {
  fill(target: Uint8Array): Promise<void>;
  skip(count: number): Promise<void>;
  /** @throws SisyphusError `data` unless everything has been read */
  end(): Promise<void>;
  close(): Promise<void>;
}

/** @param where what errors call the bytes */
export function byteReader(bytes: Bytes, where: string): ByteReader {
  const chunks = bytes[Symbol.asyncIterator]();
  let chunk: Uint8Array = new Uint8Array();
  let at = 0; // in the chunk
  let position = 0; // in all
  const more = async () => {
    while (at === chunk.length) {
      const { value, done } = await chunks.next();
      if (done) return false;
      chunk = value;
      at = 0;
    }
    return true;
  };
  const take = async (count: number, target?: Uint8Array) => {
    for (let done = 0; done < count; ) {
      if (!(await more()))
        throw new SisyphusError(
          'data',
          `${where}: ends after ${position} bytes, where ${count - done} more must follow; it is cut off`,
        );
      const part = chunk.subarray(at, at + count - done);
      target?.set(part, done);
      at += part.length;
      done += part.length;
      position += part.length;
    }
  };
  return {
    fill: (target) => take(target.length, target),
    skip: (count) => take(count),
    async end() {
      if (await more())
        throw new SisyphusError('data', `${where}: more bytes follow after byte ${position}, where it should end`);
    },
    async close() {
      await chunks.return?.();
    },
  };
}
