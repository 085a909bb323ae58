import { describe, expect, it } from 'vitest';
import { floatAttribute, tensorAttribute } from '../../src/graph/attributes.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { type Cost, cost } from '../../src/graph/cost.ts';
import { addNode, removeNode } from '../../src/graph/edit.ts';
import type { Dim, Model, Value } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { summarize } from '../../src/inspect.ts';
import { functionProto, nodeProto, protoModel } from '../support/passes.ts';
import { sharedMissing } from '../support/shared.ts';
import { sharedTable } from './shared-models.ts';

const costOf = (model: Model): Cost => cost(model, inferTypes(model));
const missing = sharedMissing ? ` (skipped: ${sharedMissing})` : '';

/** A model with one input x and whatever is made of it. */
function costOfGraph(shape: readonly Dim[], make: (g: GraphBuilder, x: Value) => Value, opset = 13): Cost {
  const g = buildModel({ name: 'cost', opset });
  const y = make(g, g.input('x', 'float', shape));
  g.output(y, 'y', 'float', inferTypes(g.model).get(y).shape ?? []);
  return costOf(g.model);
}
const zeros = (g: GraphBuilder, dims: number[]) =>
  g.constant('w', 'float', dims, new Float32Array(dims.reduce((a, b) => a * b, 1)));
const number = (g: GraphBuilder, value: number) => g.constant('c', 'float', [], [value]);

describe('macs', () => {
  it.each<[string, readonly Dim[], (g: GraphBuilder, x: Value) => Value, number]>([
    [
      'Conv: outputs times weights of one output',
      [1, 4, 8, 8],
      (g, x) => g.node('Conv', [x, zeros(g, [6, 4, 3, 3])]),
      6 * 6 * 6 * 36,
    ],
    ['a numeric batch is divided out', [5, 4, 8, 8], (g, x) => g.node('Conv', [x, zeros(g, [6, 4, 3, 3])]), 7776],
    ['a symbolic batch counts once', ['N', 4, 8, 8], (g, x) => g.node('Conv', [x, zeros(g, [6, 4, 3, 3])]), 7776],
    ['groups', [1, 4, 8, 8], (g, x) => g.node('Conv', [x, zeros(g, [4, 1, 3, 3])], { group: 4 }), 4 * 36 * 9],
    ['ConvTranspose', [1, 4, 8, 8], (g, x) => g.node('ConvTranspose', [x, zeros(g, [4, 2, 3, 3])]), 4 * 64 * 18],
    ['Gemm', ['N', 10], (g, x) => g.node('Gemm', [x, zeros(g, [3, 10])], { transB: 1 }), 30],
    ['MatMul', ['N', 7, 10], (g, x) => g.node('MatMul', [x, zeros(g, [10, 3])]), 210],
    [
      'products of constants cost nothing',
      [2, 2],
      (g, x) => g.node('Add', [x, g.node('MatMul', [zeros(g, [2, 2]), zeros(g, [2, 2])])]),
      0,
    ],
  ])('%s', (_, shape, make, expected) => {
    expect(costOfGraph(shape, make).macs).toBe(expected);
  });
});

