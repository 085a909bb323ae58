import { describe, expect, it } from 'vitest';
import { type NdArray, openSession } from '../../src/eval/session.ts';
import { floatAttribute, intsAttr, intsAttribute } from '../../src/graph/attributes.ts';
import { type AttributeValue, buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { constantNumbers } from '../../src/graph/constants.ts';
import { addNode, cloneModel, removeNode } from '../../src/graph/edit.ts';
import type { Dim, ElementType, Model, Value } from '../../src/graph/ir.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { serialize } from '../../src/graph/write.ts';
import type { PassReport } from '../../src/passes/pass.ts';
import { setOpsetPass } from '../../src/passes/set-opset.ts';
import { expectClose, noiseArray, numbersOf } from '../support/numeric.ts';
import { functionProto, graphAttribute, graphProto, nodeProto, protoModel, sharedModel } from '../support/passes.ts';

const convert = async (model: Model, opset: number): Promise<PassReport> => setOpsetPass.run(model, { opset });

async function outputsOf(model: Model, rows = 2): Promise<Map<string, NdArray>> {
  const session = await openSession(serialize(model, { inline: true }), { optimize: false });
  try {
    const feeds = new Map<string, NdArray>();
    for (const { value } of model.graph.inputs) {
      if (value.initializer) continue;
      const dims = (value.declared?.shape ?? []).map((dim) => (typeof dim === 'number' ? dim : rows));
      feeds.set(value.name, noiseArray(value.declared?.elem ?? 'float', dims, 3));
    }
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

/** The same numbers from both models: conversions change no arithmetic, so the tolerance is that of float. */
async function expectSameOutputs(expected: ReadonlyMap<string, NdArray>, model: Model): Promise<void> {
  expect(verify(model)).toEqual([]);
  const found = await outputsOf(model);
  for (const name of expected.keys()) {
    const reference = numbersOf(expected, name);
    const scale = reference.reduce((max, x) => Math.max(max, Math.abs(x)), 1);
    expectClose(numbersOf(found, name), reference, 1e-6 * scale);
  }
}

const TARGETS = [13, 18, 21, 23] as const;
const MODELS = [
  'ace_resnet20_cifar10_pre',
  'burn_mnist',
  'cntk_mnist_8',
  'djl_mnist',
  'ezkl_prelu_gmm',
  'kanav99_lenet',
  'keras2onnx_mnist_lg',
  'lenet5_torch04',
  'light_shufflenet',
  'light_vgg19',
  'marabou_cifar10_small',
  'marabou_mnist5x20_leaky_relu',
  'mnist_fc_256x2',
  'oval21_cifar_deep_kw',
  'qonnx_residual_block',
  'sri_resnet_a',
  'super_resolution_10',
  'tinymobilenet_cifar10_dynamo',
  'tinymobilenet_cifar10_int8',
  'vit_pgd_2_3_16',
  'yolo_tiny',
  'zuramai_mnist_dynamo/mnist',
] as const;

/** First refusal of the real models that can't go somewhere, by model and target. All others go everywhere. */
const REFUSED: Readonly<Record<string, string>> = {
  'zuramai_mnist_dynamo/mnist 13': "Shape 'node_Shape_0' changed in opset 15: it has the attribute end",
};

describe('real models', () => {
  for (const file of MODELS)
    it(file, async (test) => {
      const original = sharedModel(`models/${file}.onnx`);
      if (!original) return test.skip();
      const home = original.opsets.get('') ?? 0;
      // Half a gigabyte of weights made at run time: once is enough.
      const targets = file === 'light_vgg19' ? [18] : TARGETS;
      const expected = await outputsOf(original);
      for (const target of targets) {
        if (target === home) continue;
        const model = cloneModel(original);
        const report = await convert(model, target);
        const refusal = REFUSED[`${file} ${target}`];
        expect(report.skipped[0]?.reason).toBe(refusal);
        if (refusal) continue;
        expect(model.opsets.get('')).toBe(target);
        await expectSameOutputs(expected, model);
        const back = await convert(model, home);
        expect(back.skipped).toEqual([]);
        if (target === targets.at(-1)) await expectSameOutputs(expected, model);
      }
    });

  it('refuses where an operator is not there yet, naming it', async (test) => {
    const cases = [
      ['lenet5_torch04', 8, "Constant '26' changed in opset 9: the older version takes no int64"],
      ['djl_mnist', 8, "MeanVarianceNormalization 'Node4': MeanVarianceNormalization exists from opset 9 on"],
      ['light_vgg19', 8, "ConstantOfShape 'conv1_1_w_0': ConstantOfShape exists from opset 9 on"],
      [
        'tinymobilenet_cifar10_int8',
        9,
        "QuantizeLinear 'input_QuantizeLinear': QuantizeLinear exists from opset 10 on",
      ],
    ] as const;
    for (const [file, target, reason] of cases) {
      const model = sharedModel(`models/${file}.onnx`);
      if (!model) return test.skip();
      const report = await convert(model, target);
      expect(report.applied).toEqual([]);
      expect(report.skipped[0]?.reason).toBe(reason);
    }
  });
});

interface Case {
  readonly op: string;
  readonly from: number;
  readonly to: number;
  readonly shape: readonly Dim[];
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
  readonly inputs?: (g: GraphBuilder) => readonly (Value | null)[];
  /** Element type and shape of the output. */
  readonly out?: readonly [ElementType, readonly Dim[]];
  readonly elem?: ElementType;
  /** Do not convert back: the older spelling can't say it. */
  readonly oneWay?: boolean;
}

const ints =
  (...values: number[]) =>
  (g: GraphBuilder) => [g.constant('ints', 'int64', [values.length], values)];

function build({ op, from, shape, attributes, inputs, out, elem }: Case): Model {
  const g = buildModel({ name: 'case', opset: from });
  const x = g.input('x', elem ?? 'float', shape);
  g.output(
    g.node(op, [x, ...(inputs?.(g) ?? [])], attributes),
    'y',
    ...(out ?? ([elem ?? 'float', shape.map(() => null)] as const)),
  );
  return g.model;
}

const S = [2, 3, 4] as const;
const IMAGE = [1, 2, 5, 5] as const;
const CASES: readonly Case[] = [
  {
    op: 'Clip',
    from: 9,
    to: 11,
    shape: S,
    attributes: { min: floatAttribute('min', -0.5), max: floatAttribute('max', 0.25) },
  },
  { op: 'Clip', from: 9, to: 23, shape: S, attributes: { max: floatAttribute('max', 0.25) } },
  { op: 'Dropout', from: 9, to: 13, shape: S, attributes: { ratio: floatAttribute('ratio', 0.25) } },
  { op: 'Squeeze', from: 11, to: 13, shape: [2, 1, 3], attributes: { axes: [1] }, out: ['float', [2, 3]] },
  { op: 'Squeeze', from: 9, to: 21, shape: [2, 1, 3], out: ['float', [2, 3]] },
  { op: 'Unsqueeze', from: 9, to: 23, shape: S, attributes: { axes: [0, 2] }, out: ['float', [1, 2, 1, 3, 4]] },
  { op: 'ReduceSum', from: 11, to: 13, shape: S, attributes: { axes: [-1], keepdims: 0 }, out: ['float', [2, 3]] },
  { op: 'ReduceMean', from: 9, to: 18, shape: S, attributes: { axes: [0, 2] } },
  { op: 'ReduceMax', from: 11, to: 21, shape: S },
  { op: 'ReduceL2', from: 9, to: 13, shape: S, attributes: { axes: [1] } },
  {
    op: 'Slice',
    from: 9,
    to: 10,
    shape: S,
    attributes: { starts: [1, -3], ends: [3, 9007199254740991], axes: [1, 2] },
  },
  { op: 'Slice', from: 9, to: 13, shape: S, attributes: { starts: [1], ends: [2] } },
  {
    op: 'Pad',
    from: 10,
    to: 11,
    shape: S,
    attributes: { pads: [0, 1, 0, 0, 0, 2], value: floatAttribute('value', 0.5) },
  },
  { op: 'Pad', from: 9, to: 23, shape: S, attributes: { pads: [0, 1, 0, 0, 0, 2], mode: 'reflect' } },
  { op: 'Softmax', from: 11, to: 13, shape: S, attributes: { axis: 2 } },
  { op: 'Softmax', from: 9, to: 13, shape: [2, 5, 1, 1] },
  { op: 'LogSoftmax', from: 9, to: 18, shape: [2, 5] },
  { op: 'Softmax', from: 13, to: 9, shape: S },
  { op: 'Split', from: 11, to: 18, shape: S, attributes: { axis: -1, split: [4] } },
  { op: 'Split', from: 11, to: 13, shape: S, attributes: { axis: 1, split: [3] } },
  { op: 'Split', from: 13, to: 18, shape: S, attributes: { axis: 1 } },
  { op: 'Split', from: 18, to: 9, shape: S, attributes: { axis: -1, num_outputs: 1 } },
  { op: 'BatchNormalization', from: 7, to: 15, shape: IMAGE, attributes: { spatial: 1 }, inputs: statistics(2) },
  { op: 'Upsample', from: 7, to: 9, shape: [1, 1, 2, 2], attributes: { scales: scales(1, 1, 2, 2) }, oneWay: true },
  { op: 'AveragePool', from: 9, to: 22, shape: IMAGE, attributes: { kernel_shape: [2, 2] } },
  { op: 'MaxPool', from: 7, to: 23, shape: IMAGE, attributes: { kernel_shape: [2, 2], strides: [2, 2] } },
  {
    op: 'MaxPool',
    from: 12,
    to: 8,
    shape: IMAGE,
    attributes: { kernel_shape: [2, 2], ceil_mode: 0, dilations: [1, 1] },
  },
  {
    op: 'Reshape',
    from: 14,
    to: 13,
    shape: S,
    attributes: { allowzero: 1 },
    inputs: ints(6, 4),
    out: ['float', [6, 4]],
  },
  { op: 'Flatten', from: 11, to: 9, shape: S, attributes: { axis: -1 }, out: ['float', [6, 4]] },
  { op: 'Concat', from: 13, to: 8, shape: S, attributes: { axis: -2 } },
  {
    op: 'ArgMax',
    from: 13,
    to: 9,
    shape: S,
    attributes: { axis: -1, select_last_index: 0 },
    out: ['int64', [2, 3, 1]],
  },
  { op: 'Shape', from: 15, to: 13, shape: S, attributes: { start: 0 }, out: ['int64', [3]] },
  { op: 'Cast', from: 19, to: 13, shape: S, attributes: { to: 6, saturate: 1 }, out: ['int32', [2, 3, 4]] },
  {
    op: 'Resize',
    from: 13,
    to: 19,
    shape: [1, 1, 2, 2],
    inputs: (g) => [null, g.constant('s', 'float', [4], [1, 1, 2, 2])],
    attributes: { mode: 'linear' },
  },
  { op: 'DepthToSpace', from: 13, to: 9, shape: [1, 4, 2, 2], attributes: { blocksize: 2, mode: 'DCR' } },
  { op: 'HardSigmoid', from: 9, to: 22, shape: S },
  {
    op: 'MatMul',
    from: 9,
    to: 13,
    shape: [2, 3],
    inputs: (g) => [g.constant('w', 'float', [3, 2], [1, 2, 3, 4, 5, 6])],
  },
];

function statistics(channels: number) {
  return (g: GraphBuilder) =>
    ['scale', 'bias', 'mean', 'var'].map((name) => g.constant(name, 'float', [channels], Array(channels).fill(0.5)));
}

function scales(...values: number[]): AttributeValue {
  const attr = intsAttribute('scales', values);
  return { ...attr, proto: Object.assign(attr.proto, { type: 6, ints: [], floats: values }) };
}

describe('single operators', () => {
  for (const one of CASES)
    it(`${one.op} ${one.from} -> ${one.to} ${JSON.stringify(Object.keys(one.attributes ?? {}))}`, async () => {
      const model = build(one);
      const expected = await outputsOf(model);
      expect((await convert(model, one.to)).skipped).toEqual([]);
      await expectSameOutputs(expected, model);
      if (one.oneWay) return;
      expect((await convert(model, one.from)).skipped).toEqual([]);
      await expectSameOutputs(expected, model);
    });

  it('Clip of doubles keeps the bounds of float that it had by default', async () => {
    const model = build({ op: 'Clip', from: 10, to: 11, shape: S, elem: 'double' });
    expect((await convert(model, 11)).skipped).toEqual([]);
    const bounds = model.graph.nodes[0]?.inputs.slice(1).map((value) => constantNumbers(model, value)?.[0]);
    expect(bounds).toEqual([-3.4028234663852886e38, 3.4028234663852886e38]);
    expect((await convert(model, 10)).skipped[0]?.reason).toContain('Clip of double has other bounds');
  });

  it('TopK gets its k as an input', async () => {
    const g = buildModel({ name: 'topk', opset: 9 });
    const topk = g.node('TopK', [g.input('x', 'float', S)], { k: 2 });
    // The builder makes nodes with one output; TopK has two.
    const node = topk.producer;
    if (!node) throw new Error('no node');
    removeNode(node);
    const two = addNode(g.model, g.model.graph, {
      op: 'TopK',
      name: 't',
      inputs: node.inputs,
      attributes: node.attributes,
      outputs: 2,
    });
    for (const [i, value] of two.outputs.entries())
      if (value) g.output(value, `y${i}`, i ? 'int64' : 'float', [2, 3, 2]);
    const expected = await outputsOf(g.model);
    for (const target of [10, 13, 9]) {
      expect((await convert(g.model, target)).skipped).toEqual([]);
      await expectSameOutputs(expected, g.model);
    }
    expect(g.model.graph.initializers).toEqual([]);
  });

  it('leaves a shared constant that becomes an attribute to its other reader', async () => {
    const g = buildModel({ name: 'shared', opset: 13 });
    const axes = g.constant('axes', 'int64', [1], [1]);
    const x = g.input('x', 'float', [2, 1, 3]);
    g.output(g.node('Squeeze', [x, axes]), 'y', 'float', [2, 3]);
    g.output(g.node('Add', [axes, axes]), 'z', 'int64', [1]);
    expect((await convert(g.model, 12)).skipped).toEqual([]);
    expect(g.model.graph.nodes[0] && intsAttr(g.model.graph.nodes[0], 'axes')).toEqual([1]);
    expect(constantNumbers(g.model, axes)).toEqual(Float64Array.of(1));
  });
});

describe('functions and nested graphs', () => {
  it('are converted too, with opsets of their own', async () => {
    const squeeze = (from: string, to: string) => nodeProto('Squeeze', [from], [to], [intsAttribute('axes', [1])]);
    const branch = (name: string) =>
      graphAttribute(
        name,
        graphProto({ nodes: [squeeze('x', `${name}_y`)], outputs: [[`${name}_y`, 'float', [2, 3]]] }),
      );
    const model = protoModel({
      opset: 12,
      functions: [functionProto('squash', ['a'], ['b'], [squeeze('a', 'c'), nodeProto('Relu', ['c'], ['b'])], 11)],
      inputs: [['x', 'float', [2, 1, 3]]],
      outputs: [['z', 'float', [2, 3]]],
      initializers: [makeTensor('yes', 'bool', [], [1])],
      nodes: [
        nodeProto('squash', ['x'], ['s'], [], 'local'),
        nodeProto('If', ['yes'], ['t'], [branch('then_branch'), branch('else_branch')]),
        nodeProto('Add', ['s', 't'], ['z']),
      ],
    });
    const original = cloneModel(model);
    const expected = await outputsOf(original);
    const report = await convert(model, 18);
    expect(report.skipped).toEqual([]);
    expect(report.applied.map(({ site, detail }) => `${site}: ${detail}`)).toEqual([
      'opset: 12 -> 18',
      'n_then_branch_y: Squeeze rewritten for opset 18',
      'n_else_branch_y: Squeeze rewritten for opset 18',
      'n_c: Squeeze rewritten for opset 18',
    ]);
    expect(model.functions[0]?.opsets.get('')).toBe(18);
    await expectSameOutputs(expected, model);
    expect((await convert(model, 12)).skipped).toEqual([]);
    await expectSameOutputs(expected, model);
  });
});

describe('refusals', () => {
  const small = (op: string, from: number, shape: readonly Dim[], rest: Partial<Case> = {}) =>
    build({ op, from, to: 0, shape, ...rest });
  const cases: readonly (readonly [string, () => Model, number])[] = [
    [
      "Softmax 'softmax' changed in opset 13: axes 1 to 2 are normalised together before opset 13, and one by one from it on",
      () => small('Softmax', 11, S),
      13,
    ],
    [
      "Softmax 'softmax' changed in opset 13: axes 1 to 2 are normalised together before opset 13, and one by one from it on",
      () => small('Softmax', 13, S, { attributes: { axis: 1 } }),
      11,
    ],
    [
      "Upsample 'upsample': Upsample exists up to opset 9",
      () => small('Upsample', 7, IMAGE, { attributes: { scales: scales(1, 1, 2, 2) } }),
      11,
    ],
    [
      "Resize 'resize' changed in opset 11: it computes coordinates in another way",
      () => small('Resize', 10, IMAGE),
      13,
    ],
    [
      "BatchNormalization 'batchnormalization' changed in opset 9: spatial = 0 is gone",
      () => small('BatchNormalization', 7, IMAGE, { attributes: { spatial: 0 } }),
      9,
    ],
    ["OneHot 'onehot' changed in opset 11: negative indices mean something else", () => small('OneHot', 9, [3]), 13],
    ["Gelu 'gelu': Gelu exists from opset 20 on", () => small('Gelu', 20, S), 19],
    ["Fancy 'fancy': the versions of Fancy are not known here", () => small('Fancy', 13, S), 14],
    [
      "AveragePool 'averagepool' changed in opset 19: what ceil_mode counts was put right",
      () => small('AveragePool', 11, IMAGE, { attributes: { ceil_mode: 1 } }),
      20,
    ],
    [
      "MaxPool 'maxpool' changed in opset 10: the older version has no ceil_mode = 1",
      () => small('MaxPool', 11, IMAGE, { attributes: { ceil_mode: 1 } }),
      9,
    ],
    [
      "Conv 'conv' changed in opset 22: the older version takes no bfloat16",
      () => small('Conv', 22, IMAGE, { elem: 'bfloat16' }),
      21,
    ],
    [
      "ReduceMean 'reducemean' changed in opset 18: the older version reduces over all axes here",
      () => small('ReduceMean', 18, S, { attributes: { noop_with_empty_axes: 1 } }),
      13,
    ],
    [
      "Pad 'pad' changed in opset 19: mode = wrap means something else",
      () => small('Pad', 19, S, { attributes: { mode: 'wrap' } }),
      18,
    ],
    [
      "GroupNormalization 'groupnormalization' changed in opset 21: its scale and bias are by channel, no longer by group",
      () => small('GroupNormalization', 18, IMAGE),
      21,
    ],
    [
      "Relu 'relu' changed in opset 14: the older version takes no int32",
      () => small('Relu', 14, S, { elem: 'int32' }),
      13,
    ],
    [
      "Split 'split' changed in opset 18: the older version only splits into equal parts",
      () => small('Split', 18, S, { attributes: { axis: 1, num_outputs: 2 } }),
      13,
    ],
  ];
  for (const [reason, make, target] of cases)
    it(reason, async () => {
      const model = make();
      const before = serialize(model);
      expect(await convert(model, target)).toEqual({
        pass: 'set-opset',
        applied: [],
        skipped: [{ site: expect.any(String), reason }],
      });
      expect(Buffer.compare(serialize(model), before)).toBe(0);
    });

  it('computed inputs that the older version has as attributes', async () => {
    const g = buildModel({ name: 'computed', opset: 13 });
    const axes = g.input('axes', 'int64', [1]);
    g.output(g.node('Squeeze', [g.input('x', 'float', [2, 1]), axes]), 'y', 'float', [2]);
    expect((await convert(g.model, 12)).skipped[0]?.reason).toContain('its axes are computed');
  });

  it('changes nothing where one node of many can not be converted', async () => {
    const g = buildModel({ name: 'mixed', opset: 11 });
    const squeezed = g.node('Squeeze', [g.input('x', 'float', [1, 2, 3, 4])], { axes: [0] });
    g.output(g.node('Softmax', [squeezed]), 'y', 'float', [2, 3, 4]);
    const before = serialize(g.model);
    expect((await convert(g.model, 13)).skipped.map(({ site }) => site)).toEqual(['softmax']);
    expect(Buffer.compare(serialize(g.model), before)).toBe(0);
  });

  it('opsets out of range, and the one that is there already', async () => {
    const model = build({ op: 'Relu', from: 13, to: 0, shape: S });
    await expect(async () => convert(model, 24)).rejects.toThrow('--opset: 24 is no opset from 7 to 23');
    expect((await convert(model, 13)).skipped).toEqual([{ site: 'opset', reason: 'it is 13 already' }]);
  });
});
