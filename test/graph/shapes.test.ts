/** Type inference operator by operator; onnxruntime is the judge of fixed sizes. */
import { describe, expect, it } from 'vitest';
import { floatAttribute, stringAttribute } from '../../src/graph/attributes.ts';
import { type AttributeValue, buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { addNode, setAttribute } from '../../src/graph/edit.ts';
import type { Attribute, Dim, ElementType, Model, Value } from '../../src/graph/ir.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { compareTypes } from './ort-types.ts';

/** An input of the model, or a constant where it has values. */
interface Operand {
  readonly elem: ElementType;
  readonly shape: readonly Dim[];
  readonly values?: readonly number[];
}
const x = (...shape: Dim[]): Operand => ({ elem: 'float', shape });
const flags = (...shape: Dim[]): Operand => ({ elem: 'bool', shape });
const indices = (...shape: Dim[]): Operand => ({ elem: 'int64', shape });
const ints = (...values: number[]): Operand => ({ elem: 'int64', shape: [values.length], values });
const int = (value: number): Operand => ({ elem: 'int64', shape: [], values: [value] });
const floats = (...values: number[]): Operand => ({ elem: 'float', shape: [values.length], values });
const scalar = (value: number, elem: ElementType = 'float'): Operand => ({ elem, shape: [], values: [value] });
const weights = (...shape: number[]): Operand => ({
  elem: 'float',
  shape,
  values: Array(shape.reduce((a, b) => a * b, 1)).fill(0.5),
});

type Attributes = Record<string, AttributeValue>;

function operand(g: GraphBuilder, of: Operand | null, index: number): Value | null {
  if (!of) return null;
  const { elem, shape, values } = of;
  return values ? g.constant(`c${index}`, elem, shape.map(Number), values) : g.input(`x${index}`, elem, shape);
}

function modelOf(
  op: string,
  opset: number,
  operands: readonly (Operand | null)[],
  attributes: Attributes = {},
  outputs = 1,
): Model {
  const g = buildModel({ name: op, opset, irVersion: 8 });
  const node = addNode(g.model, g.model.graph, {
    op,
    name: op.toLowerCase(),
    inputs: operands.map((of, index) => operand(g, of, index)),
    outputs,
  });
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, attributeOf(name, value));
  return g.model;
}

/** As the builder makes them. */
function attributeOf(name: string, value: AttributeValue): Attribute {
  const g = buildModel({ name: 'attribute', opset: 13 });
  const made = g.node('Any', [], { [name]: value }).producer?.attributes[0];
  if (!made) throw new Error('no attribute');
  return made;
}
const list = (name: string, values: number[]): Attribute => {
  const made = attributeOf(name, [0]);
  return { ...made, proto: { ...made.proto, type: 6, ints: [], floats: values } };
};

type Case = [op: string, opset: number, operands: (Operand | null)[], attributes?: Attributes, outputs?: number];

const unary = (
  'Relu:7 LeakyRelu:7 Elu:7 Selu:7 Celu:12 Sigmoid:7 Tanh:7 Softplus:7 Softsign:7 HardSigmoid:7 HardSwish:14 Mish:18 ' +
  'Gelu:20 Clip:7 Clip:13 ThresholdedRelu:10 Erf:9 Exp:7 Log:7 Sqrt:7 Neg:7 Abs:7 Reciprocal:7 Floor:7 Ceil:7 ' +
  'Round:11 Sign:9 Sin:7 Cos:7 Identity:7 IsNaN:9 IsInf:10 Softmax:7 LogSoftmax:13 Hardmax:13 LpNormalization:7 ' +
  'MeanVarianceNormalization:9 GlobalAveragePool:7 GlobalMaxPool:7 NonZero:13 Shape:13 Size:13 Dropout:7 Dropout:13 ' +
  'ReduceSum:7 ReduceMean:11 ReduceMax:18 ReduceL1:13 ReduceL2:13 ReduceLogSum:13 ReduceLogSumExp:13 ' +
  'ReduceSumSquare:13 ReduceProd:13 ReduceMin:13 ArgMax:13 ArgMin:7 Flatten:13 Transpose:7'
)
  .split(' ')
  .map((entry): Case => [entry.split(':')[0] ?? '', Number(entry.split(':')[1]), [x(2, 3, 4, 4)]]);

