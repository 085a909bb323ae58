/** Pooling and its gradients: against loops in double precision, on both backends, and against onnxruntime's own nodes. */
import '@tensorflow/tfjs-backend-cpu';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type NdArray, openSession } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import { serialize } from '../../src/graph/write.ts';
import { makeRng } from '../../src/rng.ts';
import { BACKEND, registerOnnxRuntime } from '../../src/train/onnxruntime/backend.ts';
import { record } from '../../src/train/onnxruntime/lazy.ts';
import { averagePool, maxPool, type PoolGeometry } from '../../src/train/ops/pool.ts';
import { tf } from '../../src/train/tf.ts';
import { expectClose } from '../support/numeric.ts';

const BACKENDS = [BACKEND, 'cpu'];
beforeAll(() => void registerOnnxRuntime({ threads: 1 }));
afterAll(() => tf.removeBackend(BACKEND));

type Dims = [n: number, c: number, h: number, w: number];
interface Case {
  readonly dims: Dims;
  readonly geometry: PoolGeometry;
  /** How x is made: small integers have many ties. */
  readonly ties: boolean;
}

const geometry = (options: Partial<PoolGeometry>): PoolGeometry => ({
  kernel: [2, 2],
  strides: [2, 2],
  pads: [0, 0, 0, 0],
  dilations: [1, 1],
  ceil: false,
  ...options,
});

function valuesOf(length: number, ties: boolean, seed: number): Float32Array {
  const rng = makeRng(seed);
  return Float32Array.from({ length }, () => (ties ? Math.floor(rng.uniform() * 3) - 1 : rng.uniform() * 2 - 1));
}

/** Windows as they are defined: for each output the elements of x that it sees, and how many places count. */
function* windows({ dims: [n, c, h, w], geometry: g }: Case, countIncludePad: boolean) {
  const [t, l, b, r] = g.pads;
  const span = [g.dilations[0] * (g.kernel[0] - 1) + 1, g.dilations[1] * (g.kernel[1] - 1) + 1] as const;
  const along = (size: number, before: number, after: number, at: 0 | 1) => {
    const starts = [];
    for (let start = -before; ; start += g.strides[at]) {
      const fits = start + span[at] <= size + after;
      // ceil_mode: one more window where the one before ends too early, if it begins in the input.
      const cut = g.ceil && start < size && start - g.strides[at] + span[at] < size + after;
      if (!fits && !cut) return starts;
      starts.push(start);
    }
  };
  for (let plane = 0; plane < n * c; plane++)
    for (const top of along(h, t, b, 0))
      for (const left of along(w, l, r, 1)) {
        const seen: number[] = [];
        let count = 0;
        for (let i = 0; i < g.kernel[0]; i++)
          for (let j = 0; j < g.kernel[1]; j++) {
            const [y, x] = [top + i * g.dilations[0], left + j * g.dilations[1]];
            const inside = y >= 0 && y < h && x >= 0 && x < w;
            if (inside) seen.push((plane * h + y) * w + x);
            if (inside || (countIncludePad && y < h + b && x < w + r)) count++;
          }
        yield { seen, count };
      }
}

/** A pool as a linear map that depends on x: which elements make each output, with which weight. */
type Weights = [index: number, weight: number][][];
const averaging = (of: Case, countIncludePad: boolean): Weights =>
  [...windows(of, countIncludePad)].map(({ seen, count }) => seen.map((index) => [index, 1 / count]));
const maximal = (of: Case, x: ArrayLike<number>): Weights =>
  [...windows(of, false)].map(({ seen }) => [
    [seen.reduce((best, index) => (Number(x[index]) > Number(x[best]) ? index : best)), 1],
  ]);

