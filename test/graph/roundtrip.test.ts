import { readFileSync } from 'node:fs';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import onnxProto from 'onnx-proto';
import { describe, expect, test, vi } from 'vitest';
import { SisyphusError } from '../../src/errors.ts';
import { intsAttr } from '../../src/graph/attributes.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { parseModel, readModel } from '../../src/graph/read.ts';
import { rawBytes, type Tensor, toNumbers } from '../../src/graph/tensor.ts';
import { encode, serialize } from '../../src/graph/write.ts';
import { SHARED, sharedMissing, sharedModels } from '../support/shared.ts';
import { difference, encodeVarint, field, parseFields } from '../support/wire.ts';

const { onnx } = onnxProto;
const written = (model: Model) => Buffer.concat(encode(model));

/** Files of ../shared that are no readable models, by what is wrong with them. */
const UNREADABLE: Record<string, string> = {
  'odd/derived/empty.onnx': 'not-onnx',
  'odd/derived/ext_absolute/model.onnx': 'external-data',
  'odd/derived/ext_missing/model.onnx': 'external-data',
  'odd/derived/ext_short/model.onnx': 'external-data',
  'odd/derived/ext_traversal/model.onnx': 'external-data',
  'odd/derived/mnist8_bitflips40.onnx': 'not-onnx',
  'odd/derived/mnist8_gzipped_named.onnx': 'not-onnx',
  'odd/derived/mnist8_trailing_garbage.onnx': 'not-onnx',
  'odd/derived/mnist8_truncated_16B.onnx': 'not-onnx',
  'odd/derived/mnist8_truncated_half.onnx': 'not-onnx',
  'odd/derived/mnist8_truncated_minus1.onnx': 'not-onnx',
  'odd/derived/random_4k.onnx': 'not-onnx',
  'odd/derived/text.onnx': 'not-onnx',
};
/** Its writer packs repeated numbers, which are written one by one here as the official writers do. */
const NOT_CANONICAL = new Set(['models/djl_mnist.onnx']);

describe.skipIf(sharedMissing)(`real models ${sharedMissing ? `(skipped: ${sharedMissing})` : ''}`, () => {
  const files = sharedModels('models', 'odd');
  test('are found', () => expect(files.length).toBeGreaterThan(60));

  test.each(files)('%s', (name) => {
    const file = path.join(SHARED, name);
    const code = UNREADABLE[name];
    if (code) {
      expect(() => readModel(file)).toThrow(expect.objectContaining({ name: 'SisyphusError', code }));
      return;
    }
    const original = readFileSync(file);
    const model = readModel(file);
    const bytes = written(model);
    expect(difference(original, bytes)).toBeNull();
    expect(isDeepStrictEqual(onnx.ModelProto.decode(bytes), onnx.ModelProto.decode(original))).toBe(true);
    expect(bytes.equals(original)).toBe(!NOT_CANONICAL.has(name));
    expect(written(cloneModel(model)).equals(bytes)).toBe(true);
    expect(Buffer.from(serialize(readModel(file))).equals(bytes)).toBe(true);
  });
});

describe('the comparison itself', () => {
  const nested = (text: string) => field(7, Buffer.concat([field(2, text), field(5, 1)]));
  test('sees a change in a nested message', () => {
    expect(difference(nested('a'), nested('b'))).toContain('model.7[0].2[0]');
    expect(difference(field(1, 1), field(1, 2))).toContain('1 and 2');
    expect(difference(field(1, 1), Buffer.concat([field(1, 1), field(1, 1)]))).toContain('1 and 2 times');
    expect(difference(field(1, 1), Buffer.concat([field(1, 1), field(9, 1)]))).toContain('model.9');
  });
  test('takes packed and unpacked numbers for the same, in order only', () => {
    const loose = Buffer.concat([field(8, 3), field(8, 300)]);
    expect(difference(loose, field(8, Buffer.concat([encodeVarint(3n), encodeVarint(300n)])))).toBeNull();
    expect(difference(loose, field(8, Buffer.concat([encodeVarint(300n), encodeVarint(3n)])))).not.toBeNull();
  });
});

