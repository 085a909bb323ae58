import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { compare } from '../src/eval/compare.ts';
import { cost } from '../src/graph/cost.ts';
import type { Model } from '../src/graph/ir.ts';
import { readModel } from '../src/graph/read.ts';
import { inferTypes } from '../src/graph/shapes.ts';
import { verify } from '../src/graph/verify.ts';
import { lower, lowerModel } from '../src/lower.ts';
import { rewrite, rewriteModel } from '../src/rewrite.ts';
import { LOWERING_TARGETS } from '../src/targets/targets.ts';
import { sharedData, sharedDataMissing } from './support/data.ts';
import { expectSame } from './support/numeric.ts';
import { reread } from './support/passes.ts';
import { REPOSITORY, SHARED, sharedMissing } from './support/shared.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-lower-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const LENET = path.join(REPOSITORY, 'models', 'lenet.onnx');
const depth = (model: Model) => cost(model, inferTypes(model)).depth;
const polynomial = async (file: string, spec: string, passes: string[] = []) =>
  (await rewriteModel(readModel(file), { poly: [spec], passes })).model;

describe('LeNet', () => {
  test.each([2, 4])('degree %i: a level less for each of the four activations, the same outputs', async (degree) => {
    const model = await polynomial(LENET, `deg=${degree},a=5`, ['fold-batchnorm']);
    const { model: lowered, check } = await lowerModel(model, { target: 'portable' });
    expect(depth(model) - depth(lowered)).toBeGreaterThanOrEqual(4);
    expect(check?.toleranceNeeded).toBeLessThan(1e-5);
    await expectSame(model, reread(lowered), { atol: 0, rtol: 1e-5 }, 3);
  });

  test.each(LOWERING_TARGETS)('for %s: checked, valid, and the same once more', async (target) => {
    const { model, check } = await lowerModel(await polynomial(LENET, 'deg=2,a=5'), { target });
    expect(check?.passed).toBe(true);
    expect(verify(reread(model))).toEqual([]);
    const again = await lowerModel(model, { target });
    const changed = again.passes.flatMap(({ applied }) => applied);
    expect(changed).toEqual([]);
  });

  test('rewrite --target writes what rewrite and lower do one after the other', async () => {
    const [one, two] = ['one.onnx', 'two.onnx'].map((name) => path.join(folder, name)) as [string, string];
    await rewrite(LENET, { poly: ['deg=2,a=5'], target: 'ace', output: one });
    await rewrite(LENET, { poly: ['deg=2,a=5'], output: two });
    const { output } = await lower(two, { target: 'ace' });
    expect(output).toBe(path.join(folder, 'two.ace.onnx'));
    const [a, b] = [readModel(one), readModel(output)];
    expect(a.graph.nodes.map(({ op, name }) => [op, name])).toEqual(b.graph.nodes.map(({ op, name }) => [op, name]));
    await expectSame(a, b, { atol: 0, rtol: 0 });
  });

  test('refusals: no target, a target that reads no ONNX, an existing file', async () => {
    await expect(lower(LENET, { target: 'portabel' })).rejects.toThrow("did you mean 'portable'");
    await expect(lower(LENET, { target: 'orion' })).rejects.toThrow('reads no ONNX file');
    const output = path.join(folder, 'there.onnx');
    await lower(LENET, { target: 'ezkl', output });
    await expect(lower(LENET, { target: 'ezkl', output })).rejects.toThrow('exists already');
  });
});

/** Model, passes before, and the data that it was made for. */
const REAL: [string, string[], 'mnist' | 'cifar10', string][] = [
  ['kanav99_lenet', ['replace-maxpool'], 'mnist', 'mnist'],
  ['burn_mnist', [], 'mnist', 'mnist'],
  ['mnist_fc_256x4', [], 'mnist', 'scale=1/255'],
  ['ace_resnet20_cifar10_pre', [], 'cifar10', 'mean=.4914,.4822,.4465,std=.2023,.1994,.2010'],
  ['oval21_cifar_deep_kw', [], 'cifar10', 'mean=.485,.456,.406,std=.225,.225,.225'],
];

describe.skipIf(sharedMissing !== '' || sharedDataMissing !== '')('third-party networks on real data', () => {
  test.each(REAL)('%s for portable', { timeout: 120_000 }, async (name, passes, set, normalize) => {
    const file = path.join(SHARED, 'models', `${name}.onnx`);
    expect(existsSync(file)).toBe(true);
    const source = path.join(folder, `${name}.poly.onnx`);
    // The range keeps what leaves it within bounds on real images, so that there is something to compare.
    await rewrite(file, { poly: ['deg=2,a=20'], passes: [...passes, 'drop-softmax'], output: source });
    const { output, check } = await lower(source, { target: 'portable' });
    expect(check?.passed).toBe(true);
    const data = `${set}:${path.join(sharedData(set), set)}`;
    const report = await compare(source, output, { data, normalize, limit: 64, batch: 1 });
    expect(report.images).toBe(64);
    expect(report.nonFinite).toEqual([0, 0]);
    expect(report.agreement).toBe(1);
    expect(report.output.scale).toBeGreaterThan(0);
    expect(report.output.maxAbs / report.output.scale).toBeLessThan(1e-4);
  });
});
