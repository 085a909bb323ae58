/**
 * MobileNet (Howard et al., arXiv 1704.04861) as the paper has it for small images: ReLU in place of ReLU6, and a stem that
 * does not halve the image.
 */
import { type Architecture, activation, adaptiveAveragePool, conv, flatten, linear } from './layers.ts';

/** Width and stride of each depthwise separable block. */
const BLOCKS = [
  [64, 1],
  [128, 2],
  [128, 1],
  [256, 2],
  [256, 1],
  [512, 2],
  [512, 1],
  [512, 1],
  [512, 1],
  [512, 1],
  [512, 1],
  [1024, 2],
  [1024, 1],
] as const;

export const mobilenetv1: Architecture = (net, images, classes) => {
  let x = activation(net, 1, conv(net, 'conv1', images, { to: 32, kernel: 3, pad: 1, bias: false }));
  for (const [i, [to, stride]] of BLOCKS.entries()) {
    const prefix = `block${i + 1}.`;
    const depthwise = { to: x.channels, kernel: 3, stride, pad: 1, groups: x.channels, bias: false };
    x = activation(net, 1, conv(net, `${prefix}depthwise`, x, depthwise), prefix);
    x = activation(net, 2, conv(net, `${prefix}pointwise`, x, { to, kernel: 1, bias: false }), prefix);
  }
  return linear(net, 'fc', flatten(net, adaptiveAveragePool(net, 'pool', x, 1)), classes);
};
