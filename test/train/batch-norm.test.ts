/** Batch normalisation and its gradients: against formulas in double precision on both backends, and against onnxruntime's node. */
import '@tensorflow/tfjs-backend-cpu';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { type NdArray, openSession } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import { elementCount } from '../../src/graph/tensor.ts';
import { serialize } from '../../src/graph/write.ts';
import { makeRng } from '../../src/rng.ts';
import { BACKEND, type OnnxRuntimeBackend, registerOnnxRuntime } from '../../src/train/onnxruntime/backend.ts';
import { record } from '../../src/train/onnxruntime/lazy.ts';
import { batchNorm, normalize } from '../../src/train/ops/batch-norm.ts';
import { tf } from '../../src/train/tf.ts';
import { expectClose } from '../support/numeric.ts';

const EPSILON = 1e-5;
/** onnxruntime gets other nodes for one core or two than for many. */
const BACKENDS: Readonly<Record<string, () => Promise<unknown>>> = {
  'onnxruntime on one core': () => onnxRuntime(1),
  'onnxruntime on many cores': () => onnxRuntime(4),
  cpu: () => tf.setBackend('cpu'),
};
async function onnxRuntime(threads: number): Promise<OnnxRuntimeBackend> {
  const backend = registerOnnxRuntime({ threads });
  await tf.setBackend(BACKEND);
  return backend;
}
afterAll(() => tf.removeBackend(BACKEND));

interface Data {
  readonly dims: readonly number[];
  readonly x: Float32Array;
  readonly dy: Float32Array;
  readonly scale: Float32Array;
  readonly bias: Float32Array;
  /** For inference. */
  readonly mean: Float32Array;
  readonly variance: Float32Array;
}

/** @param offset the mean of x; its standard deviation is `deviation` */
function dataOf(dims: readonly number[], { seed = 1, offset = 0.5, deviation = 1 } = {}): Data {
  const rng = makeRng(seed);
  const normal = (length: number, mean: number, scale: number) =>
    Float32Array.from({ length }, () => mean + scale * rng.normal());
  const [size, channels] = [elementCount(dims), dims[1] ?? 0];
  return {
    dims,
    x: normal(size, offset, deviation),
    dy: normal(size, 0.1, 1),
    scale: normal(channels, 1, 0.5),
    bias: normal(channels, 0, 1),
    mean: normal(channels, 0, 1),
    variance: Float32Array.from({ length: channels }, () => rng.uniform() + 0.1),
  };
}

interface Expected {
  readonly y: Float64Array;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  readonly dx: Float64Array;
  readonly dscale: Float64Array;
  readonly dbias: Float64Array;
}

/** The definition, channel by channel in double precision; without statistics those of the batch. */
function reference({ dims, x, dy, scale, bias, mean, variance }: Data, training: boolean): Expected {
  const [size, channels] = [x.length, dims[1] ?? 0];
  const map = elementCount(dims.slice(2));
  const out = (length: number) => new Float64Array(length);
  const expected: Expected = {
    y: out(size),
    mean: out(channels),
    variance: out(channels),
    dx: out(size),
    dscale: out(channels),
    dbias: out(channels),
  };
  for (let c = 0; c < channels; c++) {
    const members = [...x.keys()].filter((i) => Math.floor(i / map) % channels === c);
    const at = (values: Float32Array, i: number) => values[i] ?? Number.NaN;
    const average = (f: (i: number) => number) => members.reduce((sum, i) => sum + f(i), 0) / members.length;
    const m = training ? average((i) => at(x, i)) : at(mean, c);
    const v = training ? average((i) => (at(x, i) - m) ** 2) : at(variance, c);
    const inverse = 1 / Math.sqrt(v + EPSILON);
    const normalized = (i: number) => (at(x, i) - m) * inverse;
    const meanDy = training ? average((i) => at(dy, i)) : 0;
    const meanProduct = training ? average((i) => at(dy, i) * normalized(i)) : 0;
    expected.mean[c] = m;
    expected.variance[c] = v;
    for (const i of members) {
      expected.y[i] = normalized(i) * at(scale, c) + at(bias, c);
      expected.dx[i] = at(scale, c) * inverse * (at(dy, i) - meanDy - normalized(i) * meanProduct);
    }
    expected.dscale[c] = average((i) => at(dy, i) * normalized(i)) * members.length;
    expected.dbias[c] = average((i) => at(dy, i)) * members.length;
  }
  return expected;
}

