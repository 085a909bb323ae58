import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import sharp from 'sharp';
import { beforeEach, describe, expect, it } from 'vitest';
import type { Batch, BatchOptions, Dataset } from '../../src/data/dataset.ts';
import { openImageFolder } from '../../src/data/image-folder.ts';
import { resizeDataset } from '../../src/data/resize.ts';
import { makeRng } from '../../src/rng.ts';
import { testFolder } from '../support/folder.ts';

const { base, fresh } = testFolder('images');
let root = '';
beforeEach(() => {
  root = fresh();
});

type Raw = { readonly width: number; readonly height: number; readonly channels: 1 | 2 | 3 | 4 };

async function save(name: string, data: Uint8Array | Uint16Array, raw: Raw, space = 'srgb'): Promise<string> {
  const file = path.join(root, name);
  mkdirSync(path.dirname(file), { recursive: true });
  const image = sharp(data, { raw }).toColourspace(space);
  await image.toFormat(/jpe?g$/i.test(name) ? 'jpeg' : /webp$/i.test(name) ? 'webp' : 'png').toFile(file);
  return file;
}

/** One colour all over: (value, value + 1, value + 2). */
const flat = (name: string, value: number, height = 2, width = 3) =>
  save(
    name,
    Uint8Array.from({ length: height * width * 3 }, (_, i) => value + (i % 3)),
    { width, height, channels: 3 },
  );

async function read(dataset: Dataset, options: Partial<BatchOptions> = {}): Promise<Batch[]> {
  const batches = [];
  for await (const batch of dataset.batches({ size: 4, ...options })) batches.push(batch);
  return batches;
}

const message = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'no error',
    (error) => `${error.code}: ${error.message}`.replaceAll(base, ''),
  );

describe('classes, splits and order', () => {
  it('takes classes from sorted folder names and goes round-robin over them', async () => {
    await flat('zebra/1.png', 10);
    await flat('zebra/deep/2.PNG', 20);
    await flat('zebra/3.png', 30);
    await flat('ant/1.png', 40);
    await flat('bee/1.png', 50);
    await flat('bee/2.png', 60);
    writeFileSync(path.join(root, 'bee/notes.txt'), 'not an image');
    writeFileSync(path.join(root, 'bee/.hidden.png'), 'not an image');
    mkdirSync(path.join(root, '.cache'));
    const dataset = await openImageFolder(root);
    expect(dataset).toMatchObject({
      name: 'imagefolder',
      split: 'test',
      length: 6,
      shape: [3, 2, 3],
      layout: 'chw',
      elem: 'uint8',
      classes: 3,
      classNames: ['ant', 'bee', 'zebra'],
    });
    const [a, b, ...rest] = await read(dataset);
    expect(rest).toEqual([]);
    expect([...(a?.labels ?? []), ...(b?.labels ?? [])]).toEqual([0, 1, 2, 1, 2, 2]);
    expect([a?.first, a?.count, b?.first, b?.count]).toEqual([0, 4, 4, 2]);
    const firsts = [a, b].flatMap((batch) =>
      Array.from({ length: batch?.count ?? 0 }, (_, i) => [...(batch?.rows.subarray(18 * i, 18 * i + 1) ?? [])][0]),
    );
    expect(firsts).toEqual([40, 50, 10, 60, 30, 20]); // 3.png sorts before deep/2.PNG
  });

  it('picks the folder of the split, with the labels of the training classes', async () => {
    await flat('train/a/1.png', 1);
    await flat('train/b/1.png', 2);
    await flat('val/b/1.png', 3);
    expect((await openImageFolder(root, { split: 'train' })).length).toBe(2);
    const test = await openImageFolder(root, { split: 'test' });
    expect(test.classNames).toEqual(['a', 'b']);
    expect([...((await read(test))[0]?.labels ?? [])]).toEqual([1]);
    await flat('test/a/1.png', 4);
    await flat('test/a/2.png', 4);
    expect((await openImageFolder(root)).length).toBe(2);
    await flat('test/c/1.png', 4);
    expect(await message(openImageFolder(root))).toMatch(/^data: .*test\/c: .*train has no such class/);
  });

  it("takes 'train' for a class where there is no test folder", async () => {
    await flat('train/1.png', 1);
    await flat('car/1.png', 1);
    expect((await openImageFolder(root, { split: 'train' })).classNames).toEqual(['car', 'train']);
  });

  it('names the split that is missing', async () => {
    await flat('train/a/1.png', 1);
    expect(await message(openImageFolder(root, { split: 'test' }))).toMatch(
      /^data: .*: has no folder test\/ or val\/ .* for the split 'test', only train\/; give --split/,
    );
  });

  it('follows links to folders', async () => {
    await flat('real/1.png', 1);
    symlinkSync(path.join(root, 'real'), path.join(root, 'linked'));
    expect((await openImageFolder(root)).classNames).toEqual(['linked', 'real']);
  });

  it('decodes the selected files only', async () => {
    await flat('a/1.png', 1);
    await flat('a/3.png', 3);
    await flat('a/4.png', 4);
    writeFileSync(path.join(root, 'a/2.png'), 'broken');
    const dataset = await openImageFolder(root);
    expect((await read(dataset, { select: { count: 1 } }))[0]?.count).toBe(1);
    const [batch] = await read(dataset, { select: { indices: Int32Array.of(0, 2, 3) } });
    expect([0, 18, 36].map((at) => batch?.rows[at])).toEqual([1, 3, 4]);
    expect(await message(read(dataset))).toMatch(/^data: .*a\/2\.png: cannot be decoded/);
  });

  it('stops after the signal', async () => {
    for (let i = 0; i < 6; i++) await flat(`a/${i}.png`, i);
    const dataset = await openImageFolder(root);
    const controller = new AbortController();
    const seen: number[] = [];
    const reading = (async () => {
      for await (const { count } of dataset.batches({ size: 2, signal: controller.signal })) {
        seen.push(count);
        controller.abort();
      }
    })();
    expect(await message(reading)).toBe('aborted: interrupted');
    expect(seen).toEqual([2]);
  });
});

