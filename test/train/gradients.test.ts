/** Gradients against finite differences on tfjs' own backend 'cpu', and on both backends against each other. */
import { afterAll, describe, expect, it, vi } from 'vitest';
import { GRADIENTS } from '../../src/train/gradients.ts';
import { tf } from '../../src/train/tf.ts';
import { type BackendName, expectNear, floats, on, type Values } from '../support/tensors.ts';

type Inputs = () => tf.Tensor[];
/** Of tensors to one tensor. */
type Fn = (...x: tf.Tensor[]) => tf.Tensor;

interface Case {
  readonly inputs: Inputs;
  readonly fn: Fn;
  /** The same function where 'cpu' has no kernel of this name. */
  readonly oracle?: Fn;
}

/**
 * Central differences are off by STEP²/6 |f'''|, which is 1e-5 |f'''|, and by the rounding of float32 over the step,
 * 6e-8 |f| / STEP, which is 8e-6 |f|, for each element that an input reaches. The functions below stay under 20 in value
 * and under 100 in the third derivative; a wrong gradient is off by its own size.
 */
const STEP = 2 ** -7;
const TOLERANCE = 2e-3;

/** What arrives at the result: other than 1, so that each element counts for itself. */
const incoming = (shape: readonly number[]): tf.Tensor => floats(shape, 0.5, 1.5, 99);

const gradients = (backend: BackendName, { inputs }: Case, fn: Fn): Promise<Values[]> =>
  on(backend, () => {
    const x = inputs();
    return tf.grads(fn)(x, incoming(fn(...x).shape));
  });

/** d(sum of incoming * fn)/dx for each element of each input, summed in float64. */
async function differences({ inputs }: Case, fn: Fn): Promise<Values[]> {
  const given = await on('cpu', inputs);
  const value = async (k: number, i: number, step: number): Promise<number> => {
    const [y, dy] = await on('cpu', () => {
      const x = given.map(({ shape, values }, at) => {
        const moved = Float32Array.from(values);
        if (at === k) moved[i] = (moved[i] as number) + step;
        return tf.tensor(moved, [...shape]);
      });
      const result = fn(...x);
      return [result, incoming(result.shape)];
    });
    const weights = dy?.values ?? [];
    return Float64Array.from(weights, (weight, at) => weight * (y?.values[at] ?? 0)).reduce((a, b) => a + b, 0);
  };
  const found: Values[] = [];
  for (const [k, { shape, values }] of given.entries()) {
    const slopes = new Float64Array(values.length);
    for (const i of slopes.keys()) slopes[i] = ((await value(k, i, STEP)) - (await value(k, i, -STEP))) / (2 * STEP);
    found.push({ shape, dtype: 'float32', values: slopes });
  }
  return found;
}

// Away from kinks and jumps, and from 0; two of the numbers are never closer than two steps.
const around = () => tf.tensor2d([-1.6, -0.7, -0.3, 0.2, 0.6, 1.3], [2, 3]);
const positive = () => tf.tensor2d([0.3, 0.6, 0.9, 1.2, 1.7, 2.5], [2, 3]);
const row = () => tf.tensor1d([0.4, -1.1, 0.8]);
const cube = () =>
  tf.tensor3d(
    [3, -1, 4, 1.5, -5, 9, 2, 6, -5.5, 3.5, 8, -9].map((v) => v / 4),
    [2, 3, 2],
  );

const one = (fn: (x: tf.Tensor) => tf.Tensor, x: () => tf.Tensor = around): Case[] => [
  { inputs: () => [x()], fn: (t) => fn(t as tf.Tensor) },
];
const two = (
  fn: (a: tf.Tensor, b: tf.Tensor) => tf.Tensor,
  a: () => tf.Tensor = around,
  b: () => tf.Tensor = row,
): Case[] => [
  { inputs: () => [a(), b()], fn: (p, q) => fn(p as tf.Tensor, q as tf.Tensor) },
  { inputs: () => [b(), a()], fn: (p, q) => fn(p as tf.Tensor, q as tf.Tensor) },
  { inputs: () => [a(), tf.tensor2d([0.7, 1.9], [2, 1])], fn: (p, q) => fn(p as tf.Tensor, q as tf.Tensor) },
];
const several = (fn: Fn, ...inputs: (() => tf.Tensor)[]): Case => ({ inputs: () => inputs.map((x) => x()), fn });

const number = (x: tf.Tensor): tf.Tensor => tf.cast(x, 'float32');
const flat = (fn: (x: tf.Tensor) => tf.Tensor) => one((x) => number(fn(x)));
const compared = (fn: (a: tf.Tensor, b: tf.Tensor) => tf.Tensor) => two((a, b) => number(fn(a, b)));
const bool = (x: tf.Tensor): tf.Tensor => tf.cast(x, 'bool');
const indices = (x: tf.Tensor): tf.Tensor1D => tf.cast(x, 'int32') as tf.Tensor1D;
/** Parts that are told apart by what they are multiplied with. */
const weighted = (parts: tf.Tensor[]): tf.Tensor[] => parts.map((part, i) => tf.mul(part, i + 1));

