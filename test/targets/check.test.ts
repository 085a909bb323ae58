import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { SisyphusError } from '../../src/errors.ts';
import { buildModel } from '../../src/graph/build.ts';
import { readModel } from '../../src/graph/read.ts';
import { writeModel } from '../../src/graph/write.ts';
import { lowerModel } from '../../src/lower.ts';
import { rewriteModel } from '../../src/rewrite.ts';
import { checkTargets, lint } from '../../src/targets/check.ts';
import { LOWERING_TARGETS, TARGET_NAMES } from '../../src/targets/targets.ts';
import { sisyphus } from '../support/cli.ts';
import { REPOSITORY, SHARED, sharedMissing, sharedModels } from '../support/shared.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-check-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const LENET = path.join(REPOSITORY, 'models', 'lenet.onnx');

const polynomial = async (file: string, spec: string, passes: string[] = []) =>
  (await rewriteModel(readModel(file), { poly: [spec], passes })).model;

describe('what lower makes for a target, its rules take', () => {
  test.each(LOWERING_TARGETS)('LeNet for %s', async (target) => {
    for (const spec of ['deg=2,a=5', 'deg=4,a=5', 'deg=3,a=5']) {
      const { model } = await lowerModel(await polynomial(LENET, spec), { target });
      expect(['ok', 'unverified']).toContain(lint(model, target).verdict);
    }
  });

  test.skipIf(sharedMissing !== '').each([
    ['kanav99_lenet', ['replace-maxpool']],
    ['burn_mnist', []],
    ['mnist_fc_256x4', []],
    ['ace_resnet20_cifar10_pre', []],
    ['oval21_cifar_deep_kw', []],
  ])('%s for portable: nothing is found but for notes', async (name, passes) => {
    const model = await polynomial(path.join(SHARED, 'models', `${name}.onnx`), 'deg=2,a=5', passes);
    expect(lint(model, 'portable').verdict).toBe('rejected');
    const { model: lowered } = await lowerModel(model, { target: 'portable' });
    const { findings, verdict } = lint(lowered, 'portable');
    expect(findings.filter(({ severity }) => severity !== 'info')).toEqual([]);
    expect(verdict).toBe('ok');
    // The executed compilers take it too.
    for (const target of ['crypten', 'athos', 'ace'] as const)
      expect(['ok', 'unverified']).toContain(lint(lowered, target).verdict);
  });
});

describe('rules outside of the matrix', () => {
  const rules = (build: (g: ReturnType<typeof buildModel>) => void, target: (typeof TARGET_NAMES)[number]) => {
    const g = buildModel({ name: 'g', opset: 14, irVersion: 7 });
    build(g);
    return lint(g.model, target).findings.map(({ rule, severity }) => `${rule} ${severity}`);
  };
  const pool = (g: ReturnType<typeof buildModel>, attributes: Record<string, number | number[]>) =>
    g.output(g.node('AveragePool', [g.input('x', 'float', [1, 2, 8, 8])], attributes), 'y', 'float', [1, 2, 4, 4]);

  test('two outputs', () => {
    const two = (g: ReturnType<typeof buildModel>) => {
      const x = g.input('x', 'float', [1, 3]);
      for (const name of ['a', 'b']) g.output(g.node('Relu', [x]), name, 'float', [1, 3]);
    };
    expect(rules(two, 'crypten')).toContain('P019 rejected');
    expect(rules(two, 'portable')).toContain('P019 rejected');
    expect(rules(two, 'athos')).not.toContain('P019 rejected');
  });

  test('Concrete ML: opset, padding that may count, TFHE', () => {
    const counted = { kernel_shape: [2, 2], strides: [2, 2], pads: [1, 1, 1, 1] };
    expect(rules((g) => pool(g, counted), 'concrete-ml')).toContain('P022 wrong');
    expect(rules((g) => pool(g, { ...counted, count_include_pad: 0 }), 'concrete-ml')).toContain('P022 rejected');
    expect(rules((g) => pool(g, { ...counted, count_include_pad: 1 }), 'concrete-ml')).toEqual([]);
    expect(lint(readModel(LENET), 'concrete-ml').findings.map(({ rule }) => rule)).toContain('P012');
  });

  test('HElayers: pooling, groups, exponents', () => {
    const global = (g: ReturnType<typeof buildModel>) =>
      g.output(g.node('GlobalAveragePool', [g.input('x', 'float', [1, 2, 8, 8])]), 'y', 'float', [1, 2, 1, 1]);
    expect(rules(global, 'helayers')).toContain('P016 rejected');
    expect(rules(global, 'ezkl')).not.toContain('P016 rejected');
    const power = (exponent: number) => (g: ReturnType<typeof buildModel>) =>
      g.output(
        g.node('Pow', [g.input('x', 'float', [1, 3]), g.constant('n', 'float', [], [exponent])]),
        'y',
        'float',
        [1, 3],
      );
    expect(rules(power(2), 'helayers')).not.toContain('P004 rejected');
    expect(rules(power(0.5), 'helayers')).toContain('P004 rejected');
    expect(rules(power(0.5), 'ezkl')).toContain('P004 costly');
  });

  test('polynomials go through none of OnnxBridge', async () => {
    const { findings } = lint(await polynomial(LENET, 'deg=2,a=5'), 'ezpc-onnxbridge');
    expect(findings[0]).toMatchObject({ rule: 'P001', severity: 'rejected' });
    expect(findings[0]?.why).toContain('--target athos');
  });

  test('notes: depth, compile options, magnitudes', async () => {
    const { model } = await lowerModel(await polynomial(LENET, 'deg=2,a=5'), { target: 'ace' });
    const notes = (target: (typeof TARGET_NAMES)[number]) =>
      lint(model, target).findings.filter(({ severity }) => severity === 'info');
    expect(notes('ace').map(({ rule }) => rule)).toEqual(['P020', 'P024']);
    expect(
      notes('ace')
        .map(({ why }) => why)
        .join(),
    ).toContain('-VEC:ms=8192 -CKKS:N=16384');
    expect(notes('crypten').map(({ rule }) => rule)).toEqual(['P027']);
    expect(notes('concrete-ml').map(({ rule }) => rule)).toEqual(['P030']);
  });
});