describe('pixels', () => {
  const one = async (file: string, options = {}) => {
    await flat('.keep/1.png', 0);
    const dataset = await openImageFolder(root, options);
    const [batch] = await read(dataset);
    return { shape: dataset.shape, row: [...(batch?.rows ?? [])], file };
  };

  it('are exact for PNG, as planes', async () => {
    const rng = makeRng(1);
    const pixels = Uint8Array.from({ length: 5 * 7 * 3 }, () => rng.int(256));
    const { shape, row } = await one(await save('a/1.png', pixels, { width: 7, height: 5, channels: 3 }));
    expect(shape).toEqual([3, 5, 7]);
    expect(row).toEqual([0, 1, 2].flatMap((c) => Array.from({ length: 35 }, (_, i) => pixels[3 * i + c])));
  });

  it('of grey images are three equal planes, or one', async () => {
    const file = await save('a/1.png', Uint8Array.of(0, 50, 100, 255), { width: 2, height: 2, channels: 1 }, 'b-w');
    const grey = [0, 50, 100, 255];
    expect((await one(file)).row).toEqual([...grey, ...grey, ...grey]);
    expect(await one(file, { channels: 1 })).toMatchObject({ shape: [1, 2, 2], row: grey });
  });

  it('of colour images become grey by ITU-R 601', async () => {
    const file = await save('a/1.png', Uint8Array.of(255, 0, 0, 0, 255, 0), { width: 2, height: 1, channels: 3 });
    expect((await one(file, { channels: 1 })).row).toEqual([76, 150]);
  });

  it('of 16 bits keep the upper 8', async () => {
    const values = Uint16Array.of(0, 0x7fff, 0x80ff, 0xffff, 0x1234, 0xabcd);
    const file = await save('a/1.png', values, { width: 2, height: 1, channels: 3 }, 'rgb16');
    expect((await sharp(file).metadata()).depth).toBe('ushort');
    expect((await one(file)).row).toEqual([0, 255, 127, 0x12, 128, 0xab]);
  });

  it('with alpha keep their colours, resized or not', async () => {
    const pixels = Uint8Array.of(255, 254, 253, 0, 10, 20, 30, 128);
    const file = await save('a/1.png', pixels, { width: 2, height: 1, channels: 4 });
    expect((await one(file)).row).toEqual([255, 10, 254, 20, 253, 30]);
    expect((await one(file, { resize: { height: 1, width: 2 } })).row).toEqual([255, 10, 254, 20, 253, 30]);
  });

  it('of JPEG are within 2 of flat colours, and not turned by EXIF', async () => {
    const file = await flat('a/1.jpg', 100, 16, 24);
    const turned = await sharp(readFileSync(file)).withMetadata({ orientation: 6 }).toBuffer();
    writeFileSync(file, turned);
    const { shape, row } = await one(file);
    expect(shape).toEqual([3, 16, 24]);
    for (const [c, value] of [100, 101, 102].entries())
      expect(Math.abs((row[c * 384 + 77] ?? 0) - value)).toBeLessThanOrEqual(2);
  });

  it('are decoded from WebP and GIF', async () => {
    await flat('a/1.webp', 77, 4, 4);
    const gif = await sharp(Buffer.alloc(48, 9), { raw: { width: 4, height: 4, channels: 3 } })
      .gif()
      .toBuffer();
    writeFileSync(path.join(root, 'a/2.gif'), gif);
    const dataset = await openImageFolder(root);
    const [batch] = await read(dataset);
    expect(Math.abs((batch?.rows[0] ?? 0) - 77)).toBeLessThanOrEqual(3);
    expect(batch?.rows[48]).toBe(9);
  });
});

