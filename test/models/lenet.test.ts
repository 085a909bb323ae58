import { readFileSync } from 'node:fs';
import path from 'node:path';
import ort from 'onnxruntime-node';
import { describe, expect, test } from 'vitest';
import { lenet } from '../../models/lenet.ts';
import { parseModel, readModel } from '../../src/graph/read.ts';
import { elementCount, toNumbers } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { serialize } from '../../src/graph/write.ts';
import { makeRng } from '../../src/rng.ts';

const FILE = path.resolve(import.meta.dirname, '../../models/lenet.onnx');

describe('the LeNet sample', () => {
  const model = readModel(FILE);
  const tensors = model.graph.initializers.map(({ tensor }) => tensor);
  const named = (pattern: RegExp) => tensors.filter(({ name }) => pattern.test(name));
  const elements = (list: typeof tensors) => list.reduce((sum, { dims }) => sum + elementCount(dims), 0);

  test('is what `npm run models` makes', () => {
    expect(Buffer.from(serialize(lenet(42))).equals(readFileSync(FILE))).toBe(true);
  });

  test('is well-formed, and another seed gives other weights', () => {
    expect(verify(model)).toEqual([]);
    expect(Buffer.from(serialize(lenet(43))).equals(readFileSync(FILE))).toBe(false);
  });

  test("has the paper's counts", () => {
    expect(elements(named(/^(?!.*running)/))).toBe(44_878);
    // Multiply-adds: every weight of a convolution is used once for each output pixel.
    const pixels: Record<string, number> = { 'conv1.weight': 24 * 24, 'conv2.weight': 8 * 8 };
    const macs = named(/^(conv|fc).*weight$/).map((t) => elementCount(t.dims) * (pixels[t.name] ?? 1));
    expect(macs.reduce((a, b) => a + b)).toBe(281_640);
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

  test("weights are drawn within PyTorch's default bounds, batch normalisation is in its initial state", () => {
    for (const tensor of named(/^(conv|fc)/)) {
      const fanIn = tensor.dims.slice(1).reduce((a, b) => a * b, 1);
      const bias = tensor.dims.length === 1;
      const bound =
        1 / Math.sqrt(bias ? ({ 6: 25, 16: 150, 120: 256, 84: 120, 10: 84 }[tensor.dims[0] ?? 0] ?? 0) : fanIn);
      const largest = Math.max(...toNumbers(tensor).map(Math.abs));
      expect(largest).toBeLessThanOrEqual(Math.fround(bound));
      expect(largest).toBeGreaterThan(0.7 * bound);
    }
    for (const tensor of named(/^bn/)) {
      const value = /weight|var/.test(tensor.name) ? 1 : 0;
      expect(toNumbers(tensor).every((number) => number === value)).toBe(true);
    }
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
    for (const [i, value] of first.entries()) expect(all[i]).toBeCloseTo(value, 5);
    expect(new Set(all).size).toBeGreaterThan(40); // not degenerate
    await session.release();
  });
});
