/**
 * External tensor data: where it lies and whether it may be read. A location comes from a file that somebody else made,
 * so it must stay inside the model's folder.
 */
import { realpathSync, type Stats, statSync } from 'node:fs';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { type ExternalRange, fileStamp } from './ranges.ts';
import { byteLength, elementType } from './tensor.ts';
import type { TensorProto } from './wire.ts';

/**
 * Checks a tensor's external location and returns the range it names. Only looks at the file's size.
 * @throws SisyphusError `external-data`, naming the tensor, where the location is missing, absolute, leaves the folder
 * (also through a symbolic link), names no file, or ends beyond the file's end
 */
export function resolveExternal(proto: TensorProto, folder: string | undefined): ExternalRange {
  const name = proto.name ?? '';
  const refuse = (why: string) => new SisyphusError('external-data', `tensor '${name}': ${why}`);
  const entries = new Map((proto.external_data ?? []).map(({ key, value }) => [key ?? '', value ?? '']));
  const location = entries.get('location');
  if (!location) throw refuse('its data is external but no location is given; export the model again');
  if (folder === undefined) throw refuse('its data is external, but the model was not read from a file');
  if (location.includes('\0')) throw refuse('its external location holds a NUL character');
  if (path.isAbsolute(location) || path.win32.isAbsolute(location))
    throw refuse(`the external location '${location}' is absolute; it must be relative to the model's folder`);
  const target = path.resolve(folder, location);
  if (leaves(folder, target)) throw refuse(`the external location '${location}' leaves the model's folder`);
  let real: string;
  let stat: Stats;
  let linked: boolean;
  try {
    real = realpathSync(target);
    linked = leaves(realpathSync(folder), real);
    stat = statSync(real);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EACCES') throw refuse(`its data file '${location}' can't be read`);
    throw refuse(`its data file '${location}' is missing; put it beside the model`);
  }
  if (linked) throw refuse(`the external location '${location}' leads out of the model's folder through a link`);
  if (!stat.isFile()) throw refuse(`the external location '${location}' is not a file`);

  const dims = (proto.dims ?? []).map(Number);
  const elem = elementType(proto.data_type ?? 0);
  if (elem === 'string' || elem === 'undefined') throw refuse(`elements of type ${elem} can't be external`);
  const needed = byteLength(elem, dims);
  if (!Number.isSafeInteger(needed) || dims.some((dim) => dim < 0)) throw refuse(`impossible shape [${dims}]`);
  const offset = wholeNumber(entries.get('offset'), 0);
  const length = wholeNumber(entries.get('length'), needed);
  if (offset === null || length === null)
    throw refuse('the offset or length of its external data is not a whole number');
  if (length !== needed) throw refuse(`its external data has ${length} bytes, but its shape [${dims}] needs ${needed}`);
  if (offset + length > stat.size)
    throw refuse(
      `bytes ${offset} to ${offset + length} of '${location}' are wanted, but it ends at ${stat.size}; copy it again`,
    );
  return { path: real, location, offset, length, stamp: fileStamp(stat) };
}

function leaves(folder: string, target: string): boolean {
  const relative = path.relative(folder, target);
  return relative === '..' || relative.startsWith(`..${path.sep}`) || path.isAbsolute(relative);
}

function wholeNumber(text: string | undefined, absent: number): number | null {
  if (text === undefined) return absent;
  if (!/^\d{1,16}$/.test(text)) return null;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : null;
}
