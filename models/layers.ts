/**
 * The layers that the networks are made of. Weights and biases are drawn as PyTorch draws them by default: uniform within
 * 1/sqrt(fan_in) (He et al., arXiv 1502.01852, with the slope sqrt(5) that its layers pass). Batch normalisation starts as
 * the identity; ONNX's default epsilon and momentum are PyTorch's 1e-5 and 0.1.
 */
import { buildModel, type GraphBuilder } from '../src/graph/build.ts';
import type { ElementType, Model, Value } from '../src/graph/ir.ts';
import { byteLength, elementCount, fromRaw, makeTensor, type Tensor } from '../src/graph/tensor.ts';
import type { Rng } from '../src/rng.ts';

/** A network under construction. Weights are drawn in the order of the layers. */
export interface Net {
  readonly graph: GraphBuilder;
  readonly rng: Rng;
}

/** Square maps [N, channels, side, side], or with side 1 also vectors [N, channels]. */
export interface Features {
  readonly value: Value;
  readonly channels: number;
  readonly side: number;
}

/** Square images, and how many classes there are of them. */
export interface ImageSet {
  readonly channels: number;
  readonly side: number;
  readonly classes: number;
}

/** A network as a function from images to logits. */
export type Architecture = (net: Net, images: Features, classes: number) => Features;

/** The model 'input' [N, channels, side, side] -> 'output' [N, classes]: float, opset 17, IR 8, symbolic batch 'N'. */
export function assemble(name: string, architecture: Architecture, images: ImageSet, rng: Rng): Model {
  const { channels, side, classes } = images;
  const graph = buildModel({ name, opset: 17, irVersion: 8 });
  const input = graph.input('input', 'float', ['N', channels, side, side]);
  const logits = architecture({ graph, rng }, { value: input, channels, side }, classes);
  graph.output(logits.value, 'output', 'float', ['N', classes]);
  return graph.model;
}

export interface Convolution {
  readonly to: number;
  readonly kernel: number;
  readonly stride?: number;
  readonly pad?: number;
  readonly groups?: number;
  readonly bias?: boolean;
}

export function conv(net: Net, name: string, x: Features, options: Convolution): Features {
  const { to, kernel, stride = 1, pad = 0, groups = 1, bias = true } = options;
  const weights = parameters(net, name, [to, x.channels / groups, kernel, kernel], bias);
  const attributes = {
    kernel_shape: [kernel, kernel],
    ...(stride > 1 && { strides: [stride, stride] }),
    ...(pad > 0 && { pads: [pad, pad, pad, pad] }),
    ...(groups > 1 && { group: groups }),
  };
  const value = net.graph.node('Conv', [x.value, ...weights], attributes, name);
  return { value, channels: to, side: Math.floor((x.side + 2 * pad - kernel) / stride) + 1 };
}

/** Fully connected, of vectors. */
export function linear(net: Net, name: string, x: Features, to: number): Features {
  const weights = parameters(net, name, [to, x.channels], true);
  return { ...x, value: net.graph.node('Gemm', [x.value, ...weights], { transB: 1 }, name), channels: to };
}

/** The weight, whose leading dimension counts the outputs, and the bias. */
function parameters({ graph, rng }: Net, name: string, dims: readonly number[], bias: boolean): Value[] {
  const bound = 1 / Math.sqrt(elementCount(dims.slice(1)));
  const weight = graph.tensor(drawn(`${name}.weight`, dims, bound, rng));
  return bias ? [weight, graph.tensor(drawn(`${name}.bias`, dims.slice(0, 1), bound, rng))] : [weight];
}

/** Uniform in ±bound, drawn straight into the bytes of the file: AlexNet has 23 million weights. */
function drawn(name: string, dims: readonly number[], bound: number, { uniform }: Rng): Tensor {
  const bytes = new Uint8Array(byteLength('float', dims));
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 4) view.setFloat32(at, (2 * uniform() - 1) * bound, true);
  return fromRaw(name, 'float', dims, bytes);
}

export function batchNorm({ graph }: Net, name: string, x: Features): Features {
  const vector = (kind: string, value: number) =>
    graph.constant(`${name}.${kind}`, 'float', [x.channels], new Float32Array(x.channels).fill(value));
  const state = [vector('weight', 1), vector('bias', 0), vector('running_mean', 0), vector('running_var', 1)];
  return { ...x, value: graph.node('BatchNormalization', [x.value, ...state], {}, name) };
}

export const relu = ({ graph }: Net, name: string, x: Features): Features => ({
  ...x,
  value: graph.node('Relu', [x.value], {}, name),
});

/** Batch normalisation and ReLU, `bn<number>` and `relu<number>` after a prefix. */
export const activation = (net: Net, number: number, x: Features, prefix = ''): Features =>
  relu(net, `${prefix}relu${number}`, batchNorm(net, `${prefix}bn${number}`, x));

/** Non-overlapping windows. */
export function averagePool({ graph }: Net, name: string, x: Features, window: number): Features {
  const attributes = { kernel_shape: [window, window], strides: [window, window] };
  return { ...x, value: graph.node('AveragePool', [x.value], attributes, name), side: Math.floor(x.side / window) };
}

/** PyTorch's adaptive average pooling to a side that divides the present one; nothing where it is that already. */
export function adaptiveAveragePool(net: Net, name: string, x: Features, side: number): Features {
  if (x.side === side) return x;
  if (side > 1) return averagePool(net, name, x, x.side / side);
  return { ...x, value: net.graph.node('GlobalAveragePool', [x.value], {}, name), side };
}

export const flatten = ({ graph }: Net, x: Features): Features => ({
  value: graph.node('Flatten', [x.value], { axis: 1 }, 'flatten'),
  channels: x.channels * x.side ** 2,
  side: 1,
});

/** The identity in the file; a trainer drops elements with this probability. */
export const dropout = (net: Net, name: string, x: Features, ratio: number): Features => ({
  ...x,
  value: net.graph.node('Dropout', [x.value, setting(net, `${name}.ratio`, 'float', [], [ratio])], {}, name),
});

export const add = ({ graph }: Net, name: string, a: Features, b: Features): Features => ({
  ...a,
  value: graph.node('Add', [a.value, b.value], {}, name),
});

/** Every second pixel, between new channels of zeros: half of them before, half of them after the old ones. */
export function subsampleAndPad(net: Net, name: string, x: Features, to: number): Features {
  const list = (kind: string, values: readonly number[]) =>
    setting(net, `${name}.${kind}`, 'int64', [values.length], values);
  const window = [list('starts', [0, 0]), list('ends', [x.side, x.side]), list('axes', [2, 3]), list('steps', [2, 2])];
  const pixels = net.graph.node('Slice', [x.value, ...window], {}, `${name}.slice`);
  const zeros = (to - x.channels) / 2;
  const pads = list('pads', [0, zeros, 0, 0, 0, zeros, 0, 0]);
  return { value: net.graph.node('Pad', [pixels, pads], {}, `${name}.pad`), channels: to, side: Math.ceil(x.side / 2) };
}

/** What operators take as an input without learning it: a Constant node, so that it counts as no parameter. */
const setting = (
  { graph }: Net,
  name: string,
  elem: ElementType,
  dims: readonly number[],
  values: readonly number[],
): Value => graph.node('Constant', [], { value: makeTensor('', elem, dims, values) }, name);
