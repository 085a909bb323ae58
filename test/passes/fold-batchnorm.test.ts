import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { floatAttribute } from '../../src/graph/attributes.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { ElementType, Model, Value } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { makeTensor, toNumbers } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { writeModel } from '../../src/graph/write.ts';
import { foldBatchnorm } from '../../src/passes/fold-batchnorm.ts';
import { foldConstants } from '../../src/passes/fold-constants.ts';
import type { PassReport } from '../../src/passes/pass.ts';
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

const FLOAT = { atol: 1e-6, rtol: 1e-5 };
const run = (model: Model) => foldBatchnorm.run(model, {}) as PassReport;
const reasonOf = (model: Model) =>
  run(model)
    .skipped.map(({ reason }) => reason)
    .join('; ');

/** Parameters whose scales differ a lot and are partly negative. */
function batchnorm(g: GraphBuilder, x: Value, channels: number, elem: ElementType = 'float', name = 'bn'): Value {
  const parameter = (kind: string, seed: number, map: (value: number) => number) =>
    g.constant(`${name}_${kind}`, elem, [channels], noise(channels, seed).map(map));
  return g.node(
    'BatchNormalization',
    [
      x,
      parameter('scale', 11, (v) => 2 * v),
      parameter('bias', 12, (v) => v),
      parameter('mean', 13, (v) => v),
      parameter('var', 14, (v) => 1.1 + v),
    ],
    { epsilon: floatAttribute('epsilon', 1e-3) },
    name,
  );
}

const weight = (g: GraphBuilder, dims: number[], elem: ElementType = 'float', name = 'w', seed = 2) =>
  g.constant(
    name,
    elem,
    dims,
    noise(
      dims.reduce((a, b) => a * b, 1),
      seed,
    ),
  );

interface ConvOptions {
  opset?: number;
  elem?: ElementType;
  group?: number;
  bias?: boolean;
  transposed?: boolean;
  irVersion?: number;
}

/** Conv or ConvTranspose from 4 to 6 channels, and a normalization at the output. */
function convModel({
  opset = 17,
  elem = 'float',
  group = 1,
  bias = true,
  transposed = false,
  irVersion = 8,
}: ConvOptions) {
  const g = buildModel({ name: 'g', opset, irVersion });
  const x = g.input('x', elem, [1, 4, 5, 5]);
  const w = weight(g, transposed ? [4, 6 / group, 3, 3] : [6, 4 / group, 3, 3], elem);
  const inputs = bias ? [x, w, weight(g, [6], elem, 'b', 3)] : [x, w];
  const op = transposed ? 'ConvTranspose' : 'Conv';
  const size = transposed ? 5 : 5;
  const conv = g.node(op, inputs, { group, kernel_shape: [3, 3], pads: [1, 1, 1, 1] }, 'conv');
  g.output(batchnorm(g, conv, 6, elem), 'y', elem, [1, 6, size, size]);
  return g;
}

async function expectFolded(model: Model, after: string[], tolerance = FLOAT): Promise<PassReport> {
  const original = cloneModel(model);
  const report = run(model);
  expect(report.skipped).toEqual([]);
  expect(report.applied.length).toBeGreaterThan(0);
  expect(ops(model)).toEqual(after);
  await expectSame(original, reread(model), tolerance);
  return report;
}

