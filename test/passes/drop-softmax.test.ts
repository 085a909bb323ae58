import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { arrayFromNumbers } from '../../src/eval/session.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Dim, Model, Value } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { verify } from '../../src/graph/verify.ts';
import { dropSoftmax } from '../../src/passes/drop-softmax.ts';
import type { PassReport } from '../../src/passes/pass.ts';
import { expectSame, noise, numbersOf, ops, runModel } from '../support/numeric.ts';
import { reread, sharedModel } from '../support/passes.ts';

const run = (model: Model) => dropSoftmax.run(model, {}) as PassReport;
const reasons = (model: Model) => run(model).skipped.map(({ reason }) => reason);

/** A doubled input and what is made of it; the output is y. */
function head(shape: readonly Dim[], make: (g: GraphBuilder, x: Value) => Value, opset = 17): Model {
  const g = buildModel({ name: 'g', opset });
  const x = g.input('x', 'float', shape);
  const y = make(g, g.node('Add', [x, x], {}, 'logits'));
  g.output(y, 'y', 'float', inferTypes(g.model).get(y).shape ?? []);
  return g.model;
}

/** The index of the largest number along an axis, for every other index. */
function argmax(values: Float64Array, dims: readonly number[], axis: number): number[] {
  const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1);
  const count = dims[axis] as number;
  return Array.from({ length: values.length / count }, (_, i) => {
    const start = Math.floor(i / inner) * inner * count + (i % inner);
    let best = 0;
    for (let c = 1; c < count; c++)
      if ((values[start + c * inner] as number) > (values[start + best * inner] as number)) best = c;
    return best;
  });
}

async function outputOf(model: Model, dims: readonly number[], values: ArrayLike<number>) {
  const [input] = model.graph.inputs.filter(({ value }) => !value.initializer);
  const [output] = model.graph.outputs;
  const elem = inferTypes(model).get(input?.value as Value).elem ?? 'float';
  const feeds = new Map([[input?.value.name ?? '', arrayFromNumbers(elem, dims, values)]]);
  const results = await runModel(model, feeds);
  const name = output?.value.name ?? '';
  return { values: numbersOf(results, name), dims: results.get(name)?.dims ?? [] };
}

const reshape = (g: GraphBuilder, x: Value, to: number[]) =>
  g.node('Reshape', [x, g.constant('shape', 'int64', [to.length], to)]);

describe('goes, and the largest class stays', () => {
  test.each<[string, number[], (g: GraphBuilder, x: Value) => Value, number, string[], number]>([
    ['Softmax', [3, 10], (g, x) => g.node('Softmax', [x]), 17, ['Add'], 1],
    ['Softmax at opset 9', [3, 10], (g, x) => g.node('Softmax', [x]), 9, ['Add'], 1],
    ['Softmax at opset 9, over everything', [3, 10], (g, x) => g.node('Softmax', [x], { axis: 0 }), 9, ['Add'], 1],
    ['LogSoftmax', [3, 10], (g, x) => g.node('LogSoftmax', [x], { axis: 1 }), 17, ['Add'], 1],
    ['Sigmoid', [3, 10], (g, x) => g.node('Sigmoid', [x]), 17, ['Add'], 1],
    ['of pixels', [2, 4, 3, 3], (g, x) => g.node('Softmax', [x], { axis: 1 }), 17, ['Add'], 1],
    ['of tokens', [2, 3, 5], (g, x) => g.node('Softmax', [x]), 13, ['Add'], 2],
    ['without a batch', [10], (g, x) => g.node('Softmax', [x], { axis: 0 }), 13, ['Add'], 0],
    ['before Identity', [3, 10], (g, x) => g.node('Identity', [g.node('Softmax', [x])]), 17, ['Add', 'Identity'], 1],
    [
      'before Squeeze',
      [3, 10, 1, 1],
      (g, x) => g.node('Squeeze', [g.node('Softmax', [x], { axis: 1 }), g.constant('axes', 'int64', [2], [2, 3])]),
      17,
      ['Add', 'Squeeze'],
      1,
    ],
    ['before Reshape', [3, 1, 10], (g, x) => reshape(g, g.node('LogSoftmax', [x]), [3, 10]), 17, ['Add', 'Reshape'], 1],
    ['before Flatten', [3, 2, 5], (g, x) => g.node('Flatten', [g.node('Softmax', [x])]), 9, ['Add', 'Flatten'], 1],
  ])('%s', async (_, dims, make, opset, operators, axis) => {
    const model = head(dims, make, opset);
    const original = cloneModel(model);
    const report = run(model);
    expect(report).toMatchObject({ pass: 'drop-softmax', skipped: [], applied: [{}] });
    expect(report.applied[0]?.detail).toMatch(/ removed: the output holds its input$/);
    expect(ops(model)).toEqual(operators);
    expect(verify(model)).toEqual([]);
    expect(model.graph.outputs.map(({ value }) => value.name)).toEqual(['y']);
    const values = noise(
      dims.reduce((a, b) => a * b, 1),
      5,
    ).map((x) => 3 * x);
    const [before, after] = [await outputOf(original, dims, values), await outputOf(reread(model), dims, values)];
    expect(after.dims).toEqual(before.dims);
    expect(argmax(after.values, after.dims, axis)).toEqual(argmax(before.values, before.dims, axis));
    expect([...after.values]).toEqual([...values].map((x) => Math.fround(2 * Math.fround(x))));
  });

  test('of whatever logits, as long as float32 tells the probabilities apart', async () => {
    const model = head(['N', 6], (g, x) => g.node('Softmax', [x]));
    const original = cloneModel(model);
    run(model);
    // Multiples of 1/8 up to 8, all different: probabilities differ by 13 % or more, and none underflows.
    const logits = fc.uniqueArray(fc.integer({ min: -64, max: 64 }), { minLength: 6, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(fc.array(logits, { minLength: 1, maxLength: 8 }), async (rows) => {
        const values = rows.flat().map((n) => n / 16);
        const [before, after] = [
          await outputOf(original, [rows.length, 6], values),
          await outputOf(model, [rows.length, 6], values),
        ];
        expect(argmax(after.values, after.dims, 1)).toEqual(argmax(before.values, before.dims, 1));
      }),
      { numRuns: 20, seed: 3 },
    );
  });

  test('at two outputs', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [2, 5]);
    g.output(g.node('Softmax', [g.node('Add', [x, x])], {}, 'one'), 'a', 'float', [2, 5]);
    g.output(g.node('Sigmoid', [g.node('Mul', [x, x])], {}, 'two'), 'b', 'float', [2, 5]);
    expect(run(g.model).applied.map(({ site }) => site)).toEqual(['one', 'two']);
    expect(ops(g.model)).toEqual(['Add', 'Mul']);
    expect(reread(g.model).graph.outputs.map(({ value }) => value.name)).toEqual(['a', 'b']);
  });
});

