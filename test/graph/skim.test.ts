import { createHash } from 'node:crypto';

import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SisyphusError } from '../../src/errors.ts';
import { cloneModel, setInitializer } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { rangeOf } from '../../src/graph/ranges.ts';
import { readModel } from '../../src/graph/read.ts';
import { skimModel } from '../../src/graph/skim.ts';
import { dataProblem, dataRange, isStripped, makeTensor, rawBytes, toNumbers } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { encode, encodedSize, serialize, writeModel } from '../../src/graph/write.ts';
import { makeRng, type Rng } from '../../src/rng.ts';
import { REPOSITORY, SHARED, sharedMissing, sharedModels } from '../support/shared.ts';
import { encodeVarint, field } from '../support/wire.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-skim-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => path.join(folder, name);
function put(bytes: Uint8Array, name = 'model.onnx'): string {
  writeFileSync(at(name), bytes);
  return at(name);
}

const NEVER = { file: Number.POSITIVE_INFINITY, tensor: 0 };
const skimming = (tensor: number) => ({ skim: { file: 0, tensor } });
const ALL = skimming(1);
const written = (model: Model) => Buffer.concat(encode(model));
/** Names of the initializers whose data was left in the file. */
const leftInFile = (model: Model) =>
  model.graph.initializers.filter(({ tensor }) => rangeOf(tensor.proto.raw_data)).map(({ value }) => value.name);

const floats = (...values: number[]) => Buffer.from(new Float32Array(values).buffer);
const message = (...parts: Buffer[]) => Buffer.concat(parts);
const tensor = (name: string, data: Uint8Array, ...rest: Buffer[]) =>
  message(field(1, data.length / 4), field(2, 1), field(8, name), field(9, data), ...rest);
const opset = field(8, message(field(1, ''), field(2, 17)));
/** A model that adds up its initializers; `parts` may be any fields of the graph. */
const model = (parts: Buffer[], ...tail: Buffer[]) => message(field(1, 8), field(7, message(...parts)), opset, ...tail);
const sum = (...names: string[]) =>
  field(1, message(...names.map((name) => field(1, name)), field(2, 'y'), field(3, 'sum'), field(4, 'Sum')));
const y = field(12, field(1, 'y'));
const usual = (a = 1.5) =>
  model([sum('a', 'b'), field(5, tensor('a', floats(a, 2))), field(5, tensor('b', floats(3, 4))), y]);

const digest = (bytes: Uint8Array) => createHash('sha1').update(bytes).digest('hex');

/** What reading a file comes to: its digest and findings, or the code and words of the refusal. */
function outcome(file: string, options?: Parameters<typeof readModel>[1]) {
  try {
    const found = readModel(file, options);
    const data = found.graph.initializers.map((initializer) => {
      try {
        return digest(rawBytes(initializer.tensor));
      } catch (cause) {
        return refusal(cause);
      }
    });
    const { initializers } = found.graph;
    return {
      digest: digest(written(found)),
      size: encodedSize(found),
      problems: verify(found),
      data,
      stripped: initializers.map((initializer) => isStripped(initializer.tensor)),
      dataProblems: initializers.map((initializer) => dataProblem(initializer.tensor)),
    };
  } catch (cause) {
    return { refused: refusal(cause) };
  }
}

function refusal(cause: unknown): string {
  if (cause instanceof SisyphusError && cause.code !== 'internal') return `${cause.code}: ${cause.message}`;
  throw cause;
}

/** Both ways of reading agree, also through a clone. @returns whether anything was left in the file */
function agree(file: string, tensorLimit = 1): boolean {
  const plain = outcome(file, { skim: NEVER });
  const skimmed = outcome(file, skimming(tensorLimit));
  expect(skimmed).toEqual(plain);
  if (!plain.digest) return false;
  const found = readModel(file, skimming(tensorLimit));
  expect(digest(written(cloneModel(found)))).toBe(plain.digest);
  const bytes = serialize(found);
  expect(digest(bytes)).toBe(plain.digest);
  expect(plain.size).toBe(bytes.length);
  return leftInFile(found).length > 0;
}

