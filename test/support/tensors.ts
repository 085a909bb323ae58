/** The same tfjs function on the backend 'onnxruntime' and on tfjs' own 'cpu', which is the oracle. */
import '@tensorflow/tfjs-backend-cpu';
import fc from 'fast-check';
import { expect } from 'vitest';
import { registerOnnxRuntime } from '../../src/train/onnxruntime/backend.ts';
import { tf } from '../../src/train/tf.ts';
import { noise } from './numeric.ts';

export const BACKENDS = ['cpu', 'onnxruntime'] as const;
export type BackendName = (typeof BACKENDS)[number];

/** What a tensor held. */
export interface Values {
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly values: Float64Array;
}

registerOnnxRuntime({ threads: 1 });

/** Runs a function on a backend and reads what it returns; nothing else is left in memory. */
export async function on(backend: BackendName, fn: () => tf.Tensor | tf.Tensor[]): Promise<Values[]> {
  await tf.setBackend(backend);
  const tensors = [tf.tidy(fn)].flat();
  const read: Values[] = [];
  for (const tensor of tensors)
    read.push({ shape: tensor.shape, dtype: tensor.dtype, values: Float64Array.from(await tensor.data()) });
  tf.dispose(tensors);
  return read;
}

/**
 * |Δ| <= tolerance * max(1, |expected|): float32 has 6e-8, and both sides approximate functions to a few units of the
 * last digit and add in different orders.
 */
export const TOLERANCE = 1e-5;

/** Equal shapes and types, and values within the tolerance; NaN equals NaN, -0 equals 0. */
export function expectNear(found: readonly Values[], expected: readonly Values[], tolerance = TOLERANCE): void {
  expect(found.map(({ shape, dtype }) => ({ shape, dtype }))).toEqual(
    expected.map(({ shape, dtype }) => ({ shape, dtype })),
  );
  for (const [k, { values }] of expected.entries())
    for (const [i, wanted] of values.entries()) {
      const got = found[k]?.values[i] ?? Number.NaN;
      const near = got === wanted || Math.abs(got - wanted) <= tolerance * Math.max(1, Math.abs(wanted));
      if (!near && !(Number.isNaN(got) && Number.isNaN(wanted)))
        expect.fail(`result ${k}, element ${i}: ${got}, expected ${wanted}`);
    }
}

/** @param tolerance see `TOLERANCE` */
export async function expectSameOnBoth(fn: () => tf.Tensor | tf.Tensor[], tolerance = TOLERANCE): Promise<void> {
  expectNear(await on('onnxruntime', fn), await on('cpu', fn), tolerance);
}

/** Repeatable floats in [low, high). */
export function floats(shape: readonly number[], low = -2, high = 2, seed = 1): tf.Tensor {
  const count = shape.reduce((a, b) => a * b, 1);
  return tf.tensor(
    Float32Array.from(noise(count, seed), (u) => low + ((u + 1) / 2) * (high - low)),
    [...shape],
  );
}

/** Repeatable whole numbers from low to high, both among them. */
export function whole(shape: readonly number[], low: number, high: number, seed = 1): tf.Tensor {
  const count = shape.reduce((a, b) => a * b, 1);
  return tf.tensor(
    Int32Array.from(noise(count, seed), (u) => Math.floor(low + ((u + 1) / 2) * (high + 1 - low))),
    [...shape],
    'int32',
  );
}

/** Repeatable truth values. */
export const truths = (shape: readonly number[], seed = 1): tf.Tensor => tf.cast(whole(shape, 0, 1, seed), 'bool');

export const anyShape = (minLength: number, maxLength = 4): fc.Arbitrary<number[]> =>
  fc.array(fc.integer({ min: 1, max: 4 }), { minLength, maxLength });

/** Two shapes that broadcast, either of which may have 1 where the other has more, or fewer dimensions. */
export const broadcastingShapes: fc.Arbitrary<[number[], number[]]> = anyShape(0).chain((dims) => {
  const some = fc
    .tuple(fc.nat(dims.length), fc.array(fc.boolean(), { minLength: dims.length, maxLength: dims.length }))
    .map(([drop, ones]) => dims.map((dim, i) => (ones[i] ? 1 : dim)).slice(drop));
  return fc.tuple(some, some);
});
