import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { arrayNumbers, type NdArray, openSession } from '../../src/eval/session.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Dim, Model, Value } from '../../src/graph/ir.ts';
import { toNumbers } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { serialize } from '../../src/graph/write.ts';
import type { PassReport } from '../../src/passes/pass.ts';
import { setBatch } from '../../src/passes/set-batch.ts';
import { noise, noiseArray } from '../support/numeric.ts';
import { sharedModel } from '../support/passes.ts';

const run = async (model: Model, name?: string): Promise<PassReport> => setBatch.run(model, name ? { name } : {});

/** A batch of rows and the same rows one by one: equal within 1e-5 of the largest output. */
async function expectRowsAgree(original: Model, batched: Model, rows = 5): Promise<void> {
  expect(verify(batched)).toEqual([]);
  const [one, many] = await Promise.all(
    [original, batched].map((model) => openSession(serialize(model, { inline: true }), { optimize: false })),
  );
  if (!one || !many) throw new Error('no sessions');
  try {
    const inputs = original.graph.inputs.map(({ value }) => value).filter((value) => !value.initializer);
    const feeds = new Map<string, NdArray>();
    for (const [index, { name, declared }] of inputs.entries()) {
      const dims = [rows, ...(declared?.shape ?? []).slice(1).map(Number)];
      feeds.set(name, noiseArray(declared?.elem ?? 'float', dims, 11 + index));
    }
    const all = await many.run(feeds);
    for (let row = 0; row < rows; row++) {
      const single = new Map([...feeds].map(([name, array]) => [name, rowOf(array, row)]));
      for (const [name, expected] of await one.run(single)) {
        const found = all.get(name);
        if (!found) throw new Error(`no output ${name}`);
        expect(found.dims).toEqual([rows, ...expected.dims.slice(1)]);
        const [a, b] = [arrayNumbers(rowOf(found, row)), arrayNumbers(expected)];
        const scale = b.reduce((max, x) => Math.max(max, Math.abs(x)), 1e-6);
        const worst = b.reduce(
          (max, x, i) => Math.max(max, Object.is(x, a[i]) ? 0 : Math.abs(x - (a[i] ?? Number.NaN))),
          0,
        );
        expect(worst / scale).toBeLessThanOrEqual(1e-5);
      }
    }
  } finally {
    await Promise.all([one.release(), many.release()]);
  }
}

function rowOf(array: NdArray, row: number): NdArray {
  const [rows = 1, ...rest] = array.dims;
  const size = array.data.length / rows;
  return {
    elem: array.elem,
    dims: [1, ...rest],
    data: array.data.slice(row * size, (row + 1) * size) as NdArray['data'],
  };
}

const SYMBOLIC = (name: string, dim: string): string => `${name}: its leading dimension '${dim}' is symbolic already`;

/** What the pass says of each real model: the changes (all of them accepted), or why there are none. */
const REAL: readonly (readonly [file: string, outcome: readonly string[] | string, rows?: number])[] = [
  ['ace_resnet20_cifar10_pre', ['target [1, -1] -> [0, -1]']],
  ['ace_resnet32_cifar10_pre', ['target [1, -1] -> [0, -1]']],
  ['ace_resnet32_cifar100_pre', ['target [1, -1] -> [0, -1]']],
  ['burn_mnist', []],
  ['cntk_mnist_8', ['target [1, 256] -> [0, 256]']],
  // It normalises by ReduceMin and ReduceMax over axes 1, 2, 3: each sample by itself.
  ['djl_mnist', ['target [1, 1568] -> [0, 1568]']],
  ['kanav99_lenet', []],
  ['mnist_fc_256x2', []],
  ['mnist_fc_256x4', []],
  ['sri_resnet_a', ['target [1, -1] -> [0, -1]']],
  ['oval21_cifar_deep_kw', []],
  ['lenet5_torch04', []],
  ['tinymobilenet_cifar10_dynamo', ['target [1, 128] -> [-1, 128]']],
  ['tinymobilenet_cifar10_int8', ['target [1, 128] -> [-1, 128]']],
  ['yolo_tiny', []],
  ['qonnx_residual_block', []],
  ['light_densenet121', [], 2],
  ['light_vgg19', ['target [1, 25088] -> [0, 25088]'], 2],
  ['light_shufflenet', Array<string>(33).fill('target'), 2],
  ['marabou_cifar10_small', SYMBOLIC('x:0', 'unk__17')],
  ['marabou_cifar10_large', SYMBOLIC('x:0', 'unk__17')],
  ['zuramai_mnist_dynamo/mnist', SYMBOLIC('input', 's77')],
  ['vit_pgd_2_3_16', SYMBOLIC('input', 'batch_size')],
  ['marabou_mnist5x20_leaky_relu', SYMBOLIC('input', 'batch_size')],
  ['ezkl_prelu_gmm', SYMBOLIC('input', 'batch_size')],
  ['super_resolution_10', SYMBOLIC('input', 'batch_size')],
  ['keras2onnx_mnist_lg', SYMBOLIC('conv2d_3_input', 'N')],
];

