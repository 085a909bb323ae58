import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Batch, type Dataset, LAYOUTS, type Layout } from '../../src/data/dataset.ts';
import { type Normalize, parseNormalize } from '../../src/data/normalize.ts';
import { type InputPlan, parseLayout, planInput } from '../../src/eval/input.ts';
import { arrayNumbers } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import type { Dim, ElementType, Model } from '../../src/graph/ir.ts';
import { verify } from '../../src/graph/verify.ts';
import { makeRng } from '../../src/rng.ts';
import { runModel } from '../support/numeric.ts';

type Data = Pick<Dataset, 'name' | 'shape' | 'layout' | 'elem'>;

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);

/** A model that gives back what it is fed. */
function identity(elem: ElementType, shape: readonly Dim[], opset = 17): Model {
  const g = buildModel({ name: 'g', opset });
  g.output(g.node('Identity', [g.input('x', elem, shape)]), 'y', elem, shape);
  return g.model;
}

interface Case {
  readonly dataset: Data;
  readonly shape: readonly Dim[];
  readonly elem?: ElementType;
  readonly normalize?: string | Normalize;
  readonly layout?: Layout;
  readonly opset?: number;
}

function planFor({ dataset, shape, elem = 'float', normalize = 'raw', layout }: Case): InputPlan {
  return planInput({
    dataset,
    input: 'x',
    type: { elem, shape },
    normalize: typeof normalize === 'string' ? parseNormalize(normalize) : normalize,
    layout,
    where: 'net.onnx',
  });
}

function makeBatch({ shape, elem }: Data, count: number, seed = 1): Batch {
  const rng = makeRng(seed);
  const length = count * product(shape);
  const byte = () => Math.floor(256 * rng.uniform());
  const rows =
    elem === 'uint8'
      ? Uint8Array.from({ length }, byte)
      : Float32Array.from({ length }, () => (elem === 'pixels' ? 255 * rng.uniform() : rng.normal()));
  return { first: 0, count, rows, labels: null };
}

/** What the model sees of a batch. */
async function seen(one: Case, batch: Batch, rows = batch.count): Promise<{ dims: readonly number[]; data: number[] }> {
  const plan = planFor(one);
  const model = identity(one.elem ?? 'float', one.shape, one.opset);
  const name = plan.attach(model);
  expect(verify(model)).toEqual([]);
  const result = (await runModel(model, new Map([[name, plan.feed(batch, rows)]]))).get('y');
  if (!result) throw new Error('no output');
  expect(result.elem).toBe(one.elem ?? 'float');
  return { dims: result.dims, data: [...arrayNumbers(result)] };
}

/** The definition, number by number, in float64. */
function reference({ dataset, normalize = 'raw' }: Case, layout: Layout, batch: Batch, rows: number): number[] {
  const { scale, mean, std } = typeof normalize === 'string' ? parseNormalize(normalize) : normalize;
  const image = dataset.shape.length === 3;
  const [a = 1, b = 1, d = 1] = dataset.shape;
  const [channels, height, width] = !image
    ? [1, 1, product(dataset.shape)]
    : dataset.layout === 'hwc'
      ? [d, a, b]
      : [a, b, d];
  const of = (list: readonly number[], c: number, otherwise: number) =>
    list.length === 0 ? otherwise : (list[list.length === 1 ? 0 : c] as number);
  const out: number[] = [];
  for (let n = 0; n < rows; n++) {
    const from = Math.min(n, batch.count - 1) * product(dataset.shape);
    const at = (c: number, y: number, x: number) => {
      const place = image && dataset.layout === 'hwc' ? (y * width + x) * channels + c : (c * height + y) * width + x;
      const value = (batch.rows[from + place] as number) * (scale ?? (dataset.elem === 'float' ? 1 : 1 / 255));
      return (value - of(mean, c, 0)) / of(std, c, 1);
    };
    if (layout === 'nhwc')
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) for (let c = 0; c < channels; c++) out.push(at(c, y, x));
    else
      for (let c = 0; c < channels; c++)
        for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) out.push(at(c, y, x));
  }
  return out;
}

/** Rounding of a float32 product and sum, and of the element type; the last one relative. */
const PRECISION: Partial<Record<ElementType, number>> = { float: 1e-6, double: 1e-6, float16: 1e-3, uint8: 0 };

