/**
 * AlexNet (Krizhevsky et al., 2012) as the paper has it for images of 32 and 64 pixels: average pooling, batch normalisation,
 * no local response normalisation, and 2x2 maps before the fully connected layers.
 */
import {
  type Architecture,
  activation,
  adaptiveAveragePool,
  averagePool,
  conv,
  dropout,
  flatten,
  linear,
} from './layers.ts';

export const alexnet: Architecture = (net, images, classes) => {
  let x = activation(net, 1, conv(net, 'conv1', images, { to: 64, kernel: 3, stride: 2, pad: 1 }));
  x = averagePool(net, 'pool1', x, 2);
  x = activation(net, 2, conv(net, 'conv2', x, { to: 192, kernel: 3, pad: 1 }));
  x = averagePool(net, 'pool2', x, 2);
  x = activation(net, 3, conv(net, 'conv3', x, { to: 384, kernel: 3, pad: 1 }));
  x = activation(net, 4, conv(net, 'conv4', x, { to: 256, kernel: 3, pad: 1 }));
  x = activation(net, 5, conv(net, 'conv5', x, { to: 256, kernel: 3, pad: 1 }));
  x = flatten(net, adaptiveAveragePool(net, 'pool3', x, 2));
  x = activation(net, 6, linear(net, 'fc1', dropout(net, 'dropout1', x, 0.5), 4096));
  x = activation(net, 7, linear(net, 'fc2', dropout(net, 'dropout2', x, 0.5), 4096));
  return linear(net, 'fc3', x, classes);
};
