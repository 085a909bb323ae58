import path from 'node:path';
import ort from 'onnxruntime-node';
import { describe, expect, test } from 'vitest';
import { lenet } from '../../models/lenet.ts';
import { evaluate } from '../../src/eval/accuracy.ts';
import type { Model } from '../../src/graph/ir.ts';
import { parseModel, readModel } from '../../src/graph/read.ts';
import { verify } from '../../src/graph/verify.ts';
import { serialize } from '../../src/graph/write.ts';
import { makeRng } from '../../src/rng.ts';

const FILE = path.resolve(import.meta.dirname, '../../models/lenet.onnx');

describe('models/lenet.onnx', () => {
  const model = readModel(FILE);

  test('is trained: 99 % of the generated test images, with the preprocessing that it records', async () => {
    const { models } = await evaluate([FILE], { data: 'synthetic' });
    expect(models[0]?.top1).toBeGreaterThan(0.99);
    expect(models[0]?.preprocessing.source).toBe('model');
  });

  test('is well-formed, and its layers are those of the builder, whatever the weights', () => {
    expect(verify(model)).toEqual([]);
    expect(layersOf(model)).toEqual(layersOf(parseModel(serialize(lenet(0)))));
    expect(model.graph.nodes.map((node) => node.name)).toEqual(
      ['conv1', 'bn1', 'relu1', 'pool1', 'conv2', 'bn2', 'relu2', 'pool2', 'flatten'].concat([
        'fc1',
        'bn3',
        'relu3',
        'fc2',
        'bn4',
        'relu4',
        'fc3',
      ]),
    );
  });

  test('has 4,684 ReLU elements, as onnxruntime counts them', async () => {
    // A copy in which the ReLUs are outputs too: their shapes come from the runtime, not from this toolkit.
    const copy = parseModel(serialize(model));
    const relus = copy.graph.nodes.filter((node) => node.op === 'Relu').map((node) => node.outputs[0]?.name ?? '');
    const { default: onnxProto } = await import('onnx-proto');
    const proto = onnxProto.onnx.ModelProto.decode(serialize(model));
    for (const name of relus) proto.graph?.output?.push(onnxProto.onnx.ValueInfoProto.create({ name }));
    const session = await ort.InferenceSession.create(onnxProto.onnx.ModelProto.encode(proto).finish());
    const results = await session.run({ input: new ort.Tensor('float32', new Float32Array(784), [1, 1, 28, 28]) });
    expect(relus.map((name) => results[name]?.size)).toEqual([3456, 1024, 120, 84]);
    await session.release();
  });

  test('onnxruntime runs it with any batch, and images do not influence each other', async () => {
    const session = await ort.InferenceSession.create(FILE);
    const rng = makeRng(7);
    const images = Float32Array.from({ length: 5 * 784 }, () => rng.uniform());
    const run = async (data: Float32Array, batch: number) => {
      const { output } = await session.run({ input: new ort.Tensor('float32', data, [batch, 1, 28, 28]) });
      expect(output?.dims).toEqual([batch, 10]);
      return output?.data as Float32Array;
    };
    const all = await run(images, 5);
    const first = await run(images.subarray(0, 784), 1);
    expect(all.length).toBe(50);
    const scale = Math.max(...all.map(Math.abs));
    for (const [i, value] of first.entries()) expect(Math.abs((all[i] ?? 0) - value)).toBeLessThan(1e-5 * scale);
    expect(new Set(all).size).toBeGreaterThan(40); // not degenerate
    await session.release();
  });
});

/** Nodes with their inputs and attributes, and the shapes of weights. */
const layersOf = ({ graph }: Model) => ({
  nodes: graph.nodes.map(({ op, name, inputs, outputs, attributes }) => ({
    op,
    name,
    inputs: inputs.map((value) => value?.name ?? ''),
    outputs: outputs.map((value) => value?.name ?? ''),
    attributes: attributes.map(({ proto }) => ({ ...proto })),
  })),
  weights: graph.initializers.map(({ tensor: { name, elem, dims } }) => ({ name, elem, dims })),
});
