/** Image files as a data set: what folders of images and Tiny-ImageNet share. */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import type { Batch, BatchOptions, Dataset, DatasetOptions } from './dataset.ts';
import { copyPlanes, type Decode, makeDecoder, type Pixels } from './decode-image.ts';
import { planBatches, throwIfAborted } from './records.ts';

export interface ImageFile {
  readonly file: string;
  readonly label: number;
}

type Described = Pick<Dataset, 'name' | 'source' | 'split'> & { readonly classNames: readonly string[] };

const READABLE = ['.jpg', '.jpeg', '.png', '.webp', '.gif', '.tif', '.tiff', '.avif'];
const UNREADABLE = ['.bmp', '.ppm', '.pgm', '.jp2', '.jxl', '.heic'];

/** For messages: the endings that count as images. */
export const IMAGE_ENDINGS = READABLE.join(' ');

/**
 * Rows 'chw' of 8 bits, in the order of `images`, with three channels, or one with `options.channels`. The first image
 * is decoded at once: it gives the shape where `options.resize` does not.
 * @throws SisyphusError `data` for images that cannot be decoded or whose sizes differ, `file` for missing ones
 */
export async function openImages(
  described: Described,
  images: readonly ImageFile[],
  options: DatasetOptions,
): Promise<Dataset> {
  const { resize, channels = 3 } = options;
  if (resize && 'crop' in resize && resize.crop > resize.short)
    throw new SisyphusError('usage', `--resize: cannot crop ${resize.crop} out of a shorter side of ${resize.short}`);
  const [sample] = images;
  if (!sample) throw new SisyphusError('data', `${described.source}: there are no images (${IMAGE_ENDINGS})`);
  const decode = await makeDecoder(resize);
  const { height, width } = await decode(sample.file);
  const shape = resize && 'crop' in resize ? [channels, resize.crop, resize.crop] : [channels, height, width];
  return {
    ...described,
    length: images.length,
    shape,
    layout: 'chw',
    elem: 'uint8',
    classes: described.classNames.length,
    batches: (wanted) => batches(images, { shape, decode, resized: resize !== undefined, sample: sample.file }, wanted),
  };
}

/** Decodes one batch ahead of the consumer; memory holds at most two. */
async function* batches(images: readonly ImageFile[], target: Target, options: BatchOptions): AsyncGenerator<Batch> {
  const plans = planBatches(images.length, options);
  const decodeNext = () => {
    const { value: plan, done } = plans.next();
    if (done) return null;
    const chosen = plan.runs.flatMap(({ start, end }) => images.slice(start, end));
    const batch = decodeBatch(chosen, plan.first, target);
    batch.catch(() => {}); // awaited below, or dropped with the generator
    return batch;
  };
  let ahead = decodeNext();
  while (ahead) {
    const batch = ahead;
    ahead = decodeNext();
    throwIfAborted(options.signal);
    yield await batch;
  }
}

/** What every image becomes. */
interface Target {
  readonly shape: readonly number[];
  readonly decode: Decode;
  readonly resized: boolean;
  /** The file that gave the shape. */
  readonly sample: string;
}

async function decodeBatch(images: readonly ImageFile[], first: number, target: Target): Promise<Batch> {
  const size = target.shape.reduce((product, dim) => product * dim, 1);
  const rows = new Uint8Array(images.length * size);
  const decodes = images.map(async ({ file }, i) => {
    const image = await target.decode(file);
    checkSize(file, image, target);
    copyPlanes(image, target.shape, rows.subarray(i * size, (i + 1) * size));
  });
  // All of them, so that it is the first bad file in the order of the rows that is named.
  const failed = (await Promise.allSettled(decodes)).find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
  return { first, count: images.length, rows, labels: Int32Array.from(images, ({ label }) => label) };
}

function checkSize(file: string, { height, width }: Pixels, { shape, resized, sample }: Target): void {
  if (resized || (height === shape[1] && width === shape[2])) return;
  const [first, other] = [`${shape[1]}x${shape[2]}`, `${height}x${width}`];
  throw new SisyphusError(
    'data',
    `${file}: is ${other} (height x width), but ${sample} is ${first}; give --resize ${first}, or another size`,
  );
}

/**
 * The image files in a folder and below it, sorted; other and hidden files don't count.
 * @throws SisyphusError `data` for images of a kind that cannot be decoded, `file`
 */
export async function listImages(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true }).catch((cause) => {
    throw fileError(folder, cause);
  });
  const visible = entries.filter((entry) => !entry.split(path.sep).some((part) => part.startsWith('.')));
  const ending = (entry: string) => path.extname(entry).toLowerCase();
  const odd = visible.find((entry) => UNREADABLE.includes(ending(entry)));
  if (odd)
    throw new SisyphusError(
      'data',
      `${path.join(folder, odd)}: ${ending(odd)} files cannot be decoded; convert them to one of ${IMAGE_ENDINGS}`,
    );
  return visible
    .filter((entry) => READABLE.includes(ending(entry)))
    .sort()
    .map((entry) => path.join(folder, entry));
}

/**
 * The images of one folder per class, round-robin: the first of each class, then the second of each, …, so that the
 * first rows of a data set are balanced.
 * @throws SisyphusError `data` for a class without images
 */
export async function imagesByClass(root: string, classes: readonly string[]): Promise<ImageFile[]> {
  const lists = await Promise.all(classes.map((name) => listImages(path.join(root, name))));
  const empty = lists.findIndex((files) => files.length === 0);
  if (empty >= 0)
    throw new SisyphusError(
      'data',
      `${path.join(root, classes[empty] as string)}: this class has no images (${IMAGE_ENDINGS}); add some, or take the folder away`,
    );
  const longest = Math.max(0, ...lists.map((files) => files.length));
  return Array.from({ length: longest }, (_, i) =>
    lists.flatMap((files, label) => (i < files.length ? [{ file: files[i] as string, label }] : [])),
  ).flat();
}
