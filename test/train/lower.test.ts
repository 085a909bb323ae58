/** Whole models: what they are lowered to computes what the files compute, and trains what is to be trained. */
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildNetwork, NETWORKS } from '../../models/index.ts';
import { lenet } from '../../models/lenet.ts';
import { SisyphusError } from '../../src/errors.ts';
import type { NdArray } from '../../src/eval/session.ts';
import { floatAttribute, intAttribute } from '../../src/graph/attributes.ts';
import { buildModel, type GraphBuilder, makeAttributes } from '../../src/graph/build.ts';
import { addNode } from '../../src/graph/edit.ts';
import type { Attribute, Model, Value } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { elementCount, makeTensor } from '../../src/graph/tensor.ts';
import { insertAmm } from '../../src/passes/insert-amm.ts';
import { runReplaceActivation } from '../../src/passes/replace-activation.ts';
import { type Lowered, lower } from '../../src/train/lower.ts';
import { raise } from '../../src/train/raise.ts';
import { tf } from '../../src/train/tf.ts';
import { BACKENDS, expectAsFile, forward, relativeError, rowsFor, tensorOf, useBackend } from '../support/lowered.ts';
import { noise, noiseArray, runModel } from '../support/numeric.ts';
import { functionProto, graphAttribute, graphProto, nodeProto, protoModel, reread } from '../support/passes.ts';
import { SHARED, sharedModels } from '../support/shared.ts';

/** float32 sums in another order: relative to the largest output. */
const CLOSE = 1e-5;

/** As after some training: other scales, biases and running statistics, so that none of them can be mixed up. */
async function used(model: Model): Promise<Model> {
  const { parameters, statistics } = await lower(model, 'g');
  const vectors = [...parameters.filter(({ dims }) => dims.length === 1), ...statistics];
  const changed = vectors.map(({ name, value }, i) => {
    const numbers = noise(value.length, i + 1);
    const about = /var|norm|bn\d+\.weight/.test(name) ? 1 : 0;
    return [name, Float32Array.from(numbers, (number) => about + number / 2)] as const;
  });
  return raise(model, new Map(changed));
}

