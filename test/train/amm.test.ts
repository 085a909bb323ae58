/** Min-max normalisation while training. Example values: PyTorch's of the authors' module. */
import '@tensorflow/tfjs-backend-cpu';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { buildModel } from '../../src/graph/build.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { findActivations } from '../../src/passes/activation-sites.ts';
import { insertTrainableAmm } from '../../src/passes/insert-amm.ts';
import { lower } from '../../src/train/lower.ts';
import { minMaxNorm } from '../../src/train/ops/amm.ts';
import { tf } from '../../src/train/tf.ts';
import { forward, useBackend } from '../support/lowered.ts';
import { noise, noiseArray } from '../support/numeric.ts';
import { BACKENDS, expectNear, on } from '../support/tensors.ts';

describe.each(BACKENDS)('min-max normalisation on %s', (backend) => {
  it('maps the range of each channel to [-1, 1], with gradients through its ends', async () => {
    const x = [0, 1, 4];
    const [y, dx, min, range] = await on(backend, () => {
      const column = tf.tensor2d(x, [3, 1]);
      const { y, min, range } = minMaxNorm(column, 2, 1);
      const second = (input: tf.Tensor) => tf.sum(tf.slice(minMaxNorm(input, 2, 1).y, [1, 0], [1, 1])) as tf.Scalar;
      return [y, tf.grad(second)(column), min, range];
    });
    expect([...(y?.values ?? [])]).toEqual([-1, -0.5, 1]);
    expect([...(dx?.values ?? [])]).toEqual([-0.375, 0.5, -0.125]);
    expect([...(min?.values ?? []), ...(range?.values ?? [])]).toEqual([0, 4]);
  });

  it('shares the gradient of an extreme evenly, and divides a constant channel by 1', async () => {
    const [y, dx] = await on(backend, () => {
      const x = tf.tensor2d([0, 7, 0, 7, 4, 7, 2, 7], [4, 2]);
      const dy = tf.tensor2d([0, 1, 0, 2, 0, 3, 1, 4], [4, 2]);
      return [minMaxNorm(x, 2, 1).y, tf.grad((input) => minMaxNorm(input, 2, 1).y)(x, dy)];
    });
    expect([...(y?.values ?? [])]).toEqual([-1, -1, -1, -1, 1, -1, 0, -1]);
    const first = [...(dx?.values ?? [])].filter((_, i) => i % 2 === 0);
    expect(first).toEqual([-0.125, -0.125, -0.25, 0.5]); // u = 1/2: -g/2 to each end of the range
    expect([...(dx?.values ?? [])].every(Number.isFinite)).toBe(true);
  });
});

it('is the same on both backends, in values and gradients', async () => {
  const shapes = fc.tuple(
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 4 }),
    fc.integer({ min: 1, max: 4 }),
  );
  await fc.assert(
    fc.asyncProperty(shapes, fc.boolean(), fc.integer(), async ([n, c, side], flat, seed) => {
      const shape = flat ? [n, c] : [n, c, side, side];
      const size = shape.reduce((a, b) => a * b, 1);
      const make = () => {
        const [x, dy] = [1, 2].map((k) => tf.tensor(Float32Array.from(noise(size, seed + k)), shape)) as [
          tf.Tensor,
          tf.Tensor,
        ];
        const { y, min, range } = minMaxNorm(x, 2, 1);
        return [y, min, range, tf.grad((input) => minMaxNorm(input, 2, 1).y)(x, dy)];
      };
      expectNear(await on('onnxruntime', make), await on('cpu', make), 1e-4); // gradients divide by ranges down to 1e-3
    }),
    { numRuns: 30, seed: 2 },
  );
});

