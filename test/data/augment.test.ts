import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Augmentation, BLACK, drawMaps, formatAugment, parseAugment } from '../../src/data/augment.ts';
import { makeRng, type Rng } from '../../src/rng.ts';
import { failure } from '../support/datasets.ts';

const augmentation: fc.Arbitrary<Augmentation> = fc.oneof(
  fc.record({ kind: fc.constant('crop' as const), amount: fc.integer({ min: 1, max: 12 }) }),
  fc.record({ kind: fc.constant('flip' as const), amount: fc.constantFrom(0, 0.25, 0.5, 1) }),
  fc.record({ kind: fc.constant('rotate' as const), amount: fc.constantFrom(5, 20, 90, 180) }),
);
const side = fc.integer({ min: 1, max: 12 });
const seed = fc.nat();

describe('parseAugment', () => {
  it.each([
    ['none', []],
    ['crop', [{ kind: 'crop', amount: 4 }]],
    [
      'crop,flip',
      [
        { kind: 'crop', amount: 4 },
        { kind: 'flip', amount: 0.5 },
      ],
    ],
    [
      ' rotate = 12.5 , crop=2',
      [
        { kind: 'rotate', amount: 12.5 },
        { kind: 'crop', amount: 2 },
      ],
    ],
    ['flip=1', [{ kind: 'flip', amount: 1 }]],
    ['rotate=1e1', [{ kind: 'rotate', amount: 10 }]],
  ])("'%s'", (text, expected) => {
    expect(parseAugment(text)).toEqual(expected);
  });

  it.each([
    ['', /unknown augmentation ''; known: crop, flip, rotate, none$/],
    ['crop,', /unknown augmentation ''/],
    ['cropp', /unknown augmentation 'cropp'; did you mean 'crop'\?$/],
    ['Flip', /did you mean 'flip'\?$/],
    ['crop,rotat=3', /unknown augmentation 'rotat'; did you mean 'rotate'\?$/],
    ['toString', /unknown augmentation 'toString'; known: /],
    ['none,crop', /'none' stands alone$/],
    ['flip,crop,flip=1', /'flip' is given twice$/],
    ['crop=', /crop= must be a whole number of pixels from 1 to 1024, as crop=4$/],
    ['crop=0', /crop=0 must be a whole number/],
    ['crop=1.5', /crop=1\.5 must be a whole number/],
    ['crop=4=4', /crop=4=4 must be a whole number/],
    ['flip=1.1', /flip=1\.1 must be a probability from 0 to 1, as flip=0\.5$/],
    ['flip=x', /flip=x must be a probability/],
    ['rotate=0', /rotate=0 must be an angle above 0 and up to 180 degrees, as rotate=20$/],
    ['rotate=-5', /must be an angle/],
    ['rotate=Infinity', /must be an angle/],
  ])("not '%s'", async (text, expected) => {
    const message = await failure(() => parseAugment(text));
    expect(message.startsWith(`spec: --augment '${text}': `)).toBe(true);
    expect(message).toMatch(expected);
  });

  it('reads what formatAugment writes', () => {
    const list = fc.uniqueArray(augmentation, { selector: ({ kind }) => kind });
    const property = fc.property(list, (all) => {
      expect(parseAugment(formatAugment(all))).toEqual(all);
    });
    fc.assert(property);
    expect(formatAugment([])).toBe('none');
    expect(formatAugment(parseAugment('crop=4,flip=0.25'))).toBe('crop,flip=0.25');
  });
});

type Image = number[][];

/** Every pixel of its own brightness; 0 is black. */
const numbered = (height: number, width: number): Image =>
  Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => 1 + y * width + x));
const black = (height: number, width: number): Image => Array.from({ length: height }, () => Array(width).fill(0));

/** By the definition, pixel by pixel. */
function naive(image: Image, { kind, amount }: Augmentation, rng: Rng): Image {
  const [height, width] = [image.length, image[0]?.length ?? 0];
  if (kind === 'flip') return rng.uniform() < amount ? image.map((line) => [...line].reverse()) : image;
  const padded = black(height + 2 * amount, width + 2 * amount);
  for (const [y, line] of image.entries())
    for (const [x, value] of line.entries()) (padded[y + amount] as number[])[x + amount] = value;
  const [top, left] = [rng.int(2 * amount + 1), rng.int(2 * amount + 1)];
  return padded.slice(top, top + height).map((line) => line.slice(left, left + width));
}

/** What a map shows of `numbered`. */
function shown(map: Int32Array, width: number): Image {
  const lines: Image = [];
  for (let at = 0; at < map.length; at += width)
    lines.push(Array.from(map.subarray(at, at + width), (origin) => (origin === BLACK ? 0 : origin + 1)));
  return lines;
}

