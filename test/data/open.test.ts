import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { parseNormalize } from '../../src/data/normalize.ts';
import { DATA_FORMATS, makeSelection, openDataset, parseDataSpec, usualNormalize } from '../../src/data/open.ts';
import { writeNpy } from '../support/arrays.ts';
import { sharedData, sharedDataMissing } from '../support/data.ts';
import { failure, failureOf, readAll } from '../support/datasets.ts';

const base = mkdtempSync(path.join(tmpdir(), 'sisyphus open é: '));
afterAll(() => rmSync(base, { recursive: true }));

describe('parseDataSpec', () => {
  it('takes everything after the first colon as the path', () => {
    expect(parseDataSpec('mnist:/data/my sets: 1/x')).toEqual({ name: 'mnist', path: '/data/my sets: 1/x' });
    expect(parseDataSpec('npz:C:\\data\\x.npz')).toEqual({ name: 'npz', path: 'C:\\data\\x.npz' });
    expect(parseDataSpec('npz: x\ny')).toEqual({ name: 'npz', path: ' x\ny' });
    expect(parseDataSpec('cifar10:~/data')).toEqual({ name: 'cifar10', path: `${homedir()}/data` });
    expect(parseDataSpec('cifar10:~')).toEqual({ name: 'cifar10', path: homedir() });
    expect(parseDataSpec('cifar10:~other/data')).toEqual({ name: 'cifar10', path: '~other/data' });
    for (const text of ['synthetic', 'synthetic:'])
      expect(parseDataSpec(text)).toEqual({ name: 'synthetic', path: '' });
    expect(parseDataSpec('synthetic:3x8x8').path).toBe('3x8x8');
  });

  it.each([
    ['cifar-10:/data', /no such data set; give NAME:PATH; did you mean 'cifar10'\?$/],
    ['MNIST:/data', /did you mean 'mnist'\?$/],
    ['fashion_mnist:x', /did you mean 'fashion-mnist'\?$/],
    ['/data/x.npz', /no such data set; give NAME:PATH; known: mnist, .*, synthetic$/],
    ['', /no such data set; give NAME:PATH; known: /],
    [':x', /no such data set; give NAME:PATH; known: /],
    ['constructor:x', /no such data set/],
    ['mnist', /no path; give mnist:FOLDER \(IDX files/],
    ['cifar10:', /no path; give cifar10:FOLDER\|FILE \(binary version/],
  ])("not '%s'", async (text, expected) => {
    const message = await failure(() => parseDataSpec(text));
    expect(message.startsWith(`spec: --data '${text}': `)).toBe(true);
    expect(message).toMatch(expected);
    expect(await failure(() => openDataset(text, {}))).toBe(message);
  });

  it('every data set has a usual normalization', async () => {
    for (const [name, format] of DATA_FORMATS) {
      expect(usualNormalize(name)).toBe(format.normalize);
      expect(() => parseNormalize(format.normalize)).not.toThrow();
    }
    expect(await failure(() => usualNormalize('mnistt'))).toMatch(/^spec: .*did you mean 'mnist'/);
  });
});

describe('openDataset', () => {
  it.skipIf(sharedDataMissing)('opens every set by its name', async () => {
    const folder = sharedData('mnist', 'cifar10', 'cifar100');
    for (const name of ['mnist', 'cifar10', 'cifar100']) {
      const dataset = await openDataset(`${name}:${path.join(folder, name)}`, {});
      expect(dataset).toMatchObject({ name, split: 'test', length: 10_000 });
    }
    const same = await openDataset(`fashion-mnist:${path.join(folder, 'mnist')}`, { split: 'train' });
    expect(same).toMatchObject({ name: 'fashion-mnist', split: 'train', length: 60_000 });
  });

  it('resizes', async () => {
    const plain = await openDataset('synthetic:3x8x8', {});
    const dataset = await openDataset('synthetic:3x8x8', { resize: { short: 6, crop: 4 } });
    expect(dataset).toMatchObject({ shape: [3, 4, 4], elem: 'pixels', length: plain.length });
    expect((await readAll(dataset, { select: { count: 3 } })).labels).toEqual([0, 1, 2]);
    const file = path.join(base, 'a: b.npy');
    writeNpy(file, [2, 5], new Float32Array(10));
    expect((await openDataset(`npz:${file}`, {})).layout).toBe('plain');
    const refused = await failureOf(() => openDataset(`npz:${file}`, { resize: { height: 2, width: 2 } }));
    expect(refused).toMatch(/^usage: --resize 2x2: the rows of .*a: b\.npy are \[5\], not images; leave it out$/);
  });

  it('refuses what is not there, empty or something else, in every format', async () => {
    const empty = path.join(base, 'empty');
    mkdirSync(empty);
    const text = path.join(base, 'text');
    writeFileSync(text, 'some text\n'.repeat(100));
    const nothing = path.join(base, 'nothing');
    writeFileSync(nothing, '');
    for (const name of DATA_FORMATS.keys())
      if (name !== 'synthetic')
        for (const source of [path.join(base, 'none'), path.join(text, 'below'), empty, text, nothing, '/dev/null']) {
          const message = await failureOf(() => openDataset(`${name}:${source}`, {}));
          expect(message).toMatch(/^(data|file): /);
          expect(message).toContain(source);
        }
  });
});

describe('makeSelection', () => {
  it('is the first rows without a seed, and all without a limit', async () => {
    expect(makeSelection(10, {})).toEqual({ count: 10 });
    expect(makeSelection(10, { limit: 3 })).toEqual({ count: 3 });
    expect(makeSelection(10, { limit: 30 })).toEqual({ count: 10 });
    expect(makeSelection(10, { limit: 0 })).toEqual({ count: 0 });
    expect(makeSelection(10, { seed: 1 })).toEqual({ count: 10 });
    expect(makeSelection(10, { seed: 1, limit: 10 })).toEqual({ count: 10 });
    for (const limit of [-1, 1.5, Number.POSITIVE_INFINITY])
      expect(await failure(() => makeSelection(10, { limit }))).toMatch(/^usage: a limit of .* rows: .* whole number/);
  });

  it('is a sorted sample without repetition, the same for the same seed', () => {
    const property = fc.property(
      fc.integer({ min: 1, max: 500 }),
      fc.integer({ min: 0, max: 500 }),
      fc.integer({ min: 0, max: 2 ** 53 - 1 }),
      (length, limit, seed) => {
        const selection = makeSelection(length, { limit, seed });
        expect(makeSelection(length, { limit, seed })).toEqual(selection);
        if (limit >= length) {
          expect(selection).toEqual({ count: length });
          return;
        }
        const indices = 'indices' in selection ? [...selection.indices] : [];
        expect(indices.length).toBe(limit);
        expect([...new Set(indices)].sort((a, b) => a - b)).toEqual(indices);
        expect(indices.every((index) => index >= 0 && index < length)).toBe(true);
      },
    );
    fc.assert(property, { numRuns: 300, seed: 1 });
    expect(makeSelection(1000, { limit: 5, seed: 1 })).not.toEqual(makeSelection(1000, { limit: 5, seed: 2 }));
  });

  it('takes every row, and every pair of rows, equally often', () => {
    const [length, limit, times] = [12, 4, 6000];
    const singles = Array(length).fill(0);
    const pairs = new Map<string, number>();
    for (let seed = 0; seed < times; seed++) {
      const selection = makeSelection(length, { limit, seed });
      const indices = 'indices' in selection ? [...selection.indices] : [];
      for (const i of indices) {
        singles[i]++;
        for (const j of indices) if (i < j) pairs.set(`${i},${j}`, (pairs.get(`${i},${j}`) ?? 0) + 1);
      }
    }
    const within = (counts: readonly number[], chance: number) => {
      const deviation = Math.sqrt(times * chance * (1 - chance));
      for (const count of counts) expect(Math.abs(count - times * chance)).toBeLessThan(5 * deviation);
    };
    within(singles, limit / length);
    expect(pairs.size).toBe(66);
    within([...pairs.values()], (limit * (limit - 1)) / (length * (length - 1)));
  });
});