describe('multiplications', () => {
  const vector = (g: GraphBuilder, values: number[]) => g.constant('v', 'float', [values.length], values);
  const image = [1, 2, 4, 4];
  it.each<[string, readonly Dim[], (g: GraphBuilder, x: Value) => Value, number, number]>([
    ['a square', [3, 4, 5], (g, x) => g.node('Mul', [x, x]), 20, 0],
    ['by a constant, a symbolic batch', ['N', 4, 5], (g, x) => g.node('Mul', [x, number(g, 2)]), 0, 20],
    ['outer product', [1, 4], (g, x) => g.node('Mul', [x, g.node('Transpose', [x])]), 16, 0],
    ['additions', [1, 4], (g, x) => g.node('Add', [x, x]), 0, 0],
    ['Div by a constant', [1, 4], (g, x) => g.node('Div', [x, number(g, 3)]), 0, 4],
    ['Div by data', [1, 4], (g, x) => g.node('Div', [number(g, 3), x]), 0, 0],
    ['Conv with weights', [5, 4, 8, 8], (g, x) => g.node('Conv', [x, zeros(g, [6, 4, 3, 3])]), 0, 7776],
    [
      'MatMul of data',
      [1, 3, 4],
      (g, x) => g.node('MatMul', [x, g.node('Transpose', [x], { perm: [0, 2, 1] })]),
      36,
      0,
    ],
    ['MatMul with weights before it', [1, 4], (g, x) => g.node('MatMul', [zeros(g, [3, 1]), x]), 0, 12],
    ['Gemm', ['N', 10], (g, x) => g.node('Gemm', [x, zeros(g, [3, 10])], { transB: 1 }), 0, 30],
    ['x^8: three squarings', [1, 4], (g, x) => g.node('Pow', [x, number(g, 8)]), 12, 0],
    ['x^7: two squarings, two products', [1, 4], (g, x) => g.node('Pow', [x, number(g, 7)]), 16, 0],
    ['exponents by element', [1, 4], (g, x) => g.node('Pow', [x, vector(g, [0, 1, 2, 3])]), 3, 0],
    ['x^0.5', [1, 4], (g, x) => g.node('Pow', [x, number(g, 0.5)]), 0, 0],
    [
      'BatchNormalization',
      image,
      (g, x) => g.node('BatchNormalization', [x, ...Array.from({ length: 4 }, () => vector(g, [1, 1]))]),
      0,
      32,
    ],
    ['AveragePool', image, (g, x) => g.node('AveragePool', [x], { kernel_shape: [2, 2], strides: [2, 2] }), 0, 8],
    ['GlobalAveragePool', image, (g, x) => g.node('GlobalAveragePool', [x]), 0, 2],
    ['ReduceMean', image, (g, x) => g.node('ReduceMean', [x], { axes: [2, 3] }), 0, 2],
    ['ReduceSumSquare', image, (g, x) => g.node('ReduceSumSquare', [x], { axes: [2, 3] }), 32, 0],
    ['ReduceProd', image, (g, x) => g.node('ReduceProd', [x], { axes: [2, 3] }), 30, 0],
    ['Einsum of data', [1, 2, 3], (g, x) => g.node('Einsum', [x, x], { equation: 'bij,bkj->bik' }), 12, 0],
    [
      'Einsum with weights',
      [1, 3],
      (g, x) => g.node('Einsum', [x, zeros(g, [3, 5])], { equation: 'bi,ij->bj' }),
      0,
      15,
    ],
    ['Relu', [1, 4], (g, x) => g.node('Relu', [x]), 0, 0],
  ])('%s', (_, shape, make, ciphertext, plaintext) => {
    expect(costOfGraph(shape, make).multiplications).toEqual({ ciphertext, plaintext });
  });

  it.each<[number, number]>([
    [2, 1],
    [3, 2],
    [15, 6],
    [16, 4],
    [31, 8],
  ])('the power %i takes %i products, no deeper than its levels', (n, products) => {
    const { multiplications, depth } = costOfGraph([1, 1], (g, x) => g.node('Pow', [x, number(g, n)]));
    expect(multiplications.ciphertext).toBe(products);
    expect(depth).toBe(Math.ceil(Math.log2(n)));
  });

  it('of functions count once per call', () => {
    const w = makeTensor('w', 'float', [4, 4], new Float32Array(16));
    const body = [
      nodeProto('Constant', [], ['w'], [tensorAttribute('value', w)]),
      nodeProto('MatMul', ['p', 'w'], ['h']),
      nodeProto('Mul', ['h', 'h'], ['q']),
    ];
    const model = protoModel({
      inputs: [['x', 'float', [2, 4]]],
      outputs: [['y', 'float', [2, 4]]],
      nodes: [nodeProto('F', ['x'], ['h'], [], 'local'), nodeProto('F', ['h'], ['y'], [], 'local')],
      functions: [functionProto('F', ['p'], ['q'], body)],
    });
    expect(costOf(model)).toMatchObject({ macs: 32, multiplications: { ciphertext: 8, plaintext: 32 }, depth: 4 });
  });

  it('comparisons of pools', () => {
    const windows = { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] };
    expect(costOfGraph([2, 2, 4, 4], (g, x) => g.node('MaxPool', [x], windows)).poolComparisons).toBe(2 * 4 * 8);
    expect(costOfGraph([1, 2, 4, 4], (g, x) => g.node('GlobalMaxPool', [x])).poolComparisons).toBe(30);
    expect(costOfGraph([1, 2, 4, 4], (g, x) => g.node('AveragePool', [x], windows)).poolComparisons).toBe(0);
  });
});

describe('private inference', () => {
  it('counts ReLUs, and what else needs circuits apart from them', () => {
    const g = buildModel({ name: 'pi', opset: 13 });
    const x = g.input('x', 'float', ['N', 2, 4, 4]);
    const relu = g.node('Relu', [x], {}, 'relu');
    const leaky = g.node(
      'LeakyRelu',
      [g.node('MaxPool', [relu], { kernel_shape: [2, 2], strides: [2, 2] })],
      {},
      'leaky',
    );
    g.output(g.node('Sigmoid', [leaky], {}, 'sigmoid'), 'y', 'float', ['N', 2, 2, 2]);
    const { privateInference, poolComparisons, activationElements } = summarize(g.model);
    expect(privateInference).toEqual({ reluElements: 40, otherElements: 8, garbledBytes: 40 * 17_500 });
    expect([poolComparisons, activationElements]).toEqual([24, 48]);
  });

  it('does not guess where a shape is unknown', () => {
    const g = buildModel({ name: 'pi', opset: 13 });
    const x = g.input('x', 'float', ['N', 2, 'H', 'W']);
    g.output(g.node('Relu', [x], {}, 'relu'), 'y', 'float', ['N', 2, 'H', 'W']);
    expect(summarize(g.model).privateInference).toEqual({ reluElements: null, otherElements: 0, garbledBytes: null });
  });
});