/** A small model with one of everything, built without the toolkit's schema. */
const extra = {
  none: Buffer.alloc(0),
  /** Field numbers that ONNX does not use, in each wire type, among them one with a tag of three bytes and a group. */
  unknown: Buffer.concat([
    field(3000, 7),
    field(3001, 'future'),
    field(3002, Buffer.from([1, 2, 3, 4]), 5),
    field(3003, Buffer.from([1, 2, 3, 4, 5, 6, 7, 8]), 1),
    field(300_000, 'far'),
    Buffer.concat([encodeVarint(BigInt((3004 << 3) | 3)), field(1, 5), encodeVarint(BigInt((3004 << 3) | 4))]),
  ]),
};
interface Parts {
  readonly tail?: Buffer;
  readonly tensor?: Buffer;
  readonly attribute?: Buffer;
  readonly name?: Uint8Array;
  readonly doc?: Uint8Array;
}
function sample({ tail = extra.none, tensor, attribute, name = Buffer.from('relu'), doc }: Parts = {}): Buffer {
  const message = (...parts: Buffer[]) => Buffer.concat([...parts, tail]);
  const weight = tensor ?? Buffer.concat([field(1, 2), field(2, 1), field(8, 'w'), field(9, Buffer.alloc(8))]);
  const axes = attribute ?? Buffer.concat([field(1, 'axes'), field(8, 1), field(20, 7)]);
  const node = message(field(1, 'x'), field(2, 'y'), field(3, name), field(4, 'Relu'), field(5, message(axes)));
  const documented = doc ? [field(10, doc)] : [];
  const io = (port: string) => field(1, port);
  const graph = message(
    field(1, node),
    field(2, 'g'),
    field(5, message(weight)),
    ...documented,
    field(11, io('x')),
    field(12, io('y')),
  );
  const fn = message(field(1, 'f'), field(4, 'a'), field(5, 'b'), field(7, message(field(1, 'a'), field(2, 'b'))));
  return message(field(1, 8), field(7, graph), field(8, Buffer.concat([field(1, ''), field(2, 17)])), field(25, fn));
}
const weightOf = (tensor: Buffer): Tensor => {
  const model = parseModel(sample({ tensor }));
  expect(written(model).equals(sample({ tensor }))).toBe(true);
  const found = model.graph.initializers[0]?.tensor;
  if (!found) throw new Error('the sample lost its initializer');
  return found;
};
const tensorBytes = (elem: number, count: number, ...data: Buffer[]) =>
  Buffer.concat([field(1, count), field(2, elem), ...data]);
/** Protobuf messages with unpacked elements keep them behind the known fields. */
const numbersOf = (tensor: Buffer) => {
  const model = parseModel(sample({ tensor }));
  expect(difference(sample({ tensor }), written(model))).toBeNull();
  return [...toNumbers(model.graph.initializers[0]?.tensor as Tensor)];
};

describe('what a schema does not tell', () => {
  test('unknown fields survive in every message, in every wire type', () => {
    const bytes = sample({ tail: extra.unknown });
    expect(written(parseModel(bytes)).equals(bytes)).toBe(true);
    expect(written(cloneModel(parseModel(bytes))).equals(bytes)).toBe(true);
    const count = (haystack: Buffer) => haystack.toString('latin1').split('future').length - 1;
    expect(count(written(parseModel(bytes)))).toBe(7); // model, graph, node, attribute, tensor, function, its node
  });

  test('unknown fields amid known ones survive too', () => {
    const bytes = Buffer.concat([extra.unknown.subarray(0, 4), sample()]);
    expect(parseFields(extra.unknown.subarray(0, 4))).toHaveLength(1);
    expect(difference(bytes, written(parseModel(bytes)))).toBeNull();
  });

  test('names must be UTF-8; documentation need not be', () => {
    const broken = Uint8Array.of(0x72, 0xff, 0xfe);
    expect(() => parseModel(sample({ name: broken }))).toThrow(SisyphusError);
    expect(() => parseModel(sample({ name: Uint8Array.of(0xc0, 0x80) }))).toThrow(/UTF-8|utf-8|encoded data/);
    const documented = sample({ doc: broken });
    expect(written(parseModel(documented)).equals(documented)).toBe(true);
  });

  test('whatever is made before the first model is read', async () => {
    vi.resetModules();
    const wire = await import('../../src/graph/wire.ts');
    for (const name of ['ModelProto', 'GraphProto', 'NodeProto', 'TensorProto']) wire.message(name, {});
    const broken = sample({ name: Uint8Array.of(0xff) });
    expect(() => wire.decodeModel(broken, 'model')).toThrow(expect.objectContaining({ code: 'not-onnx' }));
    const bytes = sample({ tail: extra.unknown });
    expect(Buffer.concat(wire.encodeModel(wire.decodeModel(bytes, 'model'))).equals(bytes)).toBe(true);
  });

  test.each(['\u{feff}x', 'naïve-ΔΩ', '名前', '😀'.repeat(50), 'a\0b', '\u{ffff}'])('the name %j survives', (name) => {
    const bytes = sample({ name: Buffer.from(name) });
    const model = parseModel(bytes);
    expect(model.graph.nodes[0]?.name).toBe(name);
    expect(written(model).equals(bytes)).toBe(true);
  });

  test('a clone shares no structure', () => {
    const model = parseModel(sample());
    const clone = cloneModel(model);
    expect(clone.graph).not.toBe(model.graph);
    expect(clone.graph.nodes[0]).not.toBe(model.graph.nodes[0]);
    expect(written(clone).equals(written(model))).toBe(true);
  });

  test('empty optional fields stay present', () => {
    const bytes = Buffer.concat([field(1, 0), field(2, ''), field(5, 0), field(7, field(2, ''))]);
    expect(written(parseModel(bytes)).equals(bytes)).toBe(true);
  });
});

