import { describe, expect, test } from 'vitest';
import { checkEqual, randomFeeds } from '../../src/eval/check.ts';
import { arrayNumbers } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import type { Dim, ElementType, Model } from '../../src/graph/ir.ts';
import { makeRng } from '../../src/rng.ts';
import { nodeProto, protoModel } from '../support/passes.ts';

/** y = x + c, and z = x. */
function shifted(c: number, shape: readonly Dim[] = [4]): Model {
  const g = buildModel({ name: 'g', opset: 17 });
  const x = g.input('x', 'float', shape);
  g.output(g.node('Add', [x, g.constant('c', 'float', [], [c])]), 'y', 'float', shape);
  g.output(g.node('Identity', [x]), 'z', 'float', shape);
  return g.model;
}

/** y = op(x). */
function unary(op: string, elem: ElementType = 'float'): Model {
  const g = buildModel({ name: 'g', opset: 17 });
  g.output(g.node(op, [g.input('x', elem, [8])]), 'y', elem, [8]);
  return g.model;
}

describe('checkEqual', () => {
  test('equal models differ by nothing', async () => {
    const report = await checkEqual(shifted(1), shifted(1), { runs: 3, seed: 1 });
    expect(report).toMatchObject({ runs: 3, maxError: 0, toleranceNeeded: 0, passed: true, worst: null });
  });

  test('states what it found, on either side of the tolerance', async () => {
    const options = { runs: 2, seed: 1, atol: 0 };
    const strict = await checkEqual(shifted(1), shifted(1.125), { ...options, rtol: 1e-3 });
    expect(strict.passed).toBe(false);
    expect(strict.worst?.output).toBe('y');
    expect(strict.worst?.index).toBeGreaterThanOrEqual(0);
    expect(strict.maxError).toBeCloseTo(0.125, 5);
    expect(strict.scale).toBeGreaterThan(0.1);
    expect(strict.toleranceNeeded).toBe(strict.maxError / strict.scale);
    const loose = await checkEqual(shifted(1), shifted(1.125), { ...options, rtol: 2 * strict.toleranceNeeded });
    expect(loose).toEqual({ ...strict, passed: true });
    expect((await checkEqual(shifted(1), shifted(1.125), { ...options, rtol: 0, atol: 0.126 })).passed).toBe(true);
  });

  test('equal seeds give equal reports', async () => {
    const run = (seed: number) => checkEqual(unary('Sin'), unary('Tan'), { runs: 2, seed });
    expect(await run(3)).toEqual(await run(3));
    expect(await run(3)).not.toEqual(await run(4));
  });

  test('NaN equals NaN and infinity equals infinity, but nothing else does', async () => {
    // Log of uniform numbers in [-1, 1) is NaN about half of the time.
    expect(await checkEqual(unary('Log'), unary('Log'), { runs: 2, seed: 1 })).toMatchObject({ passed: true });
    const nan = await checkEqual(unary('Log'), unary('Identity'), { runs: 2, seed: 1, rtol: 1e9 });
    expect(nan).toMatchObject({ passed: false, maxError: Number.POSITIVE_INFINITY });
    const infinite = (sign: number) => shifted(sign * Number.POSITIVE_INFINITY);
    expect((await checkEqual(infinite(1), infinite(1), { runs: 1, seed: 1 })).passed).toBe(true);
    expect((await checkEqual(infinite(1), infinite(-1), { runs: 1, seed: 1, rtol: 1e9 })).passed).toBe(false);
  });

  test('integers, booleans and float16', async () => {
    for (const elem of ['int32', 'int64', 'bool', 'float16'] as const)
      expect((await checkEqual(unary('Identity', elem), unary('Identity', elem), { runs: 1, seed: 1 })).passed).toBe(
        true,
      );
    const negated = await checkEqual(unary('Identity', 'int64'), unary('Neg', 'int64'), { runs: 1, seed: 1 });
    expect(negated).toMatchObject({ passed: false, maxError: 4, scale: 2 });
  });

  test('other shapes are different', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    g.output(
      g.node('Concat', [g.input('x', 'float', [4]), g.constant('c', 'float', [1], [0])], { axis: 0 }),
      'y',
      'float',
      [5],
    );
    const report = await checkEqual(shifted(0), g.model, { runs: 1, seed: 1 });
    expect(report).toMatchObject({
      passed: false,
      maxError: Number.POSITIVE_INFINITY,
      worst: { output: 'y', index: -1 },
    });
  });

  test('compares the outputs that both have, and needs one', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    g.output(g.node('Identity', [g.input('x', 'float', [4])]), 'z', 'float', [4]);
    expect((await checkEqual(shifted(1), g.model, { runs: 1, seed: 1 })).passed).toBe(true);
    const other = unary('Identity');
    await expect(checkEqual(g.model, other, { runs: 1, seed: 1 })).rejects.toMatchObject({ code: 'unsupported' });
  });

  test('no runs prove nothing', async () => {
    expect((await checkEqual(shifted(1), shifted(1), { runs: 0, seed: 1 })).passed).toBe(false);
  });
});

