import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';

import path from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { run } from '../../src/cli/run.ts';
import { buildModel } from '../../src/graph/build.ts';
import { parseModel, readModel } from '../../src/graph/read.ts';
import { serialize } from '../../src/graph/write.ts';
import { VERSION } from '../../src/version.ts';
import { noise } from '../support/numeric.ts';
import { REPOSITORY } from '../support/shared.ts';

// A path with spaces and a letter outside of ASCII, as users have them.
const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus cli é '));
afterAll(() => rmSync(folder, { recursive: true }));

process.chdir(folder);

/** One run within this process, for speed. */
async function sisyphus(...args: string[]) {
  const [out, err]: [Buffer[], string[]] = [[], []];
  const streams = {
    out: (text: string | Uint8Array) => void out.push(Buffer.from(text)),
    err: (text: string) => void err.push(text),
  };
  const code = await run(args, streams, new AbortController().signal);
  const raw = Buffer.concat(out);
  return {
    code,
    raw,
    out: stripVTControlCharacters(raw.toString('utf8')),
    err: stripVTControlCharacters(err.join('')),
  };
}

beforeEach(() => {
  for (const file of readdirSync(folder)) rmSync(path.join(folder, file));
  copyFileSync(path.join(REPOSITORY, 'models/lenet.onnx'), path.join(folder, 'le net.onnx'));
});

