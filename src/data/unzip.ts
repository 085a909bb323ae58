/** A zip archive that holds one folder. */
import { createWriteStream, existsSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import type { OnProgress } from '../progress.ts';

/**
 * Unpacks the folder `name` of an archive beside the archive, in place of one that is there. It appears only when it is
 * complete: meanwhile the files are in NAME.part.
 * @throws SisyphusError `data` for archives that are broken, lack the folder, or name files outside of it; `file`,
 * `aborted`
 */
export async function unzipFolder(
  archive: string,
  name: string,
  options: { readonly signal?: AbortSignal; readonly onProgress?: OnProgress } = {},
): Promise<void> {
  const target = path.join(path.dirname(archive), name);
  const part = `${target}.part`;
  try {
    await rm(part, { recursive: true, force: true });
    await unzip(archive, part, options);
    if (!existsSync(path.join(part, name)))
      throw new SisyphusError('data', `${archive}: has no folder ${name}; download it anew`);
    await rm(target, { recursive: true, force: true });
    await rename(path.join(part, name), target);
  } catch (cause) {
    if (cause instanceof SisyphusError) throw cause;
    if ((cause as NodeJS.ErrnoException).syscall) throw fileError(target, cause);
    throw new SisyphusError('data', `${archive}: cannot be unpacked (${(cause as Error).message}); download it anew`, {
      cause,
    });
  } finally {
    await rm(part, { recursive: true, force: true });
  }
}

async function unzip(
  archive: string,
  folder: string,
  { signal, onProgress }: { readonly signal?: AbortSignal; readonly onProgress?: OnProgress },
): Promise<void> {
  const { default: yauzl } = await import('yauzl');
  const zip = await yauzl.openPromise(archive, { autoClose: false });
  const made = new Set<string>();
  try {
    let done = 0;
    for await (const entry of zip.eachEntry()) {
      if (signal?.aborted) throw new SisyphusError('aborted', 'interrupted; the same command goes on from there');
      const file = path.resolve(folder, entry.fileName);
      // yauzl refuses such names as well; nothing may ever be written elsewhere.
      if (!file.startsWith(path.resolve(folder) + path.sep))
        throw new Error(`it names a file outside: ${entry.fileName}`);
      const parent = entry.fileName.endsWith('/') ? file : path.dirname(file);
      if (!made.has(parent)) await mkdir(parent, { recursive: true });
      made.add(parent);
      if (parent !== file) await pipeline(await zip.openReadStreamPromise(entry), createWriteStream(file));
      onProgress?.({ task: `unpacking ${path.basename(archive)}`, done: ++done, total: zip.entryCount, unit: 'files' });
    }
  } finally {
    zip.close();
  }
}
