/** Text and other small files, written so that they appear only complete. Models have `graph/write.ts`. */
import { randomBytes } from 'node:crypto';
import { lstat, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { SisyphusError } from './errors.ts';
import { fileError } from './graph/read.ts';

/**
 * Writes a file under a temporary name and renames it when it is complete.
 * @param options.force replace an existing file; default: refuse
 * @returns its size in bytes
 * @throws SisyphusError `file`
 */
export async function writeFileSafely(
  file: string,
  content: string | Uint8Array,
  options: { readonly force?: boolean } = {},
): Promise<number> {
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  await refuseTarget(file, options.force ?? false);
  // What a link points to is replaced, not the link (/dev/stdout is one).
  const real = await realpath(file).catch(() => file);
  const temporary = `${real}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await writeFile(temporary, bytes, { flag: 'wx' });
    await rename(temporary, real);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => {}); // the first failure is the one to tell
    throw fileError(file, cause);
  }
  return bytes.length;
}

/** Throws what `writeFileSafely` would, so that long work need not be done in vain. */
export async function refuseTarget(file: string, force: boolean): Promise<void> {
  if (file === '') throw new SisyphusError('usage', 'the name of the file to write is empty');
  const refuse = (why: string) => new SisyphusError('file', `${file}: ${why}`);
  const link = await lstat(file).catch(() => null);
  const target = link && (await stat(file).catch(() => null));
  if (target?.isDirectory()) throw refuse('is a folder; give the name of a file');
  if (target && !target.isFile()) throw refuse('is no regular file; give another name');
  if (link && !force) throw refuse('exists already; give --force to replace it, or another name');
  const folder = path.dirname(file);
  if (!link && !(await stat(folder).catch(() => null))?.isDirectory())
    throw refuse(`there is no folder '${folder}'; create it first`);
}

/** The default name of a command's result: `model.onnx` -> `model.WHAT.onnx`. */
export function outputName(input: string, what: string): string {
  const { dir, name, ext } = path.parse(input);
  return path.join(dir, ext === '.onnx' ? `${name}.${what}.onnx` : `${name}${ext}.${what}.onnx`);
}