describe('sizes', () => {
  it('must agree without resize', async () => {
    await flat('a/1.png', 1, 2, 3);
    await flat('a/2.png', 1, 4, 5);
    const dataset = await openImageFolder(root);
    expect(await message(read(dataset))).toMatch(
      /^data: .*a\/2\.png: is 4x5 \(height x width\), but .*a\/1\.png is 2x3; give --resize 2x3, or another size$/,
    );
  });

  it('are brought to height x width', async () => {
    await flat('a/1.png', 90, 20, 30);
    await flat('a/2.jpg', 90, 64, 16);
    const dataset = await openImageFolder(root, { resize: { height: 8, width: 6 } });
    expect(dataset.shape).toEqual([3, 8, 6]);
    const [batch] = await read(dataset);
    expect(batch?.rows.length).toBe(2 * 3 * 8 * 6);
    expect([...(batch?.rows.subarray(0, 48) ?? [])]).toEqual(Array(48).fill(90));
  });

  it('are scaled by the shorter side, and the centre cut out', async () => {
    // Columns 0..39, each of its own value: scaled by 1/2 and cropped to 6 of 20 columns around the centre.
    const ramp = Uint8Array.from({ length: 20 * 40 * 3 }, (_, i) => Math.floor(i / 3) % 40);
    await save('a/1.png', ramp, { width: 40, height: 20, channels: 3 });
    const dataset = await openImageFolder(root, { resize: { short: 10, crop: 6 } });
    expect(dataset.shape).toEqual([3, 6, 6]);
    const [batch] = await read(dataset);
    const row = [...(batch?.rows.subarray(0, 6) ?? [])];
    // Column 7 + i of the small image covers columns 14 + 2i and 15 + 2i; the mean is rounded.
    for (const [i, value] of row.entries()) expect(Math.abs(value - (14.5 + 2 * i))).toBeLessThanOrEqual(0.5);
    expect(await message(openImageFolder(root, { resize: { short: 4, crop: 6 } }))).toMatch(/^usage: --resize/);
  });

  it('grow by interpolation between pixel centres, also while the other side shrinks', async () => {
    const rng = makeRng(4);
    const pixels = Uint8Array.from({ length: 9 * 7 * 3 }, () => rng.int(256));
    await save('a/1.png', pixels, { width: 7, height: 9, channels: 3 });
    const whole = await openImageFolder(root);
    for (const resize of [
      { height: 20, width: 30 },
      { height: 9, width: 16 },
      { short: 11, crop: 10 },
    ]) {
      const [batch] = await read(await openImageFolder(root, { resize }));
      const [expected] = await read(resizeDataset(whole, resize)); // exact, in float
      expect(batch?.rows.length).toBe(expected?.rows.length);
      for (const [i, value] of (batch?.rows ?? []).entries())
        expect(Math.abs(value - (expected?.rows[i] ?? 0))).toBeLessThanOrEqual(0.501); // rounded
    }
    const both = await openImageFolder(root, { resize: { height: 3, width: 21 } });
    expect(both.shape).toEqual([3, 3, 21]);
    const mean = (rows: Iterable<number>) => [...rows].reduce((sum, value) => sum + value, 0) / [...rows].length;
    expect(Math.abs(mean((await read(both))[0]?.rows ?? []) - mean(pixels))).toBeLessThan(8);
  });

  it('do not depend on the codec: a large JPEG shrinks as its pixels do', async () => {
    const rng = makeRng(2);
    const noise = Uint8Array.from({ length: 256 * 256 * 3 }, () => rng.int(256));
    const file = await save('a/1.jpg', noise, { width: 256, height: 256, channels: 3 });
    await sharp(file).png().toFile(path.join(root, 'a/2.png'));
    const dataset = await openImageFolder(root, { resize: { height: 16, width: 16 } });
    const [batch] = await read(dataset);
    expect(batch?.rows.subarray(0, 768)).toEqual(batch?.rows.subarray(768));
  });
});