/** Runs it on every backend. @param tolerances of an element, and of a sum over the elements of a channel */
async function check(
  data: Data,
  training: boolean,
  { element = 1e-5, statistic = 1e-5, sum = 1e-4 } = {},
): Promise<void> {
  const expected = reference(data, training);
  for (const enter of Object.values(BACKENDS)) {
    await enter();
    const before = tf.memory().numTensors;
    const x = tf.tensor(data.x, [...data.dims]);
    const dy = tf.tensor(data.dy, [...data.dims]);
    const [scale, bias, mean, variance] = [data.scale, data.bias, data.mean, data.variance].map((values) =>
      tf.tensor1d(values),
    ) as [tf.Tensor1D, tf.Tensor1D, tf.Tensor1D, tf.Tensor1D];
    if (training) {
      const { y, mean: m, variance: v } = tf.tidy(() => ({ ...batchNorm(x, scale, bias, EPSILON) }));
      expect([y.shape, m.shape, v.shape]).toEqual([data.dims, [data.dims[1]], [data.dims[1]]]);
      expectClose(await y.data(), expected.y, element);
      expectClose(await m.data(), expected.mean, statistic);
      expectClose(await v.data(), expected.variance, statistic);
      tf.dispose([y, m, v]);
    } else {
      const y = tf.tidy(() => normalize(x, scale, bias, mean, variance, EPSILON));
      expectClose(await y.data(), expected.y, element);
      y.dispose();
    }
    const layer = (a: tf.Tensor, s: tf.Tensor, b: tf.Tensor) =>
      training
        ? batchNorm(a, s as tf.Tensor1D, b as tf.Tensor1D, EPSILON).y
        : normalize(a, s as tf.Tensor1D, b as tf.Tensor1D, mean, variance, EPSILON);
    const [dx, dscale, dbias] = tf.grads(layer)([x, scale, bias], dy) as [tf.Tensor, tf.Tensor, tf.Tensor];
    expect([dx.shape, dscale.shape, dbias.shape]).toEqual([x.shape, scale.shape, bias.shape]);
    expectClose(await dx.data(), expected.dx, element);
    expectClose(await dscale.data(), expected.dscale, sum);
    expectClose(await dbias.data(), expected.dbias, sum);
    tf.dispose([x, dy, scale, bias, mean, variance, dx, dscale, dbias]);
    expect(tf.memory().numTensors).toBe(before);
  }
}

const SHAPES: readonly (readonly number[])[] = [
  [8, 3],
  [1, 5],
  [4, 3, 5],
  [2, 3, 4, 5],
  [3, 4, 1, 1],
  [1, 2, 16, 16],
  [2, 16, 8, 8],
  [2, 3, 2, 3, 4],
];

