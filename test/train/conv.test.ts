/** Convolution and its gradients: the backend's kernels against tfjs' own on 'cpu', and against differences. */
import fc from 'fast-check';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { registerOnnxRuntime } from '../../src/train/onnxruntime/backend.ts';
import { CONV, CONV_FILTER_GRAD, CONV_INPUT_GRAD } from '../../src/train/onnxruntime/conv.ts';
import { type ConvGeometry, conv } from '../../src/train/ops/conv.ts';
import { tf } from '../../src/train/tf.ts';
import { floats, on, type Values } from '../support/tensors.ts';

beforeAll(() => void registerOnnxRuntime({ threads: 1 }));

type Dims4 = [number, number, number, number];
interface Case {
  readonly x: Dims4;
  readonly w: Dims4;
  readonly geometry: ConvGeometry;
}

const PLAIN: ConvGeometry = { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], groups: 1 };

/** y, dx and dw for a dy that is the same on every backend. */
function results({ x, w, geometry }: Case): tf.Tensor[] {
  const [images, filters] = [floats(x, -1, 1, 1) as tf.Tensor4D, floats(w, -1, 1, 2) as tf.Tensor4D];
  const y = conv(images, filters, geometry);
  const dy = floats(y.shape, -1, 1, 3);
  const gradients = tf.grads((a: tf.Tensor, b: tf.Tensor) => conv(a as tf.Tensor4D, b as tf.Tensor4D, geometry))(
    [images, filters],
    dy,
  );
  return [y, ...gradients];
}

const NAMES = ['y', 'dx', 'dw'];

/** |Δ| <= 1e-5 of the largest element: sums of some thousand terms in single precision, in another order. */
function expectClose(found: readonly Values[], expected: readonly Values[]): void {
  expect(found.map(({ shape }) => shape)).toEqual(expected.map(({ shape }) => shape));
  for (const [k, { values }] of expected.entries()) {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const worst = values.reduce((most, value, i) => {
      const difference = Math.abs((found[k]?.values[i] ?? Number.NaN) - value);
      return difference <= most ? most : difference;
    }, 0);
    expect(worst, NAMES[k]).toBeLessThanOrEqual(1e-5 * largest);
  }
}

async function check(of: Case): Promise<void> {
  expectClose(await on('onnxruntime', () => results(of)), await on('cpu', () => results(of)));
}

/** One axis: sizes, kernels, strides, pads and dilations that fit together. */
const axis = (most: { size: number; kernel: number; stride: number; dilation: number; pad: number }) =>
  fc
    .record({
      size: fc.integer({ min: 1, max: most.size }),
      kernel: fc.integer({ min: 1, max: most.kernel }),
      stride: fc.integer({ min: 1, max: most.stride }),
      dilation: fc.integer({ min: 1, max: most.dilation }),
      pads: fc.tuple(fc.nat(most.pad), fc.nat(most.pad)),
    })
    .filter((a) => a.size + a.pads[0] + a.pads[1] >= (a.kernel - 1) * a.dilation + 1);

const ANY = axis({ size: 9, kernel: 4, stride: 3, dilation: 3, pad: 4 });

const cases: fc.Arbitrary<Case> = fc
  .record({
    n: fc.integer({ min: 1, max: 3 }),
    groups: fc.integer({ min: 1, max: 3 }),
    // Channels of a group: 1 x m is depthwise with a multiplier.
    cin: fc.constantFrom(1, 2, 3, 10),
    cout: fc.integer({ min: 1, max: 3 }),
    height: ANY,
    width: ANY,
  })
  .map(({ n, groups, cin, cout, height, width }) => ({
    x: [n, groups * cin, height.size, width.size],
    w: [groups * cout, cin, height.kernel, width.kernel],
    geometry: {
      strides: [height.stride, width.stride],
      pads: [height.pads[0], width.pads[0], height.pads[1], width.pads[1]],
      dilations: [height.dilation, width.dilation],
      groups,
    },
  }));

