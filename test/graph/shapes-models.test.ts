/** Type inference over real models. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { cost } from '../../src/graph/cost.ts';
import { readModel } from '../../src/graph/read.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { allNodes } from '../../src/graph/walk.ts';
import { SHARED, sharedMissing } from '../support/shared.ts';
import { compareTypes } from './ort-types.ts';
import { oddFiles, sharedTable } from './shared-models.ts';

const missing = sharedMissing ? ` (skipped: ${sharedMissing})` : '';
/** Hundreds of megabytes of weights, or seconds of arithmetic. */
const SLOW = new Set(['light_vgg19', 'light_densenet121', 'super_resolution_10']);
/** Operators of com.microsoft, of which nothing is known. */
const FOREIGN = new Set(['tinymobilenet_cifar10_int8']);

/** The input states no sizes. */
const UNSTATED = new Set(['synthetic/relu_dynamic_all.onnx']);

describe.skipIf(sharedMissing)(`types of all values as onnxruntime finds them${missing}`, () => {
  for (const { name, file } of sharedTable()) {
    const slow = SLOW.has(name) && !process.env.SISYPHUS_SLOW;
    it.skipIf(slow)(`${name}${slow ? ' (skipped: slow; set SISYPHUS_SLOW=1)' : ''}`, { timeout: 120_000 }, async () => {
      const { wrong, open, count } = await compareTypes(readModel(file));
      expect(wrong).toEqual([]);
      if (!FOREIGN.has(name)) expect(open.length / count, open.join('\n')).toBeLessThanOrEqual(0.01);
    });
  }

  for (const file of oddFiles())
    it(file, { timeout: 60_000 }, async () => {
      const { wrong, open } = await compareTypes(readModel(path.join(SHARED, 'odd', file)));
      expect(wrong).toEqual([]);
      if (!UNSTATED.has(file)) expect(open).toEqual([]);
    });
});

describe.skipIf(sharedMissing)(`functions of exporters${missing}`, () => {
  it.each([
    ['resnet18', 1_814_073_344, 36],
    ['mobilenetv2_100', 300_774_272, 158],
  ])('%s is understood call by call', (name, macs, depth) => {
    const model = readModel(path.join(SHARED, `odd/ir-py-textproto/${name}/${name}_dynamo.onnx`));
    const types = inferTypes(model);
    // All layers share one function for convolution, so its own values have no size in common.
    const main = model.graph.nodes.flatMap((node) => node.outputs.map((value) => value && types.get(value).shape));
    expect(main.filter((shape) => !shape || shape.includes(null))).toEqual([]);
    expect([...allNodes(model)].filter(({ op }) => op === 'Conv').length).toBe(1);
    expect(cost(model, types)).toMatchObject({ macs, depth });
  });
});