async function check(of: Case, pool: (x: tf.Tensor4D) => tf.Tensor4D, weights: (x: Float32Array) => Weights) {
  const x = valuesOf(
    of.dims.reduce((a, b) => a * b),
    of.ties,
    1,
  );
  const map = weights(x);
  const dy = valuesOf(map.length, false, 2);
  const y = map.map((terms) => terms.reduce((sum, [index, weight]) => sum + weight * (x[index] ?? Number.NaN), 0));
  const dx = new Float64Array(x.length);
  for (const [i, terms] of map.entries())
    for (const [index, weight] of terms) dx[index] = (dx[index] ?? 0) + weight * (dy[i] ?? Number.NaN);
  for (const backend of BACKENDS) {
    await tf.setBackend(backend);
    const input = tf.tensor4d(x, of.dims);
    const output = pool(input);
    // Sums of at most 25 terms of size 1 in single precision.
    expectClose(await output.data(), y, 1e-5);
    const upstream = tf.tensor4d(dy, output.shape);
    const gradient = tf.grad((value) => pool(value as tf.Tensor4D))(input, upstream);
    expect(gradient.shape).toEqual(of.dims);
    expectClose(await gradient.data(), dx, 1e-5);
    tf.dispose([input, output, upstream, gradient]);
  }
}

/** Sizes, kernels, strides, pads and dilations where every window sees an element of x. */
const cases = (dilated: boolean): fc.Arbitrary<Case> => {
  const axis = fc
    .record({
      size: fc.integer({ min: 1, max: 9 }),
      kernel: fc.integer({ min: 1, max: 4 }),
      stride: fc.integer({ min: 1, max: 4 }),
      dilation: dilated ? fc.integer({ min: 1, max: 2 }) : fc.constant(1),
      pads: fc.tuple(fc.nat(3), fc.nat(3)),
    })
    .map((a) => ({ ...a, pads: a.pads.map((pad) => Math.min(pad, a.kernel - 1)) as [number, number] }))
    .filter(
      (a) => a.size + a.pads[0] + a.pads[1] >= a.dilation * (a.kernel - 1) + 1 && (a.dilation === 1 || a.size > 3),
    );
  return fc
    .record({ n: fc.integer({ min: 1, max: 3 }), c: fc.integer({ min: 1, max: 3 }), rows: axis, columns: axis })
    .chain(({ n, c, rows, columns }) =>
      fc.record({
        dims: fc.constant<Dims>([n, c, rows.size, columns.size]),
        ties: fc.boolean(),
        geometry: fc.record({
          kernel: fc.constant([rows.kernel, columns.kernel] as const),
          strides: fc.constant([rows.stride, columns.stride] as const),
          pads: fc.constant([rows.pads[0], columns.pads[0], rows.pads[1], columns.pads[1]] as const),
          dilations: fc.constant([rows.dilation, columns.dilation] as const),
          ceil: fc.boolean(),
        }),
      }),
    );
};

const NAMED: readonly [string, Case][] = [
  ['2x2 in steps of 2', { dims: [2, 3, 8, 8], ties: false, geometry: geometry({}) }],
  ['2x2 in steps of 2 with rows left over', { dims: [2, 3, 7, 5], ties: true, geometry: geometry({}) }],
  ['2x2 in steps of 2, ceil', { dims: [2, 3, 7, 5], ties: true, geometry: geometry({ ceil: true }) }],
  [
    '3x3 in steps of 2, padded',
    { dims: [2, 3, 9, 8], ties: true, geometry: geometry({ kernel: [3, 3], pads: [1, 1, 1, 1] }) },
  ],
  [
    '3x3 in steps of 1, padded',
    { dims: [1, 2, 5, 6], ties: true, geometry: geometry({ kernel: [3, 3], strides: [1, 1], pads: [1, 0, 1, 2] }) },
  ],
  ['all of the map', { dims: [3, 2, 4, 5], ties: false, geometry: geometry({ kernel: [4, 5], strides: [1, 1] }) }],
  ['single elements', { dims: [1, 1, 1, 1], ties: false, geometry: geometry({ kernel: [1, 1], strides: [1, 1] }) }],
  ['every third element', { dims: [1, 2, 8, 8], ties: false, geometry: geometry({ kernel: [1, 1], strides: [3, 3] }) }],
];