describe('conv', () => {
  it('agrees with tfjs in y, dx and dw for any geometry', async () => {
    await fc.assert(fc.asyncProperty(cases, check), { numRuns: 150, seed: 1 });
  });

  const same = (k: number, stride = 1, groups = 1): ConvGeometry => {
    const pad = (k - 1) >> 1;
    return { ...PLAIN, strides: [stride, stride], pads: [pad, pad, pad, pad], groups };
  };
  it.each<[string, Case]>([
    ['3x3', { x: [3, 4, 9, 7], w: [5, 4, 3, 3], geometry: same(3) }],
    ['3x3, stride 2', { x: [3, 4, 8, 8], w: [5, 4, 3, 3], geometry: same(3, 2) }],
    ['3x3, stride 2, odd size', { x: [3, 4, 9, 7], w: [5, 4, 3, 3], geometry: same(3, 2) }],
    ['5x5', { x: [2, 3, 8, 8], w: [4, 3, 5, 5], geometry: same(5) }],
    ['1x1', { x: [3, 4, 5, 6], w: [5, 4, 1, 1], geometry: PLAIN }],
    ['1x1, stride 2', { x: [3, 4, 5, 6], w: [5, 4, 1, 1], geometry: same(1, 2) }],
    ['1x1 with pads', { x: [3, 4, 5, 6], w: [5, 4, 1, 1], geometry: { ...PLAIN, pads: [1, 0, 2, 1] } }],
    ['1x1 in groups', { x: [3, 6, 5, 6], w: [9, 2, 1, 1], geometry: same(1, 1, 3) }],
    ['depthwise', { x: [3, 6, 8, 8], w: [6, 1, 3, 3], geometry: same(3, 1, 6) }],
    ['depthwise, stride 2', { x: [3, 6, 8, 8], w: [6, 1, 3, 3], geometry: same(3, 2, 6) }],
    ['depthwise, stride 2, odd size', { x: [3, 6, 9, 7], w: [6, 1, 3, 3], geometry: same(3, 2, 6) }],
    ['depthwise, multiplier 2', { x: [3, 6, 8, 8], w: [12, 1, 3, 3], geometry: same(3, 1, 6) }],
    ['uneven strides', { x: [2, 3, 11, 10], w: [4, 3, 3, 3], geometry: { ...same(3), strides: [3, 2] } }],
    ['kernel larger than the image', { x: [2, 3, 2, 3], w: [4, 3, 5, 5], geometry: same(5) }],
    ['pads beyond the kernel', { x: [2, 3, 4, 4], w: [4, 3, 2, 2], geometry: { ...PLAIN, pads: [3, 2, 2, 4] } }],
    ['dilated', { x: [2, 3, 9, 9], w: [4, 3, 3, 3], geometry: { ...same(3), dilations: [2, 3], pads: [2, 3, 2, 3] } }],
    // Sizes from which on other forms are faster, and channels in blocks of 16.
    ['3x3 on large maps', { x: [2, 5, 16, 17], w: [7, 5, 3, 3], geometry: same(3) }],
    ['3x3 in blocks', { x: [2, 16, 16, 17], w: [32, 16, 3, 3], geometry: same(3) }],
    ['3x3 on small maps in blocks', { x: [3, 48, 4, 3], w: [32, 48, 3, 3], geometry: same(3) }],
    [
      'uneven on tiny maps in blocks',
      { x: [3, 32, 2, 2], w: [16, 32, 2, 3], geometry: { ...same(3), pads: [1, 1, 0, 1] } },
    ],
    ['3x3, stride 2, in blocks', { x: [2, 16, 33, 32], w: [32, 16, 3, 3], geometry: same(3, 2) }],
    ['uneven on large maps', { x: [2, 5, 16, 19], w: [6, 5, 4, 2], geometry: { ...PLAIN, pads: [2, 0, 1, 1] } }],
    ['no pads on large maps', { x: [1, 16, 20, 21], w: [16, 16, 5, 3], geometry: PLAIN }],
    [
      'dilated on large maps',
      { x: [2, 16, 18, 20], w: [16, 16, 3, 3], geometry: { ...PLAIN, dilations: [2, 1], pads: [3, 0, 1, 2] } },
    ],
    [
      'stride 2 that comes out even',
      { x: [2, 4, 8, 6], w: [5, 4, 5, 3], geometry: { ...same(3, 2), pads: [2, 1, 2, 1] } },
    ],
    [
      'stride 3 that comes out even',
      { x: [2, 4, 9, 6], w: [5, 4, 4, 5], geometry: { ...same(3, 3), pads: [1, 2, 0, 0] } },
    ],
    ['stride 2, in blocks, both ways', { x: [1, 16, 32, 32], w: [16, 16, 3, 3], geometry: same(3, 2) }],
    ['few channels', { x: [2, 3, 17, 16], w: [16, 3, 3, 3], geometry: { ...same(3, 2), dilations: [1, 2] } }],
    ['1x1 on large maps', { x: [2, 16, 8, 9], w: [32, 16, 1, 1], geometry: PLAIN }],
    ['1x1, stride 2, on large maps', { x: [2, 16, 17, 18], w: [32, 16, 1, 1], geometry: same(1, 2) }],
    ['depthwise in blocks', { x: [3, 16, 8, 7], w: [16, 1, 3, 3], geometry: same(3, 1, 16) }],
    ['depthwise, stride 2, in blocks', { x: [3, 32, 8, 8], w: [32, 1, 3, 3], geometry: same(3, 2, 32) }],
    ['depthwise, stride 2, in blocks, odd size', { x: [2, 16, 9, 7], w: [16, 1, 3, 3], geometry: same(3, 2, 16) }],
    [
      'depthwise in blocks, uneven',
      {
        x: [2, 16, 11, 12],
        w: [16, 1, 2, 3],
        geometry: { strides: [3, 2], pads: [1, 0, 0, 2], dilations: [2, 1], groups: 16 },
      },
    ],
    ['depthwise, multiplier 2, in blocks', { x: [2, 16, 8, 8], w: [32, 1, 3, 3], geometry: same(3, 1, 16) }],
    ['large first kernel', { x: [2, 3, 20, 20], w: [8, 3, 11, 11], geometry: { ...same(11, 4), pads: [5, 5, 5, 5] } }],
  ])('agrees with tfjs: %s', (_, of) => check(of));

  it.each([CONV_INPUT_GRAD, CONV_FILTER_GRAD])('records no %s that nobody asks for', async (unwanted) => {
    await tf.setBackend('onnxruntime');
    const [x, w] = [floats([1, 2, 4, 4]) as tf.Tensor4D, floats([3, 2, 3, 3]) as tf.Tensor4D];
    const names = [CONV, CONV_INPUT_GRAD, CONV_FILTER_GRAD];
    const spies = names.map((name) => vi.spyOn(tf.getKernel(name, 'onnxruntime'), 'kernelFunc'));
    tf.tidy(() =>
      unwanted === CONV_INPUT_GRAD
        ? tf.grad((filters: tf.Tensor) => tf.sum(conv(x, filters as tf.Tensor4D, PLAIN)))(w)
        : tf.grad((images: tf.Tensor) => tf.sum(conv(images as tf.Tensor4D, w, PLAIN)))(x),
    );
    const calls = spies.map((spy) => spy.mock.calls.length);
    for (const spy of spies) spy.mockRestore();
    expect(calls).toEqual(names.map((name) => (name === unwanted ? 0 : 1)));
  });

  it('has the gradients that differences of its values have', async () => {
    const geometry: ConvGeometry = { strides: [2, 1], pads: [1, 0, 0, 2], dilations: [1, 2], groups: 2 };
    const [x, w] = [floats([2, 4, 5, 6], -1, 1, 1), floats([6, 2, 3, 2], -1, 1, 2)];
    const [towardsX, towardsW] = [floats(x.shape, -1, 1, 4), floats(w.shape, -1, 1, 5)];
    const value = (a: tf.Tensor, b: tf.Tensor) => {
      const y = conv(a as tf.Tensor4D, b as tf.Tensor4D, geometry);
      return tf.sum(tf.mul(y, floats(y.shape, -1, 1, 3)));
    };
    // Linear in x and in w: a central difference is exact whatever its width, but for rounding.
    const difference = (toX: tf.Tensor, toW: tf.Tensor) =>
      tf.div(tf.sub(value(tf.add(x, toX), tf.add(w, toW)), value(tf.sub(x, toX), tf.sub(w, toW))), 2);
    const [dx, dw, inX, inW] = await on('onnxruntime', () => {
      const [gx, gw] = tf.grads(value)([x, w]) as [tf.Tensor, tf.Tensor];
      return [
        tf.sum(tf.mul(gx, towardsX)),
        tf.sum(tf.mul(gw, towardsW)),
        difference(towardsX, tf.zerosLike(w)),
        difference(tf.zerosLike(x), towardsW),
      ];
    });
    // Sums of some hundred terms of size 1 in single precision.
    for (const [found, expected] of [
      [dx, inX],
      [dw, inW],
    ])
      expect(Math.abs(Number(found?.values[0]) - Number(expected?.values[0]))).toBeLessThan(1e-4);
  });
});
