/**
 * Gradients of the kernels that training needs, for every backend. `@tensorflow/tfjs-core` registers none; packages that
 * bring gradients of their own go first. What is constant in pieces (comparisons, rounding, indices) has gradient 0.
 */
import * as tf from '@tensorflow/tfjs-core';

export function registerGradients(): void {
  for (const config of GRADIENTS) if (!tf.getGradient(config.kernelName)) tf.registerGradient(config);
}

type T = tf.Tensor;
type Attributes = tf.NamedAttrMap;

// Attributes are numbers, lists and words; their types are those of the operations that set them.
const numberOf = (attributes: Attributes, name: string): number => Number(attributes[name] ?? 0);
const numbersOf = (attributes: Attributes, name: string): number[] => attributes[name] as number[];
const axesOf = (axis: unknown, { shape }: T): number[] => tf.util.parseAxisParam(axis as number | number[], shape);

/** float32, whatever the type of the tensor whose shape it has. */
const zeros = ({ shape }: T): T => tf.fill(shape, 0, 'float32');
const mask = (condition: T): T => tf.cast(condition, 'float32');

/** Summed over the axes along which an operand of this shape was repeated; always a tensor of its own. */
function unbroadcast(dy: T, shape: number[]): T {
  if (tf.util.arraysEqual(dy.shape, shape)) return tf.clone(dy);
  const axes = tf.backend_util.getReductionAxes(shape, dy.shape);
  return tf.reshape(axes.length === 0 ? dy : tf.sum(dy, axes), shape);
}

/** Of a function of one tensor: dy times its slope, which is a function of the input. */
const slope = (kernelName: string, at: (x: T, attributes: Attributes) => T): tf.GradConfig => ({
  kernelName,
  inputsToSave: ['x'],
  gradFunc: (dy, saved, attributes) => {
    const [x] = saved as [T];
    return { x: () => tf.mul(dy as T, at(x, attributes)) };
  },
});

/** The same, where the slope is cheaper as a function of the output. */
const slopeByOutput = (kernelName: string, at: (y: T) => T): tf.GradConfig => ({
  kernelName,
  outputsToSave: [true],
  gradFunc: (dy, saved) => {
    const [y] = saved as [T];
    return { x: () => tf.mul(dy as T, at(y)) };
  },
});

/** Of a function of two tensors that broadcast. */
const binary = (
  kernelName: string,
  [byA, byB]: readonly [da: (dy: T, a: T, b: T) => T, db: (dy: T, a: T, b: T) => T],
): tf.GradConfig => ({
  kernelName,
  inputsToSave: ['a', 'b'],
  gradFunc: (dys, saved) => {
    const [dy, [a, b]] = [dys as T, saved as [T, T]];
    return { a: () => unbroadcast(byA(dy, a, b), a.shape), b: () => unbroadcast(byB(dy, a, b), b.shape) };
  },
});

/** 0 for every one of these inputs. */
const flat = (kernelName: string, ...inputs: string[]): tf.GradConfig => ({
  kernelName,
  inputsToSave: inputs,
  gradFunc: (_, saved) => Object.fromEntries(inputs.map((name, i) => [name, () => zeros(saved[i] as T)])),
});

/** Of one input, whose shape is needed. */
const moved = (kernelName: string, back: (dy: T, x: T, attributes: Attributes) => T, input = 'x'): tf.GradConfig => ({
  kernelName,
  inputsToSave: [input],
  gradFunc: (dy, saved, attributes) => ({ [input]: () => back(dy as T, saved[0] as T, attributes) }),
});

/** The result of a reduction in the shape that broadcasts with what was reduced. */
const kept = (y: T, x: T, axes: number[]): T =>
  tf.reshape(
    y,
    tf.backend_util.expandShapeToKeepDim(
      x.shape.filter((_, i) => !axes.includes(i)),
      [...axes].sort((p, q) => p - q),
    ),
  );

