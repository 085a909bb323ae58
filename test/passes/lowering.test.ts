/** The passes that spell a model as compilers want it: each against the original in onnxruntime. */
import { describe, expect, test } from 'vitest';
import { intAttr, intsAttr } from '../../src/graph/attributes.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model, Value } from '../../src/graph/ir.ts';
import { embedKernel, embedUnevenKernel } from '../../src/passes/embed-kernel.ts';
import { foldGlobalPool } from '../../src/passes/fold-global-pool.ts';
import { foldPad } from '../../src/passes/fold-pad.ts';
import type { Pass, PassReport } from '../../src/passes/pass.ts';
import { replaceArithmetic, replaceRepeated } from '../../src/passes/replace-arithmetic.ts';
import { replaceBatchnorm } from '../../src/passes/replace-batchnorm.ts';
import { replacePaddedPool, replacePool } from '../../src/passes/replace-pool.ts';
import { replaceReshape } from '../../src/passes/replace-reshape.ts';
import { setAttributes } from '../../src/passes/set-attributes.ts';
import { COEFFICIENT_STYLES, setCoefficients } from '../../src/passes/set-coefficients.ts';
import { setForm } from '../../src/passes/set-form.ts';
import { setGemm } from '../../src/passes/set-gemm.ts';
import { setStatic } from '../../src/passes/set-static.ts';
import { expectSame, noise, ops } from '../support/numeric.ts';
import { reread } from '../support/passes.ts';

type Attributes = Record<string, number | string | number[]>;

const random = (g: GraphBuilder, name: string, dims: number[], seed = 3) =>
  g.constant(
    name,
    'float',
    dims,
    noise(
      dims.reduce((a, b) => a * b, 1),
      seed,
    ),
  );
const ints = (g: GraphBuilder, values: number[]) => g.constant('ints', 'int64', [values.length], values);

/** A model with one input and whatever `build` makes of it. */
function model(shape: (number | string)[], build: (g: GraphBuilder, x: Value) => Value, opset = 17): Model {
  const g = buildModel({ name: 'g', opset });
  const y = build(g, g.input('x', 'float', shape));
  g.output(y, 'y', 'float', null as never);
  return g.model;
}

/** Runs a pass, compares, and says what became of it. */
async function apply(
  pass: Pass,
  before: Model,
  rtol = 1e-6,
): Promise<{ ops: string[]; reasons: string[]; model: Model }> {
  const after = cloneModel(before);
  const report = (await pass.run(after, {})) as PassReport;
  await expectSame(before, reread(after), { atol: 1e-7, rtol });
  // What is done stays done.
  expect(((await pass.run(after, {})) as PassReport).applied).toEqual([]);
  return { ops: ops(after), reasons: report.skipped.map(({ reason }) => reason), model: after };
}

describe('set-gemm', () => {
  const gemm = (attributes: Attributes, w: number[], b: number[] | null) =>
    model(['N', 3], (g, x) => g.node('Gemm', [x, random(g, 'w', w), ...(b ? [random(g, 'b', b, 4)] : [])], attributes));
  test.each<[string, Model]>([
    ['plain', gemm({}, [3, 4], [4])],
    ['scaled', gemm({ alpha: 0.5, beta: 0.25 }, [3, 4], [1, 4])],
    ['transposed, a single bias', gemm({ transB: 1 }, [4, 3], [1])],
    ['without bias', gemm({ transB: 1, alpha: 2.5 }, [4, 3], null)],
    ['MatMul', model(['N', 3], (g, x) => g.node('MatMul', [x, random(g, 'w', [3, 4])]))],
    [
      'MatMul, Add',
      model(['N', 3], (g, x) => g.node('Add', [random(g, 'b', [4]), g.node('MatMul', [x, random(g, 'w', [3, 4])])])),
    ],
  ])('%s', async (_, before) => {
    const { ops, model } = await apply(setGemm, before);
    expect(ops).toEqual(['Gemm']);
    const [node] = model.graph.nodes;
    expect(
      node && [intAttr(node, 'transB'), node.inputs[1]?.initializer?.dims, node.inputs[2]?.initializer?.dims],
    ).toEqual([1, [4, 3], [4]]);
  });

  test('a product of rank 3 stays', async () => {
    const { reasons } = await apply(
      setGemm,
      model(['N', 2, 3], (g, x) => g.node('MatMul', [x, random(g, 'w', [3, 4])])),
    );
    expect(reasons).toEqual(['its input is not known to have rank 2']);
  });
});