describe('drawMaps', () => {
  it('crops and flips as their definitions do, in the order of the list', () => {
    const list = fc.array(
      augmentation.filter(({ kind }) => kind !== 'rotate'),
      { maxLength: 4 },
    );
    const property = fc.property(list, side, side, seed, (all, height, width, seed) => {
      const draw = drawMaps(all, height, width);
      const [rng, same] = [makeRng(seed), makeRng(seed)];
      for (let i = 0; i < 3; i++) {
        const expected = all.reduce((image, each) => naive(image, each, same), numbered(height, width));
        expect(shown(draw(rng), width)).toEqual(expected);
      }
    });
    fc.assert(property, { numRuns: 500 });
  });

  it('rotates by the nearest pixel', () => {
    const degrees = fc.constantFrom(1, 20, 45, 180);
    const property = fc.property(degrees, side, side, seed, (amount, height, width, seed) => {
      const [rng, same] = [makeRng(seed), makeRng(seed)];
      const found = shown(drawMaps([{ kind: 'rotate', amount }], height, width)(rng), width);
      const angle = ((2 * same.uniform() - 1) * amount * Math.PI) / 180;
      const image = numbered(height, width);
      // Where a place falls between two pixels by less than the steps of the fixed-point numbers add up to, either is right.
      const slack = (height + width + 2) / 2 ** 16;
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) {
          // Lines count downwards, so a rotation to the left turns the place that is looked up to the right.
          const [dx, dy] = [x + 0.5 - width / 2, y + 0.5 - height / 2];
          const placeX = Math.cos(angle) * dx - Math.sin(angle) * dy + width / 2;
          const placeY = Math.sin(angle) * dx + Math.cos(angle) * dy + height / 2;
          const choices = [-slack, slack].flatMap((ex) =>
            [-slack, slack].map((ey) => image[Math.floor(placeY + ey)]?.[Math.floor(placeX + ex)] ?? 0),
          );
          expect(choices).toContain(found[y]?.[x]);
        }
    });
    fc.assert(property, { numRuns: 300 });
  });

  it('rotates counter-clockwise where the angle is positive', () => {
    const [amount, quarter] = [180, { uniform: () => 0.75, int: () => 0 }];
    const turned = shown(drawMaps([{ kind: 'rotate', amount }], 3, 3)(quarter), 3);
    expect(turned).toEqual([
      [3, 6, 9],
      [2, 5, 8],
      [1, 4, 7],
    ]);
    // The corners that turn out of a wide image are lost, and those that turn in are black.
    expect(shown(drawMaps([{ kind: 'rotate', amount }], 2, 4)(quarter), 4)).toEqual([
      [0, 3, 7, 0],
      [0, 2, 6, 0],
    ]);
  });

  it('applies a list one after the other, to what the one before gave', () => {
    const property = fc.property(augmentation, augmentation, side, side, seed, (first, second, height, width, seed) => {
      const rng = makeRng(seed);
      const one = drawMaps([first], height, width)(rng).slice();
      const two = drawMaps([second], height, width)(rng);
      const both = drawMaps([first, second], height, width)(makeRng(seed));
      expect([...both]).toEqual(Array.from(two, (origin) => (origin === BLACK ? BLACK : one[origin])));
    });
    fc.assert(property, { numRuns: 500 });
  });

  it('draws every crop and either side equally often, and angles of the whole range', () => {
    const times = 8_100;
    const within = (count: number, chance: number) =>
      expect(Math.abs(count - times * chance)).toBeLessThan(5 * Math.sqrt(times * chance * (1 - chance)));
    const rng = makeRng(1);
    const crop = drawMaps([{ kind: 'crop', amount: 1 }], 3, 3);
    const flip = drawMaps([{ kind: 'flip', amount: 0.3 }], 1, 2);
    const rotate = drawMaps([{ kind: 'rotate', amount: 45 }], 1, 201);
    const crops = new Map<string, number>();
    let flips = 0;
    const visible: number[] = Array(3).fill(0);
    for (let i = 0; i < times; i++) {
      const key = String(crop(rng));
      crops.set(key, (crops.get(key) ?? 0) + 1);
      if (flip(rng)[0] === 1) flips++;
    }
    for (let i = 0; i < 900; i++) {
      // Of a line, what is less than half a pixel away stays: 1 / sin(angle) pixels.
      const left = rotate(rng).filter((origin) => origin !== BLACK).length;
      const degrees = (Math.asin(Math.min(1, 1 / left)) * 180) / Math.PI;
      visible[Math.min(2, Math.floor(degrees / 15))] = (visible[Math.min(2, Math.floor(degrees / 15))] ?? 0) + 1;
    }
    expect(crops.size).toBe(9);
    for (const count of crops.values()) within(count, 1 / 9);
    within(flips, 0.3);
    for (const count of visible) expect(Math.abs(count - 300)).toBeLessThan(100);
  });
});