const slow = Boolean(process.env.SISYPHUS_SLOW);
const NAMES = sharedModels('models').map((file) => file.replace(/^models\//, '').replace(/\.onnx$/, ''));
/** Why a real model can't be trained. */
const REFUSED: Readonly<Record<string, RegExp>> = {
  tinymobilenet_cifar10_int8: /QuantizeLinear 'input_QuantizeLinear'.*; and 14 more/,
};
/** They take seconds each. */
const LARGE = new Set(['light_densenet121', 'light_vgg19']);
/** Of some million multiplications at most, which tfjs' own backend computes in JavaScript. */
const SMALL_ON_CPU = new Set([
  ...['burn_mnist', 'cntk_mnist_8', 'djl_mnist', 'ezkl_prelu_gmm', 'kanav99_lenet', 'keras2onnx_mnist_lg'],
  ...['lenet5_torch04', 'marabou_cifar10_small', 'marabou_mnist5x20_leaky_relu', 'mnist_fc_256x2', 'mnist_fc_256x4'],
  ...['oval21_cifar_deep_kw', 'vit_pgd_2_3_16', 'zuramai_mnist_dynamo/mnist', 'tinymobilenet_cifar10_dynamo'],
  ...['tinymobilenet_cifar10_int8', 'sri_resnet_a'],
]);

describe.each(BACKENDS)('on the backend %s', (backend) => {
  beforeAll(() => useBackend(backend));
  const cpu = backend === 'cpu';

  it.each([...NETWORKS.keys()].filter((name) => !cpu || ['mlp', 'lenet', 'resnet32'].includes(name)))(
    'our %s computes what its file computes',
    async (name) => {
      const model = await used(buildNetwork(name, NETWORKS.get(name)?.channels === 1 ? 'mnist' : 'cifar10', 3));
      const lowered = await lower(model, name);
      await expectAsFile(model, lowered, rowsFor(lowered, cpu ? 1 : 2), CLOSE);
    },
  );

  for (const name of NAMES.filter((each) => !cpu || SMALL_ON_CPU.has(each))) {
    const skipped = LARGE.has(name) && !slow;
    it.skipIf(skipped)(
      `${name}${skipped ? ' (skipped: slow; set SISYPHUS_SLOW=1)' : ''}`,
      { timeout: 600_000 },
      async () => {
        const model = readModel(path.join(SHARED, 'models', `${name}.onnx`));
        const reason = REFUSED[name];
        if (reason) {
          await expect(lower(model, name)).rejects.toThrow(reason);
          return;
        }
        const lowered = await lower(model, name);
        // The files take one row, or any number; what they are lowered to takes any number.
        expect(lowered.rows).toBeNull();
        await expectAsFile(model, lowered, rowsFor(lowered, 1), CLOSE);
      },
    );
  }

  it('what our own passes emit computes what the file computes, and its coefficients are not trained', async () => {
    const model = await used(lenet(3));
    const before = await lower(model, 'lenet');
    const all = await forward(before, rowsFor(before, 16), { training: false, taps: 'all' });
    const ranges = ['relu1', 'relu2'].map((site) => {
      const input = model.graph.nodes.find(({ name }) => name === site)?.inputs[0]?.name ?? '';
      const channels = all.values.get(input)?.dims[1] ?? 0;
      return [site, { channelMin: Array(channels).fill(-2.5), channelMax: Array(channels).fill(3) }] as const;
    });
    await insertAmm.run(model, { statistics: { sites: Object.fromEntries(ranges) }, only: ['relu1', 'relu2'] });
    await insertAmm.run(model, { only: ['relu3'] });
    const site = (polynomials: string[], keep?: number[]) => ({ polynomials, ...(keep && { keep }) });
    const perChannel = Array.from({ length: 16 }, (_, c) => `${c / 10} + 0.5 x + 0.${c + 1} x^2`);
    const { applied } = runReplaceActivation(model, {
      poly: [],
      plan: {
        plan: 1,
        sites: {
          relu1: site(['0.3 + 0.5 x + 0.2 x^2 - 0.01 x^4'], [1, 4]),
          relu2: site(perChannel),
          relu3: site(['0.25 + 0.5 x + 0.25 x^2']),
        },
      },
    });
    expect(applied).toHaveLength(3);
    const rewritten = reread(model);
    const lowered = await lower(rewritten, 'lenet');
    // MM takes differences of numbers that are nearly equal, and divides by them.
    await expectAsFile(rewritten, lowered, rowsFor(lowered, 32), 1e-4);
    const names = (of: Lowered) => [...of.parameters, ...of.statistics].map(({ name }) => name);
    expect(names(lowered)).toEqual(names(before));
  });

  it('BatchNormalization trains as onnxruntime has it in training mode', async () => {
    for (const dims of [
      [4, 3],
      [2, 3, 5, 4],
    ]) {
      const make = (attributes: readonly Attribute[], outputs: number) => {
        const b = buildModel({ name: 'g', opset: 15 });
        const state = [1, 2, 3].map((seed, i) => b.constant(`s${i}`, 'float', [3], noise(3, seed)));
        const variance = b.constant('variance', 'float', [3], [0.5, 1, 2]);
        const node = addNode(b.model, b.model.graph, {
          op: 'BatchNormalization',
          name: 'bn',
          inputs: [b.input('x', 'float', dims), ...state, variance],
          attributes: [floatAttribute('epsilon', 1e-3), floatAttribute('momentum', 0.8), ...attributes],
          outputs,
        });
        for (const [i, value] of node.outputs.entries())
          b.output(value as Value, `y${i}`, 'float', i === 0 ? dims : [3]);
        return reread(b.model);
      };
      const x = noiseArray('float', dims, 8);
      const expected = await runModel(make([intAttribute('training_mode', 1)], 3), new Map([['x', x]]));
      const lowered = await lower(make([], 1), 'bn');
      expect(lowered.rows).toBe(dims[0]);
      const { values, statistics } = await forward(lowered, x, { training: true });
      expect([...statistics.keys()]).toEqual(['s2', 'variance']);
      expect(relativeError(values.get('y0'), expected.get('y0'))).toBeLessThanOrEqual(CLOSE);
      expect(relativeError(statistics.get('s2'), expected.get('y1'))).toBeLessThanOrEqual(CLOSE);
      expect(relativeError(statistics.get('variance'), expected.get('y2'))).toBeLessThanOrEqual(CLOSE);
      expect((await forward(lowered, x)).statistics.size).toBe(0);
    }
  });

  it('Dropout takes masks in training, and does nothing afterwards', async () => {
    const lowered = await lower(dropping(), 'g');
    expect(lowered.dropouts).toEqual([{ node: 'drop', ratio: 0.25, shape: [4] }]);
    const x = rowsFor(lowered, 3);
    const mask = Float32Array.from({ length: 12 }, (_, i) => (i % 4 === 0 ? 0 : 4 / 3));
    const asked: unknown[] = [];
    const trained = await forward(lowered, x, {
      training: true,
      dropout: (node, ratio, dims) => {
        asked.push([node, ratio, dims]);
        return tf.tensor(mask, [...dims]);
      },
    });
    expect(asked).toEqual([['drop', 0.25, [3, 4]]]);
    const data = x.data as Float32Array;
    expect(trained.values.get('y')?.data).toEqual(data.map((value, i) => value * (mask[i] as number)));
    expect((await forward(lowered, x)).values.get('y')?.data).toEqual(data);
  });
});

describe('gradients of a LeNet in training', () => {
  it('equal finite differences, and each other on the backends', async () => {
    // With a polynomial, so that nothing bends within the differences.
    const model = await used(lenet(5));
    const sites = [1, 2, 3, 4].map((i) => [`relu${i}`, { polynomials: ['0.3 + 0.5 x + 0.1 x^2'] }]);
    runReplaceActivation(model, { poly: [], plan: { plan: 1, sites: Object.fromEntries(sites) } });
    const lowered = await lower(reread(model), 'lenet');
    const { parameters } = lowered;
    const x = rowsFor(lowered, 8);
    const factors = Float32Array.from(noise(80, 6));
    const weights = new Map(
      parameters.map(({ name, dims, value }): [string, NdArray] => [name, { elem: 'float', dims, data: value }]),
    );
    const gradientsOn = async (backend: (typeof BACKENDS)[number]): Promise<NdArray[]> => {
      await useBackend(backend);
      const gradients = tf.tidy(() =>
        tf.grads((...given: tf.Tensor[]) => {
          const named = new Map(parameters.map(({ name }, i) => [name, given[i] as tf.Tensor]));
          const { values } = lowered.forward([tensorOf(x)], named, { training: true });
          return tf.sum(tf.mul(values.get(lowered.logits) as tf.Tensor, tf.tensor(factors, [8, 10])));
        })([...weights.values()].map(tensorOf)),
      );
      const arrays: NdArray[] = [];
      for (const gradient of gradients)
        arrays.push({ elem: 'float', dims: gradient.shape, data: Float32Array.from(await gradient.data()) });
      tf.dispose(gradients);
      return arrays;
    };
    const expected = await gradientsOn('cpu');
    const found = await gradientsOn('onnxruntime');
    const size = (vector: ArrayLike<number>) => Math.sqrt(Array.from(vector).reduce((sum, v) => sum + v * v, 0));
    const objective = async (changed: ReadonlyMap<string, NdArray>) => {
      const { values } = await forward(lowered, x, { training: true }, changed);
      const data = values.get('output')?.data as Float32Array;
      return data.reduce((sum, value, i) => sum + value * (factors[i] as number), 0);
    };
    for (const [i, { name, dims, value }] of parameters.entries()) {
      const gradient = found[i]?.data as Float32Array;
      // A bias before BatchNormalization has none but the rounding of sums over all pixels.
      const scale = Math.max(size(gradient), 0.1);
      expect(size(gradient.map((g, k) => g - Number(expected[i]?.data[k]))), name).toBeLessThanOrEqual(1e-4 * scale);
      const direction = noise(value.length, i + 40);
      // A hundredth of the weights' size: rounding and curvature are both below a thousandth of the slope.
      const h = (0.01 * size(value)) / size(direction);
      const at = (step: number) => {
        const data = value.map((weight, k) => weight + step * (direction[k] as number));
        return objective(new Map([...weights, [name, { elem: 'float', dims, data } as const]]));
      };
      const slope = ((await at(h)) - (await at(-h))) / (2 * h);
      const along = direction.reduce((sum, d, k) => sum + d * (gradient[k] as number), 0);
      expect(Math.abs(along - slope), name).toBeLessThanOrEqual(2e-3 * Math.max(size(gradient), 1));
    }
  });
});

/** x [N, 4] -> Dropout -> y */
function dropping(): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', ['N', 4]);
  b.output(b.node('Dropout', [x, b.constant('ratio', 'float', [], [0.25])], {}, 'drop'), 'y', 'float', ['N', 4]);
  return b.model;
}

/** x [N, 3, 4, 4] through something. */
function through(make: (b: GraphBuilder, x: Value) => Value, opset = 17): Model {
  const b = buildModel({ name: 'g', opset });
  const x = b.input('x', 'float', ['N', 3, 4, 4]);
  const y = make(b, x);
  b.output(y, 'y', 'float', inferTypes(b.model).get(y).shape ?? []);
  return reread(b.model);
}
const tensor = (b: GraphBuilder, name: string, dims: readonly number[]): Value =>
  b.constant(name, 'float', dims, noise(elementCount(dims)));

describe('what is trained', () => {
  const trained = async (model: Model) => (await lower(model, 'g')).parameters.map(({ name }) => name);

  it('weights and biases by name, with the first layer that reads them; running statistics apart', async () => {
    const { parameters, statistics } = await lower(lenet(42), 'lenet');
    const layers = ['conv1', 'bn1', 'conv2', 'bn2', 'fc1', 'bn3', 'fc2', 'bn4', 'fc3'];
    expect(parameters.map(({ name }) => name)).toEqual(layers.flatMap((layer) => [`${layer}.weight`, `${layer}.bias`]));
    expect(parameters.map(({ layer }) => layer)).toEqual(layers.flatMap((layer) => [layer, layer]));
    // The paper's counts.
    expect(parameters.reduce((sum, { value }) => sum + value.length, 0)).toBe(44_878);
    expect(statistics.map(({ name }) => name)).toEqual(
      [1, 2, 3, 4].flatMap((i) => [`bn${i}.running_mean`, `bn${i}.running_var`]),
    );
  });

  it('weights that are arranged first, and what Constant nodes hold', async () => {
    const model = through((b, x) => {
      const shape = b.constant('shape', 'int64', [2], [48, 5]);
      const arranged = b.node('Transpose', [b.node('Identity', [tensor(b, 'w', [4, 3, 2, 2])])], {
        perm: [0, 1, 3, 2],
      });
      const product = b.node('MatMul', [
        b.node('Flatten', [x]),
        b.node('Reshape', [tensor(b, 'm', [16, 3, 5]), shape]),
      ]);
      const held = b.node('Constant', [], { value: makeTensor('', 'float', [5], noise(5)) }, 'held');
      const images = b.node('Conv', [x, arranged]);
      return b.node('Concat', [b.node('Add', [held, product]), b.node('Flatten', [images])], { axis: 1 });
    });
    expect(await trained(model)).toEqual(['m', 'w', 'held_output']);
    expect((await lower(model, 'g')).parameters.map(({ dims }) => dims)).toEqual([[16, 3, 5], [4, 3, 2, 2], [5]]);
  });

  it('a bias is what has an element for each channel of a layer that has none', async () => {
    const parametersWith = (bias: readonly number[], own = false) =>
      trained(
        through((b, x) => {
          const conv = b.node('Conv', [x, tensor(b, 'w', [5, 3, 1, 1]), ...(own ? [tensor(b, 'c', [5])] : [])]);
          return b.node('Add', [conv, tensor(b, 'b', bias)]);
        }),
      );
    expect(await parametersWith([5, 1, 1])).toEqual(['w', 'b']);
    expect(await parametersWith([1, 5, 4, 4])).toEqual(['w', 'b']);
    expect(await parametersWith([])).toEqual(['w']);
    expect(await parametersWith([1])).toEqual(['w']);
    expect(await parametersWith([5, 1, 1], true)).toEqual(['w', 'c']);
  });

  it('not what normalises the input, nor factors between layers', async () => {
    const model = through((b, x) => {
      const normal = b.node('Div', [
        b.node('Sub', [x, tensor(b, 'mean', [3, 1, 1])]),
        tensor(b, 'deviation', [3, 1, 1]),
      ]);
      const conv = b.node('Conv', [normal, tensor(b, 'w', [3, 3, 1, 1])]);
      return b.node('Add', [b.node('Mul', [conv, tensor(b, 'factor', [3, 1, 1])]), tensor(b, 'offset', [3, 1, 1])]);
    });
    expect(await trained(model)).toEqual(['w']);
  });

  it('a weight of two layers is one parameter, whose gradients add up', async () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', ['N', 1]);
    const w = b.constant('w', 'float', [1, 1], [3]);
    b.output(b.node('MatMul', [b.node('MatMul', [x, w]), w]), 'y', 'float', ['N', 1]);
    const lowered = await lower(b.model, 'g');
    expect(lowered.parameters).toMatchObject([{ name: 'w', dims: [1, 1] }]);
    await useBackend('cpu');
    const gradient = tf.tidy(() =>
      tf.grad((given) =>
        tf.sum(
          lowered
            .forward([tf.tensor2d([[5]])], new Map([['w', given]]), { training: true })
            .values.get('y') as tf.Tensor,
        ),
      )(tf.tensor2d([[3]])),
    );
    // d(5 w^2)/dw
    expect([...(await gradient.data())]).toEqual([30]);
  });

  it('only what is asked for; BatchNormalization that is frozen normalises with its statistics', async () => {
    const model = await used(lenet(2));
    const lowered = await lower(model, 'lenet', { trains: ({ layer }) => !/^(conv|bn)1$/.test(layer) });
    expect(lowered.parameters[0]?.name).toBe('conv2.weight');
    expect(lowered.statistics[0]?.name).toBe('bn2.running_mean');
    await useBackend('cpu');
    const x = rowsFor(lowered, 3);
    const tap = [model.graph.nodes.find(({ name }) => name === 'bn1')?.outputs[0]?.name ?? ''];
    const trainedValues = await forward(lowered, x, { training: true, taps: tap });
    const fixedValues = await forward(lowered, x, { training: false, taps: tap });
    expect(trainedValues.values.get(tap[0] ?? '')).toEqual(fixedValues.values.get(tap[0] ?? ''));
    expect(trainedValues.values.get('output')).not.toEqual(fixedValues.values.get('output'));
  });
});

