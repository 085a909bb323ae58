/** Data that stays in its file: a range that was checked once, and is read or copied when somebody needs it. */
import { closeSync, fstatSync, openSync, readSync, type Stats } from 'node:fs';
import { SisyphusError } from '../errors.ts';

/** A checked range of an existing file. */
export interface FileRange {
  readonly path: string;
  readonly offset: number;
  readonly length: number;
  /** `fileStamp` of the file when it was checked. */
  readonly stamp: string;
}
/** A range of another file than the model's. */
export interface ExternalRange extends FileRange {
  /** As the model spells the path. */
  readonly location: string;
}

/** Tells whether a file is still the one that was checked: a model may be written over its own input. */
export const fileStamp = (stat: Stats): string => `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeMs}`;

const standIns = new WeakMap<Uint8Array, FileRange>();

/** An empty byte field that stands for a range: messages carry it along, and the writer puts the range in its place. */
export function standIn(range: FileRange): Uint8Array {
  const bytes = new Uint8Array();
  standIns.set(bytes, range);
  return bytes;
}

/** The range that a byte field stands for, or null where the field holds its own bytes. */
export const rangeOf = (bytes: Uint8Array | undefined): FileRange | null => (bytes && standIns.get(bytes)) ?? null;

/** How many bytes a field holds or stands for. */
export const byteCount = (bytes: Uint8Array | undefined): number => (rangeOf(bytes) ?? bytes)?.length ?? 0;

/**
 * Reads a range.
 * @param into as long as the range; default: a new buffer
 * @throws SisyphusError `external-data`, for the model file itself `file`, where the file is not the one that was checked
 */
export function readRange(range: FileRange, into: Uint8Array = Buffer.allocUnsafe(range.length)): Uint8Array {
  let file: number;
  try {
    file = openSync(range.path, 'r');
  } catch (cause) {
    throw changed(range, cause);
  }
  try {
    if (fileStamp(fstatSync(file)) !== range.stamp) throw changed(range);
    if (!readFully(file, into, range.offset)) throw changed(range);
    return into;
  } finally {
    closeSync(file);
  }
}

/** Fills `into` from a position of an open file. @returns whether the file was long enough */
export function readFully(file: number, into: Uint8Array, position: number): boolean {
  for (let done = 0; done < into.length; ) {
    const read = readSync(file, into, done, Math.min(into.length - done, 1 << 30), position + done);
    if (read === 0) return false;
    done += read;
  }
  return true;
}

/** The error for a file that is not the one that was checked. */
export function changed(range: FileRange, cause?: unknown): SisyphusError {
  const message = `${range.path}: changed or gone since the model was read; read the model again`;
  return new SisyphusError('location' in range ? 'external-data' : 'file', message, { cause });
}