describe('real models', () => {
  for (const [file, outcome, rows] of REAL)
    it(file, async (test) => {
      const model = sharedModel(`models/${file}.onnx`);
      if (!model) return test.skip();
      const batched = cloneModel(model);
      const report = await run(batched);
      if (typeof outcome === 'string') {
        expect(report.applied).toEqual([]);
        expect(report.skipped.map(({ site, reason }) => `${site}: ${reason}`)).toEqual([outcome]);
        expect(Buffer.compare(serialize(batched, { inline: true }), serialize(model, { inline: true }))).toBe(0);
        return;
      }
      expect(report.skipped).toEqual([]);
      const [input, ...targets] = report.applied;
      expect(input?.detail).toMatch(/^\[1, .*\] -> \[batch, .*\]$/);
      expect(targets.map(({ detail }, i) => (outcome[i] === 'target' ? detail.slice(0, 6) : detail))).toEqual(outcome);
      for (const { value } of batched.graph.outputs) expect(value.declared?.shape?.[0]).toBe('batch');
      await expectRowsAgree(model, batched, rows);
    });

  it('a symbolic model with its batch frozen comes back', async (test) => {
    for (const file of ['vit_pgd_2_3_16', 'super_resolution_10', 'zuramai_mnist_dynamo/mnist', 'keras2onnx_mnist_lg']) {
      const model = sharedModel(`models/${file}.onnx`);
      if (!model) return test.skip();
      freeze(model);
      const batched = cloneModel(model);
      expect((await run(batched)).skipped).toEqual([]);
      await expectRowsAgree(model, batched, 3);
    }
  });
});

/** Declares a leading dimension of 1 on inputs and outputs, as exporters do. */
function freeze(model: Model): void {
  for (const { info } of [...model.graph.inputs, ...model.graph.outputs]) {
    const dim = info?.type?.tensor_type?.shape?.dim?.[0];
    if (dim && !Object.hasOwn(dim, 'dim_value')) {
      delete dim.dim_param;
      dim.dim_value = 1;
    }
  }
  for (const { value } of [...model.graph.inputs, ...model.graph.outputs])
    Object.assign(value, { declared: { ...value.declared, shape: [1, ...(value.declared?.shape ?? []).slice(1)] } });
}

type Make = (g: GraphBuilder, x: Value) => Value;

/** One input [1, 3, 4] (or another shape), some nodes, one output. */
function small(make: Make, options: { shape?: readonly Dim[]; opset?: number; output?: readonly Dim[] } = {}): Model {
  const g = buildModel({ name: 'small', opset: options.opset ?? 13 });
  const x = g.input('x', 'float', options.shape ?? [1, 3, 4]);
  g.output(make(g, x), 'y', 'float', options.output ?? [1, null, null]);
  return g.model;
}

const ints = (g: GraphBuilder, ...values: number[]) => g.constant('ints', 'int64', [values.length], values);
const floats = (g: GraphBuilder, ...dims: number[]) =>
  g.constant('floats', 'float', dims, noise(dims.reduce((a, b) => a * b, 1)));
/** A Relu after it shows that a lost batch is found at once, not at the output. */
const relu = (g: GraphBuilder, x: Value) => g.node('Relu', [x]);

