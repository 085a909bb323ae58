import { describe, expect, test } from 'vitest';
import { intAttribute, intsAttr } from '../../src/graph/attributes.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { addConstant, addNode, cloneModel, removeNode } from '../../src/graph/edit.ts';
import type { ElementType, Model, Value } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import type { PassReport } from '../../src/passes/pass.ts';
import { replaceMaxpool } from '../../src/passes/replace-maxpool.ts';
import { replaceMaxpoolSum } from '../../src/passes/replace-maxpool-sum.ts';
import { expectSame, noise, ops } from '../support/numeric.ts';
import {
  functionProto,
  graphAttribute,
  graphProto,
  nodeProto,
  protoModel,
  reread,
  sharedModel,
} from '../support/passes.ts';

// Sums of float32 in another order, or with a factor inside: a few units in the last place of the largest term.
const FLOAT = { atol: 1e-6, rtol: 1e-5 };
const run = (model: Model) => replaceMaxpoolSum.run(model, {}) as PassReport;
const details = (model: Model) => run(model).applied.map(({ detail }) => detail);
const reasons = (model: Model) => run(model).skipped.map(({ reason }) => reason);
type Attributes = Record<string, number | string | number[]>;
const WINDOWS: Attributes = { kernel_shape: [3, 2], strides: [2, 2], pads: [1, 0, 1, 1] };

const weights = (g: GraphBuilder, dims: number[], seed = 2, elem: ElementType = 'float') =>
  g.constant(
    `w${seed}`,
    elem,
    dims,
    noise(
      dims.reduce((a, b) => a * b, 1),
      seed,
    ),
  );
/** k times the mean over the windows, as the definition says it. */
const sum = (g: GraphBuilder, x: Value, attributes: Attributes, elem: ElementType = 'float') => {
  const k = (attributes.kernel_shape as number[]).reduce((a, b) => a * b, 1);
  const mean = g.node('AveragePool', [x], { ...attributes, count_include_pad: 1 }, 'mean');
  return g.node('Mul', [mean, g.constant('k', elem, [], [k])], {}, 'times');
};
const max = (g: GraphBuilder, x: Value, attributes: Attributes) => g.node('MaxPool', [x], attributes, 'pool');

interface Options {
  readonly opset?: number;
  readonly elem?: ElementType;
  readonly attributes?: Attributes;
  readonly shape?: (number | string)[];
}
type Pool = (g: GraphBuilder, x: Value) => Value;

/** The same network with a MaxPool to be replaced, and with the sum that should come of it. */
function both(after: (g: GraphBuilder, x: Value, pool: Pool) => Value, options: Options = {}): [Model, Model] {
  const { opset = 17, elem = 'float', attributes = WINDOWS, shape = [2, 4, 7, 7] } = options;
  const make = (pool: Pool) => {
    const g = buildModel({ name: 'g', opset });
    const y = after(g, g.input('x', elem, shape), pool);
    g.output(y, 'y', elem, inferTypes(g.model).get(y).shape ?? []);
    return g.model;
  };
  return [make((g, x) => max(g, x, attributes)), make((g, x) => sum(g, x, attributes, elem))];
}

