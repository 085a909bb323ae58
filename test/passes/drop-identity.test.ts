import { describe, expect, test } from 'vitest';
import { intAttribute } from '../../src/graph/attributes.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { verify } from '../../src/graph/verify.ts';
import { allBodies } from '../../src/graph/walk.ts';
import { dropIdentity } from '../../src/passes/drop-identity.ts';
import type { PassReport } from '../../src/passes/pass.ts';
import { expectSame, ops } from '../support/numeric.ts';
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
const run = (model: Model) => dropIdentity.run(model, {}) as PassReport;
const sites = (report: PassReport) => report.applied.map(({ site }) => site);

describe('Identity', () => {
  test('in the middle and at an output, whose name survives', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [4]);
    const relu = g.node('Relu', [g.node('Identity', [x], {}, 'first')]);
    g.output(g.node('Identity', [relu], {}, 'last'), 'y', 'float', [4]);
    const original = cloneModel(g.model);
    const report = run(g.model);
    expect(sites(report)).toEqual(['first', 'last']);
    expect(report.skipped).toEqual([]);
    expect(ops(g.model)).toEqual(['Relu']);
    expect(reread(g.model).graph.outputs.map(({ value }) => value.name)).toEqual(['y']);
    await expectSame(original, g.model, EXACT);
  });

  test('chains, initializers, and stated types of what is gone', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [2]);
    const w = g.node('Identity', [g.node('Identity', [g.constant('w', 'float', [2], [1, 2])])]);
    g.output(g.node('Add', [x, w]), 'y', 'float', [2]);
    const original = cloneModel(g.model);
    expect(run(g.model).applied).toHaveLength(2);
    expect(ops(g.model)).toEqual(['Add']);
    await expectSame(original, g.model, EXACT);
  });

  test('stays between public values', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [2]);
    const relu = g.node('Relu', [x]);
    g.output(relu, 'a', 'float', [2]);
    g.output(g.node('Identity', [relu], {}, 'of_output'), 'b', 'float', [2]);
    g.output(g.node('Identity', [x], {}, 'of_input'), 'c', 'float', [2]);
    g.output(g.node('Identity', [g.constant('w', 'float', [1], [1])], {}, 'of_weight'), 'd', 'float', [1]);
    const original = cloneModel(g.model);
    const report = run(g.model);
    expect(report.applied).toEqual([]);
    expect(report.skipped.map(({ site }) => site)).toEqual(['of_output', 'of_input', 'of_weight']);
    expect(ops(g.model)).toEqual(['Relu', 'Identity', 'Identity', 'Identity']);
    await expectSame(original, g.model, EXACT);
  });

  test('another domain is another operator', () => {
    const model = protoModel({
      inputs: [['x', 'float', [2]]],
      outputs: [['y', 'float', [2]]],
      nodes: [nodeProto('Identity', ['x'], ['a'], [], 'local'), nodeProto('Relu', ['a'], ['y'])],
      functions: [functionProto('Identity', ['p'], ['q'], [nodeProto('Neg', ['p'], ['q'])])],
    });
    expect(run(model)).toMatchObject({ applied: [], skipped: [] });
  });

  test('in subgraphs: an inner one goes, one that returns an outer value stays', async () => {
    const branch = (nodes: Parameters<typeof graphProto>[0]['nodes'], out: string) =>
      graphProto({ name: out, outputs: [[out, 'float', [2]]], nodes });
    const model = protoModel({
      inputs: [
        ['c', 'bool', []],
        ['x', 'float', [2]],
      ],
      outputs: [['y', 'float', [2]]],
      nodes: [
        nodeProto('Relu', ['x'], ['r']),
        nodeProto('Identity', ['r'], ['i']),
        nodeProto(
          'If',
          ['c'],
          ['y'],
          [
            graphAttribute('then_branch', branch([nodeProto('Identity', ['i'], ['t'])], 't')),
            graphAttribute(
              'else_branch',
              branch(
                [
                  nodeProto('Neg', ['i'], ['n']),
                  nodeProto('Identity', ['n'], ['m']),
                  nodeProto('Neg', ['m'], ['k']),
                  nodeProto('Identity', ['k'], ['e']),
                ],
                'e',
              ),
            ),
          ],
        ),
      ],
    });
    const original = cloneModel(model);
    const report = run(model);
    expect(sites(report)).toEqual(['n_i', 'n_m', 'n_e']);
    expect(report.skipped.map(({ site }) => site)).toEqual(['n_t']);
    const inner = [...allBodies(model)].map((body) => body.nodes.map(({ op }) => op));
    expect(inner).toEqual([['Relu', 'If'], ['Identity'], ['Neg', 'Neg']]);
    await expectSame(original, reread(model), EXACT, 4);
  });

  test('in functions: between input and output it stays', async () => {
    const model = protoModel({
      inputs: [['x', 'float', [2]]],
      outputs: [['y', 'float', [2]]],
      nodes: [nodeProto('F', ['x'], ['a', 'y'], [], 'local')],
      functions: [
        functionProto(
          'F',
          ['p'],
          ['q', 's'],
          [nodeProto('Identity', ['p'], ['q']), nodeProto('Neg', ['p'], ['n']), nodeProto('Identity', ['n'], ['s'])],
        ),
      ],
    });
    const original = cloneModel(model);
    expect(sites(run(model))).toEqual(['n_s']);
    expect(model.functions[0]?.nodes.map(({ op }) => op)).toEqual(['Identity', 'Neg']);
    await expectSame(original, reread(model), EXACT);
  });
});