describe('on the command line', () => {
  test('a table of all targets, and 0', async () => {
    const { code, out } = await sisyphus(['check', LENET]);
    expect(code).toBe(0);
    for (const target of TARGET_NAMES) expect(out).toContain(target);
    expect(out).toContain('ACE, CrypTen and Athos were executed');
  });

  test('one target: 3 where it refuses, 0 where it takes the file', async () => {
    const refused = await sisyphus(['check', LENET, '--target', 'ace', '--json']);
    expect(refused.code).toBe(3);
    const report = JSON.parse(refused.out);
    expect(report.targets).toHaveLength(1);
    expect(report.targets[0]).toMatchObject({ target: 'ace', verdict: 'rejected' });
    expect(report.targets[0].findings[0]).toEqual(
      expect.objectContaining({ rule: expect.stringMatching(/^P\d{3}$/), fix: expect.any(String) }),
    );
    const lowered = path.join(folder, 'lenet.onnx');
    await writeModel(
      (await lowerModel(await polynomial(LENET, 'deg=2,a=5'), { target: 'portable' })).model,
      lowered,
      {},
    );
    expect((await sisyphus(['check', lowered, '--target', 'portable'])).code).toBe(0);
  });

  test('names that are no targets', async () => {
    const unknown = await sisyphus(['check', LENET, '--target', 'portabel']);
    expect([unknown.code, unknown.err]).toEqual([2, expect.stringContaining("did you mean 'portable'")]);
    const known = await sisyphus(['check', LENET, '--target', 'TenSEAL']);
    expect([known.code, known.err]).toEqual([2, expect.stringContaining('without an ONNX importer')]);
  });
});

describe.skipIf(sharedMissing !== '')('whatever file', () => {
  test('real and odd ones get a verdict or an error that is one of ours, and the same twice', {
    timeout: 240_000,
  }, () => {
    let judged = 0;
    for (const file of sharedModels('models', 'odd')) {
      const full = path.join(SHARED, file);
      if (!existsSync(full) || readFileSync(full).length > 20e6) continue;
      try {
        const report = checkTargets(full);
        expect(report.targets).toHaveLength(TARGET_NAMES.length);
        expect(checkTargets(full, { target: 'portable' }).targets[0]).toEqual(report.targets[0]);
        judged++;
      } catch (error) {
        expect(error, file).toBeInstanceOf(SisyphusError);
      }
    }
    expect(judged).toBeGreaterThan(25);
  });
});
