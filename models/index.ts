/** The networks of the paper by name, CryptoNets' for encrypted inference, and the data sets that they are for. */
import { didYouMean, SisyphusError } from '../src/errors.ts';
import type { Model } from '../src/graph/ir.ts';
import { makeRng } from '../src/rng.ts';
import { alexnet } from './alexnet.ts';
import { cryptonets } from './cryptonets.ts';
import { type Architecture, assemble, type ImageSet } from './layers.ts';
import { lenetLayers } from './lenet.ts';
import { mlp } from './mlp.ts';
import { mobilenetv1 } from './mobilenet.ts';
import { resnet18, resnet32 } from './resnet.ts';
import { vgg11, vgg16 } from './vgg.ts';

export interface Network {
  readonly summary: string;
  readonly architecture: Architecture;
  /** The images that it takes. */
  readonly channels: number;
  readonly sides: readonly number[];
}

const GREY = { channels: 1, sides: [28] };
const COLOUR = { channels: 3, sides: [32, 64] };
export const NETWORKS: ReadonlyMap<string, Network> = new Map([
  ['mlp', { ...GREY, summary: 'one hidden layer of 256', architecture: mlp }],
  ['lenet', { ...GREY, summary: '2 convolutions and 3 linear layers', architecture: lenetLayers }],
  ['alexnet', { ...COLOUR, summary: '5 convolutions and 3 linear layers, with dropout', architecture: alexnet }],
  ['vgg11', { ...COLOUR, summary: '8 convolutions and 1 linear layer', architecture: vgg11 }],
  ['vgg16', { ...COLOUR, summary: '13 convolutions and 1 linear layer', architecture: vgg16 }],
  ['resnet18', { ...COLOUR, summary: '8 residual blocks, 64 to 512 channels', architecture: resnet18 }],
  [
    'resnet32',
    { ...COLOUR, summary: '15 residual blocks, 16 to 64 channels, shortcuts without weights', architecture: resnet32 },
  ],
  ['mobilenetv1', { ...COLOUR, summary: '13 depthwise separable blocks', architecture: mobilenetv1 }],
  ['cryptonets', { ...GREY, summary: '1 strided convolution and 2 linear layers', architecture: cryptonets }],
]);

export const DATASETS: ReadonlyMap<string, ImageSet> = new Map([
  ['mnist', { channels: 1, side: 28, classes: 10 }],
  ['fashion-mnist', { channels: 1, side: 28, classes: 10 }],
  ['cifar10', { channels: 3, side: 32, classes: 10 }],
  ['cifar100', { channels: 3, side: 32, classes: 100 }],
  ['tiny-imagenet', { channels: 3, side: 64, classes: 200 }],
  ['synthetic', { channels: 1, side: 28, classes: 10 }],
]);

/**
 * An untrained network; the same seed gives the same weights.
 * @param dataset a name of `DATASETS`, or `synthetic:CxHxW`
 * @param seed any safe integer
 * @throws SisyphusError `usage` for unknown names, and for data that the network is not made for
 */
export function buildNetwork(name: string, dataset: string, seed: number): Model {
  const { network, images } = findNetwork(name, dataset);
  return assemble(name, network.architecture, images, makeRng(seed));
}

/** The network and its images, with the refusals of `buildNetwork`. */
export function findNetwork(name: string, dataset: string): { network: Network; images: ImageSet } {
  const network = NETWORKS.get(name);
  if (!network)
    throw new SisyphusError('usage', `there is no network '${name}'${didYouMean(name, [...NETWORKS.keys()])}`);
  const images = imagesOf(dataset);
  if (suits(network, images)) return { network, images };
  const wanted = network.sides.map((side) => `${network.channels}x${side}x${side}`).join(' or ');
  const { channels, side } = images;
  const sets = [...DATASETS].filter(([, set]) => suits(network, set)).map(([set]) => set);
  const others = [...NETWORKS].filter(([, other]) => suits(other, images)).map(([other]) => other);
  const or = others.length > 0 ? `, or for these images ${others.join(', ')}` : '';
  throw new SisyphusError(
    'usage',
    `${name} takes images of ${wanted}, and ${dataset} has ${channels}x${side}x${side}; give --dataset ${sets.join(' | ')}${or}`,
  );
}

const suits = ({ channels, sides }: Network, images: ImageSet): boolean =>
  channels === images.channels && sides.includes(images.side);

function imagesOf(dataset: string): ImageSet {
  const known = DATASETS.get(dataset);
  if (known) return known;
  const [, channels, height, width] = /^synthetic:(\d+)x(\d+)x(\d+)$/i.exec(dataset) ?? [];
  if (channels !== undefined && height === width)
    return { channels: Number(channels), side: Number(height), classes: 10 };
  const [name = ''] = dataset.split(':');
  const hint = DATASETS.has(name)
    ? `; give --dataset ${name === 'synthetic' ? 'synthetic or synthetic:3x32x32' : name}`
    : didYouMean(name, [...DATASETS.keys()]);
  throw new SisyphusError('usage', `--dataset '${dataset}': no data set that networks are made for${hint}`);
}