async function expectReference(one: Case, layout: Layout, count = 3, rows = count): Promise<void> {
  const batch = makeBatch(one.dataset, count);
  const { dims, data } = await seen(one, batch, rows);
  const expected = reference(one, layout, batch, rows);
  expect(dims[0]).toBe(rows);
  expect(data.length).toBe(expected.length);
  const size = Math.max(1, ...expected.map(Math.abs));
  const tolerance = (PRECISION[one.elem ?? 'float'] as number) * size;
  for (const [i, value] of expected.entries())
    if (!(Math.abs((data[i] as number) - value) <= tolerance))
      expect.fail(`number ${i}: ${data[i]}, expected ${value} within ${tolerance}`);
}

const chw = (elem: Data['elem'], ...shape: number[]): Data => ({ name: 'cifar10', shape, layout: 'chw', elem });
const hwc = (elem: Data['elem'], ...shape: number[]): Data => ({ name: 'npz', shape, layout: 'hwc', elem });
const plain = (elem: Data['elem'], ...shape: number[]): Data => ({ name: 'npz', shape, layout: 'plain', elem });

describe('planInput finds the layout', () => {
  it.each([
    ['images as they are', chw('uint8', 3, 4, 5), ['N', 3, 4, 5], 'nchw'],
    ['channels last', chw('uint8', 3, 4, 5), ['N', 4, 5, 3], 'nhwc'],
    ['interleaved as they are', hwc('uint8', 4, 5, 3), [null, 4, 5, 3], 'nhwc'],
    ['interleaved to planar', hwc('uint8', 4, 5, 3), ['N', 3, 4, 5], 'nchw'],
    ['grey', chw('uint8', 1, 4, 5), ['N', 1, 4, 5], 'nchw'],
    ['a vector', chw('uint8', 1, 4, 5), ['N', 20], 'flat'],
    ['a vector with a dimension of 1', chw('uint8', 1, 4, 5), ['N', 20, 1], 'flat'],
    ['grey without its channel', chw('uint8', 1, 4, 5), ['N', 4, 5], 'flat'],
    ['a vector of colours', chw('uint8', 3, 4, 5), ['N', 60], 'flat'],
    ['interleaved to a vector', hwc('uint8', 4, 5, 3), ['N', 60], 'flat'],
    ['free dimensions', chw('uint8', 3, 4, 5), ['N', 'C', 'H', 'W'], 'nchw'],
    ['unknown dimensions', hwc('uint8', 4, 5, 3), [null, null, null, null], 'nchw'],
    ['a free vector', chw('uint8', 3, 4, 5), ['N', 'F'], 'flat'],
    ['floating point', chw('float', 3, 4, 5), ['N', 4, 5, 3], 'nhwc'],
    ['resized pixels', chw('pixels', 3, 4, 5), ['N', 4, 5, 3], 'nhwc'],
    ['features', plain('float', 7), ['N', 7], 'nchw'],
    ['one feature', plain('float', 1), ['N'], 'flat'],
    ['sequences', plain('float', 5, 7), ['N', 5, 7], 'nchw'],
  ] as const)('%s', async (_, dataset, shape, layout) => {
    const one = { dataset, shape, normalize: dataset.elem === 'float' ? 'raw' : 'mean=0.4,std=0.2' };
    expect(planFor(one).layout).toBe(layout);
    await expectReference(one, layout);
  });

  it.each(LAYOUTS)('takes %s where it is given', async (layout) => {
    // A cube fits every way.
    const one: Case = { dataset: chw('uint8', 3, 3, 3), shape: ['N', 3, 3, 3], normalize: 'cifar10', layout };
    expect(planFor(one).layout).toBe(layout);
    await expectReference(one, layout);
  });

  it("takes any shape of the right size where 'flat' is given", async () => {
    const one: Case = { dataset: hwc('uint8', 4, 4, 3), shape: ['N', 6, 8], normalize: 'cifar10' };
    expect(() => planFor(one)).toThrow(/takes \[N,6,8\]/);
    await expectReference({ ...one, layout: 'flat' }, 'flat');
  });

  it('parses names', () => {
    expect(parseLayout('nhwc')).toBe('nhwc');
    expect(() => parseLayout('nchv')).toThrow(/--layout: unknown layout 'nchv'; did you mean 'nchw'/);
  });
});

