import { copyFileSync, existsSync, lstatSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { testFolder } from '../support/arrays.ts';
import { signalAfter, sisyphus } from '../support/cli.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
process.chdir(folder);
copyFileSync(path.join(REPOSITORY, 'models/lenet.onnx'), 'le net.onnx');
const DATA = ['--data', 'synthetic', '--limit', '60', '--batch', '20', '--sample', '20'];
const NAMES = ['relu1', 'relu2', 'relu3', 'relu4'];

const made = await sisyphus(['rewrite', 'le net.onnx', '--poly', 'deg=4,a=3', '-o', 'poly.onnx', '-q']);

describe('probe', () => {
  it('prints a table of layers and a verdict', async () => {
    expect(made.code).toBe(0);
    const { code, out, err } = await sisyphus(['probe', 'poly.onnx', ...DATA]);
    expect([code, err]).toEqual([0, '']);
    expect(out).toMatch(/layer +function +min +max +mean +std .* NaN +Inf +gain +a +% outside/);
    for (const name of NAMES) expect(out).toMatch(new RegExp(`${name} +polynomial`));
    expect(out).toMatch(/poly\.onnx: 60 images, moments and quantiles from 20/);
    expect(out).toMatch(/poly\.onnx: (nothing escapes|activations (escape|leave their range))/);
    const quiet = await sisyphus(['probe', 'poly.onnx', ...DATA, '-q']);
    expect(quiet.out.trim().split('\n')).toHaveLength(1);
  });

  it('--json prints one document, and nothing else', async () => {
    const { code, out, err } = await sisyphus(['probe', 'le net.onnx', ...DATA, '--json']);
    expect(code).toBe(0);
    const { models } = JSON.parse(out);
    expect(models[0]).toMatchObject({ path: 'le net.onnx', images: 60, sampled: 20, firstNonFinite: null });
    expect(models[0].sites.map(({ name }: { name: string }) => name)).toEqual(NAMES);
    expect(err).toContain('relu1');
  });

  it('overlays several models', async () => {
    const { code, out } = await sisyphus(['probe', 'le net.onnx', 'poly.onnx', ...DATA]);
    expect(code).toBe(0);
    expect(out).toMatch(/largest \|activation\| after each layer\n +layer +le net +poly\n/);
    for (const name of NAMES) expect(out).toMatch(new RegExp(`\\n +${name} +[\\d.e+-]+ +[\\d.e+-]+`));
  });

  it('-o writes what rewrite reads', async () => {
    const { code, out } = await sisyphus(['probe', 'le net.onnx', ...DATA, '-o', 'stats.json']);
    expect(code).toBe(0);
    expect(out).toContain('wrote stats.json');
    const { sites } = JSON.parse(readFileSync('stats.json', 'utf8'));
    expect(Object.keys(sites)).toEqual(NAMES);
    const fitted = await sisyphus([
      'rewrite',
      'le net.onnx',
      '--poly',
      'deg=4,a=stats.json',
      '-o',
      'fitted.onnx',
      '--json',
    ]);
    const [pass] = JSON.parse(fitted.out).passes;
    for (const { site, range } of pass.applied) {
      const { channelMin, channelMax } = sites[site];
      expect(range).toBe(Math.max(...[...channelMin, ...channelMax].map(Math.abs)));
    }
    const amm = await sisyphus([
      'rewrite',
      'le net.onnx',
      '--poly',
      'deg=4,a=1',
      '--amm',
      'stats.json',
      '-o',
      'amm.onnx',
    ]);
    expect(amm.out).toContain('insert-amm: 4 done');
    const strange = await sisyphus(['rewrite', 'amm.onnx', '--poly', 'deg=4,a=stats.json', '-o', 'x.onnx', '-q']);
    expect([strange.code, existsSync('x.onnx')]).toEqual([0, true]);
  });

  it('--svg and --report write files', async () => {
    const files = ['--svg', 'maxima.svg', '--report', 'probe.html'];
    const { code, out } = await sisyphus(['probe', 'le net.onnx', 'poly.onnx', ...DATA, ...files, '-q']);
    expect(code).toBe(0);
    expect(out).toMatch(/wrote maxima\.svg\nwrote probe\.html\n$/);
    expect(readFileSync('maxima.svg', 'utf8')).toMatch(/^<svg[^>]*>/);
    expect(readFileSync('probe.html', 'utf8')).toMatch(/^<!doctype html>/i);
  });

  it('refuses to overwrite before the work, not after it', async () => {
    for (const option of ['-o', '--svg', '--report']) {
      writeFileSync('there', 'mine');
      const { code, out, err } = await sisyphus(['probe', 'none.onnx', '--data', 'npz:none.npy', option, 'there']);
      expect([code, out]).toEqual([1, '']);
      expect(err).toBe('error: there: exists already; give --force to replace it, or another name\n');
      expect(readFileSync('there', 'utf8')).toBe('mine');
      expect((await sisyphus(['probe', 'le net.onnx', ...DATA, option, 'there', '--force', '-q'])).code).toBe(0);
      expect(readFileSync('there', 'utf8')).not.toBe('mine');
    }
  });

  it('replaces what a link points to, and leaves the link', async () => {
    writeFileSync('real.json', 'mine');
    symlinkSync('real.json', 'link.json');
    expect((await sisyphus(['probe', 'le net.onnx', ...DATA, '-o', 'link.json', '-q'])).code).toBe(1);
    expect((await sisyphus(['probe', 'le net.onnx', ...DATA, '-o', 'link.json', '--force', '-q'])).code).toBe(0);
    expect(lstatSync('link.json').isSymbolicLink()).toBe(true);
    expect(Object.keys(JSON.parse(readFileSync('real.json', 'utf8')).sites)).toEqual(NAMES);
  });

  it('names the node that a value escapes at', async () => {
    // Squares of squares of squares of pixels.
    const args = ['rewrite', 'le net.onnx', '--poly', 'coeffs=0:0:0:0:0:0:0:0:1', '-o', 'wild.onnx', '-q'];
    expect((await sisyphus(args)).code).toBe(0);
    const { code, out } = await sisyphus(['probe', 'wild.onnx', ...DATA, '--normalize', 'raw', '-q']);
    expect(code).toBe(0);
    expect(out).toMatch(
      /wild\.onnx: activations escape: 60 of 60 inputs are not finite, (NaN|-?Infinity) first at Mul 'relu\d\/poly\/mul(_\d)?' \(layer relu\d\)/,
    );
  });
});

describe('interruption', () => {
  const args = [
    'probe',
    'le net.onnx',
    '--data',
    'synthetic',
    '--batch',
    '10',
    '--limit',
    '1000',
    '--json',
    '-o',
    'half.json',
  ];

  it('ends with 130, and writes nothing', async () => {
    const { code, out, err } = await sisyphus(args, signalAfter(10));
    expect([code, out, existsSync('half.json')]).toEqual([130, '', false]);
    expect(err).toMatch(/error: interrupted\n$/);
  });

  it('--partial gives what was seen, marked as such', async () => {
    const { code, out } = await sisyphus([...args, '--partial'], signalAfter(10));
    expect(code).toBe(130);
    expect(JSON.parse(out).models[0]).toMatchObject({ partial: true });
    expect(JSON.parse(readFileSync('half.json', 'utf8'))).toMatchObject({ partial: true });
  });
});

describe('mistakes end in one line', () => {
  it.each<[string[], number, string]>([
    [['probe', 'le net.onnx'], 2, "required option '--data <name:path>' not specified"],
    [['probe', 'le net.onnx', 'poly.onnx', ...DATA, '-o', 's.json'], 2, '-o: the statistics are those of one model'],
    [['probe', 'le net.onnx', ...DATA, '--svg', 'a', '--report', 'a'], 2, 'name the same file'],
    [['probe', 'le net.onnx', ...DATA, '--range', '0'], 2, '--range takes a number above 0'],
    [['probe', 'le net.onnx', ...DATA, '--range', '-1'], 2, '--range takes a number above 0'],
    [['probe', 'le net.onnx', ...DATA, '--range', 'Infinity'], 2, '--range takes a number above 0'],
    [['probe', 'le net.onnx', ...DATA, '--sample', '0'], 2, '--sample takes a whole number'],
    [['probe', 'none.onnx', ...DATA], 1, 'none.onnx: no such file or folder'],
    [
      ['probe', 'le net.onnx', '--data', 'synthetic:3x28x28'],
      2,
      'takes [N,1,28,28], but the rows of synthetic are [N,3,28,28]',
    ],
    [['probe', 'le net.onnx', '--data', 'synthetic:1x32x32'], 2, 'give --resize 28x28'],
    [['probe', 'le net.onnx', '--data', 'mnist:.'], 1, 'holds no t10k-images-idx3-ubyte'],
    [['probe', 'le net.onnx', ...DATA, '-o', 'no/such.json'], 1, "there is no folder 'no'"],
    [['probe', 'le net.onnx', ...DATA, '-o', 'le net.onnx/s.json'], 1, "there is no folder 'le net.onnx'"],
    [['probe', 'le net.onnx', ...DATA, '-o', ''], 2, 'the name of the file to write is empty'],
  ])('%j ends with %i: %s', async (args, code, message) => {
    const before = readdirSync(folder);
    const result = await sisyphus([...args, '-q']);
    expect(result.err).toContain(message);
    expect([result.code, result.out]).toEqual([code, '']);
    expect(result.err).toMatch(/^error: [^\n]+\n$/);
    expect(readdirSync(folder)).toEqual(before);
  });
});