const conv = (attributes: Attributes, size: number[], weights: number[], bias = false) =>
  model([1, ...size], (g, x) =>
    g.node('Conv', [x, random(g, 'w', weights), ...(bias ? [random(g, 'b', [weights[0] ?? 0], 4)] : [])], attributes),
  );

describe('set-attributes', () => {
  test.each<[string, Model, number[]]>([
    ['nothing', conv({}, [2, 6, 6], [3, 2, 3, 3]), [0, 0, 0, 0]],
    ['auto_pad SAME_UPPER', conv({ auto_pad: 'SAME_UPPER', strides: [2, 2] }, [2, 6, 7], [3, 2, 4, 3]), [1, 1, 1, 1]],
    ['auto_pad SAME_LOWER', conv({ auto_pad: 'SAME_LOWER' }, [2, 6, 6], [3, 2, 2, 2]), [1, 1, 0, 0]],
    ['auto_pad VALID', conv({ auto_pad: 'VALID' }, [2, 6, 6], [3, 2, 3, 3]), [0, 0, 0, 0]],
  ])('Conv with %s', async (_, before, pads) => {
    const { model } = await apply(setAttributes, before, 0);
    const [node] = model.graph.nodes;
    expect(node?.attributes.map(({ name }) => name).sort()).toEqual([
      'dilations',
      'group',
      'kernel_shape',
      'pads',
      'strides',
    ]);
    expect(node && intsAttr(node, 'pads')).toEqual(pads);
    expect(node?.inputs[2]?.initializer?.dims).toEqual([3]);
  });

  test('ceil_mode goes where it says nothing, and stays where it does', async () => {
    const pool = (size: number) =>
      model([1, 2, size, size], (g, x) =>
        g.node('AveragePool', [x], { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }),
      );
    const names = async (size: number) =>
      (await apply(setAttributes, pool(size))).model.graph.nodes[0]?.attributes.map(({ name }) => name);
    expect(await names(6)).not.toContain('ceil_mode');
    expect(await names(7)).toContain('ceil_mode');
  });
});

describe('fold-pad', () => {
  const padded = (pads: number[], value: number | null, second = false) =>
    model([1, 2, 6, 6], (g, x) => {
      const inputs = [x, ints(g, pads), ...(value === null ? [] : [g.constant('v', 'float', [], [value])])];
      const p = g.node('Pad', inputs);
      const y = g.node('Conv', [p, random(g, 'w', [3, 2, 3, 3])], { pads: [0, 1, 0, 1] });
      if (second) g.output(p, 'p', 'float', null as never);
      return y;
    });
  test('zeros around an image', async () => {
    const { ops, model } = await apply(foldPad, padded([0, 0, 1, 2, 0, 0, 3, 0], 0), 0);
    expect(ops).toEqual(['Conv']);
    expect(model.graph.nodes[0] && intsAttr(model.graph.nodes[0], 'pads')).toEqual([1, 3, 3, 1]);
  });
  test.each<[string, Model, string]>([
    ['ones', padded([0, 0, 1, 1, 0, 0, 1, 1], 1), 'it does not pad with zeros'],
    [
      'channels',
      padded(
        [0, 0, 1, 1, 0, 0, 1, 1].map((v, i) => (i === 1 ? 0 : v)),
        0,
        true,
      ),
      'something else than one convolution reads it',
    ],
    ['less than nothing', padded([0, 0, -1, 0, 0, 0, 0, 0], 0), 'it crops'],
  ])('not %s', async (_, before, reason) => {
    expect((await apply(foldPad, before, 0)).reasons).toEqual([reason]);
  });
});