describe('values', () => {
  it('all of them, in the order of the layers, or some by name', async () => {
    await useBackend('cpu');
    const model = lenet(1);
    const lowered = await lower(model, 'lenet');
    const x = rowsFor(lowered, 1);
    const { values } = await forward(lowered, x, { training: false, taps: 'all' });
    expect([...values.keys()]).toEqual(model.graph.nodes.map(({ outputs }) => outputs[0]?.name));
    const [first = ''] = values.keys();
    expect([...(await forward(lowered, x, { training: false, taps: [first] })).values.keys()]).toEqual([
      first,
      'output',
    ]);
    expect(lowered.makerOf(first)).toBe("Conv 'conv1'");
    await expect(forward(lowered, x, { training: false, taps: ['nothing'] })).rejects.toThrow(
      "computes the value 'nothing'",
    );
  });

  it.each([
    ['Softmax', { axis: 1 }, 13, 'product_output'],
    ['LogSoftmax', {}, 11, 'product_output'],
    ['Softmax', { axis: 0 }, 13, 'last_output'],
    ['Sigmoid', {}, 13, 'last_output'],
  ] as const)('the logits come before a last %s %j', async (op, attributes, opset, logits) => {
    const model = through((b, x) => {
      const product = b.node('Gemm', [b.node('Flatten', [x]), tensor(b, 'w', [48, 7])], {}, 'product');
      return b.node('Identity', [b.node(op, [product], attributes, 'last')]);
    }, opset);
    const lowered = await lower(model, 'g');
    expect(lowered.logits).toBe(logits);
    expect(lowered.classes).toBe(7);
  });
});

