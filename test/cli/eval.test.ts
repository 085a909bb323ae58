import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { percentage } from '../../src/cli/eval.ts';
import { buildModel } from '../../src/graph/build.ts';
import { readModel } from '../../src/graph/read.ts';
import { npyData, saveModel, testFolder } from '../support/arrays.ts';
import { signalAfter, sisyphus } from '../support/cli.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
process.chdir(folder);
copyFileSync(path.join(REPOSITORY, 'models/lenet.onnx'), 'le net.onnx');
const DATA = ['--data', 'synthetic', '--limit', '40'];

/** The data are the logits. */
function echo(name: string, classes = 3): string {
  const g = buildModel({ name: 'g', opset: 17 });
  g.output(g.node('Identity', [g.input('x', 'float', ['N', classes])]), 'y', 'float', ['N', classes]);
  return path.basename(saveModel(folder, name, g.model));
}
const model = echo('echo');
const rows = Float32Array.from([1, 0, 0, 0, 1, 0, Number.NaN, 0, 0, 0, 0, Infinity]);
npyData(folder, 'rows', [4, 3], rows, [0, 0, 0, 0]);

describe('eval', () => {
  it('prints a table', async () => {
    const { code, out, err } = await sisyphus(['eval', model, '--data', 'npz:rows.npy']);
    expect([code, err]).toEqual([0, '']);
    expect(out).toMatch(/model +top-1 % +top-5 % +NaN +Inf +images +images\/s/);
    expect(out).toMatch(/echo\.onnx +25\.00 \(50\.00\) +50\.00 \(100\.00\) +1 +1 +4 +[\d,]+/);
    expect(out).toContain('no --normalize, and the model records none');
    const quiet = await sisyphus(['eval', model, '--data', 'npz:rows.npy', '-q']);
    expect(quiet.out.split('\n').filter((line) => line.trim() !== '')).toHaveLength(2);
  });

  it('--json prints the document that scripts rely on, and nothing else', async () => {
    const { code, out, err } = await sisyphus(['eval', model, '--data', 'npz:rows.npy', '--json']);
    expect(code).toBe(0);
    const { models } = JSON.parse(out);
    expect(models).toHaveLength(1);
    expect(models[0]).toMatchObject({
      path: 'echo.onnx',
      top1: 0.25,
      top5: 0.5,
      top1Finite: 0.5,
      nonFinite: 2,
      images: 4,
    });
    expect(models[0].imagesPerSecond).toBeGreaterThan(0);
    expect(err).toMatch(/echo\.onnx +25\.00/);
    const quiet = await sisyphus(['eval', model, '--data', 'npz:rows.npy', '--json', '-q']);
    expect(JSON.parse(quiet.out).models[0].top1).toBe(0.25);
    expect(quiet.err).not.toContain('sisyphus');
  });

  it('takes several models', async () => {
    copyFileSync('echo.onnx', 'other.onnx');
    const { code, out } = await sisyphus(['eval', 'echo.onnx', 'other.onnx', '--data', 'npz:rows.npy', '--json']);
    expect(code).toBe(0);
    expect(JSON.parse(out).models.map((each: { path: string }) => each.path)).toEqual(['echo.onnx', 'other.onnx']);
    const { out: text } = await sisyphus(['eval', 'echo.onnx', 'other.onnx', '--data', 'npz:rows.npy', '-q']);
    expect(text).toMatch(/echo\.onnx +25\.00.*\n +other\.onnx +25\.00/);
  });

  it('runs the sample on synthetic data', async () => {
    const { code, out } = await sisyphus(['eval', 'le net.onnx', ...DATA, '--json', '--batch', '16', '--threads', '1']);
    expect(code).toBe(0);
    expect(JSON.parse(out).models[0]).toMatchObject({
      images: 40,
      batch: 16,
      split: 'test',
      data: 'synthetic',
      output: expect.any(String),
    });
  });

  it('--save-preprocessing says what it wrote', async () => {
    copyFileSync('echo.onnx', 'saved.onnx');
    const { out } = await sisyphus([
      'eval',
      'saved.onnx',
      '--data',
      'npz:rows.npy',
      '--normalize',
      'std=2',
      '--save-preprocessing',
    ]);
    expect(out).toContain('recorded the preprocessing in saved.onnx');
    expect(readModel('saved.onnx').metadata.map(({ key }) => key)).toEqual(['sisyphus.preprocessing']);
    expect((await sisyphus(['eval', 'saved.onnx', '--data', 'npz:rows.npy'])).out).toContain('(recorded in the model)');
  });

  it('--report writes a page', async () => {
    const { code, out } = await sisyphus(['eval', model, '--data', 'npz:rows.npy', '--report', 'eval.html']);
    expect(code).toBe(0);
    expect(out).toContain('wrote eval.html');
    expect(readFileSync('eval.html', 'utf8')).toMatch(/^<!doctype html>/i);
  });

  it('refuses to overwrite before the work, not after it', async () => {
    writeFileSync('there.html', 'mine');
    mkdirSync('a folder');
    for (const [file, message] of [
      ['there.html', 'there.html: exists already; give --force'],
      ['a folder', 'a folder: is a folder'],
      ['no/such.html', "there is no folder 'no'"],
    ]) {
      // Neither the model nor the data are there: the report is looked at first.
      const { code, out, err } = await sisyphus([
        'eval',
        'none.onnx',
        '--data',
        'npz:none.npy',
        '--report',
        file as string,
      ]);
      expect([code, out]).toEqual([1, '']);
      expect(err).toContain(message);
    }
    expect(readFileSync('there.html', 'utf8')).toBe('mine');
    const forced = await sisyphus(['eval', model, '--data', 'npz:rows.npy', '--report', 'there.html', '--force']);
    expect(forced.code).toBe(0);
    expect(readFileSync('there.html', 'utf8')).not.toBe('mine');
  });
});

