/** Networks under real encryption (node-seal), against onnxruntime. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { encryptEval } from '../../src/encrypt/encrypt-eval.ts';
import { errorFactor } from '../../src/encrypt/error.ts';
import { evaluateEncrypted } from '../../src/encrypt/evaluate.ts';
import { layOut } from '../../src/encrypt/layouts.ts';
import { BUDGETS, chooseParameters } from '../../src/encrypt/parameters.ts';
import { makeProgram, runClear } from '../../src/encrypt/program.ts';
import { openSeal } from '../../src/encrypt/seal.ts';
import { buildModel } from '../../src/graph/build.ts';
import type { Model } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { writeModel } from '../../src/graph/write.ts';
import { newNetwork } from '../../src/new.ts';
import { rewrite } from '../../src/rewrite.ts';
import { train } from '../../src/train/train.ts';
import { sisyphus } from '../support/cli.ts';
import { sharedData, sharedDataMissing } from '../support/data.ts';
import { noise } from '../support/numeric.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-encrypt-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => path.join(folder, name);

/** Gemm layers of these sizes with a polynomial after each but the last. */
function chain(sizes: readonly number[], coefficients: readonly number[], more?: 'branch' | 'relu'): Model {
  const g = buildModel({ name: 'g', opset: 17 });
  let x = g.input('x', 'float', ['N', sizes[0] ?? 1]);
  for (const [i, outs] of sizes.slice(1).entries()) {
    const ins = sizes[i] as number;
    const w = g.constant(
      'w',
      'float',
      [ins, outs],
      noise(ins * outs, i + 1).map((v) => v / Math.sqrt(ins)),
    );
    const before = x;
    x = g.node('Gemm', [x, w, g.constant('b', 'float', [outs], noise(outs, i + 50))]);
    if (i === sizes.length - 2) break;
    const c = (k: number) => g.constant('c', 'float', [], [coefficients[k] ?? 0]);
    const degree = coefficients.length - 1;
    let p = g.node('Mul', [x, c(degree)]);
    for (let k = degree - 1; k >= 0; k--) {
      p = g.node('Add', [p, c(k)]);
      if (k > 0) p = g.node('Mul', [p, x]);
    }
    if (more === 'relu') p = g.node('Relu', [p]);
    x = more === 'branch' && i === 1 ? g.node('Add', [p, before]) : p;
  }
  g.output(x, 'y', 'float', ['N', sizes.at(-1) ?? 1]);
  return g.model;
}

const NOTHING = { diagonals: new Map(), room: 0 };

describe('polynomials under encryption', () => {
  test.each<[string, readonly number[]]>([
    ['a square', [0.1, 0.5, 0.25]],
    ['a negative square without linear term', [0.1, 0, -0.25]],
    ['a cubic', [0.1, 0.5, 0.2, 0.05]],
    ['a negative cubic', [0, 0.5, 0, -0.05]],
    ['a quartic', [0.1, 0.5, 0.3, 0.02, 0.03]],
    ['a negative quartic', [0.1, 0.5, 0.3, 0, -0.03]],
  ])('%s', { timeout: 60_000 }, async (_, coefficients) => {
    const program = await makeProgram(chain([20, 12, 5], coefficients), 'chain', { width: 4096 });
    const input = Float64Array.from(noise(20, 9));
    const layout = layOut(program, 4096);
    const factor = errorFactor(program, layout.plans, [input]);
    const parameters = chooseParameters({
      levels: program.levels,
      width: 32,
      largestLogit: 4,
      tolerance: 1e-3,
      factor,
    });
    const seal = await openSeal(parameters, layout.steps);
    try {
      const scale = 2 ** parameters.scaleBits;
      const { logits } = await evaluateEncrypted(seal, program, layout, input, scale, NOTHING, async () => {});
      const exact = runClear(program, input);
      const error = Math.max(...logits.map((value, i) => Math.abs(value - (exact[i] as number))));
      expect(logits).toHaveLength(5);
      expect(error).toBeLessThan(parameters.expectedError);
      expect(error).toBeGreaterThan(0);
    } finally {
      seal.close();
    }
  });
});

describe('parameters', () => {
  test('keep to the budget and to the three rules', () => {
    for (const levels of [2, 3, 5, 9, 13])
      for (const largestLogit of [0.1, 5, 200]) {
        const { degree, bits, scaleBits, totalBits } = chooseParameters({
          levels,
          width: 1024,
          largestLogit,
          tolerance: 1e-3,
          factor: 25,
        });
        expect(bits).toHaveLength(levels + 2);
        expect(totalBits).toBeLessThanOrEqual(BUDGETS.get(degree) ?? 0);
        const [first = 0, special = 0] = [bits[0], bits.at(-1)];
        expect(2 ** (first - scaleBits - 1)).toBeGreaterThan(2 * largestLogit);
        expect(special).toBeGreaterThanOrEqual(first + 10);
        expect(Math.max(...bits)).toBeLessThanOrEqual(60);
      }
  });

  test('the depth that is left is said', () => {
    const ask = (levels: number) => () =>
      chooseParameters({ levels, width: 1024, largestLogit: 5, tolerance: 1e-3, factor: 25 });
    expect(ask(28)).not.toThrow();
    expect(ask(39)).toThrow(/needs 39 levels .* SEAL offers 28 at 128-bit security/);
  });

  test('SEAL refuses what is not secure, and is believed', async () => {
    const insecure = { degree: 4096, bits: [60, 60, 60], scaleBits: 60, levels: 1, totalBits: 180, expectedError: 0 };
    await expect(openSeal(insecure, [1])).rejects.toThrow('for 128-bit security');
  });
});