describe('refusals', () => {
  const cases: readonly (readonly [string, Make, Parameters<typeof small>[1]?])[] = [
    ['ReduceMean reduces over the batch axis', (g, x) => g.node('ReduceMean', [x], { axes: [0, 1] })],
    ['ReduceMax reduces over all axes, the batch too', (g, x) => g.node('ReduceMax', [x])],
    [
      'ReduceSum has axes that are not known',
      (g, x) => g.node('ReduceSum', [x, g.node('Cast', [floats(g, 1)], { to: 7 })]),
    ],
    ['ArgMax reduces over the batch axis', (g, x) => g.node('Cast', [g.node('ArgMax', [x])], { to: 1 })],
    ['Softmax normalises over the batch axis', (g, x) => g.node('Softmax', [x], { axis: 0 })],
    ['Softmax normalises over the batch axis', (g, x) => g.node('Softmax', [x], { axis: 0 }), { opset: 11 }],
    [
      'Softmax normalises over the batch axis',
      (g, x) => g.node('Softmax', [g.node('Transpose', [x])], {}),
      { opset: 11 },
    ],
    [
      'MeanVarianceNormalization normalises over the batch axis',
      (g, x) => g.node('MeanVarianceNormalization', [x]),
      { shape: [1, 2, 3, 4] },
    ],
    [
      'LayerNormalization normalises over the batch axis',
      (g, x) => g.node('LayerNormalization', [x, floats(g, 1)], { axis: 0 }),
      { opset: 17 },
    ],
    ["the output 'y' would not have one row per input", (g, x) => g.node('Transpose', [x], { perm: [1, 0, 2] })],
    ["the output 'y' would not have one row per input", (g) => relu(g, floats(g, 2))],
    ['Flatten does not keep the batch as an axis of its own', (g, x) => g.node('Flatten', [x], { axis: 2 })],
    [
      "the output 'y' would not have one row per input",
      (g, x) => g.node('Flatten', [g.node('Relu', [x])], { axis: 0 }),
      { shape: [1] },
    ],
    ['Reshape does not keep the batch as an axis of its own', (g, x) => g.node('Reshape', [x, ints(g, -1)])],
    ['Reshape does not keep the batch as an axis of its own', (g, x) => g.node('Reshape', [x, ints(g, 2, 6)])],
    ['Concat joins along the batch axis', (g, x) => g.node('Concat', [x, x], { axis: 0 })],
    [
      "Concat joins the batch with 'floats', which has a single row",
      (g, x) => g.node('Concat', [x, floats(g, 1, 3, 4)], { axis: 1 }),
    ],
    [
      "Add combines the batch with 'floats', whose size there is 3 and not 1",
      (g, x) => g.node('Add', [x, floats(g, 3, 3, 4)]),
    ],
    [
      'Add combines inputs whose batch axes do not line up',
      (g, x) => g.node('Add', [x, g.node('Transpose', [x], { perm: [1, 0, 2] })]),
    ],
    ['MatMul sums over the batch axis', (g, x) => g.node('MatMul', [x, floats(g, 1, 2)]), { shape: [1] }],
    ['MatMul sums over the batch axis', (g, x) => g.node('MatMul', [floats(g, 2, 1), x]), { shape: [1, 4] }],
    [
      'MatMul multiplies the rows of the batch with each other',
      (g, x) => g.node('MatMul', [x, g.node('Transpose', [x])]),
      { shape: [1, 4] },
    ],
    ['MatMul pairs the batch with a stack of 5', (g, x) => g.node('MatMul', [x, floats(g, 5, 4, 2)])],
    ['Gemm sums over the batch axis', (g, x) => g.node('Gemm', [x, floats(g, 1, 2)], { transA: 1 }), { shape: [1, 4] }],
    [
      "Gemm adds 'more', which has rows of its own",
      (g, x) => g.node('Gemm', [x, floats(g, 4, 2), floatsNamed(g, 3, 2)]),
      { shape: [1, 4] },
    ],
    ['Squeeze removes the batch axis', (g, x) => g.node('Squeeze', [x, ints(g, 0)])],
    ['Squeeze removes every axis of size 1, the batch too; give it axes', (g, x) => g.node('Squeeze', [x])],
    [
      'Slice slices the batch axis',
      (g, x) =>
        g.node('Slice', [x, ints(g, 0), g.constant('end', 'int64', [1], [1]), g.constant('axes', 'int64', [1], [0])]),
    ],
    ['Split splits the batch axis', (g, x) => g.node('Split', [x])],
    ['Gather picks among the rows of the batch', (g, x) => g.node('Gather', [x, ints(g, 0)])],
    ['Pad pads the batch axis', (g, x) => g.node('Pad', [x, ints(g, 1, 0, 0, 0, 0, 0)])],
    ['Tile repeats the batch, or an unknown number of times', (g, x) => g.node('Tile', [x, ints(g, 2, 1, 1)])],
    ['Expand repeats the batch axis, or an unknown number of times', (g, x) => g.node('Expand', [x, ints(g, 2, 3, 4)])],
    ['Resize scales the batch axis', (g, x) => g.node('Resize', [x, null, g.constant('s', 'float', [3], [2, 1, 1])])],
    ['Resize has a size that fixes the number of rows', (g, x) => g.node('Resize', [x, null, null, ints(g, 1, 6, 8)])],
    [
      'DepthToSpace works on samples along axis 0, but the batch is axis 1',
      (g, x) => g.node('DepthToSpace', [g.node('Transpose', [x], { perm: [1, 0, 2, 3] })], { blocksize: 1 }),
      { shape: [1, 4, 2, 2] },
    ],
    [
      'BatchNormalization is in training mode: it normalises over the batch',
      (g, x) =>
        g.node('BatchNormalization', [x, floats(g, 3), floatsNamed(g, 3), floatsNamed(g, 3), floatsNamed(g, 3)], {
          training_mode: 1,
        }),
      { opset: 15 },
    ],
    ['Einsum is not known to keep rows apart', (g, x) => g.node('Einsum', [x], { equation: 'bij->bi' })],
    ['RandomNormalLike draws random numbers', (g, x) => g.node('RandomNormalLike', [x])],
    [
      'Reshape does not keep the batch as an axis of its own',
      (g, x) => g.node('Relu', [g.node('Reshape', [x, g.node('Unsqueeze', [g.node('Size', [x]), ints(g, 0)])])]),
    ],
    [
      "Sqrt computes with the number of rows ('cast_output')",
      (g, x) => g.node('Mul', [x, g.node('Sqrt', [g.node('Cast', [g.node('Shape', [x])], { to: 1 })])]),
      { shape: [1] },
    ],
    [
      'QuantizeLinear has a scale for each row',
      (g, x) =>
        g.node('DequantizeLinear', [
          g.node('QuantizeLinear', [x, g.constant('s', 'float', [1], [1]), g.constant('z', 'uint8', [1], [0])], {
            axis: 0,
          }),
          g.constant('s2', 'float', [], [1]),
        ]),
    ],
  ];
  for (const [index, [reason, make, options]] of cases.entries())
    it(`${index + 1}: ${reason}`, async () => {
      const model = small(make, options);
      const before = serialize(model);
      const report = await run(model);
      expect(report.applied).toEqual([]);
      expect(report.skipped).toHaveLength(1);
      expect(report.skipped[0]?.reason).toContain(reason);
      expect(Buffer.compare(serialize(model), before)).toBe(0);
    });

  it('inputs whose rows are not told apart', async () => {
    for (const [shape, reason] of [
      [[4, 3], 'this input has the shape [4, 3] without a leading 1, so it is open what its rows are'],
      [[], 'this input has the shape [] without a leading 1, so it is open what its rows are'],
    ] as const) {
      const g = buildModel({ name: 'two', opset: 13 });
      const x = g.input('x', 'float', [1, 3]);
      g.output(g.node('Add', [x, g.input('p', 'float', shape)]), 'y', 'float', [null, 3]);
      expect((await run(g.model)).skipped).toEqual([{ site: 'p', reason }]);
    }
  });

  it('a name that is another dimension already', async () => {
    const model = () => small((g, x) => relu(g, x), { shape: [1, 'batch', 4], output: [1, 'batch', 4] });
    await expect(async () => run(model(), 'batch')).rejects.toThrow("another dimension of the model is called 'batch'");
    expect((await run(model())).applied[0]?.detail).toBe('[1, batch, 4] -> [batch_1, batch, 4]');
    expect((await run(model(), 'n')).applied[0]?.detail).toBe('[1, batch, 4] -> [n, batch, 4]');
  });
});

