/** The LeNet of the paper: two convolutions and three fully connected layers for 28x28 grey images. */
import type { Model } from '../src/graph/ir.ts';
import { makeRng } from '../src/rng.ts';
import { type Architecture, activation, assemble, averagePool, conv, flatten, linear } from './layers.ts';

export const lenetLayers: Architecture = (net, images, classes) => {
  let x = activation(net, 1, conv(net, 'conv1', images, { to: 6, kernel: 5 }));
  x = averagePool(net, 'pool1', x, 2);
  x = activation(net, 2, conv(net, 'conv2', x, { to: 16, kernel: 5 }));
  x = averagePool(net, 'pool2', x, 2);
  x = flatten(net, x);
  x = activation(net, 3, linear(net, 'fc1', x, 120));
  x = activation(net, 4, linear(net, 'fc2', x, 84));
  return linear(net, 'fc3', x, classes);
};

/** Untrained, for ten classes of 28x28 grey images. */
export const lenet = (seed: number): Model =>
  assemble('lenet', lenetLayers, { channels: 1, side: 28, classes: 10 }, makeRng(seed));
