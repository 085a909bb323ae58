import { createWriteStream, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip, gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';
import { beforeEach, describe, expect, it } from 'vitest';
import { openCifar10, openCifar100 } from '../../src/data/cifar.ts';
import type { DatasetOptions } from '../../src/data/dataset.ts';
import { makeRng } from '../../src/rng.ts';
import { sharedData, sharedDataMissing } from '../support/data.ts';
import {
  type AllRows,
  expectClosed,
  expectCloses,
  expectSelections,
  failure,
  failureOf,
  readAll,
  survey,
} from '../support/datasets.ts';
import { testFolder } from '../support/folder.ts';

const { base, fresh } = testFolder('cifar');
let root = '';
beforeEach(() => {
  root = fresh();
});

const at = (...names: string[]) => path.join(root, ...names);
const save = (name: string, bytes: Uint8Array | string) => {
  mkdirSync(path.dirname(at(name)), { recursive: true });
  writeFileSync(at(name), bytes);
  return at(name);
};
const failed10 = async (source = root, options: DatasetOptions = {}) =>
  (await failureOf(() => openCifar10(source, options))).replaceAll(root, 'ROOT');
const failed100 = async (source = root, options: DatasetOptions = {}) =>
  (await failureOf(() => openCifar100(source, options))).replaceAll(root, 'ROOT');

/** Entries in the order given; names that end with / are folders. */
async function tar(file: string, entries: readonly (readonly [string, Uint8Array | string])[], gzip = true) {
  const archive = pack();
  const target = createWriteStream(file);
  const written = gzip ? pipeline(archive, createGzip({ level: 1 }), target) : pipeline(archive, target);
  for (const [name, bytes] of entries)
    if (name.endsWith('/')) archive.entry({ name, type: 'directory' });
    else archive.entry({ name }, Buffer.from(bytes));
  archive.finalize();
  await written;
  return file;
}

/** Records with these labels and random pixels. */
function records(seed: number, labels: readonly (readonly number[])[]): Buffer {
  const rng = makeRng(seed);
  const pixels = () => Uint8Array.from({ length: 3072 }, () => rng.int(256));
  return Buffer.concat(labels.flatMap((each) => [Uint8Array.from(each), pixels()]));
}

function expectedRows(bytes: Uint8Array, labelBytes: number): AllRows {
  const size = labelBytes + 3072;
  const starts = Array.from({ length: bytes.length / size }, (_, i) => i * size);
  return {
    rows: starts.map((start) => [...bytes.subarray(start + labelBytes, start + size)]),
    labels: starts.map((start) => bytes[start + labelBytes - 1] ?? -1),
    counts: [],
    firsts: [],
  };
}

const TRAIN = [1, 2, 3, 4, 5].map((i) => records(i, [[i], [9 - i], [0]].slice(0, 1 + (i % 3))));
const TEST = records(6, [[3], [8], [0], [9], [6]]);
const TEST100 = records(7, [
  [0, 99],
  [19, 0],
  [7, 55],
  [3, 4],
]);
const NAMES = 'airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n';

describe.skipIf(sharedDataMissing)('the real files', () => {
  it('hold 1000 test images of each class of CIFAR-10, and 5000 for training', async () => {
    const folder = path.join(sharedData('cifar10'), 'cifar10');
    const test = await openCifar10(folder, {});
    expect(test).toMatchObject({
      name: 'cifar10',
      source: folder,
      split: 'test',
      length: 10_000,
      shape: [3, 32, 32],
      layout: 'chw',
      elem: 'uint8',
      classes: 10,
      classNames: NAMES.trim().split('\n'),
    });
    const found = await survey(test);
    expect(found.histogram).toEqual(Array(10).fill(1000));
    const train = await openCifar10(folder, { split: 'train' });
    expect(train.length).toBe(50_000);
    expect((await survey(train)).histogram).toEqual(Array(10).fill(5000));
    const bytes = readFileSync(path.join(folder, 'test_batch.bin'));
    expect(found.first).toEqual([...bytes.subarray(1, 3073)]);
    // Row 20,001 is record 1 of the third file.
    const third = readFileSync(path.join(folder, 'data_batch_3.bin'));
    const { rows, labels } = await readAll(train, { select: { indices: Int32Array.of(20_001) } });
    expect(rows).toEqual([[...third.subarray(3074, 6146)]]);
    expect(labels).toEqual([third[3073]]);
  });

  it('hold 100 test images of each fine class of CIFAR-100', async () => {
    const folder = path.join(sharedData('cifar100'), 'cifar100');
    const dataset = await openCifar100(folder, {});
    expect(dataset).toMatchObject({ name: 'cifar100', length: 10_000, shape: [3, 32, 32], classes: 100 });
    expect(dataset.classNames?.[0]).toBe('apple');
    expect(dataset.classNames?.length).toBe(100);
    const { histogram, first } = await survey(dataset);
    expect(histogram).toEqual(Array(100).fill(100));
    const handle = await openFile(path.join(folder, 'test.bin'));
    const { buffer } = await handle.read(Buffer.alloc(3074), 0, 3074, 0);
    await handle.close();
    expect(first).toEqual([...buffer.subarray(2)]);
    expect(await failure(() => openCifar10(folder, {}))).toMatch(/^data: .*: holds CIFAR-100; give --data cifar100:/);
    expect(await failure(() => openCifar10(path.join(folder, 'test.bin'), {}))).toMatch(
      /^data: .*test\.bin: its 30740000 bytes are records of CIFAR-100, not of CIFAR-10; give --data cifar100:PATH/,
    );
    expect(await failure(() => openCifar100(folder, { split: 'train' }))).toMatch(
      /^file: .*: holds no train files of CIFAR-100/,
    );
  });

  it('give the same rows from an archive', async () => {
    const folder = path.join(sharedData('cifar10'), 'cifar10');
    const bytes = readFileSync(path.join(folder, 'test_batch.bin')).subarray(0, 3073 * 100);
    const loose = await readAll(await openCifar10(save('test_batch.bin', bytes), {}));
    const archive = await tar(at('cifar-10-binary.tar.gz'), [
      ['cifar-10-batches-bin/', ''],
      ['cifar-10-batches-bin/test_batch.bin', bytes],
    ]);
    expect(await readAll(await openCifar10(archive, {}))).toEqual(loose);
  });
});

describe('rows', () => {
  it('are those selected, over all files of the split', async () => {
    for (const [i, bytes] of TRAIN.entries()) save(`data_batch_${i + 1}.bin`, bytes);
    save('batches.meta.txt', NAMES.replaceAll('\n', '\r\n'));
    const dataset = await openCifar10(root, { split: 'train' });
    expect(dataset).toMatchObject({ length: 11, classNames: NAMES.trim().split('\n') });
    await expectSelections(dataset, expectedRows(Buffer.concat(TRAIN), 1));
    await expectCloses(dataset, base);
  });

  it('are those selected, in an archive of any order', async () => {
    const entries = TRAIN.map((bytes, i) => [`x/data_batch_${i + 1}.bin`, bytes] as const);
    const others = [
      ['x/', ''],
      ['x/readme.html', 'nothing'],
      ['x/batches.meta.txt', NAMES],
      ['x/test_batch.bin', TEST],
    ] as const;
    const expected = expectedRows(Buffer.concat(TRAIN), 1);
    for (const [gzip, order] of [
      [true, [...others, ...entries]],
      [false, [...entries].reverse()],
    ] as const) {
      const file = await tar(at(`any ${gzip}`), order, gzip);
      const dataset = await openCifar10(file, { split: 'train' });
      expect(dataset.classNames?.[9]).toBe(gzip ? 'truck' : undefined);
      await expectClosed(base);
      await expectSelections(dataset, expected, 15);
      await expectCloses(dataset, base);
    }
  });

  it('have the fine labels of CIFAR-100', async () => {
    save('test.bin', TEST100);
    save('fine_label_names.txt', 'too\nfew\n');
    const dataset = await openCifar100(root, {});
    expect(dataset.classNames).toBeUndefined();
    await expectSelections(dataset, expectedRows(TEST100, 2), 20);
    const archive = await openCifar100(await tar(at('a.tgz'), [['test.bin', TEST100]]), {});
    await expectSelections(archive, expectedRows(TEST100, 2), 15);
  });

  it('are found in the folder around the files, and in the archive inside a folder', async () => {
    const { rows } = expectedRows(TEST, 1);
    save('a/cifar-10-batches-bin/test_batch.bin', TEST);
    expect((await readAll(await openCifar10(at('a'), {}))).rows).toEqual(rows);
    mkdirSync(at('b'));
    await tar(at('b/cifar-10-binary.tar.gz'), [['cifar-10-batches-bin/test_batch.bin', TEST]]);
    expect((await readAll(await openCifar10(at('b'), {}))).rows).toEqual(rows);
    mkdirSync(at('c'));
    await tar(at('c/cifar-100-binary.tar'), [['cifar-100-binary/test.bin', TEST100]], false);
    expect((await openCifar100(at('c'), {})).length).toBe(4);
    save('odd name', TEST);
    expect((await readAll(await openCifar10(at('odd name'), {}))).rows).toEqual(rows);
  });
});

describe('what is wrong is named', () => {
  it('missing files', async () => {
    expect(await failed10(at('none'))).toBe('file: ROOT/none: no such file or folder');
    expect(await failed10()).toMatch(/^file: ROOT: holds no test files of CIFAR-10: looked for test_batch\.bin, there/);
    for (const i of [1, 2, 4]) save(`data_batch_${i}.bin`, TEST);
    expect(await failed10(root, { split: 'train' })).toBe('file: ROOT: lacks data_batch_3.bin, data_batch_5.bin');
    save('test_batch.bin', TEST);
    const dataset = await openCifar10(root, {});
    rmSync(at('test_batch.bin'));
    expect(await failure(() => readAll(dataset))).toMatch(/^file: .*test_batch\.bin: no such file/);
  });

  it('files of a wrong size', async () => {
    expect(await failed10(save('test_batch.bin', ''))).toBe('data: ROOT/test_batch.bin: is empty; download it again');
    expect(await failed10(save('test_batch.bin', TEST.subarray(0, -1)))).toMatch(
      /^data: ROOT\/test_batch\.bin: its 15364 bytes are 4 records of 3073 bytes and 3072 bytes more; it is cut off/,
    );
    expect(await failed10(save('test_batch.bin', TEST100))).toMatch(
      /records of CIFAR-100, .* give --data cifar100:PATH/,
    );
    expect(await failed100(save('test.bin', TEST))).toMatch(/records of CIFAR-10, .* give --data cifar10:PATH/);
    expect(await failed100(save('test.bin', '<html>'))).toMatch(
      /^data: .*its 6 bytes are 0 records .* no CIFAR-100 file/,
    );
  });

  it('files that shrink or grow after they were opened', async () => {
    const file = save('test_batch.bin', TEST);
    const dataset = await openCifar10(file, {});
    save('test_batch.bin', TEST.subarray(0, -3073));
    expect(await failure(() => readAll(dataset))).toMatch(/^data: .*test_batch\.bin: ends after 12292 bytes/);
    save('test_batch.bin', Buffer.concat([TEST, TEST]));
    expect(await failure(() => readAll(dataset))).toMatch(/^data: .*test_batch\.bin: more bytes follow/);
  });

  it('labels, in the file and record that they are in', async () => {
    for (const [i, bytes] of TRAIN.entries()) save(`data_batch_${i + 1}.bin`, bytes);
    const bad = Buffer.from(TRAIN[4] ?? []);
    bad[3073] = 10;
    save('data_batch_5.bin', bad);
    expect(await failed10(root, { split: 'train' })).toMatch(
      /^data: ROOT\/data_batch_5\.bin: record 1 \(byte 3073\): label 10 is above 9: .*CIFAR-100 \(cifar100:\)/,
    );
    const of = (coarse: number, fine: number) => failed100(save('test.bin', records(1, [[coarse, fine]])));
    expect(await of(20, 5)).toMatch(/^data: ROOT\/test\.bin: record 0 \(byte 0\): coarse label 20 is above 19/);
    expect(await of(0, 100)).toMatch(/record 0 \(byte 0\): fine label 100 is above 99/);
    const archive = await tar(at('a.tgz'), [['test_batch.bin', bad]]);
    expect(await failed10(archive)).toMatch(/^data: ROOT\/a\.tgz: test_batch\.bin: record 1/);
  });

  it('the other data set', async () => {
    save('test_batch.bin', TEST);
    save('c/test.bin', TEST100);
    expect(await failed100()).toBe('data: ROOT: holds CIFAR-10; give --data cifar10:ROOT');
    expect(await failed10(at('c'))).toBe('data: ROOT/c: holds CIFAR-100; give --data cifar100:ROOT/c');
    await tar(at('a.tgz'), [['cifar-100-binary/test.bin', TEST100]]);
    expect(await failed10(at('a.tgz'))).toBe('data: ROOT/a.tgz: holds CIFAR-100; give --data cifar100:ROOT/a.tgz');
  });

  it('the pickled version', async () => {
    mkdirSync(at('cifar-10-batches-py'));
    expect(await failed10()).toMatch(
      /^data: ROOT\/cifar-10-batches-py: is the Python version of CIFAR-10, .* get the binary version, cifar-10-binary\.tar\.gz$/,
    );
    save('p/test', '\x80\x02}');
    expect(await failed100(at('p'))).toMatch(/^data: ROOT\/p\/test: is the Python version/);
    writeFileSync(at('batch'), Buffer.of(0x80, 2, 0x7d));
    expect(await failed10(at('batch'))).toMatch(/^data: ROOT\/batch: is the Python version of CIFAR-10/);
    await tar(at('a.tgz'), [['cifar-10-batches-py/test_batch', 'x']]);
    expect(await failed10(at('a.tgz'))).toMatch(/^data: ROOT\/a\.tgz: is the Python version/);
  });

  it('archives without the files', async () => {
    await tar(at('a.tgz'), [['b/test_batch.bin', TEST]]);
    expect(await failed10(at('a.tgz'), { split: 'train' })).toMatch(
      /^data: ROOT\/a\.tgz: lacks data_batch_1\.bin, .*; it holds test_batch\.bin$/,
    );
    await tar(at('b.tgz'), [['test_batch.bin', TEST.subarray(5)]]);
    expect(await failed10(at('b.tgz'))).toMatch(/^data: ROOT\/b\.tgz: test_batch\.bin: its 15360 bytes are 4 records/);
    await tar(at('c.tgz'), []);
    expect(await failed10(at('c.tgz'))).toMatch(/^data: ROOT\/c\.tgz: lacks test_batch\.bin; it holds nothing/);
    await tar(at('d.tgz'), [['test_batch.bin', '']]);
    expect(await failed10(at('d.tgz'))).toMatch(/^data: ROOT\/d\.tgz: test_batch\.bin: is empty/);
  });

  it('archives that are cut off or corrupt', async () => {
    await tar(at('whole.tar.gz'), [['test_batch.bin', TEST]]);
    await tar(at('whole.tar'), [['test_batch.bin', TEST]], false);
    for (const name of ['whole.tar.gz', 'whole.tar']) {
      const whole = readFileSync(at(name));
      for (const part of [0.1, 0.5, 0.8]) {
        const cut = save('cut', whole.subarray(0, Math.floor(part * whole.length)));
        expect(await failed10(cut)).toMatch(/^data: ROOT\/cut: .*(end too early|no complete tar archive)/);
        await expectClosed(base);
      }
    }
    const whole = readFileSync(at('whole.tar.gz'));
    for (let i = 10; i < whole.length; i += 997) {
      const bytes = Buffer.from(whole);
      bytes[i] = (bytes[i] ?? 0) ^ 0xff;
      expect(await failed10(save('corrupt', bytes))).toMatch(/^data: ROOT\/corrupt: /);
    }
    expect(await failed10(save('one.gz', gzipSync(TEST)))).toMatch(/^data: ROOT\/one\.gz: /);
    await expectClosed(base);
  });

  it('an archive that changed after it was opened', async () => {
    const file = await tar(at('a.tar'), [['test_batch.bin', TEST]], false);
    const dataset = await openCifar10(file, {});
    await tar(at('a.tar'), [['other', TEST]], false);
    expect(await failure(() => readAll(dataset))).toMatch(/^data: .*a\.tar: no longer holds test_batch\.bin/);
    rmSync(file);
    expect(await failure(() => readAll(dataset))).toMatch(/^file: .*a\.tar: no such file/);
  });

  it('the signal stops the reading of an archive', async () => {
    await tar(at('a.tgz'), [['test_batch.bin', TEST]]);
    expect(await failed10(at('a.tgz'), { signal: AbortSignal.abort() })).toBe('aborted: interrupted');
    await expectClosed(base);
  });
});