const reductions = (fn: (x: tf.Tensor, axis?: number | number[], keepDims?: boolean) => tf.Tensor): Case[] => [
  ...one((x) => fn(x), cube),
  ...one((x) => fn(x, 1), cube),
  ...one((x) => fn(x, [-1, 0], true), cube),
];

const CASES: Record<string, Case[]> = {
  Abs: one(tf.abs),
  Neg: one(tf.neg),
  Exp: one(tf.exp),
  Expm1: one(tf.expm1),
  Log: one(tf.log, positive),
  Log1p: one(tf.log1p, positive),
  Sqrt: one(tf.sqrt, positive),
  Rsqrt: one(tf.rsqrt, positive),
  Square: one(tf.square),
  Reciprocal: one(tf.reciprocal, () => tf.add(positive(), 0.3)),
  Sin: one(tf.sin),
  Cos: one(tf.cos),
  Tan: one(tf.tan, row),
  Atan: one(tf.atan),
  Sinh: one(tf.sinh),
  Cosh: one(tf.cosh),
  Tanh: one(tf.tanh),
  Sigmoid: one(tf.sigmoid),
  Softplus: one(tf.softplus),
  Erf: one(tf.erf),
  Relu: one(tf.relu),
  Relu6: one((x) => tf.relu6(tf.mul(x, 6))),
  Elu: one(tf.elu),
  Selu: one(tf.selu),
  LeakyRelu: one((x) => tf.leakyRelu(x, 0.3)),
  Prelu: [
    several((x, alpha) => tf.prelu(x as tf.Tensor, alpha as tf.Tensor), around, row),
    several((x, alpha) => tf.prelu(x as tf.Tensor, alpha as tf.Tensor), row, around),
  ],
  ClipByValue: one((x) => tf.clipByValue(x, -0.5, 1)),
  Cast: one((x) => tf.cast(x, 'float32')),
  Identity: one((x) => tf.mul(tf.clone(x), tf.clone(x))),
  Add: two(tf.add),
  Sub: two(tf.sub),
  Multiply: [...two(tf.mul), ...one((x) => tf.mul(x, x))],
  RealDiv: two(tf.div),
  SquaredDifference: two(tf.squaredDifference),
  Maximum: two(tf.maximum),
  Minimum: two(tf.minimum),
  Mod: [
    several(
      (a, b) => tf.mod(a as tf.Tensor, b as tf.Tensor),
      around,
      () => tf.tensor1d([0.9, -0.45, 0.7]),
    ),
  ],
  Pow: [
    ...two(tf.pow, positive, () => tf.tensor1d([0.5, 1.4, 3])),
    several((x) => tf.pow(x as tf.Tensor, tf.tensor1d([2, 3, -1])), around),
    several(
      (x) => tf.pow(x as tf.Tensor, tf.tensor1d([0, 1, 2])),
      () => tf.tensor1d([0, 0, 0]),
    ),
  ],
  AddN: [several((...x) => tf.addN(weighted(x)), around, positive), several((x) => tf.addN([x as tf.Tensor]), around)],
  Select: [
    several(
      (c, t, e) => tf.where(bool(tf.greater(c as tf.Tensor, 0)), t as tf.Tensor, e as tf.Tensor),
      around,
      positive,
      row,
    ),
  ],
  BatchMatMul: [
    ...[false, true].flatMap((a) =>
      [false, true].map((b) =>
        several(
          (p, q) => tf.matMul(p as tf.Tensor, q as tf.Tensor, a, b),
          () => floats(a ? [3, 2] : [2, 3]),
          () => floats(b ? [4, 3] : [3, 4], -1, 1, 2),
        ),
      ),
    ),
    several(
      (p, q) => tf.matMul(p as tf.Tensor, q as tf.Tensor, true, false),
      () => floats([3, 2]),
      () => floats([2, 3, 2], -1, 1, 2),
    ),
  ],
  Concat: [
    several(
      (...x) => tf.concat(weighted(x), -1),
      cube,
      () => floats([2, 3, 1]),
    ),
  ],
  Pack: [several((...x) => tf.stack(weighted(x), 1), around, positive)],
  SplitV: [
    ...one((x) => tf.concat(weighted(tf.split(x, [1, 2], 1)), 1), cube),
    ...one((x) => tf.split(x, 1)[0] as tf.Tensor),
  ],
  Unpack: [
    ...one((x) => tf.stack(weighted(tf.unstack(x, 1))), cube),
    ...one((x) => tf.unstack(tf.reshape(x, [1, 6]))[0] as tf.Tensor),
  ],
  GatherV2: [
    several(
      (x, i) => tf.gather(x as tf.Tensor, indices(i as tf.Tensor), 1),
      cube,
      () => tf.tensor1d([2.5, 0.5, 2.5, 2.5]),
    ),
    several(
      (x, i) => tf.gather(x as tf.Tensor, indices(i as tf.Tensor)),
      cube,
      () => tf.tensor2d([1.5, 0.5], [1, 2]),
    ),
  ],
  UnsortedSegmentSum: [
    several(
      (x, i) => tf.unsortedSegmentSum(x as tf.Tensor, indices(i as tf.Tensor), 3),
      cube,
      () => tf.tensor1d([1.5, 1.5]),
    ),
  ],
  OneHot: one(
    (x) => tf.oneHot(indices(x), 3, 1, 0, 'float32'),
    () => tf.tensor1d([0.5, 2.5]),
  ),
  Reshape: one((x) => tf.reshape(x, [3, -1])),
  ExpandDims: one((x) => tf.expandDims(x, 1)),
  BroadcastTo: [
    {
      inputs: () => [floats([3, 1])],
      fn: (x) => tf.engine().runKernel('BroadcastTo', { x: x as tf.Tensor }, { shape: [2, 3, 2] }),
      oracle: (x) => tf.broadcastTo(x as tf.Tensor, [2, 3, 2]),
    },
  ],
  Transpose: one((x) => tf.transpose(x, [2, 0, 1]), cube),
  Slice: [...one((x) => tf.slice(x, [0, 1, 1], [2, -1, 1]), cube), ...one((x) => tf.slice(x, 1), cube)],
  StridedSlice: [
    ...one((x) => tf.stridedSlice(x, [0, 2], [2, -9], [1, -2]), cube),
    ...one((x) => tf.stridedSlice(x, [0, 1], [2, 2], [1, 1], 0, 0, 0, 0, 2), cube),
  ],
  PadV2: one((x) =>
    tf.pad(
      x,
      [
        [1, 0],
        [0, 2],
      ],
      3,
    ),
  ),
  MirrorPad: [
    ...one((x) =>
      tf.mirrorPad(
        x,
        [
          [1, 0],
          [2, 1],
        ],
        'reflect',
      ),
    ),
    ...one((x) =>
      tf.mirrorPad(
        x,
        [
          [1, 2],
          [0, 2],
        ],
        'symmetric',
      ),
    ),
  ],
  Tile: [...one((x) => tf.tile(x, [2, 1, 3]), cube), ...one((x) => tf.tile(tf.reshape(x, [6, 1]), [1, 3]))],
  Reverse: one((x) => tf.reverse(x, [0, -1]), cube),
  Sum: reductions(tf.sum),
  Mean: reductions(tf.mean),
  Max: reductions(tf.max),
  Min: reductions(tf.min),
  Prod: [
    ...reductions(tf.prod),
    ...one(
      (x) => tf.prod(x, 1),
      () => tf.tensor2d([2, 0, 3, 0, 0, 4, 1, 2, 3], [3, 3]),
    ),
  ],
  Softmax: one(tf.softmax, cube),
  LogSoftmax: [
    {
      inputs: () => [around()],
      fn: (x) => tf.engine().runKernel('LogSoftmax', { logits: x as tf.Tensor }, { axis: 1 }),
      oracle: (x) => tf.logSoftmax(x as tf.Tensor),
    },
  ],
  FloorDiv: [
    several(
      (a, b) => number(tf.floorDiv(a as tf.Tensor, b as tf.Tensor)),
      around,
      () => tf.tensor1d([0.43, -1.17, 0.83]),
    ),
  ],
  Greater: compared(tf.greater),
  GreaterEqual: compared(tf.greaterEqual),
  Less: compared(tf.less),
  LessEqual: compared(tf.lessEqual),
  Equal: compared(tf.equal),
  NotEqual: compared(tf.notEqual),
  LogicalAnd: compared((a, b) => tf.logicalAnd(bool(a), bool(b))),
  LogicalOr: compared((a, b) => tf.logicalOr(bool(a), bool(b))),
  LogicalNot: flat((x) => tf.logicalNot(bool(x))),
  Sign: flat(tf.sign),
  Step: flat((x) => tf.step(x, 0.5)),
  Floor: flat((x) => tf.floor(tf.add(x, 0.45))),
  Ceil: flat((x) => tf.ceil(x)),
  Round: flat((x) => tf.round(x)),
  IsNan: flat(tf.isNaN),
  IsInf: flat(tf.isInf),
  IsFinite: flat(tf.isFinite),
  All: flat((x) => tf.all(bool(x), 0)),
  Any: flat((x) => tf.any(bool(x), 0)),
  ArgMax: flat((x) => tf.argMax(x, 1)),
  ArgMin: flat((x) => tf.argMin(x, 0)),
  ZerosLike: flat(tf.zerosLike),
  OnesLike: flat(tf.onesLike),
};

