/**
 * CIFAR-10 and CIFAR-100, binary version (https://www.cs.toronto.edu/~kriz/cifar.html): records of one label byte
 * (CIFAR-100: the coarse label, then the fine one), then the red, green and blue plane of 32 x 32 bytes.
 */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import { isTar, tarBytes, tarEntries } from './archives.ts';
import { type Bytes, fileBytes, fileSize, firstBytes, kindOf, textOf } from './bytes.ts';
import type { Dataset, DatasetOptions, Split } from './dataset.ts';
import { recordBatches, throwIfAborted } from './records.ts';

const PIXELS = 3 * 32 * 32;

interface Variant {
  readonly name: string;
  readonly title: string;
  /** How many values each label byte may take; the last one is the class. */
  readonly labels: readonly number[];
  readonly files: Readonly<Record<Split, readonly string[]>>;
  readonly classNames: string;
  readonly folder: string;
  readonly archive: string;
  /** What the pickled version, which only Python can read, calls its folder and files. */
  readonly pickled: readonly string[];
}

const CIFAR10: Variant = {
  name: 'cifar10',
  title: 'CIFAR-10',
  labels: [10],
  files: { train: [1, 2, 3, 4, 5].map((i) => `data_batch_${i}.bin`), test: ['test_batch.bin'] },
  classNames: 'batches.meta.txt',
  folder: 'cifar-10-batches-bin',
  archive: 'cifar-10-binary.tar',
  pickled: ['cifar-10-batches-py', 'cifar-10-python.tar.gz', 'test_batch'],
};

const CIFAR100: Variant = {
  name: 'cifar100',
  title: 'CIFAR-100',
  labels: [20, 100],
  files: { train: ['train.bin'], test: ['test.bin'] },
  classNames: 'fine_label_names.txt',
  folder: 'cifar-100-binary',
  archive: 'cifar-100-binary.tar',
  pickled: ['cifar-100-python', 'cifar-100-python.tar.gz', 'test'],
};

const recordSize = ({ labels }: Variant) => labels.length + PIXELS;

/** Images of 3 x 32 x 32 in ten classes. See `openCifar`. */
export const openCifar10 = (source: string, options: DatasetOptions) => openCifar(CIFAR10, CIFAR100, source, options);
/** Images of 3 x 32 x 32 in a hundred classes (the fine labels). See `openCifar`. */
export const openCifar100 = (source: string, options: DatasetOptions) => openCifar(CIFAR100, CIFAR10, source, options);

/**
 * @param source the folder with the files, or the folder around it, the archive (gzipped or not), or one file of records
 * @throws SisyphusError `file` for files that are not there, `data` for files that are not what they should be
 */
async function openCifar(variant: Variant, other: Variant, source: string, options: DatasetOptions): Promise<Dataset> {
  const { name, labels } = variant;
  const { split = 'test', signal } = options;
  const { parts, bytes, classNames } = await find(variant, other, source, split, signal);
  for (const part of parts) checkSize(part, variant, other);
  const size = recordSize(variant);
  const length = parts.reduce((sum, part) => sum + part.size, 0) / size;
  const classes = labels.at(-1) as number;
  const names = classNames?.split(/\r?\n/).filter((line) => line.trim() !== '');
  const records = { where: source, offset: 0, size, length, bytes };
  return {
    name,
    source,
    split,
    length,
    shape: [3, 32, 32],
    layout: 'chw',
    elem: 'uint8',
    classes,
    ...(names?.length === classes && { classNames: names }),
    async *batches(options) {
      for await (const { first, count, runs, bytes } of recordBatches(records, options)) {
        const rows = new Uint8Array(count * PIXELS);
        const labels = new Int32Array(count);
        let i = 0;
        for (const { start, end } of runs)
          for (let record = start; record < end; record++, i++) {
            labels[i] = readLabel(variant, other, bytes, i * size, () => placeOf(parts, record, size));
            rows.set(bytes.subarray((i + 1) * size - PIXELS, (i + 1) * size), i * PIXELS);
          }
        yield { first, count, rows, labels };
      }
    },
  };
}

function readLabel(variant: Variant, other: Variant, bytes: Uint8Array, at: number, place: () => string): number {
  let label = 0;
  for (const [i, values] of variant.labels.entries()) {
    label = bytes[at + i] as number;
    if (label >= values) {
      const which = variant.labels.length === 1 ? 'label' : i === 0 ? 'coarse label' : 'fine label';
      throw new SisyphusError(
        'data',
        `${place()}: ${which} ${label} is above ${values - 1}: the file is corrupt, or holds ${other.title} (${other.name}:) or something else`,
      );
    }
  }
  return label;
}

/** One file of records. */
interface Part {
  readonly where: string;
  /** In bytes. */
  readonly size: number;
}

interface Found {
  readonly parts: readonly Part[];
  /** All parts, one after the other. */
  readonly bytes: () => Bytes;
  /** The text of the file with the names. */
  readonly classNames: string | undefined;
}

