import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { cost } from '../../src/graph/cost.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model, Value } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { elementPolynomials } from '../../src/passes/element-polynomials.ts';
import { foldPolynomial } from '../../src/passes/fold-polynomial.ts';
import type { PassReport } from '../../src/passes/pass.ts';
import { expectSame, noise, ops } from '../support/numeric.ts';

const run = (model: Model) => foldPolynomial.run(model, {}) as PassReport;
const depth = (model: Model) => cost(model, inferTypes(model)).depth;

/** c0 + c1 x + … in one of several spellings. */
function spell(g: GraphBuilder, x: Value, c: readonly (readonly number[])[], spelling: string): Value {
  const dims = (values: readonly number[]) => (values.length === 1 ? [] : [1, values.length, 1, 1]);
  const k = (i: number) => g.constant(`c${i}`, 'float', dims(c[i] ?? [0]), c[i] ?? [0]);
  const d = c.length - 1;
  if (spelling === 'horner') {
    let at = g.node('Mul', [x, k(d)]);
    for (let i = d - 1; i >= 0; i--) {
      at = g.node('Add', [at, k(i)]);
      if (i > 0) at = g.node('Mul', [at, x]);
    }
    return at;
  }
  let sum = g.node('Add', [g.node('Mul', [k(1), x]), k(0)]);
  let power = x;
  for (let i = 2; i <= d; i++) {
    power = spelling === 'pow' ? g.node('Pow', [x, g.constant('n', 'float', [], [i])]) : g.node('Mul', [power, x]);
    sum =
      i % 2 === 0
        ? g.node('Add', [sum, g.node('Mul', [power, k(i)])])
        : g.node('Sub', [sum, g.node('Mul', [power, negated(g, c[i] ?? [0], dims)])]);
  }
  return sum;
}
const negated = (g: GraphBuilder, values: readonly number[], dims: (v: readonly number[]) => number[]) =>
  g.constant(
    'minus',
    'float',
    dims(values),
    values.map((v) => -v),
  );

const weights = (g: GraphBuilder, name: string, dims: number[], seed: number) =>
  g.constant(
    name,
    'float',
    dims,
    noise(
      dims.reduce((a, b) => a * b, 1),
      seed,
    ).map((v) => v * 0.5),
  );

function conv(
  g: GraphBuilder,
  x: Value,
  ins: number,
  outs: number,
  seed: number,
  attributes = { pads: [1, 1, 1, 1] },
): Value {
  return g.node('Conv', [x, weights(g, 'w', [outs, ins, 3, 3], seed), weights(g, 'b', [outs], seed + 1)], attributes);
}

/** conv, polynomial, conv, polynomial, flatten, gemm. */
function chain(c: readonly (readonly number[])[], spelling: string): Model {
  const g = buildModel({ name: 'g', opset: 17 });
  const x = g.input('x', 'float', ['N', 2, 4, 4]);
  const a = spell(g, conv(g, x, 2, 3, 1), c, spelling);
  const b = spell(g, conv(g, a, 3, 3, 5), c, spelling);
  const flat = g.node('Flatten', [g.node('AveragePool', [b], { kernel_shape: [2, 2], strides: [2, 2] })]);
  const y = g.node('Gemm', [flat, weights(g, 'w', [12, 4], 9), weights(g, 'b', [4], 10)]);
  g.output(y, 'y', 'float', ['N', 4]);
  return g.model;
}

describe('finds polynomials', () => {
  test.each(['horner', 'powers', 'pow'])('spelled as %s', (spelling) => {
    const model = chain([[0.1], [0.5], [0.25], [-0.05], [0.02]], spelling);
    const found = elementPolynomials(model, inferTypes(model));
    expect(found).toHaveLength(2);
    for (const { coefficients } of found)
      for (const [i, c] of [0.1, 0.5, 0.25, -0.05, 0.02].entries())
        expect(coefficients[i]?.values[0]).toBeCloseTo(c, 6);
  });

  test('ends where something else reads the value, and starts anew there', () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [1, 3]);
    const square = g.node('Mul', [x, x]);
    const fourth = g.node('Mul', [square, square]);
    g.output(square, 'a', 'float', [1, 3]);
    g.output(fourth, 'b', 'float', [1, 3]);
    const found = elementPolynomials(g.model, inferTypes(g.model));
    expect(
      found.map(({ source, output, coefficients }) => [source.name, output.name, coefficients.length - 1]),
    ).toEqual([
      ['x', 'a', 2],
      ['a', 'b', 2],
    ]);
  });
});