const images = () => floats([2, 5, 4, 3]);
/** No two numbers close together, so that no other one becomes the largest. */
const apart = () =>
  tf.tensor4d(
    Float32Array.from({ length: 50 }, (_, i) => ((i * 23) % 50) / 10 - 2),
    [1, 5, 5, 2],
  );

/** tfjs' own convolutions and pools, which run on other backends alone. */
const CPU_CASES: Record<string, Case[]> = {
  Conv2D: [
    several(
      (x, w) => tf.conv2d(x as tf.Tensor4D, w as tf.Tensor4D, [2, 1], 'same'),
      images,
      () => floats([3, 2, 3, 2], -1, 1, 2),
    ),
  ],
  Conv2DBackpropInput: [
    several(
      (x, w) => tf.conv2dTranspose(x as tf.Tensor4D, w as tf.Tensor4D, [1, 6, 6, 2], 2, 'same'),
      () => floats([1, 3, 3, 3]),
      () => floats([3, 3, 2, 3], -1, 1, 2),
    ),
  ],
  DepthwiseConv2dNative: [
    several(
      (x, w) => tf.depthwiseConv2d(x as tf.Tensor4D, w as tf.Tensor4D, 1, 'valid'),
      images,
      () => floats([3, 3, 3, 2], -1, 1, 2),
    ),
  ],
  MaxPool: one((x) => tf.maxPool(x as tf.Tensor4D, 3, 2, 'same'), apart),
  AvgPool: one((x) => tf.avgPool(x as tf.Tensor4D, 2, 2, 'valid'), apart),
};