describe('batchNorm', () => {
  // One element a channel has variance 0: 1 / sqrt(epsilon) = 316 enlarges the rounding of what cancels.
  for (const dims of SHAPES)
    it(`normalises [${dims}]`, () =>
      check(dataOf(dims), true, dims[0] === 1 && dims.length === 2 ? { element: 1e-3, sum: 1e-3 } : {}));

  it('normalises whatever shape', async () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 6 }), { maxLength: 2 });
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 2, max: 5 }),
        fc.integer({ min: 1, max: 20 }),
        sizes,
        fc.nat(1000),
        (n, c, map, seed) =>
          // Two elements can be close together: their deviation then is small, and what it divides as exact as they are.
          check(dataOf([n, c, ...map], { seed }), true, { element: 1e-3, sum: 1e-3 }),
      ),
      { numRuns: 20, seed: 5 },
    );
  });

  it('is exact where the mean is far from 0', () =>
    // Floats near 1000 are 6e-5 apart, half of which every element may be off by; their sums of 512 grow accordingly.
    check(dataOf([4, 3, 16, 8], { offset: 1000 }), true, { element: 5e-4, statistic: 2e-3, sum: 0.05 }));

  it('makes the bias of constant channels, and gives them gradients that are finite', async () => {
    const data = dataOf([4, 3, 5, 5]);
    await check({ ...data, x: new Float32Array(data.x.length).fill(0.25) }, true, { element: 1e-3, sum: 1e-3 });
  });

  it('gives no gradient through the statistics', async () => {
    for (const enter of Object.values(BACKENDS)) {
      await enter();
      const [x, one, zero] = [tf.tensor(dataOf([4, 2]).x, [4, 2]), tf.tensor1d([1, 1]), tf.tensor1d([0, 0])];
      const gradient = tf.grad((a) => {
        const { mean, variance } = batchNorm(a, one, zero, EPSILON);
        return tf.add(mean, variance);
      })(x);
      expect([...(await gradient.data())]).toEqual(Array(8).fill(0));
    }
  });

  it('has the gradient that finite differences find', async () => {
    await onnxRuntime(1);
    const { dims, x, dy, scale, bias } = dataOf([3, 2, 4], { seed: 3 });
    const [s, b] = [tf.tensor1d(scale), tf.tensor1d(bias)];
    const loss = (a: tf.Tensor): tf.Tensor => tf.sum(tf.mul(batchNorm(a, s, b, EPSILON).y, tf.tensor(dy, [...dims])));
    const gradient = await tf
      .grad(loss)(tf.tensor(x, [...dims]))
      .data();
    const at = async (i: number, step: number) => {
      const moved = x.slice();
      moved[i] = (moved[i] ?? 0) + step;
      return Number((await loss(tf.tensor(moved, [...dims])).data())[0]);
    };
    const step = 0.02; // central differences: off by step^2 times the third derivative, and 1e-6 / step of rounding
    const found = [];
    for (const i of x.keys()) found.push(((await at(i, step)) - (await at(i, -step))) / (2 * step));
    expectClose(found, gradient, 5e-3);
  });

  it('computes nothing that nobody asks for, and nothing twice', async () => {
    type Layer = [x: tf.Tensor, scale: tf.Tensor1D, bias: tf.Tensor1D];
    /** The operators that a graph for these tensors has. */
    const operators = async (threads: number, wanted: (...layer: Layer) => tf.Tensor[]): Promise<string[]> => {
      const backend = await onnxRuntime(threads);
      return tf.tidy(() => {
        const asked = wanted(tf.ones([2, 3, 16, 16]), tf.tensor1d([1, 2, 3]), tf.tensor1d([1, 2, 3]));
        const { graph } = record(asked.map((tensor) => backend.lazy(tensor))).model();
        return graph.nodes.map(({ op }) => op);
      });
    };
    const biasAlone = await operators(1, (x, scale, bias) => [
      tf.grad((value) => batchNorm(x, scale, value as tf.Tensor1D, EPSILON).y)(bias, x),
    ]);
    expect(biasAlone.filter((op) => op !== 'Expand')).toEqual(['ReduceMean', 'ReduceMean', 'Mul']);

    const everything = (...layer: Layer): tf.Tensor[] => {
      const statistics: tf.Tensor[] = [];
      const gradients = tf.grads((...inputs: tf.Tensor[]) => {
        const { y, mean, variance } = batchNorm(...(inputs as Layer), EPSILON);
        statistics.push(tf.keep(mean), tf.keep(variance));
        return y;
      })(layer, layer[0]);
      return [...gradients, ...statistics];
    };
    const oneCore = await operators(1, everything);
    expect(oneCore.filter((op) => op === 'BatchNormalization')).toHaveLength(1);
    const manyCores = await operators(4, everything);
    expect(manyCores.filter((op) => op === 'Sqrt')).toHaveLength(1); // of the variance, for the gradient
    expect(manyCores.filter((op) => op === 'FusedConv')).toHaveLength(1); // dx: nobody asked for y
  });

  it("agrees with onnxruntime's BatchNormalization in training mode", async () => {
    const data = dataOf([8, 16, 8, 8], { offset: 3, deviation: 2 });
    const channels = [16];
    const net = buildModel({ name: 'norm', opset: 17 });
    const y = net.node(
      'BatchNormalization',
      [
        net.input('x', 'float', data.dims),
        ...['scale', 'bias', 'mean', 'variance'].map((name) => net.input(name, 'float', channels)),
      ],
      { epsilon: EPSILON },
    );
    net.output(y, 'y', 'float', data.dims);
    const session = await openSession(serialize(net.model), { threads: 1 });
    await onnxRuntime(1);
    const [x, scale, bias, mean, variance] = [
      tf.tensor(data.x, [...data.dims]),
      ...[data.scale, data.bias, data.mean, data.variance].map((values) => tf.tensor1d(values)),
    ] as [tf.Tensor, tf.Tensor1D, tf.Tensor1D, tf.Tensor1D, tf.Tensor1D];
    const array = (values: Float32Array, dims: readonly number[]): NdArray => ({ elem: 'float', dims, data: values });
    const run = async (m: Float32Array, v: Float32Array) =>
      (
        await session.run(
          new Map([
            ['x', array(data.x, data.dims)],
            ['scale', array(data.scale, channels)],
            ['bias', array(data.bias, channels)],
            ['mean', array(m, channels)],
            ['variance', array(v, channels)],
          ]),
        )
      ).get('y')?.data as Float32Array;
    expectClose(
      await normalize(x, scale, bias, mean, variance, EPSILON).data(),
      await run(data.mean, data.variance),
      1e-4, // values up to 30
    );
    const training = batchNorm(x, scale, bias, EPSILON);
    const [m, v] = [await training.mean.data(), await training.variance.data()];
    expectClose(await training.y.data(), await run(Float32Array.from(m), Float32Array.from(v)), 1e-5);
    await session.release();
  });
});

describe('normalize', () => {
  for (const dims of SHAPES)
    it(`normalises [${dims}] by fixed statistics`, () => check(dataOf(dims), false, { element: 1e-4 }));
});
