import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lenet } from '../../models/lenet.ts';
import { serialize } from '../../src/graph/write.ts';
import { sisyphus } from '../support/cli.ts';
import { testFolder } from '../support/folder.ts';

const { fresh } = testFolder('poly');
const home = process.cwd();
beforeAll(() => {
  process.chdir(fresh());
  writeFileSync('lenet.onnx', serialize(lenet(1)));
});
afterAll(() => process.chdir(home));

describe('sisyphus poly', () => {
  it('shows coefficients, error and costs', async () => {
    const { code, out } = await sisyphus(['poly', 'deg=4,a=5']);
    expect(code).toBe(0);
    expect(out).toContain('0.293 + 0.5 x + 0.1641 x^2 - 0.003281 x^4');
    expect(out).toMatch(/x\^4 +-0\.00328125/);
    expect(out).toContain('off by at most 0.293 on [-5, 5]');
    expect(out).toMatch(/estrin +3 +2 +3/);
    const { polynomial, coefficients, error, forms } = JSON.parse(
      (await sisyphus(['poly', 'deg=4,a=5', '--json'])).out,
    );
    expect(polynomial).toBe('0.29296875 + 0.5 x + 0.1640625 x^2 - 0.00328125 x^4');
    expect(coefficients).toEqual([0.29296875, 0.5, 0.1640625, 0, -0.00328125]);
    expect(error.max).toBeCloseTo(0.29296875, 10);
    // The square of the L2 norm of ReLU's degree-4 fit: 5^3 times that on [-1, 1].
    expect(error.l2).toBeCloseTo(error.rms * Math.sqrt(10), 12);
    expect(forms.map(({ form }: { form: string }) => form).sort()).toEqual([
      'clenshaw',
      'estrin',
      'horner',
      'paterson-stockmeyer',
      'powers',
    ]);
  });

  it('takes another activation, range, and draws', async () => {
    const { code, out } = await sisyphus([
      'poly',
      'deg=6,a=3,fit=minimax',
      '--fn',
      'gelu',
      '--range',
      '-2:2',
      '--plot',
      'p.svg',
    ]);
    expect([code, out]).toEqual([0, expect.stringMatching(/gelu -> deg=6,a=3,fit=minimax, degree 6/)]);
    expect(out).toContain('on [-2, 2]');
    expect(readFileSync('p.svg', 'utf8')).toMatch(/^<svg[^>]*>.*<\/svg>\s*$/s);
    expect((await sisyphus(['poly', 'quad', '--plot', 'p.svg'])).err).toContain('p.svg');
    expect((await sisyphus(['poly', 'quad', '--plot', 'p.svg', '--force'])).code).toBe(0);
  });

  it('describes composites by their stages', async () => {
    const { out } = await sisyphus(['poly', 'preset=precise,alpha=7,B=8']);
    expect(out).toContain('x times a composite of degrees 7, 7');
    expect(out).toMatch(/stage 2, T7/);
  });

  it.each([
    [['poly', 'deg=4'], 2, 'a fit takes both deg= and a='],
    [['poly', 'deg=4,a=5', '--fn', 'relo'], 2, "unknown activation 'relo'; did you mean 'relu'?"],
    [['poly', 'deg=4,a=5', '--fn', 'relu(3)'], 2, 'relu takes no parameters'],
    [['poly', 'deg=4,a=data'], 2, 'its range is measured: give a number (a=5) or a file of statistics'],
    [['poly', 'deg=4,a=none.json'], 1, 'none.json'],
    [['poly', 'preset=precise', '--fn', 'gelu'], 2, 'composites of sign approximations stand for ReLU, not for gelu'],
    [['poly', 'deg=4,a=5', '--range', 'x'], 2, "range='x' is not a finite number"],
  ])('%j ends with %i: %s', async (args, code, message) => {
    const result = await sisyphus(args);
    expect(result.err).toContain(message);
    expect([result.code, result.out]).toEqual([code, '']);
    expect(result.err.trim().split('\n')).toHaveLength(1);
  });
});

describe('sisyphus presets', () => {
  it('lists them', async () => {
    const { code, out } = await sisyphus(['presets']);
    expect(code).toBe(0);
    for (const name of ['cryptonets', 'lookup-table', 'precise', 'orion', 'pillar']) expect(out).toContain(name);
    const { presets } = JSON.parse((await sisyphus(['presets', '--json'])).out);
    expect(presets).toHaveLength(16);
    expect(presets[0]).toMatchObject({ name: 'cryptonets', table1: true, degree: 2, depth: 1, replaces: 'all' });
  });
});

describe('rewrite with data', () => {
  const DATA = ['--data', 'synthetic:1x28x28', '--images', '20', '-o', 'out.onnx', '--force'];
  const rewriteJson = async (...args: string[]) => {
    const { out, err } = await sisyphus(['rewrite', 'lenet.onnx', ...args, ...DATA, '--json']);
    return JSON.parse(out || `{"error": ${JSON.stringify(err)}}`);
  };

  it('measures each site where a=data stands', async () => {
    const { passes, notes } = await rewriteJson('--poly', 'deg=4,a=data');
    const ranges = passes[0].applied.map(({ range }: { range: number }) => range);
    expect(new Set(ranges).size).toBe(4);
    expect(notes).toEqual([expect.stringMatching(/^ranges measured on 20 inputs \(train\) of synthetic/)]);
    const doubled = await rewriteJson('--poly', 'deg=4,a=data,margin=2');
    for (const [i, { range }] of doubled.passes[0].applied.entries()) expect(range).toBeCloseTo(2 * ranges[i], 5);
  });

  it('makes a polynomial for each channel', async () => {
    const { passes } = await rewriteJson('--poly', 'deg=3,fit=gaussian,a=data,per=channel');
    for (const { detail } of passes[0].applied) expect(detail).toMatch(/\d+ channels\)$/);
  });

  it('widens the range of a composite until no input leaves it', async () => {
    const { passes, notes } = await rewriteJson('--poly', 'preset=precise,alpha=8,B=0.8');
    expect(notes.join()).toMatch(/ranges of \d sites grew until none of 20 inputs left them/);
    for (const { range } of passes[0].applied) expect(range).toBeGreaterThanOrEqual(0.8);
  });

  it('leaves the ranges of other polynomials alone', async () => {
    const { passes } = await rewriteJson('--poly', 'preset=precise,alpha=6', '--poly', 'relu1=deg=2,a=0.01');
    expect(passes[0].applied[0]).toMatchObject({ site: 'relu1', range: 0.01 });
    expect(passes[0].applied).toHaveLength(4);
  });

  it.each([
    [['--plan', 'plan.json', '--mm'], 'plans are made for the pre-activations as they are'],
    [['--poly', 'preset=orion'], 'its range is measured: give --data NAME:PATH'],
    [['--poly', 'preset=delphi,k=2'], 'give --data NAME:PATH, or k=all'],
    [['--poly', 'preset=safenet'], 'give --data NAME:PATH'],
    [['--poly', 'preset=delphi,k=2', '--poly', 'relu1=quad'], 'it stands alone and without a pattern'],
    [['--poly', 'quad', '--plan', 'plan.json'], '--plan says what each activation becomes: leave --poly away'],
    [['--poly', 'deg=4,a=data', '--mm', '--data', 'synthetic:1x28x28'], 'so give a=1'],
  ])('%j is refused: %s', async (args, message) => {
    const { code, err } = await sisyphus(['rewrite', 'lenet.onnx', ...args, '-o', 'no.onnx']);
    expect(err).toContain(message);
    expect(code).toBe(2);
  });
});