it('takes models with several inputs', async () => {
  await useBackend('cpu');
  const lowered = await lower(inputs(2), 'two');
  expect(lowered.inputs).toEqual([
    { name: 'x0', shape: [2] },
    { name: 'x1', shape: [2] },
  ]);
  const rows = [tf.tensor2d([[1, 2]]), tf.tensor2d([[10, 20]])];
  const { values } = lowered.forward(rows, new Map(), { training: false });
  expect([...(await (values.get('y') as tf.Tensor).data())]).toEqual([11, 22]);
});

describe('what is refused, before anything is computed', () => {
  const reasonOf = async (model: Model): Promise<string> => {
    try {
      await lower(model, 'm.onnx');
    } catch (cause) {
      expect(cause).toBeInstanceOf(SisyphusError);
      return (cause as Error).message;
    }
    return 'nothing';
  };

  it('all operators at once, five by name', async () => {
    const model = through((b, x) => {
      const resized = b.node('Resize', [x, null, b.constant('s', 'float', [4], [1, 1, 2, 2])], {}, 'resize');
      const chain = ['Floor', 'Ceil', 'Round', 'Tan', 'Asin'].reduce((at, op) => b.node(op, [at], {}, op), resized);
      return b.node('Relu', [chain]);
    });
    expect(await reasonOf(model)).toMatch(
      /^m.onnx: can't be trained: Resize 'resize': .*; Floor 'Floor': .*; Ceil 'Ceil': .*; Round 'Round': .*; Tan 'Tan': .*; and 1 more$/,
    );
  });

  it.each<[string, Model | (() => Model), RegExp]>([
    ['recurrent layers', () => recurrent(), /LSTM 'lstm': this operator is not among those that can be trained/],
    ['control flow', () => control(), /If 'n_y'/],
    ['functions', () => calling(), /'n_y': it calls a function of the model/],
    [
      'data as indices',
      () =>
        through((b, x) =>
          b.node(
            'Gather',
            [tensor(b, 'table', [9, 2]), b.node('ArgMax', [x], { axis: 1, keepdims: 0 }, 'best')],
            {},
            'pick',
          ),
        ),
      /ArgMax 'best'/,
    ],
    [
      'casts to integers',
      () => through((b, x) => b.node('Cast', [b.node('Cast', [x], { to: 6 }, 'whole')], { to: 1 })),
      /Cast 'whole': it casts data to int32/,
    ],
    [
      'double precision',
      () => through((b, x) => b.node('Cast', [b.node('Cast', [x], { to: 11 }, 'wide')], { to: 1 })),
      /Cast 'wide': it casts data to double/,
    ],
    [
      'shapes of data',
      () => through((b, x) => b.node('Reshape', [x, b.node('Shape', [b.node('NonZero', [x], {}, 'where')])])),
      /NonZero 'where'|Reshape 'reshape'/,
    ],
    ['indices of maxima', () => indices(), /MaxPool 'pool': its indices are read/],
    ['volumes', () => volumes(), /Conv 'conv': it works on 3 spatial axes/],
    [
      'wrapped padding',
      () =>
        through(
          (b, x) =>
            b.node('Pad', [x, b.constant('p', 'int64', [8], [0, 0, 1, 1, 0, 0, 1, 1])], { mode: 'wrap' }, 'pad'),
          19,
        ),
      /Pad 'pad': its mode is 'wrap'/,
    ],
    [
      'weights of half precision',
      () => half(),
      /Cast 'narrow': it casts data to float16|'w' is float16, and only float is trained/,
    ],
    [
      'a statistic that is a weight',
      () => mixed(),
      /BatchNormalization 'bn': 'same' is a running statistic and a trained weight at once/,
    ],
    ['no input', () => inputs(0), /it has no inputs/],
    [
      'targets of Reshape for one row, where the batch is free',
      () => through((b, x) => b.node('Reshape', [x, b.constant('t', 'int64', [2], [1, 48])], {}, 'flat')),
      /Reshape 'flat': it makes \[1,48\] of \[2,3,4,4\], so it is for one number of rows/,
    ],
    [
      'rows that run into each other',
      () => through((b, x) => b.node('Reshape', [x, b.constant('t', 'int64', [2], [1, -1])], {}, 'flat')),
      /'flat_output' has 1 rows where the input has 2|'y' has 1 rows where the input has 2/,
    ],
    [
      'outputs that are constants',
      () => through((b, x) => b.node('Shape', [x])),
      /its output 'y' does not depend on the input/,
    ],
    ['open rows', () => open(), /its input 'x' states \[N,3,H,4\], so it is open what a row is/],
    ['whole numbers', () => whole(), /its input 'x' is int64/],
  ])('%s', async (_, model, reason) => {
    expect(await reasonOf(typeof model === 'function' ? model() : model)).toMatch(reason);
  });

  it('other numbers of rows than the model insists on', async () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', [3, 4]);
    b.output(b.node('Relu', [x]), 'y', 'float', [3, 4]);
    const lowered = await lower(b.model, 'm.onnx');
    expect(lowered.inputs).toEqual([{ name: 'x', shape: [4] }]);
    expect(lowered.rows).toBe(3);
    await useBackend('cpu');
    await expect(forward(lowered, rowsFor(lowered, 2))).rejects.toThrow('takes 3 rows at a time, and gets 2');
  });
});

