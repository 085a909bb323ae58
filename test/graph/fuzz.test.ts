import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { SisyphusError } from '../../src/errors.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import { parseModel } from '../../src/graph/read.ts';
import { rawBytes, toNumbers } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { callCounts } from '../../src/graph/walk.ts';
import { encode, serialize } from '../../src/graph/write.ts';
import { makeRng, type Rng } from '../../src/rng.ts';
import { REPOSITORY, SHARED, sharedModels } from '../support/shared.ts';
import { encodeVarint, field } from '../support/wire.ts';

const MUTATIONS = 2_400;
/** Generous: a mutated file of this size takes a few milliseconds. */
const LONGEST_MS = 2_000;
const MEMORY = 512 * 2 ** 20;

/** Everything that the graph layer does to a file before any pass runs. @returns whether it took the file */
function exercise(bytes: Uint8Array): boolean {
  try {
    const model = parseModel(bytes);
    verify(model);
    callCounts(model);
    for (const { tensor } of model.graph.initializers.slice(0, 40)) {
      attempt(() => rawBytes(tensor));
      attempt(() => toNumbers(tensor));
    }
    const written = Buffer.concat(encode(model));
    encode(cloneModel(model));
    // What was taken can be read again, and is then stable.
    expect(Buffer.from(serialize(parseModel(written))).equals(written)).toBe(true);
    return true;
  } catch (cause) {
    if (cause instanceof SisyphusError && cause.code !== 'internal') return false;
    throw cause;
  }
}

function attempt(action: () => unknown): void {
  try {
    action();
  } catch (cause) {
    if (!(cause instanceof SisyphusError)) throw cause;
  }
}

const HOSTILE = [0n, 127n, 128n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 64n - 1n];
const pick = <T>(rng: Rng, list: readonly T[]): T => list[rng.int(list.length)] as T;

type Mutation = (bytes: Buffer, rng: Rng, other: Buffer) => Buffer;
const MUTATORS: Record<string, Mutation> = {
  flip(bytes, rng) {
    const copy = Buffer.from(bytes);
    for (let n = 1 + rng.int(8); n > 0; n--) {
      const at = rng.int(copy.length);
      copy[at] = (copy[at] as number) ^ (1 << rng.int(8));
    }
    return copy;
  },
  overwrite(bytes, rng) {
    const copy = Buffer.from(bytes);
    for (let n = 1 + rng.int(16), at = rng.int(copy.length); n > 0; n--) copy[(at + n) % copy.length] = rng.int(256);
    return copy;
  },
  truncate: (bytes, rng) => bytes.subarray(0, rng.int(bytes.length)),
  /** A length or a number becomes a hostile one. */
  varint(bytes, rng) {
    const at = rng.int(bytes.length);
    return Buffer.concat([bytes.subarray(0, at), encodeVarint(pick(rng, HOSTILE)), bytes.subarray(at + 1)]);
  },
  splice(bytes, rng, other) {
    const from = rng.int(other.length);
    const at = rng.int(bytes.length);
    const piece = other.subarray(from, from + rng.int(200));
    return Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at + rng.int(200))]);
  },
  duplicate(bytes, rng) {
    const from = rng.int(bytes.length);
    const piece = bytes.subarray(from, from + rng.int(400));
    return Buffer.concat([bytes.subarray(0, from), piece, piece, bytes.subarray(from)]);
  },
  /** The whole file twice, cut somewhere: messages merge. */
  merge: (bytes, rng, other) =>
    Buffer.concat([bytes, other.subarray(0, rng.int(2) ? other.length : rng.int(other.length))]),
  remove(bytes, rng) {
    const from = rng.int(bytes.length);
    return Buffer.concat([bytes.subarray(0, from), bytes.subarray(from + 1 + rng.int(60))]);
  },
};

/** Most of a model's bytes are weights, where mutations change little: large runs of them are cut down. */
function corpus(): { name: string; bytes: Buffer }[] {
  const small = sharedModels('models', 'odd').filter((name) => statSync(path.join(SHARED, name)).size < 60_000);
  const files = small.map((name) => ({ name, bytes: readFileSync(path.join(SHARED, name)) }));
  files.push({ name: 'lenet', bytes: readFileSync(path.join(REPOSITORY, 'models/lenet.onnx')) });
  return files.filter(({ bytes }) => bytes.length > 0);
}

/** Milliseconds that this process has computed: other work on the machine does not count. */
const cpuTime = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

describe('damaged files', () => {
  test(`${MUTATIONS} mutations are read and written, or refused in words`, { timeout: 60_000 }, () => {
    const rng = makeRng(20_260_101);
    const files = corpus();
    const kinds = Object.entries(MUTATORS);
    const taken = new Map(kinds.map(([kind]) => [kind, 0]));
    let longest = { ms: 0, what: '' };
    for (let i = 0; i < MUTATIONS; i++) {
      const { name, bytes } = files[i % files.length] as (typeof files)[number];
      const [kind, mutate] = pick(rng, kinds);
      const mutated = mutate(bytes, rng, pick(rng, files).bytes);
      const what = `mutation ${i} (${kind}) of ${name}`;
      const start = cpuTime();
      let accepted = false;
      try {
        accepted = exercise(mutated);
      } catch (cause) {
        throw new Error(`${what}: ${(cause as Error).stack}`, { cause });
      }
      const ms = cpuTime() - start;
      if (ms > longest.ms) longest = { ms, what };
      if (accepted) taken.set(kind, (taken.get(kind) ?? 0) + 1);
      expect(process.memoryUsage().arrayBuffers, what).toBeLessThan(MEMORY);
    }
    expect(longest.ms, longest.what).toBeLessThan(LONGEST_MS);
    // Else the mutations would test nothing but the decoder's first check.
    expect([...taken.values()].reduce((a, b) => a + b)).toBeGreaterThan(MUTATIONS / 20);
  });
});

