import { describe, expect, test } from 'vitest';
import { floatAttribute } from '../../src/graph/attributes.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { makeTensor, toNumbers } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { type FoldConstantsOptions, foldConstants } from '../../src/passes/fold-constants.ts';
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

const EXACT = { atol: 0, rtol: 0 };
const run = async (model: Model, options: FoldConstantsOptions = {}): Promise<PassReport> =>
  foldConstants.run(model, options);
const sites = (report: PassReport) => report.applied.map(({ site }) => site);
const initializers = (model: Model) => model.graph.initializers.map(({ value }) => value.name);

/** y = x + Neg(Exp(w)), with the weights in two ways. */
function chain(weight: 'initializer' | 'Constant', irVersion = 8, opset = 13) {
  const g = buildModel({ name: 'g', opset, irVersion });
  const x = g.input('x', 'float', [4]);
  const values = noise(4);
  const w =
    weight === 'initializer'
      ? g.constant('w', 'float', [4], values)
      : g.node('Constant', [], { value: makeTensor('', 'float', [4], values) }, 'w');
  const folded = g.node('Neg', [g.node('Exp', [w], {}, 'exp')], {}, 'neg');
  g.output(g.node('Add', [x, folded]), 'y', 'float', [4]);
  return g;
}

describe('what is folded', () => {
  test.each(['initializer', 'Constant'] as const)('a chain from an %s, under its name', async (weight) => {
    const { model } = chain(weight);
    const original = cloneModel(model);
    const report = await run(model);
    expect(report).toMatchObject({
      pass: 'fold-constants',
      applied: [
        { site: 'exp', detail: 'Exp is not needed any more' },
        { site: 'neg', detail: 'Neg stored as float [4]' },
      ],
      skipped: [],
    });
    expect(ops(model)).toEqual(['Add']);
    expect(initializers(model)).toEqual(['neg_output']);
    await expectSame(original, reread(model), EXACT);
    expect((await run(model)).applied).toEqual([]);
  });

  test('below IR 4 the initializer is an input too', async () => {
    const { model } = chain('Constant', 3, 8);
    const original = cloneModel(model);
    await run(model);
    expect(ops(model)).toEqual(['Add']);
    expect(initializers(model)).toHaveLength(1);
    expect(model.graph.inputs.map(({ value }) => value.name)).toEqual(['x', ...initializers(model)]);
    await expectSame(original, reread(model), EXACT);
  });

  test.each([
    [3, ['Add', 'Constant']],
    [8, ['Add']],
  ] as const)('an output of the graph, IR %i', async (irVersion, after) => {
    const g = chain('initializer', irVersion, 8);
    const exp = g.model.graph.nodes.find(({ op }) => op === 'Exp')?.outputs[0];
    if (exp) g.output(exp, 'z', 'float', [4]);
    const original = cloneModel(g.model);
    await run(g.model);
    expect(ops(g.model).sort()).toEqual(after);
    expect(g.model.graph.outputs.map(({ value }) => value.name)).toEqual(['y', 'z']);
    await expectSame(original, reread(g.model), EXACT);
  });

  test('Constant nodes stay; so does what a weight is for others', async () => {
    const g = chain('Constant');
    const w = g.model.graph.nodes.find(({ op }) => op === 'Constant')?.outputs[0] ?? null;
    g.output(g.node('Mul', [w, g.input('u', 'float', [4])]), 'z', 'float', [4]);
    const original = cloneModel(g.model);
    await run(g.model);
    expect(ops(g.model).sort()).toEqual(['Add', 'Constant', 'Mul']);
    await expectSame(original, reread(g.model), EXACT);
  });

  test('integers, booleans, float16, several outputs, dead nodes', async () => {
    const model = protoModel({
      inputs: [['x', 'float', [2]]],
      outputs: [
        ['y', 'float', [2]],
        ['b', 'bool', [2]],
        ['h', 'float16', [2]],
        ['i', 'int64', [2]],
      ],
      initializers: [makeTensor('k', 'int64', [4], [3, -1, 7, 5]), makeTensor('w', 'float16', [2], [0.5, 3])],
      nodes: [
        nodeProto('Split', ['k'], ['k1', 'k2'], [{ name: 'num_outputs', type: 2, i: 2 } as never]),
        nodeProto('Less', ['k1', 'k2'], ['b']),
        nodeProto('Neg', ['k2'], ['i']),
        nodeProto('Abs', ['k1'], ['dead']),
        nodeProto('Exp', ['dead'], ['deader']),
        nodeProto('Mul', ['w', 'w'], ['h']),
        nodeProto('Cast', ['k1'], ['f'], [{ name: 'to', type: 2, i: 1 } as never]),
        nodeProto('Add', ['x', 'f'], ['y']),
      ],
      opset: 18,
    });
    // Exp has no version for int64: a dead node does not have to be computed.
    const original = protoModel({
      inputs: [['x', 'float', [2]]],
      outputs: [
        ['y', 'float', [2]],
        ['b', 'bool', [2]],
        ['h', 'float16', [2]],
        ['i', 'int64', [2]],
      ],
      initializers: [
        makeTensor('f', 'float', [2], [3, -1]),
        makeTensor('hh', 'float16', [2], [0.25, 9]),
        makeTensor('bb', 'bool', [2], [1, 1]),
        makeTensor('ii', 'int64', [2], [-7, -5]),
      ],
      nodes: [
        nodeProto('Add', ['x', 'f'], ['y']),
        nodeProto('Identity', ['hh'], ['h']),
        nodeProto('Identity', ['bb'], ['b']),
        nodeProto('Identity', ['ii'], ['i']),
      ],
    });
    expect((await run(model)).skipped).toEqual([]);
    expect(ops(model)).toEqual(['Add']);
    expect(initializers(model).sort()).toEqual(['b', 'f', 'h', 'i']);
    await expectSame(original, reread(model), EXACT);
  });

  test('what subgraphs read stays right; a constant If is folded', async () => {
    const branch = (name: string, op: string, from: string) =>
      graphProto({ name, outputs: [[name, 'float', [2]]], nodes: [nodeProto(op, [from], [name])] });
    const conditional = (condition: string, source: string, output: string) =>
      nodeProto(
        'If',
        [condition],
        [output],
        [
          graphAttribute('then_branch', branch(`${output}_t`, 'Relu', source)),
          graphAttribute('else_branch', branch(`${output}_e`, 'Neg', source)),
        ],
      );
    const model = protoModel({
      inputs: [
        ['c', 'bool', []],
        ['x', 'float', [2]],
      ],
      outputs: [
        ['y', 'float', [2]],
        ['z', 'float', [2]],
      ],
      initializers: [makeTensor('w', 'float', [2], [-1, 2]), makeTensor('yes', 'bool', [], [1])],
      nodes: [
        nodeProto('Exp', ['w'], ['e']),
        conditional('c', 'e', 'y'),
        conditional('yes', 'e', 'constant'),
        conditional('yes', 'x', 'variable'),
        nodeProto('Add', ['constant', 'variable'], ['z']),
      ],
    });
    const original = cloneModel(model);
    const report = await run(model);
    expect(sites(report)).toEqual(['n_e', 'n_constant']);
    expect(ops(model)).toEqual(['If', 'If', 'Add']);
    await expectSame(original, reread(model), EXACT, 4);
  });

  test('nodes out of order', async () => {
    const model = protoModel({
      inputs: [['x', 'float', [2]]],
      outputs: [['y', 'float', [2]]],
      initializers: [makeTensor('w', 'float', [2], [-1, 2])],
      nodes: [nodeProto('Add', ['x', 'b'], ['y']), nodeProto('Neg', ['a'], ['b']), nodeProto('Exp', ['w'], ['a'])],
    });
    await run(model);
    expect(ops(model)).toEqual(['Add']);
    expect(verify(model)).toEqual([]);
  });
});

