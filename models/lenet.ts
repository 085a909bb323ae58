/** The LeNet of the paper, untrained: two convolutions and three fully connected layers for 28x28 grey images. */
import { buildModel, type GraphBuilder } from '../src/graph/build.ts';
import type { Model, Value } from '../src/graph/ir.ts';
import { makeRng, type Rng } from '../src/rng.ts';

/** One convolution (`kernel` given) or fully connected layer with its batch normalisation and activation. */
interface Layer {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly kernel?: number;
}

/**
 * Batch 'N', opset 17, IR 8. Every layer but the last is followed by BatchNormalization and ReLU, both convolutions by
 * average pooling.
 * @param seed of the weights, which are drawn as PyTorch draws them by default
 */
export function lenet(seed: number): Model {
  const rng = makeRng(seed);
  const net = buildModel({ name: 'lenet', opset: 17, irVersion: 8 });
  let x = net.input('input', 'float', ['N', 1, 28, 28]);
  for (const [n, layer] of [
    { name: 'conv1', from: 1, to: 6, kernel: 5 },
    { name: 'conv2', from: 6, to: 16, kernel: 5 },
  ].entries()) {
    x = activation(net, `${n + 1}`, layer.to, weighted(net, rng, layer, x));
    x = net.node('AveragePool', [x], { kernel_shape: [2, 2], strides: [2, 2] }, `pool${n + 1}`);
  }
  x = net.node('Flatten', [x], { axis: 1 }, 'flatten');
  x = activation(net, '3', 120, weighted(net, rng, { name: 'fc1', from: 256, to: 120 }, x));
  x = activation(net, '4', 84, weighted(net, rng, { name: 'fc2', from: 120, to: 84 }, x));
  x = weighted(net, rng, { name: 'fc3', from: 84, to: 10 }, x);
  net.output(x, 'output', 'float', ['N', 10]);
  return net.model;
}

/** Weights and biases uniform within 1/sqrt(fan_in): PyTorch's default for both kinds of layer. */
function weighted(net: GraphBuilder, rng: Rng, { name, from, to, kernel }: Layer, x: Value): Value {
  const window = kernel === undefined ? [] : [kernel, kernel];
  const fanIn = window.reduce((product, size) => product * size, from);
  const bound = 1 / Math.sqrt(fanIn);
  const draw = (count: number) => Float64Array.from({ length: count }, () => (2 * rng.uniform() - 1) * bound);
  const weight = net.constant(`${name}.weight`, 'float', [to, from, ...window], draw(to * fanIn));
  const bias = net.constant(`${name}.bias`, 'float', [to], draw(to));
  if (kernel !== undefined) return net.node('Conv', [x, weight, bias], { kernel_shape: window }, name);
  return net.node('Gemm', [x, weight, bias], { transB: 1 }, name);
}

/** Batch normalisation in its initial state (ONNX's default epsilon is PyTorch's 1e-5), then ReLU. */
function activation(net: GraphBuilder, number: string, channels: number, x: Value): Value {
  const vector = (name: string, value: number) =>
    net.constant(`bn${number}.${name}`, 'float', [channels], new Float64Array(channels).fill(value));
  const state = [vector('weight', 1), vector('bias', 0), vector('running_mean', 0), vector('running_var', 1)];
  return net.node('Relu', [net.node('BatchNormalization', [x, ...state], {}, `bn${number}`)], {}, `relu${number}`);
}
