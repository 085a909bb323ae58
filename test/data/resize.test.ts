import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Dataset, Resize } from '../../src/data/dataset.ts';
import { formatResize, parseResize, resizeDataset } from '../../src/data/resize.ts';
import { makeRng } from '../../src/rng.ts';
import { failure, readAll } from '../support/datasets.ts';
import { expectClose } from '../support/numeric.ts';

/** Float32 in between: 255 times a few units in the last place. */
const TOLERANCE = 1e-4;

function images(
  shape: readonly number[],
  layout: Dataset['layout'],
  rows: readonly (Uint8Array | Float32Array)[],
): Dataset {
  const elem = rows[0] instanceof Uint8Array ? 'uint8' : 'float';
  return {
    name: 'npz',
    source: 'x.npy',
    split: 'test',
    length: rows.length,
    shape,
    layout,
    elem,
    classes: 10,
    async *batches() {
      for (const [i, row] of rows.entries()) yield { first: i, count: 1, rows: row, labels: Int32Array.of(i % 10) };
    },
  };
}

const planar = (shape: readonly number[], row: Uint8Array | Float32Array) => images(shape, 'chw', [row]);
const noise = (length: number, seed = 1) => {
  const rng = makeRng(seed);
  return Uint8Array.from({ length }, () => rng.int(256));
};
const resized = async (dataset: Dataset, resize: Resize) =>
  (await readAll(resizeDataset(dataset, resize))).rows[0] ?? [];

/** Bilinear interpolation between pixel centres, straight from its definition; beyond the border the border goes on. */
function bilinear(
  plane: ArrayLike<number>,
  height: number,
  width: number,
  toHeight: number,
  toWidth: number,
): number[] {
  const at = (y: number, x: number) =>
    plane[Math.min(height - 1, Math.max(0, y)) * width + Math.min(width - 1, Math.max(0, x))] ?? Number.NaN;
  const result: number[] = [];
  for (let i = 0; i < toHeight; i++)
    for (let j = 0; j < toWidth; j++) {
      const y = ((i + 0.5) * height) / toHeight - 0.5;
      const x = ((j + 0.5) * width) / toWidth - 0.5;
      const [top, left] = [Math.floor(y), Math.floor(x)];
      const [down, right] = [y - top, x - left];
      result.push(
        (1 - down) * ((1 - right) * at(top, left) + right * at(top, left + 1)) +
          down * ((1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)),
      );
    }
  return result;
}

/** Every pixel weighs by a triangle around the centre, as wide as the shrinking; weights are brought to the sum 1. */
function triangle(
  plane: ArrayLike<number>,
  height: number,
  width: number,
  toHeight: number,
  toWidth: number,
): number[] {
  const weights = (input: number, output: number, i: number) => {
    const scale = Math.max(1, input / output);
    const centre = ((i + 0.5) * input) / output;
    const raw = Array.from({ length: input }, (_, j) => Math.max(0, 1 - Math.abs(j + 0.5 - centre) / scale));
    const sum = raw.reduce((a, b) => a + b);
    return raw.map((weight) => weight / sum);
  };
  const result: number[] = [];
  for (let i = 0; i < toHeight; i++)
    for (let j = 0; j < toWidth; j++) {
      const [down, across] = [weights(height, toHeight, i), weights(width, toWidth, j)];
      let sum = 0;
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) sum += (down[y] ?? 0) * (across[x] ?? 0) * (plane[y * width + x] ?? Number.NaN);
      result.push(sum);
    }
  return result;
}

const side = (max: number) => fc.integer({ min: 1, max });