describe('replace-arithmetic', () => {
  const scalar = (g: GraphBuilder, value: number) => g.constant('c', 'float', [], [value]);
  test.each<[string, (g: GraphBuilder, x: Value) => Value, string[]]>([
    ['x - c', (g, x) => g.node('Sub', [x, random(g, 'c', [3])]), ['Add']],
    ['c - x', (g, x) => g.node('Sub', [scalar(g, 3), x]), ['Mul', 'Add']],
    ['x - y', (g, x) => g.node('Sub', [x, g.node('Mul', [x, scalar(g, 3)])]), ['Mul', 'Mul', 'Add']],
    ['-x', (g, x) => g.node('Neg', [x]), ['Mul']],
    ['x / c', (g, x) => g.node('Div', [x, random(g, 'c', [3])]), ['Mul']],
    ['x^2', (g, x) => g.node('Pow', [x, scalar(g, 2)]), ['Mul']],
    ['x^7', (g, x) => g.node('Pow', [x, scalar(g, 7)]), ['Mul', 'Mul', 'Mul', 'Mul']],
    ['sums', (g, x) => g.node('Sum', [x, g.node('Mul', [x, scalar(g, 3)]), x]), ['Mul', 'Add', 'Add']],
  ])('%s', async (_, build, expected) => {
    expect((await apply(replaceArithmetic, model(['N', 3], build))).ops).toEqual(expected);
  });
  test.each<[string, (g: GraphBuilder, x: Value) => Value]>([
    ['c / x', (g, x) => g.node('Div', [scalar(g, 1), g.node('Add', [x, scalar(g, 3)])])],
    ['x^0.5', (g, x) => g.node('Pow', [g.node('Add', [x, scalar(g, 3)]), scalar(g, 0.5)])],
    ['x^9', (g, x) => g.node('Pow', [x, scalar(g, 9)])],
  ])('not %s', async (_, build) => {
    expect((await apply(replaceArithmetic, model(['N', 3], build))).reasons).toHaveLength(1);
  });

  test('no value twice', async () => {
    const before = model(['N', 3], (g, x) => g.node('Add', [g.node('Mul', [x, x]), g.node('Add', [x, x])]));
    const { model: after } = await apply(replaceRepeated, before);
    for (const { inputs } of after.graph.nodes) expect(new Set(inputs).size).toBe(inputs.length);
  });
});

describe('replace-reshape', () => {
  test.each<[string, Model, string[]]>([
    ['Reshape to rows', model([1, 2, 3, 3], (g, x) => g.node('Reshape', [x, ints(g, [1, -1])])), ['Flatten']],
    ['Reshape of a batch', model(['N', 2, 3, 3], (g, x) => g.node('Reshape', [x, ints(g, [-1, 18])])), ['Flatten']],
    [
      'Reshape to the same',
      model([1, 2, 3, 3], (g, x) => g.node('Mul', [g.node('Reshape', [x, ints(g, [1, 2, 3, 3])]), x])),
      ['Mul'],
    ],
    ['Squeeze', model([1, 5, 1, 1], (g, x) => g.node('Squeeze', [x, ints(g, [2, 3])])), ['Flatten']],
    ['ReduceMean', model([1, 2, 3, 3], (g, x) => g.node('ReduceMean', [x], { axes: [2, 3] })), ['GlobalAveragePool']],
    [
      'ReduceMean without keepdims',
      model([1, 2, 3, 3], (g, x) => g.node('ReduceMean', [x], { axes: [-1, -2], keepdims: 0 })),
      ['GlobalAveragePool', 'Flatten'],
    ],
    [
      'ReduceMean at opset 18',
      model([1, 2, 3, 3], (g, x) => g.node('ReduceMean', [x, ints(g, [2, 3])]), 18),
      ['GlobalAveragePool'],
    ],
  ])('%s', async (_, before, expected) => {
    expect((await apply(replaceReshape, before)).ops).toEqual(expected);
  });
  test('another shape stays', async () => {
    const { reasons } = await apply(
      replaceReshape,
      model([1, 2, 3, 3], (g, x) => g.node('Reshape', [x, ints(g, [1, 6, 3])])),
    );
    expect(reasons).toEqual(['[1,2,3,3] -> [1,6,3] makes no rows of a batch']);
  });
});

