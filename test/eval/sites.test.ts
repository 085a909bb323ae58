import { describe, expect, it } from 'vitest';
import { arrayNumbers, openSession } from '../../src/eval/session.ts';
import { type NonlinearSite, nonlinearSites } from '../../src/eval/sites.ts';
import { withOutputs } from '../../src/eval/taps.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import type { Model, Value } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { serialize } from '../../src/graph/write.ts';
import { FORMS } from '../../src/poly/plan.ts';
import { rewriteModel } from '../../src/rewrite.ts';
import { noise, noiseArray, reversed } from '../support/numeric.ts';
import { functionProto, graphAttribute, graphProto, nodeProto, protoModel, reread } from '../support/passes.ts';

const sitesOf = (model: Model) => nonlinearSites(model, inferTypes(model));
const namesOf = (model: Model) => sitesOf(model).sites.map(({ name }) => name);

/** Convolutions with ReLU and ReLU6, a residual connection, and a linear layer; values stay within [-3, 3]. */
function network(): Model {
  const g = buildModel({ name: 'g', opset: 17 });
  const x = g.input('x', 'float', ['N', 2, 8, 8]);
  const conv = (input: Value, name: string, seed: number) =>
    g.node(
      'Conv',
      [
        input,
        g.constant(
          `${name}/w`,
          'float',
          [2, 2, 3, 3],
          noise(36, seed).map((v) => 0.3 * v),
        ),
      ],
      { pads: [1, 1, 1, 1] },
      name,
    );
  const first = g.node('Relu', [conv(x, 'conv1', 1)], {}, 'relu1');
  const [low, high] = [g.constant('low', 'float', [], [0]), g.constant('high', 'float', [], [6])];
  const second = g.node('Clip', [conv(first, 'conv2', 2), low, high], {}, 'relu2');
  const sum = g.node('Add', [first, second], {}, 'residual');
  const pooled = g.node('GlobalAveragePool', [g.node('Relu', [sum], {}, 'relu3')], {}, 'pool');
  const w = g.constant('w', 'float', [2, 3], noise(6, 3));
  const fc = g.node('Gemm', [g.node('Flatten', [pooled], {}, 'flatten'), w], {}, 'fc');
  g.output(g.node('Relu', [fc], {}, 'relu4'), 'y', 'float', ['N', 3]);
  return g.model;
}
const NAMES = ['relu1', 'relu2', 'relu3', 'relu4'];

/** Every site's function against what onnxruntime computes from its input to its output. */
async function expectFunctions(model: Model, sites: readonly NonlinearSite[]): Promise<void> {
  const types = inferTypes(model);
  const exposed = withOutputs(
    model,
    types,
    sites.flatMap(({ input, output }) => [input, output]),
  );
  const session = await openSession(serialize(exposed), { optimize: false });
  const feeds = new Map(
    model.graph.inputs.map(({ value }) => {
      const dims = (value.declared?.shape ?? []).map((dim) => (typeof dim === 'number' ? dim : 3));
      return [value.name, noiseArray(value.declared?.elem ?? 'float', dims, 5)] as const;
    }),
  );
  const results = await session.run(feeds);
  await session.release();
  for (const { name, input, output, f } of sites) {
    if (!f) continue;
    const of = (value: Value) => arrayNumbers(results.get(value.name) ?? (feeds.get(value.name) as never));
    const [x, y] = [of(input), of(output)];
    expect(x.length).toBe(y.length);
    const size = y.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-3);
    for (const [i, value] of x.entries())
      if (!(Math.abs(f(value) - (y[i] as number)) <= 3e-6 * size))
        expect.fail(`${name}: f(${value}) = ${f(value)}, but onnxruntime gives ${y[i]}`);
  }
}

describe('ReLU networks', () => {
  it('in order, with the functions that onnxruntime computes', async () => {
    const model = network();
    const { sites, skipped } = sitesOf(model);
    expect(skipped).toEqual([]);
    expect(sites.map(({ name, label, kind }) => [name, label, kind])).toEqual([
      ['relu1', 'relu', 'relu'],
      ['relu2', 'clip(0,6)', 'clip'],
      ['relu3', 'relu', 'relu'],
      ['relu4', 'relu', 'relu'],
    ]);
    expect(sites.every(({ f }) => f)).toBe(true);
    await expectFunctions(model, sites);
    expect(namesOf(reversed(model))).toEqual(NAMES);
    expect(namesOf(reread(model))).toEqual(NAMES);
  });
});