describe('averagePool', () => {
  for (const [name, of] of NAMED)
    for (const include of [false, true])
      it(`${name}, ${include ? 'counting' : 'not counting'} padding`, () =>
        check(
          of,
          (x) => averagePool(x, of.geometry, include),
          () => averaging(of, include),
        ));

  it('is a mean of windows with whatever geometry, and its gradient the transposed map', async () => {
    await fc.assert(
      fc.asyncProperty(cases(false), fc.boolean(), (of, include) =>
        check(
          of,
          (x) => averagePool(x, of.geometry, include),
          () => averaging(of, include),
        ),
      ),
      { numRuns: 40, seed: 7 },
    );
  });
});

describe('maxPool', () => {
  for (const [name, of] of NAMED)
    it(name, () =>
      check(
        of,
        (x) => maxPool(x, of.geometry),
        (x) => maximal(of, x),
      ),
    );

  it('takes the first largest element of a window with whatever geometry, and so does its gradient', async () => {
    await fc.assert(
      fc.asyncProperty(cases(true), (of) =>
        check(
          of,
          (x) => maxPool(x, of.geometry),
          (x) => maximal(of, x),
        ),
      ),
      { numRuns: 40, seed: 8 },
    );
  });
});

describe('on onnxruntime', () => {
  it('the gradient of a maximum takes its indices from the node of the forward pass', async () => {
    const backend = registerOnnxRuntime({ threads: 1 });
    await tf.setBackend(BACKEND);
    const operators = (make: (x: tf.Tensor4D) => tf.Tensor[]) =>
      tf.tidy(() => {
        const asked = make(tf.tensor4d(valuesOf(32, false, 1), [1, 2, 4, 4]));
        return record(asked.map((tensor) => backend.lazy(tensor)))
          .model()
          .graph.nodes.map(({ op, outputs }) => `${op}:${outputs.length}`);
      });
    const pool = (x: tf.Tensor4D) => maxPool(x, geometry({}));
    expect(operators((x) => [pool(x)])).toEqual(['MaxPool:1']);
    const both = operators((x) => {
      const { value, grad } = tf.valueAndGrad(pool)(x, tf.ones([1, 2, 2, 2]));
      return [value, grad];
    });
    expect(both.filter((op) => op.startsWith('MaxPool'))).toEqual(['MaxPool:2']);
  });
});

describe("onnxruntime's own nodes", () => {
  async function runPool(op: string, { dims, geometry: g }: Case, data: Float32Array, extra: Record<string, number>) {
    const net = buildModel({ name: 'pool', opset: 17 });
    const y = net.node(op, [net.input('x', 'float', dims)], {
      kernel_shape: g.kernel,
      strides: g.strides,
      pads: g.pads,
      ceil_mode: g.ceil ? 1 : 0,
      ...(op === 'MaxPool' ? { dilations: g.dilations } : {}),
      ...extra,
    });
    net.output(y, 'y', 'float', [null, null, null, null]);
    const session = await openSession(serialize(net.model), { threads: 1, optimize: false });
    const results = await session.run(new Map([['x', { elem: 'float', dims, data }]]));
    await session.release();
    return results.get('y') as NdArray;
  }

  it('give the same shapes and numbers', async () => {
    await fc.assert(
      fc.asyncProperty(cases(false), fc.boolean(), async (of, include) => {
        const data = valuesOf(
          of.dims.reduce((a, b) => a * b),
          of.ties,
          3,
        );
        for (const backend of BACKENDS) {
          await tf.setBackend(backend);
          const x = tf.tensor4d(data, of.dims);
          const average = averagePool(x, of.geometry, include);
          const largest = maxPool(x, of.geometry);
          const expected = [
            await runPool('AveragePool', of, data, { count_include_pad: include ? 1 : 0 }),
            await runPool('MaxPool', of, data, {}),
          ] as const;
          for (const [i, y] of [average, largest].entries()) {
            expect(y.shape).toEqual(expected[i]?.dims);
            expectClose(await y.data(), expected[i]?.data as Float32Array, 1e-6); // order of a sum of 16 terms
          }
          tf.dispose([x, average, largest]);
        }
      }),
      { numRuns: 30, seed: 9 },
    );
  });
});