describe('the sum', () => {
  test.each<[number, Attributes]>([
    [8, { kernel_shape: [2, 2], strides: [2, 2] }],
    [8, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }],
    [10, { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }],
    [12, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1], ceil_mode: 1 }],
    [12, { kernel_shape: [3, 2], auto_pad: 'SAME_UPPER', strides: [2, 2] }],
    [17, { kernel_shape: [3, 3], pads: [0, 1, 1, 0], dilations: [1, 1], storage_order: 1 }],
    [19, { kernel_shape: [2, 2], dilations: [2, 2] }],
  ])('opset %i: %j', async (opset, attributes) => {
    const { storage_order: _, ...kept } = attributes;
    const [model] = both((g, x, pool) => pool(g, x), { opset, attributes });
    const dropped = opset < 19 ? { ...kept, dilations: undefined } : kept;
    const [, expected] = both((g, x, pool) => pool(g, x), {
      opset,
      attributes: Object.fromEntries(Object.entries(dropped).filter(([, value]) => value !== undefined)) as Attributes,
    });
    expect(run(model)).toMatchObject({ pass: 'replace-maxpool-sum', applied: [{ site: 'pool' }], skipped: [] });
    expect(ops(model)).toEqual(['AveragePool', 'Mul']);
    expect(model.graph.outputs.map(({ value }) => value.name)).toEqual(['y']);
    await expectSame(expected, reread(model), { atol: 0, rtol: 0 });
  });

  test('is a convolution with ones, padding included', async () => {
    const attributes = { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] };
    const [model] = both((g, x, pool) => pool(g, x), { attributes });
    const g = buildModel({ name: 'ones', opset: 17 });
    const ones = g.constant('ones', 'float', [4, 1, 3, 3], new Float32Array(36).fill(1));
    const conv = g.node('Conv', [g.input('x', 'float', [2, 4, 7, 7]), ones], { ...attributes, group: 4 });
    g.output(conv, 'y', 'float', [2, 4, 4, 4]);
    run(model);
    await expectSame(g.model, reread(model), FLOAT);
  });

  test('of windows of one element has no factor', () => {
    const [model] = both((g, x, pool) => pool(g, x), { attributes: { kernel_shape: [1, 1], strides: [2, 2] } });
    expect(details(model)).toEqual(['MaxPool became a sum']);
    expect(ops(model)).toEqual(['AveragePool']);
  });
});

describe('the factor goes into weights', () => {
  // 4 channels of 4 x 4 after the pool.
  test.each<[string, (g: GraphBuilder, x: Value, pool: Pool) => Value, string[]]>([
    [
      'Conv with padding and a bias',
      (g, x, pool) =>
        g.node('Conv', [pool(g, x), weights(g, [3, 4, 3, 3]), weights(g, [3], 3)], { pads: [1, 1, 1, 1] }),
      ['AveragePool', 'Conv'],
    ],
    [
      'ConvTranspose',
      (g, x, pool) => g.node('ConvTranspose', [pool(g, x), weights(g, [4, 3, 2, 2])]),
      ['AveragePool', 'ConvTranspose'],
    ],
    [
      'Gemm behind Flatten, with alpha, beta and a bias',
      (g, x, pool) =>
        g.node('Gemm', [g.node('Flatten', [pool(g, x)]), weights(g, [5, 64]), weights(g, [5], 3)], {
          ...{ transB: 1, alpha: 0.5, beta: 1.5 },
        }),
      ['AveragePool', 'Flatten', 'Gemm'],
    ],
    [
      'MatMul behind Transpose, Reshape and Dropout, and what is added',
      (g, x, pool) => {
        const moved = g.node('Transpose', [g.node('Identity', [pool(g, x)])], { perm: [0, 2, 3, 1] });
        const flat = g.node('Reshape', [g.node('Dropout', [moved]), g.constant('s', 'int64', [2], [2, 64])]);
        return g.node('Add', [g.node('MatMul', [flat, weights(g, [64, 5])]), weights(g, [5], 3)]);
      },
      ['AveragePool', 'Identity', 'Transpose', 'Dropout', 'Reshape', 'MatMul', 'Add'],
    ],
    [
      'MatMul from the left',
      (g, x, pool) => g.node('MatMul', [weights(g, [5, 4]), pool(g, x)]),
      ['AveragePool', 'MatMul'],
    ],
    [
      'through another pool',
      (g, x, pool) => g.node('Conv', [g.node('GlobalAveragePool', [pool(g, x)]), weights(g, [3, 4, 1, 1])]),
      ['AveragePool', 'GlobalAveragePool', 'Conv'],
    ],
    [
      'of two pools in a row',
      (g, x, pool) => g.node('Conv', [pool(g, pool(g, x)), weights(g, [3, 4, 1, 1])]),
      ['AveragePool', 'AveragePool', 'Conv'],
    ],
  ])('%s', async (_, after, operators) => {
    const [model, expected] = both(after);
    const report = run(model);
    expect(report.skipped).toEqual([]);
    for (const { detail } of report.applied) expect(detail).toContain('its factor 6 is in the weights of');
    expect(ops(model)).toEqual(operators);
    await expectSame(expected, reread(model), FLOAT);
  });

  test('of float16, unless they would overflow', async () => {
    const [model, expected] = both(
      (g, x, pool) => g.node('Conv', [pool(g, x), weights(g, [3, 4, 1, 1], 2, 'float16')]),
      {
        elem: 'float16',
      },
    );
    expect(details(model)[0]).toContain('in the weights');
    expect(model.graph.initializers.map(({ tensor }) => tensor.elem)).toEqual(['float16']);
    await expectSame(expected, reread(model), { atol: 1e-2, rtol: 1e-2 });
    const large = (g: GraphBuilder) => g.constant('w', 'float16', [1, 4, 1, 1], [6e4, 0, 0, 0]);
    const [wide] = both((g, x, pool) => g.node('Conv', [pool(g, x), large(g)]), { elem: 'float16' });
    expect(details(wide)[0]).toContain('a Mul multiplies');
  });

  test('that others read too are copied', async () => {
    const [model, expected] = both((g, x, pool) => {
      const w = weights(g, [4, 4, 1, 1]);
      return g.node('Conv', [pool(g, g.node('Conv', [x, w], {}, 'first')), w], {}, 'second');
    });
    expect(details(model)).toEqual(["MaxPool became a sum; its factor 6 is in the weights of Conv 'second'"]);
    expect(model.graph.initializers).toHaveLength(2);
    await expectSame(expected, reread(model), FLOAT);
  });
});

