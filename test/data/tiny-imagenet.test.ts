import { cpSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.ts';
import { openTinyImageNet } from '../../src/data/tiny-imagenet.ts';

const base = mkdtempSync(path.join(tmpdir(), 'sisyphus tiny '));
afterAll(() => rmSync(base, { recursive: true }));
const pristine = path.join(base, 'pristine/tiny-imagenet-200');
let root = '';
let count = 0;

// Three classes of which the file does not list the first one first, as in the real one.
const WNIDS = ['n02124075', 'n01443537', 'n04067472'];
/** File, class and grey value of the validation images. */
const VAL = [
  ['val_0.JPEG', 'n04067472', 30],
  ['val_1.JPEG', 'n01443537', 60],
  ['val_2.JPEG', 'n01443537', 90],
  ['val_3.JPEG', 'n02124075', 120],
] as const;

beforeAll(async () => {
  const write = async (file: string, value: number, channels: 1 | 3) => {
    const target = path.join(pristine, file);
    mkdirSync(path.dirname(target), { recursive: true });
    const raw = { width: 64, height: 64, channels };
    const image = sharp(Buffer.alloc(64 * 64 * channels, value), { raw });
    await (channels === 1 ? image.toColourspace('b-w') : image).jpeg().toFile(target);
  };
  for (const [at, wnid] of WNIDS.entries())
    for (let i = 0; i < 2; i++)
      await write(`train/${wnid}/images/${wnid}_${i}.JPEG`, 50 * at + 10 * i, i === 0 ? 1 : 3);
  for (const [file, , value] of VAL) await write(`val/images/${file}`, value, 3);
  const annotations = VAL.map(([file, wnid]) => `${file}\t${wnid}\t0\t32\t44\t62\n`).join('');
  writeFileSync(path.join(pristine, 'val/val_annotations.txt'), annotations);
  writeFileSync(path.join(pristine, 'wnids.txt'), `${WNIDS.join('\n')}\n`);
  const words = 'n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\n';
  writeFileSync(path.join(pristine, 'words.txt'), words);
});

beforeEach(() => {
  root = path.join(base, `${count++}`, 'tiny-imagenet-200');
  cpSync(pristine, root, { recursive: true });
});

/** [label, grey value to the nearest 10] of all rows. */
async function rows(dataset: Dataset): Promise<[number | undefined, number][]> {
  const seen: [number | undefined, number][] = [];
  for await (const { labels, rows, count } of dataset.batches({ size: 3 }))
    for (let i = 0; i < count; i++) seen.push([labels?.[i], Math.round((rows[i * 3 * 64 * 64] ?? 0) / 10) * 10]);
  return seen;
}

const message = async (split: 'train' | 'test' = 'test', source = root): Promise<string> =>
  openTinyImageNet(source, { split }).then(
    () => 'no error',
    (error) => `${error.code}: ${error.message}`.replaceAll(base, ''),
  );

it('reads the training set round-robin, with classes in sorted order', async () => {
  const dataset = await openTinyImageNet(root, { split: 'train' });
  expect(dataset).toMatchObject({ name: 'tiny-imagenet', length: 6, shape: [3, 64, 64], classes: 3, split: 'train' });
  expect(dataset.classNames).toEqual(['goldfish, Carassius auratus', 'Egyptian cat', 'n04067472']);
  expect(await rows(dataset)).toEqual([
    [0, 50],
    [1, 0],
    [2, 100],
    [0, 60],
    [1, 10],
    [2, 110],
  ]);
});

it('takes the validation set for the test set, in the order of the annotations; the parent folder will do', async () => {
  const dataset = await openTinyImageNet(path.dirname(root));
  expect(await rows(dataset)).toEqual(VAL.map(([, wnid, value]) => [[...WNIDS].sort().indexOf(wnid), value]));
});

it.each(['val', 'val/images'])('reads a validation set sorted into %s/WNID/', async (where) => {
  for (const [file, wnid] of VAL) {
    mkdirSync(path.join(root, where, wnid), { recursive: true });
    renameSync(path.join(root, 'val/images', file), path.join(root, where, wnid, file));
  }
  expect(await rows(await openTinyImageNet(root))).toEqual([
    [0, 60],
    [1, 120],
    [2, 30],
    [0, 90],
  ]);
});

it('does without words.txt', async () => {
  rmSync(path.join(root, 'words.txt'));
  expect((await openTinyImageNet(root)).classNames).toEqual([...WNIDS].sort());
});

it('names what is missing or disagrees', async () => {
  const annotations = path.join(root, 'val/val_annotations.txt');
  const annotate = (text: string) => writeFileSync(annotations, text);
  annotate('val_0.JPEG\tn04067472\t0\n\nval_1.JPEG n01443537\n');
  expect(await message()).toMatch(/^data: .*val_annotations\.txt, line 3: expected a file and a class, separated by a/);
  annotate('val_0.JPEG\tn00000000\t0\n');
  expect(await message()).toMatch(/line 1: the class 'n00000000' of val_0\.JPEG is not in wnids\.txt/);
  annotate('val_0.JPEG\tn04067472\nval_9.JPEG\tn04067472\n');
  expect(await message()).toMatch(/line 2: .*images\/val_9\.JPEG does not exist, or is listed twice; unpack/);
  annotate('val_0.JPEG\tn04067472\nval_0.JPEG\tn04067472\n');
  expect(await message()).toMatch(/line 2: .*listed twice/);
  annotate('val_0.JPEG\tn04067472\r\n');
  expect(await message()).toMatch(/^data: .*val_1\.JPEG: has no line in .*val_annotations\.txt/);
  rmSync(annotations);
  expect(await message()).toMatch(/^file: .*val_annotations\.txt: no such file/);

  rmSync(path.join(root, 'train', WNIDS[0] as string), { recursive: true });
  expect(await message('train')).toMatch(/^file: .*n02124075: no such file or folder/);
  mkdirSync(path.join(root, 'train', WNIDS[0] as string, 'images'), { recursive: true });
  expect(await message('train')).toMatch(/^data: .*n02124075: this class has no images/);

  renameSync(path.join(root, 'val'), path.join(root, 'test'));
  expect(await message()).toMatch(
    /^file: .*val: no such folder; it serves as the test set, because the images in test/,
  );
  rmSync(path.join(root, 'wnids.txt'));
  expect(await message()).toMatch(
    /^file: .*wnids\.txt: no such file or folder; give the unpacked folder tiny-imagenet/,
  );
  expect(existsSync(root)).toBe(true);
});
