/**
 * Pooling in ONNX's layout [N, C, H, W], differentiable: AveragePool and MaxPool with ONNX's padding, ceil_mode and counts.
 * Backends that have kernels for it run those; all others compose it of standard operations.
 */
import {
  AVERAGE_POOL,
  AVERAGE_POOL_GRAD,
  countsAlong,
  MAX_POOL,
  MAX_POOL_GRAD,
  type Windows,
  windowsOf,
} from '../onnxruntime/pool.ts';
import { tf } from '../tf.ts';

export interface PoolGeometry {
  /** Rows and columns of a window. */
  readonly kernel: readonly [number, number];
  readonly strides: readonly [number, number];
  readonly pads: readonly [top: number, left: number, bottom: number, right: number];
  /** Of MaxPool alone. */
  readonly dilations: readonly [number, number];
  /** ONNX's ceil_mode: windows may reach beyond the padding. */
  readonly ceil: boolean;
}

/**
 * Means of windows.
 * @param x [N, C, H, W]
 * @param countIncludePad whether padding counts as zeros; what ceil_mode adds beyond it never counts
 * @returns [N, C, H', W']
 */
export function averagePool(x: tf.Tensor4D, geometry: PoolGeometry, countIncludePad: boolean): tf.Tensor4D {
  if (tf.getKernel(AVERAGE_POOL, tf.getBackend()))
    return tf.engine().runKernel(AVERAGE_POOL, { x }, { ...geometry, countIncludePad });
  const [rows, columns] = windowsOf(x.shape, geometry);
  const down = tf.tensor2d(countsAlong(rows, countIncludePad), [rows.output, 1]);
  const across = tf.tensor2d(countsAlong(columns, countIncludePad), [1, columns.output]);
  return tf.div(tf.addN(taps(x, rows, columns, 0)), tf.mul(down, across));
}

tf.registerGradient({
  kernelName: AVERAGE_POOL,
  inputsToSave: ['x'],
  gradFunc: (dy, [x], attributes) => ({
    x: () => tf.engine().runKernel(AVERAGE_POOL_GRAD, { dy, x } as tf.NamedTensorMap, attributes),
  }),
});

/**
 * Largest elements of windows, padding aside. Their gradient goes to the first of several that are equal.
 * @param x [N, C, H, W]
 * @returns [N, C, H', W']
 */
export function maxPool(x: tf.Tensor4D, geometry: PoolGeometry): tf.Tensor4D {
  if (tf.getKernel(MAX_POOL, tf.getBackend())) return tf.engine().runKernel(MAX_POOL, { x }, { ...geometry });
  const [rows, columns] = windowsOf(x.shape, geometry);
  // tfjs gives the gradient of a maximum of equals to the first one.
  return taps(x, rows, columns, Number.NEGATIVE_INFINITY).reduce((largest, tap) => tf.maximum(largest, tap));
}

tf.registerGradient({
  kernelName: MAX_POOL,
  inputsToSave: ['x'],
  outputsToSave: [true],
  gradFunc: (dy, [x, y], attributes) => ({
    x: () => tf.engine().runKernel(MAX_POOL_GRAD, { dy, x, y } as tf.NamedTensorMap, attributes),
  }),
});

/** For each place in a window, in row-major order: the elements there of all windows, [N, C, H', W']. */
function taps(x: tf.Tensor4D, rows: Windows, columns: Windows, fill: number): tf.Tensor4D[] {
  const [n, c] = x.shape;
  const [height, width] = [rows, columns].map(
    ({ output, size, stride, dilation }) => output * stride + dilation * (size - 1),
  ) as [number, number];
  const whole = tf.slice(
    tf.pad(
      x,
      [
        [0, 0],
        [0, 0],
        [rows.begin, Math.max(0, height - rows.begin - rows.input)],
        [columns.begin, Math.max(0, width - columns.begin - columns.input)],
      ],
      fill,
    ),
    [0, 0, 0, 0],
    [n, c, height, width],
  );
  return Array.from({ length: rows.size }, (_, i) =>
    Array.from({ length: columns.size }, (_, j) => {
      const [top, left] = [i * rows.dilation, j * columns.dilation];
      const window = tf.slice(
        whole,
        [0, 0, top, left],
        [n, c, rows.output * rows.stride, columns.output * columns.stride],
      );
      const strided = tf.reshape(window, [n, c, rows.output, rows.stride, columns.output, columns.stride]);
      const tap = tf.slice(strided, [0, 0, 0, 0, 0, 0], [n, c, rows.output, 1, columns.output, 1]);
      return tf.reshape(tap, [n, c, rows.output, columns.output]) as tf.Tensor4D;
    }),
  ).flat();
}
