import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { type Zippable, zipSync } from 'fflate';
import { beforeEach, describe, expect, it } from 'vitest';
import type { DatasetOptions } from '../../src/data/dataset.ts';
import { openNpz } from '../../src/data/npz.ts';
import { float16ToNumber } from '../../src/graph/tensor.ts';
import { makeRng } from '../../src/rng.ts';
import {
  type AllRows,
  expectClosed,
  expectCloses,
  expectSelections,
  failure,
  failureOf,
  readAll,
} from '../support/datasets.ts';
import { testFolder } from '../support/folder.ts';

const { base, fresh } = testFolder('npz');
let root = '';
beforeEach(() => {
  root = fresh();
});

const at = (name: string) => path.join(root, name);
const save = (name: string, bytes: Uint8Array) => {
  writeFileSync(at(name), bytes);
  return at(name);
};
const failed = async (source: string, options: DatasetOptions = {}) =>
  (await failureOf(() => openNpz(source, options))).replaceAll(root, 'ROOT');

interface NpyOptions {
  version?: 1 | 2 | 3;
  fortran?: boolean;
  /** Instead of the header that belongs there. */
  header?: string;
}

/** The file that NumPy would write, for elements given as the bytes of the dtype. */
function npyOf(descr: string, shape: readonly number[], elements: Uint8Array, options: NpyOptions = {}): Buffer {
  const { version = 1, fortran = false } = options;
  const dims = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const text =
    options.header ?? `{'descr': '${descr}', 'fortran_order': ${fortran ? 'True' : 'False'}, 'shape': (${dims}), }`;
  const before = version === 1 ? 10 : 12;
  const padded = `${text.padEnd(Math.ceil((before + text.length + 1) / 64) * 64 - before - 1)}\n`;
  const start = Buffer.alloc(before);
  start.write('\x93NUMPY', 'latin1');
  start[6] = version;
  if (version === 1) start.writeUInt16LE(padded.length, 8);
  else start.writeUInt32LE(padded.length, 8);
  return Buffer.concat([start, Buffer.from(padded), elements]);
}

/** How each dtype is written, little-endian, and which values it has. */
const DTYPES: Record<string, { set: (view: DataView, at: number, value: number, little: boolean) => void }> = {
  b1: { set: (view, at, value) => view.setUint8(at, value & 1) },
  u1: { set: (view, at, value) => view.setUint8(at, value) },
  i1: { set: (view, at, value) => view.setInt8(at, value) },
  u2: { set: (view, at, value, little) => view.setUint16(at, value, little) },
  i2: { set: (view, at, value, little) => view.setInt16(at, value, little) },
  u4: { set: (view, at, value, little) => view.setUint32(at, value, little) },
  i4: { set: (view, at, value, little) => view.setInt32(at, value, little) },
  u8: { set: (view, at, value, little) => view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), little) },
  i8: { set: (view, at, value, little) => view.setBigInt64(at, BigInt(value), little) },
  f2: { set: (view, at, value, little) => view.setUint16(at, value & 0x7bff, little) }, // bits: every finite number
  f4: { set: (view, at, value, little) => view.setFloat32(at, value / 1024, little) },
  f8: { set: (view, at, value, little) => view.setFloat64(at, value / 1024, little) },
};

/** @param dtype as NumPy's, with its byte order: '>f4' */
function encode(dtype: string, values: readonly number[]): Buffer {
  const itemSize = Number(dtype.at(-1));
  const bytes = Buffer.alloc(values.length * itemSize);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (const [i, value] of values.entries())
    DTYPES[dtype.slice(1)]?.set(view, i * itemSize, value, !dtype.startsWith('>'));
  return bytes;
}

/** The values that come back, as the 32-bit floats of a row. */
function decoded(dtype: string, values: readonly number[]): number[] {
  const kind = dtype.slice(1);
  const bits = Number(kind[1]) * 8;
  return values.map((value) => {
    if (kind === 'b1') return value & 1;
    if (kind === 'f2') return float16ToNumber(value & 0x7bff);
    if (kind[0] === 'f') return Math.fround(value / 1024);
    const whole = kind[0] === 'u' ? BigInt.asUintN(bits, BigInt(value)) : BigInt.asIntN(bits, BigInt(value));
    return Math.fround(Number(whole));
  });
}