describe.skipIf(sharedMissing)(`real models ${sharedMissing ? `(skipped: ${sharedMissing})` : ''}`, () => {
  const files = sharedModels('models', 'odd');
  let taken = 0;
  test.each(files)('%s', async (name) => {
    const file = path.join(SHARED, name);
    for (const limit of [0, 1]) if (agree(file, limit)) taken++;
    if (outcome(file, ALL).refused) return;
    await writeModel(readModel(file, ALL), at('out.onnx'), { externalData: false });
    expect(readFileSync(at('out.onnx')).equals(serialize(readModel(file), { inline: true }))).toBe(true);
  });
  test('most of them have weights to leave in the file', () => expect(taken).toBeGreaterThan(files.length));
});

describe('a skimmed model', () => {
  test('has its weights in the file until somebody asks', () => {
    const found = readModel(put(usual()), ALL);
    expect(leftInFile(found)).toEqual(['a', 'b']);
    const [a] = found.graph.initializers;
    if (!a) throw new Error('no initializer');
    expect(a.tensor.external).toBeNull();
    expect(dataRange(a.tensor)).toMatchObject({ path: at('model.onnx'), length: 8 });
    expect([...toNumbers(a.tensor)]).toEqual([1.5, 2]);
    expect(verify(found)).toEqual([]);
    expect(written(found).equals(usual())).toBe(true);
  });

  test('limits: small files and small tensors are read', () => {
    const file = put(usual());
    const { size } = statSync(file);
    expect(leftInFile(readModel(file))).toEqual([]);
    expect(leftInFile(readModel(file, { skim: { file: size + 1, tensor: 0 } }))).toEqual([]);
    expect(leftInFile(readModel(file, { skim: { file: size, tensor: 8 } }))).toEqual(['a', 'b']);
    expect(leftInFile(readModel(file, { skim: { file: size, tensor: 9 } }))).toEqual([]);
    const large = model([field(5, tensor('a', Buffer.alloc(2 ** 26))), field(5, tensor('b', floats(3, 4)))]);
    expect(leftInFile(readModel(put(large)))).toEqual(['a']);
  });

  test('stays inline when it is written, whatever the sizes around it', async () => {
    for (const count of [1, 31, 32, 1000, 4095, 2_500_000]) {
      const weight = tensor(
        'a',
        Buffer.alloc(4 * count, 'some bytes'),
        field(16, message(field(1, 'k'), field(2, 'v'))),
      );
      const bytes = model([sum('a'), field(5, weight), y]);
      const found = readModel(put(bytes), ALL);
      expect(leftInFile(found)).toEqual(['a']);
      expect(encodedSize(found)).toBe(bytes.length);
      const files = await writeModel(found, at('out.onnx'), { force: true });
      expect([...files]).toEqual([[at('out.onnx'), bytes.length]]);
      expect(readFileSync(at('out.onnx')).equals(bytes)).toBe(true);
    }
  });

  test('can move its weights out, and takes external ones in', async () => {
    const large = floats(...Array(1000).keys());
    const bytes = model([sum('a', 'b'), field(5, tensor('a', large)), field(5, tensor('b', floats(3, 4))), y]);
    const file = put(bytes);
    await writeModel(readModel(file, ALL), at('out.onnx'), { externalData: true });
    expect(readFileSync(at('out.onnx.data')).equals(large)).toBe(true);
    await writeModel(readModel(at('out.onnx'), ALL), at('back.onnx'), { externalData: false });
    expect(readFileSync(at('back.onnx')).equals(bytes)).toBe(true);
    const stale = readModel(file, ALL);
    utimesSync(file, 1, 1);
    await expect(writeModel(stale, at('late.onnx'), { externalData: true })).rejects.toMatchObject({ code: 'file' });
    expect(readdirSync(folder).sort()).toEqual(['back.onnx', 'model.onnx', 'out.onnx', 'out.onnx.data']);
  });

  test('of the wrong length is not moved out', async () => {
    const found = readModel(
      put(model([field(5, message(field(1, 900), field(2, 1), field(9, Buffer.alloc(5000))))])),
      ALL,
    );
    expect(found.graph.initializers.map((entry) => dataProblem(entry.tensor))).toEqual([
      expect.stringMatching(/5000 bytes of data, but float \[900\] needs 3600/),
    ]);
    await expect(writeModel(found, at('out.onnx'), { externalData: true })).rejects.toMatchObject({ code: 'tensor' });
    expect(readdirSync(folder)).toEqual(['model.onnx']);
  });

  test('may be written over its own file, also through a link', async () => {
    symlinkSync('model.onnx', at('link.onnx'));
    for (const name of ['model.onnx', 'link.onnx']) {
      const file = put(usual());
      const found = readModel(at(name), ALL);
      const [a, b] = found.graph.initializers;
      if (!a || !b) throw new Error('no initializers');
      setInitializer(a.value, makeTensor('a', 'float', [2], [7, 8]));
      expect(leftInFile(found)).toEqual(['b']);
      await writeModel(found, file, { force: true });
      expect(
        readFileSync(file).equals(
          model([sum('a', 'b'), field(5, tensor('a', floats(7, 8))), field(5, tensor('b', floats(3, 4))), y]),
        ),
      ).toBe(true);
      // What it was read from is gone; its size is still known.
      expect(encodedSize(found)).toBe(usual().length);
      expect(() => rawBytes(b.tensor)).toThrow(/changed or gone/);
    }
  });

  test('is refused when its file changes meanwhile', async () => {
    const file = put(usual());
    const change: Record<string, () => void> = {
      rewritten: () => put(usual(9)),
      touched: () => utimesSync(file, 1, 1),
      cut: () => put(usual().subarray(0, 20)),
      gone: () => rmSync(file),
    };
    for (const act of Object.values(change)) {
      put(usual());
      utimesSync(file, 1000, 1000);
      const found = readModel(file, ALL);
      act();
      const refused = expect.objectContaining({
        code: 'file',
        message: expect.stringContaining('model.onnx: changed or gone'),
      });
      for (const options of [{}, { externalData: true }])
        await expect(writeModel(found, at('out.onnx'), options)).rejects.toThrow(refused);
      expect(readdirSync(folder).filter((name) => name !== 'model.onnx')).toEqual([]);
      expect(() => serialize(found)).toThrow(refused);
      expect(() => encode(found)).toThrow(refused);
      expect(() => rawBytes(found.graph.initializers[0]?.tensor as never)).toThrow(refused);
      for (const name of readdirSync(folder)) rmSync(at(name));
    }
  });

  test('is refused when its file changes amid writing', async () => {
    const file = put(model([field(5, tensor('a', Buffer.alloc(10_000_000))), y]));
    const { signal } = new AbortController();
    let looks = 0;
    signal.throwIfAborted = () => {
      if (++looks === 4) utimesSync(file, 1, 1); // the batch before the weight, the weight, its first part and its second
    };
    const done = writeModel(readModel(file, ALL), at('out.onnx'), { signal });
    await expect(done).rejects.toThrow(expect.objectContaining({ code: 'file' }));
    expect(looks).toBeGreaterThan(4);
    expect(readdirSync(folder)).toEqual(['model.onnx']);
  });

  test('stops at an abort and leaves nothing', async () => {
    const found = readModel(put(usual()), ALL);
    for (let looks = 1; ; looks++) {
      const controller = new AbortController();
      let left = looks;
      controller.signal.throwIfAborted = () => {
        if (--left === 0) controller.abort();
        if (controller.signal.aborted) throw controller.signal.reason;
      };
      const done = writeModel(found, at('out.onnx'), { signal: controller.signal });
      if (looks < 7) {
        await expect(done).rejects.toMatchObject({ code: 'aborted' });
        expect(readdirSync(folder)).toEqual(['model.onnx']);
        continue;
      }
      await done.catch(() => {});
      if (left > 0) break;
    }
    expect(readFileSync(at('out.onnx')).equals(usual())).toBe(true);
  });
});