describe('rewrite', () => {
  it('writes model.poly.onnx beside the model, once', async () => {
    const { code, out, err } = await sisyphus('rewrite', 'le net.onnx', '--poly', 'deg=4,a=5');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toContain('replace-activation: 4 done');
    expect(out).toMatch(/wrote le net\.poly\.onnx \(\d+\.\d kB\)/);
    expect(out).toMatch(/next: (npx )?sisyphus inspect 'le net\.onnx' 'le net\.poly\.onnx'/);
    const model = readModel(path.join(folder, 'le net.poly.onnx'));
    expect(model.graph.nodes.filter(({ op }) => op === 'Relu')).toEqual([]);
    const metadata = Object.fromEntries(model.metadata.map(({ key, value }) => [key, value]));
    expect(metadata['sisyphus.version']).toBe(VERSION);
    expect(JSON.parse(metadata['sisyphus.rewrite'] ?? '')).toEqual([{ source: 'le net.onnx', poly: ['deg=4,a=5'] }]);

    const again = await sisyphus('rewrite', 'le net.onnx', '--poly', 'quad');
    expect(again.code).toBe(1);
    expect(again.err).toBe('error: le net.poly.onnx: exists already; give --force to replace it, or another name\n');
    expect((await sisyphus('rewrite', 'le net.onnx', '--poly', 'quad', '--force', '-q')).code).toBe(0);
  });

  it('--json prints one document on stdout and the rest on stderr', async () => {
    const { code, out, err } = await sisyphus('rewrite', 'le net.onnx', '--poly', 'quad', '--json', '-o', 'out.onnx');
    expect(code).toBe(0);
    const report = JSON.parse(out);
    expect(report).toMatchObject({
      input: 'le net.onnx',
      output: 'out.onnx',
      before: { nodes: { Relu: 4 } },
      after: { nodes: { Mul: 4 } },
    });
    expect(report.passes[0].applied[0]).toMatchObject({
      site: 'relu1',
      activation: 'relu',
      poly: 'quad',
      coefficients: [0, 0, 1],
      depth: 1,
    });
    expect(err).toContain('wrote out.onnx');
  });

  it('-o - writes the model to stdout', async () => {
    const { code, raw, err } = await sisyphus('rewrite', 'le net.onnx', '--poly', 'taylor', '-o', '-');
    expect(code).toBe(0);
    expect(parseModel(raw).graph.nodes.some(({ op }) => op === 'Relu')).toBe(false);
    expect(err).toContain('replace-activation: 4 done');
    expect(readdirSync(folder)).toEqual(['le net.onnx']);
  });

  it('--dry-run does everything but write', async () => {
    const { code, out } = await sisyphus('rewrite', 'le net.onnx', '--poly', 'deg=2,a=3', '--dry-run');
    expect(code).toBe(0);
    expect(out).toContain('dry run: nothing was written');
    expect(readdirSync(folder)).toEqual(['le net.onnx']);
  });

  it('checks exact passes against the original, and says why it does not check others', async () => {
    const exact = await sisyphus(
      'rewrite',
      'le net.onnx',
      '--passes',
      'fold-batchnorm,drop-dead',
      '--check',
      '3',
      '-o',
      'folded.onnx',
    );
    expect(exact.code).toBe(0);
    expect(exact.out).toContain('fold-batchnorm: 4 done');
    expect(exact.out).toMatch(/check passed: 3 random inputs, largest difference [\d.e-]+ at a scale of/);
    const poly = await sisyphus('rewrite', 'le net.onnx', '--poly', 'quad', '--check', '3', '-o', 'quad.onnx');
    expect(poly.out).toContain('check skipped: no exact pass was asked for');
  });

  it('ends with 3, and writes nothing, where the check fails', async () => {
    const b = buildModel({ name: 'half', opset: 17 });
    const x = b.input('x', 'float16', [1, 4, 8, 8]);
    const w = b.constant('w', 'float16', [4, 4, 3, 3], noise(144, 3));
    const channels = (name: string, seed: number, shift: number) =>
      b.constant(
        name,
        'float16',
        [4],
        noise(4, seed).map((v) => v + shift),
      );
    const inputs = [
      b.node('Conv', [x, w]),
      channels('gamma', 4, 0),
      channels('beta', 5, 0),
      channels('mean', 6, 0),
      channels('var', 7, 1.5),
    ];
    b.output(b.node('BatchNormalization', inputs), 'y', 'float16', [1, 4, 6, 6]);
    writeFileSync(path.join(folder, 'half.onnx'), serialize(b.model));
    const fold = ['rewrite', 'half.onnx', '--passes', 'fold-batchnorm', '--check', '2'];
    const strict = await sisyphus(...fold);
    expect(strict.code).toBe(3);
    expect(strict.err).toMatch(
      /^error: --check: 'y' differs by .* --rtol [\d.e-]+ would allow it; nothing was written\n$/,
    );
    expect(existsSync(path.join(folder, 'half.poly.onnx'))).toBe(false);
    expect((await sisyphus(...fold, '--rtol', '0.01')).code).toBe(0);
  });

  it('says so where nothing is eligible, and ends with 0', async () => {
    await sisyphus('rewrite', 'le net.onnx', '--poly', 'quad', '-q', '-o', 'quad.onnx');
    const { code, out } = await sisyphus('rewrite', 'quad.onnx', '--poly', 'deg=4,a=5');
    expect(code).toBe(0);
    expect(out).toContain('no eligible activation: nothing is replaced');
  });

  it('--only, --skip and specs by site', async () => {
    const { out } = await sisyphus(
      'rewrite',
      'le net.onnx',
      '--poly',
      'deg=2,a=3',
      '--poly',
      'relu4=taylor',
      '--skip',
      'relu1',
      '--json',
    );
    const [pass] = JSON.parse(out).passes;
    expect(pass.applied.map(({ site, poly }: { site: string; poly: string }) => [site, poly])).toEqual([
      ['relu2', 'deg=2,a=3'],
      ['relu3', 'deg=2,a=3'],
      ['relu4', 'taylor'],
    ]);
    expect(pass.skipped).toEqual([{ site: 'relu1', reason: '--skip relu1' }]);
  });

  it('inserts AMM from a statistics file', async () => {
    const site = (channels: number) => ({
      channelMin: new Array(channels).fill(-2),
      channelMax: new Array(channels).fill(3),
    });
    writeFileSync(path.join(folder, 's.json'), JSON.stringify({ sites: { relu1: site(6), relu3: site(120) } }));
    const { code, out } = await sisyphus('rewrite', 'le net.onnx', '--poly', 'quad', '--amm', 's.json');
    expect(code).toBe(0);
    expect(out).toContain('insert-amm: 2 done, 2 skipped');
    expect(out).toContain('skipped relu2, relu4: the statistics hold nothing for it');
    expect((await sisyphus('rewrite', 'le net.onnx', '--poly', 'quad', '--mm', '-o', 'mm.onnx')).out).toContain(
      'insert-amm: 4 done',
    );
  });
});