test('replace-batchnorm', async () => {
  const positive = (g: GraphBuilder, name: string) => g.constant(name, 'float', [2], [0.5, 2]);
  const before = model(['N', 2, 3, 3], (g, x) =>
    g.node(
      'BatchNormalization',
      [x, random(g, 's', [2]), random(g, 'b', [2], 5), random(g, 'm', [2], 6), positive(g, 'v')],
      { epsilon: 1e-3 },
    ),
  );
  expect((await apply(replaceBatchnorm, before)).ops).toEqual(['Mul', 'Add']);
});

describe('pools', () => {
  const pool = (size: number, attributes: Attributes) =>
    model([1, 2, size, size], (g, x) => g.node('AveragePool', [x], attributes));
  test.each([7, 8])('padding that does not count, side %i', async (size) => {
    const before = pool(size, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] });
    const { ops, model } = await apply(replacePaddedPool, before);
    expect(ops).toEqual(['AveragePool', 'Mul']);
    expect(model.graph.nodes[0] && intAttr(model.graph.nodes[0], 'count_include_pad')).toBe(1);
  });
  test.each<[string, Model, string[]]>([
    ['2x2 by 2', pool(8, { kernel_shape: [2, 2], strides: [2, 2] }), ['AveragePool']],
    ['4x4 by 4', pool(8, { kernel_shape: [4, 4], strides: [4, 4] }), ['AveragePool', 'AveragePool']],
    [
      '3x3 by 1',
      pool(8, { kernel_shape: [3, 3], strides: [1, 1], pads: [1, 1, 1, 1], count_include_pad: 1 }),
      ['Conv'],
    ],
    ['2x2 by 1', pool(8, { kernel_shape: [2, 2] }), ['Conv']],
    ['the whole map', pool(6, { kernel_shape: [6, 6] }), ['AveragePool']],
    ['3x3 by 3', pool(9, { kernel_shape: [3, 3], strides: [3, 3] }), ['Conv']],
  ])('%s', async (_, before, expected) => {
    expect((await apply(replacePool, before)).ops).toEqual(expected);
  });
  test.each(['GlobalAveragePool', 'AveragePool'])('%s folded into Gemm', async (op) => {
    const before = model(['N', 2, 3, 5], (g, x) => {
      const pooled = g.node(op, [x], op === 'AveragePool' ? { kernel_shape: [3, 5] } : {});
      return g.node('Gemm', [g.node('Flatten', [pooled]), random(g, 'w', [4, 2]), random(g, 'b', [4], 5)], {
        transB: 1,
      });
    });
    expect((await apply(foldGlobalPool, before)).ops).toEqual(['Flatten', 'Gemm']);
  });
});