const ELEMENTWISE = [
  slope('Abs', (x) => tf.sign(x)),
  moved('Neg', (dy) => tf.neg(dy)),
  slopeByOutput('Exp', (y) => y),
  slope('Expm1', (x) => tf.exp(x)),
  moved('Log', (dy, x) => tf.div(dy, x)),
  moved('Log1p', (dy, x) => tf.div(dy, tf.add(x, 1))),
  slopeByOutput('Sqrt', (y) => tf.div(0.5, y)),
  slopeByOutput('Rsqrt', (y) => tf.mul(tf.mul(y, -0.5), tf.square(y))),
  slope('Square', (x) => tf.mul(x, 2)),
  slopeByOutput('Reciprocal', (y) => tf.neg(tf.square(y))),
  slope('Sin', (x) => tf.cos(x)),
  slope('Cos', (x) => tf.neg(tf.sin(x))),
  slopeByOutput('Tan', (y) => tf.add(tf.square(y), 1)),
  moved('Atan', (dy, x) => tf.div(dy, tf.add(tf.square(x), 1))),
  slope('Sinh', (x) => tf.cosh(x)),
  slope('Cosh', (x) => tf.sinh(x)),
  slopeByOutput('Tanh', (y) => tf.sub(1, tf.square(y))),
  slopeByOutput('Sigmoid', (y) => tf.mul(y, tf.sub(1, y))),
  slope('Softplus', (x) => tf.sigmoid(x)),
  slope('Erf', (x) => tf.mul(tf.exp(tf.neg(tf.square(x))), 2 / Math.sqrt(Math.PI))),
  slopeByOutput('Relu', (y) => tf.step(y)), // the output is in memory anyway: it is the next layer's input
  slopeByOutput('Relu6', (y) => tf.step(tf.mul(y, tf.sub(6, y)))),
  slopeByOutput('Elu', (y) => tf.add(tf.minimum(y, 0), 1)),
  slope('Selu', (x) => tf.mul(tf.where(tf.greater(x, 0), 1, tf.mul(tf.exp(tf.minimum(x, 0)), SELU_ALPHA)), SELU_SCALE)),
  slope('LeakyRelu', (x, attributes) => tf.step(x, numberOf(attributes, 'alpha'))),
  slope('ClipByValue', (x, attributes) => {
    const [low, high] = [numberOf(attributes, 'clipValueMin'), numberOf(attributes, 'clipValueMax')];
    return mask(tf.logicalAnd(tf.greaterEqual(x, low), tf.lessEqual(x, high)));
  }),
  moved('Cast', (dy) => tf.clone(dy)),
  moved('Identity', (dy) => tf.clone(dy)),
];

/** As in Klambauer et al. 2017 (arXiv 1706.02515), section 2. */
const SELU_ALPHA = 1.6732632423543772;
const SELU_SCALE = 1.0507009873554805;

const BINARY = [
  binary('Add', [(dy) => dy, (dy) => dy]),
  binary('Sub', [(dy) => dy, (dy) => tf.neg(dy)]),
  binary('Multiply', [(dy, _, b) => tf.mul(dy, b), (dy, a) => tf.mul(dy, a)]),
  binary('RealDiv', [(dy, _, b) => tf.div(dy, b), (dy, a, b) => tf.neg(tf.div(tf.mul(dy, a), tf.square(b)))]),
  binary('SquaredDifference', [
    (dy, a, b) => tf.mul(dy, tf.mul(tf.sub(a, b), 2)),
    (dy, a, b) => tf.mul(dy, tf.mul(tf.sub(b, a), 2)),
  ]),
  // Where both are equal, the first one takes it all.
  binary('Maximum', [
    (dy, a, b) => tf.mul(dy, mask(tf.greaterEqual(a, b))),
    (dy, a, b) => tf.mul(dy, mask(tf.less(a, b))),
  ]),
  binary('Minimum', [
    (dy, a, b) => tf.mul(dy, mask(tf.lessEqual(a, b))),
    (dy, a, b) => tf.mul(dy, mask(tf.greater(a, b))),
  ]),
  binary('Mod', [(dy) => dy, (dy, a, b) => tf.neg(tf.mul(dy, tf.floor(tf.div(a, b))))]),
  binary('Pow', [
    // b a^(b-1), which for b = 0 is 0 and not 0 times infinity.
    (dy, a, b) => tf.mul(dy, tf.mul(b, tf.pow(a, tf.sub(b, mask(tf.notEqual(b, 0)))))),
    // a^b log(a), for positive a alone.
    (dy, a, b) => {
      const positive = tf.greater(a, 0);
      return tf.mul(dy, tf.mul(tf.pow(a, b), tf.log(tf.where(positive, a, 1))));
    },
  ]),
  ...['FloorDiv', 'Greater', 'GreaterEqual', 'Less', 'LessEqual', 'Equal', 'NotEqual', 'LogicalAnd', 'LogicalOr'].map(
    (name) => flat(name, 'a', 'b'),
  ),
];

