/** Each operator by itself: forward against onnxruntime's own node, gradients against finite differences. */
import { beforeAll, describe, expect, it } from 'vitest';
import { arrayFromNumbers, type NdArray, openSession } from '../../src/eval/session.ts';
import { floatAttribute, intAttribute, intsAttribute } from '../../src/graph/attributes.ts';
import { type AttributeValue, buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { addNode } from '../../src/graph/edit.ts';
import type { Model, Value } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { serialize } from '../../src/graph/write.ts';
import { type Lowered, lower } from '../../src/train/lower.ts';
import { tf } from '../../src/train/tf.ts';
import { BACKENDS, relativeError, tensorOf, useBackend } from '../support/lowered.ts';
import { noise } from '../support/numeric.ts';
import { reread } from '../support/passes.ts';

/** From the input to the output. */
type Make = (b: GraphBuilder, x: Value) => Value;

interface Case {
  readonly name: string;
  readonly make: Make;
  /** Of one row. */
  readonly row: readonly number[];
  readonly opset: number;
  /** Draws inputs; where a function bends, finite differences must not reach over the bend. */
  readonly draw: (u: number) => number;
  /** Nothing is equal, nor is it after a small step: for maxima. */
  readonly distinct: boolean;
  /** Whether there is a gradient to look at. */
  readonly smooth: boolean;
}

const f = (name: string, value: number) => floatAttribute(name, value);
const ints = (b: GraphBuilder, values: readonly number[], dims: readonly number[] = [values.length]): Value =>
  b.constant('ints', 'int64', dims, values);
const floats = (b: GraphBuilder, dims: readonly number[], seed = 9): Value =>
  b.constant(
    'floats',
    'float',
    dims,
    noise(
      dims.reduce((x, y) => x * y, 1),
      seed,
    ),
  );
const scalar = (b: GraphBuilder, value: number): Value => b.constant('scalar', 'float', [], [value]);

const away = (bend: number) => (u: number) => (Math.abs(u - bend) < 0.05 ? u + 0.1 : u);
const IMAGE = [3, 6, 7];
const CASES: Case[] = [];
const add = (name: string, make: Make, options: Partial<Omit<Case, 'name' | 'make'>> = {}): void => {
  CASES.push({ name, make, row: [3, 4], opset: 17, draw: (u) => 2 * u, distinct: false, smooth: true, ...options });
};
const op = (
  type: string,
  attributes: Readonly<Record<string, AttributeValue>> = {},
  options: Partial<Omit<Case, 'name' | 'make'>> = {},
): void => {
  const shown = Object.keys(attributes).length > 0 ? ` with ${Object.keys(attributes)}` : '';
  add(`${type}${shown} at opset ${options.opset ?? 17}`, (b, x) => b.node(type, [x], attributes), options);
};

const positive = { draw: (u: number) => u + 1.5 };
const kinked = { draw: (u: number) => away(0)(2 * u) };

for (const type of ['Neg', 'Exp', 'Erf', 'Sigmoid', 'Tanh', 'Softplus', 'Sin', 'Cos']) op(type);
for (const type of ['Sqrt', 'Log', 'Reciprocal']) op(type, {}, positive);
for (const type of ['Abs', 'Relu', 'Softsign', 'Elu', 'Selu', 'Celu', 'LeakyRelu']) op(type, {}, kinked);
op('Sign', {}, { ...kinked, smooth: false });
op('Mish', {}, { opset: 18 });
op('Gelu', {}, { opset: 20 });
op('Gelu', { approximate: 'tanh' }, { opset: 20 });
op('HardSwish', {}, { draw: (u) => away(3)(4 * u) });
op('HardSigmoid', {}, { draw: (u) => away(2.5)(away(-2.5)(4 * u)) });
op('HardSigmoid', { alpha: f('alpha', 0.5), beta: f('beta', 0.25) }, { draw: (u) => away(1.5)(away(-0.5)(2 * u)) });
op('LeakyRelu', { alpha: f('alpha', 0.3) }, kinked);
op('Elu', { alpha: f('alpha', 0.7) }, kinked);
op('Selu', { alpha: f('alpha', 1.5), gamma: f('gamma', 1.25) }, kinked);
op('Celu', { alpha: f('alpha', 0.4) }, kinked);
op('ThresholdedRelu', { alpha: f('alpha', 0.6) }, { draw: (u) => away(0.6)(2 * u) });
op('Clip', { min: f('min', -0.5), max: f('max', 1.5) }, { opset: 9, draw: (u) => away(1.5)(away(-0.5)(2 * u)) });
add('Clip by inputs', (b, x) => b.node('Clip', [x, null, scalar(b, 0.7)]), { draw: (u) => away(0.7)(2 * u) });
add('Clip from 0', (b, x) => b.node('Clip', [x, scalar(b, 0)]), kinked);
add('PRelu by channel', (b, x) => b.node('PRelu', [x, floats(b, [3, 1])]), kinked);

for (const type of ['Add', 'Sub', 'Mul']) {
  add(`${type} of a constant`, (b, x) => b.node(type, [x, floats(b, [3, 1])]));
  add(`${type} of itself`, (b, x) => b.node(type, [b.node('Tanh', [x]), x]));
}
add('Div', (b, x) => b.node('Div', [scalar(b, 2), x]), positive);
add('Div by itself', (b, x) => b.node('Div', [b.node('Tanh', [x]), x]), positive);
add('Pow 2', (b, x) => b.node('Pow', [x, scalar(b, 2)]));
add('Pow 3', (b, x) => b.node('Pow', [x, scalar(b, 3)]));
add('Pow 4 of negatives', (b, x) => b.node('Pow', [x, scalar(b, 4)]));
add('Pow 0.7', (b, x) => b.node('Pow', [x, scalar(b, 0.7)]), positive);
add('Pow as exponent', (b, x) => b.node('Pow', [scalar(b, 1.7), x]));
for (const type of ['Sum', 'Mean', 'Max', 'Min'])
  add(`${type} of three`, (b, x) => b.node(type, [x, b.node('Neg', [x]), scalar(b, 0.25)]), {
    draw: (u) => away(0.25)(away(-0.25)(away(0)(2 * u))),
  });
add(
  'Where by comparison',
  (b, x) => b.node('Where', [b.node('Greater', [x, scalar(b, 0)]), b.node('Exp', [x]), b.node('Neg', [x])]),
  kinked,
);
add(
  'a mask as factor',
  (b, x) => b.node('Mul', [x, b.node('Cast', [b.node('Less', [x, scalar(b, 0.5)])], { to: 1 })]),
  {
    draw: (u) => away(0.5)(2 * u),
  },
);
add('Where by a constant', (b, x) =>
  b.node('Where', [b.constant('c', 'bool', [3, 1], [1, 0, 1]), x, b.node('Tanh', [x])]),
);
add(
  'masks',
  (b, x) => {
    const low = b.node('LessOrEqual', [x, scalar(b, -0.5)]);
    const high = b.node('Not', [b.node('Less', [x, scalar(b, 0.5)])]);
    return b.node('Where', [b.node('Or', [low, b.node('And', [high, high])]), x, b.node('Mul', [x, scalar(b, 3)])]);
  },
  { draw: (u) => away(0.5)(away(-0.5)(2 * u)) },
);

add('Flatten', (b, x) => b.node('Flatten', [x], { axis: 1 }), { row: [3, 2, 2] });
add('Reshape with 0 and -1', (b, x) => b.node('Reshape', [x, ints(b, [0, -1, 2])]));
add('Reshape frozen at one row', (b, x) => b.node('Reshape', [x, ints(b, [-1, 6])]), { row: [6] });
add('Squeeze by an input', (b, x) => b.node('Squeeze', [x, ints(b, [2])]), { row: [3, 1, 2] });
op('Squeeze', { axes: intsAttribute('axes', [2]) }, { opset: 11, row: [3, 1, 2] });
add('Unsqueeze by an input', (b, x) => b.node('Unsqueeze', [x, ints(b, [1, -1])]));
op('Unsqueeze', { axes: [1] }, { opset: 11 });
op('Transpose', { perm: [0, 3, 1, 2] }, { row: [2, 3, 4] });
op('Transpose', { perm: [0, 3, 4, 1, 2] }, { row: [2, 3, 2, 2] });
op('Identity');
add('Concat', (b, x) => b.node('Concat', [x, b.node('Tanh', [x]), x], { axis: -1 }));
add('Split', (b, x) => {
  const node = addNode(b.model, b.model.graph, {
    op: 'Split',
    name: 'split',
    inputs: [x, ints(b, [1, 2])],
    attributes: [intAttribute('axis', 1)],
    outputs: 2,
  });
  const [one, two] = node.outputs as [Value, Value];
  return b.node('Mul', [b.node('Exp', [one]), two]);
});
add('Split into equal parts', (b, x) => {
  const node = addNode(b.model, b.model.graph, {
    op: 'Split',
    name: 'split',
    inputs: [x],
    attributes: [intAttribute('axis', -1)],
    outputs: 2,
  });
  const [one, two] = node.outputs as [Value, Value];
  return b.node('Mul', [b.node('Exp', [one]), two]);
});
add('Slice by inputs', (b, x) => b.node('Slice', [x, ints(b, [1, -3]), ints(b, [3, 2 ** 40]), ints(b, [1, 2])]), {
  row: [3, 5],
});
op('Slice', { starts: [1], ends: [-1], axes: [2] }, { opset: 9, row: [3, 5] });
for (const [start, end, step] of [
  [0, 7, 2],
  [1, 7, 3],
  [-1, -8, -2],
  [5, 0, -1],
  [6, 7, 4],
] as const)
  add(
    `Slice ${start}:${end}:${step}`,
    (b, x) => b.node('Slice', [x, ints(b, [start]), ints(b, [end]), ints(b, [2]), ints(b, [step])]),
    { row: [2, 7, 3] },
  );
for (const indices of [[1], [0, 1, 2], [2, 0], [3, 1, 2, 0], [1, 1, -1], [0, 2]])
  add(`Gather ${indices}`, (b, x) => b.node('Gather', [x, ints(b, indices)], { axis: 1 }), { row: [4, 3] });
add('Gather one', (b, x) => b.node('Gather', [x, ints(b, [-2], [])], { axis: 2 }));
add('Gather in two dimensions', (b, x) => b.node('Gather', [x, ints(b, [0, 2, 1, 0], [2, 2])], { axis: 1 }));
for (const mode of ['constant', 'reflect', 'edge'])
  add(`Pad ${mode}`, (b, x) => b.node('Pad', [x, ints(b, [0, 0, 1, 2, 0, 0, 2, 1])], { mode }), { row: [2, 4, 4] });
add('Pad with a value', (b, x) => b.node('Pad', [x, ints(b, [0, 0, 1, 0, 1, 0]), scalar(b, 2.5)]));
add('Pad that cuts', (b, x) => b.node('Pad', [x, ints(b, [0, -1, 1, 0, 0, -2])]));
add('Pad of some axes', (b, x) => b.node('Pad', [x, ints(b, [1, 2]), null, ints(b, [-1])]), { opset: 18 });
op('Pad', { pads: [0, 0, 1, 0, 2, 0], value: f('value', 0.5) }, { opset: 10 });
add('Expand', (b, x) => b.node('Expand', [x, ints(b, [1, 3, 1, 4])]), { row: [1, 2, 4] });
add('Tile', (b, x) => b.node('Tile', [x, ints(b, [1, 2, 3])]));
op('DepthToSpace', { blocksize: 2 }, { row: [8, 2, 3] });
op('DepthToSpace', { blocksize: 2, mode: 'CRD' }, { row: [8, 2, 3] });
op('SpaceToDepth', { blocksize: 2 }, { row: [2, 4, 6] });
add('ConstantOfShape', (b, x) =>
  b.node('Add', [x, b.node('ConstantOfShape', [b.node('Shape', [x])], { value: makeTensor('v', 'float', [1], [2]) })]),
);
add('what is computed from the shape', (b, x) => {
  const shape = b.node('Shape', [x]);
  const batch = b.node('Gather', [shape, ints(b, [0])], { axis: 0 });
  const size = b.node('Cast', [b.node('Gather', [shape, ints(b, [1], [])], { axis: 0 })], { to: 1 });
  const wide = b.node('Div', [x, b.node('Sqrt', [size])]);
  return b.node('Reshape', [wide, b.node('Concat', [batch, ints(b, [-1])], { axis: 0 })]);
});

for (const type of ['ReduceSum', 'ReduceMean', 'ReduceSumSquare', 'ReduceLogSumExp', 'ReduceMax', 'ReduceMin']) {
  const opset = type === 'ReduceSum' ? 11 : 13;
  op(type, { axes: [1, -1] }, { row: IMAGE, opset });
  op(type, { axes: [2], keepdims: 0 }, { row: [3, 4], opset });
}
for (const type of ['ReduceL1', 'ReduceL2', 'ReduceProd', 'ReduceLogSum'])
  op(type, { axes: [1] }, { ...positive, opset: 13 });
add('ReduceMean by an input', (b, x) => b.node('ReduceMean', [x, ints(b, [-1])], { keepdims: 0 }), { opset: 18 });
add('ReduceSum of nothing', (b, x) => b.node('ReduceSum', [x], { noop_with_empty_axes: 1 }));
for (const type of ['Softmax', 'LogSoftmax']) {
  op(type, { axis: 1 }, { row: [3, 2, 2] });
  op(type, { axis: -1 }, { row: [3, 4] });
  op(type, {}, { row: [3, 2, 2], opset: 11 });
  op(type, { axis: 2 }, { row: [3, 2, 2], opset: 9 });
}

for (const attributes of [
  {},
  { pads: [1, 0, 2, 1], strides: [2, 1] },
  { dilations: [2, 2], pads: [2, 2, 2, 2] },
  { auto_pad: 'SAME_UPPER', strides: [2, 2] },
  { auto_pad: 'SAME_LOWER', strides: [2, 3] },
  { auto_pad: 'VALID' },
])
  add(
    `Conv ${JSON.stringify(attributes)}`,
    (b, x) => b.node('Conv', [x, floats(b, [4, 3, 3, 2]), floats(b, [4], 3)], attributes),
    { row: IMAGE },
  );
add('Conv by groups', (b, x) => b.node('Conv', [x, floats(b, [6, 2, 3, 3])], { group: 2 }), { row: [4, 5, 5] });
add('Conv depthwise', (b, x) => b.node('Conv', [x, floats(b, [3, 1, 3, 3])], { group: 3, strides: [2, 2] }), {
  row: IMAGE,
});
add('Conv in one dimension', (b, x) => b.node('Conv', [x, floats(b, [4, 3, 3])], { pads: [1, 0], strides: [2] }), {
  row: [3, 8],
});
for (const attributes of [
  { kernel_shape: [2, 2], strides: [2, 2] },
  { kernel_shape: [3, 2], strides: [2, 1], pads: [1, 0, 1, 1] },
  { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 },
  { kernel_shape: [3, 3], strides: [2, 2], auto_pad: 'SAME_UPPER' },
])
  for (const [type, more] of [
    ['MaxPool', {}],
    ['AveragePool', {}],
    ['AveragePool', { count_include_pad: 1 }],
  ] as const)
    add(
      `${type} ${JSON.stringify({ ...attributes, ...more })}`,
      (b, x) => b.node(type, [x], { ...attributes, ...more }),
      {
        row: IMAGE,
        distinct: true,
      },
    );
op('MaxPool', { kernel_shape: [2, 2], dilations: [2, 2] }, { row: IMAGE, distinct: true });
op('AveragePool', { kernel_shape: [3], strides: [2] }, { row: [2, 7] });
op('GlobalAveragePool', {}, { row: IMAGE });
op('GlobalMaxPool', {}, { row: IMAGE, distinct: true });
add('Gemm', (b, x) =>
  b.node('Gemm', [b.node('Flatten', [x]), floats(b, [5, 12]), floats(b, [5], 3)], {
    transB: 1,
    alpha: f('alpha', 0.5),
    beta: f('beta', 2),
  }),
);
add('Gemm of the transposed', (b, x) => {
  const columns = b.node('Transpose', [b.node('Flatten', [x])]);
  return b.node('Gemm', [columns, floats(b, [12, 5]), floats(b, [1, 5], 3)], { transA: 1 });
});
add('MatMul of rows', (b, x) => b.node('MatMul', [x, floats(b, [4, 5])]));
add('MatMul of a stack', (b, x) => b.node('MatMul', [x, floats(b, [2, 4, 5])]), { row: [2, 3, 4] });
add('MatMul that broadcasts', (b, x) => b.node('MatMul', [floats(b, [5, 3]), x]));
add('MatMul of itself', (b, x) => b.node('MatMul', [x, b.node('Transpose', [x], { perm: [0, 2, 1] })]));
add('MatMul with a vector', (b, x) => b.node('MatMul', [x, floats(b, [4])]));
add('MatMul of a vector', (b, x) => b.node('MatMul', [floats(b, [3]), x]));
for (const row of [[3], [3, 4], IMAGE])
  add(
    `BatchNormalization of ${row}`,
    (b, x) => {
      const variance = b.constant('variance', 'float', [3], [0.5, 1, 2]);
      const state = [floats(b, [3]), floats(b, [3], 2), floats(b, [3], 3), variance];
      return b.node('BatchNormalization', [x, ...state], { epsilon: f('epsilon', 1e-3) });
    },
    { row },
  );
add('LayerNormalization', (b, x) => b.node('LayerNormalization', [x, floats(b, [4]), floats(b, [4], 2)]));
add('InstanceNormalization', (b, x) => b.node('InstanceNormalization', [x, floats(b, [3]), floats(b, [3], 2)]), {
  row: IMAGE,
});
op('MeanVarianceNormalization', {}, { row: IMAGE });
op('LRN', { size: 3, alpha: f('alpha', 0.5) }, { row: [5, 3, 2] });
op('LRN', { size: 5, beta: f('beta', 1.25), bias: f('bias', 2) }, { row: [5, 3, 2] });
op('Dropout');
op('Dropout', { ratio: f('ratio', 0.3) }, { opset: 9 });

function modelOf({ make, row, opset }: Case): Model {
  const b = buildModel({ name: 'g', opset });
  const x = b.input('x', 'float', ['N', ...row]);
  const y = make(b, x);
  b.output(y, 'y', 'float', inferTypes(b.model).get(y).shape ?? []);
  return reread(b.model);
}

const ROWS = 2;
const inputOf = ({ row, draw, distinct }: Case, seed = 4) => {
  const dims = [ROWS, ...row];
  const values = noise(
    dims.reduce((a, b) => a * b),
    seed,
  );
  const order = Float64Array.from(values).sort();
  return arrayFromNumbers('float', dims, Float64Array.from(values, distinct ? (u) => order.indexOf(u) / 20 : draw));
};

describe.each(BACKENDS)('on the backend %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each(CASES)('$name: onnxruntime computes the same, and differences of it are the gradient', async (one) => {
    const model = modelOf(one);
    const lowered = await lower(model, 'g');
    const x = inputOf(one);
    const session = await openSession(serialize(model), { optimize: false });
    try {
      const run = async (data: Float32Array) =>
        (await session.run(new Map([['x', { ...x, data }]]))).get('y') as NdArray;
      const { y, gradient } = await valueAndGradient(lowered, x, one.smooth);
      // Operators sum in different orders, in float32.
      expect(relativeError(y, await run(x.data as Float32Array))).toBeLessThanOrEqual(2e-6);
      // Central differences in float32 are off by h^2/6 of the third derivative, and by 1e-7/h of rounding.
      const h = 2 ** -7;
      const size = Math.sqrt(gradient.reduce((sum, value) => sum + value * value, 1));
      for (let seed = 0; one.smooth && seed < 4; seed++) {
        const direction = noise(x.data.length, 100 + seed);
        const at = async (step: number) =>
          weigh(await run(Float32Array.from(direction, (d, i) => Number(x.data[i]) + step * d)));
        const slope = ((await at(h)) - (await at(-h))) / (2 * h);
        const along = direction.reduce((sum, d, i) => sum + d * (gradient[i] as number), 0);
        expect(Math.abs(along - slope)).toBeLessThanOrEqual(1e-3 * size);
      }
    } finally {
      await session.release();
    }
  });
});

/** What makes a number of an output. */
const weighting = (count: number) => Float32Array.from(noise(count, 77));
const weigh = ({ data }: NdArray): number =>
  weighting(data.length).reduce((sum, weight, i) => sum + weight * Number(data[i]), 0);

/** The output, and the gradient of that number. */
async function valueAndGradient(
  lowered: Lowered,
  x: NdArray,
  smooth: boolean,
): Promise<{ y: NdArray; gradient: Float32Array }> {
  const results = tf.tidy(() => {
    let y: tf.Tensor | undefined;
    const weighted = (given: tf.Tensor) => {
      const output = lowered.forward([given], new Map(), { training: false }).values.get('y') as tf.Tensor;
      y = tf.keep(tf.clone(output));
      return tf.sum(tf.mul(output, tf.tensor(weighting(output.size), output.shape)));
    };
    const gradient = smooth ? tf.grad(weighted)(tensorOf(x)) : weighted(tensorOf(x));
    return { y: y as tf.Tensor, gradient };
  });
  const gradient = Float32Array.from(await results.gradient.data());
  const y: NdArray = { elem: 'float', dims: results.y.shape, data: Float32Array.from(await results.y.data()) };
  tf.dispose(results);
  return { y, gradient };
}