describe('mistakes', () => {
  it.each([
    [['rewrite', 'le net.onnx', '--poly', 'deg=4'], 2, 'a fit takes both deg= and a='],
    [['rewrite', 'le net.onnx', '--poly', 'tailor'], 2, "did you mean 'taylor'?"],
    [['rewrite', 'le net.onnx', '--form', 'hornet', '--poly', 'quad'], 2, "did you mean 'horner'?"],
    [['rewrite', 'le net.onnx', '--activations', 'rely', '--poly', 'quad'], 2, "did you mean 'relu'?"],
    [['rewrite', 'le net.onnx', '--passes', 'fold-batchnorn'], 2, "did you mean 'fold-batchnorm'?"],
    [['rewrite', 'le net.onnx', '--only', 'relu9', '--poly', 'quad'], 2, "--only: 'relu9' matches no activation"],
    [['rewrite', 'le net.onnx', '--poli', 'quad'], 2, 'Did you mean --poly?'],
    [['rewrite', 'le net.onnx'], 2, 'nothing to do: give --poly'],
    [['rewrite', 'le net.onnx', '--poly', 'quad', '--check', 'x'], 2, '--check takes a whole number'],
    [['rewrite', 'le net.onnx', '--poly', 'quad', '--json', '-o', '-'], 2, 'both want standard output'],
    [['rewrite', 'le net.onnx', '--amm', 'a.json', '--mm', '--poly', 'quad'], 2, '--amm and --mm exclude each other'],
    [['rewrite', 'le net.onnx', '--only', 'relu1'], 2, 'choose sites for --poly, --plan, --amm or --mm'],
    [['rewrite', 'le net.onnx', '--poly', 'taylor,a=5'], 2, 'taylor stands alone'],
    [['rewrite', 'le net.onnx', '--poly', 'coeffs=1,2,3'], 2, "coefficients are separated by ':'"],
    [['rewrit', 'le net.onnx'], 2, 'Did you mean rewrite?'],
    [['rewrite', 'none.onnx', '--poly', 'quad'], 1, 'none.onnx: no such file or folder'],
    [['rewrite', '.', '--poly', 'quad'], 1, 'is a folder'],
    [['rewrite', 'le net.onnx', '--poly', 'quad', '--amm', 'none.json'], 1, 'none.json: no such file or folder'],
    [
      ['rewrite', 'le net.onnx', '--poly', 'quad', '-o', 'no/such/dir.onnx'],
      1,
      "there is no folder 'no/such'; create it first",
    ],
    [['inspect', 'none.onnx'], 1, 'none.onnx: no such file or folder'],
  ] as const)('%j ends with %i: %s', async (args, code, message) => {
    const result = await sisyphus(...args);
    expect(result.err).toContain(message);
    expect(result.code).toBe(code);
    expect(result.err).not.toContain('    at ');
    expect(readdirSync(folder)).toEqual(['le net.onnx']);
  });
});

describe('inspect and passes', () => {
  it('shows models side by side', async () => {
    await sisyphus('rewrite', 'le net.onnx', '--poly', 'quad', '-q');
    const { code, out } = await sisyphus('inspect', 'le net.onnx', 'le net.poly.onnx');
    expect(code).toBe(0);
    expect(out).toMatch(/MACs per input +281,640 +281,640/);
    expect(out).toMatch(/activation elements per input +4,684 +0/);
    expect(out).toMatch(/ReLU elements +4,684 +0\n *garbled circuits of the ReLUs +82\.0 MB +0 B\n/);
    expect(out).toMatch(/multiplicative depth +\d+ +\d+\n *multiplications of ciphertexts +0 +4,684\n/);
    expect(out).toContain('17.5 KB (1 KB = 1000 bytes) for each ReLU element');
    expect(out).toMatch(/relu1 +relu +float +\[N,6,24,24\] +3,456/);
    const json = JSON.parse((await sisyphus('inspect', 'le net.onnx', '--json')).out);
    expect(json.models[0]).toMatchObject({
      path: 'le net.onnx',
      irVersion: 8,
      opsets: { 'ai.onnx': 17 },
      macs: 281640,
      activationElements: 4684,
      privateInference: { reluElements: 4684, otherElements: 0, garbledBytes: 4684 * 17_500 },
      multiplications: { ciphertext: 0, plaintext: 287_444 },
      problems: [],
    });
    expect(json.models[0].sites).toHaveLength(4);
  });

  it('lists the passes', async () => {
    const names = JSON.parse((await sisyphus('passes', '--json')).out).passes.map(({ name }: { name: string }) => name);
    expect(names).toEqual(
      expect.arrayContaining(['replace-activation', 'insert-amm', 'fold-batchnorm', 'set-batch', 'drop-dead']),
    );
  });

  it('states the version of package.json', async () => {
    expect((await sisyphus('--version')).out.trim()).toBe(
      JSON.parse(readFileSync(path.join(REPOSITORY, 'package.json'), 'utf8')).version,
    );
  });
});