const FLAT = [
  ...['Sign', 'Step', 'Floor', 'Ceil', 'Round', 'IsNan', 'IsInf', 'IsFinite', 'LogicalNot'],
  ...['All', 'Any', 'ArgMax', 'ArgMin', 'ZerosLike', 'OnesLike'],
].map((name) => flat(name, 'x'));

const SEVERAL_INPUTS: tf.GradConfig[] = [
  {
    kernelName: 'AddN',
    saveAllInputs: true,
    gradFunc: (dy, saved) => Object.fromEntries(saved.map((_, i) => [i, () => tf.clone(dy as T)])),
  },
  {
    kernelName: 'Prelu',
    inputsToSave: ['x', 'alpha'],
    gradFunc: (dys, saved) => {
      const [dy, [x, alpha]] = [dys as T, saved as [T, T]];
      return {
        x: () => unbroadcast(tf.where(tf.greater(x, 0), dy, tf.mul(dy, alpha)), x.shape),
        alpha: () => unbroadcast(tf.mul(dy, tf.minimum(x, 0)), alpha.shape),
      };
    },
  },
  {
    kernelName: 'Select',
    inputsToSave: ['condition'],
    gradFunc: (dys, saved) => {
      const [dy, [condition]] = [dys as T, saved as [T]];
      return {
        condition: () => zeros(condition),
        // Chosen and not multiplied by the condition: what was not taken may be infinite.
        t: () => tf.where(condition, dy, 0),
        e: () => tf.where(condition, 0, dy),
      };
    },
  },
  {
    kernelName: 'BatchMatMul',
    inputsToSave: ['a', 'b'],
    gradFunc: (dys, saved, { transposeA, transposeB }) => {
      const [dy, [a, b]] = [dys as T, saved as [T, T]];
      const [ta, tb] = [Boolean(transposeA), Boolean(transposeB)];
      return {
        a: () => unbroadcast(ta ? tf.matMul(b, dy, tb, true) : tf.matMul(dy, b, false, !tb), a.shape),
        b: () => unbroadcast(tb ? tf.matMul(dy, a, true, ta) : tf.matMul(a, dy, !ta, false), b.shape),
      };
    },
  },
  {
    kernelName: 'Concat',
    saveAllInputs: true,
    gradFunc: (dy, saved, attributes) => {
      const [axis = 0] = axesOf(attributes.axis, saved[0] as T);
      const parts = tf.split(
        dy as T,
        saved.map(({ shape }) => shape[axis] as number),
        axis,
      );
      return Object.fromEntries(parts.map((part, i) => [i, () => part]));
    },
  },
  {
    kernelName: 'Pack',
    saveAllInputs: true,
    gradFunc: (dy, _, attributes) => {
      const parts = tf.unstack(dy as T, numberOf(attributes, 'axis'));
      return Object.fromEntries(parts.map((part, i) => [i, () => part]));
    },
  },
  {
    kernelName: 'SplitV',
    gradFunc: (dys, _, attributes) => ({ x: () => tf.concat([dys].flat(), numberOf(attributes, 'axis')) }),
  },
  {
    kernelName: 'Unpack',
    gradFunc: (dys, _, attributes) => ({ value: () => tf.stack([dys].flat(), numberOf(attributes, 'axis')) }),
  },
  {
    kernelName: 'GatherV2',
    inputsToSave: ['x', 'indices'],
    gradFunc: (dys, saved, attributes) => {
      const [dy, [x, indices]] = [dys as T, saved as [T, T]];
      const [axis = 0] = axesOf(attributes.axis, x);
      const count = x.shape[axis] as number;
      const outer = tf.util.sizeFromShape(x.shape.slice(0, axis));
      const inner = tf.util.sizeFromShape(x.shape.slice(axis + 1));
      return {
        x: () => {
          const rows = tf.transpose(tf.reshape(dy, [outer, indices.size, inner]), [1, 0, 2]);
          const sums = tf.unsortedSegmentSum(rows, tf.reshape(indices, [indices.size]) as tf.Tensor1D, count);
          return tf.reshape(tf.transpose(sums, [1, 0, 2]), x.shape);
        },
        indices: () => zeros(indices),
      };
    },
  },
  {
    kernelName: 'UnsortedSegmentSum',
    inputsToSave: ['segmentIds'],
    gradFunc: (dy, saved) => {
      const [segmentIds] = saved as [tf.Tensor1D];
      return { x: () => tf.gather(dy as T, segmentIds), segmentIds: () => zeros(segmentIds) };
    },
  },
  flat('OneHot', 'indices'),
];

