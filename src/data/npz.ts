/** Arrays that somebody saved with NumPy, as a data set: rows `x` and, if there, labels `y`. */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import { zipEntries } from './archives.ts';
import { fileBytes, fileSize, firstBytes, kindOf } from './bytes.ts';
import type { Dataset, DatasetOptions, RowLayout, Split } from './dataset.ts';
import { type NpyArray, openNpy } from './npy.ts';
import { labelsOf, recordBatches, throwIfAborted } from './records.ts';

const NPY = '.npy';
const MAX_LABEL = 999_999; // more is not a class but something else
const LABELS_AT_ONCE = 2 ** 18; // elements

/** The first that is there counts; upper and lower case are the same. */
const rowNames = (split: Split) => [`x_${split}`, `${split}_images`, 'x', 'images', 'data'];
const labelNames = (split: Split) => [`y_${split}`, `${split}_labels`, 'y', 'labels', 'target', 'targets'];

/**
 * @param source an .npz file, a folder of .npy files, or one .npy file, whose labels are in a file beside it
 *   (`a.npy`: `a_labels.npy`; `x.npy`: `y.npy`)
 * @throws SisyphusError `file`, `data`
 */
export async function openNpz(source: string, options: DatasetOptions): Promise<Dataset> {
  const { split = 'test', signal } = options;
  const { rows, labels } = await findArrays(source, split);
  const x = await rows.open();
  const [length = 0, ...dims] = x.shape;
  if (dims.length === 0)
    throw new SisyphusError('data', `${x.where}: has the shape [${x.shape.join(',')}]; rows are [N,…] with N first`);
  if (x.shape.includes(0)) throw new SisyphusError('data', `${x.where}: is empty: its shape is [${x.shape.join(',')}]`);
  const y = labels && (await readLabels(await labels.open(), x, signal));
  const elements = dims.reduce((product, dim) => product * dim, 1);
  const { where, offset, bytes } = x;
  const records = { where, offset, size: elements * x.itemSize, length, bytes };
  return {
    name: 'npz',
    source,
    split,
    length,
    ...arrange(dims),
    elem: x.dtype === 'u1' ? 'uint8' : 'float',
    classes: y?.classes ?? null,
    async *batches(options) {
      for await (const batch of recordBatches(records, options)) {
        const values = x.decode(batch.bytes);
        const rows = x.dtype === 'u1' && values instanceof Uint8Array ? values : asFloats(values);
        yield { first: batch.first, count: batch.count, rows, labels: y ? labelsOf(batch, y.labels) : null };
      }
    },
  };
}

const asFloats = (values: ArrayLike<number>): Float32Array =>
  values instanceof Float32Array ? values : Float32Array.from(values);

/** Which dimension of an image holds 1, 3 or 4 channels; a matrix is an image with one. */
function arrange(dims: readonly number[]): { shape: readonly number[]; layout: RowLayout } {
  if (dims.length === 2) return { shape: [1, ...dims], layout: 'chw' };
  const channels = (dim: number | undefined) => dim === 1 || dim === 3 || dim === 4;
  if (dims.length === 3 && channels(dims[0])) return { shape: dims, layout: 'chw' };
  if (dims.length === 3 && channels(dims[2])) return { shape: dims, layout: 'hwc' };
  return { shape: dims, layout: 'plain' };
}

/** An array that has not been opened yet. */
interface Stored {
  readonly name: string;
  open(): Promise<NpyArray>;
}

interface Arrays {
  readonly rows: Stored;
  readonly labels: Stored | undefined;
}

async function findArrays(source: string, split: Split): Promise<Arrays> {
  const kind = await kindOf(source);
  if (kind === null) throw new SisyphusError('file', `${source}: no such file or folder`);
  if (kind === 'folder') return choose(source, await inFolder(source), split);
  const start = Buffer.from(await firstBytes(source, 6)).toString('latin1');
  if (start === '') throw new SisyphusError('data', `${source}: is empty`);
  if (start.startsWith('PK')) return choose(source, await inZip(source), split);
  if (start === '\x93NUMPY') return besideEachOther(source);
  throw new SisyphusError(
    'data',
    `${source}: is neither an .npz nor an .npy file; make one with np.savez(…, x=…, y=…)`,
  );
}