describe('--opset', () => {
  it('writes nothing where the model can not be converted', async () => {
    const b = buildModel({ name: 'g', opset: 20 });
    b.output(b.node('Gelu', [b.input('x', 'float', [1, 4])]), 'y', 'float', [1, 4]);
    writeFileSync('gelu.onnx', serialize(b.model));
    const { code, err } = await sisyphus('rewrite', 'gelu.onnx', '--opset', '13');
    expect([code, existsSync('gelu.poly.onnx')]).toEqual([1, false]);
    expect(err).toMatch(/^error: gelu\.onnx: can't become opset 13: Gelu 'gelu': Gelu exists from opset 20 on\n$/);
    expect((await sisyphus('rewrite', 'le net.onnx', '--opset', '21', '--check', '1')).code).toBe(0);
  });
});

describe('high degrees', () => {
  const errorOf = async (...args: string[]) => {
    const { out } = await sisyphus('rewrite', 'le net.onnx', '--json', '--dry-run', ...args);
    return JSON.parse(out).passes[0].applied[0].error;
  };

  it('become Chebyshev series where powers of x lose digits in float32', async () => {
    for (const poly of ['deg=32,a=5', 'deg=16,a=1000']) {
      const error = await errorOf('--poly', poly);
      expect(error.max / error.exact).toBeCloseTo(1, 3);
    }
  });

  it('says what rounding does to powers of x', async () => {
    const error = await errorOf('--poly', 'deg=32,a=5', '--form', 'horner');
    expect(error.max).toBeGreaterThan(1.5 * error.exact);
    const wide = await sisyphus('rewrite', 'le net.onnx', '--poly', 'deg=16,a=1000', '--form', 'horner', '--dry-run');
    expect(wide.out).toMatch(
      /off by at most \d+ there \(18\.2 but for rounding: leave --form away, or take a lower degree\)/,
    );
  });
});

describe('the executable', () => {
  const main = (...args: string[]) =>
    spawnSync(
      process.execPath,
      ['--import', import.meta.resolve('tsx'), path.join(REPOSITORY, 'src/cli/main.ts'), ...args],
      { env: { PATH: process.env.PATH, HOME: path.join(folder, 'home'), TMPDIR: tmpdir() } },
    );

  it('passes streams and the exit code on', () => {
    const done = main('rewrite', 'le net.onnx', '--poly', 'quad', '--json', '-o', 'out.onnx');
    expect([done.status, JSON.parse(done.stdout.toString()).output]).toEqual([0, 'out.onnx']);
    // onnxruntime reports what it runs, and keeps a database of it in the user's home, unless told otherwise.
    const home = path.join(folder, 'home');
    mkdirSync(home);
    const quiet = main('rewrite', 'le net.onnx', '--passes', 'fold-batchnorm', '--check', '1', '-o', 'folded.onnx');
    expect([quiet.status, readdirSync(home)]).toEqual([0, []]);
    rmSync(home, { recursive: true });
    const failed = main('inspect', 'none.onnx');
    expect([failed.status, failed.stdout.toString(), failed.stderr.toString()]).toEqual([
      1,
      '',
      'error: none.onnx: no such file or folder\n',
    ]);
  });
});