/** Of an operation that picks elements: each gets what arrives where it went. @param pick the operation itself */
function scattered(dy: T, x: T, pick: (positions: T) => T): T {
  const positions = pick(tf.reshape(tf.range(0, x.size, 1, 'int32'), x.shape));
  const sums = tf.unsortedSegmentSum(
    tf.reshape(dy, [dy.size]),
    tf.reshape(positions, [dy.size]) as tf.Tensor1D,
    x.size,
  );
  return tf.reshape(sums, x.shape);
}

const MOVEMENT = [
  moved('Reshape', (dy, x) => tf.reshape(dy, x.shape)),
  moved('ExpandDims', (dy, x) => tf.reshape(dy, x.shape), 'input'),
  moved('BroadcastTo', (dy, x) => unbroadcast(dy, x.shape)),
  moved('Transpose', (dy, _, attributes) =>
    tf.transpose(dy, tf.backend_util.getUndoAxesPermutation(numbersOf(attributes, 'perm'))),
  ),
  moved('Slice', (dy, x, { begin, size }) => {
    const [from] = tf.slice_util.parseSliceParams(x, begin as number[], size as number[]) as [number[]];
    return tf.pad(
      dy,
      from.map((start, i) => [start, (x.shape[i] as number) - start - (dy.shape[i] as number)]),
    );
  }),
  moved('StridedSlice', (dy, x, attributes) =>
    scattered(dy, x, (positions) => tf.engine().runKernel('StridedSlice', { x: positions }, attributes)),
  ),
  moved('MirrorPad', (dy, x, attributes) =>
    scattered(dy, x, (positions) => tf.engine().runKernel('MirrorPad', { x: positions }, attributes)),
  ),
  moved('PadV2', (dy, x, { paddings }) =>
    tf.slice(
      dy,
      (paddings as number[][]).map(([before = 0]) => before),
      x.shape,
    ),
  ),
  moved('Tile', (dy, x, attributes) => {
    const apart = x.shape.flatMap((dim, i) => [numbersOf(attributes, 'reps')[i] as number, dim]);
    const repeats = x.shape.map((_, i) => 2 * i).filter((axis) => apart[axis] !== 1);
    return tf.reshape(tf.sum(tf.reshape(dy, apart), repeats), x.shape);
  }),
  moved('Reverse', (dy, _, { dims }) => tf.reverse(dy, dims as number[])),
];

/** Of the largest or the smallest: shared evenly by all that are. */
const extreme = (kernelName: string, attribute: string): tf.GradConfig => ({
  kernelName,
  inputsToSave: ['x'],
  outputsToSave: [true],
  gradFunc: (dy, saved, attributes) => {
    const [x, y] = saved as [T, T];
    return {
      x: () => {
        const axes = axesOf(attributes[attribute], x);
        const there = mask(tf.equal(x, kept(y, x, axes)));
        return tf.mul(there, tf.div(kept(dy as T, x, axes), tf.sum(there, axes, true)));
      },
    };
  },
});

