/** Trained weights back in a model: nothing but their numbers changes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { buildNetwork, NETWORKS } from '../../models/index.ts';
import { lenet } from '../../models/lenet.ts';
import { buildModel } from '../../src/graph/build.ts';
import { setMetadata } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { parseModel, readModel } from '../../src/graph/read.ts';
import { makeTensor, type Tensor, tensorFromProto, toNumbers } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { copyMessage, encodeModel } from '../../src/graph/wire.ts';
import { modelToProto, serialize, writeModel } from '../../src/graph/write.ts';
import { lower } from '../../src/train/lower.ts';
import { raise } from '../../src/train/raise.ts';
import { noise } from '../support/numeric.ts';
import { reread } from '../support/passes.ts';
import { SHARED, sharedModels } from '../support/shared.ts';

/** As `lower` gives them. */
async function weightsOf(model: Model): Promise<Map<string, Float32Array>> {
  const { parameters, statistics } = await lower(model, 'g');
  return new Map([...parameters, ...statistics].map(({ name, value }) => [name, value]));
}

/** All tensors of the main graph, by the name of the value that they are. */
function tensors(model: Model): Map<string, Tensor> {
  const found = new Map<string, Tensor>(model.graph.initializers.map(({ value, tensor }) => [value.name, tensor]));
  for (const { outputs, attributes } of model.graph.nodes)
    for (const { proto } of attributes) if (proto.t) found.set(outputs[0]?.name ?? '', tensorFromProto(proto.t));
  return found;
}

describe('raise', () => {
  const files = sharedModels('models').filter((file) => !/int8|densenet|vgg19/.test(file));

  it.each([...NETWORKS.keys(), ...files])('what was lowered from %s gives the same bytes', async (name) => {
    const network = NETWORKS.get(name);
    const model = network
      ? buildNetwork(name, network.channels === 1 ? 'mnist' : 'cifar10', 1)
      : readModel(path.join(SHARED, name));
    const raised = raise(model, await weightsOf(model));
    expect(Buffer.compare(serialize(raised), serialize(model))).toBe(0);
  });

  it('new numbers change these tensors alone', async () => {
    const model = lenet(4);
    setMetadata(model, 'author', 'nobody');
    const before = Buffer.from(serialize(model));
    const weights = await weightsOf(model);
    const chosen = new Map(
      [...weights]
        .filter((_, i) => i % 3 === 0)
        .map(([name, value], i) => [name, Float32Array.from(noise(value.length, i))]),
    );
    const raised = raise(model, chosen);
    expect(verify(raised)).toEqual([]);
    expect(Buffer.compare(serialize(model), before)).toBe(0);
    const after = reread(raised);
    const old = tensors(model);
    for (const [name, tensor] of tensors(after)) {
      const expected = chosen.get(name) ?? toNumbers(old.get(name) as Tensor, { rounded: true });
      expect([...toNumbers(tensor, { rounded: true })], name).toEqual([...expected]);
      expect(tensor.dims).toEqual(old.get(name)?.dims);
    }
    // Everything but the tensors is what it was.
    const rest = (of: Model) => {
      const proto = modelToProto(of);
      return Buffer.concat(
        encodeModel(copyMessage(proto, { graph: copyMessage(proto.graph ?? {}, { initializer: [] }) })),
      );
    };
    expect(Buffer.compare(rest(after), rest(model))).toBe(0);
    // And the new numbers are what is lowered from it.
    const again = await weightsOf(after);
    for (const [name, value] of chosen) expect(again.get(name)).toEqual(value);
  });

  it('reaches Constant nodes, keeps what else a message says, and replaces every way of storing numbers', async () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', ['N', 2]);
    const held = b.node('Constant', [], { value: makeTensor('inside', 'float', [2, 2], [1, 2, 3, 4]) }, 'held');
    b.output(b.node('Gemm', [x, held, b.constant('bias', 'float', [2], [5, 6])], {}, 'gemm'), 'y', 'float', ['N', 2]);
    // The bias as float_data with a field that nobody knows, and one element unpacked.
    const proto = modelToProto(b.model);
    const bias = copyMessage(proto.graph?.initializer?.[0] ?? {}, {
      raw_data: undefined,
      float_data: [Buffer.from(Float32Array.of(5).buffer)],
    });
    const unknown = Buffer.from([0xc0, 0x07, 7]); // field 120, a number
    const unpacked = Buffer.concat([Buffer.from([(4 << 3) | 5]), Buffer.from(Float32Array.of(6).buffer)]);
    Object.defineProperty(bias, '$unknowns', { value: [unpacked, unknown], writable: true, configurable: true });
    const model = parseModel(
      Buffer.concat(
        encodeModel(copyMessage(proto, { graph: copyMessage(proto.graph ?? {}, { initializer: [bias] }) })),
      ),
    );
    expect([...toNumbers(tensors(model).get('bias') as Tensor)].sort()).toEqual([5, 6]);
    const weights = new Map([
      ['held_output', Float32Array.of(8, 7, 6, 5)],
      ['bias', Float32Array.of(-1, -2)],
    ]);
    const raised = reread(raise(model, weights));
    expect(await weightsOf(raised)).toEqual(weights);
    const stored = tensors(raised).get('bias')?.proto;
    expect(stored?.$unknowns).toEqual([unknown]);
    expect(tensors(raised).get('held_output')?.name).toBe('inside');
  });

  it('takes weights that lie in another file into the model', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-raise-'));
    try {
      const file = path.join(folder, 'm.onnx');
      await writeModel(lenet(6), file, { externalData: true });
      const model = readModel(file);
      const value = Float32Array.from(noise(2400, 3));
      const raised = raise(model, new Map([['conv2.weight', value]]));
      expect((await weightsOf(raised)).get('conv2.weight')).toEqual(value);
      const copy = parseModel(serialize(raised, { inline: true }));
      expect((await weightsOf(copy)).get('conv2.weight')).toEqual(value);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it.each([
    ['conv9.weight', 150, /stores no tensor 'conv9.weight'/],
    ['relu1_output', 1, /stores no tensor 'relu1_output'/],
    ['conv1.weight', 7, /'conv1.weight' is float \[6,1,5,5\] in the model, and gets 7 numbers/],
  ])('refuses %s with %i numbers', (name, length, reason) => {
    expect(() => raise(lenet(1), new Map([[name, new Float32Array(length)]]))).toThrow(reason);
  });
});
