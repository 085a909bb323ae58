/** Where tables find their networks and data: beside the repository, or where the command line says. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';

export const REPOSITORY = path.resolve(import.meta.dirname, '..');
export const SHARED = path.resolve(REPOSITORY, '../shared');

/** A third-party network. */
export const shared = (name: string): string => path.join(SHARED, 'models', `${name}.onnx`);

/** Unpacks the data sets into a folder. @returns it */
export function unpacked(folder: string): string {
  const { status, stderr } = spawnSync('node', [path.join(SHARED, 'data/unpack.mjs'), folder], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`there is no data: give --data DIR (${stderr})`);
  return folder;
}

export const percent = (share: number): string => (100 * share).toFixed(2);
