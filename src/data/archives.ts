/** Files inside tar and zip archives as streams of bytes; nothing is unpacked to the disk or held in memory. */
import { pipeline, Readable } from 'node:stream';
import { crc32 } from 'node:zlib';
import { SisyphusError } from '../errors.ts';
import { type Bytes, fileBytes, fileSize, firstBytes, rangeBytes } from './bytes.ts';

export interface ArchiveEntry {
  /** The path inside the archive. */
  readonly name: string;
  readonly size: number;
  bytes(): Bytes;
}

/** Whether a file is a tar archive, or gzipped (the name does not matter). @throws SisyphusError `file` */
export async function isTar(file: string): Promise<boolean> {
  const head = Buffer.from(await firstBytes(file, 512));
  return (head[0] === 0x1f && head[1] === 0x8b) || head.toString('latin1', 257, 262) === 'ustar';
}

/**
 * The files of a tar archive, gzipped or not, in its order; the bytes of each can be read before the next is asked for.
 * @throws SisyphusError `file`, `data`
 */
export async function* tarEntries(file: string): AsyncGenerator<ArchiveEntry> {
  const { extract } = await import('tar-stream'); // loaded late: they would slow every start down
  const archive = extract();
  pipeline(Readable.from(fileBytes(file)), archive, () => {}); // failures reach the loop through the archive
  try {
    for await (const entry of archive) {
      const { name, size = 0, type } = entry.header;
      if (type === 'file' || type === 'contiguous-file') yield { name, size, bytes: () => entry as Bytes };
      entry.resume();
    }
  } catch (cause) {
    if (cause instanceof SisyphusError) throw cause;
    throw new SisyphusError(
      'data',
      `${file}: is no complete tar archive (${(cause as Error).message}); download it again`,
      { cause },
    );
  } finally {
    archive.destroy();
  }
}

/**
 * The bytes of entries of a tar archive, in the order of `names`. An archive that keeps them in another order is read
 * again from the start.
 */
export async function* tarBytes(file: string, names: readonly string[]): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < names.length; ) {
    const before = at;
    for await (const entry of tarEntries(file)) {
      if (entry.name !== names[at]) continue;
      yield* entry.bytes();
      if (++at === names.length) return;
    }
    if (at === before) throw new SisyphusError('data', `${file}: no longer holds ${names[at]}`);
  }
}

/**
 * The files of a zip archive; the bytes of each can be read at any time, and are checked against its checksum.
 * @throws SisyphusError `file`, `data`
 */
export async function zipEntries(file: string): Promise<ArchiveEntry[]> {
  if ((await fileSize(file)) === 0) throw new SisyphusError('data', `${file}: is empty`);
  await firstBytes(file, 4); // fails in words where the file can't be read
  try {
    const { default: yauzl } = await import('yauzl');
    const zip = await yauzl.openPromise(file, { lazyEntries: true, autoClose: false });
    try {
      const entries: ArchiveEntry[] = [];
      for await (const entry of zip.eachEntry()) {
        const { fileName: name, uncompressedSize: size, compressedSize, compressionMethod, crc32: checksum } = entry;
        if (name.endsWith('/')) continue;
        if (entry.isEncrypted()) throw new Error(`${name} is encrypted`);
        if (compressionMethod !== 0 && compressionMethod !== 8)
          throw new Error(`${name} is compressed by method ${compressionMethod}; only deflate is known`);
        const { fileDataStart } = await zip.readLocalFileHeaderPromise(entry, { minimal: true });
        const range = { start: fileDataStart, length: compressedSize, deflated: compressionMethod === 8 };
        entries.push({ name, size, bytes: () => checked(rangeBytes(file, range), checksum, `${file}: ${name}`) });
      }
      return entries;
    } finally {
      zip.close();
    }
  } catch (cause) {
    throw new SisyphusError('data', `${file}: is no complete zip archive (${(cause as Error).message})`, { cause });
  }
}

async function* checked(bytes: Bytes, checksum: number, where: string): AsyncGenerator<Uint8Array> {
  let sum = 0;
  for await (const chunk of bytes) {
    sum = crc32(chunk, sum);
    yield chunk;
  }
  if (sum !== checksum)
    throw new SisyphusError('data', `${where}: the checksum does not match, so the data are corrupt; make it again`);
}