const npy = (dtype: string, shape: readonly number[], values: readonly number[], options?: NpyOptions) =>
  npyOf(dtype, shape, encode(dtype, values), options);
const range = (length: number) => Array.from({ length }, (_, i) => i);
const x = (rows = 3) => npy('|u1', [rows, 2, 2], range(rows * 4));
const y = (...labels: number[]) => npy('<i4', [labels.length], labels);
const npz = (arrays: Record<string, Uint8Array>, level: 0 | 6 = 6, name = 'a.npz') => {
  const entries = Object.entries(arrays).map(([key, bytes]) => [`${key}.npy`, [bytes, { level }]]);
  return save(name, zipSync(Object.fromEntries(entries) as Zippable));
};

describe('numbers', () => {
  it('of every type, byte order, shape and version come back', async () => {
    const property = fc.asyncProperty(
      fc.constantFrom(...Object.keys(DTYPES)),
      fc.constantFrom('<', '>', '=', '|'),
      fc.constantFrom(1, 2, 3),
      fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 2, maxLength: 5 }),
      fc.integer({ min: 0, max: 2 ** 30 }),
      async (kind, order, version, shape, seed) => {
        const dtype = (kind.endsWith('1') ? '|' : order === '|' ? '<' : order) + kind;
        const rng = makeRng(seed);
        const values = range(shape.reduce((a, b) => a * b)).map(() => rng.int(2 ** 32) - 2 ** 31);
        const file = save('x.npy', npy(dtype, shape, values, { version: version as 1 | 2 | 3 }));
        const dataset = await openNpz(file, {});
        expect(dataset).toMatchObject({ length: shape[0], elem: kind === 'u1' ? 'uint8' : 'float', classes: null });
        expect((await readAll(dataset, { size: 2 })).rows.flat()).toEqual(decoded(dtype, values));
        rmSync(file);
      },
    );
    await fc.assert(property, { numRuns: 150, seed: 1 });
    await expectClosed(base);
  });

  it('are images as planes or interleaved, or plain rows', async () => {
    const arranged = async (...dims: number[]) => {
      const size = dims.reduce((a, b) => a * b);
      const { shape, layout } = await openNpz(save('x.npy', npy('<f4', [2, ...dims], range(2 * size))), {});
      return `${layout} ${shape.join()}`;
    };
    expect(await arranged(5, 6)).toBe('chw 1,5,6');
    expect(await arranged(1, 5, 6)).toBe('chw 1,5,6');
    expect(await arranged(3, 5, 6)).toBe('chw 3,5,6');
    expect(await arranged(4, 5, 6)).toBe('chw 4,5,6');
    expect(await arranged(5, 6, 3)).toBe('hwc 5,6,3');
    expect(await arranged(5, 6, 1)).toBe('hwc 5,6,1');
    expect(await arranged(3, 5, 3)).toBe('chw 3,5,3');
    expect(await arranged(2, 5, 6)).toBe('plain 2,5,6');
    expect(await arranged(7)).toBe('plain 7');
    expect(await arranged(2, 3, 5, 6)).toBe('plain 2,3,5,6');
  });

  it('not a number and infinity stay so', async () => {
    const bytes = Buffer.from(Float32Array.of(Number.NaN, Number.POSITIVE_INFINITY, -0, 1e-45).buffer);
    const { rows } = await readAll(await openNpz(save('x.npy', npyOf('<f4', [1, 4], bytes)), {}));
    expect(rows).toEqual([[Number.NaN, Number.POSITIVE_INFINITY, -0, Math.fround(1e-45)]]);
  });
});