describe('Conv and ConvTranspose', () => {
  for (const transposed of [false, true])
    for (const group of [1, 2])
      for (const bias of [true, false])
        for (const [opset, irVersion] of [
          [8, 3],
          [17, 8],
        ] as const)
          test(`${transposed ? 'ConvTranspose' : 'Conv'}, group ${group}, bias ${bias}, opset ${opset}, IR ${irVersion}`, async () => {
            const { model } = convModel({ opset, group, bias, transposed, irVersion });
            const op = transposed ? 'ConvTranspose' : 'Conv';
            const report = await expectFolded(model, [op]);
            expect(report).toMatchObject({
              pass: 'fold-batchnorm',
              applied: [{ site: 'bn', detail: `folded into ${op} 'conv'` }],
            });
            expect(model.graph.outputs.map(({ value }) => value.name)).toEqual(['y']);
            expect(model.graph.initializers.map(({ value }) => value.name).slice(0, bias ? 2 : 1)).toEqual(
              bias ? ['w', 'b'] : ['w'],
            );
          });

  test('depthwise, one dimension, two normalizations in a row', async () => {
    const g = buildModel({ name: 'g', opset: 15 });
    const x = g.input('x', 'float', ['N', 3, 8]);
    const conv = g.node('Conv', [x, weight(g, [6, 1, 3])], { group: 3, kernel_shape: [3] });
    const first = batchnorm(g, conv, 6, 'float', 'first');
    g.output(batchnorm(g, first, 6, 'float', 'second'), 'y', 'float', ['N', 6, 6]);
    expect((await expectFolded(g.model, ['Conv'])).applied).toHaveLength(2);
  });

  test('float16 keeps its type', async () => {
    const { model } = convModel({ elem: 'float16' });
    await expectFolded(model, ['Conv'], { atol: 1e-3, rtol: 4e-3 });
    expect(model.graph.initializers.map(({ tensor }) => tensor.elem)).toEqual(['float16', 'float16']);
  });

  test('bfloat16 is rounded once, to nearest', () => {
    const { model } = convModel({ elem: 'bfloat16', bias: false });
    const source = cloneModel(model);
    const numbers = (of: Model, name: string) => {
      const found = of.graph.initializers.find(({ value }) => value.name === name);
      return found ? toNumbers(found.tensor) : new Float64Array();
    };
    expect(run(model).applied).toHaveLength(1);
    expect(verify(model)).toEqual([]);
    const [w, scale, variance] = ['w', 'bn_scale', 'bn_var'].map((name) => numbers(source, name)) as [
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const exact = w.map((value, i) => {
      const c = Math.floor(i / 36);
      return (value * (scale[c] ?? 0)) / Math.sqrt((variance[c] ?? 0) + 1e-3);
    });
    expect(numbers(model, 'w')).toEqual(toNumbers(makeTensor('w', 'bfloat16', [exact.length], exact)));
  });

  test('weights that leave the range of float16 are not folded', () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float16', [1, 1, 2, 2]);
    const conv = g.node('Conv', [x, g.constant('w', 'float16', [1, 1, 1, 1], [60000])]);
    const one = (name: string, value: number) => g.constant(name, 'float16', [1], [value]);
    g.output(
      g.node('BatchNormalization', [conv, one('s', 4), one('b', 0), one('m', 0), one('v', 1)]),
      'y',
      'float16',
      [1, 1, 2, 2],
    );
    expect(reasonOf(g.model)).toBe("the folded 'w' would not be finite in float16");
    expect(ops(g.model)).toEqual(['Conv', 'BatchNormalization']);
  });

  test('shared weights: the other reader keeps the old ones', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [1, 2, 4, 4]);
    const [w, b] = [weight(g, [3, 2, 1, 1]), weight(g, [3], 'float', 'b', 3)];
    const other = g.node('Conv', [x, w, b], {}, 'other');
    const sum = g.node('Add', [batchnorm(g, g.node('Conv', [x, w, b], {}, 'conv'), 3), other]);
    g.output(sum, 'y', 'float', [1, 3, 4, 4]);
    await expectFolded(g.model, ['Conv', 'Conv', 'Add']);
    expect(g.model.graph.initializers.map(({ value }) => value.name).sort()).toEqual(['b', 'b_1', 'w', 'w_1']);
    expect(other.producer?.inputs.map((value) => value?.name)).toEqual(['x', 'w', 'b']);
  });

  test('two normalized nodes share weights', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [1, 2, 4, 4]);
    const w = weight(g, [3, 2, 1, 1]);
    const branch = (name: string) => batchnorm(g, g.node('Conv', [x, w], {}, name), 3, 'float', `${name}_bn`);
    g.output(g.node('Add', [branch('one'), g.node('Relu', [branch('two')])]), 'y', 'float', [1, 3, 4, 4]);
    await expectFolded(g.model, ['Conv', 'Conv', 'Relu', 'Add']);
  });

  test('weights and parameters behind Constant and Identity nodes', async () => {
    const g = buildModel({ name: 'g', opset: 13 });
    const constant = (dims: number[], seed: number, map = (v: number) => v) =>
      g.node('Identity', [
        g.node('Constant', [], {
          value: makeTensor(
            '',
            'float',
            dims,
            noise(
              dims.reduce((a, b) => a * b, 1),
              seed,
            ).map(map),
          ),
        }),
      ]);
    const conv = g.node('Conv', [g.input('x', 'float', [1, 2, 3, 3]), constant([4, 2, 2, 2], 1), constant([4], 2)]);
    const parameters = [constant([4], 3), constant([4], 4), constant([4], 5), constant([4], 6, (v) => 1.5 + v)];
    g.output(g.node('BatchNormalization', [conv, ...parameters]), 'y', 'float', [1, 4, 2, 2]);
    await expectFolded(g.model, ['Conv']);
  });

  test('external weights', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'fold-'));
    try {
      const g = buildModel({ name: 'g', opset: 17 });
      const conv = g.node('Conv', [g.input('x', 'float', [1, 16, 6, 6]), weight(g, [16, 16, 3, 3])]);
      g.output(batchnorm(g, conv, 16), 'y', 'float', [1, 16, 4, 4]);
      const file = path.join(folder, 'm.onnx');
      await writeModel(g.model, file, { externalData: true });
      const model = readModel(file);
      expect(model.graph.initializers[0]?.tensor.external).not.toBeNull();
      await expectFolded(model, ['Conv']);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('Gemm', () => {
  interface GemmOptions {
    transA?: number;
    transB?: number;
    alpha?: number;
    beta?: number;
    bias?: number[] | null;
    elem?: ElementType;
    opset?: number;
  }
  /** [2, 3] x [3, 4]. */
  function gemmModel({
    transA = 0,
    transB = 0,
    alpha = 1,
    beta = 1,
    bias = [4],
    elem = 'float',
    opset = 13,
  }: GemmOptions) {
    const g = buildModel({ name: 'g', opset });
    const x = g.input('x', elem, transA ? [3, 2] : [2, 3]);
    const inputs = [x, weight(g, transB ? [4, 3] : [3, 4], elem), ...(bias ? [weight(g, bias, elem, 'c', 3)] : [])];
    const floats = { alpha: floatAttribute('alpha', alpha), beta: floatAttribute('beta', beta) };
    const gemm = g.node('Gemm', inputs, { transA, transB, ...floats }, 'gemm');
    g.output(batchnorm(g, gemm, 4, elem), 'y', elem, [2, 4]);
    return g.model;
  }

  for (const transA of [0, 1])
    for (const transB of [0, 1])
      for (const bias of [null, [], [1], [4], [1, 4], [2, 1], [2, 4]])
        test(`transA ${transA}, transB ${transB}, bias ${bias && `[${bias}]`}, alpha and beta`, async () => {
          await expectFolded(gemmModel({ transA, transB, bias, alpha: 0.5, beta: -1.5 }), ['Gemm']);
        });

  test('double, compared in double', async () => {
    await expectFolded(gemmModel({ elem: 'double', transB: 1 }), ['Gemm'], { atol: 1e-12, rtol: 1e-12 });
  });

  test('beta 0 and the form of opset 8', async () => {
    await expectFolded(gemmModel({ beta: 0 }), ['Gemm']);
    await expectFolded(gemmModel({ opset: 8, bias: [4] }), ['Gemm']);
  });

  test('a bias that is computed', () => {
    const g = buildModel({ name: 'g', opset: 13 });
    const gemm = g.node(
      'Gemm',
      [g.input('x', 'float', [2, 3]), weight(g, [3, 4]), g.input('c', 'float', [4])],
      {},
      'gemm',
    );
    g.output(batchnorm(g, gemm, 4), 'y', 'float', [2, 4]);
    expect(reasonOf(g.model)).toBe("the bias of Gemm 'gemm' 'c' is not constant");
  });
});

describe('MatMul', () => {
  function matmulModel(bias: 'none' | number[], swap = false, shape: (number | string)[] = ['N', 3]) {
    const g = buildModel({ name: 'g', opset: 13 });
    const product = g.node('MatMul', [g.input('x', 'float', shape), weight(g, [3, 4])], {}, 'matmul');
    const sum = () => {
      const b = weight(g, bias === 'none' ? [] : bias, 'float', 'b', 3);
      return g.node('Add', swap ? [b, product] : [product, b], {}, 'add');
    };
    const normalized = batchnorm(g, bias === 'none' ? product : sum(), 4);
    g.output(g.node('Relu', [normalized]), 'y', 'float', [...shape.slice(0, -1), 4]);
    return g.model;
  }

  test('without bias: an Add takes the place of the normalization', async () => {
    const model = matmulModel('none');
    const name = model.graph.nodes[1]?.outputs[0]?.name;
    await expectFolded(model, ['MatMul', 'Add', 'Relu']);
    expect(model.graph.nodes[1]?.outputs[0]?.name).toBe(name);
  });

  test.each([[[4]], [[1, 4]], [[1]], [[]], [[1, 1]]])('with a bias %j', async (bias) => {
    await expectFolded(matmulModel(bias), ['MatMul', 'Add', 'Relu']);
    await expectFolded(matmulModel(bias, true), ['MatMul', 'Add', 'Relu']);
  });

  test('of rank 3 the channels are rows', () => {
    const g = buildModel({ name: 'g', opset: 13 });
    const product = g.node('MatMul', [g.input('x', 'float', [2, 4, 3]), weight(g, [3, 4])], {}, 'matmul');
    g.output(batchnorm(g, product, 4), 'y', 'float', [2, 4, 4]);
    expect(reasonOf(g.model)).toMatch(/rank 2 only, and the rank is 3/);
  });

  test('a bias for each row, or of another product', () => {
    const rows = matmulModel([4, 1], false, [4, 3]);
    expect(reasonOf(rows)).toMatch(/what Add 'add' adds, \[4,1\], does not fit its 4 channels/);
    const g = buildModel({ name: 'g', opset: 13 });
    const x = g.input('x', 'float', [2, 3]);
    const product = (name: string) => g.node('MatMul', [x, weight(g, [3, 4], 'float', name)], {}, name);
    g.output(batchnorm(g, g.node('Add', [product('p'), product('q')]), 4), 'y', 'float', [2, 4]);
    expect(reasonOf(g.model)).toMatch(/is not constant/);
  });
});

describe('what stays', () => {
  test('others read the output, in the same graph or a nested one, or it is an output', () => {
    const reader = convModel({});
    const conv = reader.model.graph.nodes[0]?.outputs[0] as Value;
    reader.output(reader.node('Relu', [conv]), 'z', 'float', [1, 6, 5, 5]);
    expect(reasonOf(reader.model)).toMatch(/^others read/);

    const output = convModel({});
    output.output(output.model.graph.nodes[0]?.outputs[0] as Value, 'z', 'float', [1, 6, 5, 5]);
    expect(reasonOf(output.model)).toBe("'z', which it reads, is an output itself");
    expect(ops(output.model)).toEqual(['Conv', 'BatchNormalization']);
  });

  const parameters = ['s', 'b', 'm', 'v'].map((name) => makeTensor(name, 'float', [2], [1, 2]));
  const w = makeTensor('w', 'float', [2, 2, 1, 1], [1, 2, 3, 4]);
  const shape = [1, 2, 2, 2];

  test('a nested graph reads the output of the Conv, or returns that of the normalization', () => {
    const branch = (name: string, op: string, from: string) =>
      graphProto({ name, outputs: [[name, 'float', shape]], nodes: op ? [nodeProto(op, [from], [name])] : [] });
    const model = (then: ReturnType<typeof branch>) =>
      protoModel({
        inputs: [
          ['c', 'bool', []],
          ['x', 'float', shape],
        ],
        outputs: [['y', 'float', shape]],
        initializers: [w, ...parameters],
        nodes: [
          nodeProto('Conv', ['x', 'w'], ['conv']),
          nodeProto('BatchNormalization', ['conv', 's', 'b', 'm', 'v'], ['bn']),
          nodeProto(
            'If',
            ['c'],
            ['y'],
            [graphAttribute('then_branch', then), graphAttribute('else_branch', branch('e', 'Relu', 'bn'))],
          ),
        ],
      });
    expect(reasonOf(model(branch('t', 'Relu', 'conv')))).toMatch(/^others read 'conv'/);
    expect(reasonOf(model(branch('bn', '', '')))).toMatch(/a nested graph returns its output 'bn'/);
    expect(run(model(branch('t', 'Neg', 'bn'))).applied).toHaveLength(1);
  });

  test('a normalization in a nested graph of a Conv outside; both inside fold', async () => {
    const branch = (name: string, nodes: Parameters<typeof graphProto>[0]['nodes']) =>
      graphProto({ name, outputs: [[name, 'float', shape]], nodes });
    const bn = (from: string, to: string) => nodeProto('BatchNormalization', [from, 's', 'b', 'm', 'v'], [to]);
    const model = protoModel({
      inputs: [
        ['c', 'bool', []],
        ['x', 'float', shape],
      ],
      outputs: [['y', 'float', shape]],
      initializers: [w, ...parameters],
      nodes: [
        nodeProto('Conv', ['x', 'w'], ['conv']),
        nodeProto(
          'If',
          ['c'],
          ['y'],
          [
            graphAttribute('then_branch', branch('t', [bn('conv', 't')])),
            graphAttribute('else_branch', branch('e', [nodeProto('Conv', ['x', 'w'], ['inner']), bn('inner', 'e')])),
          ],
        ),
      ],
    });
    const original = cloneModel(model);
    const report = run(model);
    expect(report.applied.map(({ site }) => site)).toEqual(['n_e']);
    expect(report.skipped).toEqual([{ site: 'n_t', reason: "Conv 'n_conv' before it is outside of its graph" }]);
    await expectSame(original, reread(model), FLOAT, 4);
  });

  test('in a function, with Constant nodes', async () => {
    const constant = (name: string, dims: number[], values: number[]) =>
      nodeProto('Constant', [], [name], [buildConstant(dims, values)]);
    const model = protoModel({
      inputs: [['x', 'float', shape]],
      outputs: [['y', 'float', shape]],
      nodes: [nodeProto('Block', ['x'], ['h'], [], 'local'), nodeProto('Block', ['h'], ['y'], [], 'local')],
      functions: [
        functionProto(
          'Block',
          ['p'],
          ['q'],
          [
            constant('w', [2, 2, 1, 1], [1, 2, 3, 4]),
            ...['s', 'b', 'm', 'v'].map((name, i) => constant(name, [2], [i + 1, 2])),
            nodeProto('Conv', ['p', 'w'], ['c']),
            nodeProto('BatchNormalization', ['c', 's', 'b', 'm', 'v'], ['q']),
          ],
        ),
      ],
    });
    const original = cloneModel(model);
    expect(run(model)).toMatchObject({ applied: [{ site: 'n_q' }], skipped: [] });
    expect(model.functions[0]?.nodes.map(({ op }) => op)).toEqual(['Constant', 'Constant', 'Conv']);
    await expectSame(original, reread(model), FLOAT);
  });

  test('training, by attribute or by outputs; spatial 0; no weights', () => {
    const model = (opset: number, outputs: string[], attributes: Record<string, number> = {}, before = 'Conv') =>
      protoModel({
        opset,
        inputs: [['x', 'float', shape]],
        outputs: [['y', 'float', shape]],
        initializers: [w, ...parameters],
        nodes: [
          nodeProto(before, before === 'Conv' ? ['x', 'w'] : ['x'], ['c']),
          nodeProto(
            'BatchNormalization',
            ['c', 's', 'b', 'm', 'v'],
            outputs,
            Object.entries(attributes).map(([name, i]) => buildInt(name, i)),
          ),
        ],
      });
    expect(reasonOf(model(15, ['y'], { training_mode: 1 }))).toBe('it is in training mode');
    expect(reasonOf(model(9, ['y', 'm2', 'v2', 'sm', 'sv']))).toMatch(/training mode/);
    expect(reasonOf(model(8, ['y'], { spatial: 0 }))).toMatch(/spatial=0/);
    expect(reasonOf(model(6, ['y']))).toMatch(/opset 6/);
    expect(run(model(8, ['y'], { spatial: 1 })).applied).toHaveLength(1);
    expect(reasonOf(model(15, ['y'], {}, 'Relu'))).toMatch(/it reads Relu 'n_c', which has no weights/);
  });

  test('parameters or weights that a caller may replace', () => {
    const build = (irVersion: number, name: string) => {
      const model = protoModel({
        inputs: [
          ['x', 'float', shape],
          [name, 'float', name === 'w' ? [2, 2, 1, 1] : [2]],
        ],
        outputs: [['y', 'float', shape]],
        initializers: [w, ...parameters],
        nodes: [
          nodeProto('Conv', ['x', 'w'], ['c']),
          nodeProto('BatchNormalization', ['c', 's', 'b', 'm', 'v'], ['y']),
        ],
      });
      return Object.assign(model, { irVersion });
    };
    expect(reasonOf(build(8, 'm'))).toBe("its mean 'm' is not constant");
    expect(reasonOf(build(8, 'w'))).toBe("the weight of Conv 'n_c' 'w' is not constant");
    expect(run(build(3, 'w')).applied).toHaveLength(1);
  });
});

const buildInt = (name: string, i: number) => ({ name, type: 2, i }) as never;
function buildConstant(dims: number[], values: number[]) {
  return { name: 'value', type: 4, t: makeTensor('', 'float', dims, values).proto } as never;
}

test('property: folding changes nothing', async () => {
  const dimension = fc.integer({ min: 1, max: 3 });
  const arbitrary = fc.record({
    op: fc.constantFrom('Conv', 'ConvTranspose', 'Gemm'),
    group: dimension,
    inputs: dimension,
    outputs: dimension,
    kernel: dimension,
    stride: dimension,
    rank: fc.integer({ min: 1, max: 2 }),
    flags: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()),
    opset: fc.constantFrom(8, 11, 14, 17),
    seed: fc.integer({ min: 0, max: 1000 }),
  });
  await fc.assert(
    fc.asyncProperty(arbitrary, async ({ op, group, inputs, outputs, kernel, stride, rank, flags, opset, seed }) => {
      const g = buildModel({ name: 'g', opset });
      const [bias, transA, transB] = flags;
      const spatial = (value: number) => Array.from({ length: rank }, () => value);
      const channels = op === 'Gemm' ? outputs : group * outputs;
      const b = bias || opset < 11 ? [g.constant('b', 'float', [channels], noise(channels, seed))] : [];
      const make = () => {
        if (op === 'Gemm') {
          const x = g.input('x', 'float', transA ? [inputs, 2] : [2, inputs]);
          const w = weight(g, transB ? [outputs, inputs] : [inputs, outputs], 'float', 'w', seed + 1);
          const alpha = floatAttribute('alpha', 0.75);
          return g.node(op, [x, w, ...b], { transA: Number(transA), transB: Number(transB), alpha });
        }
        const x = g.input('x', 'float', [1, group * inputs, ...spatial(5)]);
        const dims = op === 'Conv' ? [channels, inputs] : [group * inputs, outputs];
        const w = weight(g, [...dims, ...spatial(kernel)], 'float', 'w', seed + 1);
        return g.node(op, [x, w, ...b], { group, kernel_shape: spatial(kernel), strides: spatial(stride) });
      };
      const rankOut = op === 'Gemm' ? 2 : rank + 2;
      const shape = Array.from({ length: rankOut }, (_, i) => `d${i}`);
      g.output(batchnorm(g, make(), channels), 'y', 'float', shape);
      await expectFolded(g.model, [op], { atol: 2e-6, rtol: 1e-5 });
    }),
    { numRuns: 60, seed: 5 },
  );
}, 60_000);

