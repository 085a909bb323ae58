/**
 * Decoding of image files with sharp, in libuv's thread pool: it goes on while the consumer keeps the main thread busy.
 *
 * Pixels are those that torchvision's `default_loader` (PIL, `convert('RGB')`) sees, because networks were trained on
 * them: colours are not managed (ICC profiles), the EXIF orientation is not applied, alpha is dropped, grey becomes three
 * equal channels, and of an animation the first frame counts. 16 bits become 8 by taking the upper ones.
 *
 * Sizes: bilinear with half-pixel centres where an image grows, as in PIL; libvips' triangle filter where it shrinks, which
 * differs from PIL's by 1 or 2 of 255 in the mean on images full of texture.
 */
import { access, constants } from 'node:fs/promises';
import type { Sharp } from 'sharp';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import type { Resize } from './dataset.ts';

/** 8-bit RGB, interleaved. */
export interface Pixels {
  readonly data: Uint8Array;
  readonly height: number;
  readonly width: number;
}

/** @throws SisyphusError `data` for what cannot be decoded, `file` for what cannot be read */
export type Decode = (file: string) => Promise<Pixels>;

// What PIL lets pass as well; truncation is an error.
const INPUT = { failOn: 'error', ignoreIcc: true } as const;

/** Loads sharp, which takes its time. Images come in the size of `resize`, but not cropped yet. */
export async function makeDecoder(resize: Resize | undefined): Promise<Decode> {
  const sharp = await loadSharp();
  return async (file) => {
    try {
      const image = await shrunk(sharp(file, INPUT), resize);
      if (image.channels === 3) return grown(image, resize);
      // sharp would weigh colours with alpha while it resizes, so alpha goes first.
      const { data, info } = await sharp(file, INPUT).removeAlpha().raw().toBuffer({ resolveWithObject: true });
      return grown(await shrunk(sharp(data, { raw: info }), resize), resize);
    } catch (cause) {
      await access(file, constants.R_OK).catch((reason) => {
        throw fileError(file, reason);
      });
      const [reason] = (cause as Error).message.split('\n');
      throw new SisyphusError('data', `${file}: cannot be decoded (${reason}); replace the file or take it away`, {
        cause,
      });
    }
  };
}

async function loadSharp() {
  const { default: sharp } = await import('sharp').catch((cause: unknown) => {
    throw new SisyphusError('unsupported', 'images cannot be decoded: the package sharp does not load; run npm ci', {
      cause,
    });
  });
  // Its own threads and cache are for few large images, not for many small ones.
  sharp.concurrency(1);
  sharp.cache(false);
  return sharp;
}

/** Decodes, and brings those sides that are too long to the length that is wanted. */
async function shrunk(image: Sharp, resize: Resize | undefined): Promise<Pixels & { readonly channels: number }> {
  // Being RGB from the start keeps JPEG files from being scaled while they are decoded, which other formats can't.
  image.pipelineColourspace('srgb');
  const options = { kernel: 'linear', withoutEnlargement: true } as const;
  if (resize && 'crop' in resize)
    image.resize({ ...options, width: resize.short, height: resize.short, fit: 'outside' });
  else if (resize) image.resize({ ...options, width: resize.width, height: resize.height, fit: 'fill' });
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return { data, height: info.height, width: info.width, channels: info.channels };
}

/** Bilinear interpolation for sides that are too short still; libvips would shift the image by half a pixel. */
function grown(image: Pixels, resize: Resize | undefined): Pixels {
  const { height, width } = resize ? sizeAfter(image, resize) : image;
  if (height === image.height && width === image.width) return image;
  const [rows, columns] = [taps(image.height, height), taps(image.width, width)];
  const { data: from } = image;
  const data = new Uint8Array(height * width * 3);
  let to = 0;
  for (const y of rows)
    for (const x of columns) {
      let [a, b] = [(y.low * image.width + x.low) * 3, (y.low * image.width + x.high) * 3];
      let [c, d] = [(y.high * image.width + x.low) * 3, (y.high * image.width + x.high) * 3];
      for (const end = to + 3; to < end; to++, a++, b++, c++, d++) {
        const upper = (from[a] as number) * (1 - x.weight) + (from[b] as number) * x.weight;
        const lower = (from[c] as number) * (1 - x.weight) + (from[d] as number) * x.weight;
        data[to] = upper * (1 - y.weight) + lower * y.weight + 0.5; // cut off by the array
      }
    }
  return { data, height, width };
}

function sizeAfter({ height, width }: Pixels, resize: Resize): { height: number; width: number } {
  if (!('crop' in resize)) return resize;
  const short = Math.min(height, width);
  const scaled = (side: number) => Math.floor((resize.short * side) / short);
  return short < resize.short ? { height: scaled(height), width: scaled(width) } : { height, width };
}

/** For each of `after` points between which of the `before` ones it lies, and how near to the higher one. */
function taps(before: number, after: number): { low: number; high: number; weight: number }[] {
  return Array.from({ length: after }, (_, i) => {
    const position = Math.min(Math.max(((i + 0.5) * before) / after - 0.5, 0), before - 1);
    const low = Math.floor(position);
    return { low, high: Math.min(low + 1, before - 1), weight: position - low };
  });
}

/**
 * Copies the centre of an image (all of it where sizes are equal) into planes.
 * @param shape [channels, height, width] of the planes; one channel is PIL's 'L'
 */
export function copyPlanes({ data, height, width }: Pixels, shape: readonly number[], planes: Uint8Array): void {
  const [channels, rows, columns] = shape as [number, number, number];
  const [top, left] = [margin(height - rows), margin(width - columns)];
  const plane = rows * columns;
  for (let y = 0, to = 0; y < rows; y++) {
    let from = ((top + y) * width + left) * 3;
    for (let x = 0; x < columns; x++, to++, from += 3) {
      const [r, g, b] = [data[from] as number, data[from + 1] as number, data[from + 2] as number];
      if (channels === 1)
        planes[to] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16; // ITU-R 601-2
      else {
        planes[to] = r;
        planes[to + plane] = g;
        planes[to + 2 * plane] = b;
      }
    }
  }
}

/** Half of what is cut off, rounded half to even as in torchvision's CenterCrop. */
const margin = (surplus: number) => (surplus % 2 === 0 ? surplus / 2 : 2 * Math.round(surplus / 4));
