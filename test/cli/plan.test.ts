import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { testFolder } from '../support/arrays.ts';
import { signalAfter, sisyphus } from '../support/cli.ts';
import { REPOSITORY } from '../support/shared.ts';

process.chdir(testFolder());
copyFileSync(path.join(REPOSITORY, 'models/lenet.onnx'), 'le net.onnx');
const PLAN = ['plan', 'le net.onnx', '--data', 'synthetic', '--images', '40'];
const NAMES = ['relu1', 'relu2', 'relu3', 'relu4'];

describe('plan', () => {
  it('shows what becomes of each activation, writes it, and says how to go on', async () => {
    const { code, out, err } = await sisyphus([...PLAN, '--budget', 'relus=50%', '-o', 'half.json']);
    expect([code, err]).toEqual([0, '']);
    expect(out).toContain('measured on 40 inputs (train) of synthetic');
    expect(out).toMatch(/activation +elements +becomes +error alone/);
    for (const name of NAMES) expect(out).toMatch(new RegExp(`${name} +[\\d,]+ +(stays|degree [24]) +[\\d.e-]+`));
    expect(out).toMatch(/\d of 4 activations are replaced; [\d,]+ of 4,684 elements stay \([\d.]+ %\)/);
    expect(out).toMatch(/expected accuracy [\d.]+ % -> [\d.]+ %, [\d.]+ % decided as before; depth 11 -> \d+/);
    expect(out).toContain('wrote half.json');
    expect(out).toMatch(/next: (npx )?sisyphus rewrite 'le net\.onnx' --plan half\.json/);
    expect(Object.keys(JSON.parse(readFileSync('half.json', 'utf8')).sites)).toEqual(NAMES);
    const rewritten = await sisyphus(['rewrite', 'le net.onnx', '--plan', 'half.json', '-o', 'half.onnx']);
    expect([rewritten.code, existsSync('half.onnx')]).toEqual([0, true]);
  });

  it('--json prints one document, and -q the verdict alone', async () => {
    const options = ['--method', 'random', '--budget', 'sites=2', '--degrees', '4', '--seed', '5'];
    const { code, out } = await sisyphus([...PLAN, ...options, '--json']);
    expect(code).toBe(0);
    const report = JSON.parse(out);
    expect(report).toMatchObject({
      method: 'random',
      budget: 'sites=2',
      seed: 5,
      images: 40,
      split: 'train',
      output: null,
    });
    expect(report.sites.filter(({ degree }: { degree: number | null }) => degree === 4)).toHaveLength(2);
    const quiet = await sisyphus([...PLAN, ...options, '-q']);
    expect(quiet.out.trim().split('\n')).toHaveLength(2);
  });

  it('takes one polynomial for all, and shows it with -v', async () => {
    const options = ['--budget', 'depth=19', '--poly', 'coeffs=0.25:0.5:0.125', '-v'];
    const { code, out } = await sisyphus([...PLAN, ...options]);
    expect(code).toBe(0);
    for (const name of NAMES) expect(out).toMatch(new RegExp(`${name} +[\\d,]+ +0\\.25 \\+ 0\\.5 x \\+ 0\\.125 x\\^2`));
    expect(out).toContain('0 of 4,684 elements stay');
  });

  it.each([
    [[], 2, /--budget: say how much may stay or be lost: relus=50%/],
    [['--budget', 'relus'], 2, /relus='' is no number/],
    [['--budget', 'relus=5%', '--method', 'greed'], 2, /no method 'greed'; did you mean 'greedy'\?/],
    [['--budget', 'relus=5%', '--degrees', '2,x'], 2, /--degrees takes a whole number from 1 to 10/],
    [['--budget', 'relus=5%', '--poly', 'deg=4'], 2, /a fit takes/],
    [['--budget', 'relus=5%', '--only', 'nothing'], 2, /--only: 'nothing' matches no activation/],
    [['--budget', 'relus=5%', '--logits', 'z'], 2, /has no output 'z'/],
    [['--budget', 'relus=5%', '-o', 'le net.onnx'], 1, /exists already/],
    [['--budget', 'relus=5%', '--partial'], 2, /unknown option '--partial'/],
  ] as const)('%j is refused in one line', async (options, code, message) => {
    const result = await sisyphus([...PLAN, ...options]);
    expect(result.code).toBe(code);
    expect(result.err).toMatch(message);
    expect(result.err).not.toMatch(/\n\s+at /);
  });

  it('ends with 130 when interrupted, and writes nothing', async () => {
    const result = await sisyphus([...PLAN, '--budget', 'relus=50%', '-o', 'none.json'], signalAfter(15));
    expect([result.code, existsSync('none.json')]).toEqual([130, false]);
  });
});
