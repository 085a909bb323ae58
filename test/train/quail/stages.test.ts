/** Stages of the paper's networks and of third-party ones. */
import { describe, expect, it } from 'vitest';
import { buildNetwork } from '../../../models/index.ts';
import type { Model } from '../../../src/graph/ir.ts';
import { parseSiteSpec } from '../../../src/poly/spec.ts';
import { quailPlan } from '../../../src/train/quail/quail.ts';
import { cutStages, LOGITS } from '../../../src/train/quail/stages.ts';
import { plannedSites } from '../../../src/train/quail/student.ts';
import { saveModel, testFolder } from '../../support/arrays.ts';
import { sharedModel } from '../../support/passes.ts';

const folder = testFolder();
const quad = { poly: [parseSiteSpec('quad')] };
const stagesOf = (model: Model) =>
  cutStages(
    model,
    'test',
    plannedSites(model, 'test', quad).map(({ name }) => name),
  );

describe('stages', () => {
  // ReLU nodes and one for the logits (the paper's networks, layer by layer).
  it.each<[string, string, number]>([
    ['mlp', 'mnist', 2],
    ['lenet', 'mnist', 5],
    ['alexnet', 'cifar10', 8],
    ['vgg11', 'cifar10', 9],
    ['resnet18', 'cifar10', 18],
    ['resnet32', 'cifar10', 32],
    ['mobilenetv1', 'cifar10', 28],
  ])('of %s on %s: %i, each node in one of them', (network, dataset, count) => {
    const model = buildNetwork(network, dataset, 1);
    const stages = stagesOf(model);
    expect(stages).toHaveLength(count);
    expect(stages.at(-1)?.name).toBe(LOGITS);
    const all = stages.flatMap(({ nodes }) => [...nodes]);
    expect(new Set(all).size).toBe(all.length);
    expect(stages[0]?.carries).toEqual(model.graph.inputs.map(({ value }) => value.name));
  });

  it('give the convolution of a shortcut, and its batch norm, to the stage that adds it', () => {
    const stages = stagesOf(buildNetwork('resnet18', 'cifar10', 1));
    const counts = stages.map(({ nodes }) => [...nodes].filter(({ op }) => op === 'Conv').length);
    // The second stage of the first block of each group but the first has two.
    expect(counts).toEqual([1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 0]);
    // Within a block two values go on: the block's input and what its first convolution made.
    expect(stages.slice(1, 5).map(({ carries }) => carries.length)).toEqual([1, 2, 1, 2]);
  });

  it('are listed with all weights, each once', async () => {
    const model = buildNetwork('resnet32', 'cifar10', 1);
    const stages = await quailPlan(saveModel(folder, 'resnet32', model));
    const names = stages.flatMap(({ parameters }) => parameters.map(({ name }) => name));
    expect(new Set(names).size).toBe(names.length);
    const total = stages.flatMap(({ parameters }) => parameters.map(({ dims }) => dims.reduce((a, b) => a * b, 1)));
    expect(total.reduce((a, b) => a + b, 0)).toBe(464_154); // paper-and-peer: parameters of ResNet32 for CIFAR-10
    expect(stages.map(({ shape }) => shape)).toContainEqual([16, 32, 32]);
    expect(stages.at(-1)).toMatchObject({ name: 'logits', activation: false, shape: [10], batchnorm: false });
  });

  for (const name of ['ace_resnet20_cifar10_pre', 'burn_mnist', 'djl_mnist', 'kanav99_lenet', 'mnist_fc_256x4']) {
    const model = sharedModel(`models/${name}.onnx`);
    it.skipIf(!model)(`of ${name}`, () => {
      const stages = stagesOf(model as Model);
      expect(stages.at(-1)?.name).toBe(LOGITS);
      expect(stages).toHaveLength(1 + (model as Model).graph.nodes.filter(({ op }) => op === 'Relu').length);
    });
  }
});
