import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildNetwork, DATASETS, NETWORKS } from '../../models/index.ts';
import {
  type Architecture,
  adaptiveAveragePool,
  assemble,
  dropout,
  type Features,
  type ImageSet,
  type Net,
  subsampleAndPad,
} from '../../models/layers.ts';
import { arrayFromNumbers } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel, setInitializer } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { elementCount, makeTensor, rawBytes, type Tensor } from '../../src/graph/tensor.ts';
import { serialize } from '../../src/graph/write.ts';
import { summarize } from '../../src/inspect.ts';
import { makeRng, type Rng } from '../../src/rng.ts';
import { noiseArray, numbersOf, runModel } from '../support/numeric.ts';

/** What PyTorch counted in the networks of the paper's code (kvgarimella/sisyphus-ppml). Buffers are of batch normalisation. */
const COUNTED = `
  network      dataset        parameters  buffers  MACs        ReLUs  ReLU elements
  mlp          mnist          204042      513      203264      1      256
  lenet        mnist          44878       456      281640      4      4684
  alexnet      cifar10        23290954    18695    62742528    7      51200
  alexnet      cifar100       23659684    18695    63111168    7      51200
  alexnet      tiny-imagenet  24069384    18695    188710912   7      180224
  vgg11        cifar10        9231114     5512     152769536   8      151552
  vgg11        cifar100       9277284     5512     152815616   8      151552
  vgg11        tiny-imagenet  9328584     5512     611160064   8      606208
  vgg16        cifar10        14728266    8461     313201664   13     276480
  vgg16        cifar100       14774436    8461     313247744   13     276480
  vgg16        tiny-imagenet  14825736    8461     1252888576  13     1105920
  resnet18     cifar10        11173962    9620     555422720   17     557056
  resnet18     cifar100       11220132    9620     555468800   17     557056
  resnet18     tiny-imagenet  11271432    9620     2221772800  17     2228224
  resnet32     cifar10        464154      2303     68862592    31     303104
  resnet32     cifar100       470004      2303     68868352    31     303104
  resnet32     tiny-imagenet  476504      2303     275460608   31     1212416
  mobilenetv1  cifar10        3217226     21915    46354432    27     411648
  mobilenetv1  cifar100       3309476     21915    46446592    27     411648
  mobilenetv1  tiny-imagenet  3411976     21915    185581568   27     1646592`;

/** ReLU elements of each layer, from the same source. */
const ELEMENTS: Record<string, readonly number[]> = {
  'lenet mnist': [3456, 1024, 120, 84],
  'alexnet cifar10': [16384, 12288, 6144, 4096, 4096, 4096, 4096],
  'vgg11 cifar10': [65536, 32768, 16384, 16384, 8192, 8192, 2048, 2048],
};

const rows = COUNTED.trim()
  .split('\n')
  .slice(1)
  .map((line) => line.trim().split(/\s+/))
  .map(([network = '', dataset = '', ...counts]) => ({
    network,
    dataset,
    counts: counts.map(Number),
    first: dataset === 'cifar10' || dataset === 'mnist',
  }));

const emptyModel = buildModel({ name: 'none', opset: 17 }).model;
const tensorsOf = (model: Model): Tensor[] => model.graph.initializers.map(({ tensor }) => tensor);
const sizeOf = (tensors: readonly Tensor[]): number => tensors.reduce((sum, { dims }) => sum + elementCount(dims), 0);
const floats = (tensor: Tensor): Float32Array => new Float32Array(rawBytes(tensor).slice().buffer);

function imagesOf(dataset: string): ImageSet {
  const images = DATASETS.get(dataset);
  if (!images) throw new Error(`no data set ${dataset}`);
  return images;
}

function architectureOf(network: string): Architecture {
  const found = NETWORKS.get(network);
  if (!found) throw new Error(`no network ${network}`);
  return found.architecture;
}

/**
 * A copy through which signals of one size run: with these weights a layer and its ReLU divide the mean square by 6, so that
 * after 27 layers the logits would be the last bias.
 */