describe('depth and non-polynomial operators', () => {
  const relu = (g: GraphBuilder, x: Value) => g.node('Relu', [x]);
  it.each<[string, (g: GraphBuilder, x: Value) => Value, number, number]>([
    ['additions', (g, x) => g.node('Add', [x, g.node('Transpose', [x])]), 0, 0],
    ['a chain', (g, x) => g.node('Mul', [g.node('MatMul', [x, zeros(g, [4, 4])]), number(g, 2)]), 2, 0],
    ['the longer way', (g, x) => g.node('Add', [x, g.node('Mul', [x, g.node('Mul', [x, x])])]), 2, 0],
    ['a mean', (g, x) => g.node('ReduceMean', [x]), 1, 0],
    ['Relu', (g, x) => g.node('Mul', [relu(g, g.node('Mul', [x, x])), x]), 2, 1],
    ['division by a constant', (g, x) => g.node('Div', [x, number(g, 3)]), 1, 0],
    ['division by data', (g, x) => g.node('Div', [number(g, 3), x]), 0, 1],
    ['the second power', (g, x) => g.node('Pow', [x, number(g, 2)]), 1, 0],
    ['the fifth power', (g, x) => g.node('Pow', [x, number(g, 5)]), 3, 0],
    ['the first power', (g, x) => g.node('Pow', [x, number(g, 1)]), 0, 0],
    ['a root', (g, x) => g.node('Pow', [x, number(g, 0.5)]), 0, 1],
    ['constants alone', (g, x) => g.node('Add', [x, relu(g, g.node('Mul', [number(g, 2), number(g, 3)]))]), 0, 0],
    ['selection by data', (g, x) => g.node('Where', [g.node('Greater', [x, number(g, 0)]), x, number(g, 0)]), 0, 2],
    [
      'computing with shapes',
      (g, x) => g.node('Expand', [x, g.node('Mul', [g.node('Shape', [x]), g.constant('n', 'int64', [2], [1, 1])])]),
      0,
      0,
    ],
    ['operators of the host', (g, x) => g.node('Clip', [x, number(g, 0)]), 0, 1],
    ['activations', (g, x) => g.node('LeakyRelu', [x], { alpha: floatAttribute('alpha', 0.1) }), 0, 1],
  ])('%s', (_, make, depth, nonPolynomial) => {
    expect(costOfGraph([4, 4], make)).toMatchObject({ depth, nonPolynomial });
  });
});

describe.skipIf(sharedMissing)(`real models${missing}`, () => {
  it.each(sharedTable())('$name', ({ file, parameters, nodes }) => {
    const found = costOf(readModel(file));
    expect(found.parameters).toBe(parameters);
    expect(found.nodes).toEqual(nodes);
  });

  it.each(sharedTable())('$name: multiplications', ({ file }) => {
    const { macs, multiplications, depth } = costOf(readModel(file));
    const { ciphertext, plaintext } = multiplications;
    expect(ciphertext + plaintext).toBeGreaterThanOrEqual(macs);
    expect(ciphertext + plaintext > 0).toBe(depth > 0);
  });

  it('squares in place of ReLUs are products of ciphertexts', () => {
    const file = sharedTable().find(({ name }) => name === 'ace_resnet20_cifar10_pre')?.file ?? '';
    const model = readModel(file);
    const before = costOf(model);
    expect(summarize(model).privateInference.reluElements).toBe(188_416);
    for (const node of model.graph.nodes.filter(({ op }) => op === 'Relu')) {
      const [x, y] = [node.inputs[0] as Value, node.outputs[0] as Value];
      const next = removeNode(node);
      addNode(model, model.graph, { op: 'Mul', name: 'square', inputs: [x, x], outputs: [y] }, next);
    }
    const after = costOf(model);
    // The same elements; the mean over each of the last 64 channels multiplies by 1/64.
    expect(before.multiplications).toEqual({ ciphertext: 0, plaintext: before.macs + 64 });
    expect(after.multiplications).toEqual({ ciphertext: 188_416, plaintext: before.macs + 64 });
    expect(summarize(model).privateInference).toMatchObject({ reluElements: 0, garbledBytes: 0 });
  });

  it.each<[string, number, number, number]>([
    // 19 convolutions of ResNet-20, 2 convolutions beside its blocks, 1 dense layer; 19 levels in a row, mean, dense.
    ['ace_resnet20_cifar10_pre', 40_550_400 + 2 * 131_072 + 640, 21, 19],
    ['mnist_fc_256x2', 784 * 256 + 256 * 256 + 256 * 10, 3, 2],
    ['light_vgg19', 19_632_062_464, 19, 24],
    ['keras2onnx_mnist_lg', 57_272, 4, 5],
    // A batch of unknown size; attention multiplies data with data.
    ['vit_pgd_2_3_16', 337_056, 22, 4],
  ])('%s: arithmetic and depth', (name, macs, depth, nonPolynomial) => {
    const file = sharedTable().find((row) => row.name === name)?.file ?? '';
    expect(costOf(readModel(file))).toMatchObject({ macs, depth, nonPolynomial });
  });
});
