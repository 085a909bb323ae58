import { expect, test } from 'vitest';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { allBodies } from '../../src/graph/walk.ts';
import { dropDead } from '../../src/passes/drop-dead.ts';
import type { PassReport } from '../../src/passes/pass.ts';
import { expectSame, ops } from '../support/numeric.ts';
import { functionProto, graphAttribute, graphProto, nodeProto, protoModel, reread } from '../support/passes.ts';

const EXACT = { atol: 0, rtol: 0 };
const run = (model: Model) => dropDead.run(model, {}) as PassReport;
const sites = (report: PassReport) => report.applied.map(({ site }) => site);

test('chains of unread nodes and their weights go, inputs stay', async () => {
  const g = buildModel({ name: 'g', opset: 17 });
  const x = g.input('x', 'float', [2]);
  g.input('unread', 'float', [2]);
  const w = g.constant('w', 'float', [2], [1, 2]);
  const shared = g.node('Relu', [x], {}, 'shared');
  g.node('Neg', [g.node('Add', [shared, g.constant('dead_w', 'float', [2], [3, 4])], {}, 'dead_add')], {}, 'dead_neg');
  g.constant('lost', 'float', [1], [1]);
  g.output(g.node('Mul', [shared, w], {}, 'mul'), 'y', 'float', [2]);
  const original = cloneModel(g.model);
  const report = run(g.model);
  expect(sites(report).sort()).toEqual(['dead_add', 'dead_neg', 'dead_w', 'lost']);
  expect(report.applied.find(({ site }) => site === 'lost')?.detail).toBe('initializer float [1] that nobody reads');
  expect(ops(g.model)).toEqual(['Relu', 'Mul']);
  expect(g.model.graph.inputs.map(({ value }) => value.name)).toEqual(['x', 'unread']);
  await expectSame(original, g.model, EXACT);
  expect(run(g.model).applied).toEqual([]);
});

test('initializers that are inputs stay', () => {
  const g = buildModel({ name: 'g', opset: 8, irVersion: 3 });
  g.constant('w', 'float', [1], [1]);
  g.output(g.node('Relu', [g.input('x', 'float', [1])]), 'y', 'float', [1]);
  expect(run(g.model).applied).toEqual([]);
  expect(g.model.graph.initializers).toHaveLength(1);
});

test('one read output keeps a node', async () => {
  const model = protoModel({
    inputs: [['x', 'float', [4]]],
    outputs: [['b', 'float', [2]]],
    initializers: [makeTensor('k', 'int64', [2], [2, 2])],
    nodes: [nodeProto('Split', ['x', 'k'], ['a', 'b']), nodeProto('Relu', ['a'], ['dead'])],
  });
  const original = cloneModel(model);
  expect(sites(run(model))).toEqual(['n_dead']);
  expect(ops(model)).toEqual(['Split']);
  await expectSame(original, model, EXACT);
});

test('within subgraphs, and what a dead If captures', async () => {
  const branch = (name: string, source: string, extra = false) =>
    graphProto({
      name,
      outputs: [[name, 'float', [2]]],
      initializers: extra ? [makeTensor(`${name}_w`, 'float', [1], [1])] : [],
      nodes: [...(extra ? [nodeProto('Neg', [source], [`${name}_dead`])] : []), nodeProto('Relu', [source], [name])],
    });
  const conditional = (name: string, source: string, extra = false) =>
    nodeProto(
      'If',
      ['c'],
      [name],
      [
        graphAttribute('then_branch', branch(`${name}_t`, source, extra)),
        graphAttribute('else_branch', branch(`${name}_e`, source)),
      ],
    );
  const model = protoModel({
    inputs: [
      ['c', 'bool', []],
      ['x', 'float', [2]],
    ],
    outputs: [['y', 'float', [2]]],
    nodes: [nodeProto('Neg', ['x'], ['captured']), conditional('gone', 'captured'), conditional('y', 'x', true)],
  });
  const original = cloneModel(model);
  expect(sites(run(model))).toEqual(['n_captured', 'n_gone', 'n_y_t_dead', 'y_t_w']);
  expect([...allBodies(model)].map((body) => body.nodes.map(({ op }) => op))).toEqual([['If'], ['Relu'], ['Relu']]);
  await expectSame(original, reread(model), EXACT, 4);
});

test('functions that nothing calls, directly or through others', async () => {
  const call = (name: string, from: string, to: string) => nodeProto(name, [from], [to], [], 'local');
  const model = protoModel({
    inputs: [['x', 'float', [2]]],
    outputs: [['y', 'float', [2]]],
    nodes: [call('Used', 'x', 'y'), call('OnlyDead', 'x', 'dead')],
    functions: [
      functionProto('Inner', ['p'], ['q'], [nodeProto('Relu', ['p'], ['q'])]),
      functionProto(
        'Used',
        ['p'],
        ['q'],
        [call('Inner', 'p', 'i'), nodeProto('Neg', ['i'], ['q']), nodeProto('Abs', ['i'], ['z'])],
      ),
      functionProto('Chain', ['p'], ['q'], [nodeProto('Exp', ['p'], ['q']), nodeProto('Abs', ['p'], ['z'])]),
      functionProto('OnlyDead', ['p'], ['q'], [call('Chain', 'p', 'q')]),
    ],
  });
  const original = cloneModel(model);
  const report = run(model);
  expect(sites(report)).toEqual(['n_dead', 'n_z', 'local.Chain', 'local.OnlyDead']);
  expect(model.functions.map(({ name }) => name)).toEqual(['Inner', 'Used']);
  await expectSame(original, reread(model), EXACT);
});

test('models that name tensors outside of their graphs are left alone', () => {
  const g = buildModel({ name: 'g', opset: 17 });
  g.constant('w', 'float', [1], [1]);
  g.output(g.node('Relu', [g.input('x', 'float', [1])]), 'y', 'float', [1]);
  g.model.proto.training_info = [{}];
  expect(run(g.model)).toMatchObject({ applied: [], skipped: [{ reason: expect.stringMatching(/training/) }] });
});
