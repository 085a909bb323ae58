import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ElementType } from '../../src/graph/ir.ts';
import {
  bfloat16ToNumber,
  byteLength,
  elementCode,
  elementCount,
  float16ToNumber,
  fromRaw,
  makeTensor,
  numberToBfloat16,
  numberToFloat16,
  rawBytes,
  tensorFromProto,
  toNumbers,
  toStrings,
} from '../../src/graph/tensor.ts';
import { message, type TensorProto } from '../../src/graph/wire.ts';
import { makeRng } from '../../src/rng.ts';

const int = (bits: number, signed: boolean) =>
  fc.integer({ min: signed ? -(2 ** (bits - 1)) : 0, max: signed ? 2 ** (bits - 1) - 1 : 2 ** bits - 1 });
/** Values that each element type holds exactly. */
const EXACT: Partial<Record<ElementType, fc.Arbitrary<number>>> = {
  float: fc.float(),
  double: fc.double(),
  float16: int(16, false).map(float16ToNumber),
  bfloat16: int(16, false).map(bfloat16ToNumber),
  int8: int(8, true),
  uint8: int(8, false),
  bool: int(1, false),
  int16: int(16, true),
  uint16: int(16, false),
  int32: int(32, true),
  uint32: int(32, false),
  int64: fc.maxSafeInteger(),
  uint64: fc.maxSafeNat(),
};

describe('numbers', () => {
  test.each(Object.entries(EXACT) as [ElementType, fc.Arbitrary<number>][])(
    '%s makes the round trip',
    (elem, value) => {
      fc.assert(
        fc.property(fc.array(value, { maxLength: 40 }), (values) => {
          const tensor = makeTensor('t', elem, [values.length], values);
          expect(rawBytes(tensor).length).toBe(byteLength(elem, [values.length]));
          const back = toNumbers(tensor);
          expect(back.length).toBe(values.length);
          for (const [i, number] of values.entries()) expect(back[i]).toBe(number);
          // Bytes at any offset of a larger buffer are read as well.
          const shifted = Buffer.concat([Buffer.alloc(1), rawBytes(tensor)]).subarray(1);
          expect(toNumbers(fromRaw('t', elem, [values.length], shifted))).toEqual(back);
        }),
      );
    },
  );

  test('float rounds to nearest, bool to 0 and 1', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true }), (value) => {
        expect(toNumbers(makeTensor('t', 'float', [], [value]))[0]).toBe(Math.fround(value));
      }),
    );
    expect([...toNumbers(makeTensor('t', 'bool', [3], [0, 2, -1]))]).toEqual([0, 1, 1]);
  });

  test.each([
    ['int8', 128],
    ['uint8', -1],
    ['int16', 1.5],
    ['int32', 2 ** 31],
    ['uint32', Number.NaN],
    ['int64', 2 ** 63],
    ['int64', Number.POSITIVE_INFINITY],
    ['uint64', -1],
  ] as [ElementType, number][])('%s has no %d', (elem, value) => {
    expect(() => makeTensor('t', elem, [1], [value])).toThrow(/'t': .* is no value of type/);
  });

  test('the ends of the 64-bit types', () => {
    expect(Buffer.from(rawBytes(makeTensor('t', 'int64', [1], [-(2 ** 63)]))).readBigInt64LE()).toBe(-(1n << 63n));
    expect(Buffer.from(rawBytes(makeTensor('t', 'uint64', [1], [2 ** 63]))).readBigUInt64LE()).toBe(1n << 63n);
  });

  test('what has no numbers says so', () => {
    expect(() => makeTensor('t', 'string', [1], [1])).toThrow(/'t'.*string/);
    expect(() => makeTensor('t', 'int4', [1], [1])).toThrow(/'t'.*int4/);
    expect(() => toNumbers(fromRaw('t', 'float8e5m2', [1], Buffer.alloc(1)))).toThrow(/'t'.*float8e5m2/);
    expect(() => makeTensor('t', 'float', [3], [1, 2])).toThrow(/2 values for the shape \[3\]/);
  });

  test('strings', () => {
    const proto = message<TensorProto>('TensorProto', { dims: [2], data_type: elementCode('string'), name: 's' });
    proto.string_data = [Buffer.from('a'), Buffer.from('ä')];
    expect(toStrings(tensorFromProto(proto))).toEqual(['a', 'ä']);
    expect(() => rawBytes(tensorFromProto(proto))).toThrow(/no fixed size/);
  });
});

/**
 * The reference: every finite pattern of a 16-bit type, decoded here from the definition, sorted. The nearest one is
 * found by search; of two equally near the one with an even pattern wins; from half a step beyond the largest, infinity.
 */
function nearestPattern(fraction: number, bias: number): (value: number) => number {
  const infinity = (2 * bias + 1) << fraction;
  const decode = (bits: number) => {
    const exponent = bits >> fraction;
    const rest = bits & ((1 << fraction) - 1);
    return exponent === 0 ? rest * 2 ** (1 - bias - fraction) : (1 + rest / 2 ** fraction) * 2 ** (exponent - bias);
  };
  const values = Float64Array.from({ length: infinity + 1 }, (_, bits) => decode(bits)); // as if infinity went on
  return (value) => {
    const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
    const magnitude = Math.abs(value);
    let low = 0;
    let high = infinity;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((values[middle] as number) <= magnitude) low = middle;
      else high = middle;
    }
    const down = magnitude - (values[low] as number);
    const up = (values[high] as number) - magnitude;
    return sign | (down < up || (down === up && low % 2 === 0) ? low : high);
  };
}