describe('what is wrong is named', () => {
  it('folders', async () => {
    expect(await message(openImageFolder(path.join(root, 'none')))).toMatch(/^file: .*none: no such file or folder$/);
    expect(await message(openImageFolder(root))).toMatch(/^data: .*: has neither folders nor images \(\.jpg/);
    const loose = await flat('1.png', 1);
    expect(await message(openImageFolder(root))).toMatch(
      /^data: .*: has images but no folders; put the images of each/,
    );
    expect(await message(openImageFolder(loose))).toMatch(/^file: .*1\.png: is a file; give the folder/);
    await flat('a/1.png', 1);
    mkdirSync(path.join(root, 'b'));
    expect(await message(openImageFolder(root))).toMatch(/^data: .*b: this class has no images/);
  });

  it('files in kinds that sharp does not decode', async () => {
    await flat('a/1.png', 1);
    writeFileSync(path.join(root, 'a/2.BMP'), 'BM');
    expect(await message(openImageFolder(root))).toMatch(/^data: .*a\/2\.BMP: \.bmp files cannot be decoded; convert/);
  });

  it.each(['jpg', 'png', 'webp'])('truncated %s', async (ending) => {
    const rng = makeRng(3);
    const noise = Uint8Array.from({ length: 64 * 64 * 3 }, () => rng.int(256));
    await save(`a/1.${ending}`, noise, { width: 64, height: 64, channels: 3 });
    const bad = await save(`a/2.${ending}`, noise, { width: 64, height: 64, channels: 3 });
    const whole = readFileSync(bad);
    const dataset = await openImageFolder(root);
    for (const length of [0, 50, whole.length >> 1, whole.length - 40]) {
      writeFileSync(bad, whole.subarray(0, length));
      expect(await message(read(dataset))).toMatch(/^data: .*a\/2\.\w+: cannot be decoded \(.+\); replace the file/);
    }
    rmSync(bad);
    expect(await message(read(dataset))).toMatch(/^file: .*a\/2\.\w+: no such file/);
    writeFileSync(path.join(root, `a/1.${ending}`), 'text');
    expect(await message(openImageFolder(root))).toMatch(/^data: .*a\/1\.\w+: cannot be decoded/);
  });
});