describe('files that are not as usual', () => {
  const tail = message(
    field(3000, 7),
    field(3001, 'future'),
    field(3002, Buffer.from([1, 2, 3, 4]), 5),
    field(3003, Buffer.from([1, 2, 3, 4, 5, 6, 7, 8]), 1),
    field(300_000, 'far'),
  );
  const a = (...rest: Buffer[]) => field(5, tensor('a', floats(1, 2), ...rest));
  /** A length of so many bytes, most of them needless. */
  const padded = (length: number, width: number) =>
    Buffer.from(Array.from({ length: width }, (_, i) => ((length >> (7 * i)) & 127) | (i < width - 1 ? 128 : 0)));
  const wide = (number: number, data: Buffer, width = 5) =>
    message(Buffer.from([(number << 3) | 2]), padded(data.length, width), data);
  const branch = message(field(2, 'then'), field(5, tensor('n', floats(5, 6))), field(12, field(1, 'n')));
  const nested = field(
    1,
    message(field(2, 'z'), field(4, 'If'), field(5, message(field(1, 'then_branch'), field(6, branch)))),
  );

  const taken: Record<string, Buffer> = {
    'unknown fields everywhere': message(model([sum('a'), a(tail), y, tail], tail)),
    'data first, metadata last': model([
      field(
        5,
        message(
          field(9, floats(1, 2)),
          field(16, message(field(1, 'k'), field(2, 'v'))),
          field(1, 2),
          field(2, 1),
          field(8, 'a'),
        ),
      ),
    ]),
    'the same initializer twice': model([sum('a'), a(), a(), y]),
    'two different ones of one name': model([sum('a'), a(), field(5, tensor('a', floats(8, 9))), y]),
    'initializers before, between and after nodes': model([a(), sum('a', 'b'), field(5, tensor('b', floats(3, 4))), y]),
    'weights in a nested graph': model([nested, a()]),
    'padded lengths': message(
      field(1, 8),
      wide(7, message(field(2, 'g'), wide(5, message(field(8, 'a'), wide(9, floats(1)))))),
    ),
    'data of the wrong length': model([
      field(5, message(field(1, 3), field(2, 1), field(8, 'a'), field(9, floats(1, 2)))),
    ]),
    'data without a type': model([field(5, message(field(8, 'a'), field(9, floats(1, 2))))]),
    'raw and typed data': model([
      field(5, message(field(1, 2), field(2, 1), field(4, floats(7, 8)), field(9, floats(1, 2)))),
    ]),
    'strings with raw data': model([field(5, message(field(1, 1), field(2, 8), field(8, 's'), field(9, floats(1))))]),
    'a function behind the graph': model([a()], field(25, message(field(1, 'f'), field(10, 'd')))),
    'training information': model([a()], field(20, field(1, message(field(5, tensor('t', floats(1))))))),
  };
  test.each(Object.keys(taken))('%s', (name) => expect(agree(put(taken[name] as Buffer))).toBe(true));

  const group = message(encodeVarint((3004n << 3n) | 3n), field(1, 5), encodeVarint((3004n << 3n) | 4n));
  const left: Record<string, Buffer> = {
    'several graphs, which merge': model([sum('a'), a(), y], field(7, message(field(5, tensor('c', floats(1)))))),
    'data twice in a tensor': model([a(field(9, floats(5, 6)))]),
    'a group of unknown fields': model([a(group)]),
    'a graph that is a number': model([a()], field(7, 1)),
    'an initializer that is a number': model([a(), field(5, 1)]),
    'data that is a number': model([
      field(5, message(field(8, 'a'), field(9, 1))),
      field(5, tensor('b', Buffer.alloc(0))),
    ]),
    'a length of six bytes': message(field(1, 8), wide(7, message(field(2, 'g'), a()), 6)),
    'a broken name': model([a(), field(2, Buffer.from([0xff]))]),
    'no weights': model([sum('a')]),
    'no graph': field(1, 8),
    nothing: Buffer.alloc(0),
    'a file that ends early': usual().subarray(0, -1),
    'a field number of zero': message(usual(), Buffer.from([0, 0])),
    'a length beyond the graph': model([message(Buffer.from([(5 << 3) | 2]), encodeVarint(1000n), Buffer.alloc(9))]),
    'a length beyond 2 GiB': model([
      message(Buffer.from([(5 << 3) | 2]), encodeVarint(2n ** 32n + 4n), Buffer.alloc(4)),
    ]),
    'external data': model([
      field(
        5,
        message(
          field(1, 1),
          field(2, 1),
          field(8, 'a'),
          field(13, message(field(1, 'location'), field(2, '/etc/passwd'))),
          field(14, 1),
        ),
      ),
    ]),
  };
  test.each(Object.keys(left))('%s: read as ever', (name) => expect(agree(put(left[name] as Buffer))).toBe(false));

  test('raw data beside external data stays, and is not what the tensor holds', () => {
    put(floats(7, 8), 'w.bin');
    const entries = field(13, message(field(1, 'location'), field(2, 'w.bin')));
    const file = put(model([sum('a'), a(entries, field(14, 1)), y]));
    expect(agree(file)).toBe(true);
    expect([...toNumbers(readModel(file, ALL).graph.initializers[0]?.tensor as never)]).toEqual([7, 8]);
  });

  test('a folder, a missing file', () => {
    expect(outcome(folder, ALL)).toEqual(outcome(folder));
    expect(outcome(at('missing.onnx'), ALL)).toEqual(outcome(at('missing.onnx')));
    expect(skimModel(folder, 0)).toBeNull();
    expect(skimModel(at('missing.onnx'), 0)).toBeNull();
  });
});