describe('embed-kernel', () => {
  test.each<[string, Model, number]>([
    ['4x4 by 2, pads 1', conv({ strides: [2, 2], pads: [1, 1, 1, 1] }, [2, 8, 8], [3, 2, 4, 4], true), 5],
    ['pads [0,0,1,1]', conv({ pads: [0, 0, 1, 1] }, [2, 6, 6], [3, 2, 2, 2], true), 3],
    ['pads [1,0,1,2], a rectangle', conv({ pads: [1, 0, 1, 2] }, [2, 6, 6], [3, 2, 3, 3], true), 5],
    ['dilations', conv({ pads: [2, 2, 2, 2], dilations: [2, 2] }, [2, 6, 6], [3, 2, 3, 3], true), 5],
  ])('%s', async (_, before, size) => {
    const { model } = await apply(embedKernel, before);
    expect(model.graph.nodes[0]?.inputs[1]?.initializer?.dims.slice(2)).toEqual([size, size]);
  });
  test('groups become one, depthwise stays', async () => {
    const grouped = conv({ group: 2, pads: [1, 1, 1, 1] }, [4, 6, 6], [6, 2, 3, 3], true);
    expect((await apply(embedKernel, grouped)).model.graph.nodes[0]?.inputs[1]?.initializer?.dims).toEqual([
      6, 4, 3, 3,
    ]);
    const depthwise = conv({ group: 4, pads: [1, 1, 1, 1] }, [4, 6, 6], [4, 1, 3, 3], true);
    expect((await apply(embedKernel, depthwise)).model.graph.nodes[0]?.inputs[1]?.initializer?.dims).toEqual([
      4, 1, 3, 3,
    ]);
  });
  test('a valid convolution by 2 stays, with the reason', async () => {
    const { reasons } = await apply(embedKernel, conv({ strides: [2, 2] }, [2, 9, 9], [3, 2, 3, 3], true));
    expect(reasons).toEqual(['it makes fewer positions than "same" padding would']);
  });
  test('even kernels stay where only uneven pads are in the way', async () => {
    const even = conv({ strides: [2, 2], pads: [1, 1, 1, 1] }, [2, 8, 8], [3, 2, 4, 4], true);
    expect((await apply(embedUnevenKernel, even)).model.graph.nodes[0]?.inputs[1]?.initializer?.dims.slice(2)).toEqual([
      4, 4,
    ]);
    const uneven = conv({ pads: [0, 0, 1, 1] }, [2, 6, 6], [3, 2, 2, 2], true);
    expect(
      (await apply(embedUnevenKernel, uneven)).model.graph.nodes[0]?.inputs[1]?.initializer?.dims.slice(2),
    ).toEqual([3, 3]);
  });
});

describe('set-coefficients', () => {
  const network = () =>
    model(['N', 2, 3, 3], (g, x) => {
      const scaled = g.node('Mul', [x, g.constant('c1', 'float', [], [0.5])]);
      return g.node('Add', [g.constant('c0', 'float', [2, 1, 1], [1, 2]), scaled]);
    });
  test.each(COEFFICIENT_STYLES)('%s', async (style) => {
    const after = network();
    setCoefficients.run(after, { style });
    await expectSame(network(), reread(after), { atol: 0, rtol: 0 });
    const shapes = after.graph.nodes.flatMap(({ inputs }) =>
      inputs.flatMap((value) => (value?.initializer ? [value.initializer.dims] : [])),
    );
    const expected = {
      full: [
        [1, 2, 3, 3],
        [1, 2, 3, 3],
      ],
      vector: [[1], [1, 2, 1, 1]],
      constant: [],
    };
    expect(shapes).toEqual(expected[style]);
    expect(ops(after).filter((op) => op === 'Constant')).toHaveLength(style === 'constant' ? 2 : 0);
    expect((setCoefficients.run(after, { style }) as PassReport).applied).toEqual([]);
  });
});

test('set-static and set-form', async () => {
  const g = buildModel({ name: 'g', opset: 17 });
  const x = g.input('0', 'float', ['N', 3]);
  const hidden = g.node('Gemm', [x, random(g, 'w', [3, 4])], {}, 'Conv');
  g.output(g.node('Mul', [hidden, g.constant('c', 'float', [], [2])]), 'y', 'float', ['N', 4]);
  const after = cloneModel(g.model);
  setStatic.run(after, {});
  expect(after.graph.inputs[0]?.value.declared?.shape).toEqual([1, 3]);
  expect(after.graph.outputs[0]?.value.declared?.shape).toEqual([1, 4]);
  await expectSame(g.model, reread(after), { atol: 0, rtol: 0 });
  const { applied } = setForm.run(after, { irVersion: 7 }) as PassReport;
  const read = reread(after);
  expect(read.irVersion).toBe(7);
  expect(read.graph.inputs.map(({ value }) => value.name)).toEqual(['input_0']);
  expect(read.graph.nodes.map(({ name }) => name)).toEqual(['Conv_gemm', 'mul']);
  expect(read.graph.valueInfo.map(({ value }) => value.declared?.shape)).toEqual([[1, 4]]);
  expect(applied.map(({ site }) => site)).toContain('IR version');
});
