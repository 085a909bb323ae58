/** Tiny-ImageNet as Stanford's CS231n publishes it: 200 classes, 64x64, 100,000 training and 10,000 validation images. */
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import type { Dataset, DatasetOptions } from './dataset.ts';
import { type ImageFile, imagesByClass, openImages } from './image-files.ts';

/**
 * Opens the folder `tiny-imagenet-200`, or the one that holds it. Labels are positions in the sorted list of wnids.txt,
 * as for torchvision's ImageFolder (the file itself is not sorted). Training images go round-robin over the classes;
 * the split 'test' is the validation set, in the order of val_annotations.txt, because the official test set has no
 * labels. A validation set that a script has sorted into val/WNID/ or val/images/WNID/ goes round-robin as well.
 * @throws SisyphusError `file` for what is missing, `data` for annotations that disagree with the images (file and line),
 * and what `openImages` throws
 */
export async function openTinyImageNet(source: string, options: DatasetOptions = {}): Promise<Dataset> {
  const { split = 'test' } = options;
  const nested = path.join(source, 'tiny-imagenet-200');
  const root = existsSync(nested) ? nested : source;
  const wnids = await readWnids(path.join(root, 'wnids.txt'));
  const images = await (split === 'train' ? imagesByClass(folder(root, 'train'), wnids) : validation(root, wnids));
  const classNames = await readNames(path.join(root, 'words.txt'), wnids);
  return openImages({ name: 'tiny-imagenet', source, split, classNames }, images, options);
}

async function readWnids(file: string): Promise<string[]> {
  const wnids = (await readLines(file, '; give the unpacked folder tiny-imagenet-200')).filter(Boolean).sort();
  if (wnids.length === 0) throw new SisyphusError('data', `${file}: is empty; unpack the archive again`);
  return wnids;
}

function folder(root: string, name: string): string {
  const found = path.join(root, name);
  if (existsSync(found)) return found;
  const why = name === 'val' ? '; it serves as the test set, because the images in test/ have no labels' : '';
  throw new SisyphusError('file', `${found}: no such folder${why}; unpack the archive again`);
}

async function validation(root: string, wnids: readonly string[]): Promise<ImageFile[]> {
  const val = folder(root, 'val');
  const sorted = [val, path.join(val, 'images')].find((at) => wnids.some((wnid) => existsSync(path.join(at, wnid))));
  return sorted ? imagesByClass(sorted, wnids) : annotated(val, wnids);
}

/** Lines of val_annotations.txt: file, wnid and a box, separated by tabs. */
async function annotated(val: string, wnids: readonly string[]): Promise<ImageFile[]> {
  const file = path.join(val, 'val_annotations.txt');
  const images = path.join(val, 'images');
  const there = new Set(
    await readdir(images).catch((cause) => {
      throw fileError(images, cause);
    }),
  );
  const label = new Map(wnids.map((wnid, i) => [wnid, i]));
  const complain = (line: number, what: string) =>
    new SisyphusError('data', `${file}, line ${line + 1}: ${what}; unpack the archive again`);
  const annotations = (await readLines(file)).flatMap((line, at) => {
    if (line === '') return [];
    const [name, wnid] = line.split('\t');
    if (!name || !wnid)
      throw complain(at, `expected a file and a class, separated by a tab, not '${line.slice(0, 80)}'`);
    const index = label.get(wnid);
    if (index === undefined) throw complain(at, `the class '${wnid}' of ${name} is not in wnids.txt`);
    if (!there.delete(name)) throw complain(at, `${path.join(images, name)} does not exist, or is listed twice`);
    return [{ file: path.join(images, name), label: index }];
  });
  const [left] = [...there].filter((name) => /^[^.].*\.jpe?g$/i.test(name));
  if (left !== undefined)
    throw new SisyphusError('data', `${path.join(images, left)}: has no line in ${file}; unpack the archive again`);
  return annotations;
}

/** What words.txt calls the classes, one 'wnid TAB names' per line; the wnids themselves where it is absent. */
async function readNames(file: string, wnids: readonly string[]): Promise<string[]> {
  const lines = existsSync(file) ? await readLines(file) : [];
  const words = new Map(lines.map((line) => line.split('\t') as [string, string | undefined]));
  return wnids.map((wnid) => words.get(wnid) ?? wnid);
}

async function readLines(file: string, hint = ''): Promise<string[]> {
  const text = await readFile(file, 'utf8').catch((cause) => {
    const { code, message } = fileError(file, cause);
    throw new SisyphusError(code, `${message}${hint}`, { cause });
  });
  return text.split('\n').map((line) => line.trim());
}