describe('damaged files', () => {
  const MUTATIONS = 600;
  const pick = <T>(rng: Rng, list: readonly T[]): T => list[rng.int(list.length)] as T;
  const HOSTILE = [
    0n,
    127n,
    128n,
    2n ** 31n - 1n,
    2n ** 31n,
    2n ** 32n - 1n,
    2n ** 32n + 8n,
    2n ** 63n,
    2n ** 64n - 1n,
  ];

  function mutate(bytes: Buffer, rng: Rng): Buffer {
    const copy = Buffer.from(bytes);
    const place = rng.int(copy.length);
    const cut = (from: number, to: number, ...between: Buffer[]) =>
      Buffer.concat([copy.subarray(0, from), ...between, copy.subarray(to)]);
    switch (rng.int(6)) {
      case 0:
        copy[place] = (copy[place] as number) ^ (1 << rng.int(8));
        return copy;
      case 1:
        copy[place] = rng.int(256);
        return copy;
      case 2:
        return copy.subarray(0, place);
      case 3:
        return cut(place, place + 1, encodeVarint(pick(rng, HOSTILE)));
      case 4:
        return cut(place, place, copy.subarray(place, place + rng.int(100)));
      default:
        return cut(place, place + 1 + rng.int(30));
    }
  }

  test(`${MUTATIONS} mutations are read alike`, () => {
    const rng = makeRng(20_260_202);
    const small = sharedModels('models', 'odd').filter((name) => statSync(path.join(SHARED, name)).size < 20_000);
    const files = small.map((name) => readFileSync(path.join(SHARED, name))).filter((bytes) => bytes.length > 0);
    // Mostly structure, so that mutations hit lengths and tags.
    files.push(usual(), readFileSync(path.join(REPOSITORY, 'models/lenet.onnx')));
    let taken = 0;
    for (let i = 0; i < MUTATIONS; i++) {
      const bytes = i % 2 ? usual() : pick(rng, files);
      if (agree(put(mutate(bytes, rng)))) taken++;
    }
    expect(taken).toBeGreaterThan(MUTATIONS / 10);
  });
});