const square = (g: GraphBuilder, x: Value) => g.node('MatMul', [x, x]);

describe('a Mul multiplies', () => {
  test.each<[string, (g: GraphBuilder, x: Value, pool: Pool) => Value]>([
    ['before a nonlinearity', (g, x, pool) => g.node('Conv', [g.node('Relu', [pool(g, x)]), weights(g, [3, 4, 1, 1])])],
    [
      'for two readers',
      (g, x, pool) => {
        const y = pool(g, x);
        return g.node('Concat', [g.node('Conv', [y, weights(g, [4, 4, 1, 1])]), y], { axis: 1 });
      },
    ],
    ['for one that reads it twice', (g, x, pool) => square(g, pool(g, x))],
    [
      'for data by data',
      (g, x, pool) => g.node('MatMul', [pool(g, x), g.node('Transpose', [pool(g, x)], { perm: [0, 1, 3, 2] })]),
    ],
    ['before a sum', (g, x, pool) => g.node('Add', [pool(g, x), weights(g, [4, 1, 1])])],
  ])('%s', async (_, after) => {
    const attributes = { kernel_shape: [2, 2], strides: [2, 2], pads: [0, 0, 1, 1] };
    const [model, expected] = both(after, { attributes });
    for (const detail of details(model)) expect(detail).toBe('MaxPool became a sum; a Mul multiplies by its factor 4');
    expect(ops(model)).toContain('AveragePool');
    await expectSame(expected, reread(model), FLOAT);
  });
});

describe('what stays', () => {
  test('what replace-maxpool leaves, too', () => {
    const one = (options: Options) => both((g, x, pool) => pool(g, x), options)[0];
    const integers = one({ elem: 'uint8', opset: 12 });
    expect(reasons(integers)).toEqual(['AveragePool has no version for uint8']);
    expect(ops(integers)).toEqual(['MaxPool']);
    expect(reasons(one({ opset: 12, attributes: { kernel_shape: [2, 2], dilations: [2, 2] } }))).toEqual([
      'AveragePool knows no dilations at opset 12',
    ]);
    expect(reasons(one({ opset: 6, attributes: { kernel_shape: [2, 2] } }))).toEqual([
      "AveragePool can't count padding at opset 6",
    ]);
  });

  test('below opset 7 the mean has no attribute for padding', () => {
    const [model] = both((g, x, pool) => pool(g, x), { opset: 6, attributes: { kernel_shape: [2, 2] } });
    expect((replaceMaxpool.run(model, {}) as PassReport).applied).toHaveLength(1);
    expect(model.graph.nodes[0]?.attributes.map(({ name }) => name)).toEqual(['kernel_shape']);
  });
});

