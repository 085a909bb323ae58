import { describe, expect, test } from 'vitest';
import { buildModel } from '../../src/graph/build.ts';
import type { ElementType, Model } from '../../src/graph/ir.ts';
import { verify } from '../../src/graph/verify.ts';
import type { PassReport } from '../../src/passes/pass.ts';
import { replaceMaxpool } from '../../src/passes/replace-maxpool.ts';
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

const run = (model: Model) => replaceMaxpool.run(model, {}) as PassReport;
type Attributes = Record<string, number | string | number[]>;

function pool(op: string, opset: number, attributes: Attributes, elem: ElementType = 'float'): Model {
  const g = buildModel({ name: 'g', opset });
  const x = g.input('x', elem, [1, 2, 7, 7]);
  g.output(g.node(op, [x], attributes, 'pool'), 'y', elem, [1, 2, 'H', 'W']);
  return g.model;
}

const CASES: [number, Attributes, Attributes][] = [
  [8, { kernel_shape: [2, 2], strides: [2, 2] }, {}],
  [8, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }, { storage_order: 1 }],
  [10, { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, {}],
  [12, { kernel_shape: [3, 2], auto_pad: 'SAME_UPPER', strides: [2, 2] }, {}],
  [17, { kernel_shape: [3, 3], pads: [0, 1, 1, 0] }, { dilations: [1, 1], storage_order: 0 }],
  [19, { kernel_shape: [2, 2], dilations: [2, 2] }, {}],
];

test.each(CASES)('opset %i: %j', async (opset, kept, dropped) => {
  const model = pool('MaxPool', opset, { ...kept, ...dropped });
  const report = run(model);
  expect(report).toEqual({
    pass: 'replace-maxpool',
    applied: [{ site: 'pool', detail: 'MaxPool became AveragePool' }],
    skipped: [],
  });
  expect(ops(model)).toEqual(['AveragePool']);
  expect(model.graph.outputs.map(({ value }) => value.name)).toEqual(['y']);
  const attributes = model.graph.nodes[0]?.attributes.map(({ name }) => name).sort();
  expect(attributes).toEqual([...Object.keys(kept), 'count_include_pad'].sort());
  await expectSame(pool('AveragePool', opset, { ...kept, count_include_pad: 0 }), reread(model), { atol: 0, rtol: 0 });
});

describe('what stays', () => {
  const reason = (model: Model) => run(model).skipped.map((skip) => skip.reason);

  test('dilations and ceil_mode that AveragePool does not know yet', () => {
    expect(reason(pool('MaxPool', 12, { kernel_shape: [2, 2], dilations: [2, 2] }))).toEqual([
      'AveragePool knows no dilations at opset 12',
    ]);
    expect(reason(pool('MaxPool', 8, { kernel_shape: [2, 2], ceil_mode: 1 }))).toEqual([
      'AveragePool knows no ceil_mode at opset 8',
    ]);
  });

  test('integers', () => {
    const model = pool('MaxPool', 12, { kernel_shape: [2, 2] }, 'uint8');
    expect(reason(model)).toEqual(['AveragePool has no version for uint8']);
    expect(ops(model)).toEqual(['MaxPool']);
  });

  test('indices that are read; unread ones go', () => {
    const model = (read: boolean) =>
      protoModel({
        inputs: [['x', 'float', [1, 1, 4, 4]]],
        outputs: [['y', 'float', [1, 1, 3, 3]], ...(read ? [['i', 'int64', [1, 1, 3, 3]] as const] : [])],
        nodes: [nodeProto('MaxPool', ['x'], ['y', 'i'], [{ name: 'kernel_shape', type: 7, ints: [2, 2] } as never])],
      });
    expect(reason(model(true))).toEqual(['the indices of the maxima are read']);
    const unread = model(false);
    expect(run(unread).applied).toHaveLength(1);
    expect(verify(unread)).toEqual([]);
    expect(unread.graph.nodes[0]?.outputs).toHaveLength(1);
  });
});

test('in nested graphs and functions', async () => {
  const kernel = [{ name: 'kernel_shape', type: 7, ints: [2, 2] } as never];
  const build = (op: string) => {
    const branch = (name: string, inner: string) =>
      graphProto({ name, outputs: [[name, 'float', [1, 1, 3, 3]]], nodes: [nodeProto(inner, ['x'], [name], kernel)] });
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
          [graphAttribute('then_branch', branch('t', op)), graphAttribute('else_branch', branch('e', 'LpPool'))],
        ),
        nodeProto('F', ['h'], ['y'], [], 'local'),
      ],
      functions: [functionProto('F', ['p'], ['q'], [nodeProto(op, ['p'], ['q'], kernel)])],
    });
  };
  const model = build('MaxPool');
  expect(run(model).applied.map(({ site }) => site)).toEqual(['n_t', 'n_q']);
  await expectSame(build('AveragePool'), reread(model), { atol: 0, rtol: 0 }, 4);
});

test('kanav99_lenet', (context) => {
  const model = sharedModel('models/kanav99_lenet.onnx');
  if (!model) return context.skip('no shared models');
  expect(run(model).applied).toHaveLength(2);
  expect(ops(model)).not.toContain('MaxPool');
  expect(verify(model)).toEqual([]);
});
