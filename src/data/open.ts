/** Data sets by name: `--data NAME:PATH`. */
import { homedir } from 'node:os';
import { didYouMean, SisyphusError } from '../errors.ts';
import { makeRng } from '../rng.ts';
import { openCifar10, openCifar100 } from './cifar.ts';
import type { Dataset, DatasetOptions, Selection } from './dataset.ts';
import { openIdx } from './idx.ts';
import { openImageFolder } from './image-folder.ts';
import { openNpz } from './npz.ts';
import { resizeDataset } from './resize.ts';
import { openSynthetic } from './synthetic.ts';
import { openTinyImageNet } from './tiny-imagenet.ts';

export interface DataFormat {
  /** What PATH is, for people. */
  readonly path: string;
  readonly summary: string;
  /** The `--normalize` that networks for these data usually expect. */
  readonly normalize: string;
  /** Whether it brings images to `options.resize` while it decodes them. */
  readonly resizes?: boolean;
  open(path: string, options: DatasetOptions): Promise<Dataset>;
}

/** By NAME, in the order of help texts. */
export const DATA_FORMATS: ReadonlyMap<string, DataFormat> = new Map<string, DataFormat>([
  [
    'mnist',
    {
      path: 'FOLDER',
      summary: 'IDX files, gzipped or not (t10k-images-idx3-ubyte, …)',
      normalize: 'mnist',
      open: (path, options) => openIdx('mnist', path, options),
    },
  ],
  [
    'fashion-mnist',
    {
      path: 'FOLDER',
      summary: 'IDX files of the same names',
      normalize: 'fashion-mnist',
      open: (path, options) => openIdx('fashion-mnist', path, options),
    },
  ],
  [
    'cifar10',
    {
      path: 'FOLDER|FILE',
      summary: 'binary version: test_batch.bin, …, or cifar-10-binary.tar.gz as it is, or one .bin file',
      normalize: 'cifar10',
      open: openCifar10,
    },
  ],
  [
    'cifar100',
    {
      path: 'FOLDER|FILE',
      summary: 'binary version, fine labels: test.bin, …, or cifar-100-binary.tar.gz as it is',
      normalize: 'cifar100',
      open: openCifar100,
    },
  ],
  [
    'tiny-imagenet',
    {
      path: 'FOLDER',
      summary: 'tiny-imagenet-200, unpacked; its validation set is the test split',
      normalize: 'tiny-imagenet',
      resizes: true,
      open: openTinyImageNet,
    },
  ],
  [
    'imagefolder',
    {
      path: 'FOLDER',
      summary: 'one folder of images per class',
      normalize: 'imagenet',
      resizes: true,
      open: openImageFolder,
    },
  ],
  [
    'npz',
    {
      path: 'FILE|FOLDER',
      summary: 'NumPy arrays x [N,…] and y [N]: one .npz, x.npy beside y.npy, or a.npy beside a_labels.npy',
      normalize: 'mean=0,std=1', // bytes to 0..1, floating point as it is
      open: openNpz,
    },
  ],
  [
    'synthetic',
    {
      path: '[CxHxW]',
      summary: 'ten shapes on noisy ground, generated (1x28x28 by default); 20000 training and 4000 test images',
      normalize: 'mean=0.5,std=0.25',
      open: openSynthetic,
    },
  ],
]);

export interface DataSpec {
  readonly name: string;
  /** What follows the first colon; '' for nothing. */
  readonly path: string;
}

/** Parses `NAME:PATH`; the path may hold colons and spaces. @throws SisyphusError `spec` */
export function parseDataSpec(text: string): DataSpec {
  const [, name = '', rest = ''] = /^([^:]*):?(.*)$/s.exec(text) ?? [];
  const format = formatNamed(name, text);
  if (rest === '' && name !== 'synthetic')
    throw new SisyphusError('spec', `--data '${text}': no path; give ${name}:${format.path} (${format.summary})`);
  return { name, path: rest.replace(/^~(?=\/|$)/, homedir()) }; // no shell expands ~ after a colon
}

function formatNamed(name: string, text: string): DataFormat {
  const format = DATA_FORMATS.get(name);
  if (format) return format;
  throw new SisyphusError(
    'spec',
    `--data '${text}': no such data set; give NAME:PATH${didYouMean(name, [...DATA_FORMATS.keys()])}`,
  );
}

/** The `--normalize` that is usual for a data set. @throws SisyphusError `spec` for unknown names */
export const usualNormalize = (name: string): string => formatNamed(name, name).normalize;

/**
 * Opens `NAME:PATH` and checks as much as costs little; the rows are read by `batches`.
 * @throws SisyphusError `spec` for specs, `file` for files that are not there, `data` for files that are not what they
 * should be, `usage` for options that don't fit
 */
export async function openDataset(spec: string, options: DatasetOptions): Promise<Dataset> {
  const { name, path } = parseDataSpec(spec);
  const format = formatNamed(name, spec);
  const dataset = await format.open(path, options);
  return options.resize && !format.resizes ? resizeDataset(dataset, options.resize) : dataset;
}

/**
 * The first `limit` of `length` rows, or with a seed a random sample of that many; all rows without a limit.
 * @throws SisyphusError `usage`
 */
export function makeSelection(
  length: number,
  options: { readonly limit?: number | undefined; readonly seed?: number | undefined },
): Selection {
  const { limit = length, seed } = options;
  if (!Number.isInteger(limit) || limit < 0)
    throw new SisyphusError('usage', `a limit of ${limit} rows: it must be a whole number`);
  if (seed === undefined || limit >= length) return { count: Math.min(limit, length) };
  const rng = makeRng(seed);
  const indices = new Int32Array(limit);
  // Each row is taken with the chance that leaves every choice of `limit` rows equally likely (Knuth's algorithm S).
  for (let row = 0, taken = 0; taken < limit; row++)
    if (rng.uniform() * (length - row) < limit - taken) indices[taken++] = row;
  return { indices };
}
