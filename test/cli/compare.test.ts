import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { testFolder } from '../support/arrays.ts';
import { signalAfter, sisyphus } from '../support/cli.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
process.chdir(folder);
copyFileSync(path.join(REPOSITORY, 'models/lenet.onnx'), 'le net.onnx');
const DATA = ['--data', 'synthetic', '--limit', '40', '--batch', '20'];
const made = await sisyphus(['rewrite', 'le net.onnx', '--poly', 'relu3=deg=4,a=3', '-o', 'poly.onnx', '-q']);

describe('compare', () => {
  it('finds the first layer that differs', async () => {
    expect(made.code).toBe(0);
    const { code, out, err } = await sisyphus(['compare', 'le net.onnx', 'poly.onnx', ...DATA]);
    expect([code, err]).toEqual([0, '']);
    expect(out).toMatch(/images +40\n/);
    expect(out).toMatch(/same argmax +[\d.]+ %\n/);
    expect(out).toMatch(/first layer beyond 0\.001: 'relu3_output' \(Relu\): relative rms/);
    const verbose = await sisyphus(['compare', 'le net.onnx', 'poly.onnx', ...DATA, '-v']);
    expect(verbose.out).toMatch(/relu3_output +Relu \/ Add/);
    const same = await sisyphus(['compare', 'le net.onnx', 'le net.onnx', ...DATA, '-q']);
    expect(same.out).toMatch(/same argmax +100\.00 %/);
    expect(same.out).toContain('no layer is beyond 0.001: the models agree');
    const lenient = await sisyphus(['compare', 'le net.onnx', 'poly.onnx', ...DATA, '--tolerance', '1e9']);
    expect(lenient.out).toContain('no layer is beyond 1000000000');
  });

  it('--json prints one document, and nothing else', async () => {
    const { code, out, err } = await sisyphus(['compare', 'le net.onnx', 'poly.onnx', ...DATA, '--json']);
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({
      models: ['le net.onnx', 'poly.onnx'],
      images: 40,
      sampled: 40,
      firstDiverging: { name: 'relu3_output' },
    });
    expect(err).toContain('same argmax');
  });

  it('says where only the outputs differ', async () => {
    const wild = ['rewrite', 'le net.onnx', '--poly', 'quad', '-o', 'quad.onnx', '-q', '--force'];
    expect((await sisyphus(wild)).code).toBe(0);
    const { out } = await sisyphus(['compare', 'le net.onnx', 'quad.onnx', ...DATA, '--tolerance', '1e-9', '-q']);
    expect(out).toContain("'relu1_output'");
  });

  it('--report writes a page, and refuses to overwrite before the work', async () => {
    const report = ['--report', 'compare.html'];
    const { code, out } = await sisyphus(['compare', 'le net.onnx', 'poly.onnx', ...DATA, ...report]);
    expect([code, out.includes('wrote compare.html')]).toEqual([0, true]);
    expect(readFileSync('compare.html', 'utf8')).toMatch(/^<!doctype html>/i);
    const again = await sisyphus(['compare', 'none.onnx', 'none.onnx', '--data', 'npz:none.npy', ...report]);
    expect([again.code, again.out]).toEqual([1, '']);
    expect(again.err).toBe('error: compare.html: exists already; give --force to replace it, or another name\n');
    writeFileSync('compare.html', 'mine');
    expect((await sisyphus(['compare', 'le net.onnx', 'poly.onnx', ...DATA, ...report, '--force'])).code).toBe(0);
    expect(readFileSync('compare.html', 'utf8')).not.toBe('mine');
  });

  it('an interruption ends with 130', async () => {
    const args = [
      'compare',
      'le net.onnx',
      'poly.onnx',
      '--data',
      'synthetic',
      '--batch',
      '10',
      '--limit',
      '1000',
      '--json',
    ];
    const { code, out, err } = await sisyphus(args, signalAfter(20));
    expect([code, out]).toEqual([130, '']);
    expect(err).toMatch(/error: interrupted\n$/);
    const partial = await sisyphus([...args, '--partial'], signalAfter(20));
    expect(partial.code).toBe(130);
    expect(JSON.parse(partial.out)).toMatchObject({ partial: true });
  });
});

describe('mistakes end in one line', () => {
  it.each<[string[], number, string]>([
    [['compare', 'le net.onnx', ...DATA], 2, "missing required argument 'second'"],
    [['compare', 'le net.onnx', 'poly.onnx', 'quad.onnx', ...DATA], 2, 'too many arguments'],
    [['compare', 'le net.onnx', 'none.onnx', ...DATA], 1, 'none.onnx: no such file or folder'],
    [['compare', 'le net.onnx', '.', ...DATA], 1, 'is a folder'],
    [['compare', 'le net.onnx', 'poly.onnx', ...DATA, '--tolerance', '0'], 2, '--tolerance takes a number above 0'],
    [['compare', 'le net.onnx', 'poly.onnx', ...DATA, '--sample', 'all'], 2, '--sample takes a whole number'],
    [['compare', 'le net.onnx', 'poly.onnx', '--data', 'synthetic:3x32x32'], 2, 'takes [N,1,28,28]'],
  ])('%j ends with %i: %s', async (args, code, message) => {
    const before = readdirSync(folder);
    const result = await sisyphus([...args, '-q']);
    expect(result.err).toContain(message);
    expect([result.code, result.out]).toEqual([code, '']);
    expect(result.err).toMatch(/^error: [^\n]+\n$/);
    expect(readdirSync(folder)).toEqual(before);
  });
});