const floatsNamed = (g: GraphBuilder, ...dims: number[]) =>
  g.constant('more', 'float', dims, noise(dims.reduce((a, b) => a * b, 1)).map(Math.abs));

describe('accepted', () => {
  const cases: readonly (readonly [string, Make, Parameters<typeof small>[1]?])[] = [
    [
      'Reshape to the batch in the middle and back',
      (g, x) =>
        g.node('Transpose', [g.node('Reshape', [g.node('Transpose', [x], { perm: [1, 0, 2] }), ints(g, 3, 1, 2, 2)])], {
          perm: [1, 0, 2, 3],
        }),
      { output: [1, 3, 2, 2] },
    ],
    [
      'Reshape with another -1',
      (g, x) => g.node('Reshape', [g.node('Unsqueeze', [x, ints(g, 0)]), g.constant('t', 'int64', [3], [1, -1, 4])]),
    ],
    [
      'Slice that keeps all rows',
      (g, x) =>
        g.node('Slice', [
          x,
          ints(g, 0, 1),
          g.constant('e', 'int64', [2], [2 ** 31 - 1, 3]),
          g.constant('a', 'int64', [2], [0, 1]),
        ]),
    ],
    [
      'Gather of a token',
      (g, x) => g.node('Gather', [x, g.constant('i', 'int64', [], [0])], { axis: 1 }),
      { output: [1, 4] },
    ],
    [
      'MatMul with the batch in the columns',
      (g, x) => g.node('Transpose', [g.node('MatMul', [floats(g, 2, 4), g.node('Transpose', [x])])]),
      { shape: [1, 4], output: [1, 2] },
    ],
    [
      'MatMul of a vector with the batch in the columns',
      (g, x) => g.node('MatMul', [floats(g, 4), g.node('Transpose', [x])]),
      { shape: [1, 4], output: [1] },
    ],
    ['MatMul with a vector', (g, x) => g.node('MatMul', [x, floats(g, 4)]), { output: [1, 3] }],
    ['MatMul of two batches', (g, x) => g.node('MatMul', [x, g.node('Transpose', [x], { perm: [0, 2, 1] })])],
    [
      'Gemm with a transposed A',
      (g, x) => g.node('Gemm', [g.node('Transpose', [x]), floats(g, 4, 2), floatsNamed(g, 1, 2)], { transA: 1 }),
      { shape: [1, 4], output: [1, 2] },
    ],
    [
      'Expand of a token to the batch',
      (g, x) => {
        const batch = g.node('Gather', [g.node('Shape', [x]), g.constant('zero', 'int64', [], [0])]);
        const target = g.node(
          'Concat',
          [g.node('Unsqueeze', [batch, ints(g, 0)]), g.constant('r', 'int64', [2], [1, 4])],
          { axis: 0 },
        );
        return g.node('Concat', [g.node('Expand', [floats(g, 1, 1, 4), target]), x], { axis: 1 });
      },
    ],
    [
      'ReduceMean without keepdims',
      (g, x) => g.node('ReduceMean', [x], { axes: [1], keepdims: 0 }),
      { output: [1, 4] },
    ],
    ['Softmax of the axes behind the batch', (g, x) => g.node('Softmax', [x], { axis: 1 }), { opset: 11 }],
    [
      'Resize to computed sizes',
      (g, x) => {
        const head = g.node('Slice', [g.node('Shape', [x]), ints(g, 0), g.constant('two', 'int64', [1], [2])]);
        const sizes = g.node('Concat', [head, g.constant('hw', 'int64', [2], [4, 6])], { axis: 0 });
        return g.node('Resize', [x, null, null, sizes], { mode: 'linear' });
      },
      { shape: [1, 2, 2, 3], output: [1, 2, 4, 6] },
    ],
  ];
  for (const [name, make, options] of cases)
    it(name, async () => {
      const model = small(make, options);
      const batched = cloneModel(model);
      expect((await run(batched)).skipped).toEqual([]);
      expect(batched.graph.inputs[0]?.value.declared?.shape?.[0]).toBe('batch');
      expect(batched.graph.outputs[0]?.value.declared?.shape?.[0]).toBe('batch');
      await expectRowsAgree(model, batched);
    });

  it('an input with a symbolic dimension lends its name to the others', async () => {
    for (const [dim, name] of [
      ['N', 'N'],
      [null, 'batch'],
    ] as const) {
      const g = buildModel({ name: 'mixed', opset: 13 });
      const [a, b] = [g.input('a', 'float', [1, 3]), g.input('b', 'float', [dim, 3])];
      g.output(g.node('Mul', [a, b]), 'y', 'float', [dim, 3]);
      expect((await run(g.model)).applied).toEqual([{ site: 'a', detail: `[1, 3] -> [${name}, 3]` }]);
    }
  });

  it('a shared target stays as it is for its other reader', async () => {
    const model = small(
      (g, x) => {
        const target = ints(g, 1, 12);
        return g.node('Add', [g.node('Reshape', [x, target]), g.node('Reshape', [floats(g, 12), target])]);
      },
      { output: [1, 12] },
    );
    const batched = cloneModel(model);
    expect((await run(batched)).skipped).toEqual([]);
    const targets = batched.graph.nodes
      .filter(({ op }) => op === 'Reshape')
      .map(({ inputs }) => inputs[1]?.initializer);
    expect(targets.map((tensor) => tensor && [...toNumbers(tensor)])).toEqual([
      [0, 12],
      [1, 12],
    ]);
    await expectRowsAgree(model, batched);
  });

  it('two inputs get the batch together, and intermediate types follow', async () => {
    const g = buildModel({ name: 'two', opset: 13 });
    const [a, b] = [g.input('a', 'float', [1, 3]), g.input('b', 'float', [1, 3])];
    g.output(g.node('Mul', [a, b]), 'y', 'float', [1, 3]);
    const batched = cloneModel(g.model);
    expect((await run(batched, 'n')).applied.map(({ site, detail }) => `${site} ${detail}`)).toEqual([
      'a [1, 3] -> [n, 3]',
      'b [1, 3] -> [n, 3]',
    ]);
    await expectRowsAgree(g.model, batched);
  });
});