describe('rewritten networks', () => {
  const specs = [2, 3, 4, 5, 6, 7, 8, 9].map((degree) => `deg=${degree},a=3`);
  const fixed = ['taylor', 'quad', 'coeffs=1:0:0:2', 'coeffs=0:1'];
  // Clenshaw's recurrence takes a range.
  const cases = FORMS.flatMap((form) =>
    [...specs, ...(form === 'clenshaw' ? [] : fixed)].map((spec) => [form, spec] as const),
  );
  it.each(cases)('%s %s: the sites of the original, by the same names', async (form, spec) => {
    const { model } = await rewriteModel(network(), { poly: [spec], form });
    for (const each of [model, reversed(model)]) {
      const { sites } = sitesOf(each);
      expect(sites.map(({ name }) => name)).toEqual(NAMES);
      expect(sites.every(({ kind, label, f }) => kind === 'polynomial' && label === 'polynomial' && f)).toBe(true);
      const original = sitesOf(network()).sites;
      expect(sites.map(({ input }) => input.name)).toEqual(original.map(({ input }) => input.name));
      expect(sites.map(({ output }) => output.name)).toEqual(original.map(({ output }) => output.name));
    }
    await expectFunctions(model, sitesOf(model).sites);
  });

  it('where only some are replaced, and twice', async () => {
    const { model } = await rewriteModel(network(), { poly: ['deg=4,a=3'], only: ['relu2', 'relu4'] });
    expect(sitesOf(model).sites.map(({ name, label }) => [name, label])).toEqual([
      ['relu1', 'relu'],
      ['relu2', 'polynomial'],
      ['relu3', 'relu'],
      ['relu4', 'polynomial'],
    ]);
    const again = await rewriteModel(model, { poly: ['quad'] });
    expect(namesOf(again.model)).toEqual(NAMES);
    await expectFunctions(again.model, sitesOf(again.model).sites);
  });

  it('behind a normalisation', async () => {
    const { model } = await rewriteModel(network(), { poly: ['deg=4,a=1'], mm: true });
    expect(namesOf(model)).toEqual(NAMES);
  });

  it('slopes by channel have no common function', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', ['N', 3, 4]);
    const slopes = g.constant('slopes', 'float', [3, 1], [0.1, 0.2, 0.3]);
    g.output(g.node('PRelu', [x, slopes], {}, 'act'), 'y', 'float', ['N', 3, 4]);
    expect(sitesOf(g.model).sites).toMatchObject([{ name: 'act', kind: 'prelu', f: null }]);
    for (const form of FORMS) {
      const { model } = await rewriteModel(g.model, { poly: ['deg=4,a=3'], form });
      expect(sitesOf(model).sites).toMatchObject([{ name: 'act', kind: 'polynomial', f: null }]);
    }
  });

  it('a polynomial of a value that others read too', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', ['N', 3]);
    const y = g.node('Relu', [x], {}, 'act');
    g.output(g.node('Mul', [y, x], {}, 'gate'), 'z', 'float', ['N', 3]);
    const { model } = await rewriteModel(g.model, { poly: ['deg=4,a=3'] });
    expect(namesOf(model)).toEqual(['act']);
    await expectFunctions(model, sitesOf(model).sites);
  });
});