describe('values', () => {
  const elems = ['float', 'double', 'float16'] as const;
  const normalizations = ['raw', 'scale=1/255', 'scale=2', 'cifar10', 'mean=0.5', 'std=0.25', 'scale=1,mean=1:2:3'];
  it.each(elems.flatMap((elem) => normalizations.map((normalize) => [elem, normalize] as const)))(
    'bytes as %s with %s',
    async (elem, normalize) => {
      for (const [dataset, shape, layout] of [
        [chw('uint8', 3, 2, 4), ['N', 3, 2, 4], 'nchw'],
        [hwc('uint8', 2, 4, 3), ['N', 3, 2, 4], 'nchw'],
        [chw('uint8', 3, 2, 4), ['N', 24], 'flat'],
      ] as const)
        await expectReference({ dataset, shape, elem, normalize }, layout);
    },
  );

  it('scales pixels to 0..1 and leaves floating point as it is', async () => {
    const one = { shape: ['N', 1, 2, 2], normalize: 'mean=0,std=1' };
    const white: Batch = { first: 0, count: 1, rows: new Uint8Array(4).fill(255), labels: null };
    expect((await seen({ ...one, dataset: chw('uint8', 1, 2, 2) }, white)).data).toEqual([1, 1, 1, 1]);
    const floats = { ...white, rows: new Float32Array(4).fill(255) };
    expect((await seen({ ...one, dataset: chw('pixels', 1, 2, 2) }, floats)).data).toEqual([1, 1, 1, 1]);
    expect((await seen({ ...one, dataset: chw('float', 1, 2, 2) }, floats)).data).toEqual([255, 255, 255, 255]);
  });

  it('NaN and infinities arrive', async () => {
    const rows = Float32Array.from([Number.NaN, Infinity, -Infinity, 1]);
    const { data } = await seen(
      { dataset: plain('float', 4), shape: ['N', 4], normalize: 'mean=1,std=2' },
      { first: 0, count: 1, rows, labels: null },
    );
    expect(data).toEqual([Number.NaN, Infinity, -Infinity, 0]);
  });

  it.each(['uint8', 'int32', 'int64'] as const)('raw bytes go into models that take %s', async (elem) => {
    const dataset = hwc('uint8', 2, 4, 3);
    const batch = makeBatch(dataset, 2);
    const one: Case = { dataset, shape: ['N', 3, 2, 4], elem };
    expect((await seen(one, batch)).data).toEqual(reference(one, 'nchw', batch, 2));
  });

  it.each([9, 13, 17, 21])('in models of opset %i', async (opset) => {
    await expectReference({ dataset: hwc('uint8', 3, 4, 3), shape: ['N', 36], normalize: 'cifar10', opset }, 'flat');
  });

  it('fills up a batch with its last row', async () => {
    for (const rows of [3, 4, 7])
      await expectReference(
        { dataset: hwc('uint8', 2, 4, 3), shape: [rows, 3, 2, 4], normalize: 'cifar10' },
        'nchw',
        3,
        rows,
      );
  });

  it('is right for all shapes, layouts and channels', async () => {
    const side = fc.integer({ min: 1, max: 5 });
    const cases = fc.record({
      channels: fc.constantFrom(1, 2, 3, 4),
      height: side,
      width: side,
      stored: fc.constantFrom('chw', 'hwc'),
      elem: fc.constantFrom('uint8', 'pixels', 'float'),
      layout: fc.constantFrom(...LAYOUTS),
      lead: fc.constantFrom<Dim>('N', null, 3),
      perChannel: fc.boolean(),
      count: fc.integer({ min: 1, max: 3 }),
      seed: fc.nat(1000),
    });
    await fc.assert(
      fc.asyncProperty(cases, async ({ channels: c, height: h, width: w, stored, elem, layout, lead, ...rest }) => {
        const { perChannel, count, seed } = rest;
        const rng = makeRng(seed);
        const list = () => Array.from({ length: perChannel ? c : 1 }, () => 0.1 + rng.uniform());
        const dataset = stored === 'chw' ? chw(elem, c, h, w) : hwc(elem, h, w, c);
        const tail = { nchw: [c, h, w], nhwc: [h, w, c], flat: [c * h * w] }[layout];
        const normalize = { scale: rng.uniform() < 0.5 ? null : 0.01, mean: list(), std: list() };
        await expectReference(
          { dataset, shape: [lead, ...tail], normalize, layout },
          layout,
          count,
          lead === 3 ? 3 : count,
        );
      }),
      { numRuns: 150, seed: 7 },
    );
  });
});