describe('Dropout', () => {
  /** Relu, Dropout, Relu; the mode is an input of the node from opset 12 on. */
  function dropout(opset: number, mode: 'absent' | 'false' | 'true' | 'input'): Model {
    const g = buildModel({ name: 'g', opset });
    const x = g.node('Relu', [g.input('x', 'float', [4])]);
    const ratio = opset >= 12 ? [g.constant('ratio', 'float', [], [0.5])] : [];
    const modes = {
      absent: () => [],
      false: () => [g.constant('mode', 'bool', [], [0])],
      true: () => [g.constant('mode', 'bool', [], [1])],
      input: () => [g.input('mode', 'bool', [])],
    };
    g.output(g.node('Neg', [g.node('Dropout', [x, ...ratio, ...modes[mode]()])]), 'y', 'float', [4]);
    return g.model;
  }

  test.each([
    [8, 'absent'],
    [10, 'absent'],
    [12, 'absent'],
    [17, 'false'],
  ] as const)('opset %i, training_mode %s: goes, with its constants', async (opset, mode) => {
    const model = dropout(opset, mode);
    const original = cloneModel(model);
    expect(run(model)).toMatchObject({ applied: [{ site: 'dropout', detail: 'Dropout removed' }], skipped: [] });
    expect(ops(model)).toEqual(['Relu', 'Neg']);
    expect(model.graph.initializers).toEqual([]);
    await expectSame(original, model, EXACT);
  });

  test.each(['true', 'input'] as const)('training_mode %s: stays', (mode) => {
    const model = dropout(17, mode);
    expect(run(model)).toMatchObject({
      applied: [],
      skipped: [{ site: 'dropout', reason: expect.stringMatching(/training_mode/) }],
    });
    expect(ops(model)).toEqual(['Relu', 'Dropout', 'Neg']);
  });

  test('its mask decides', () => {
    const model = (reader: string) =>
      protoModel({
        inputs: [['x', 'float', [4]]],
        outputs: [['y', 'float', [4]], ...(reader ? [[reader, 'bool', [4]] as const] : [])],
        nodes: [
          nodeProto('Relu', ['x'], ['r']),
          nodeProto('Dropout', ['r'], ['d', 'mask']),
          nodeProto('Neg', ['d'], ['y']),
        ],
      });
    expect(run(model('mask')).skipped).toEqual([{ site: 'n_d', reason: 'its mask is read' }]);
    const unread = model('');
    expect(run(unread).skipped).toEqual([]);
    expect(ops(unread)).toEqual(['Relu', 'Neg']);
    expect(verify(unread)).toEqual([]);
  });

  test('below opset 7 it is is_test that decides', () => {
    const g = (test: number) => {
      const b = buildModel({ name: 'g', opset: 6 });
      const x = b.node('Relu', [b.input('x', 'float', [4])]);
      b.output(b.node('Dropout', [x], { is_test: intAttribute('is_test', test) }), 'y', 'float', [4]);
      return b.model;
    };
    expect(run(g(1)).applied).toHaveLength(1);
    expect(run(g(0)).skipped).toHaveLength(1);
  });
});

test('keras2onnx_mnist_lg', async (context) => {
  const model = sharedModel('models/keras2onnx_mnist_lg.onnx');
  if (!model) return context.skip('no shared models');
  const original = cloneModel(model);
  const report = run(model);
  expect(report.applied.length + report.skipped.length).toBe(1);
  expect(ops(model).filter((op) => op === 'Identity')).toHaveLength(report.skipped.length);
  await expectSame(original, reread(model), EXACT);
});