describe('hostile files', () => {
  const io = (name: string) => field(1, name);
  const model = (graph: Buffer[], ...rest: Buffer[]) =>
    Buffer.concat([
      field(1, 8),
      field(7, Buffer.concat([field(2, 'g'), ...graph])),
      field(8, Buffer.concat([field(1, ''), field(2, 17)])),
      ...rest,
    ]);
  const node = (op: string, inputs: string[], outputs: string[], ...rest: Buffer[]) =>
    field(
      1,
      Buffer.concat([...inputs.map((x) => field(1, x)), ...outputs.map((x) => field(2, x)), field(4, op), ...rest]),
    );
  const timed = (bytes: Buffer) => {
    const start = cpuTime();
    const accepted = exercise(bytes);
    expect(cpuTime() - start).toBeLessThan(5_000);
    return accepted;
  };

  test.each([50, 120, 2_000])('%i graphs inside each other', (depth) => {
    let graph = Buffer.concat([field(2, 'g')]);
    for (let i = 0; i < depth; i++)
      graph = Buffer.concat([node('If', [], ['y'], field(5, Buffer.concat([field(1, 'b'), field(6, graph)]))), io('')]);
    expect(timed(field(7, graph))).toBe(false); // `If` graphs count three levels each
  });
  test('30 graphs inside each other are fine', () => {
    let graph = field(2, 'g');
    for (let i = 0; i < 30; i++)
      graph = Buffer.concat([node('If', [], ['y'], field(5, Buffer.concat([field(1, 'b'), field(6, graph)])))]);
    expect(timed(field(7, graph))).toBe(true);
  });

  test('deep groups of unknown fields', () => {
    const open = encodeVarint((1000n << 3n) | 3n);
    const close = encodeVarint((1000n << 3n) | 4n);
    for (const depth of [10, 100_000]) {
      const groups = Buffer.concat([...Array(depth).fill(open), ...Array(depth).fill(close)]);
      expect(timed(Buffer.concat([model([]), groups]))).toBe(depth === 10);
    }
  });

  test('a chain of 10,000 functions, and one that closes', () => {
    const name = (i: number) => `f${i}`;
    const chain = (last: string) =>
      Array.from({ length: 10_000 }, (_, i) => {
        const next = i === 9_999 ? last : name(i + 1);
        const call = field(7, node(next, [], ['o'], field(7, 'd')).subarray(2));
        return field(25, Buffer.concat([field(1, name(i)), field(5, 'o'), call, field(10, 'd')]));
      });
    expect(timed(model([node('f0', [], ['y'], field(7, 'd'))], ...chain('Relu')))).toBe(true);
    const cyclic = model([node('f0', [], ['y'], field(7, 'd'))], ...chain('f5'));
    expect(verify(parseModel(cyclic))).toContain('the function d.f5 calls itself');
  });

  test('150,000 problems', () => {
    const bytes = model([node('Concat', Array(150_000).fill('nowhere'), ['y']), node('Sum', [], ['z'])]);
    expect(timed(bytes)).toBe(true);
    expect(verify(parseModel(bytes)).length).toBeGreaterThanOrEqual(150_000);
    const names = Array.from({ length: 50_000 }, (_, i) => `n${i}`);
    expect(timed(model([node('Concat', names, ['y'])]))).toBe(true);
  });

  test('10,000 initializers, each twice', () => {
    const tensors = Array.from({ length: 20_000 }, (_, i) =>
      field(5, Buffer.concat([field(1, 1), field(2, 1), field(8, `w${i >> 1}`), field(9, Buffer.alloc(4, i & 1))])),
    );
    const bytes = model(tensors);
    expect(timed(bytes)).toBe(true);
    expect(verify(parseModel(bytes)).filter((text) => text.includes('different data'))).toHaveLength(10_000);
  });

  test('a long chain of nodes in reverse order', () => {
    const nodes = Array.from({ length: 10_000 }, (_, i) => node('Relu', [`x${i}`], [`x${i + 1}`]));
    const bytes = model([field(11, io('x0')), ...nodes.reverse(), field(12, io('x10000'))]);
    expect(timed(bytes)).toBe(true);
    expect(verify(parseModel(bytes))).toEqual([]);
  });

  test('lengths beyond the file', () => {
    for (const length of HOSTILE.slice(3))
      expect(timed(Buffer.concat([model([]), encodeVarint(58n), encodeVarint(length), Buffer.alloc(9)]))).toBe(false);
  });
});
