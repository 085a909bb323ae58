/** Layers: products with weights, pools, normalisations, Softmax and Dropout. */
import { floatAttr, intAttr, intsAttr, stringAttr } from '../graph/attributes.ts';
import { axisOf } from '../graph/shape-facts.ts';
import { elementCount } from '../graph/tensor.ts';
import { broadcastTo } from './lower-arrange.ts';
import { type Lowering, type Lowerings, type Site, unary, unsupported } from './lowering.ts';
import { batchNorm, normalize } from './ops/batch-norm.ts';
import { conv } from './ops/conv.ts';
import { averagePool, maxPool } from './ops/pool.ts';
import { tf } from './tf.ts';

type Pair = [number, number];
type Pads = [number, number, number, number];

interface Windows {
  readonly kernel: Pair;
  readonly strides: Pair;
  /** Top, left, bottom, right. */
  readonly pads: Pads;
  readonly dilations: Pair;
}

/** Windows over the last two axes; over one axis they are windows of height 1. */
function windowsOf(site: Site, kernel: readonly number[]): Windows {
  const { node } = site;
  const spatial = site.shape(0).slice(2);
  const { length: rank } = spatial;
  if (rank !== 1 && rank !== 2) throw unsupported(`it works on ${rank} spatial axes, and 1 or 2 are supported`);
  const ones = spatial.map(() => 1);
  const strides = intsAttr(node, 'strides') ?? ones;
  const dilations = intsAttr(node, 'dilations') ?? ones;
  const auto = stringAttr(node, 'auto_pad') || 'NOTSET';
  const pads = auto === 'NOTSET' ? (intsAttr(node, 'pads') ?? []) : [];
  const sides = spatial.map((size, i): Pair => {
    if (!auto.startsWith('SAME')) return [pads[i] ?? 0, pads[i + rank] ?? 0];
    const [k = 1, stride = 1, dilation = 1] = [kernel[i], strides[i], dilations[i]];
    const total = Math.max(0, (Math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size);
    const less = Math.floor(total / 2);
    return auto === 'SAME_LOWER' ? [total - less, less] : [less, total - less];
  });
  if (sides.flat().some((side) => side < 0)) throw unsupported('its pads are negative');
  const [[top, bottom], [left, right]] = (rank === 1 ? [[0, 0], ...sides] : sides) as [Pair, Pair];
  const pair = (list: readonly number[]) => (rank === 1 ? [1, ...list] : [...list]) as Pair;
  return { kernel: pair(kernel), strides: pair(strides), dilations: pair(dilations), pads: [top, left, bottom, right] };
}

/** A tensor with one spatial axis gets a second one of size 1. */
const lifted = (x: tf.Tensor): tf.Tensor4D => {
  const [n, c, w] = x.shape as [number, number, number];
  return (x.rank === 3 ? tf.reshape(x, [n, c, 1, w]) : x) as tf.Tensor4D;
};

const convolution: Lowering = (site) => {
  const { kernel: _, ...windows } = windowsOf(site, site.shape(1).slice(2));
  const options = { ...windows, groups: intAttr(site.node, 'group') ?? 1 };
  const shape = [...site.result()];
  const bias = [1, site.shape(1)[0] as number, 1, 1];
  return (input) => {
    const product = conv(lifted(input(0)), lifted(input(1)), options);
    const y = site.has(2) ? tf.add(product, tf.reshape(input(2), bias)) : product;
    return shape.length === 4 ? y : tf.reshape(y, shape);
  };
};

type Pool = (site: Site) => (x: tf.Tensor4D, windows: Windows & { readonly ceil: boolean }) => tf.Tensor;

const pool =
  (make: Pool): Lowering =>
  (site) => {
    const { node } = site;
    if (node.outputs[1]?.users.size) throw unsupported('its indices are read');
    const ceil = intAttr(node, 'ceil_mode') === 1 && !stringAttr(node, 'auto_pad')?.startsWith('SAME');
    const windows = { ...windowsOf(site, intsAttr(node, 'kernel_shape') ?? []), ceil };
    const compute = make(site);
    const shape = [...site.result()];
    return (input) => {
      const y = compute(lifted(input(0)), windows);
      return shape.length === 4 ? y : tf.reshape(y, shape);
    };
  };

const average: Pool = ({ node }) => {
  const countIncludePad = intAttr(node, 'count_include_pad') === 1;
  return (x, windows) => averagePool(x, windows, countIncludePad);
};

/** Over everything behind the channels. */
const globalPool = (compute: (x: tf.Tensor, axes: number[], keep: boolean) => tf.Tensor): Lowering =>
  unary((x) =>
    compute(
      x,
      x.shape.slice(2).map((_, i) => i + 2),
      true,
    ),
  );

const gemm: Lowering = ({ node, has }) => {
  const [alpha, beta] = [floatAttr(node, 'alpha') ?? 1, floatAttr(node, 'beta') ?? 1];
  const [transA, transB] = [intAttr(node, 'transA') === 1, intAttr(node, 'transB') === 1];
  const times = (x: tf.Tensor, factor: number) => (factor === 1 ? x : tf.mul(x, factor));
  return (input) => {
    const product = times(tf.matMul(input(0), input(1), transA, transB), alpha);
    return has(2) && beta !== 0 ? tf.add(product, times(input(2), beta)) : product;
  };
};

/** numpy.matmul: vectors are rows or columns, leading axes broadcast. */
const matMul: Lowering = (site) => {
  const vector = (shape: readonly number[], index: number) =>
    shape.length === 1 ? (index === 0 ? [1, ...shape] : [...shape, 1]) : [...shape];
  const [a, b] = [0, 1].map((index) => vector(site.shape(index), index)) as [number[], number[]];
  const [rows, inner] = a.slice(-2) as Pair;
  const columns = b.at(-1) as number;
  const result = [...site.result()];
  if (b.length === 2) {
    const height = elementCount(a.slice(0, -1));
    return (input) =>
      tf.reshape(tf.matMul(tf.reshape(input(0), [height, inner]), tf.reshape(input(1), [inner, columns])), result);
  }
  // The gradient of tfjs' own product does not know broadcasting.
  const lead = result.slice(0, result.length - 2 + (site.shape(0).length === 1 ? 1 : 0));
  const count = elementCount(lead);
  return (input) => {
    const left = tf.reshape(broadcastTo(tf.reshape(input(0), a), [...lead, rows, inner]), [count, rows, inner]);
    const right = tf.reshape(broadcastTo(tf.reshape(input(1), b), [...lead, inner, columns]), [count, inner, columns]);
    return tf.reshape(tf.matMul(left, right), result);
  };
};

/**
 * running = momentum running + (1 - momentum) batch, with the population's variance, as the standard has it. Statistics
 * that are frozen, or computed, stay, and training then normalises with them.
 */
const batchNormalization: Lowering = (site) => {
  const { node } = site;
  if (intAttr(node, 'training_mode') === 1 || node.outputs.slice(1).some((value) => value && value.users.size > 0))
    throw unsupported('it was exported in training mode; export the model for inference');
  if (intAttr(node, 'spatial') === 0) throw unsupported('its spatial is 0');
  const epsilon = floatAttr(node, 'epsilon') ?? 1e-5;
  const momentum = floatAttr(node, 'momentum') ?? 0.9;
  const [meanName, varianceName] = [site.statistic(3), site.statistic(4)];
  const next = (running: tf.Tensor, batch: tf.Tensor) => tf.add(tf.mul(running, momentum), tf.mul(batch, 1 - momentum));
  return (input, run) => {
    const [x, scale, bias, mean, variance] = [0, 1, 2, 3, 4].map(input) as [
      tf.Tensor,
      tf.Tensor1D,
      tf.Tensor1D,
      tf.Tensor1D,
      tf.Tensor1D,
    ];
    if (!run.training || meanName === null || varianceName === null)
      return normalize(x, scale, bias, mean, variance, epsilon);
    const batch = batchNorm(x, scale, bias, epsilon);
    run.update(meanName, next(mean, batch.mean));
    run.update(varianceName, next(variance, batch.variance));
    return batch.y;
  };
};

/** (x - mean) / sqrt(variance + epsilon) over some axes. */
function standardized(x: tf.Tensor, axes: number[], epsilon: number): tf.Tensor {
  const centred = tf.sub(x, tf.mean(x, axes, true));
  return tf.div(centred, tf.sqrt(tf.add(tf.mean(tf.square(centred), axes, true), epsilon)));
}

const layerNormalization: Lowering = (site) => {
  const { node } = site;
  const { length: rank } = site.shape(0);
  const axis = axisOf(intAttr(node, 'axis') ?? -1, rank);
  const axes = Array.from({ length: rank - axis }, (_, i) => axis + i);
  const epsilon = floatAttr(node, 'epsilon') ?? 1e-5;
  if (node.outputs.slice(1).some((value) => value && value.users.size > 0))
    throw unsupported('its statistics are read');
  return (input) => {
    const scaled = tf.mul(standardized(input(0), axes, epsilon), input(1));
    return site.has(2) ? tf.add(scaled, input(2)) : scaled;
  };
};

const instanceNormalization: Lowering = (site) => {
  const [, channels, ...spatial] = site.shape(0);
  const axes = spatial.map((_, i) => i + 2);
  const epsilon = floatAttr(site.node, 'epsilon') ?? 1e-5;
  const shape = [1, channels as number, ...spatial.map(() => 1)];
  return (input) => {
    const scaled = tf.mul(standardized(input(0), axes, epsilon), tf.reshape(input(1), shape));
    return tf.add(scaled, tf.reshape(input(2), shape));
  };
};

/** The standard's function adds 1e-9 to the deviation. */
const meanVarianceNormalization: Lowering = ({ node }) => {
  const axes = intsAttr(node, 'axes') ?? [0, 2, 3];
  return (input) => {
    const centred = tf.sub(input(0), tf.mean(input(0), axes, true));
    return tf.div(centred, tf.add(tf.sqrt(tf.mean(tf.square(centred), axes, true)), 1e-9));
  };
};

/** x / (bias + alpha/size sum of squares)^beta, over `size` neighbouring channels. */
const localResponseNormalization: Lowering = (site) => {
  const { node } = site;
  const size = intAttr(node, 'size') ?? 1;
  const [alpha, beta, bias] = [
    floatAttr(node, 'alpha') ?? 1e-4,
    floatAttr(node, 'beta') ?? 0.75,
    floatAttr(node, 'bias') ?? 1,
  ];
  const [, channels = 1, ...rest] = site.shape(0);
  const before = Math.floor((size - 1) / 2);
  return (input) => {
    const x = input(0);
    const around = x.shape.map((_, axis): Pair => (axis === 1 ? [before, size - 1 - before] : [0, 0]));
    const squares = tf.pad(tf.square(x), around);
    const shifted = Array.from({ length: size }, (_, from) =>
      tf.slice(squares, [0, from, ...rest.map(() => 0)], [x.shape[0] as number, channels, ...rest]),
    );
    return tf.div(x, tf.pow(tf.add(tf.mul(tf.addN(shifted), alpha / size), bias), beta));
  };
};

/** Before opset 13 all axes from `axis` on (default 1) are one; afterwards it is `axis` alone (default the last). */
const softmax =
  (compute: (x: tf.Tensor) => tf.Tensor): Lowering =>
  (site) => {
    const shape = [...site.shape(0)];
    const last = shape.length - 1;
    const axis = axisOf(intAttr(site.node, 'axis') ?? (site.opset < 13 ? 1 : -1), shape.length);
    if (axis === last) return (input) => compute(input(0));
    if (site.opset < 13) {
      const rows = elementCount(shape.slice(0, axis));
      return (input) => tf.reshape(compute(tf.reshape(input(0), [rows, elementCount(shape) / rows])), shape);
    }
    const swap = shape.map((_, at) => (at === axis ? last : at === last ? axis : at));
    return (input) => tf.transpose(compute(tf.transpose(input(0), swap)), swap);
  };

/** How much a Dropout drops. */
export function dropoutRatio(site: Site): number {
  const { node, opset } = site;
  if (opset < 12) return floatAttr(node, 'ratio') ?? 0.5;
  return site.has(1) ? (site.numbers(1)[0] ?? 0.5) : 0.5;
}

const dropout: Lowering = (site) => {
  const { node, opset } = site;
  if (node.outputs[1]?.users.size) throw unsupported('its mask is read');
  if (opset >= 12 && site.has(2) && site.numbers(2)[0] !== 0)
    throw unsupported('it was exported in training mode; export the model for inference');
  const ratio = dropoutRatio(site);
  return (input, run) => {
    const x = input(0);
    const mask = run.training ? run.mask(node, ratio, x.shape) : null;
    return mask ? tf.mul(x, mask) : x;
  };
};

export const LAYER_LOWERINGS: Lowerings = {
  Conv: convolution,
  Gemm: gemm,
  MatMul: matMul,
  AveragePool: pool(average),
  MaxPool: pool(() => maxPool),
  GlobalAveragePool: globalPool(tf.mean),
  GlobalMaxPool: globalPool(tf.max),
  BatchNormalization: batchNormalization,
  LayerNormalization: layerNormalization,
  InstanceNormalization: instanceNormalization,
  MeanVarianceNormalization: meanVarianceNormalization,
  LRN: localResponseNormalization,
  Softmax: softmax((x) => tf.softmax(x)),
  LogSoftmax: softmax((x) => tf.logSoftmax(x)),
  Dropout: dropout,
};