describe('refusals', () => {
  const run = async (model: Model, width = 4096) => makeProgram(model, 'net', { width });
  test('branches, activations that are left, width', async () => {
    await expect(run(chain([8, 8, 8, 4], [0.1, 0.5, 0.2], 'branch'))).rejects.toThrow(
      'a branch goes around an activation',
    );
    await expect(run(chain([8, 8, 4], [0.1, 0.5, 0.2], 'relu'))).rejects.toThrow(/Relu '.*' is no polynomial/);
    await expect(run(chain([8, 8, 4], [0.1, 0.5, 0.2]), 4)).rejects.toThrow('its widest value has 8 features');
    await expect(run(chain([8, 8, 4], [0.1, 0.5, 0.2, 0, 0, 0.1]))).rejects.toThrow('polynomial of degree 5');
  });

  test('too many levels, on the command line', async () => {
    const file = at('deep.onnx');
    const { model } = await rewriteDeep();
    await writeModel(model, file, {});
    const { code, err } = await sisyphus(['encrypt-eval', file, '--data', 'synthetic', '--limit', '1']);
    expect([code, err]).toEqual([1, expect.stringMatching(/needs 33 levels .* SEAL offers \d+/)]);
  });

  async function rewriteDeep() {
    const g = buildModel({ name: 'deep', opset: 17 });
    let x = g.node('Flatten', [g.input('x', 'float', ['N', 1, 28, 28])]);
    for (let i = 0, ins = 784; i < 17; i++) {
      const outs = i === 16 ? 10 : 16;
      x = g.node('Gemm', [
        x,
        g.constant(
          'w',
          'float',
          [ins, outs],
          noise(ins * outs, i + 1).map((v) => v / ins),
        ),
      ]);
      if (i < 16) x = g.node('Mul', [x, x]);
      ins = outs;
    }
    g.output(x, 'y', 'float', ['N', 10]);
    return { model: g.model };
  }
});

test('the sample network of the package, normalised in the clear, softmax cut off', { timeout: 120_000 }, async () => {
  await newNetwork('mlp', { dataset: 'synthetic', output: at('mlp.onnx'), seed: 3 });
  await rewrite(at('mlp.onnx'), { poly: ['quad'], output: at('mlp2.onnx') });
  const report = await encryptEval(at('mlp2.onnx'), { data: 'synthetic', limit: 2 });
  expect(report.agreement).toBe(1);
  expect(report.passed).toBe(true);
  expect(report.levels).toBe(3);
  expect(report.parameters.degree).toBe(8192);
  // The second image has its diagonals encoded already.
  expect(report.seconds.perImage).toHaveLength(2);
});

describe.skipIf(sharedDataMissing !== '')('real MNIST', () => {
  test('an MLP with Quad: 20 test images, the same classes, logits within 1e-3', {
    timeout: 240_000,
  }, async () => {
    const data = `mnist:${path.join(sharedData('mnist'), 'mnist')}`;
    await newNetwork('mlp', { dataset: 'mnist', output: at('m.onnx'), seed: 42 });
    await rewrite(at('m.onnx'), { poly: ['quad'], output: at('mq.onnx') });
    const options = { data, epochs: 1, limit: 10_000, lr: 0.01, run: at('run'), output: at('mt.onnx') };
    await train(at('mq.onnx'), options as Parameters<typeof train>[1]);
    expect(existsSync(at('mt.onnx'))).toBe(true);
    const report = await encryptEval(at('mt.onnx'), { data, limit: 20 });
    expect(report.images).toBe(20);
    expect(report.agreement).toBe(1);
    expect(report.maxError).toBeLessThanOrEqual(1e-3);
    expect(report.encryptionError).toBeLessThanOrEqual(report.expectedError);
    expect(report.parameters).toMatchObject({ degree: 8192, security: 128 });
    expect(report.top1?.encrypted).toBe(report.top1?.clear);
    expect(report.top1?.clear).toBeGreaterThan(0.8);
  });
});

test('a file that has its activations still is refused before anything is encrypted', async () => {
  const lenet = path.join(REPOSITORY, 'models', 'lenet.onnx');
  expect(readModel(lenet).graph.nodes.length).toBeGreaterThan(0);
  const { code, err } = await sisyphus(['encrypt-eval', lenet, '--data', 'synthetic', '--limit', '1']);
  expect([code, err]).toEqual([1, expect.stringContaining("Relu 'relu1' is no polynomial: replace it first")]);
});