test('in nested graphs and functions', async () => {
  const kernel = [{ name: 'kernel_shape', type: 7, ints: [2, 2] } as never];
  const counted = [...kernel, { name: 'count_include_pad', type: 2, i: 1 } as never];
  const four = (name: string) => nodeProto('Constant', [], [name], [{ name: 'value_float', type: 1, f: 4 } as never]);
  const build = (replaced: boolean) => {
    const pool = (x: string, y: string) =>
      replaced
        ? [
            nodeProto('AveragePool', [x], [`${y}_a`], counted),
            four(`${y}_k`),
            nodeProto('Mul', [`${y}_a`, `${y}_k`], [y]),
          ]
        : [nodeProto('MaxPool', [x], [y], kernel)];
    const branch = (name: string, nodes: ReturnType<typeof pool>) =>
      graphProto({ name, outputs: [[name, 'float', [1, 1, 3, 3]]], nodes });
    const other = [nodeProto('LpPool', ['x'], ['e'], kernel)];
    return protoModel({
      inputs: [
        ['c', 'bool', []],
        ['x', 'float', [1, 1, 4, 4]],
      ],
      outputs: [['y', 'float', [1, 1, 2, 2]]],
      nodes: [
        nodeProto(
          'If',
          ['c'],
          ['h'],
          [
            graphAttribute('then_branch', branch('t', pool('x', 't'))),
            graphAttribute('else_branch', branch('e', other)),
          ],
        ),
        nodeProto('F', ['h'], ['y'], [], 'local'),
      ],
      functions: [functionProto('F', ['p'], ['q'], pool('p', 'q'))],
    });
  };
  const model = build(false);
  expect(run(model).applied.map(({ site }) => site)).toEqual(['n_t', 'n_q']);
  await expectSame(build(true), reread(model), FLOAT, 4);
});

/** An average that counts padding and a Mul, for every MaxPool. */
function byHand(original: Model): Model {
  const model = cloneModel(original);
  for (const node of model.graph.nodes.filter(({ op }) => op === 'MaxPool')) {
    const [x, y] = [node.inputs[0] as Value, node.outputs[0] as Value];
    const kept = node.attributes.filter(({ name }) => name !== 'storage_order' && name !== 'dilations');
    const k = (intsAttr(node, 'kernel_shape') ?? []).reduce((a, b) => a * b, 1);
    const next = removeNode(node);
    const attributes = [...kept, intAttribute('count_include_pad', 1)];
    const mean = addNode(model, model.graph, { op: 'AveragePool', name: 'mean', inputs: [x], attributes }, next);
    const factor = addConstant(model, model.graph, makeTensor('k', 'float', [], [k]), next);
    const inputs = [mean.outputs[0] as Value, factor];
    addNode(model, model.graph, { op: 'Mul', name: 'times', inputs, outputs: [y] }, next);
  }
  return model;
}

describe('real networks', () => {
  test.each([
    ['kanav99_lenet', 2],
    ['lenet5_torch04', 2],
    ['cntk_mnist_8', 2],
    ['keras2onnx_mnist_lg', 2],
  ])('%s: a mean pool with factors', async (name, count) => {
    const model = sharedModel(`models/${name}.onnx`);
    if (!model) return;
    const original = cloneModel(model);
    const report = run(model);
    expect(report.applied.length).toBeGreaterThanOrEqual(count);
    expect(report.skipped).toEqual([]);
    expect(ops(model)).not.toContain('MaxPool');
    expect(verify(model)).toEqual([]);
    await expectSame(byHand(original), reread(model), FLOAT);
  });
});
