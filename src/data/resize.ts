/**
 * Image sizes: `--resize 32 | 224x224 | short=256,crop=224`, and the resampling of rows that are arrays. The filter is
 * the triangle that PIL calls BILINEAR (Pillow, src/libImaging/Resample.c): plain bilinear interpolation with half-pixel
 * centres where an image grows, and where it shrinks a triangle as wide as needed to let no pixel out. Unlike PIL, nothing
 * is rounded.
 */
import { SisyphusError } from '../errors.ts';
import type { Dataset, Resize } from './dataset.ts';

const MAX_SIDE = 4096;

/** @throws SisyphusError `spec` */
export function parseResize(text: string): Resize {
  const refuse = (why: string) =>
    new SisyphusError('spec', `--resize '${text}': ${why}; give 32, 224x224 (height x width) or short=256,crop=224`);
  const word = text.trim();
  const size = (digits: string | undefined) => {
    const value = Number(digits);
    if (!(value >= 1 && value <= MAX_SIDE)) throw refuse(`${value} is not a size from 1 to ${MAX_SIDE}`);
    return value;
  };
  const stretch = /^(\d+)(?:x(\d+))?$/i.exec(word);
  if (stretch) return { height: size(stretch[1]), width: size(stretch[2] ?? stretch[1]) };
  const cut = /^short=(\d+)\s*,\s*crop=(\d+)$/.exec(word);
  if (!cut) throw refuse('is no size');
  const [short, crop] = [size(cut[1]), size(cut[2])];
  if (crop > short) throw refuse(`a side of ${short} has no room for a crop of ${crop}`);
  return { short, crop };
}

/** The spec as text that parses back to it. */
export function formatResize(resize: Resize): string {
  return 'crop' in resize ? `short=${resize.short},crop=${resize.crop}` : `${resize.height}x${resize.width}`;
}

/**
 * A data set whose images are brought to another size as they are read. Bytes become
 * 'pixels': 0 to 255, in Float32Arrays.
 * @throws SisyphusError `usage` for rows that are no images, and for sizes that `parseResize` would not give
 */
export function resizeDataset(dataset: Dataset, resize: Resize): Dataset {
  const { shape, layout } = dataset;
  if (layout === 'plain' || shape.length !== 3)
    throw new SisyphusError(
      'usage',
      `--resize ${formatResize(resize)}: the rows of ${dataset.source || dataset.name} are [${shape.join(',')}], not images; leave it out`,
    );
  const sizes = Object.values(resize);
  if (!sizes.every((side) => Number.isInteger(side) && side >= 1) || ('crop' in resize && resize.crop > resize.short))
    throw new SisyphusError(
      'usage',
      `--resize ${formatResize(resize)}: sides are whole numbers from 1 on, and a crop fits into the shorter side`,
    );
  const planar = layout === 'chw';
  const [channels = 1, height = 1, width = 1] = planar ? shape : [shape[2], shape[0], shape[1]];
  const [rows, columns] = axes(height, width, resize);
  const image = resampler(rows, columns, channels, planar);
  const [h, w] = [rows.length, columns.length];
  const [from, to] = [channels * height * width, channels * h * w];
  return {
    ...dataset,
    elem: dataset.elem === 'uint8' ? 'pixels' : dataset.elem,
    shape: planar ? [channels, h, w] : [h, w, channels],
    async *batches(options) {
      for await (const batch of dataset.batches(options)) {
        const resized = new Float32Array(batch.count * to);
        for (let i = 0; i < batch.count; i++)
          image(batch.rows.subarray(i * from, (i + 1) * from), resized.subarray(i * to, (i + 1) * to));
        yield { ...batch, rows: resized };
      }
    },
  };
}

/** How the points of one axis come about. */
interface Axis {
  /** Points before. */
  readonly input: number;
  /** Points after. */
  readonly length: number;
  /** Taps per point. */
  readonly taps: number;
  /** For each point: the first of its taps. */
  readonly start: Int32Array;
  /** `taps` for each point; they sum to 1. */
  readonly weights: Float64Array;
}

function axes(height: number, width: number, resize: Resize): [Axis, Axis] {
  if (!('crop' in resize)) return [axis(height, resize.height), axis(width, resize.width)];
  const { short, crop } = resize;
  // The longer side is cut down and the margin rounded half to even, as torchvision's Resize and CenterCrop do.
  const scaled = (side: number) => Math.floor((short * side) / Math.min(height, width));
  const cut = (side: number) => axis(side, scaled(side), roundHalfEven((scaled(side) - crop) / 2), crop);
  return [cut(height), cut(width)];
}

const roundHalfEven = (value: number) => (value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));

/** @param length points of the whole axis after scaling, of which `count` from `first` on are made */
function axis(input: number, length: number, first = 0, count = length): Axis {
  const scale = input / length;
  const support = Math.max(scale, 1); // of the triangle, to either side
  const taps = Math.min(Math.ceil(support) * 2 + 1, input);
  const start = new Int32Array(count);
  const weights = new Float64Array(count * taps);
  for (let i = 0; i < count; i++) {
    const centre = (first + i + 0.5) * scale;
    const from = Math.max(0, Math.floor(centre - support + 0.5));
    const to = Math.min(input, Math.floor(centre + support + 0.5));
    start[i] = Math.min(from, input - taps);
    const own = weights.subarray(i * taps, (i + 1) * taps);
    let sum = 0;
    for (let j = from; j < to; j++) {
      const weight = Math.max(0, 1 - Math.abs(j + 0.5 - centre) / support);
      own[j - Math.min(from, input - taps)] = weight;
      sum += weight;
    }
    for (let j = 0; j < taps; j++) own[j] = (own[j] as number) / sum;
  }
  return { input, length: count, taps, start, weights };
}

type Pixels = Uint8Array | Float32Array;

/** Along the rows of an image first, then along the columns. */
function resampler(rows: Axis, columns: Axis, channels: number, planar: boolean) {
  // A plane is `inner` interleaved values wide; planar images are several planes with one value.
  const [planes, inner] = planar ? [channels, 1] : [1, channels];
  const middle = new Float32Array(rows.input * columns.length * inner);
  return (source: Pixels, target: Float32Array): void => {
    for (let plane = 0; plane < planes; plane++) {
      alongRows(source, plane * rows.input * columns.input * inner, middle, rows.input, columns, inner);
      alongColumns(middle, target, plane * rows.length * columns.length * inner, rows, columns.length * inner);
    }
  };
}

function alongRows(source: Pixels, at: number, target: Float32Array, height: number, axis: Axis, inner: number): void {
  const { input, length, taps, start, weights } = axis;
  let out = 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < length; x++)
      for (let c = 0; c < inner; c++, out++) {
        let from = at + (y * input + (start[x] as number)) * inner + c;
        let sum = 0;
        for (let tap = x * taps; tap < (x + 1) * taps; tap++, from += inner)
          sum += (weights[tap] as number) * (source[from] as number);
        target[out] = sum;
      }
}

function alongColumns(source: Float32Array, target: Float32Array, at: number, axis: Axis, width: number): void {
  const { length, taps, start, weights } = axis;
  for (let y = 0; y < length; y++)
    for (let x = 0; x < width; x++) {
      let from = (start[y] as number) * width + x;
      let sum = 0;
      for (let tap = y * taps; tap < (y + 1) * taps; tap++, from += width)
        sum += (weights[tap] as number) * (source[from] as number);
      target[at + y * width + x] = sum;
    }
}