function enlivened(model: Model): Model {
  const copy = cloneModel(model);
  for (const { value, tensor } of copy.graph.initializers)
    if (/bn\d*\.weight$/.test(tensor.name)) {
      const gamma = new Float32Array(sizeOf([tensor])).fill(Math.sqrt(6));
      setInitializer(value, makeTensor(tensor.name, 'float', tensor.dims, gamma));
    }
  return copy;
}

/** Equidistributed, and little else: multiples of an odd number, modulo 2^32. */
function cheapRng(): Rng {
  let at = 0;
  const uniform = () => {
    at = (at + 0x9e3779b1) | 0;
    return (at >>> 0) / 2 ** 32;
  };
  return { ...makeRng(0), uniform };
}

/** Bounds, and mean and variance within five standard deviations of theirs. */
function expectUniform(tensor: Tensor, bound: number): void {
  const values = floats(tensor);
  let [largest, sum, squares] = [0, 0, 0];
  for (const value of values) {
    largest = Math.max(largest, Math.abs(value));
    sum += value;
    squares += value * value;
  }
  const n = values.length;
  expect(largest, tensor.name).toBeLessThanOrEqual(Math.fround(bound));
  expect(Math.abs(sum / n), tensor.name).toBeLessThan((5 * bound) / Math.sqrt(3 * n));
  expect(Math.abs(squares / n - bound ** 2 / 3), tensor.name).toBeLessThan(5 * bound ** 2 * Math.sqrt(4 / 45 / n));
}

describe.each(rows)('$network for $dataset', ({ network, dataset, counts, first }) => {
  let model = emptyModel;
  beforeAll(() => {
    // As users build it, once for each network; the other sizes with weights that cost less to draw.
    model = first
      ? buildNetwork(network, dataset, 42)
      : assemble(network, architectureOf(network), imagesOf(dataset), cheapRng());
  });
  afterAll(() => {
    model = emptyModel; // the weights of all of them would fill 1 GB
  });

  it("has the counts of the paper's code", () => {
    const [parameters = 0, buffers = 0, macs, relus, elements] = counts;
    const found = summarize(model);
    // PyTorch's buffers include the number of batches that each layer has seen, which ONNX does not have.
    const statistics = buffers - (found.nodes.BatchNormalization ?? 0);
    expect(sizeOf(tensorsOf(model).filter(({ name }) => name.includes('running_')))).toBe(statistics);
    expect(found).toMatchObject({
      problems: [],
      refused: [],
      irVersion: 8,
      opsets: { 'ai.onnx': 17 },
      parameters: parameters + statistics,
      macs,
      nodes: { Relu: relus },
      nonPolynomialNodes: { Relu: relus },
      activationElements: elements,
    });
    const each = ELEMENTS[`${network} ${dataset}`];
    if (each) expect(found.sites.map((site) => site.elements)).toEqual(each);
  });

  // Networks for 100 classes differ from those for 10 in the last layer alone.
  if (dataset !== 'cifar100')
    it('runs in onnxruntime, and images of a batch do not influence each other', async () => {
      const { channels, side, classes } = imagesOf(dataset);
      const lively = enlivened(model);
      const logits = async (batch: number) => {
        const images = noiseArray('float', [batch, channels, side, side], 7);
        const outputs = await runModel(lively, new Map([['input', images]]));
        expect(outputs.get('output')?.dims).toEqual([batch, classes]);
        return numbersOf(outputs, 'output');
      };
      const both = await logits(2);
      expect(both.every(Number.isFinite)).toBe(true);
      expect(new Set(both).size).toBeGreaterThan(1.5 * classes); // neither constant nor the same for both
      const scale = Math.max(...both.map(Math.abs));
      for (const [i, value] of (await logits(1)).entries())
        expect(Math.abs((both[i] ?? 0) - value)).toBeLessThan(1e-5 * scale); // other kernels may serve another batch
    });

  if (first)
    it("starts as PyTorch's default: uniform within 1/sqrt(fan_in), batch normalisation as the identity", () => {
      const tensors = tensorsOf(model);
      const weights = tensors.filter(({ name, dims }) => name.endsWith('.weight') && dims.length > 1);
      for (const weight of weights) {
        const [outputs = 0, ...inputs] = weight.dims;
        const bound = 1 / Math.sqrt(inputs.reduce((a, b) => a * b));
        expectUniform(weight, bound);
        const bias = tensors.find(({ name }) => name === weight.name.replace('.weight', '.bias'));
        expect(bias?.dims ?? [outputs]).toEqual([outputs]);
        if (bias) expectUniform(bias, bound);
      }
      const normalisation = tensors.filter(({ name }) => /bn\d*\.\w+$/.test(name));
      expect(normalisation).toHaveLength(4 * model.graph.nodes.filter(({ op }) => op === 'BatchNormalization').length);
      const biases = weights.filter(({ name }) =>
        tensors.some((tensor) => tensor.name === name.replace('.weight', '.bias')),
      );
      expect(tensors).toHaveLength(normalisation.length + weights.length + biases.length);
      for (const tensor of normalisation) {
        const value = /weight|var/.test(tensor.name) ? 1 : 0;
        expect(floats(tensor).every((number) => number === value)).toBe(true);
      }
    });
});

