/**
 * Random changes of training images: `--augment crop,flip`. Each moves whole pixels, so that any list of them is one map
 * from the pixels of the result to those of the original, and an image is read once, through that map. Kinds and usual
 * amounts are those of the paper's authors (torchvision's RandomCrop, RandomHorizontalFlip and RandomRotation).
 */
import { didYouMean, SisyphusError } from '../errors.ts';
import type { Rng } from '../rng.ts';

/**
 * 'crop': a random part of the original size, after `amount` black pixels are put around the image. 'flip': left and
 * right change places with the probability `amount`. 'rotate': about the centre by an angle that is uniform between
 * -`amount` and `amount` degrees; nearest neighbour, black corners.
 */
export interface Augmentation {
  readonly kind: keyof typeof KINDS;
  readonly amount: number;
}

const KINDS = {
  crop: {
    usual: 4,
    amounts: 'a whole number of pixels from 1 to 1024',
    allows: (amount: number) => Number.isInteger(amount) && amount >= 1 && amount <= 1024,
  },
  flip: {
    usual: 0.5,
    amounts: 'a probability from 0 to 1',
    allows: (amount: number) => amount >= 0 && amount <= 1,
  },
  rotate: {
    usual: 20,
    amounts: 'an angle above 0 and up to 180 degrees',
    allows: (amount: number) => amount > 0 && amount <= 180,
  },
} as const;

const NAMES = Object.keys(KINDS) as (keyof typeof KINDS)[];

/**
 * Parses `crop,flip`, `crop=4`, `rotate=20,flip=0.5` or `none`; they are applied in the order of the list.
 * @throws SisyphusError `spec`
 */
export function parseAugment(text: string): Augmentation[] {
  const refuse = (why: string) => new SisyphusError('spec', `--augment '${text}': ${why}`);
  if (text.trim() === 'none') return [];
  const list: Augmentation[] = [];
  for (const part of text.split(',')) {
    const [word = '', value, ...more] = part.split('=').map((piece) => piece.trim());
    if (word === 'none') throw refuse("'none' stands alone");
    const kind = NAMES.find((name) => name === word);
    if (!kind) throw refuse(`unknown augmentation '${word}'${didYouMean(word, [...NAMES, 'none'])}`);
    if (list.some((other) => other.kind === kind)) throw refuse(`'${kind}' is given twice`);
    const { usual, amounts, allows } = KINDS[kind];
    const amount = value === undefined ? usual : Number(value);
    if (value === '' || more.length > 0 || !allows(amount))
      throw refuse(`${part.trim()} must be ${amounts}, as ${kind}=${usual}`);
    list.push({ kind, amount });
  }
  return list;
}

/** The list as text that parses back to it. */
export function formatAugment(list: readonly Augmentation[]): string {
  const part = ({ kind, amount }: Augmentation) => (amount === KINDS[kind].usual ? kind : `${kind}=${amount}`);
  return list.map(part).join(',') || 'none';
}

/** In a map of pixels: none of the original's. The only value below 0. */
export const BLACK = -1;

/**
 * Draws the changes of one image after the other: for each pixel of the result, row by row, the index of the pixel of the
 * original that it shows, or `BLACK`. The next call writes over it.
 * @param height pixels
 * @param width pixels
 */
export function drawMaps(
  list: readonly Augmentation[],
  height: number,
  width: number,
): (rng: Pick<Rng, 'uniform' | 'int'>) => Int32Array {
  const original = Int32Array.from({ length: height * width }, (_, i) => i);
  const map = Int32Array.from(original);
  return (rng) => {
    map.set(original);
    for (const { kind, amount } of list) {
      if (kind === 'crop') {
        const down = rng.int(2 * amount + 1) - amount;
        const right = rng.int(2 * amount + 1) - amount;
        shift(map, width, down, right);
      } else if (kind === 'flip') {
        if (rng.uniform() < amount) flip(map, width);
      } else rotate(map, height, width, (2 * rng.uniform() - 1) * amount);
    }
    return map;
  };
}

/** The part that begins `down` pixels below and `right` pixels to the right of the upper left corner. */
function shift(map: Int32Array, width: number, down: number, right: number): void {
  const ahead = down * width + right;
  map.copyWithin(Math.max(0, -ahead), Math.max(0, ahead)); // what leaves a line on one side enters another: it goes below
  if (down > 0) map.fill(BLACK, Math.max(0, map.length - down * width));
  else map.fill(BLACK, 0, -down * width);
  const [first, end] = right > 0 ? [Math.max(0, width - right), width] : [0, Math.min(width, -right)];
  for (let line = 0; line < map.length; line += width)
    for (let at = line + first; at < line + end; at++) map[at] = BLACK;
}

function flip(map: Int32Array, width: number): void {
  for (let line = 0; line < map.length; line += width)
    for (let left = line, right = line + width - 1; left < right; left++, right--) {
      const kept = map[left] as number;
      map[left] = map[right] as number;
      map[right] = kept;
    }
}

/**
 * Counter-clockwise. A pixel shows what lay under its centre; places are counted in steps of 2^-16, as Pillow does
 * (src/libImaging/Geometry.c, affine_fixed), so that pixels are chosen as it chooses them.
 */
function rotate(map: Int32Array, height: number, width: number, degrees: number): void {
  const before = map.slice();
  const radians = (-degrees * Math.PI) / 180;
  const [cos, sin] = [Math.cos(radians), Math.sin(radians)];
  const fixed = (value: number) => Math.floor(value * 2 ** 16 + 0.5);
  const [stepX, stepY] = [fixed(cos), fixed(-sin)]; // of the place before, for a step to the right
  const [downX, downY] = [fixed(sin), fixed(cos)]; // for a step down
  let startX = fixed(width / 2 + (cos * (1 - width)) / 2 + (sin * (1 - height)) / 2);
  let startY = fixed(height / 2 - (sin * (1 - width)) / 2 + (cos * (1 - height)) / 2);
  for (let y = 0, at = 0; y < height; y++, startX += downX, startY += downY)
    for (let x = 0, placeX = startX, placeY = startY; x < width; x++, at++, placeX += stepX, placeY += stepY) {
      const column = Math.floor(placeX / 2 ** 16);
      const row = Math.floor(placeY / 2 ** 16);
      const inside = column >= 0 && column < width && row >= 0 && row < height;
      map[at] = inside ? (before[row * width + column] as number) : BLACK;
    }
}
