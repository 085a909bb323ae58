/** The multilayer perceptron of the paper: one hidden layer of 256. */
import { type Architecture, activation, flatten, linear } from './layers.ts';

export const mlp: Architecture = (net, images, classes) => {
  const x = activation(net, 1, linear(net, 'fc1', flatten(net, images), 256));
  return linear(net, 'fc2', x, classes);
};