describe('typed data fields', () => {
  const floats = (...values: number[]) => Buffer.from(new Float32Array(values).buffer);
  const varints = (...values: (number | bigint)[]) =>
    Buffer.concat(values.map((value) => encodeVarint(BigInt.asUintN(64, BigInt(value)))));

  test('packed floats and doubles', () => {
    expect(numbersOf(tensorBytes(1, 3, field(4, floats(1.5, -2, 0.25)), field(8, 'w')))).toEqual([1.5, -2, 0.25]);
    const doubles = Buffer.from(new Float64Array([Math.PI, -1e300]).buffer);
    expect(numbersOf(tensorBytes(11, 2, field(8, 'w'), field(10, doubles)))).toEqual([Math.PI, -1e300]);
  });

  test('packed data may come in several runs', () => {
    expect(numbersOf(tensorBytes(1, 3, field(4, floats(1)), field(4, floats(2, 3))))).toEqual([1, 2, 3]);
    expect(numbersOf(tensorBytes(7, 3, field(7, varints(-1)), field(7, varints(2, 3))))).toEqual([-1, 2, 3]);
  });

  test('unpacked numbers', () => {
    expect(numbersOf(tensorBytes(1, 2, field(4, floats(1.5), 5), field(4, floats(-8), 5)))).toEqual([1.5, -8]);
    expect(numbersOf(tensorBytes(11, 1, field(10, Buffer.from(new Float64Array([0.1]).buffer), 1)))).toEqual([0.1]);
    expect(numbersOf(tensorBytes(7, 3, field(7, 5), field(7, -5), field(7, 1n << 40n)))).toEqual([5, -5, 2 ** 40]);
    expect(numbersOf(tensorBytes(6, 2, field(5, -7), field(5, 300)))).toEqual([-7, 300]);
    expect(numbersOf(tensorBytes(13, 1, field(11, 300)))).toEqual([300]);
  });

  test('small integers in int32_data, with and without sign', () => {
    expect(numbersOf(tensorBytes(6, 3, field(5, varints(-1, -(2 ** 31), 2 ** 31 - 1))))).toEqual([
      -1,
      -(2 ** 31),
      2 ** 31 - 1,
    ]);
    expect(numbersOf(tensorBytes(3, 3, field(5, varints(-128, 127, -1))))).toEqual([-128, 127, -1]);
    expect(numbersOf(tensorBytes(2, 2, field(5, varints(255, 0))))).toEqual([255, 0]);
    expect(numbersOf(tensorBytes(5, 2, field(5, varints(-32768, 32767))))).toEqual([-32768, 32767]);
    expect(numbersOf(tensorBytes(4, 1, field(5, varints(65535))))).toEqual([65535]);
    expect(numbersOf(tensorBytes(9, 4, field(5, varints(0, 1, 256, -1))))).toEqual([0, 1, 1, 1]);
    // Some writers leave out the sign extension.
    expect(numbersOf(tensorBytes(6, 1, field(5, varints(0xffffffff))))).toEqual([-1]);
  });

  test('float16 and bfloat16 are bit patterns in int32_data', () => {
    expect(numbersOf(tensorBytes(10, 4, field(5, varints(0x3c00, 0xc000, 0x7c00, 0x0001))))).toEqual([
      1,
      -2,
      Number.POSITIVE_INFINITY,
      2 ** -24,
    ]);
    expect(numbersOf(tensorBytes(16, 3, field(5, varints(0x3f80, 0xc000, 0xff80))))).toEqual([
      1,
      -2,
      Number.NEGATIVE_INFINITY,
    ]);
  });

  test('element types without numbers still have bytes', () => {
    expect([...rawBytes(weightOf(tensorBytes(17, 3, field(5, varints(0x38, 0xb8, 0x7f)), field(8, 'w'))))]).toEqual([
      0x38, 0xb8, 0x7f,
    ]);
    expect([...rawBytes(weightOf(tensorBytes(22, 3, field(5, varints(0x21, 0x03)), field(8, 'w'))))]).toEqual([
      0x21, 3,
    ]);
    const complex = floats(1, 2, 3, 4);
    expect(Buffer.from(rawBytes(weightOf(tensorBytes(14, 2, field(4, complex), field(8, 'w'))))).equals(complex)).toBe(
      true,
    );
  });

  test('int64 beyond 2^53 stays exact in bytes and is refused as numbers', () => {
    const most = (1n << 63n) - 1n;
    for (const tensor of [
      tensorBytes(7, 2, field(7, varints(most, -most)), field(8, 'w')),
      tensorBytes(7, 2, field(8, 'w'), field(9, Buffer.from(new BigInt64Array([most, -most]).buffer))),
    ]) {
      const weight = weightOf(tensor);
      expect(Buffer.from(rawBytes(weight)).readBigInt64LE(0)).toBe(most);
      expect(Buffer.from(rawBytes(weight)).readBigInt64LE(8)).toBe(-most);
      expect(() => toNumbers(weight)).toThrow(/'w'.*53 bits/);
    }
    const attribute = Buffer.concat([field(1, 'axes'), field(8, most), field(8, -most), field(20, 7)]);
    const model = parseModel(sample({ attribute }));
    expect(written(model).equals(sample({ attribute }))).toBe(true);
    expect(written(cloneModel(model)).equals(sample({ attribute }))).toBe(true);
    const node = model.graph.nodes[0];
    expect(node && intsAttr(node, 'axes')).toEqual([2 ** 63, -(2 ** 63)]);
  });

  test('NaN payloads and negative zero keep their bits', () => {
    const bits = Uint8Array.of(1, 0, 0x80, 0x7f, 0xef, 0xbe, 0xed, 0xff, 0, 0, 0, 0x80); // signalling NaN, NaN, -0
    for (const tensor of [
      tensorBytes(1, 3, field(8, 'w'), field(9, bits)),
      tensorBytes(1, 3, field(4, bits), field(8, 'w')),
    ]) {
      const weight = weightOf(tensor);
      expect(Buffer.from(rawBytes(weight)).equals(bits)).toBe(true);
      expect([...toNumbers(weight)].map((value) => (Object.is(value, -0) ? '-0' : `${value}`))).toEqual([
        'NaN',
        'NaN',
        '-0',
      ]);
    }
    const halves = weightOf(tensorBytes(10, 2, field(5, varints(0xfe01, 0x7d55)), field(8, 'w')));
    expect([...rawBytes(halves)]).toEqual([0x01, 0xfe, 0x55, 0x7d]);
    const attribute = Buffer.concat([field(1, 'axes'), field(2, bits.subarray(4, 8), 5), field(20, 1)]);
    expect(written(parseModel(sample({ attribute }))).equals(sample({ attribute }))).toBe(true);
  });

  test('wrong amounts of data are refused', () => {
    const refuse = (tensor: Buffer, message: RegExp) => expect(() => rawBytes(weightOf(tensor))).toThrow(message);
    refuse(tensorBytes(1, 3, field(4, floats(1, 2)), field(8, 'w')), /'w': 8 bytes of data, but float \[3\] needs 12/);
    refuse(tensorBytes(7, 2, field(7, varints(1, 2, 3)), field(8, 'w')), /more than 2 numbers/);
    refuse(tensorBytes(7, 2, field(7, varints(1000)), field(8, 'w')), /1 numbers, but int64 \[2\] needs 2/);
    refuse(tensorBytes(7, 1, field(7, Buffer.from([0x80, 0x80])), field(8, 'w')), /cut off/);
    refuse(tensorBytes(7, 1, field(7, Buffer.alloc(12, 0x80)), field(8, 'w')), /cut off/);
    refuse(tensorBytes(1, 2, field(8, 'w'), field(9, Buffer.alloc(9))), /9 bytes of data/);
    refuse(tensorBytes(1, 2, field(8, 'w')), /0 bytes of data/);
  });
});
