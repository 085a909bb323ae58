import { describe, expect, it } from 'vitest';
import { floatAttribute } from '../../src/graph/attributes.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { type Cost, cost } from '../../src/graph/cost.ts';
import type { Dim, Model, Value } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
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
