/** Kernels of the backend 'onnxruntime' against those of tfjs' own 'cpu'. */
import fc from 'fast-check';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { KERNELS } from '../../src/train/onnxruntime/kernels.ts';
import { tf } from '../../src/train/tf.ts';
import {
  anyShape,
  broadcastingShapes,
  expectNear,
  expectSameOnBoth,
  floats,
  on,
  truths,
  whole,
} from '../support/tensors.ts';

type Case = () => tf.Tensor | tf.Tensor[];
type Unary = (x: tf.Tensor) => tf.Tensor;
type Binary = (a: tf.Tensor, b: tf.Tensor) => tf.Tensor;

const EDGES = [
  0, -0, 1, -1, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 6, 7, 20, -20, 100, -100, 1e-4, -1e-4, 1e-38, 3e38, -3e38,
];
const SPECIAL = [...EDGES, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
const edges = (): tf.Tensor => tf.tensor1d(SPECIAL);
const pairs = (values: number[]): [tf.Tensor, tf.Tensor] => [
  tf.tensor2d(values, [values.length, 1]),
  tf.tensor2d(values, [1, values.length]),
];
const ints = () => whole([3, 4], -5, 5);

const unary = (fn: Unary): Case[] => [() => fn(edges()), () => fn(floats([2, 3, 4])), () => fn(tf.scalar(0.7))];
/** Also whole numbers. */
const unaryInt = (fn: Unary): Case[] => [...unary(fn), () => fn(ints())];
const binary = (fn: Binary, values = SPECIAL): Case[] => [() => fn(...pairs(values))];
const binaryInt = (fn: Binary, values = SPECIAL): Case[] => [
  ...binary(fn, values),
  () => fn(whole([3, 4], -5, 5, 1), whole([4], 1, 4, 2)),
];
const comparison = (fn: Binary): Case[] => [
  ...binaryInt(fn),
  () => fn(whole([3, 4], 0, 2, 1), whole([3, 4], 0, 2, 2)),
  () => fn(truths([3, 4], 1), truths([4], 2)),
];
const logical = (fn: Binary): Case[] => [() => fn(truths([3, 4], 1), truths([4], 2))];

const cube = () => floats([2, 3, 4]);
const reduction = (fn: (x: tf.Tensor, axis?: number | number[], keepDims?: boolean) => tf.Tensor): Case[] => [
  () => fn(cube()),
  () => fn(cube(), 1),
  () => fn(cube(), -1, true),
  () => fn(cube(), [0, 2]),
  () => fn(cube(), [2, 0], true),
  () => fn(cube(), []),
  () => fn(tf.scalar(3)),
  () => fn(whole([3, 4], -3, 3), 0),
];
/** Padding of one element before and two behind the second of two axes. */
const BESIDE: [number, number][] = [
  [0, 0],
  [1, 2],
];

/** For each kernel calls of the operations of tfjs that run it. */
const CASES: Record<string, Case[]> = {
  Identity: unaryInt(tf.clone),
  Cast: [
    () => tf.cast(tf.tensor1d([0, -0, 1.5, -1.5, 0.2, 7]), 'int32'),
    () => tf.cast(tf.tensor1d([0, 1.5, Number.NaN, -3]), 'bool'),
    () => tf.cast(ints(), 'float32'),
    () => tf.cast(ints(), 'bool'),
    () => tf.cast(truths([5]), 'float32'),
    () => tf.cast(truths([5]), 'int32'),
    () => tf.cast(cube(), 'float32'),
  ],
  Abs: unaryInt(tf.abs),
  Neg: unaryInt(tf.neg),
  Square: unaryInt(tf.square),
  // NaN has no sign on 'cpu' (0), and stays NaN here.
  Sign: [() => tf.sign(tf.tensor1d([...EDGES, Number.POSITIVE_INFINITY])), () => tf.sign(ints())],
  Relu: unaryInt(tf.relu),
  Relu6: unaryInt(tf.relu6),
  ClipByValue: [...unary((x) => tf.clipByValue(x, -0.5, 2)), () => tf.clipByValue(ints(), -2, 3)],
  Floor: unary(tf.floor),
  Ceil: unary(tf.ceil),
  Round: unaryInt(tf.round),
  Exp: unary(tf.exp),
  Expm1: unary(tf.expm1),
  Log: unary(tf.log),
  Log1p: unary(tf.log1p),
  Sqrt: unary(tf.sqrt),
  Rsqrt: unary(tf.rsqrt),
  Reciprocal: unary(tf.reciprocal),
  Sin: unary(tf.sin),
  Cos: unary(tf.cos),
  Tan: unary(tf.tan),
  Atan: unary(tf.atan),
  Sinh: unary(tf.sinh),
  Cosh: unary(tf.cosh),
  Tanh: unary(tf.tanh),
  Sigmoid: unary(tf.sigmoid),
  Softplus: unary(tf.softplus),
  Erf: unary(tf.erf),
  Elu: unary(tf.elu),
  Selu: unary(tf.selu),
  LeakyRelu: [...unary((x) => tf.leakyRelu(x)), ...unary((x) => tf.leakyRelu(x, 1))],
  Prelu: [
    () => tf.prelu(edges(), tf.scalar(0.25)),
    () => tf.prelu(cube(), tf.tensor3d([0.1, 0.2, -0.3], [1, 3, 1])),
    () => tf.prelu(floats([3, 1]), floats([2, 3, 4], 0, 1, 2)),
  ],
  Step: [
    ...unary((x) => tf.step(x)),
    ...unary((x) => tf.step(x, 0.3)),
    () => tf.step(tf.tensor1d([1.2e-38, -1.2e-38])),
  ],
  IsNan: unary(tf.isNaN),
  IsInf: unary(tf.isInf),
  IsFinite: unary(tf.isFinite),
  Add: binaryInt(tf.add),
  Sub: binaryInt(tf.sub),
  Multiply: [...binaryInt(tf.mul), () => tf.mul(truths([3, 4], 1), truths([4], 2))],
  RealDiv: binary(tf.div),
  Maximum: binaryInt(tf.maximum),
  Minimum: binaryInt(tf.minimum),
  Pow: [...binary(tf.pow, EDGES), () => tf.pow(ints(), tf.scalar(3, 'int32')), () => tf.pow(cube(), 2)],
  // What is no number in a division is 0 in its whole part on 'cpu', and whatever the processor makes of it here.
  FloorDiv: [
    () => tf.floorDiv(floats([3, 4], -9, 9), tf.tensor([1, -2, 0.7, -0.3])),
    () => tf.floorDiv(whole([9, 9], -9, 9), whole([9], -3, 3, 5)),
    () => tf.div(whole([9, 9], -9, 9), tf.tensor1d([-3, -2, -1, 0, 1, 2, 3, 4, 5], 'int32')),
  ],
  Mod: [
    () => tf.mod(floats([3, 4], -9, 9), tf.tensor1d([1, -2, 0.7, -0.3])),
    () => tf.mod(tf.tensor1d([3, -3, 0, 5]), tf.tensor1d([-3, 3, 2, 0])),
    () => tf.mod(whole([9, 9], -9, 9), tf.tensor1d([-4, -3, -2, -1, 1, 2, 3, 4, 5], 'int32')),
  ],
  SquaredDifference: binaryInt(tf.squaredDifference),
  AddN: [() => tf.addN([cube(), floats([2, 3, 4], 0, 1, 2), floats([2, 3, 4], 0, 1, 3)]), () => tf.addN([cube()])],
  Greater: comparison(tf.greater),
  GreaterEqual: comparison(tf.greaterEqual),
  Less: comparison(tf.less),
  LessEqual: comparison(tf.lessEqual),
  Equal: comparison(tf.equal),
  NotEqual: comparison(tf.notEqual),
  LogicalAnd: logical(tf.logicalAnd),
  LogicalOr: logical(tf.logicalOr),
  LogicalNot: [() => tf.logicalNot(truths([3, 4]))],
  Select: [
    () => tf.where(truths([2, 3, 4]), cube(), floats([2, 3, 4], 5, 6)),
    () => tf.where(truths([3, 1]), cube(), 0),
    () => tf.where(tf.scalar(true), floats([3, 1]), floats([4])),
    () => tf.where(truths([3, 4]), ints(), whole([4], 7, 9)),
    () => tf.where(truths([3, 4]), truths([3, 4], 2), truths([4], 3)),
    () => tf.where(tf.tensor1d([true, false, true, false], 'bool'), tf.tensor1d([1, Number.NaN, Infinity, 2]), 3),
  ],
  Reshape: [
    () => tf.reshape(cube(), [4, -1]),
    () => tf.reshape(tf.scalar(3), [1, 1]),
    () => tf.reshape(floats([1]), []),
    () => tf.reshape(truths([6]), [2, 3]),
  ],
  ExpandDims: [0, 2, 3, -1].map((axis) => () => tf.expandDims(cube(), axis)),
  Transpose: [
    () => tf.transpose(cube()),
    () => tf.transpose(cube(), [1, 0, 2]),
    () => tf.transpose(floats([2, 1, 3]), [1, 0, 2]),
    () => tf.transpose(floats([2, 1, 3]), [2, 1, 0]),
    () => tf.transpose(truths([2, 3])),
  ],
  Slice: [
    () => tf.slice(cube(), [0, 1, 2], [2, -1, 1]),
    () => tf.slice(cube(), [1]),
    () => tf.slice(cube(), 0, 1),
    () => tf.slice(cube(), [0, 0, 0], [2, 3, 4]),
    () => tf.slice(cube(), [1, 0, 0], [0, 3, 4]),
    () => tf.slice(truths([5]), 1, 3),
  ],
  StridedSlice: [
    () => tf.stridedSlice(cube(), [0, 0, 3], [2, 3, 0], [1, 2, -1]),
    () => tf.stridedSlice(cube(), [0, -1], [2, 0], [1, -2], 0, 2),
    () => tf.stridedSlice(cube(), [1], [2], [1], 0, 0, 0, 0, 1),
    () => tf.stridedSlice(cube(), [0, 0, 1], [0, 0, 3], [1, 1, 1], 0, 0, 1, 2),
    () => tf.stridedSlice(floats([7]), [6], [-8], [-3]),
  ],
  Reverse: [() => tf.reverse(cube(), 1), () => tf.reverse(cube(), [0, -1]), () => tf.reverse(whole([5], 0, 9), 0)],
  Concat: [
    () => tf.concat([cube(), floats([2, 1, 4], 0, 1, 2)], 1),
    () => tf.concat([cube(), floats([2, 3, 2], 0, 1, 2), floats([2, 3, 1], 0, 1, 3)], -1),
    () => tf.concat([floats([0, 3]), floats([2, 3])], 0),
    () => tf.concat([whole([2], 0, 5), whole([3], 0, 5, 2)]),
  ],
  Pack: [0, 1, 3, -1].map((axis) => () => tf.stack([cube(), floats([2, 3, 4], 0, 1, 2)], axis)),
  Unpack: [0, 1, -1].map((axis) => () => tf.unstack(cube(), axis)),
  SplitV: [
    () => tf.split(floats([6, 2]), 3),
    () => tf.split(floats([2, 6]), [1, 2, 3], -1),
    () => tf.split(floats([2, 6]), [1, -1], 1),
    () => tf.split(floats([2, 6]), 1),
  ],
  PadV2: [
    () => tf.pad(floats([2, 3]), BESIDE),
    () => tf.pad(floats([2, 3]), BESIDE, 2.5),
    () => tf.pad(whole([2, 3], 0, 5), BESIDE, -1),
    () => tf.pad(truths([2, 3]), BESIDE, 1),
  ],
  MirrorPad: [
    () => tf.mirrorPad(floats([2, 3]), BESIDE, 'reflect'),
    () => tf.mirrorPad(floats([2, 3]), BESIDE, 'symmetric'),
    () =>
      tf.mirrorPad(
        floats([3, 3]),
        [
          [2, 1],
          [0, 2],
        ],
        'reflect',
      ),
  ],
  Tile: [
    () => tf.tile(cube(), [2, 1, 3]),
    () => tf.tile(floats([2, 1, 3]), [1, 4, 1]),
    () => tf.tile(truths([2]), [3]),
  ],
  GatherV2: [
    () => tf.gather(cube(), tf.tensor1d([2, 0, 2], 'int32'), 1),
    () => tf.gather(cube(), tf.tensor2d([1, 0, 1, 1], [2, 2], 'int32')),
    () => tf.gather(cube(), tf.scalar(2, 'int32'), -1),
  ],
  UnsortedSegmentSum: [
    () => tf.unsortedSegmentSum(floats([4, 2]), tf.tensor1d([2, 0, 2, 1], 'int32'), 4),
    () => tf.unsortedSegmentSum(floats([5]), tf.tensor1d([1, 1, 1, 0, 1], 'int32'), 2),
  ],
  Fill: [() => tf.fill([2, 3], 1.5), () => tf.fill([], 7, 'int32'), () => tf.fill([3], 1, 'bool')],
  ZerosLike: [() => tf.zerosLike(edges()), () => tf.zerosLike(ints()), () => tf.zerosLike(truths([3]))],
  OnesLike: [() => tf.onesLike(edges()), () => tf.onesLike(ints()), () => tf.onesLike(truths([3]))],
  Range: [
    () => tf.range(0, 5),
    () => tf.range(5, 0),
    () => tf.range(-1, 2, 0.75),
    () => tf.range(9, 0, -4, 'int32'),
    () => tf.range(0, 5, -1),
  ],
  LinSpace: [() => tf.linspace(-1, 2, 7), () => tf.linspace(3, 4, 1)],
  OneHot: [
    () => tf.oneHot(tf.tensor1d([2, 0, 1, 3, -1], 'int32'), 3),
    () => tf.oneHot(whole([2, 3], 0, 3), 4, 0.9, 0.1, 'float32'),
  ],
  Sum: [...reduction(tf.sum), () => tf.sum(truths([3, 4]), 0)],
  Mean: reduction(tf.mean),
  Prod: reduction(tf.prod),
  Max: [...reduction(tf.max), () => tf.max(tf.tensor2d([Infinity, 3, -Infinity, -Infinity], [2, 2]), 1)],
  Min: [...reduction(tf.min), () => tf.min(tf.tensor2d([Infinity, Infinity, -Infinity, 3], [2, 2]), 1)],
  All: [() => tf.all(truths([3, 4])), () => tf.all(tf.logicalOr(truths([3, 4]), truths([3, 4], 5)), -1, true)],
  Any: [() => tf.any(truths([3, 4])), () => tf.any(tf.logicalAnd(truths([3, 4]), truths([3, 4], 5)), 0)],
  ArgMax: [
    () => tf.argMax(cube(), 1),
    () => tf.argMax(whole([4, 5], 0, 2), -1), // the first of equals
    () => tf.argMax(floats([7])),
  ],
  ArgMin: [() => tf.argMin(cube(), 2), () => tf.argMin(whole([4, 5], 0, 2), 0)],
  Softmax: [() => tf.softmax(cube()), () => tf.softmax(tf.tensor1d([1000, 1001, -1000]))],
  BatchMatMul: [
    ...[false, true].flatMap((a) =>
      [false, true].flatMap((b) => [
        () => tf.matMul(floats(a ? [3, 2] : [2, 3]), floats(b ? [4, 3] : [3, 4], -1, 1, 2), a, b),
        () => tf.matMul(floats(a ? [5, 3, 2] : [5, 2, 3]), floats(b ? [1, 4, 3] : [1, 3, 4], -1, 1, 2), a, b),
        () => tf.matMul(whole(a ? [3, 2] : [2, 3], -5, 5), whole(b ? [4, 3] : [3, 4], -5, 5, 2), a, b),
      ]),
    ),
    () => tf.matMul(floats([2, 3]), floats([5, 3, 4], -1, 1, 2)),
  ],
};

/** tfjs has operations for these, but no kernel on 'cpu'. */
const WITHOUT_ORACLE: Record<string, { ours: Case; theirs: Case }> = {
  LogSoftmax: {
    ours: () => tf.engine().runKernel('LogSoftmax', { logits: floats([3, 5], -9, 9) }, { axis: 1 }),
    theirs: () => tf.logSoftmax(floats([3, 5], -9, 9) as tf.Tensor2D),
  },
  BroadcastTo: {
    ours: () => tf.engine().runKernel('BroadcastTo', { x: floats([3, 1]) }, { shape: [2, 3, 4] }),
    theirs: () => tf.broadcastTo(floats([3, 1]), [2, 3, 4]),
  },
};

const runKernel = vi.spyOn(tf.engine(), 'runKernel');

describe('kernels of tfjs', () => {
  afterAll(() => runKernel.mockRestore());

  it.each(Object.entries(CASES))('%s', async (name, cases) => {
    runKernel.mockClear();
    for (const fn of cases) await expectSameOnBoth(fn);
    expect(runKernel.mock.calls.map(([kernel]) => kernel)).toContain(name);
  });

  it.each(Object.entries(WITHOUT_ORACLE))('%s', async (_, { ours, theirs }) => {
    expectNear(await on('onnxruntime', ours), await on('cpu', theirs));
  });

  it('are all tested', () => {
    expect([...Object.keys(CASES), ...Object.keys(WITHOUT_ORACLE)].sort()).toEqual(Object.keys(KERNELS).sort());
  });
});

describe('shapes', () => {
  const property = <T>(arbitrary: fc.Arbitrary<T>, fn: (value: T) => tf.Tensor | tf.Tensor[], numRuns = 40) =>
    fc.assert(
      fc.asyncProperty(arbitrary, (value) => expectSameOnBoth(() => fn(value))),
      { numRuns },
    );
  const shapeAndAxes = anyShape(1).chain((shape) => fc.tuple(fc.constant(shape), fc.subarray(shape.map((_, i) => i))));

  it('of two operands broadcast', () =>
    property(broadcastingShapes, ([a, b]) => [
      tf.add(floats(a), floats(b, 0, 1, 2)),
      tf.less(floats(a), floats(b, 0, 1, 2)),
      tf.maximum(whole(a, -3, 3), whole(b, -3, 3, 2)),
    ]));

  it('of condition and choices broadcast, also where an operand was expanded before', () =>
    property(broadcastingShapes, ([a, b]) => {
      const dims = tf.backend_util.assertAndGetBroadcastShape(a, b);
      const wide = tf.broadcastTo(floats(a), dims);
      return [tf.where(truths(a), floats(b), 0), tf.mul(wide, floats(b, 0, 1, 2)), tf.sub(wide, wide)];
    }));

  it('are reduced along any axes', () =>
    property(fc.tuple(shapeAndAxes, fc.boolean()), ([[shape, axes], keep]) => {
      const x = floats(shape);
      return [tf.sum(x, axes, keep), tf.mean(x, axes, keep), tf.max(x, axes, keep), tf.min(x, axes, keep)];
    }));

  it('are permuted and reversed', () =>
    property(
      shapeAndAxes.chain(([shape, axes]) => {
        const all = shape.map((_, i) => i);
        return fc.tuple(fc.constant(shape), fc.constant(axes), fc.shuffledSubarray(all, { minLength: all.length }));
      }),
      ([shape, axes, perm]) => [tf.transpose(floats(shape), perm), tf.reverse(floats(shape), axes)],
    ));

  it('are sliced, padded and tiled', () =>
    property(
      anyShape(1).chain((shape) =>
        fc.tuple(
          fc.constant(shape),
          fc.tuple(...shape.map((dim) => fc.tuple(fc.nat(dim - 1), fc.nat(dim - 1)))),
          fc.tuple(...shape.map(() => fc.tuple(fc.nat(2), fc.nat(2)))),
        ),
      ),
      ([shape, ends, pads]) => {
        const x = floats(shape);
        const begin = ends.map(([p, q]) => Math.min(p, q));
        const size = ends.map(([p, q]) => Math.abs(p - q) + 1);
        return [
          tf.slice(x, begin, size),
          tf.pad(x, pads, 1),
          tf.tile(
            x,
            pads.map(([before]) => before + 1),
          ),
        ];
      },
    ));

  // What has no elements, 'cpu' refuses.
  it('are sliced in steps of either direction', () =>
    property(
      anyShape(1, 3).chain((shape) =>
        fc.tuple(
          fc.constant(shape),
          fc.tuple(...shape.map((dim) => fc.tuple(fc.nat(dim - 1), fc.nat(dim - 1), fc.integer({ min: 1, max: 3 })))),
        ),
      ),
      ([shape, cuts]) => {
        const down = cuts.map(([from, to]) => from > to);
        const end = cuts.map(([, to], i) => (down[i] ? (to === 0 ? -9 : to - 1) : to + 1));
        const steps = cuts.map(([, , step], i) => (down[i] ? -step : step));
        return tf.stridedSlice(
          floats(shape),
          cuts.map(([from]) => from),
          end,
          steps,
        );
      },
    ));

  it('of slices may have no elements', async () => {
    const [empty] = await on('onnxruntime', () => tf.stridedSlice(floats([7, 2]), [5, 0], [2, 2], [1, 1]));
    expect(empty).toEqual({ shape: [0, 2], dtype: 'float32', values: new Float64Array(0) });
  });

  it('are joined and taken apart along any axis', () =>
    property(shapeAndAxes, ([shape, [axis = 0]]) => {
      const [x, y] = [floats(shape), floats(shape, 0, 1, 2)];
      return [
        tf.concat([x, y], axis),
        tf.stack([x, y], axis),
        ...tf.unstack(x, axis),
        ...tf.split(tf.concat([x, y, x], axis), 3, axis),
      ];
    }));

  it('of products of matrices broadcast in front', () =>
    fc.assert(
      fc.asyncProperty(
        broadcastingShapes,
        fc.tuple(...[0, 1, 2].map(() => fc.integer({ min: 1, max: 5 }))),
        fc.boolean(),
        fc.boolean(),
        async ([front, other], [m = 1, k = 1, n = 1], ta, tb) => {
          const [left, right] = [ta ? [k, m] : [m, k], tb ? [n, k] : [k, n]];
          const a = () => floats([...front, ...left]);
          const b = () => floats([...other, ...right], -1, 1, 2);
          const dims = tf.backend_util.assertAndGetBroadcastShape(front, other);
          // 'cpu' multiplies the wrong matrices where both operands are repeated, so they are expanded for it.
          const whole = () =>
            tf.matMul(tf.broadcastTo(a(), [...dims, ...left]), tf.broadcastTo(b(), [...dims, ...right]), ta, tb);
          expectNear(await on('onnxruntime', () => tf.matMul(a(), b(), ta, tb)), await on('cpu', whole));
        },
      ),
      { numRuns: 40 },
    ));
});

describe('memory', () => {
  it('of temporary tensors is given back', async () => {
    await tf.setBackend('onnxruntime');
    const before = tf.memory().numTensors;
    const x = floats([3, 4]);
    const copies = tf.tidy(() => [tf.clone(x), tf.reshape(x, [12]), tf.relu(tf.clone(x))]);
    x.dispose();
    for (const copy of copies) expect((await copy.data()).length).toBe(12);
    tf.dispose(copies);
    expect(tf.memory().numTensors).toBe(before);
  });
});
