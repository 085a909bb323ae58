/**
 * VGG (Simonyan and Zisserman, arXiv 1409.1556), configurations A and D, as the paper has them: average pooling, batch
 * normalisation, and one fully connected layer.
 */
import { type Architecture, activation, adaptiveAveragePool, averagePool, conv, flatten, linear } from './layers.ts';

/** @param groups widths of the convolutions between two poolings */
const vgg =
  (groups: readonly (readonly number[])[]): Architecture =>
  (net, images, classes) => {
    let x = images;
    let layer = 0;
    for (const [i, widths] of groups.entries()) {
      for (const to of widths) {
        layer++;
        x = activation(net, layer, conv(net, `conv${layer}`, x, { to, kernel: 3, pad: 1 }));
      }
      x = averagePool(net, `pool${i + 1}`, x, 2);
    }
    x = adaptiveAveragePool(net, `pool${groups.length + 1}`, x, 1);
    return linear(net, 'fc', flatten(net, x), classes);
  };

export const vgg11 = vgg([[64], [128], [256, 256], [512, 512], [512, 512]]);
export const vgg16 = vgg([
  [64, 64],
  [128, 128],
  [256, 256, 256],
  [512, 512, 512],
  [512, 512, 512],
]);