describe('files', () => {
  const expected = { rows: range(7).map((i) => range(4).map((k) => 4 * i + k)), labels: [3, 1, 4, 1, 5, 2, 0] };

  it.each([0, 6] as const)('npz, deflated at level %i', async (level) => {
    const file = npz({ x: x(7), y: y(...expected.labels), other: y(1) }, level);
    const dataset = await openNpz(file, {});
    expect(dataset).toMatchObject({ name: 'npz', source: file, split: 'test', length: 7, classes: 6, layout: 'chw' });
    await expectSelections(dataset, { ...expected, counts: [], firsts: [] });
    await expectCloses(dataset, base);
  });

  it('a folder of arrays, without labels too', async () => {
    save('X.npy', x(7));
    const unlabelled = await openNpz(root, {});
    expect(unlabelled.classes).toBeNull();
    await expectSelections(unlabelled, { rows: expected.rows, labels: null, counts: [], firsts: [] }, 20);
    save('Y.npy', y(...expected.labels));
    const dataset = await openNpz(root, {});
    await expectSelections(dataset, { ...expected, counts: [], firsts: [] }, 20);
    await expectCloses(dataset, base);
  });

  it('one array beside its labels', async () => {
    for (const [rows, labels] of [
      ['a', 'a_labels'],
      ['x', 'y'],
      ['X_Test', 'y_test'],
      ['x_train', 'y_train'],
      ['images', 'labels'],
      ['data', 'target'],
    ]) {
      rmSync(root, { recursive: true });
      mkdirSync(root);
      const file = save(`${rows}.npy`, x(7));
      expect((await openNpz(file, {})).classes).toBeNull();
      save(`${labels}.npy`, y(...expected.labels));
      expect((await readAll(await openNpz(file, {}))).labels).toEqual(expected.labels);
    }
    rmSync(root, { recursive: true });
    mkdirSync(root);
    const file = save('x.npy', x(2));
    save('y.npy', y(0, 0));
    save('x_labels.npy', y(5, 6)); // says more clearly which rows it belongs to
    expect((await readAll(await openNpz(file, {}))).labels).toEqual([5, 6]);
  });

  it('arrays by the names that Keras gives them', async () => {
    const file = npz({ x_train: x(3), y_train: y(1, 1, 2), x_test: x(2), y_test: y(0, 7) });
    expect((await readAll(await openNpz(file, {}))).labels).toEqual([0, 7]);
    expect((await readAll(await openNpz(file, { split: 'train' }))).labels).toEqual([1, 1, 2]);
    const medmnist = npz({ train_images: x(3), train_labels: npy('|u1', [3, 1], [2, 0, 1]) }, 0, 'b.npz');
    expect((await readAll(await openNpz(medmnist, { split: 'train' }))).labels).toEqual([2, 0, 1]);
    expect(await failed(medmnist)).toMatch(
      /^data: ROOT\/b\.npz: holds train_images, train_labels, but none of x_test, .*; give --split train, or save/,
    );
  });
});

describe('labels', () => {
  const labelsOf = async (labels: Buffer, rows = 3) => {
    const dataset = await openNpz(npz({ x: x(rows), y: labels }), {});
    return { classes: dataset.classes, labels: (await readAll(dataset)).labels };
  };

  it('are [N], [N,1] or one-hot, of any type', async () => {
    for (const dtype of ['|u1', '<i2', '>i8', '<u8', '|i1', '>u4'])
      for (const shape of [[3], [3, 1]])
        expect(await labelsOf(npy(dtype, shape, [2, 0, 9]))).toEqual({ classes: 10, labels: [2, 0, 9] });
    expect(await labelsOf(npy('>f8', [3], [2048, 0, 1024]))).toEqual({ classes: 3, labels: [2, 0, 1] });
    expect(await labelsOf(npy('|b1', [3], [1, 0, 1]))).toEqual({ classes: 2, labels: [1, 0, 1] });
    const hot = [0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1];
    for (const dtype of ['|u1', '|b1', '>i2', '<f4', '<f8'])
      expect(await labelsOf(npy(dtype, [3, 4], hot))).toEqual({ classes: 4, labels: [2, 0, 3] });
    const smooth = Float32Array.of(0.1, 0.7, 0.2, 0.5, 0.3, 0.2, -1, -2, -0.5);
    expect(await labelsOf(npyOf('<f4', [3, 3], Buffer.from(smooth.buffer)))).toEqual({ classes: 3, labels: [1, 0, 2] });
  });

  it('must be classes', async () => {
    const failedWith = (labels: Buffer) => failed(npz({ x: x(), y: labels }));
    expect(await failedWith(y(0, -1, 2))).toBe(
      'data: ROOT/a.npz: y.npy: row 1: -1 is no label; they are whole numbers from 0 on',
    );
    expect(await failedWith(npy('<f4', [3], [0, 1024, 512]))).toMatch(/^data: .*y\.npy: row 2: 0\.5 is no label/);
    const nan = npyOf('<f8', [3], Buffer.from(Float64Array.of(0, 1, Number.NaN).buffer));
    await expect(openNpz(npz({ x: x(), y: nan }), {})).rejects.toThrow(/y\.npy: row 2: NaN is no label/);
    expect(await failedWith(y(0, 1, 1_000_000))).toMatch(/row 2: 1000000 is no label/);
    expect(await failedWith(y(0, 1))).toMatch(/^data: .*y\.npy: 2 labels \(\[2\]\) for 3 rows of .*x\.npy/);
    expect(await failedWith(npy('|u1', [3, 2, 2], range(12)))).toMatch(/labels are \[N\] or one-hot .*not \[3,2,2\]/);
    expect(await failedWith(npy('|u1', [3, 0], []))).toMatch(/^data: .*y\.npy: is empty: its shape is \[3,0\]/);
    expect(await failedWith(npyOf('|u1', [], Buffer.of(3)))).toMatch(/y\.npy: labels are \[N\] .*not \[\]/);
    expect(await failedWith(npy('|u1', [3, 2], [0, 1, 1, 1, 1, 0]))).toMatch(
      /row 1: its 2 numbers have no single larg/,
    );
    expect(await failedWith(npyOf('<U4', [3], Buffer.alloc(48)))).toMatch(/y\.npy: has the dtype '<U4'; known are/);
  });
});

