/**
 * Every real model is rewritten with deg=4,a=5. The outputs are compared with a reference made apart from this project:
 * onnx-proto's decoder, the closed-form coefficients, the polynomial evaluated in float64.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { randomFeeds } from '../../src/eval/check.ts';
import { arrayNumbers, openSession } from '../../src/eval/session.ts';
import { readModel } from '../../src/graph/read.ts';
import { serialize } from '../../src/graph/write.ts';
import { rewriteModel } from '../../src/rewrite.ts';
import { makeRng } from '../../src/rng.ts';
import { expose, replaceInDouble } from '../support/reference.ts';
import { SHARED, sharedMissing, sharedModels } from '../support/shared.ts';

const A = 5;
/** Degree 4 on [-5, 5] in closed form; ReLU6 is ReLU there. */
const RELU = [(15 / 256) * A, 1 / 2, 105 / 128 / A, 0, -105 / 256 / A ** 3];
/** s x + (1 - s) relu(x), whose fit is linear in the same way. */
const leaky = (s: number) => RELU.map((c, k) => (1 - s) * c + (k === 1 ? s : 0));

type Node = Parameters<Parameters<typeof replaceInDouble>[1]>[0];

function activation(node: Node, constant: (name: string) => number[] | null): number[] | null {
  if (node.opType === 'Relu' || node.opType === 'Clip') return RELU;
  if (node.opType === 'LeakyRelu') return leaky(node.attribute?.find(({ name }) => name === 'alpha')?.f ?? 0.01);
  if (node.opType !== 'PRelu') return null;
  const slopes = constant(node.input?.[1] ?? '') ?? [];
  expect(new Set(slopes).size).toBe(1);
  return leaky(slopes[0] as number);
}

/** How many activations each has; Clip is ReLU6 in the one that has it. */
const COUNTS: Record<string, number> = {
  ace_resnet20_cifar10_pre: 19,
  ace_resnet32_cifar100_pre: 31,
  ace_resnet32_cifar10_pre: 31,
  burn_mnist: 4,
  cntk_mnist_8: 2,
  djl_mnist: 3,
  ezkl_prelu_gmm: 2,
  kanav99_lenet: 3,
  keras2onnx_mnist_lg: 2,
  lenet5_torch04: 5,
  light_densenet121: 121,
  light_shufflenet: 33,
  light_vgg19: 18,
  marabou_cifar10_large: 4,
  marabou_cifar10_small: 4,
  marabou_mnist5x20_leaky_relu: 6,
  mnist_fc_256x2: 2,
  mnist_fc_256x4: 4,
  oval21_cifar_deep_kw: 5,
  qonnx_residual_block: 2,
  sri_resnet_a: 8,
  super_resolution_10: 3,
  tinymobilenet_cifar10_dynamo: 13,
  tinymobilenet_cifar10_int8: 0,
  vit_pgd_2_3_16: 2,
  yolo_tiny: 7,
  'zuramai_mnist_dynamo/mnist': 1,
};

/**
 * Relative to the largest value of a tensor. Both sides round to float32 in different places; networks whose values
 * leave [-5, 5] multiply the difference at each activation.
 */
const TOLERANCE = 1e-5;
const RELU_FAMILY = ['Relu', 'Clip', 'LeakyRelu', 'PRelu', 'Max', 'Where'];

describe.skipIf(sharedMissing)(`real models, deg=4,a=5 ${sharedMissing && `(skipped: ${sharedMissing})`}`, () => {
  const files = sharedModels('models');
  it('are the ones expected', () => {
    expect(files.map((file) => file.replace(/^models\/|\.onnx$/g, '')).sort()).toEqual(Object.keys(COUNTS).sort());
  });

  it.each(files)('%s', async (file) => {
    const original = readModel(path.join(SHARED, file));
    const { model, passes } = await rewriteModel(original, { poly: [`deg=4,a=${A}`] });
    const count = COUNTS[file.replace(/^models\/|\.onnx$/g, '')];
    expect(passes[0]?.applied).toHaveLength(count as number);
    expect(passes[0]?.skipped).toEqual([]);
    expect(model.graph.nodes.filter(({ op }) => RELU_FAMILY.includes(op))).toEqual([]);
    expect([model.opsets, model.irVersion]).toEqual([original.opsets, original.irVersion]);

    const inline = original.graph.initializers.some(({ tensor }) => tensor.external);
    const bytes = inline ? serialize(original, { inline: true }) : readFileSync(path.join(SHARED, file));
    const reference = replaceInDouble(bytes, activation);
    expect(reference.replaced).toHaveLength(count as number);

    // Every activation's output is compared, not only the network's: that may have overflowed in both.
    const feeds = randomFeeds(original, makeRng(1));
    const expected = await outputs(expose(reference.bytes, reference.replaced), feeds);
    const found = await outputs(expose(serialize(model, { inline: true }), reference.replaced), feeds);
    let finite = 0;
    for (const [name, values] of expected) {
      const { scale, worst } = difference(arrayNumbers(values), arrayNumbers(found.get(name) as typeof values));
      if (worst > TOLERANCE * scale) expect.fail(`${name}: off by ${worst} at a scale of ${scale}`);
      if (scale > 0) finite++;
    }
    expect(finite).toBeGreaterThanOrEqual(Math.min(expected.size, 2));
  });
});

/** Largest difference of finite values; infinite where only one side is finite. */
function difference(expected: Float64Array, found: Float64Array) {
  let [scale, worst] = [0, 0];
  for (const [i, want] of expected.entries()) {
    const got = found[i] as number;
    if (Number.isFinite(want)) scale = Math.max(scale, Math.abs(want));
    if (Number.isFinite(want) !== Number.isFinite(got)) worst = Number.POSITIVE_INFINITY;
    else if (Number.isFinite(want)) worst = Math.max(worst, Math.abs(want - got));
  }
  return { scale, worst };
}

async function outputs(model: Uint8Array, feeds: ReturnType<typeof randomFeeds>) {
  const session = await openSession(model, { optimize: false });
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}