describe('resizeDataset', () => {
  it('keeps constants, enlarged, shrunk and cropped', async () => {
    const property = fc.asyncProperty(side(40), side(40), side(40), side(40), async (height, width, a, b) => {
      const flat = planar([1, height, width], new Uint8Array(height * width).fill(201));
      const stretched = await resized(flat, { height: a, width: b });
      expectClose(stretched, Array(a * b).fill(201), TOLERANCE);
      const [crop, short] = a < b ? [a, b] : [b, a];
      expectClose(await resized(flat, { short, crop }), Array(crop * crop).fill(201), TOLERANCE);
    });
    await fc.assert(property, { numRuns: 100, seed: 1 });
  });

  it('enlarges by bilinear interpolation with half-pixel centres', async () => {
    const property = fc.asyncProperty(side(9), side(9), side(12), side(12), async (height, width, more, wider) => {
      const plane = noise(height * width, 31 * height + width);
      const to = { height: height + more, width: width + wider };
      const expected = bilinear(plane, height, width, to.height, to.width);
      expectClose(await resized(planar([1, height, width], plane), to), expected, TOLERANCE);
    });
    await fc.assert(property, { numRuns: 100, seed: 1 });
    expectClose(await resized(planar([1, 1, 2], Uint8Array.of(0, 100)), { height: 1, width: 4 }), [0, 25, 75, 100], 0);
  });

  it('shrinks by a triangle that leaves no pixel out', async () => {
    const property = fc.asyncProperty(side(20), side(20), side(20), side(20), async (height, width, a, b) => {
      const plane = noise(height * width, 31 * height + width);
      const found = await resized(planar([1, height, width], plane), { height: a, width: b });
      expectClose(found, triangle(plane, height, width, a, b), TOLERANCE);
    });
    await fc.assert(property, { numRuns: 100, seed: 1 });
    // By hand: scale 2; weights 1/4·[3,3,1] of 1.75 at the border, 1/8·[1,3,3,1] inside.
    const ramp = Uint8Array.of(70, 0, 0, 0, 0, 0, 0, 140);
    expectClose(await resized(planar([1, 1, 8], ramp), { height: 1, width: 4 }), [30, 0, 0, 60], TOLERANCE);
    const one = await resized(planar([1, 1, 8], Uint8Array.of(0, 0, 0, 80, 0, 0, 0, 0)), { height: 1, width: 4 });
    expectClose(one, [0, 30, 10, 0], TOLERANCE);
  });

  it('changes nothing where the size stays', async () => {
    const row = noise(3 * 7 * 5);
    expect(await resized(planar([3, 7, 5], row), { height: 7, width: 5 })).toEqual([...row]);
    expect(await resized(planar([3, 7, 7], noise(147)), { short: 7, crop: 7 })).toEqual([...noise(147)]);
  });

  it('does the same to planes and to interleaved images, and to each channel by itself', async () => {
    for (const to of [
      { height: 4, width: 11 },
      { height: 13, width: 3 },
      { short: 6, crop: 5 },
    ]) {
      const [channels, height, width] = [3, 9, 7];
      const chw = noise(channels * height * width);
      const hwc = Uint8Array.from(chw, (_, i) => chw[(i % 3) * height * width + Math.floor(i / 3)] ?? 0);
      const planes = resizeDataset(planar([channels, height, width], chw), to);
      const interleaved = resizeDataset(images([height, width, channels], 'hwc', [hwc]), to);
      const [h = 0, w = 0] = planes.shape.slice(1);
      expect(interleaved).toMatchObject({ layout: 'hwc', shape: [h, w, channels] });
      const found = (await readAll(planes)).rows[0] ?? [];
      const turned = (await readAll(interleaved)).rows[0] ?? [];
      expect(turned).toEqual(found.map((_, i) => found[(i % 3) * h * w + Math.floor(i / 3)]));
      for (let c = 0; c < channels; c++) {
        const plane = chw.subarray(c * height * width, (c + 1) * height * width);
        const alone = await resized(planar([1, height, width], plane), to);
        expect(alone).toEqual(found.slice(c * h * w, (c + 1) * h * w));
      }
    }
  });

  it('scales the shorter side and cuts the centre out', async () => {
    const [height, width] = [6, 11];
    const plane = noise(height * width);
    // Shorter side 8: the longer becomes floor(8 · 11 / 6) = 14; margins 1.5 → 2 and 4.5 → 4, half to even.
    const whole = triangle(plane, height, width, 8, 14);
    const expected = Array.from({ length: 25 }, (_, i) => whole[(2 + Math.floor(i / 5)) * 14 + 4 + (i % 5)] ?? 0);
    const found = await resized(planar([1, height, width], plane), { short: 8, crop: 5 });
    expectClose(found, expected, TOLERANCE);
  });

  it('makes pixels of bytes, and keeps everything else', async () => {
    const bytes = images([2, 2], 'chw', []);
    expect(bytes.elem).toBe('float');
    const rows = [noise(12, 1), noise(12, 2), noise(12, 3)];
    const dataset = { ...images([3, 2, 2], 'chw', rows), classNames: ['a'] };
    const small = resizeDataset(dataset, { height: 1, width: 1 });
    expect(small).toMatchObject({ name: 'npz', source: 'x.npy', length: 3, classes: 10, classNames: ['a'] });
    expect(small).toMatchObject({ elem: 'pixels', shape: [3, 1, 1], layout: 'chw' });
    const read = await readAll(small);
    expect(read).toMatchObject({ labels: [0, 1, 2], firsts: [0, 1, 2] });
    for (const [i, row] of rows.entries())
      expectClose(
        read.rows[i] ?? [],
        [0, 4, 8].map((at) => row.subarray(at, at + 4).reduce((a, b) => a + b) / 4),
        1e-4,
      );
    const floats = resizeDataset(planar([1, 2, 2], Float32Array.of(-1, 0, 1e6, 3)), { height: 2, width: 2 });
    expect(floats.elem).toBe('float');
    expect((await readAll(floats)).rows).toEqual([[-1, 0, 1e6, 3]]);
  });

  it('refuses rows that are no images, and sizes that cannot be', async () => {
    const plain = images([7], 'plain', [noise(7)]);
    expect(await failure(() => resizeDataset(plain, { height: 2, width: 2 }))).toBe(
      'usage: --resize 2x2: the rows of x.npy are [7], not images; leave it out',
    );
    const image = planar([1, 2, 2], noise(4));
    for (const resize of [
      { height: 0, width: 2 },
      { height: 2, width: 1.5 },
      { short: 4, crop: 5 },
      { short: 4, crop: -1 },
    ])
      expect(await failure(() => resizeDataset(image, resize))).toMatch(/^usage: --resize .*: sides are whole numbers/);
  });
});

describe('parseResize', () => {
  it.each([
    ['32', { height: 32, width: 32 }],
    [' 224x112 ', { height: 224, width: 112 }],
    ['2X3', { height: 2, width: 3 }],
    ['short=256,crop=224', { short: 256, crop: 224 }],
    ['short=8 , crop=8', { short: 8, crop: 8 }],
  ])('%s', (text, expected) => {
    expect(parseResize(text)).toEqual(expected);
    expect(parseResize(formatResize(expected))).toEqual(expected);
  });

  it.each([
    ['', /is no size; give 32, 224x224/],
    ['x', /is no size/],
    ['-3', /is no size/],
    ['3.5', /is no size/],
    ['3x4x5', /is no size/],
    ['crop=5,short=6', /is no size/],
    ['short=6', /is no size/],
    ['0', /0 is not a size from 1 to 4096/],
    ['3x5000', /5000 is not a size from 1 to 4096/],
    ['short=0,crop=0', /0 is not a size/],
    ['short=10,crop=11', /a side of 10 has no room for a crop of 11/],
  ])("not '%s'", async (text, expected) => {
    const message = await failure(() => parseResize(text));
    expect(message).toMatch(/^spec: --resize '/);
    expect(message).toMatch(expected);
  });
});