describe('interruption', () => {
  const args = ['eval', 'le net.onnx', '--data', 'synthetic', '--batch', '10', '--limit', '1000', '--json'];

  it('ends with 130, and nothing on stdout', async () => {
    const { code, out, err } = await sisyphus(args, signalAfter(10));
    expect([code, out]).toEqual([130, '']);
    expect(err).toMatch(/error: interrupted\n$/);
  });

  it('--partial prints what was seen, and ends with 130', async () => {
    const { code, out, err } = await sisyphus([...args, '--partial'], signalAfter(10));
    expect(code).toBe(130);
    const [only, ...others] = JSON.parse(out).models;
    expect(others).toEqual([]);
    expect(only).toMatchObject({ partial: true });
    expect(only.images).toBeGreaterThan(0);
    expect(only.images).toBeLessThan(1000);
    expect(err).toMatch(/error: interrupted: the figures cover only the images that are counted above\n$/);
  });
});

describe('mistakes end in one line', () => {
  it.each<[string[], number, string]>([
    [['eval', model], 2, "required option '--data <name:path>' not specified"],
    [['eval', '--data', 'synthetic'], 2, "missing required argument 'models'"],
    [['eval', model, '--data', 'npz:none.npy'], 1, 'none.npy: no such file or folder'],
    [['eval', model, '--data', 'npz'], 2, 'no path'],
    [['eval', model, '--data', 'npz:'], 2, 'no path'],
    [['eval', model, '--data', ''], 2, 'no such data set'],
    [['eval', model, '--data', 'cifer10:x'], 2, "did you mean 'cifar10'?"],
    [['eval', model, '--data', 'synthetic:1x2'], 2, 'channels x height x width'],
    [['eval', 'none.onnx', ...DATA], 1, 'none.onnx: no such file or folder'],
    [['eval', '.', ...DATA], 1, 'is a folder'],
    [['eval', 'rows.npy', ...DATA], 1, 'not an ONNX file'],
    [['eval', model, ...DATA], 2, "its input 'x' takes [N,3], but the rows of synthetic are [N,1,28,28]"],
    [['eval', model, ...DATA, '--limit', '0'], 2, '--limit takes a whole number from 1'],
    [['eval', model, ...DATA, '--limit', '-5'], 2, '--limit takes a whole number from 1'],
    [['eval', model, ...DATA, '--batch', '1e9'], 2, '--batch takes a whole number from 1'],
    [['eval', model, ...DATA, '--batch', 'NaN'], 2, '--batch takes a whole number'],
    [['eval', model, ...DATA, '--seed', '1.5'], 2, '--seed takes a whole number'],
    [['eval', model, ...DATA, '--threads', '0'], 2, '--threads takes a whole number'],
    [['eval', model, ...DATA, '--split', 'valid'], 2, 'Allowed choices are train, test'],
    [['eval', model, ...DATA, '--layout', 'chw'], 2, 'Allowed choices are nchw, nhwc, flat'],
    [['eval', model, ...DATA, '--log-level', 'loud'], 2, 'Allowed choices are verbose'],
    [['eval', model, ...DATA, '--device', 'tpu'], 2, "'tpu' is no device"],
    [['eval', model, ...DATA, '--normalize', 'cifer10'], 2, "did you mean 'cifar10'?"],
    [['eval', model, ...DATA, '--normalize', 'mean=x'], 2, "'x' is not a number"],
    [['eval', model, ...DATA, '--normalize', ''], 2, '--normalize'],
    [['eval', 'le net.onnx', ...DATA, '--normalize', 'cifar10'], 2, 'mean has 3 numbers, but the data have 1 channel'],
    [['eval', model, ...DATA, '--resize', '0x5'], 2, '--resize'],
    [['eval', model, ...DATA, '--resize', 'big'], 2, '--resize'],
    [['eval', model, '--data', 'npz:rows.npy', '--resize', '2x2'], 2, 'resize'],
    [['eval', model, '--data', 'npz:rows.npy', '--logits', 'z'], 2, "has no output 'z'; did you mean 'y'?"],
    [['eval', model, '--data', 'npz:rows.npy', '--report', ''], 2, 'the name of the file to write is empty'],
    [['eval', model, '--data', 'npz:rows.npy', '--jason'], 2, 'Did you mean --json?'],
  ])('%j ends with %i: %s', async (args, code, message) => {
    const before = readdirSync(folder);
    const result = await sisyphus([...args, '-q']);
    expect(result.err).toContain(message);
    expect(result.code).toBe(code);
    expect(result.out).toBe('');
    expect(result.err).not.toMatch(/bug in sisyphus|\n {4}at /);
    expect(result.err.trim().split('\n').length).toBeLessThanOrEqual(2); // commander adds a suggestion of its own
    expect(readdirSync(folder)).toEqual(before);
  });

  it('truncated and damaged data', async () => {
    writeFileSync('short.npy', readFileSync('rows.npy').subarray(0, 150));
    writeFileSync('text.npy', 'no numbers at all');
    for (const file of ['short.npy', 'text.npy']) {
      const { code, err } = await sisyphus(['eval', model, '--data', `npz:${file}`, '-q']);
      expect(code).toBe(1);
      expect(err).toMatch(new RegExp(`^error: ${file}: [^\\n]+\\n$`));
    }
  });
});

it('percentages', () => {
  expect(percentage(0.9264, 0.9264, { nonFinite: 0 })).toBe('92.64');
  expect(percentage(0.0128, 0.7111, { nonFinite: 5 })).toBe('1.28 (71.11)');
  expect(percentage(0, null, { nonFinite: 5 })).toBe('0.00 (-)');
});

it('nothing is left behind', () => {
  expect(readdirSync(folder).filter((name) => name.includes('.tmp'))).toEqual([]);
  expect(existsSync('none.onnx')).toBe(false);
});
