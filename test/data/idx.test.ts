import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { beforeEach, describe, expect, it } from 'vitest';
import { openIdx } from '../../src/data/idx.ts';
import { makeRng } from '../../src/rng.ts';
import { sharedData, sharedDataMissing } from '../support/data.ts';
import { expectCloses, expectSelections, failure, failureOf, readAll, survey } from '../support/datasets.ts';
import { testFolder } from '../support/folder.ts';

const { base, fresh } = testFolder('idx');
let root = '';
beforeEach(() => {
  root = fresh();
});

const IMAGES = 't10k-images-idx3-ubyte';
const LABELS = 't10k-labels-idx1-ubyte';

function idx(magic: number, dims: readonly number[], bytes: Uint8Array): Buffer {
  const header = Buffer.alloc(4 + 4 * dims.length);
  header.writeUInt32BE(magic);
  for (const [i, dim] of dims.entries()) header.writeUInt32BE(dim, 4 + 4 * i);
  return Buffer.concat([header, bytes]);
}

const rng = makeRng(1);
const PIXELS = Uint8Array.from({ length: 11 * 3 * 2 }, () => rng.int(256));
const CLASSES = Uint8Array.of(0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 0);
const images = idx(0x803, [11, 3, 2], PIXELS);
const labels = idx(0x801, [11], CLASSES);
const ROWS = Array.from({ length: 11 }, (_, i) => [...PIXELS.subarray(6 * i, 6 * i + 6)]);
const EXPECTED = { rows: ROWS, labels: [...CLASSES], counts: [], firsts: [] };

const save = (name: string, bytes: Uint8Array) => {
  mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
  writeFileSync(path.join(root, name), bytes);
};
const open = () => openIdx('mnist', root, {});
const failed = async () => (await failureOf(open)).replace(root, 'ROOT');