describe('what stays', () => {
  test('large results, but not what is made of them, nor large ones of large constants', async () => {
    const g = buildModel({ name: 'g', opset: 13 });
    const large = g.node(
      'ConstantOfShape',
      [g.node('Neg', [g.constant('shape', 'int64', [2], [-64, -64])], {}, 'negated')],
      { value: makeTensor('', 'float', [1], [2]) },
      'large',
    );
    const small = g.node('ReduceSum', [large, null], {}, 'small');
    const same = g.node('Transpose', [g.constant('w', 'float', [32, 64], noise(2048))], {}, 'same');
    const x = g.input('x', 'float', [64, 64]);
    g.output(
      g.node('Add', [
        g.node('MatMul', [g.node('MatMul', [x, same]), g.constant('v', 'float', [32, 64], noise(2048))]),
        large,
      ]),
      'y',
      'float',
      [64, 64],
    );
    g.output(g.node('Mul', [x, small]), 'z', 'float', [64, 64]);
    const original = cloneModel(g.model);
    const report = await run(g.model, { limit: 1000 });
    expect(report.skipped).toEqual([
      {
        site: 'large',
        reason: 'its result takes 16384 bytes, more than the limit of 1000 and than the 16 it is made of',
      },
    ]);
    expect(sites(report).sort()).toEqual(['negated', 'same', 'small']);
    expect(ops(g.model).sort()).toEqual(['Add', 'ConstantOfShape', 'MatMul', 'MatMul', 'Mul']);
    await expectSame(original, reread(g.model), { atol: 0, rtol: 1e-6 });
    expect((await run(g.model)).applied).toHaveLength(1);
    expect(ops(g.model)).not.toContain('ConstantOfShape');
  });

  test('random nodes, training Dropout, other domains, functions', async () => {
    const model = protoModel({
      inputs: [['x', 'float', [2]]],
      outputs: [['y', 'float', [2]]],
      initializers: [
        makeTensor('w', 'float', [2], [-1, 2]),
        makeTensor('r', 'float', [], [0.5]),
        makeTensor('t', 'bool', [], [1]),
      ],
      nodes: [
        nodeProto('RandomNormalLike', ['w'], ['random']),
        nodeProto('RandomUniform', [], ['source']),
        nodeProto('Dropout', ['w', 'r', 't'], ['trained']),
        nodeProto('Dropout', ['w', 'r'], ['inferred']),
        nodeProto('F', ['w'], ['called'], [], 'local'),
        nodeProto('Relu', ['w'], ['foreign'], [], 'com.example'),
        nodeProto('Sum', ['x', 'random', 'source', 'trained', 'inferred', 'called', 'foreign'], ['y']),
      ],
      functions: [functionProto('F', ['p'], ['q'], [nodeProto('Relu', ['p'], ['q'])])],
    });
    const report = await run(model);
    expect(sites(report)).toEqual(['n_inferred']);
    expect(report.skipped).toEqual([
      { site: 'n_random', reason: "RandomNormalLike 'n_random' is random" },
      { site: 'n_trained', reason: 'its training_mode is not constantly false' },
      { site: 'n_called', reason: "F 'n_called' calls a function of the model" },
      { site: 'n_foreign', reason: "Relu 'n_foreign' is of the domain 'com.example'" },
    ]);
    expect(verify(model)).toEqual([]);
  });

  test('what onnxruntime refuses, and what reads it; the rest is folded', async () => {
    const model = protoModel({
      inputs: [['x', 'float', [2]]],
      outputs: [['y', 'float', [2]]],
      initializers: [makeTensor('w', 'float', [2], [1, 2]), makeTensor('k', 'int64', [1], [3])],
      nodes: [
        nodeProto('Exp', ['w'], ['good']),
        nodeProto('Reshape', ['good', 'k'], ['bad']),
        nodeProto('Neg', ['bad'], ['after']),
        nodeProto('Neg', ['good'], ['fine']),
        nodeProto('Sum', ['x', 'after', 'fine'], ['y']),
      ],
    });
    const report = await run(model);
    expect(sites(report).sort()).toEqual(['n_fine', 'n_good']);
    expect(report.skipped).toHaveLength(1);
    expect(report.skipped[0]).toMatchObject({
      site: 'n_bad',
      reason: expect.stringMatching(/^Reshape 'n_bad': onnxruntime/),
    });
    expect(ops(model)).toEqual(['Reshape', 'Neg', 'Sum']);
    expect(initializers(model).sort()).toEqual(['fine', 'good', 'k']);
    expect(verify(model)).toEqual([]);
  });

  test('bfloat16 and text, which onnxruntime-node can not give back', async () => {
    const model = protoModel({
      inputs: [['x', 'float', [2]]],
      outputs: [
        ['y', 'float', [2]],
        ['s', 'string', [2]],
        ['b', 'bfloat16', [2]],
      ],
      initializers: [makeTensor('w', 'float', [2], [1, 2])],
      nodes: [
        nodeProto('Cast', ['w'], ['b'], [{ name: 'to', type: 2, i: 16 } as never]),
        nodeProto('Cast', ['w'], ['s'], [{ name: 'to', type: 2, i: 8 } as never]),
        nodeProto('Exp', ['w'], ['e']),
        nodeProto('Add', ['x', 'e'], ['y']),
      ],
    });
    const report = await run(model);
    expect(sites(report)).toEqual(['n_e']);
    expect(report.skipped.map(({ site }) => site).sort()).toEqual(['n_b', 'n_s']);
    expect(verify(model)).toEqual([]);
  });

  test('initializers that a caller may replace are no constants', async () => {
    const build = (irVersion: number) => {
      const model = protoModel({
        inputs: [
          ['x', 'float', [2]],
          ['w', 'float', [2]],
        ],
        outputs: [['y', 'float', [2]]],
        initializers: [makeTensor('w', 'float', [2], [1, 2])],
        nodes: [nodeProto('Exp', ['w'], ['e']), nodeProto('Add', ['x', 'e'], ['y'])],
      });
      return Object.assign(model, { irVersion });
    };
    expect((await run(build(8))).applied).toEqual([]);
    expect((await run(build(3))).applied).toHaveLength(1);
  });

  test('nothing to do', async () => {
    const g = buildModel({ name: 'g', opset: 13 });
    g.output(
      g.node('LeakyRelu', [g.input('x', 'float', [2])], { alpha: floatAttribute('alpha', 0.1) }),
      'y',
      'float',
      [2],
    );
    expect(await run(g.model)).toEqual({ pass: 'fold-constants', applied: [], skipped: [] });
  });
});

test('lenet5_torch04: folded numbers are the right ones', async (context) => {
  const model = sharedModel('models/lenet5_torch04.onnx');
  if (!model) return context.skip('no shared models');
  const original = cloneModel(model);
  const report = await run(model);
  expect(report.applied.length).toBeGreaterThan(0);
  await expectSame(original, reread(model), EXACT);
});

test('computed numbers', async () => {
  const { model } = chain('initializer');
  await run(model);
  const [entry] = model.graph.initializers;
  const expected = noise(4).map((value) => -Math.exp(Math.fround(value)));
  expect(entry && [...toNumbers(entry.tensor)].every((value, i) => Math.abs(value - (expected[i] ?? 0)) < 1e-6)).toBe(
    true,
  );
});
