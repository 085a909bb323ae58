/**
 * MNIST and Fashion-MNIST: two IDX files per split, gzipped or not. Format: http://yann.lecun.com/exdb/mnist (a magic
 * number that tells element type and rank, the dimensions as big-endian 32-bit integers, then the elements).
 */
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { byteReader, fileBytes, fileSize, firstBytes, kindOf } from './bytes.ts';
import type { Dataset, DatasetOptions, Split } from './dataset.ts';
import { labelsOf, recordBatches } from './records.ts';

const IMAGES = 0x803; // unsigned bytes, three dimensions
const LABELS = 0x801; // unsigned bytes, one dimension
const CLASSES = 10;
const MAX_SIDE = 4096; // more is a corrupt header

const PREFIX: Readonly<Record<Split, string>> = { train: 'train', test: 't10k' };
/** Where torchvision puts the files inside the folder that it is given. */
const SUBFOLDERS: Readonly<Record<string, string>> = { mnist: 'MNIST/raw', 'fashion-mnist': 'FashionMNIST/raw' };

/**
 * Images of 1 x 28 x 28 in ten classes; other sizes of images are taken as they are.
 * @param name 'mnist' or 'fashion-mnist'
 * @param folder with the files of the original names, or with torchvision's folders
 * @throws SisyphusError `file` for files that are not there, `data` for files that are not what they should be
 */
export async function openIdx(name: string, folder: string, options: DatasetOptions): Promise<Dataset> {
  const split = options.split ?? 'test';
  const imagesFile = await findFile(name, folder, `${PREFIX[split]}-images`, 'idx3-ubyte');
  const labelsFile = await findFile(name, folder, `${PREFIX[split]}-labels`, 'idx1-ubyte');
  const [length = 0, height = 0, width = 0] = await readHeader(imagesFile, IMAGES);
  if (length === 0) throw new SisyphusError('data', `${imagesFile}: holds no images`);
  if (!(height >= 1 && width >= 1 && height <= MAX_SIDE && width <= MAX_SIDE))
    throw new SisyphusError('data', `${imagesFile}: its header gives images of ${height} x ${width}; it is corrupt`);
  await checkSize(imagesFile, 16, length * height * width, `${length} images of ${height} x ${width}`);
  const [labelCount = 0] = await readHeader(labelsFile, LABELS);
  if (labelCount !== length)
    throw new SisyphusError(
      'data',
      `${labelsFile}: ${labelCount} labels for ${length} images in ${path.basename(imagesFile)}; take both from one split`,
    );
  await checkSize(labelsFile, 8, length, `${length} labels`);
  const labels = await readLabels(labelsFile, length);
  const records = {
    where: imagesFile,
    offset: 16,
    size: height * width,
    length,
    bytes: () => fileBytes(imagesFile),
  };
  return {
    name,
    source: folder,
    split,
    length,
    shape: [1, height, width],
    layout: 'chw',
    elem: 'uint8',
    classes: CLASSES,
    async *batches(options) {
      for await (const batch of recordBatches(records, options))
        yield { first: batch.first, count: batch.count, rows: batch.bytes, labels: labelsOf(batch, labels) };
    },
  };
}

async function findFile(name: string, folder: string, stem: string, suffix: string): Promise<string> {
  const kind = await kindOf(folder);
  if (kind === null) throw new SisyphusError('file', `${folder}: no such folder`);
  if (kind !== 'folder')
    throw new SisyphusError('file', `${folder}: is a file; ${name}: takes the folder with all files of the set`);
  const names = [`${stem}-${suffix}`, `${stem}.${suffix}`].flatMap((each) => [each, `${each}.gz`]);
  for (const sub of ['', 'raw', SUBFOLDERS[name] ?? ''])
    for (const candidate of names) {
      const file = path.join(folder, sub, candidate);
      if ((await kindOf(file)) === 'file') return file;
    }
  throw new SisyphusError(
    'file',
    `${folder}: holds no ${names[0]} (looked for ${names.join(', ')}, there, in raw and in ${SUBFOLDERS[name]})`,
  );
}

/** The dimensions. @throws SisyphusError `data` */
async function readHeader(file: string, wanted: number): Promise<number[]> {
  const [kind, other] = wanted === IMAGES ? ['images', 'labels'] : ['labels', 'images'];
  if ((await fileSize(file)) === 0) throw new SisyphusError('data', `${file}: is empty; download it again`);
  const reader = byteReader(fileBytes(file), file);
  try {
    const magic = new Uint8Array(4);
    await reader.fill(magic);
    const found = new DataView(magic.buffer).getUint32(0);
    const hex = `0x${found.toString(16).padStart(8, '0')}`;
    if (found === (wanted === IMAGES ? LABELS : IMAGES))
      throw new SisyphusError(
        'data',
        `${file}: holds ${other}, not ${kind} (magic ${hex}); the two files seem to be swapped`,
      );
    if (found !== wanted)
      throw new SisyphusError(
        'data',
        `${file}: is no IDX file of ${kind} (magic ${hex}, not 0x00000${wanted.toString(16)})`,
      );
    const dims = new Uint8Array(4 * (wanted & 0xff));
    await reader.fill(dims);
    const view = new DataView(dims.buffer);
    return Array.from({ length: wanted & 0xff }, (_, i) => view.getUint32(4 * i));
  } finally {
    await reader.close();
  }
}

/** Of a file that is not compressed; a compressed one shows its size only when it is read. */
async function checkSize(file: string, header: number, payload: number, content: string): Promise<void> {
  const [first, second] = await firstBytes(file, 2);
  if (first === 0x1f && second === 0x8b) return;
  const surplus = (await fileSize(file)) - header - payload;
  if (surplus !== 0)
    throw new SisyphusError(
      'data',
      `${file}: its header promises ${content} (${header + payload} bytes), but it is ${Math.abs(surplus)} bytes ${surplus < 0 ? 'shorter' : 'longer'}; download it again`,
    );
}

async function readLabels(file: string, length: number): Promise<Int32Array> {
  const reader = byteReader(fileBytes(file), file);
  try {
    const bytes = new Uint8Array(length);
    await reader.skip(8);
    await reader.fill(bytes);
    await reader.end();
    const wrong = bytes.findIndex((label) => label >= CLASSES);
    if (wrong >= 0)
      throw new SisyphusError(
        'data',
        `${file}: label ${bytes[wrong]} of row ${wrong} (byte ${8 + wrong}) is above ${CLASSES - 1}`,
      );
    return Int32Array.from(bytes);
  } finally {
    await reader.close();
  }
}