const binary = (
  'Add:7 Sub:7 Mul:13 Div:14 Pow:7 Pow:15 PRelu:7 Max:8 Min:13 Sum:8 Mean:13 Equal:11 Greater:9 Less:13 ' +
  'GreaterOrEqual:12 LessOrEqual:16'
)
  .split(' ')
  .map((entry): Case => [entry.split(':')[0] ?? '', Number(entry.split(':')[1]), [x(2, 3, 4), x(3, 1)]]);

const image = x(1, 4, 11, 9);
const quantised = (shape: number[]): Operand => ({
  elem: 'uint8',
  shape,
  values: Array(shape.reduce((a, b) => a * b, 1)).fill(3),
});
const zeroPoint: Operand = scalar(128, 'uint8');

const CASES: Case[] = [
  ...unary,
  ...binary,
  ['Mod', 13, [x(2, 3), x(3)], { fmod: 1 }],
  ['And', 7, [flags(2, 1), flags(3)]],
  ['Or', 7, [flags(2, 1), flags(3)]],
  ['Xor', 7, [flags(2, 1), flags(3)]],
  ['Not', 7, [flags(2)]],
  ['Where', 9, [flags(2, 1), x(3), x(1, 1, 1)]],
  ['Add', 7, [x(0, 3), x(1, 1)]],
  ['Clip', 11, [x(2, 3), scalar(0), null]],
  ['CastLike', 15, [x(2, 3), indices(1)]],
  ['Cast', 9, [x(2, 3)], { to: 7 }],
  ['Cast', 13, [x(2, 3)], { to: 10 }],
  // convolution
  ['Conv', 7, [image, weights(6, 4, 3, 3)]],
  ['Conv', 11, [image, weights(6, 2, 3, 3), weights(6)], { group: 2, kernel_shape: [3, 3], pads: [1, 0, 2, 1] }],
  ['Conv', 11, [image, weights(6, 4, 3, 2)], { strides: [2, 3], dilations: [2, 1] }],
  ['Conv', 11, [image, weights(6, 4, 3, 2)], { strides: [2, 2], auto_pad: 'SAME_UPPER' }],
  ['Conv', 11, [image, weights(6, 4, 4, 2)], { auto_pad: 'SAME_LOWER' }],
  ['Conv', 11, [image, weights(6, 4, 3, 3)], { strides: [2, 2], auto_pad: 'VALID' }],
  ['Conv', 11, [x(2, 3, 10), weights(5, 3, 4)], { strides: [3] }],
  ['Conv', 11, [x(1, 2, 5, 6, 7), weights(5, 2, 3, 3, 3)]],
  ['ConvTranspose', 11, [image, weights(4, 3, 3, 3)]],
  ['ConvTranspose', 11, [image, weights(4, 3, 3, 3)], { strides: [2, 2], pads: [1, 1, 0, 1], output_padding: [1, 0] }],
  ['ConvTranspose', 11, [image, weights(4, 3, 3, 3)], { strides: [2, 2], dilations: [2, 2], group: 2 }],
  ['ConvTranspose', 11, [image, weights(4, 3, 3, 3)], { strides: [2, 3], output_shape: [24, 29] }],
  ['ConvTranspose', 11, [image, weights(4, 3, 3, 3)], { strides: [2, 2], auto_pad: 'SAME_UPPER' }],
  ['ConvTranspose', 11, [image, weights(4, 3, 3, 3)], { strides: [2, 2], auto_pad: 'VALID' }],
  [
    'QLinearConv',
    10,
    [
      quantised([1, 2, 5, 5]),
      scalar(0.1),
      zeroPoint,
      quantised([3, 2, 3, 3]),
      scalar(0.1),
      zeroPoint,
      scalar(0.1),
      zeroPoint,
    ],
  ],
  [
    'QLinearMatMul',
    10,
    [quantised([2, 5]), scalar(0.1), zeroPoint, quantised([5, 3]), scalar(0.1), zeroPoint, scalar(0.1), zeroPoint],
  ],
  ['ConvInteger', 10, [quantised([1, 2, 5, 5]), quantised([3, 2, 3, 3])]],
  ['MatMulInteger', 10, [quantised([2, 5]), quantised([5, 3])]],
  // pooling
  ['MaxPool', 7, [image], { kernel_shape: [2, 3] }],
  ['MaxPool', 8, [image], { kernel_shape: [2, 2], strides: [2, 2] }, 2],
  ['MaxPool', 12, [image], { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }],
  ['MaxPool', 12, [x(1, 1, 2, 5)], { kernel_shape: [1, 1], strides: [2, 4], ceil_mode: 1 }],
  ['MaxPool', 12, [x(1, 1, 5, 6)], { kernel_shape: [2, 2], strides: [3, 3], pads: [1, 1, 1, 1], ceil_mode: 1 }],
  ['MaxPool', 12, [image], { kernel_shape: [3, 3], strides: [2, 2], dilations: [2, 1], pads: [1, 1, 1, 1] }],
  ['MaxPool', 12, [image], { kernel_shape: [3, 2], strides: [2, 2], auto_pad: 'SAME_LOWER' }],
  ['MaxPool', 12, [image], { kernel_shape: [3, 2], strides: [2, 2], auto_pad: 'VALID' }],
  ['MaxPool', 12, [image], { kernel_shape: [3, 2], strides: [2, 2], auto_pad: 'VALID', ceil_mode: 1 }],
  ['AveragePool', 7, [image], { kernel_shape: [3, 3], pads: [1, 1, 1, 1], strides: [2, 2] }],
  ['AveragePool', 10, [image], { kernel_shape: [3, 3], strides: [3, 3], ceil_mode: 1 }],
  ['AveragePool', 19, [image], { kernel_shape: [3, 3], strides: [2, 2], dilations: [2, 2], ceil_mode: 1 }],
  ['LpPool', 11, [image], { kernel_shape: [3, 3], auto_pad: 'SAME_UPPER' }],
  ['LpPool', 18, [image], { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }],
  // normalisation
  ['BatchNormalization', 7, [image, weights(4), weights(4), weights(4), weights(4)]],
  ['BatchNormalization', 15, [image, weights(4), weights(4), weights(4), weights(4)], { training_mode: 1 }, 3],
  ['InstanceNormalization', 7, [image, weights(4), weights(4)]],
  ['GroupNormalization', 21, [image, weights(4), weights(4)], { num_groups: 2 }],
  ['LayerNormalization', 17, [x(2, 3, 5), weights(3, 5)], { axis: 1 }, 3],
  ['LRN', 7, [image], { size: 3 }],
  // products
  ['Gemm', 7, [x(2, 3), weights(3, 5), weights(5)]],
  ['Gemm', 11, [x(3, 2), weights(5, 3)], { transA: 1, transB: 1 }],
  ['MatMul', 7, [x(7, 2, 3), x(3, 5)]],
  ['MatMul', 9, [x(1, 4, 2, 3), x(7, 1, 3, 5)]],
  ['MatMul', 9, [x(3), x(3, 5)]],
  ['MatMul', 9, [x(4, 2, 3), x(3)]],
  ['MatMul', 9, [x(3), x(3)]],
  ['Einsum', 12, [x(2, 3), x(3, 4)], { equation: 'ij,jk->ki' }],
  ['Einsum', 12, [x(2, 3), x(3, 4)], { equation: 'bj, ja' }],
  // padding, resizing
  ['Pad', 7, [x(2, 3)], { pads: [1, 0, 2, 3] }],
  ['Pad', 13, [x(2, 3), ints(0, -1, 2, 0)]],
  ['Pad', 18, [x(2, 3, 4), ints(1, 2), null, ints(-2)]],
  ['Upsample', 7, [image], { scales: list('scales', [1, 1, 2, 3]) }],
  ['Upsample', 9, [image, floats(1, 1, 2, 1.5)]],
  ['Resize', 10, [image, floats(1, 1, 0.6, 2)]],
  ['Resize', 11, [image, floats(), floats(1, 1, 1.7, 0.3)]],
  ['Resize', 11, [image, floats(), floats(), ints(1, 4, 5, 6)]],
  ['Resize', 13, [image, null, null, ints(1, 4, 5, 6)]],
  ['Resize', 18, [image, null, floats(2, 0.5)], { axes: [2, 3] }],
  ['DepthToSpace', 11, [x(1, 8, 2, 3)], { blocksize: 2 }],
  ['SpaceToDepth', 13, [x(1, 2, 4, 6)], { blocksize: 2 }],
  // layout
  ['Reshape', 7, [x(2, 3, 4), ints(0, -1)]],
  ['Reshape', 14, [x(0, 3), ints(3, 0)], { allowzero: 1 }],
  ['Reshape', 13, [x(2, 3), ints(1, 6, 1)]],
  ['Flatten', 7, [x(2, 3, 4)], { axis: 2 }],
  ['Flatten', 11, [x(2, 3, 4)], { axis: -2 }],
  ['Flatten', 9, [x(2, 3, 4)], { axis: 0 }],
  ['Transpose', 7, [x(2, 3, 4)], { perm: [1, 2, 0] }],
  ['Squeeze', 7, [x(1, 3, 1)], { axes: [0] }],
  ['Squeeze', 13, [x(1, 3, 1), ints(-1)]],
  ['Squeeze', 13, [x(1, 3, 1)]],
  ['Unsqueeze', 7, [x(3, 4)], { axes: [0, 3] }],
  ['Unsqueeze', 13, [x(3, 4), ints(-1, 0)]],
  ['Concat', 7, [x(2, 3), x(2, 4)], { axis: 1 }],
  ['Concat', 11, [x(2, 3), x(2, 3), x(2, 3)], { axis: -2 }],
  ['Split', 7, [x(6, 2)], { split: [1, 5] }, 2],
  ['Split', 11, [x(6, 2)], {}, 3],
  ['Split', 13, [x(2, 6), ints(4, 2)], { axis: -1 }, 2],
  ['Split', 18, [x(7, 2)], { num_outputs: 3 }, 3],
  ['Slice', 7, [x(5, 6)], { starts: [1, -3], ends: [4, 1000] }],
  ['Slice', 9, [x(5, 6)], { starts: [1], ends: [-1], axes: [1] }],
  ['Slice', 10, [x(5, 6), ints(4), ints(-100), ints(0), ints(-2)]],
  ['Slice', 13, [x(5, 6), ints(0, 5), ints(3, 1), ints(-1, 0), ints(2, -1)]],
  ['Slice', 13, [x(5, 6), ints(7), ints(9)]],
  ['Gather', 7, [x(5, 6), indices(2, 3)], { axis: 1 }],
  ['Gather', 13, [x(5, 6), int(0)]],
  ['GatherElements', 13, [x(5, 6), indices(5, 2)], { axis: 1 }],
  ['GatherND', 12, [x(2, 3, 4), ints(0, 1)]],
  ['GatherND', 12, [x(2, 3, 4), indices(2, 1)], { batch_dims: 1 }],
  ['ScatterND', 13, [x(5, 6), indices(2, 1), x(2, 6)]],
  ['Expand', 8, [x(3, 1), ints(2, 1, 4)]],
  ['Tile', 7, [x(3, 2), ints(2, 3)]],
  ['Shape', 15, [x(3, 2, 5)], { start: 1 }],
  ['Shape', 15, [x(3, 2, 5)], { end: -1 }],
  ['ConstantOfShape', 9, [ints(2, 3)]],
  ['ConstantOfShape', 9, [ints()], { value: makeTensor('value', 'int64', [1], [7]) }],
  ['Constant', 12, [], { value_ints: [1, 2, 3] }],
  ['Constant', 12, [], { value_float: floatAttribute('value_float', 1) }],
  ['Constant', 7, [], { value: makeTensor('value', 'float', [2, 1], [1, 2]) }],
  ['Range', 11, [int(10), int(1), int(-4)]],
  ['Range', 11, [scalar(0), scalar(1), scalar(0.3)]],
  ['OneHot', 11, [indices(2, 3), int(5), floats(0, 1)], { axis: 1 }],
  ['TopK', 7, [x(2, 9)], { k: 4 }, 2],
  ['TopK', 11, [x(9, 2), ints(3)], { axis: 0 }, 2],
  ['CumSum', 11, [x(2, 3), int(0)]],
  ['Trilu', 14, [x(3, 3)]],
  ['NonZero', 13, [x()]],
  ['Dropout', 7, [x(2, 3)], {}, 2],
  ['Dropout', 10, [x(2, 3)], {}, 2],
  ['Dropout', 12, [x(2, 3)], {}, 2],
  // reductions
  ['ReduceSum', 11, [x(2, 3, 4)], { axes: [0, -1] }],
  ['ReduceSum', 13, [x(2, 3, 4), ints(1)], { keepdims: 0 }],
  ['ReduceSum', 13, [x(2, 3, 4)], { noop_with_empty_axes: 1 }],
  ['ReduceSum', 13, [x(2, 3, 4)], { keepdims: 0 }],
  ['ReduceMean', 7, [x(2, 3, 4)], { axes: [2], keepdims: 0 }],
  ['ReduceMean', 18, [x(2, 3, 4), ints(0, 1)]],
  ['ReduceMax', 18, [x(2, 3, 4), ints()]],
  ['ArgMax', 7, [x(2, 3, 4)], { axis: 1, keepdims: 0 }],
  ['ArgMin', 12, [x(2, 3, 4)], { axis: -1 }],
  // quantisation
  ['QuantizeLinear', 10, [x(2, 3), scalar(0.1), zeroPoint]],
  ['QuantizeLinear', 13, [x(2, 3), scalar(0.1)]],
  ['DequantizeLinear', 10, [quantised([2, 3]), scalar(0.1), zeroPoint]],
  ['DynamicQuantizeLinear', 11, [x(2, 3)], {}, 3],
  // recurrent
  ['LSTM', 14, [x(5, 2, 3), weights(1, 16, 3), weights(1, 16, 4)], { hidden_size: 4 }, 3],
  [
    'GRU',
    14,
    [x(5, 2, 3), weights(2, 12, 3), weights(2, 12, 4)],
    { hidden_size: 4, direction: stringAttribute('direction', 'bidirectional') },
    2,
  ],
];

describe('operators as onnxruntime has them', () => {
  for (const [op, opset, operands, attributes, outputs] of CASES) {
    const inputs = operands.map((of) =>
      of ? `${of.values && of.shape.length < 2 ? `<${of.values}>` : ''}[${of.shape}]` : '-',
    );
    const given = Object.entries(attributes ?? {}).map(
      ([name, value]) => `${name}=${Array.isArray(value) || typeof value !== 'object' ? value : '…'}`,
    );
    it(`${op}-${opset} ${inputs.join(' ')} ${given.join(' ')}`, async () => {
      const { wrong, open } = await compareTypes(modelOf(op, opset, operands, attributes, outputs));
      expect(wrong).toEqual([]);
      expect(open.filter(() => op !== 'NonZero')).toEqual([]);
    });
  }
});