const REDUCTIONS: tf.GradConfig[] = [
  moved('Sum', (dy, x, { axis }) => tf.broadcastTo(kept(dy, x, axesOf(axis, x)), x.shape)),
  moved('Mean', (dy, x, { axis }) => tf.broadcastTo(kept(tf.mul(dy, dy.size / x.size), x, axesOf(axis, x)), x.shape)),
  extreme('Max', 'reductionIndices'),
  extreme('Min', 'axis'),
  moved('Prod', (dy, x, { axis }) => {
    // The product of the others: what is not 0 over the element itself, unless more zeros are among the others.
    const axes = axesOf(axis, x);
    const zero = mask(tf.equal(x, 0));
    const rest = tf.add(x, zero);
    const reached = mask(tf.equal(tf.sum(zero, axes, true), zero));
    return tf.mul(kept(dy, x, axes), tf.mul(reached, tf.div(tf.prod(rest, axes, true), rest)));
  }),
  {
    kernelName: 'Softmax',
    outputsToSave: [true],
    gradFunc: (dys, saved, attributes) => {
      const [dy, [y]] = [dys as T, saved as [T]];
      return {
        logits: () => tf.mul(y, tf.sub(dy, tf.sum(tf.mul(dy, y), numberOf(attributes, 'dim'), true))),
      };
    },
  },
  {
    kernelName: 'LogSoftmax',
    outputsToSave: [true],
    gradFunc: (dys, saved, attributes) => {
      const [dy, [y]] = [dys as T, saved as [T]];
      return {
        logits: () => tf.sub(dy, tf.mul(tf.exp(y), tf.sum(dy, numberOf(attributes, 'axis'), true))),
      };
    },
  },
];

/** Convolutions and pools of tfjs (NHWC), of backends that have kernels for their gradients. */
const IMAGES: tf.GradConfig[] = [
  {
    kernelName: 'Conv2D',
    inputsToSave: ['x', 'filter'],
    gradFunc: (dy, saved, attributes) => {
      const [x, filter] = saved as [T, T];
      return {
        x: () => run('Conv2DBackpropInput', { dy: dy as T, filter }, { ...attributes, inputShape: x.shape }),
        filter: () => run('Conv2DBackpropFilter', { x, dy: dy as T }, { ...attributes, filterShape: filter.shape }),
      };
    },
  },
  {
    kernelName: 'Conv2DBackpropInput',
    inputsToSave: ['dy', 'filter'],
    gradFunc: (ddx, saved, attributes) => {
      const [dy, filter] = saved as [T, T];
      return {
        dy: () => run('Conv2D', { x: ddx as T, filter }, { ...attributes, dilations: 1 }),
        filter: () => run('Conv2DBackpropFilter', { x: ddx as T, dy }, { ...attributes, filterShape: filter.shape }),
      };
    },
  },
  {
    kernelName: 'DepthwiseConv2dNative',
    inputsToSave: ['x', 'filter'],
    gradFunc: (dy, saved, attributes) => {
      const [x, filter] = saved as [T, T];
      const [input, weights] = ['Input', 'Filter'].map((of) => `DepthwiseConv2dNativeBackprop${of}`) as [
        string,
        string,
      ];
      return {
        x: () => run(input, { dy: dy as T, filter }, { ...attributes, inputShape: x.shape }),
        filter: () => run(weights, { x, dy: dy as T }, { ...attributes, filterShape: filter.shape }),
      };
    },
  },
  {
    kernelName: 'MaxPool',
    inputsToSave: ['x'],
    outputsToSave: [true],
    gradFunc: (dy, saved, attributes) => {
      const [input, output] = saved as [T, T];
      return { x: () => run('MaxPoolGrad', { dy: dy as T, input, output }, attributes) };
    },
  },
  moved('AvgPool', (dy, input, attributes) => run('AvgPoolGrad', { dy, input }, attributes)),
];

const run = (kernel: string, inputs: tf.NamedTensorMap, attributes: Attributes): T =>
  tf.engine().runKernel(kernel, inputs, attributes);

export const GRADIENTS: readonly tf.GradConfig[] = [
  ...ELEMENTWISE,
  ...BINARY,
  ...FLAT,
  ...SEVERAL_INPUTS,
  ...MOVEMENT,
  ...REDUCTIONS,
  ...IMAGES,
];