describe('folds', () => {
  test.each([
    [2, 1],
    [3, 1],
    [4, 1],
  ])('degree %i in every spelling, and is then done', async (degree, saved) => {
    for (const spelling of ['horner', 'powers', 'pow']) {
      const model = chain([[0.3], [0.5], [-0.25], [0.05], [0.02]].slice(0, degree + 1), spelling);
      const original = cloneModel(model);
      expect(run(model).applied).toHaveLength(2);
      await expectSame(original, model, { atol: 0, rtol: 1e-5 });
      const levels = degree === 2 ? 1 : 2;
      expect(depth(model)).toBe(1 + levels + 1 + levels + 1 + 1);
      expect(depth(original) - depth(model)).toBeGreaterThanOrEqual(2 * (spelling === 'horner' ? saved : 0));
      expect(run(model).applied).toEqual([]);
      expect(
        ops(model)
          .filter((op) => !['Conv', 'Gemm', 'Flatten', 'AveragePool'].includes(op))
          .every((op) => op === 'Add' || op === 'Mul'),
      ).toBe(true);
    }
  });

  test('anything', async () => {
    const coefficient = fc.oneof(
      fc.double({ min: 0.02, max: 2, noNaN: true }),
      fc.double({ min: -2, max: -0.02, noNaN: true }),
    );
    const values = fc.oneof(fc.tuple(coefficient), fc.tuple(coefficient, coefficient, coefficient));
    const polynomials = fc.array(values, { minLength: 2, maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(polynomials, fc.constantFrom('horner', 'powers', 'pow'), async (c, spelling) => {
        const model = chain(c, spelling);
        const original = cloneModel(model);
        run(model);
        await expectSame(original, model, { atol: 1e-6, rtol: 2e-4 }, 1);
      }),
      { numRuns: 40, seed: 11 },
    );
  });

  test('a shift only where no padding would miss it, a scale anywhere', async () => {
    const build = (pads: number[], shift: number) => {
      const g = buildModel({ name: 'g', opset: 17 });
      const x = g.input('x', 'float', [1, 2, 4, 4]);
      const affine = spell(
        g,
        x,
        [
          [shift, -shift],
          [2, 3],
        ],
        'horner',
      );
      g.output(conv(g, affine, 2, 3, 1, { pads }), 'y', 'float', null as never);
      return g.model;
    };
    for (const [pads, shift, folded] of [
      [[0, 0, 0, 0], 1, true],
      [[1, 1, 1, 1], 1, false],
      [[1, 1, 1, 1], 0, true],
    ] as const) {
      const model = build([...pads], shift);
      const original = cloneModel(model);
      expect(run(model).applied.length > 0).toBe(folded);
      await expectSame(original, model, { atol: 0, rtol: 1e-5 });
      if (folded) expect(ops(model)).toEqual(['Conv']);
    }
  });
});

describe('residual networks', () => {
  /** y = p(x0); then blocks y = p(conv(p(conv y)) + y). */
  function residual(c: readonly (readonly number[])[], blocks: number): Model {
    const g = buildModel({ name: 'g', opset: 17 });
    let y = spell(g, conv(g, g.input('x', 'float', [1, 2, 4, 4]), 2, 3, 1), c, 'horner');
    for (let i = 0; i < blocks; i++) {
      const inner = spell(g, conv(g, y, 3, 3, 3 + 4 * i), c, 'horner');
      y = spell(g, g.node('Add', [conv(g, inner, 3, 3, 5 + 4 * i), y]), c, 'horner');
    }
    g.output(g.node('Gemm', [g.node('Flatten', [y]), weights(g, 'w', [48, 4], 90)]), 'y', 'float', [1, 4]);
    return g.model;
  }

  test.each([
    ['positive', [[0.1], [0.5], [0.2]]],
    ['negative', [[0.1], [0.5], [-0.2]]],
    ['by channel', [[0.1], [0.5, 0.4, 0.3], [0.2, -0.3, 0.1]]],
    ['quartic', [[0.1], [0.5], [0.2], [0.01], [-0.02]]],
  ])('a level less for each activation: %s', async (_, c) => {
    const model = residual(c, 2);
    const original = cloneModel(model);
    const { applied } = run(model);
    expect(applied).toHaveLength(5);
    await expectSame(original, model, { atol: 0, rtol: 2e-5 });
    const levels = c.length === 3 ? 1 : 2;
    expect(depth(model)).toBe(5 * (1 + levels) + 1);
  });
});

describe('what stays', () => {
  const reasons = (model: Model) => run(model).skipped.map(({ reason }) => reason);

  test('a polynomial of the input, with an output after it', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    g.output(spell(g, g.input('x', 'float', [1, 3]), [[0.1], [0.5], [0.2]], 'horner'), 'y', 'float', [1, 3]);
    const original = cloneModel(g.model);
    expect(reasons(g.model)).toEqual(["no layer makes 'x'"]);
    await expectSame(original, g.model, { atol: 0, rtol: 0 });
  });

  test('goes forward where the input can not take it', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const p = spell(g, g.input('x', 'float', [1, 3]), [[0.1], [0.5], [-0.2]], 'horner');
    g.output(g.node('Gemm', [p, weights(g, 'w', [3, 4], 3)]), 'y', 'float', [1, 4]);
    const original = cloneModel(g.model);
    expect(run(g.model).applied.map(({ detail }) => detail)).toEqual(['degree 2, monic: c2 into the layers after']);
    await expectSame(original, g.model, { atol: 0, rtol: 1e-5 });
    expect(depth(g.model)).toBe(2);
  });

  test('coefficients that are zero in some channels, or differ within one', () => {
    expect(reasons(chain([[0.1], [0.5], [0.2, 0, 0.1]], 'horner'))[0]).toMatch('0 in some channels');
  });

  test('weights that somebody else reads too are copied', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [1, 3]);
    const w = weights(g, 'w', [3, 3], 3);
    const p = spell(g, g.node('Gemm', [x, w]), [[0.1], [0.5], [0.2]], 'horner');
    g.output(g.node('Gemm', [p, w]), 'y', 'float', [1, 3]);
    const original = cloneModel(g.model);
    expect(run(g.model).applied).toHaveLength(1);
    await expectSame(original, g.model, { atol: 0, rtol: 1e-5 });
  });
});
