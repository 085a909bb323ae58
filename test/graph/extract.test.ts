/** Parts of graphs: computed one after the other they give what the whole gives, in real onnxruntime. */
import { describe, expect, it } from 'vitest';
import { buildNetwork } from '../../models/index.ts';
import { arrayFromTensor, type NdArray } from '../../src/eval/session.ts';
import { extract } from '../../src/graph/extract.ts';
import type { Initializer, Model } from '../../src/graph/ir.ts';
import { verify } from '../../src/graph/verify.ts';
import { cutStages } from '../../src/train/quail/stages.ts';
import { expectClose, noiseArray, runModel } from '../support/numeric.ts';
import { sharedModel } from '../support/passes.ts';

const names = (model: Model) => model.graph.nodes.filter(({ op }) => op === 'Relu').map(({ name }) => name);

/** The model, and the same cut before every so many stages. */
async function inParts(model: Model, dims: readonly number[], each: number): Promise<void> {
  const [input] = model.graph.inputs.filter(({ value }) => !value.initializer);
  const feeds = new Map([[input?.value.name ?? '', noiseArray('float', dims, 3)]]);
  const whole = await runModel(model, feeds);
  const stages = cutStages(model, 'test', names(model));
  let values: Map<string, NdArray> = feeds;
  for (let at = 0; at < stages.length; at += each) {
    const next = stages[at + each];
    const wanted = next ? next.carries : model.graph.outputs.map(({ value }) => value.name);
    const part = extract(
      model,
      [...values.keys()],
      wanted.filter((name) => !values.has(name)),
    );
    expect(verify(part)).toEqual([]);
    const made = await runModel(
      part,
      new Map(part.graph.inputs.map(({ value: { name } }) => [name, values.get(name) as NdArray])),
    );
    values = new Map(wanted.map((name) => [name, (made.get(name) ?? values.get(name)) as NdArray]));
  }
  for (const [name, { data }] of whole)
    expectClose(values.get(name)?.data as Float32Array, data as Float32Array, 1e-6 * largest(data as Float32Array));
}

const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

describe('extract', () => {
  it.each<[string, number[], number]>([
    ['lenet:mnist', [3, 1, 28, 28], 1],
    ['resnet32:cifar10', [2, 3, 32, 32], 1],
    ['resnet32:cifar10', [2, 3, 32, 32], 3],
    ['resnet18:cifar10', [1, 3, 32, 32], 2],
  ])('cuts %s %j before every %i. stage', async (text, dims, each) => {
    const [network = '', dataset = ''] = text.split(':');
    await inParts(buildNetwork(network, dataset, 1), dims, each);
  });

  const third = sharedModel('models/ace_resnet20_cifar10_pre.onnx');
  it.skipIf(!third)('cuts a residual network of others', () => inParts(third as Model, [1, 3, 32, 32], 2));

  it('leaves out what the part does not read, and refuses what it can not know', () => {
    const model = buildNetwork('lenet', 'mnist', 1);
    const [first, second] = cutStages(model, 'test', names(model));
    const part = extract(model, [...(first?.carries ?? []), ...(second?.carries ?? [])], [second?.output ?? '']);
    expect(part.graph.inputs.map(({ value }) => value.name)).toEqual(second?.carries);
    expect(part.graph.initializers.length).toBeLessThan(model.graph.initializers.length);
    expect(() => extract(model, ['nothing'], ['logits'])).toThrow("no value 'nothing'");
    expect(() => extract(model, [], [second?.output ?? ''])).toThrow('which is not given');
    expect(() => extract(model, [], first?.carries ?? [])).toThrow('which is not given');
    expect(() => extract(model, first?.carries ?? [], first?.carries ?? [])).toThrow('it is not computed');
  });

  it('keeps a constant that is asked for', async () => {
    const model = buildNetwork('lenet', 'mnist', 1);
    const { value, tensor } = model.graph.initializers[0] as Initializer;
    const part = extract(model, [], [value.name]);
    expect(verify(part)).toEqual([]);
    expect((await runModel(part, new Map())).get(value.name)).toEqual(arrayFromTensor(tensor));
  });
});