describe('what does not fit', () => {
  const image = chw('uint8', 3, 32, 32);
  it.each<[string, Case, string]>([
    [
      'the size',
      { dataset: image, shape: ['N', 3, 224, 224] },
      'takes [N,3,224,224], but the rows of cifar10 are [N,3,32,32]: give --resize 224x224',
    ],
    [
      'the size of an interleaved input',
      { dataset: image, shape: ['N', 40, 48, 3] },
      'takes [N,40,48,3], but the rows of cifar10 are [N,3,32,32]: give --resize 40x48',
    ],
    [
      'the size of interleaved data',
      { dataset: hwc('uint8', 32, 32, 3), shape: [1, 3, 40, 48] },
      'takes [N,3,40,48], but the rows of npz are [N,32,32,3]: give --resize 40x48',
    ],
    [
      'the channels',
      { dataset: image, shape: ['N', 1, 32, 32] },
      'takes [N,1,32,32], but the rows of cifar10 are [N,3,32,32]: choose data with as many channels',
    ],
    [
      'the length of a vector',
      { dataset: chw('uint8', 1, 28, 28), shape: ['N', 1024] },
      'takes [N,1024], but the rows of cifar10 are [N,1,28,28]: choose a data set with rows of that shape, or bring them there with --resize HxW',
    ],
    [
      'the rank',
      { dataset: image, shape: ['N', 3, 32, 32, 1], normalize: 'raw', layout: 'nchw' },
      'takes [N,3,32,32,1], but the rows of cifar10 are [N,3,32,32]: --layout nchw does not suit it',
    ],
    ['the layout', { dataset: image, shape: ['N', 3, 32, 32], layout: 'nhwc' }, '--layout nhwc does not suit it'],
    ['a matrix', { dataset: image, shape: ['N', 32, 96] }, 'takes [N,32,96], but the rows of cifar10 are [N,3,32,32]'],
    ['two free dimensions of a matrix', { dataset: image, shape: ['N', 'A', 'B'] }, 'takes [N,A,B], but'],
    [
      'features',
      { dataset: plain('float', 7), shape: ['N', 8] },
      'takes [N,8], but the rows of npz are [N,7]: choose a data set with rows of that shape',
    ],
    ['a batch of numbers', { dataset: image, shape: [32] }, 'takes [N], but the rows of cifar10 are [N,3,32,32]'],
    ['nothing', { dataset: image, shape: ['N', 0] }, 'takes [N,0], but'],
    ['a scalar', { dataset: image, shape: [] }, "its input 'x' states no shape with a batch dimension"],
    [
      'the mean',
      { dataset: image, shape: ['N', 3, 32, 32], normalize: 'mean=1:2' },
      '--normalize: mean has 2 numbers, but the data have 3 channels',
    ],
    [
      'the mean of grey images',
      { dataset: chw('uint8', 1, 8, 8), shape: ['N', 1, 8, 8], normalize: 'cifar10' },
      '--normalize: mean has 3 numbers, but the data have 1 channel',
    ],
    [
      'std',
      { dataset: image, shape: ['N', 3, 32, 32], normalize: 'mean=0.5,std=1:1:1:1' },
      '--normalize: std has 4 numbers, but the data have 3 channels',
    ],
    [
      'whole numbers',
      { dataset: image, shape: ['N', 3, 32, 32], elem: 'uint8', normalize: 'cifar10' },
      "its input 'x' holds uint8, which --normalize mean=0.4914,0.4822,0.4465,std=0.247,0.2435,0.2616 does not give; give --normalize raw",
    ],
    [
      'whole numbers from floating point',
      { dataset: chw('float', 3, 32, 32), shape: ['N', 3, 32, 32], elem: 'uint8' },
      "its input 'x' holds uint8, which floating-point data do not suit",
    ],
  ])('%s', (_, one, message) => {
    const plan = () => planFor(one);
    expect(plan).toThrow(message);
    expect(plan).toThrow(
      expect.objectContaining({ code: 'usage', message: expect.stringMatching(/^(net\.onnx: |--normalize)[^\n]+$/) }),
    );
  });

  it('an unknown shape', () => {
    const request = { dataset: image, input: 'x', normalize: parseNormalize('raw'), where: 'net.onnx' };
    for (const type of [
      { elem: 'float' as const, shape: null },
      { elem: null, shape: ['N', 3, 32, 32] },
    ])
      expect(() => planInput({ ...request, type })).toThrow(
        "net.onnx: its input 'x' states no shape with a batch dimension",
      );
  });
});