/** One step of a random network on a value of the given shape; null where it does not fit. */
type Step = (
  g: GraphBuilder,
  x: Value,
  shape: readonly number[],
  k: number,
) => readonly [Value, readonly number[]] | null;
const STEPS: readonly Step[] = [
  (g, x, s) => [g.node('Tanh', [x]), s],
  (g, x, s, k) => [g.node('Add', [x, floats(g, ...s.slice(k % (s.length + 1)))]), s],
  (g, x, s, k) => [g.node('Mul', [x, floats(g, s.at(-1) ?? 1)]), k % 2 ? s : s],
  (g, x, s, k) => {
    const perm = s.map((_, i) => (i + k) % s.length);
    return [g.node('Transpose', [x], { perm }), perm.map((i) => s[i] ?? 1)];
  },
  (g, x, s, k) => [g.node('Softmax', [x], { axis: k % s.length }), s],
  (g, x, s, k) => [
    g.node('ReduceMean', [x], { axes: [k % s.length], keepdims: 1 }),
    s.map((d, i) => (i === k % s.length ? 1 : d)),
  ],
  (g, x, s, k) =>
    s.length < 2
      ? null
      : [g.node('ReduceMax', [x], { axes: [k % s.length], keepdims: 0 }), s.filter((_, i) => i !== k % s.length)],
  (g, x, s, k) =>
    s.length > 4
      ? null
      : [g.node('Unsqueeze', [x, ints(g, k % (s.length + 1))]), s.toSpliced(k % (s.length + 1), 0, 1)],
  (g, x, s, k) =>
    s[k % s.length] === 1 && s.length > 1
      ? [g.node('Squeeze', [x, ints(g, k % s.length)]), s.toSpliced(k % s.length, 1)]
      : null,
  (g, x, s) => {
    const total = s.reduce((a, b) => a * b, 1);
    return [g.node('Reshape', [x, ints(g, 1, total)]), [1, total]];
  },
  (g, x, s) =>
    s.length < 2
      ? null
      : [
          g.node('Reshape', [x, ints(g, ...s.slice(0, -2), -1)]),
          [...s.slice(0, -2), s.slice(-2).reduce((a, b) => a * b, 1)],
        ],
  (g, x, s) =>
    s.length > 4
      ? null
      : [g.node('Reshape', [x, ints(g, s[0] ?? 1, 1, -1)]), [s[0] ?? 1, 1, s.slice(1).reduce((a, b) => a * b, 1)]],
  (g, x, s, k) => [
    g.node('Flatten', [x], { axis: k % (s.length + 1) }),
    [0, 1].map((side) =>
      s.slice(side ? k % (s.length + 1) : 0, side ? undefined : k % (s.length + 1)).reduce((a, b) => a * b, 1),
    ),
  ],
  (g, x, s, k) => [g.node('Concat', [x, x], { axis: k % s.length }), s.map((d, i) => (i === k % s.length ? 2 * d : d))],
  (g, x, s) => (s.length < 2 ? null : [g.node('MatMul', [x, floats(g, s.at(-1) ?? 1, 2)]), [...s.slice(0, -1), 2]]),
  (g, x, s) =>
    s.length < 2 ? null : [g.node('MatMul', [floats(g, 3, s.at(-2) ?? 1), x]), [...s.slice(0, -2), 3, s.at(-1) ?? 1]],
  (g, x, s) =>
    s.length < 2
      ? null
      : [
          g.node('MatMul', [
            x,
            g.node('Transpose', [x], { perm: [...s.keys()].map((i) => (i < s.length - 2 ? i : 2 * s.length - 3 - i)) }),
          ]),
          [...s.slice(0, -1), s.at(-2) ?? 1],
        ],
  (g, x, s, k) => [g.node('Add', [x, g.node('ReduceMin', [x], { axes: [k % s.length] })]), s],
  (g, x, s, k) => [
    g.node('Gather', [x, ints(g, 0, 0)], { axis: k % s.length }),
    s.map((d, i) => (i === k % s.length ? 2 : d)),
  ],
  (g, x, s) => [
    g.node('Reshape', [
      x,
      g.node(
        'Concat',
        [
          g.node('Slice', [g.node('Shape', [x]), ints(g, 0), g.constant('one', 'int64', [1], [1])]),
          g.constant('minus', 'int64', [1], [-1]),
        ],
        { axis: 0 },
      ),
    ]),
    [s[0] ?? 1, s.slice(1).reduce((a, b) => a * b, 1)],
  ],
  (g, x, s) => [g.node('Expand', [x, ints(g, ...s.map((d) => (d === 1 ? 1 : d)))]), s],
];

describe('random networks', () => {
  it('are refused, or keep their rows apart', async () => {
    let accepted = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(STEPS.length - 1), fc.nat(9)), { minLength: 1, maxLength: 6 }),
        fc.constantFrom([1, 2, 3], [1, 1, 4], [1, 2], [1, 3, 1, 2], [1]),
        async (steps, start) => {
          const g = buildModel({ name: 'random', opset: 13 });
          let [value, shape]: readonly [Value, readonly number[]] = [g.input('x', 'float', start), start];
          for (const [at, k] of steps) {
            const next = STEPS[at]?.(g, value, shape, k);
            if (next && next[1].reduce((a, b) => a * b, 1) < 200) [value, shape] = next;
          }
          if (value.isInput) value = g.node('Relu', [value]);
          g.output(value, 'y', 'float', shape);
          const batched = cloneModel(g.model);
          const report = await run(batched);
          if (report.skipped.length > 0) return;
          accepted++;
          await expectRowsAgree(g.model, batched, 3);
        },
      ),
      { numRuns: 300, seed: 5 },
    );
    expect(accepted).toBeGreaterThan(40);
  });
});
