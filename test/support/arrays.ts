/** NumPy files and models on disk, for tests that run models on data; all of them in a folder that goes with the test. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';
import type { Model } from '../../src/graph/ir.ts';
import { serialize } from '../../src/graph/write.ts';

/** A folder with a name that users have; it is deleted after the tests of the file. */
export function testFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus é run '));
  afterAll(() => rmSync(folder, { recursive: true }));
  return folder;
}

type Elements = Float32Array | Float64Array | Uint8Array | Int32Array;

/** An .npy file, version 1.0. */
export function writeNpy(file: string, dims: readonly number[], data: Elements): void {
  const descr = data instanceof Uint8Array ? '|u1' : data instanceof Int32Array ? '<i4' : `<f${data.BYTES_PER_ELEMENT}`;
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${dims.join(', ')},), }`;
  const header = `${text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11)}\n`;
  const start = Buffer.from('\x93NUMPY\x01\x00\x00\x00', 'latin1');
  start.writeUInt16LE(header.length, 8);
  const elements = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  writeFileSync(file, Buffer.concat([start, Buffer.from(header, 'latin1'), elements]));
}

/** Rows, and labels where there are any, as `--data` takes them. */
export function npyData(
  folder: string,
  name: string,
  dims: readonly number[],
  rows: Elements,
  labels?: readonly number[],
): string {
  const file = path.join(folder, `${name}.npy`);
  writeNpy(file, dims, rows);
  if (labels) writeNpy(path.join(folder, `${name}_labels.npy`), [labels.length], Int32Array.from(labels));
  return `npz:${file}`;
}

/** @returns the path of the file */
export function saveModel(folder: string, name: string, model: Model): string {
  const file = path.join(folder, `${name}.onnx`);
  writeFileSync(file, serialize(model));
  return file;
}