describe.each([
  { name: 'float16', decode: float16ToNumber, encode: numberToFloat16, fraction: 10, bias: 15, largest: 65504 },
  {
    name: 'bfloat16',
    decode: bfloat16ToNumber,
    encode: numberToBfloat16,
    fraction: 7,
    bias: 127,
    largest: 255 * 2 ** 120,
  },
])('$name', ({ decode, encode, fraction, bias, largest }) => {
  const infinity = (2 * bias + 1) << fraction;
  const nearest = nearestPattern(fraction, bias);

  test('all 65,536 patterns make the round trip', () => {
    for (let bits = 0; bits < 65536; bits++) {
      const value = decode(bits);
      if ((bits & 0x7fff) > infinity) {
        expect(value).toBeNaN();
        expect(encode(value) & 0x7fff).toBeGreaterThan(infinity);
      } else if (encode(value) !== bits) expect.fail(`${bits} -> ${value} -> ${encode(value)}`);
    }
    expect(decode(infinity - 1)).toBe(largest);
    expect(decode(infinity)).toBe(Number.POSITIVE_INFINITY);
    expect(Object.is(decode(0x8000), -0)).toBe(true);
  });

  test('midpoints of neighbours go to the even one, and a hair decides otherwise', () => {
    for (let bits = 0; bits < infinity - 1; bits++) {
      const middle = (decode(bits) + decode(bits + 1)) / 2;
      const even = bits % 2 === 0 ? bits : bits + 1;
      const below = middle * (1 - 2 ** -52);
      const above = middle * (1 + 2 ** -52);
      if (encode(middle) !== even || encode(below) !== bits || encode(above) !== bits + 1)
        expect.fail(`around ${middle}`);
    }
  });

  test('random numbers of every magnitude round to the nearest', () => {
    const rng = makeRng(16);
    for (let i = 0; i < 100_000; i++) {
      const value = (rng.uniform() - 0.5) * 2 ** (rng.int(2 * bias + 40) - bias - 20);
      if (encode(value) !== nearest(value)) expect.fail(`${value}: ${encode(value)} instead of ${nearest(value)}`);
    }
  });

  test('overflow, infinities and NaN', () => {
    const half = 2 ** (bias - fraction - 1);
    expect(encode(largest + half)).toBe(infinity);
    expect(encode(-(largest + half))).toBe(0x8000 | infinity);
    expect(encode((largest + half) * (1 - 2 ** -52))).toBe(infinity - 1);
    expect(encode(Number.MAX_VALUE)).toBe(infinity);
    expect(encode(Number.NEGATIVE_INFINITY)).toBe(0x8000 | infinity);
    expect(encode(Number.MIN_VALUE)).toBe(0);
    expect(encode(-Number.MIN_VALUE)).toBe(0x8000);
    expect(decode(encode(Number.NaN))).toBeNaN();
  });
});

describe('hostile shapes', () => {
  const claim = (dims: number[], fields: Partial<TensorProto> = {}, elem: ElementType = 'float') =>
    tensorFromProto(message<TensorProto>('TensorProto', { dims, data_type: elementCode(elem), name: 'w', ...fields }));
  const tiny = { raw_data: Buffer.alloc(4) };

  test.each([
    [[2 ** 40], 'data'],
    [[-1], 'impossible'],
    [[-2, -2], 'impossible'],
    [[2 ** 32, 2 ** 32], 'impossible'],
    [Array.from({ length: 40 }, () => 2 ** 40), 'impossible'],
    [[2 ** 51], '.'],
  ])('%j is refused', (dims, words) => {
    const before = process.memoryUsage();
    for (const read of [rawBytes, toNumbers])
      for (const fields of [tiny, {}, { float_data: [Buffer.alloc(8)] }])
        expect(() => read(claim(dims, fields))).toThrow(expect.objectContaining({ code: 'tensor' }));
    expect(() => toNumbers(claim(dims, tiny))).toThrow(new RegExp(words));
    for (const elem of ['int64', 'int32', 'uint64', 'int8', 'float16', 'int4'] as const)
      expect(() => rawBytes(claim(dims, { int32_data: [Buffer.alloc(3)] }, elem))).toThrow(/'w'/);
    const after = process.memoryUsage();
    expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(1 << 24);
  });

  test('raw data of the wrong length is refused', () => {
    for (const length of [0, 1, 7, 9, 12])
      expect(() => toNumbers(claim([2], { raw_data: Buffer.alloc(length) }))).toThrow(
        `tensor 'w': ${length} bytes of data, but float [2] needs 8; the file is damaged`,
      );
    expect(() => rawBytes(fromRaw('w', 'int4', [3], Buffer.alloc(3)))).toThrow(/needs 2/);
    expect(rawBytes(fromRaw('w', 'int4', [3], Buffer.alloc(2))).length).toBe(2);
  });

  test('empty tensors and scalars are fine', () => {
    expect(toNumbers(claim([0])).length).toBe(0);
    expect(toNumbers(claim([3, 0], { raw_data: Buffer.alloc(0) })).length).toBe(0);
    expect(elementCount([])).toBe(1);
    expect([...toNumbers(makeTensor('t', 'float', [], [2]))]).toEqual([2]);
  });

  test('unknown element types are refused', () => {
    expect(() => rawBytes(tensorFromProto(message<TensorProto>('TensorProto', { data_type: 99, name: 'w' })))).toThrow(
      /undefined have no fixed size/,
    );
  });
});