describe('randomFeeds', () => {
  test('sizes: 1 for the batch, one size for each name, 1 for the unknown', () => {
    const g = buildModel({ name: 'g', opset: 17 });
    g.input('a', 'float', ['N', 3, 'H', 'W']);
    g.input('b', 'int64', ['H', null, 'N']);
    g.input('c', 'bool', []);
    const dims = (sizes?: Map<string, number>) =>
      [...randomFeeds(g.model, makeRng(1), sizes)].map(([name, { elem, dims }]) => [name, elem, dims]);
    expect(dims()).toEqual([
      ['a', 'float', [1, 3, 1, 2]],
      ['b', 'int64', [1, 1, 1]],
      ['c', 'bool', []],
    ]);
    expect(dims(new Map([['W', 9]]))[0]).toEqual(['a', 'float', [1, 3, 1, 9]]);
  });

  test('floats from [-1, 1), small integers, booleans', () => {
    const g = buildModel({ name: 'g', opset: 17 });
    for (const elem of ['float', 'int32', 'bool'] as const) g.input(elem, elem, [1000]);
    const feeds = randomFeeds(g.model, makeRng(5));
    const values = (name: string) => arrayNumbers(feeds.get(name) ?? { elem: 'float', dims: [0], data: [] });
    expect(Math.min(...values('float'))).toBeLessThan(-0.9);
    expect(Math.max(...values('float'))).toBeGreaterThan(0.9);
    expect(new Set(values('int32'))).toEqual(new Set([0, 1, 2]));
    expect(new Set(values('bool'))).toEqual(new Set([0, 1]));
  });

  test('an input without a shape is refused; one with an initializer needs no data', () => {
    const g = buildModel({ name: 'g', opset: 17, irVersion: 3 });
    g.constant('w', 'float', [1], [1]);
    expect(randomFeeds(g.model, makeRng(1)).size).toBe(0);
    const model = protoModel({
      inputs: [['x', 'float', null]],
      outputs: [['y', 'float', null]],
      nodes: [nodeProto('Relu', ['x'], ['y'])],
    });
    expect(() => randomFeeds(model, makeRng(1))).toThrow(/'x' states no shape/);
  });
});

describe('makeRng', () => {
  test('repeats for equal seeds, with the right moments', () => {
    const draw = (seed: number) => {
      const rng = makeRng(seed);
      return Array.from({ length: 20_000 }, () => rng.normal());
    };
    const values = draw(2 ** 40 + 1);
    expect(draw(2 ** 40 + 1)).toEqual(values);
    expect(draw(1)).not.toEqual(values);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(Math.abs(variance - 1)).toBeLessThan(0.04);
    const rng = makeRng(1);
    const uniform = Array.from({ length: 10_000 }, () => rng.uniform());
    expect(Math.min(...uniform)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...uniform)).toBeLessThan(1);
    const bins = [0, 0, 0, 0, 0];
    for (let i = 0; i < 10_000; i++) {
      const bin = rng.int(5);
      bins[bin] = (bins[bin] ?? 0) + 1;
    }
    expect(bins).toHaveLength(5);
    for (const count of bins) expect(Math.abs(count - 2000)).toBeLessThan(200);
  });
});
