/**
 * Ten shapes on noisy ground, made as they are asked for: a data set for demos and tests that needs no download. Place,
 * size, tilt, contrast and its sign are random, so the mean image tells no classes apart and a linear model is lost,
 * while a small convolutional network does well.
 */
import { SisyphusError } from '../errors.ts';
import { makeRng } from '../rng.ts';
import type { Batch, BatchOptions, Dataset, DatasetOptions, Split } from './dataset.ts';
import { planBatches } from './records.ts';

const LENGTH: Readonly<Record<Split, number>> = { train: 20_000, test: 4_000 };
const DEFAULT_SHAPE = '1x28x28';

// How hard it is. Intensities run from 0 to 1.
const RADIUS = [0.22, 0.38] as const; // of the shorter side
const TILT = 0.15; // tangent of half the angle: 17 degrees
const GROUND = [0.35, 0.65] as const;
const CONTRAST = [0.2, 0.45] as const;
const SLOPE = 0.12; // of the ground, from the centre to an edge
const NOISE = 0.1; // largest

/** Signed distances to the outline, negative inside; shapes reach to about 1 from the centre. */
const SHAPES: Readonly<Record<string, (x: number, y: number) => number>> = {
  disc: (x, y) => radius(x, y) - 0.9,
  ring: (x, y) => Math.abs(radius(x, y) - 0.72) - 0.22,
  square: (x, y) => square(x, y) - 0.8,
  frame: (x, y) => Math.abs(square(x, y) - 0.65) - 0.2,
  triangle: (x, y) => Math.max(y - 0.6, 0.866 * Math.abs(x) - 0.5 * y - 0.45),
  plus: (x, y) => plus(x, y),
  cross: (x, y) => plus((x + y) * Math.SQRT1_2, (x - y) * Math.SQRT1_2),
  rows: (x, y) => Math.max(square(x, y) - 0.85, stripes(y)),
  columns: (x, y) => Math.max(square(x, y) - 0.85, stripes(x)),
  checker: (x, y) => Math.max(square(x, y) - 0.85, x * y > 0 ? -min(x, y) : min(x, y)),
};

const radius = (x: number, y: number) => Math.sqrt(x * x + y * y);
const square = (x: number, y: number) => Math.max(Math.abs(x), Math.abs(y));
const min = (x: number, y: number) => Math.min(Math.abs(x), Math.abs(y));
const bar = (x: number, y: number) => Math.max(Math.abs(x) - 0.25, Math.abs(y) - 0.95);
const plus = (x: number, y: number) => Math.min(bar(x, y), bar(y, x));
/** Three stripes of 0.34 with gaps of the same width. */
const stripes = (x: number) => Math.min(Math.abs(x), Math.abs(Math.abs(x) - 0.68)) - 0.17;

const CLASS_NAMES = Object.keys(SHAPES);
const DISTANCES = Object.values(SHAPES);

/**
 * Row i of a split depends on nothing but the split, i and the shape; its class is i modulo 10.
 * @param spec CxHxW; '' for 1x28x28
 * @throws SisyphusError `spec`
 */
export async function openSynthetic(spec: string, options: DatasetOptions): Promise<Dataset> {
  const { split = 'test' } = options;
  const shape = parseShape(spec || DEFAULT_SHAPE);
  return {
    name: 'synthetic',
    source: '',
    split,
    length: LENGTH[split],
    shape,
    layout: 'chw',
    elem: 'uint8',
    classes: CLASS_NAMES.length,
    classNames: CLASS_NAMES,
    batches: (options) => batches(split, shape, options),
  };
}

type Shape = readonly [channels: number, height: number, width: number];

function parseShape(spec: string): Shape {
  const [channels = 0, height = 0, width = 0] = /^\d+x\d+x\d+$/i.test(spec) ? spec.split(/x/i).map(Number) : [];
  if (channels >= 1 && channels <= 16 && Math.min(height, width) >= 8 && Math.max(height, width) <= 1024)
    return [channels, height, width];
  throw new SisyphusError(
    'spec',
    `synthetic:${spec}: give channels x height x width, as synthetic:3x32x32; up to 16 channels, sides from 8 to 1024`,
  );
}

async function* batches(split: Split, shape: Shape, options: BatchOptions): AsyncGenerator<Batch> {
  const size = shape[0] * shape[1] * shape[2];
  for (const { first, count, runs } of planBatches(LENGTH[split], options)) {
    const rows = new Uint8Array(count * size);
    const labels = new Int32Array(count);
    let i = 0;
    for (const { start, end } of runs)
      for (let row = start; row < end; row++, i++) {
        labels[i] = row % CLASS_NAMES.length;
        draw(split, row, shape, rows.subarray(i * size, (i + 1) * size));
      }
    yield { first, count, rows, labels };
  }
}

/** Only the operations that every platform rounds alike: no sine, no power. */
function draw(split: Split, row: number, [channels, height, width]: Shape, target: Uint8Array): void {
  const rng = makeRng((split === 'train' ? 1 : 2) * 2 ** 32 + row);
  const between = ([from, to]: readonly [number, number]) => from + (to - from) * rng.uniform();
  const distance = DISTANCES[row % DISTANCES.length] as (x: number, y: number) => number;
  const size = between(RADIUS) * Math.min(height, width);
  const centreX = between([size, width - size]);
  const centreY = between([size, height - size]);
  const tangent = between([-TILT, TILT]);
  const cos = (1 - tangent * tangent) / (1 + tangent * tangent) / size;
  const sin = (2 * tangent) / (1 + tangent * tangent) / size;
  const slopeX = (between([-SLOPE, SLOPE]) * 2) / width;
  const slopeY = (between([-SLOPE, SLOPE]) * 2) / height;
  const ground = Array.from({ length: channels }, () => between(GROUND));
  const colour = Array.from({ length: channels }, () => between([-1, 1]));
  const contrast = between(CONTRAST) / Math.max(...colour.map(Math.abs));

  const plane = height * width;
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at++) {
      const [dx, dy] = [x + 0.5 - centreX, y + 0.5 - centreY];
      // The edge is one pixel wide.
      const covered = clamp(0.5 - distance(cos * dx + sin * dy, cos * dy - sin * dx) * size);
      const slope = slopeX * (x - width / 2) + slopeY * (y - height / 2);
      for (let c = 0; c < channels; c++) {
        const clean = (ground[c] as number) + slope + covered * contrast * (colour[c] as number);
        target[c * plane + at] = Math.round(255 * clamp(clean + NOISE * (2 * rng.uniform() - 1)));
      }
    }
}

const clamp = (value: number) => Math.min(1, Math.max(0, value));