describe('networks of others', () => {
  /** One node on the input [N,3]. */
  const one = (build: (g: GraphBuilder, x: Value) => Value): Model => {
    const g = buildModel({ name: 'g', opset: 20 });
    g.output(build(g, g.input('x', 'float', ['N', 3])), 'y', 'float', ['N', 3]);
    return g.model;
  };
  const power = (g: GraphBuilder, x: Value, exponent: number) =>
    g.node('Pow', [x, g.constant('e', 'float', [], [exponent])], {}, 'p');

  it.each<[string, Model, [string, string][]]>([
    ['x * x', one((g, x) => g.node('Mul', [x, x], {}, 'sq')), [['sq', 'square']]],
    ['x^2', one((g, x) => power(g, x, 2)), [['p', 'power 2']]],
    ['x^3', one((g, x) => power(g, x, 3)), [['p', 'power 3']]],
    ['x^0.5', one((g, x) => power(g, x, 0.5)), []],
    ['x^1', one((g, x) => power(g, x, 1)), []],
    ['2^x', one((g, x) => g.node('Pow', [g.constant('two', 'float', [], [2]), x])), []],
    ['x * 2', one((g, x) => g.node('Mul', [x, g.constant('two', 'float', [], [2])])), []],
    ['x * -x', one((g, x) => g.node('Mul', [x, g.node('Neg', [x])])), []],
    [
      'x * sigmoid(x)',
      one((g, x) => g.node('Mul', [x, g.node('Sigmoid', [x], {}, 's')], {}, 'silu')),
      [['silu', 'silu']],
    ],
    ['Gelu', one((g, x) => g.node('Gelu', [x], {}, 'gelu')), [['gelu', 'gelu']]],
    ['Mish', one((g, x) => g.node('Mish', [x], {}, 'mish')), [['mish', 'mish']]],
    ['Sigmoid', one((g, x) => g.node('Sigmoid', [x], {}, 's')), [['s', 'sigmoid']]],
    ['Tanh', one((g, x) => g.node('Tanh', [x], {}, 't')), [['t', 'tanh']]],
    [
      'max(x, 0) by hand',
      one((g, x) => g.node('Max', [x, g.constant('zero', 'float', [], [0])], {}, 'm')),
      [['m', 'relu']],
    ],
    [
      'a relu and its square',
      one((g, x) => {
        const y = g.node('Relu', [x], {}, 'r');
        return g.node('Mul', [y, y], {}, 'sq');
      }),
      [
        ['r', 'relu'],
        ['sq', 'square'],
      ],
    ],
  ])('%s', async (_, model, expected) => {
    const { sites } = sitesOf(model);
    expect(sites.map(({ name, label }) => [name, label])).toEqual(expected);
    expect(sites.every(({ f }) => f)).toBe(true);
    await expectFunctions(model, sites);
  });

  it('x * x of whole numbers is none', () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'int64', ['N', 3]);
    g.output(g.node('Mul', [x, x]), 'y', 'int64', ['N', 3]);
    expect(namesOf(g.model)).toEqual([]);
  });

  it('of a constant is none', () => {
    const model = one((g, x) => g.node('Add', [x, g.node('Relu', [g.constant('c', 'float', [3], [-1, 0, 1])])]));
    expect(namesOf(model)).toEqual([]);
  });

  it('nodes without names go by their outputs, and names are unique', () => {
    const model = protoModel({
      inputs: [['x', 'float', [1, 3]]],
      outputs: [['d', 'float', [1, 3]]],
      nodes: [
        ['x', 'a'],
        ['a', 'b'],
        ['b', 'c'],
        ['c', 'd'],
      ].map(([from = '', to = ''], i) => {
        const node = nodeProto(i === 3 ? 'Mul' : 'Relu', i === 3 ? [from, from] : [from], [to]);
        node.name = i === 0 ? '' : 'same';
        return node;
      }),
    });
    const names = namesOf(model);
    expect(new Set(names).size).toBe(4);
    expect(names[0]).toBe('a');
  });

  it('those in nested graphs and functions are named as skipped', () => {
    const branch = graphProto({ outputs: [['t', 'float', null]], nodes: [nodeProto('Relu', ['x'], ['t'])] });
    const other = graphProto({ outputs: [['e', 'float', null]], nodes: [nodeProto('Identity', ['x'], ['e'])] });
    const model = protoModel({
      inputs: [['x', 'float', [1, 3]]],
      outputs: [['z', 'float', [1, 3]]],
      nodes: [
        nodeProto('If', ['c'], ['y'], [graphAttribute('then_branch', branch), graphAttribute('else_branch', other)]),
        nodeProto('Act', ['y'], ['w'], [], 'local'),
        nodeProto('Relu', ['w'], ['z']),
      ],
      initializers: [makeTensor('c', 'bool', [], [1])],
      functions: [functionProto('Act', ['a'], ['o'], [nodeProto('Relu', ['a'], ['o'])])],
    });
    const { sites, skipped } = sitesOf(model);
    expect(sites.map(({ name }) => name)).toEqual(['n_z']);
    expect(skipped.map(({ site }) => site).sort()).toEqual(['Act/n_o', 'n_t']);
    expect(skipped[0]?.reason).toMatch(/values are not visible/);
  });
});