describe('what is wrong is named', () => {
  it('in headers', async () => {
    const failedWith = (bytes: Uint8Array) => failed(save('x.npy', bytes));
    const header = (text: string) => failedWith(npyOf('', [], Buffer.alloc(8), { header: text }));
    const whole = npy('<f4', [2, 3], range(6));
    expect(await failedWith(whole.subarray(0, -1))).toMatch(
      /^data: ROOT\/x\.npy: is 1 bytes shorter than its header says \(<f4 \[2,3\]\); make it again/,
    );
    expect(await failedWith(Buffer.concat([whole, whole]))).toMatch(/is 152 bytes longer than its header says/);
    expect(await failedWith(whole.subarray(0, 40))).toMatch(/^data: ROOT\/x\.npy: ends after 40 bytes.*cut off/);
    expect(await failedWith(whole.subarray(0, 7))).toMatch(/^data: ROOT\/x\.npy: ends after 7 bytes/);
    expect(await failedWith(Buffer.alloc(0))).toBe('data: ROOT/x.npy: is empty');
    expect(await failedWith(Buffer.from('1,2,3\n'))).toMatch(/^data: .*: is neither an \.npz nor an \.npy file/);
    const version = Buffer.from(whole);
    version[6] = 4;
    expect(await failedWith(version)).toMatch(/has \.npy version 4\.0; known are 1\.0 to 3\.0/);
    const long = Buffer.from(npy('<f4', [2, 3], range(6), { version: 2 }));
    long.writeUInt32LE(2 ** 31, 8);
    expect(await failedWith(long)).toMatch(/has a header of 2147483648 bytes; it is corrupt/);
    expect(await failedWith(npy('<f4', [2, 3], range(6), { fortran: true }))).toMatch(
      /is in Fortran order; save np\.ascontiguousarray/,
    );
    expect(await failedWith(npyOf('|O', [3], Buffer.alloc(30)))).toMatch(/holds Python objects \(pickled\)/);
    expect(await failedWith(npyOf('<c8', [2, 2], Buffer.alloc(32)))).toMatch(/has the dtype '<c8'; known are b1, u1/);
    expect(await failedWith(npyOf('constructor', [2], Buffer.alloc(2)))).toMatch(/has the dtype 'constructor'/);
    expect(await header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }")).toMatch(/holds records/);
    expect(await header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }")).toMatch(
      /can't be understood: {/,
    );
    expect(await header("{'descr': '<f4', 'shape': (2,), }")).toMatch(/can't be understood/);
    expect(await header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999, 2), }")).toMatch(
      /bytes shorter than its header says/,
    );
    expect((await header('x'.repeat(50_000))).length).toBeLessThan(400);
  });

  it('in shapes', async () => {
    expect(await failed(save('x.npy', npy('<f4', [5], range(5))))).toMatch(/has the shape \[5\]; rows are \[N,…\]/);
    expect(await failed(save('x.npy', npy('<f4', [], [1])))).toMatch(/has the shape \[\]; rows are/);
    expect(await failed(save('x.npy', npy('<f4', [0, 5], [])))).toMatch(/is empty: its shape is \[0,5\]/);
    expect(await failed(save('x.npy', npy('<f4', [5, 0], [])))).toMatch(/is empty: its shape is \[5,0\]/);
    // One long axis: both orders are the same.
    const flat = npy('<i2', [3, 1, 1], [5, 6, 7], { fortran: true });
    expect((await readAll(await openNpz(save('x.npy', flat), {}))).rows).toEqual([[5], [6], [7]]);
    // Python 2 wrote long integers so.
    const old = npyOf('', [], Buffer.from([1, 2, 3, 4]), {
      header: "{'descr': '|u1', 'fortran_order': False, 'shape': (2L, 2L), }",
    });
    expect((await readAll(await openNpz(save('x.npy', old), {}))).rows).toEqual([
      [1, 2],
      [3, 4],
    ]);
  });

  it('in what is there', async () => {
    expect(await failed(at('none.npz'))).toBe('file: ROOT/none.npz: no such file or folder');
    expect(await failed(root)).toMatch(/^data: ROOT: holds no arrays, but none of x_test/);
    expect(await failed(npz({ y: y(1, 2, 3), foo: x() }))).toMatch(
      /^data: ROOT\/a\.npz: holds y, foo, but none of x_test, test_images, x, images, data; save the rows as x/,
    );
    expect(await failed(save('b.npz', zipSync({ 'x.txt': Buffer.from('x') })))).toMatch(/holds no arrays/);
    expect(await failed(save('c.npz', zipSync({ 'x.npy': Buffer.from('no array here') })))).toMatch(
      /^data: ROOT\/c\.npz: x\.npy: is no \.npy array \(begins with 6e6f20617272\)/,
    );
    expect(await failed(save('d.npz', Buffer.alloc(0)))).toBe('data: ROOT/d.npz: is empty');
    mkdirSync(at('x.npy'));
    rmSync(at('c.npz'));
    expect(await failed(root)).toMatch(/^file: ROOT\/x\.npy: is a folder/);
  });

  it.each([0, 6] as const)('in corrupt archives, deflated at level %i', async (level) => {
    const rng = makeRng(1);
    const pixels = npyOf(
      '|u1',
      [20, 6, 6],
      Uint8Array.from({ length: 720 }, () => rng.int(256)),
    );
    const file = npz({ x: pixels, y: y(...range(20)) }, level);
    const good = await readAll(await openNpz(file, {}));
    const whole = readFileSync(file);
    for (const part of [0.05, 0.5, 0.9, 0.99]) {
      save('a.npz', whole.subarray(0, Math.floor(part * whole.length)));
      expect(await failed(file)).toMatch(/^data: ROOT\/a\.npz: is no complete zip archive/);
    }
    let found = 0;
    for (let i = 0; i < whole.length; i += 11) {
      const bytes = Buffer.from(whole);
      bytes[i] = (bytes[i] ?? 0) ^ 0x10;
      save('a.npz', bytes);
      // A corrupt date does no harm, and another name may hide the labels; anything else is found.
      let read: AllRows | undefined;
      const message = await failure(async () => {
        read = await readAll(await openNpz(file, {}));
      });
      if (message === 'no error') expect([good, { ...good, labels: null }]).toContainEqual(read);
      else expect(message).toMatch(/^data: .*a\.npz: ./);
      if (message !== 'no error') found++;
    }
    expect(found).toBeGreaterThan(whole.length / 11 / 2);
    await expectClosed(base);
  });

  it('the signal stops the reading of labels', async () => {
    const file = npz({ x: x(), y: y(0, 1, 2) });
    expect(await failed(file, { signal: AbortSignal.abort() })).toBe('aborted: interrupted');
    await expectClosed(base);
  });

  it('files that change after they were opened', async () => {
    const file = npz({ x: x(7), y: y(...range(7)) });
    const dataset = await openNpz(file, {});
    save('a.npz', readFileSync(file).subarray(0, 60));
    expect(await failure(() => readAll(dataset))).toMatch(/^data: .*a\.npz: the compressed data end too early/);
    rmSync(file);
    expect(await failure(() => readAll(dataset))).toMatch(/^file: .*a\.npz: no such file/);
  });
});
