import { describe, expect, test } from 'vitest';
import {
  arrayFromNumbers,
  arrayFromTensor,
  arrayNumbers,
  openSession,
  tensorFromArray,
} from '../../src/eval/session.ts';
import { intAttribute } from '../../src/graph/attributes.ts';
import { buildModel } from '../../src/graph/build.ts';
import type { ElementType, Model } from '../../src/graph/ir.ts';
import { makeTensor, toNumbers } from '../../src/graph/tensor.ts';
import { serialize } from '../../src/graph/write.ts';
import { numbersOf, runModel } from '../support/numeric.ts';

function identity(elem: ElementType): Model {
  const g = buildModel({ name: 'g', opset: 17 });
  g.output(g.node('Identity', [g.input('x', elem, [2, 2])]), 'y', elem, [2, 2]);
  return g.model;
}

describe('openSession', () => {
  test.each([
    'float',
    'double',
    'float16',
    'int8',
    'uint8',
    'int16',
    'uint16',
    'int32',
    'uint32',
    'int64',
    'uint64',
    'bool',
  ] as const)('%s goes in and comes out', async (elem) => {
    const feed = arrayFromNumbers(elem, [2, 2], [0, 1, 1, 0]);
    const result = await runModel(identity(elem), new Map([['x', feed]]));
    expect(result.get('y')).toEqual(feed);
    expect([...numbersOf(result, 'y')]).toEqual([0, 1, 1, 0]);
  });

  test('strings go in and come out', async () => {
    const feed = { elem: 'string' as const, dims: [2, 2], data: ['a', 'b', '', 'ü'] };
    const result = await runModel(identity('string'), new Map([['x', feed]]));
    expect(result.get('y')).toEqual(feed);
  });

  test('float16 is bit patterns, and rounds', async () => {
    const feed = arrayFromNumbers('float16', [2, 2], [0.1, -1.5, 65504, Number.NaN]);
    expect(feed.data).toBeInstanceOf(Uint16Array);
    const found = numbersOf(await runModel(identity('float16'), new Map([['x', feed]])), 'y');
    expect([...found]).toEqual([0.0999755859375, -1.5, 65504, Number.NaN]);
  });

  test('names, chosen outputs and initializers that are inputs', async () => {
    const g = buildModel({ name: 'g', opset: 17, irVersion: 3 });
    const x = g.input('x', 'float', [2]);
    const w = g.constant('w', 'float', [2], [1, 2]);
    g.output(g.node('Add', [x, w]), 'sum', 'float', [2]);
    g.output(g.node('Mul', [x, w]), 'product', 'float', [2]);
    const session = await openSession(serialize(g.model), { optimize: false, threads: 1 });
    expect(session.inputNames).toEqual(['x']);
    expect(session.outputNames).toEqual(['sum', 'product']);
    const feeds = new Map([
      ['x', arrayFromNumbers('float', [2], [3, 4])],
      ['unknown', arrayFromNumbers('float', [1], [0])],
    ]);
    expect([...(await session.run(feeds, ['product'])).keys()]).toEqual(['product']);
    expect([...numbersOf(await session.run(feeds), 'product')]).toEqual([3, 8]);
    await session.release();
  });

  test('errors are one line that names the model', async () => {
    const load = openSession(new Uint8Array([1, 2, 3]), { name: 'net.onnx' });
    await expect(load).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/^net\.onnx: [^\n]+$/),
    });
    const session = await openSession(serialize(identity('float')), { name: 'net.onnx' });
    await expect(session.run(new Map())).rejects.toThrow("net.onnx: nothing is given for its input 'x'");
    const wrong = session.run(new Map([['x', arrayFromNumbers('float', [3], [1, 2, 3])]]));
    await expect(wrong).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/^net\.onnx: [^\n]+$/),
    });
    const count = session.run(new Map([['x', { elem: 'float' as const, dims: [2, 2], data: new Float32Array(3) }]]));
    await expect(count).rejects.toMatchObject({ code: 'tensor' });
    const type = session.run(new Map([['x', { elem: 'bfloat16' as const, dims: [2, 2], data: new Uint16Array(4) }]]));
    await expect(type).rejects.toMatchObject({ code: 'unsupported' });
    await session.release();
  });

  test('an operator that fails is an error, not a crash', async () => {
    const g = buildModel({ name: 'g', opset: 17 });
    const shape = g.input('shape', 'int64', [1]);
    const w = g.constant('w', 'float', [4], [1, 2, 3, 4]);
    g.output(g.node('Reshape', [w, shape], { allowzero: intAttribute('allowzero', 0) }), 'y', 'float', ['N']);
    const run = runModel(g.model, new Map([['shape', arrayFromNumbers('int64', [1], [3])]]));
    await expect(run).rejects.toMatchObject({ code: 'unsupported' });
  });
});

describe('arrays and tensors', () => {
  test('a tensor becomes an array and back', () => {
    for (const elem of ['float', 'float16', 'int64', 'bool'] as const) {
      const tensor = makeTensor('t', elem, [3], [1, 0, 1]);
      const array = arrayFromTensor(tensor);
      expect([...arrayNumbers(array)]).toEqual([1, 0, 1]);
      const back = tensorFromArray('t', array);
      expect([back.elem, back.dims, [...toNumbers(back)]]).toEqual([elem, [3], [1, 0, 1]]);
    }
  });

  test('what has no array is refused', () => {
    expect(() => arrayFromTensor(makeTensor('t', 'bfloat16', [1], [1]))).toThrow(/bfloat16/);
    expect(() => tensorFromArray('t', { elem: 'string', dims: [1], data: ['a'] })).toThrow(/text/);
    expect(() => arrayNumbers({ elem: 'string', dims: [1], data: ['a'] })).toThrow(/strings/);
  });
});
