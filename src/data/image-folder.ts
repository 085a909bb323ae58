/** A folder of images with one folder per class, as torchvision's ImageFolder reads it. */
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import type { Dataset, DatasetOptions, Split } from './dataset.ts';
import { IMAGE_ENDINGS, imagesByClass, listImages, openImages } from './image-files.ts';

/** Folders that hold a split, best first. */
const FOLDERS: Record<Split, readonly string[]> = { train: ['train'], test: ['test', 'val', 'validation', 'valid'] };

/**
 * Opens PATH/CLASS/**, or PATH/train/CLASS/** and PATH/test/CLASS/** (or val/, validation/, valid/), of which
 * `options.split` (default: test) picks one; a folder without splits serves either. Classes are the sorted folder names
 * (those of train/ where there is one). Rows go round-robin over the classes, so that the first ones are balanced; how
 * pixels are decoded is said in `decode-image.ts`.
 * @throws SisyphusError `file` for what cannot be read, `data` for folders without classes or images, a class of the test
 * set that the training set has not, and images that are corrupt or differ in size
 */
export async function openImageFolder(source: string, options: DatasetOptions = {}): Promise<Dataset> {
  const { split = 'test' } = options;
  const folders = await subfolders(source);
  const root = hasSplits(folders) ? path.join(source, splitFolder(source, folders, split)) : source;
  const own = root === source ? folders : await subfolders(root);
  if (own.length === 0) throw await noClasses(root);
  const classNames = root !== source && folders.includes('train') ? await subfolders(path.join(source, 'train')) : own;
  const unknown = own.find((name) => !classNames.includes(name));
  if (unknown !== undefined)
    throw new SisyphusError(
      'data',
      `${path.join(root, unknown)}: ${path.join(source, 'train')} has no such class, so labels would not agree; rename or remove the folder`,
    );
  const images = await imagesByClass(root, own);
  const labels = own.map((name) => classNames.indexOf(name));
  return openImages(
    { name: 'imagefolder', source, split, classNames },
    images.map(({ file, label }) => ({ file, label: labels[label] as number })),
    options,
  );
}

/** A class may be called 'train' as well, so a lone one among others is no split. */
function hasSplits(folders: readonly string[]): boolean {
  const tests = FOLDERS.test.filter((name) => folders.includes(name));
  const splits = tests.length + (folders.includes('train') ? 1 : 0);
  return splits > 0 && ((tests.length > 0 && folders.includes('train')) || splits === folders.length);
}

function splitFolder(source: string, folders: readonly string[], split: Split): string {
  const found = FOLDERS[split].find((name) => folders.includes(name));
  if (found) return found;
  throw new SisyphusError(
    'data',
    `${source}: has no folder ${FOLDERS[split].map((name) => `${name}/`).join(' or ')} for the split '${split}', only ${folders.map((name) => `${name}/`).join(', ')}; give --split, or the folder itself`,
  );
}

/** Names of the folders in a folder, sorted; hidden ones don't count, links to folders do. */
async function subfolders(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    const folders = await Promise.all(
      entries
        .filter(({ name }) => !name.startsWith('.'))
        .map(async (entry) => {
          const linked = entry.isSymbolicLink() && (await stat(path.join(folder, entry.name))).isDirectory();
          return entry.isDirectory() || linked ? [entry.name] : [];
        }),
    );
    return folders.flat().sort();
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOTDIR')
      throw new SisyphusError('file', `${folder}: is a file; give the folder that holds one folder per class`);
    throw fileError(folder, cause);
  }
}

async function noClasses(root: string): Promise<SisyphusError> {
  const images = await listImages(root);
  return new SisyphusError(
    'data',
    images.length > 0
      ? `${root}: has images but no folders; put the images of each class into a folder of its own, which gives the labels`
      : `${root}: has neither folders nor images (${IMAGE_ENDINGS}); expected one folder per class`,
  );
}
