/** Rows of features that a layer reads, and of values that it makes, at places chosen among images and positions. */
import { elementCount } from '../graph/tensor.ts';
import type { Rng } from '../rng.ts';
import type { LinearLayer } from './layers.ts';

/** A block of rows of a value: [count, ...shape]. */
export interface Block {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Where outputs of a row are: `channels` of them at each of `positions`; `stride` from one channel to the next. */
export interface Places {
  readonly channels: number;
  readonly positions: number;
  readonly channelStride: number;
  readonly positionStride: number;
}

/** @param shape of one row: [C, ...spatial] of images, [..., C] of what dense layers make */
export function placesOf(shape: readonly number[], planar: boolean): Places {
  const size = elementCount(shape);
  const channels = (planar ? shape[0] : shape.at(-1)) ?? 1;
  const positions = size / channels;
  return planar
    ? { channels, positions, channelStride: positions, positionStride: 1 }
    : { channels, positions, channelStride: 1, positionStride: channels };
}

/** `wanted` different positions of each row, in ascending order; all of them where there are no more. */
export function choosePositions(positions: number, wanted: number, rng: Rng): Int32Array {
  const all = Int32Array.from({ length: positions }, (_, i) => i);
  if (wanted >= positions) return all;
  for (let i = 0; i < wanted; i++) {
    const j = i + rng.int(positions - i);
    [all[i], all[j]] = [all[j] as number, all[i] as number];
  }
  return all.subarray(0, wanted).sort();
}

/**
 * What a layer multiplies by its weights.
 * @param chosen positions of each row of the block
 * @param into [rows * chosen, width] of all groups, one after the other; written from `column` on
 */
export function gatherFeatures(
  layer: LinearLayer,
  { shape, data }: Block,
  chosen: readonly Int32Array[],
  into: Float32Array,
  width: number,
  column: number,
): void {
  const size = elementCount(shape);
  let at = column;
  const all = layer.features * layer.groups;
  if (!layer.windows) {
    for (const [row, positions] of chosen.entries())
      for (const position of positions) {
        const from = row * size + position * all;
        into.set(data.subarray(from, from + all), at);
        at += width;
      }
    return;
  }
  const { kernel, strides, dilations, pads, output } = layer.windows;
  const [channels = 1, height = 1, breadth = 1] = shape;
  for (const [row, positions] of chosen.entries())
    for (const position of positions) {
      const top = Math.floor(position / output[1]) * strides[0] - pads[0];
      const left = (position % output[1]) * strides[1] - pads[1];
      let to = at;
      for (let c = 0; c < channels; c++) {
        const plane = row * size + c * height * breadth;
        for (let i = 0; i < kernel[0]; i++) {
          const y = top + i * dilations[0];
          const inside = y >= 0 && y < height;
          for (let j = 0; j < kernel[1]; j++) {
            const x = left + j * dilations[1];
            into[to++] = inside && x >= 0 && x < breadth ? (data[plane + y * breadth + x] as number) : 0;
          }
        }
      }
      at += width;
    }
}

/** The channels of a value at chosen positions. @param into [rows * chosen, width], written from `column` on */
export function gatherOutputs(
  { channels, channelStride, positionStride }: Places,
  { shape, data }: Block,
  chosen: readonly Int32Array[],
  into: Float32Array,
  width = channels,
  column = 0,
): void {
  const size = elementCount(shape);
  let at = column;
  for (const [row, positions] of chosen.entries())
    for (const position of positions) {
      const from = row * size + position * positionStride;
      for (let c = 0; c < channels; c++) into[at + c] = data[from + c * channelStride] as number;
      at += width;
    }
}
