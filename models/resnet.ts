/**
 * Residual networks (He et al., arXiv 1512.03385) of basic blocks. ResNet32 is that paper's for CIFAR, with shortcuts without
 * parameters (its option A); ResNet18 is its ImageNet network with a 3x3 stem and no pooling after that.
 */
import {
  type Architecture,
  activation,
  adaptiveAveragePool,
  add,
  batchNorm,
  conv,
  type Features,
  flatten,
  linear,
  type Net,
  relu,
  subsampleAndPad,
} from './layers.ts';

/** What brings the input of a block to half its side and to more channels. */
type Shortcut = (net: Net, name: string, x: Features, to: number) => Features;

const projection: Shortcut = (net, name, x, to) =>
  batchNorm(net, `${name}.bn`, conv(net, `${name}.conv`, x, { to, kernel: 1, stride: 2, bias: false }));

const resnet =
  (widths: readonly number[], blocks: number, shortcut: Shortcut): Architecture =>
  (net, images, classes) => {
    let x = activation(net, 1, conv3x3(net, 'conv1', images, widths[0] ?? 0, 1));
    for (const [stage, to] of widths.entries())
      for (let block = 0; block < blocks; block++) {
        const stride = stage > 0 && block === 0 ? 2 : 1;
        x = basicBlock(net, `layer${stage + 1}.${block}.`, x, to, stride, shortcut);
      }
    return linear(net, 'fc', flatten(net, adaptiveAveragePool(net, 'pool', x, 1)), classes);
  };

function basicBlock(net: Net, prefix: string, x: Features, to: number, stride: 1 | 2, shortcut: Shortcut): Features {
  const inner = activation(net, 1, conv3x3(net, `${prefix}conv1`, x, to, stride), prefix);
  const outer = batchNorm(net, `${prefix}bn2`, conv3x3(net, `${prefix}conv2`, inner, to, 1));
  const skip = stride === 1 ? x : shortcut(net, `${prefix}shortcut`, x, to);
  return relu(net, `${prefix}relu2`, add(net, `${prefix}add`, outer, skip));
}

const conv3x3 = (net: Net, name: string, x: Features, to: number, stride: number): Features =>
  conv(net, name, x, { to, kernel: 3, stride, pad: 1, bias: false });

export const resnet18 = resnet([64, 128, 256, 512], 2, projection);
export const resnet32 = resnet([16, 32, 64], 5, subsampleAndPad);