describe('real models', () => {
  test('burn_mnist', async (context) => {
    const model = sharedModel('models/burn_mnist.onnx');
    if (!model) return context.skip('no shared models');
    const original = cloneModel(model);
    const report = run(model);
    expect(report.applied.length + report.skipped.length).toBe(2);
    expect(ops(model).filter((op) => op === 'BatchNormalization')).toHaveLength(report.skipped.length);
    await expectSame(original, reread(model), FLOAT);
  });

  test('vit_pgd', async (context) => {
    const model = sharedModel('models/vit_pgd_2_3_16.onnx');
    if (!model) return context.skip('no shared models');
    const original = cloneModel(model);
    const report = run(model);
    expect(report.applied.length + report.skipped.length).toBe(5);
    await expectSame(original, reread(model), FLOAT);
  });

  test('light_densenet121, before and after fold-constants', async (context) => {
    const model = sharedModel('models/light_densenet121.onnx');
    if (!model) return context.skip('no shared models');
    const before = run(model);
    expect(before.applied).toEqual([]);
    expect(before.skipped).toHaveLength(121);
    expect(before.skipped[0]?.reason).toMatch(/is not constant/);
    const original = cloneModel(model);
    await foldConstants.run(model, { limit: 1 << 26 });
    expect(ops(model).filter((op) => op === 'ConstantOfShape')).toEqual([]);
    const after = run(model);
    expect(after.applied.length).toBeGreaterThan(0);
    await expectSame(original, reread(model), { atol: 1e-6, rtol: 1e-4 }, 1);
  }, 60_000);
});