function recurrent(): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', ['N', 5, 4]);
  const [w, r] = [tensor(b, 'w', [1, 12, 4]), tensor(b, 'r', [1, 12, 3])];
  b.output(b.node('LSTM', [x, w, r], { hidden_size: 3 }, 'lstm'), 'y', 'float', ['N', 1, 5, 3]);
  return b.model;
}

function control(): Model {
  const branch = (op: string) =>
    graphAttribute(
      op === 'Relu' ? 'then_branch' : 'else_branch',
      graphProto({ outputs: [[`${op}_y`, 'float', null]], nodes: [nodeProto(op, ['x'], [`${op}_y`])] }),
    );
  return protoModel({
    inputs: [['x', 'float', ['N', 4]]],
    outputs: [['y', 'float', ['N', 4]]],
    initializers: [makeTensor('zero', 'float', [], [0])],
    nodes: [
      nodeProto('ReduceMax', ['x'], ['top'], [intAttribute('keepdims', 0)]),
      nodeProto('Greater', ['top', 'zero'], ['c']),
      nodeProto('If', ['c'], ['y'], [branch('Relu'), branch('Tanh')]),
    ],
  });
}

const calling = (): Model =>
  protoModel({
    inputs: [['x', 'float', ['N', 4]]],
    outputs: [['y', 'float', ['N', 4]]],
    nodes: [nodeProto('Twice', ['x'], ['y'], [], 'local')],
    functions: [functionProto('Twice', ['a'], ['b'], [nodeProto('Add', ['a', 'a'], ['b'])])],
  });

