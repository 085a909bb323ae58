/**
 * The network of CryptoNets (Gilad-Bachrach et al., ICML 2016) as it is evaluated: a strided convolution and two linear
 * layers, with squares between them in the paper, after its linear pools are folded into the layers.
 */
import { type Architecture, activation, conv, flatten, linear } from './layers.ts';

export const cryptonets: Architecture = (net, images, classes) => {
  let x = activation(net, 1, conv(net, 'conv1', images, { to: 5, kernel: 5, stride: 2, pad: 1 }));
  x = activation(net, 2, linear(net, 'fc1', flatten(net, x), 100));
  return linear(net, 'fc2', x, classes);
};