it('has the gradient that differences of its values have', async () => {
  const [slope, difference] = await on('cpu', () => {
    const x = tf.tensor(Float32Array.from(noise(24, 1)), [4, 3, 2]);
    const towards = tf.tensor(Float32Array.from(noise(24, 2)), [4, 3, 2]);
    const weights = tf.tensor(Float32Array.from(noise(24, 3)), [4, 3, 2]);
    const f = (input: tf.Tensor) => tf.sum(tf.mul(minMaxNorm(input, 2, 1).y, weights)) as tf.Scalar;
    const step = 1e-3; // no two elements are so near that an extreme changes place
    const moved = (sign: number) => f(tf.add(x, tf.mul(towards, sign * step)));
    return [tf.sum(tf.mul(tf.grad(f)(x), towards)), tf.div(tf.sub(moved(1), moved(-1)), 2 * step)];
  });
  // Rounding of 24 terms of size 1, divided by the width of the difference: 24 * 6e-8 / 2e-3.
  expect(Math.abs((slope?.values[0] ?? 0) - (difference?.values[0] ?? 1))).toBeLessThan(2e-3);
});

it('takes the estimates of the first batch exactly, however small they are beside the initial ones', async () => {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', ['N', 1]);
  b.output(b.node('Relu', [x], {}, 'relu'), 'y', 'float', ['N', 1]);
  const [site] = findActivations(b.model, inferTypes(b.model)).sites;
  if (!site) throw new Error('there is an activation');
  expect(insertTrainableAmm(b.model, site)).toBeNull();
  for (const backend of BACKENDS) {
    await useBackend(backend);
    const data = Float32Array.of(1e-9, 3e-9, 2e-9);
    const rows = { elem: 'float', dims: [3, 1], data } as const;
    const { statistics } = await forward(await lower(b.model, 'g'), rows, { training: true });
    expect([...((statistics.get('relu/amm/min')?.data ?? []) as Float32Array)]).toEqual([data[0]]);
    const range = Math.fround((data[1] as number) - (data[0] as number));
    expect([...((statistics.get('relu/amm/range')?.data ?? []) as Float32Array)]).toEqual([range]);
  }
});

it('keeps running averages where they are trained, and uses them where they are not', async () => {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', ['N', 3]);
  b.output(b.node('Relu', [x], {}, 'relu'), 'y', 'float', ['N', 3]);
  const [site] = findActivations(b.model, inferTypes(b.model)).sites;
  if (!site) throw new Error('there is an activation');
  expect(insertTrainableAmm(b.model, site)).toBeNull();
  await useBackend('onnxruntime');
  const lowered = await lower(b.model, 'g');
  expect(lowered.statistics.map(({ name }) => name)).toEqual(['relu/amm/min', 'relu/amm/range', 'relu/amm/seen']);
  expect(lowered.parameters).toEqual([]);
  const wanted = { min: [0, 0, 0], range: [0, 0, 0] };
  let state = new Map<string, Awaited<ReturnType<typeof forward>>['values'] extends Map<string, infer V> ? V : never>();
  for (let step = 0; step < 3; step++) {
    const rows = noiseArray('float', [5, 3], step + 1);
    const factor = step === 0 ? 1 : 0.1;
    for (let c = 0; c < 3; c++) {
      const column = [...(rows.data as Float32Array)].filter((_, i) => i % 3 === c);
      const [low, high] = [Math.min(...column), Math.max(...column)];
      wanted.min[c] = (1 - factor) * (wanted.min[c] as number) + factor * low;
      wanted.range[c] = (1 - factor) * (wanted.range[c] as number) + factor * (high - low);
    }
    state = (await forward(lowered, rows, { training: true }, state)).statistics;
  }
  const stored = (name: string) => [...((state.get(`relu/amm/${name}`)?.data ?? []) as Float32Array)];
  for (let c = 0; c < 3; c++) {
    expect(stored('min')[c]).toBeCloseTo(wanted.min[c] as number, 5);
    expect(stored('range')[c]).toBeCloseTo(wanted.range[c] as number, 5);
  }
  expect(stored('seen')).toEqual([3]);
  const frozen = await lower(b.model, 'g', { trains: () => false });
  const rows = noiseArray('float', [5, 3], 9);
  for (const training of [true, false]) {
    const { values } = await forward(frozen, rows, { training }, new Map());
    // Stored: min 1, range 1.
    const y = [...(rows.data as Float32Array)].map((value) => Math.max(0, Math.fround(2 * (value - 1) - 1)));
    expect([...((values.get('y')?.data ?? []) as Float32Array)]).toEqual(y);
  }
});