describe('stays', () => {
  test('within the network: it is no site at all', async () => {
    const model = head([2, 5], (g, x) =>
      g.node('MatMul', [g.node('Softmax', [x]), g.constant('w', 'float', [5, 5], noise(25))]),
    );
    const original = cloneModel(model);
    expect(run(model)).toEqual({ pass: 'drop-softmax', applied: [], skipped: [] });
    await expectSame(original, model, { atol: 0, rtol: 0 });
  });

  test.each<[string, readonly Dim[], (g: GraphBuilder, x: Value) => Value, number]>([
    ['it normalises over the batch', [3, 10], (g, x) => g.node('Softmax', [x], { axis: 0 }), 17],
    ['it normalises over the batch', [3, 10], (g, x) => g.node('LogSoftmax', [x], { axis: -2 }), 13],
    ['it has one class, whose threshold would move', ['N', 1], (g, x) => g.node('Sigmoid', [x]), 17],
    [
      'it normalises parts of a row, and is reshaped',
      [3, 2, 5],
      (g, x) => g.node('Flatten', [g.node('Softmax', [x])]),
      17,
    ],
    [
      'it normalises parts of a row, and is reshaped',
      [3, 2, 5],
      (g, x) => g.node('Flatten', [g.node('Softmax', [x], { axis: 2 })]),
      9,
    ],
    [
      'others than an output of the model read it',
      [3, 10],
      (g, x) => {
        const y = g.node('Softmax', [x]);
        g.output(g.node('ArgMax', [y]), 'class', 'int64', [1, 10]);
        return y;
      },
      17,
    ],
  ])('%s: %j', (reason, shape, make, opset) => {
    const model = head(shape, make, opset);
    const before = ops(model);
    expect(reasons(model)).toEqual([reason]);
    expect(ops(model)).toEqual(before);
  });

  test('where nothing can take over the name of the output', () => {
    const direct = buildModel({ name: 'g', opset: 17 });
    direct.output(direct.node('Softmax', [direct.input('x', 'float', [2, 5])]), 'y', 'float', [2, 5]);
    expect(reasons(direct.model)).toEqual(["it gives the output 'y' its name, which 'x' can't take over"]);
    const two = buildModel({ name: 'g', opset: 17 });
    const x = two.input('x', 'float', [2, 5]);
    const logits = two.node('Add', [x, x]);
    two.output(logits, 'logits', 'float', [2, 5]);
    two.output(two.node('Softmax', [logits]), 'y', 'float', [2, 5]);
    expect(reasons(two.model)).toEqual(["it gives the output 'y' its name, which 'logits' can't take over"]);
    expect(verify(two.model)).toEqual([]);
  });
});

describe('real networks', () => {
  test.each([
    ['burn_mnist', 'LogSoftmax', [8, 1, 28, 28]],
    ['lenet5_torch04', 'LogSoftmax', [1, 1, 32, 32]],
    ['keras2onnx_mnist_lg', 'Softmax', [8, 28, 28, 1]],
  ] as const)('%s ends in %s', async (name, op, dims) => {
    const model = sharedModel(`models/${name}.onnx`);
    if (!model) return;
    const original = cloneModel(model);
    expect(run(model)).toMatchObject({
      applied: [{ detail: `${op} removed: the output holds its input` }],
      skipped: [],
    });
    expect(ops(model)).not.toContain(op);
    expect(verify(model)).toEqual([]);
    const [input] = inputsOf(original);
    const lead = inferTypes(original).get(input as Value).shape?.[0];
    const rows = typeof lead === 'number' ? lead : dims[0];
    const shape = [rows, ...dims.slice(1)];
    for (let seed = 1; seed <= 8; seed++) {
      const values = noise(
        shape.reduce((a, b) => a * b, 1),
        seed,
      );
      const [before, after] = [await outputOf(original, shape, values), await outputOf(reread(model), shape, values)];
      expect(argmax(after.values, after.dims, 1)).toEqual(argmax(before.values, before.dims, 1));
      expect(after.values).not.toEqual(before.values);
    }
  });
});

const inputsOf = (model: Model): Value[] =>
  model.graph.inputs.flatMap(({ value }) => (value.initializer ? [] : [value]));