describe('all networks', () => {
  it.each(['mlp', 'lenet', 'resnet32'])('%s is the same for the same seed, and another for another', (name) => {
    const dataset = name === 'resnet32' ? 'synthetic:3x32x32' : 'synthetic';
    const bytes = (seed: number) => Buffer.from(serialize(buildNetwork(name, dataset, seed)));
    expect(bytes(5).equals(bytes(5))).toBe(true);
    const weights = (seed: number) =>
      tensorsOf(buildNetwork(name, dataset, seed)).filter(({ dims }) => dims.length > 1);
    const other = weights(6);
    for (const [i, weight] of weights(5).entries()) {
      const found = floats(other[i] as Tensor);
      expect(floats(weight).filter((value, k) => value === found[k]).length).toBeLessThan(0.01 * found.length);
    }
  });

  it('suit some of the data sets', () => {
    // CryptoNets is none of the paper's.
    expect([...NETWORKS.keys()]).toEqual([...new Set(rows.map(({ network }) => network)), 'cryptonets']);
    for (const [name, { channels, sides }] of NETWORKS)
      for (const [dataset, images] of DATASETS)
        if (channels !== images.channels || !sides.includes(images.side))
          expect(() => buildNetwork(name, dataset, 1)).toThrow(`${name} takes images of ${channels}x`);
  });
});

describe('layers', () => {
  /** What a layer makes of one image whose pixels are 0, 1, 2, … */
  async function apply(layer: (net: Net, x: Features) => Features, channels: number, side: number) {
    const graph = buildModel({ name: 'layer', opset: 17 });
    const value = graph.input('input', 'float', [1, channels, side, side]);
    const made = layer({ graph, rng: makeRng(1) }, { value, channels, side });
    graph.output(made.value, 'output', 'float', [1, made.channels, made.side, made.side]);
    const pixels = Float64Array.from({ length: channels * side * side }, (_, i) => i);
    const image = arrayFromNumbers('float', [1, channels, side, side], pixels);
    const outputs = await runModel(graph.model, new Map([['input', image]]));
    return { dims: outputs.get('output')?.dims, values: [...numbersOf(outputs, 'output')] };
  }

  it('option A takes every second pixel and puts channels of zeros before and after', async () => {
    const { dims, values } = await apply((net, x) => subsampleAndPad(net, 'shortcut', x, 4), 2, 4);
    expect(dims).toEqual([1, 4, 2, 2]);
    expect(values).toEqual([0, 0, 0, 0].concat([0, 2, 8, 10], [16, 18, 24, 26], [0, 0, 0, 0]));
  });

  it('adaptive average pooling takes the means of equal squares', async () => {
    expect(await apply((net, x) => adaptiveAveragePool(net, 'pool', x, 2), 1, 4)).toEqual({
      dims: [1, 1, 2, 2],
      values: [2.5, 4.5, 10.5, 12.5],
    });
    expect((await apply((net, x) => adaptiveAveragePool(net, 'pool', x, 1), 2, 2)).values).toEqual([1.5, 5.5]);
  });

  it('dropout is the identity in the file', async () => {
    const { values } = await apply((net, x) => dropout(net, 'dropout', x, 0.5), 1, 3);
    expect(values).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });
});