const runKernel = vi.spyOn(tf.engine(), 'runKernel');

describe('gradients', () => {
  afterAll(() => runKernel.mockRestore());

  it.each(Object.entries(CASES))('of %s', async (name, cases) => {
    runKernel.mockClear();
    for (const each of cases) {
      const wanted = await gradients('cpu', each, each.oracle ?? each.fn);
      expectNear(await gradients('onnxruntime', each, each.fn), wanted);
      expectNear(wanted, await differences(each, each.oracle ?? each.fn), TOLERANCE);
    }
    expect(runKernel.mock.calls.map(([kernel]) => kernel)).toContain(name);
  });

  it.each(Object.entries(CPU_CASES))('of %s', async (name, cases) => {
    runKernel.mockClear();
    for (const each of cases)
      expectNear(await gradients('cpu', each, each.fn), await differences(each, each.fn), TOLERANCE);
    expect(runKernel.mock.calls.map(([kernel]) => kernel)).toContain(name);
  });

  it('are all tested', () => {
    const tested = [...Object.keys(CASES), ...Object.keys(CPU_CASES)];
    expect(tested.sort()).toEqual(GRADIENTS.map(({ kernelName }) => kernelName).sort());
  });
});

describe.each(['cpu', 'onnxruntime'] as const)("where derivatives don't exist, on %s", (backend) => {
  const at = async (fn: Fn, ...x: number[]): Promise<number[][]> => {
    const found = await on(backend, () => tf.grads(fn)([tf.tensor1d(x)], undefined));
    return found.map(({ values }) => [...values]);
  };

  it('ReLU has 0 at 0', async () => {
    expect(await at((x) => tf.relu(x as tf.Tensor), -1, 0, 2)).toEqual([[0, 0, 1]]);
    expect(await at((x) => tf.relu6(x as tf.Tensor), 0, 6, 5)).toEqual([[0, 0, 1]]);
  });

  it('equal extremes share evenly', async () => {
    expect(await at((x) => tf.max(x as tf.Tensor), 3, 1, 3)).toEqual([[0.5, 0, 0.5]]);
    expect(await at((x) => tf.min(x as tf.Tensor), 1, 1, 3, 1, 1)).toEqual([[0.25, 0.25, 0, 0.25, 0.25]]);
  });

  it('what a condition did not choose gets 0, even of infinity', async () => {
    const [t, e] = await on(backend, () => {
      const choose: Fn = (p, q) => tf.where(tf.tensor1d([true, false]), p as tf.Tensor, q as tf.Tensor);
      const infinite = tf.fill([2], Number.POSITIVE_INFINITY);
      return tf.grads(choose)([tf.tensor1d([1, 2]), tf.tensor1d([3, 4])], infinite);
    });
    expect([...(t?.values ?? [])]).toEqual([Number.POSITIVE_INFINITY, 0]);
    expect([...(e?.values ?? [])]).toEqual([0, Number.POSITIVE_INFINITY]);
  });
});