function choose(source: string, arrays: readonly Stored[], split: Split): Arrays {
  const first = (names: readonly string[]) =>
    names.map((name) => arrays.find((array) => array.name.toLowerCase() === name)).find((array) => array);
  const rows = first(rowNames(split));
  if (rows) return { rows, labels: first(labelNames(split)) };
  const held = arrays.map(({ name }) => name).join(', ') || 'no arrays';
  const other = split === 'test' ? 'train' : 'test';
  const fix = first(rowNames(other)) ? `give --split ${other}, or ` : '';
  throw new SisyphusError(
    'data',
    `${source}: holds ${held}, but none of ${rowNames(split).join(', ')}; ${fix}save the rows as x and the labels as y`,
  );
}

async function inZip(file: string): Promise<Stored[]> {
  const entries = await zipEntries(file);
  return entries
    .filter(({ name }) => name.endsWith(NPY))
    .map(({ name, size, bytes }) => ({
      name: name.slice(0, -NPY.length),
      open: () => openNpy(`${file}: ${name}`, size, bytes),
    }));
}

async function inFolder(folder: string): Promise<Stored[]> {
  const files = await readdir(folder).catch((cause) => {
    throw fileError(folder, cause);
  });
  return files.filter((name) => name.endsWith(NPY)).map((name) => inFile(path.join(folder, name)));
}

const inFile = (file: string): Stored => ({
  name: path.basename(file, NPY),
  open: async () => openNpy(file, await fileSize(file), () => fileBytes(file)),
});

async function besideEachOther(file: string): Promise<Arrays> {
  const rows = inFile(file);
  const partners = (['train', 'test'] as const).flatMap((split) =>
    rowNames(split).flatMap((name, i) => (name === rows.name.toLowerCase() ? (labelNames(split)[i] ?? []) : [])),
  );
  const names = [`${rows.name}_labels`, ...partners].map((name) => name.toLowerCase());
  const arrays = await inFolder(path.dirname(file));
  const labels = names.map((name) => arrays.find((array) => array.name.toLowerCase() === name)).find((array) => array);
  return { rows, labels };
}

/** Whole numbers [N] or [N,1], or one-hot rows [N,classes], of which the largest counts. */
async function readLabels(
  y: NpyArray,
  x: NpyArray,
  signal: AbortSignal | undefined,
): Promise<{ labels: Int32Array; classes: number }> {
  const [length = 0, width = 1] = y.shape;
  const shape = `[${y.shape.join(',')}]`;
  if (y.shape.length > 2 || y.shape.length === 0)
    throw new SisyphusError('data', `${y.where}: labels are [N] or one-hot [N,classes], not ${shape}`);
  if (length !== x.shape[0])
    throw new SisyphusError('data', `${y.where}: ${length} labels (${shape}) for ${x.shape[0]} rows of ${x.where}`);
  if (width === 0) throw new SisyphusError('data', `${y.where}: is empty: its shape is ${shape}`);
  const records = { where: y.where, offset: y.offset, size: width * y.itemSize, length, bytes: y.bytes };
  const labels = new Int32Array(length);
  let classes = width;
  for await (const { first, count, bytes } of recordBatches(records, { size: Math.ceil(LABELS_AT_ONCE / width) })) {
    throwIfAborted(signal);
    const values = y.decode(bytes);
    for (let i = 0; i < count; i++) {
      const place = () => `${y.where}: row ${first + i}`;
      const label = width === 1 ? oneLabel(values[i] as number, place) : hotLabel(values, i * width, width, place);
      labels[first + i] = label;
      classes = Math.max(classes, label + 1);
    }
  }
  return { labels, classes };
}

function oneLabel(value: number, place: () => string): number {
  if (Number.isInteger(value) && value >= 0 && value <= MAX_LABEL) return value;
  throw new SisyphusError('data', `${place()}: ${value} is no label; they are whole numbers from 0 on`);
}

function hotLabel(values: ArrayLike<number>, start: number, width: number, place: () => string): number {
  let [label, ties] = [0, 0];
  for (let c = 1; c < width; c++) {
    const lead = (values[start + c] as number) - (values[start + label] as number);
    if (lead > 0) [label, ties] = [c, 0];
    else if (!(lead < 0)) ties++; // also where one is not a number
  }
  if (ties === 0) return label;
  throw new SisyphusError('data', `${place()}: its ${width} numbers have no single largest, so they name no class`);
}
