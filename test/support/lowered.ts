/** Running what models are lowered to, on both backends of tfjs that are always there. */
import '@tensorflow/tfjs-backend-cpu';
import { expect } from 'vitest';
import { arrayNumbers, type NdArray } from '../../src/eval/session.ts';
import type { Model } from '../../src/graph/ir.ts';
import type { Lowered } from '../../src/train/lower.ts';
import { BACKEND, registerOnnxRuntime } from '../../src/train/onnxruntime/backend.ts';
import { tf } from '../../src/train/tf.ts';
import { noise, runModel } from './numeric.ts';

export const BACKENDS = ['cpu', BACKEND] as const;

/** Makes a backend the one that runs; onnxruntime's starts anew. */
export async function useBackend(name: (typeof BACKENDS)[number]): Promise<void> {
  if (name === BACKEND) registerOnnxRuntime({ threads: 2 });
  await tf.setBackend(name);
}

export const tensorOf = ({ dims, data }: NdArray): tf.Tensor => tf.tensor(data as Float32Array, [...dims]);

/** Repeatable images: noise in [-1, 1) times a factor. */
export function rowsFor({ inputs: [input] }: Pick<Lowered, 'inputs'>, rows: number, seed = 5, scale = 1): NdArray {
  const dims = [rows, ...(input?.shape ?? [])];
  const data = Float32Array.from(
    noise(
      dims.reduce((a, b) => a * b),
      seed,
    ),
    (value) => scale * value,
  );
  return { elem: 'float', dims, data };
}

type ForwardOptions = Parameters<Lowered['forward']>[2];

/** Everything that a forward pass gives, by name, read. */
export async function forward(
  lowered: Lowered,
  x: NdArray,
  options: ForwardOptions = { training: false },
  weights: ReadonlyMap<string, NdArray> = new Map(),
): Promise<{ values: Map<string, NdArray>; statistics: Map<string, NdArray> }> {
  const [values, statistics] = tf.tidy(() => {
    const given = new Map([...weights].map(([name, array]) => [name, tensorOf(array)]));
    const result = lowered.forward([tensorOf(x)], given, options);
    return [Object.fromEntries(result.values), Object.fromEntries(result.statistics)];
  }) as [Record<string, tf.Tensor>, Record<string, tf.Tensor>];
  const read = async (tensors: Record<string, tf.Tensor>) => {
    const all = new Map<string, NdArray>();
    for (const [name, tensor] of Object.entries(tensors))
      all.set(name, { elem: 'float', dims: tensor.shape, data: Float32Array.from(await tensor.data()) });
    return all;
  };
  const arrays = { values: await read(values), statistics: await read(statistics) };
  tf.dispose([values, statistics]);
  return arrays;
}

/** Largest difference of two arrays of one shape, relative to the largest element of the second. */
export function relativeError(found: NdArray | undefined, expected: NdArray | undefined): number {
  expect(found?.dims).toEqual(expected?.dims);
  const [a, b] = [arrayNumbers(found as NdArray), arrayNumbers(expected as NdArray)];
  const largest = b.reduce((max, value) => Math.max(max, Math.abs(value)), 1e-30);
  return (
    a.reduce((max, value, i) => {
      const difference = Object.is(value, b[i]) ? 0 : Math.abs(value - (b[i] as number));
      return Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(max, difference);
    }, 0) / largest
  );
}

/** The forward pass in inference mode gives what onnxruntime gives for the file without optimisations. */
export async function expectAsFile(model: Model, lowered: Lowered, x: NdArray, tolerance: number): Promise<void> {
  const expected = await runModel(model, new Map([[lowered.inputs[0]?.name ?? '', x]]));
  const { values } = await forward(lowered, x);
  for (const name of lowered.outputs)
    expect(relativeError(values.get(name), expected.get(name)), name).toBeLessThanOrEqual(tolerance);
}