function placeOf(parts: readonly Part[], record: number, size: number): string {
  let inPart = record;
  for (const part of parts) {
    if (inPart < part.size / size) return `${part.where}: record ${inPart} (byte ${inPart * size})`;
    inPart -= part.size / size;
  }
  return `record ${record}`;
}

function checkSize({ where, size }: Part, variant: Variant, other: Variant): void {
  const record = recordSize(variant);
  if (size === 0) throw new SisyphusError('data', `${where}: is empty; download it again`);
  const surplus = size % record;
  if (surplus === 0) return;
  throw new SisyphusError(
    'data',
    size % recordSize(other) === 0
      ? `${where}: its ${size} bytes are records of ${other.title}, not of ${variant.title}; give --data ${other.name}:PATH`
      : `${where}: its ${size} bytes are ${Math.floor(size / record)} records of ${record} bytes and ${surplus} bytes more; it is cut off or no ${variant.title} file`,
  );
}

async function find(
  variant: Variant,
  other: Variant,
  source: string,
  split: Split,
  signal: AbortSignal | undefined,
): Promise<Found> {
  const kind = await kindOf(source);
  if (kind === null) throw new SisyphusError('file', `${source}: no such file or folder`);
  if (kind !== 'folder') {
    if (await isTar(source)) return inArchive(variant, other, source, split, signal);
    const [first] = await firstBytes(source, 1);
    if (first === 0x80) throw pickled(variant, source); // the first byte of every pickle since protocol 2
    return inFiles(variant, [source]);
  }
  const names = variant.files[split];
  for (const folder of [source, path.join(source, variant.folder)]) {
    const held = new Set(await namesIn(folder));
    const missing = names.filter((name) => !held.has(name));
    if (missing.length === 0)
      return inFiles(
        variant,
        names.map((name) => path.join(folder, name)),
      );
    if (missing.length < names.length) throw new SisyphusError('file', `${folder}: lacks ${missing.join(', ')}`);
  }
  const held = await namesIn(source);
  const archive = [`${variant.archive}.gz`, variant.archive].find((name) => held.includes(name));
  if (archive) return inArchive(variant, other, path.join(source, archive), split, signal);
  const pickle = variant.pickled.find((name) => held.includes(name));
  if (pickle) throw pickled(variant, path.join(source, pickle));
  if ([...other.files[split], other.folder, `${other.archive}.gz`].some((name) => held.includes(name)))
    throw mistaken(other, source);
  throw new SisyphusError(
    'file',
    `${source}: holds no ${split} files of ${variant.title}: looked for ${names.join(', ')}, there and in ${variant.folder}, and for ${variant.archive}.gz`,
  );
}

/** None where there is no such folder. */
async function namesIn(folder: string): Promise<string[]> {
  if ((await kindOf(folder)) !== 'folder') return [];
  return readdir(folder).catch((cause) => {
    throw fileError(folder, cause);
  });
}

async function inFiles(variant: Variant, files: readonly string[]): Promise<Found> {
  const parts = await Promise.all(files.map(async (where) => ({ where, size: await fileSize(where) })));
  const names = path.join(path.dirname(files[0] ?? ''), variant.classNames);
  return {
    parts,
    async *bytes() {
      for (const file of files) yield* fileBytes(file);
    },
    classNames: (await kindOf(names)) === 'file' ? await textOf(fileBytes(names)) : undefined,
  };
}

/** Reads the archive once to see what it holds. */
async function inArchive(
  variant: Variant,
  other: Variant,
  archive: string,
  split: Split,
  signal: AbortSignal | undefined,
): Promise<Found> {
  const names = variant.files[split];
  const found = new Map<string, { name: string; size: number }>();
  let classNames: string | undefined;
  for await (const { name, size, bytes } of tarEntries(archive)) {
    throwIfAborted(signal);
    const file = path.posix.basename(name);
    found.set(file, { name, size });
    if (file === variant.classNames && size < 2 ** 16) classNames = await textOf(bytes());
  }
  const missing = names.filter((name) => !found.has(name));
  if (missing.length > 0) {
    if (variant.pickled.some((name) => found.has(name))) throw pickled(variant, archive);
    if (other.files[split].some((name) => found.has(name))) throw mistaken(other, archive);
    const held = [...found.keys()].slice(0, 10).join(', ') || 'nothing';
    throw new SisyphusError('data', `${archive}: lacks ${missing.join(', ')}; it holds ${held}`);
  }
  const entries = names.map((name) => found.get(name) ?? { name, size: 0 });
  return {
    parts: entries.map(({ name, size }) => ({ where: `${archive}: ${name}`, size })),
    bytes: () =>
      tarBytes(
        archive,
        entries.map(({ name }) => name),
      ),
    classNames,
  };
}

const mistaken = ({ name, title }: Variant, where: string) =>
  new SisyphusError('data', `${where}: holds ${title}; give --data ${name}:${where}`);

const pickled = ({ title, archive }: Variant, where: string) =>
  new SisyphusError(
    'data',
    `${where}: is the Python version of ${title}, which is pickled; get the binary version, ${archive}.gz`,
  );