function indices(): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', ['N', 3, 4, 4]);
  const attributes = makeAttributes({ kernel_shape: [2, 2], strides: [2, 2] });
  const pool = addNode(b.model, b.model.graph, { op: 'MaxPool', name: 'pool', inputs: [x], attributes, outputs: 2 });
  b.output(pool.outputs[0] as Value, 'y', 'float', ['N', 3, 2, 2]);
  b.output(pool.outputs[1] as Value, 'i', 'int64', ['N', 3, 2, 2]);
  return b.model;
}

function volumes(): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', ['N', 1, 4, 4, 4]);
  b.output(b.node('Conv', [x, tensor(b, 'w', [2, 1, 3, 3, 3])], {}, 'conv'), 'y', 'float', ['N', 2, 2, 2, 2]);
  return b.model;
}

function half(): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', ['N', 4]);
  const w = b.constant('w', 'float16', [4, 2], noise(8));
  const product = b.node('MatMul', [b.node('Cast', [x], { to: 10 }, 'narrow'), w], {}, 'product');
  b.output(b.node('Cast', [product], { to: 1 }), 'y', 'float', ['N', 2]);
  return b.model;
}

function mixed(): Model {
  return through((b, x) => {
    const same = tensor(b, 'same', [3]);
    const one = b.constant('one', 'float', [3], [1, 1, 1]);
    return b.node('BatchNormalization', [x, one, same, same, b.constant('v', 'float', [3], [1, 2, 3])], {}, 'bn');
  });
}

function inputs(count: number): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  const values = Array.from({ length: count }, (_, i) => b.input(`x${i}`, 'float', ['N', 2]));
  b.output(b.node('Sum', count > 0 ? values : [tensor(b, 'c', [1, 2])]), 'y', 'float', ['N', 2]);
  return b.model;
}

function open(): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  b.output(b.node('Relu', [b.input('x', 'float', ['N', 3, 'H', 4])]), 'y', 'float', ['N', 3, 'H', 4]);
  return b.model;
}

function whole(): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  b.output(b.node('Cast', [b.input('x', 'int64', ['N', 4])], { to: 1 }), 'y', 'float', ['N', 4]);
  return b.model;
}