describe.skipIf(sharedDataMissing)('MNIST', () => {
  it('has the rows and labels of its files, gzipped or not', async () => {
    const folder = path.join(sharedData('mnist'), 'mnist');
    const dataset = await openIdx('mnist', folder, {});
    expect(dataset).toMatchObject({
      name: 'mnist',
      source: folder,
      split: 'test',
      length: 10_000,
      shape: [1, 28, 28],
      layout: 'chw',
      elem: 'uint8',
      classes: 10,
    });
    const found = await survey(dataset);
    expect(found.histogram).toEqual([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
    for (const name of [IMAGES, LABELS]) save(name, gunzipSync(readFileSync(path.join(folder, `${name}.gz`))));
    expect(found.first).toEqual([...readFileSync(path.join(root, IMAGES)).subarray(16, 16 + 784)]);
    expect(await survey(await open())).toEqual(found);
    const some = { select: { indices: Int32Array.of(0, 4567, 9999) } };
    expect(await readAll(await open(), some)).toEqual(await readAll(dataset, some));
  });

  it('has 60,000 training rows', async () => {
    const dataset = await openIdx('mnist', path.join(sharedData('mnist'), 'mnist'), { split: 'train' });
    expect(dataset).toMatchObject({ split: 'train', length: 60_000 });
    const { histogram } = await survey(dataset);
    expect(histogram).toEqual([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]); // Y. LeCun's files
  });
});

describe('rows', () => {
  it.each([
    ['as published', IMAGES, LABELS, false],
    ['gzipped', `${IMAGES}.gz`, `${LABELS}.gz`, true],
    ['gzipped without the ending', IMAGES, LABELS, true],
    ['with dots for dashes', 't10k-images.idx3-ubyte', 't10k-labels.idx1-ubyte', false],
    ["in torchvision's folders", `MNIST/raw/${IMAGES}`, `MNIST/raw/${LABELS}`, false],
    ['in raw', `raw/${IMAGES}.gz`, `raw/${LABELS}`, true],
  ])('are those selected: %s', async (_, imagesName, labelsName, gzip) => {
    const packed = (bytes: Uint8Array) => (gzip ? gzipSync(bytes) : bytes);
    save(imagesName, packed(images));
    save(labelsName, packed(labels));
    const dataset = await open();
    expect(dataset).toMatchObject({ length: 11, shape: [1, 3, 2] });
    await expectSelections(dataset, EXPECTED, 30);
    await expectCloses(dataset, base);
  });

  it('of the training split come from its files', async () => {
    save('train-images-idx3-ubyte', images);
    save('train-labels-idx1-ubyte', labels);
    expect((await openIdx('fashion-mnist', root, { split: 'train' })).length).toBe(11);
    expect(await failed()).toMatch(/^file: ROOT: holds no t10k-images-idx3-ubyte \(looked for .*\.gz/);
  });

  it('come from a file of several gzip members', async () => {
    save(IMAGES, Buffer.concat([gzipSync(images.subarray(0, 30)), gzipSync(images.subarray(30))]));
    save(LABELS, labels);
    expect((await readAll(await open())).rows).toEqual(ROWS);
  });
});

describe('what is wrong is named', () => {
  it('folders and missing files', async () => {
    expect(await failure(() => openIdx('mnist', path.join(root, 'none'), {}))).toMatch(
      /^file: .*none: no such folder$/,
    );
    save(IMAGES, images);
    expect(await failure(() => openIdx('mnist', path.join(root, IMAGES), {}))).toMatch(
      /^file: .*ubyte: is a file; mnist: takes the folder/,
    );
    expect(await failed()).toMatch(/^file: ROOT: holds no t10k-labels-idx1-ubyte \(looked for/);
    save(LABELS, labels);
    const dataset = await open();
    rmSync(path.join(root, IMAGES));
    expect(await failure(() => readAll(dataset))).toMatch(/^file: .*t10k-images-idx3-ubyte: no such file/);
  });

  it.each([
    ['empty images', Buffer.alloc(0), labels, /^data: ROOT\/t10k-images-idx3-ubyte: is empty; download/],
    ['empty labels', images, Buffer.alloc(0), /^data: ROOT\/t10k-labels-idx1-ubyte: is empty; download/],
    ['gzipped nothing', gzipSync(''), labels, /^data: ROOT\/t10k-images.*: ends after 0 bytes.*cut off/],
    ['swapped files', labels, images, /^data: ROOT\/t10k-images.*: holds labels, not images .*swapped/],
    ['labels twice', labels, labels, /^data: ROOT\/t10k-images.*: holds labels/],
    ['images twice', images, images, /^data: ROOT\/t10k-labels.*: holds images, not labels/],
    ['half a header', images.subarray(0, 10), labels, /^data: ROOT\/t10k-images.*: ends after/],
    ['text', Buffer.from('<html>404</html>'), labels, /^data: .*: is no IDX file of images \(magic 0x3c68746d, not/],
    ['floats', idx(0xd03, [11, 3, 2], PIXELS), labels, /^data: .*: is no IDX file of images \(magic 0x00000d03/],
    ['no rows', idx(0x803, [0, 3, 2], Buffer.alloc(0)), labels, /^data: ROOT\/t10k-images.*: holds no images/],
    ['no width', idx(0x803, [11, 3, 0], Buffer.alloc(0)), labels, /^data: .*: its header gives images of 3 x 0/],
    ['vast images', idx(0x803, [11, 2 ** 31, 2], PIXELS), labels, /^data: .* images of 2147483648 x 2; it is corrupt/],
    [
      'a row too few',
      idx(0x803, [11, 3, 2], PIXELS.subarray(6)),
      labels,
      /^data: .*82 bytes\), but it is 6 bytes short/,
    ],
    ['a byte too many', Buffer.concat([images, Buffer.of(0)]), labels, /^data: .*t10k-images.*1 bytes longer/],
    ['a label too few', images, idx(0x801, [10], CLASSES.subarray(1)), /^data: .*10 labels for 11 images in t10k-im/],
    [
      'a label cut off',
      images,
      labels.subarray(0, -1),
      /^data: ROOT\/t10k-labels.*19 bytes\), but it is 1 bytes short/,
    ],
    ['labels and more', images, Buffer.concat([labels, labels]), /^data: ROOT\/t10k-labels.*19 bytes longer/],
    [
      'a wrong label',
      images,
      idx(0x801, [11], CLASSES.with(4, 10)),
      /^data: .*label 10 of row 4 \(byte 12\) is above 9/,
    ],
    ['cut off gzip', gzipSync(images).subarray(0, -12), labels, /^data: ROOT\/t10k-images.*compressed data end too e/],
    ['cut off gzip of labels', images, gzipSync(labels).subarray(0, -9), /^data: ROOT\/t10k-labels.*compressed data/],
    ['a row too few in gzip', gzipSync(images.subarray(0, -6)), labels, /^data: ROOT\/t10k-images.*ends after 76 byt/],
    ['a byte too many in gzip', gzipSync(Buffer.concat([images, labels])), labels, /^data: .*more bytes follow after/],
    ['labels and more in gzip', images, gzipSync(Buffer.concat([labels, labels])), /^data: .*more bytes follow after/],
  ])('%s', async (_, imageBytes, labelBytes, expected) => {
    save(IMAGES, imageBytes);
    save(LABELS, labelBytes);
    expect(await failed()).toMatch(expected);
  });

  it('any corrupt byte of a gzipped file', async () => {
    save(LABELS, labels);
    const whole = gzipSync(images);
    for (let at = 10; at < whole.length; at += 4) {
      const bytes = Buffer.from(whole);
      bytes[at] = (bytes[at] ?? 0) ^ 0x55;
      save(IMAGES, bytes);
      expect(await failed()).toMatch(/^data: ROOT\/t10k-images-idx3-ubyte: .+/);
    }
  });

  it('a header in gzip that promises images too large for memory', async () => {
    save(IMAGES, gzipSync(idx(0x803, [500, 4096, 4096], PIXELS)));
    save(LABELS, idx(0x801, [500], new Uint8Array(500)));
    expect(await failureOf(open, { size: 500 })).toMatch(
      /^data: .*t10k-images.*500 rows of 16777216 bytes are too large for one batch; take smaller/,
    );
    expect(await failureOf(open, { size: 1 })).toMatch(/^data: .*t10k-images.*ends after 82 bytes/);
  });
});
