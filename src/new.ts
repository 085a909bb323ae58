/** `sisyphus new` as a function: an untrained network of the paper, as an ONNX file. */
import { buildNetwork, findNetwork } from '../models/index.ts';
import { formatNormalize, type Normalize, parseNormalize } from './data/normalize.ts';
import { usualNormalize } from './data/open.ts';
import { SisyphusError } from './errors.ts';
import { recordPreprocessing } from './eval/preprocessing.ts';
import { refuseTarget } from './files.ts';
import { setMetadata } from './graph/edit.ts';
import type { Model } from './graph/ir.ts';
import { elementCount } from './graph/tensor.ts';
import { writeModel } from './graph/write.ts';
import { summarize } from './inspect.ts';
import { VERSION } from './version.ts';

export interface NewOptions {
  /** mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet, synthetic or synthetic:CxHxW: sizes, classes, preprocessing. */
  readonly dataset: string;
  /** Of the weights. Default 42. */
  readonly seed?: number;
  /** Default: `NETWORK-DATASET.onnx`. */
  readonly output?: string;
  readonly force?: boolean;
  readonly signal?: AbortSignal;
}

export interface NewReport {
  readonly network: string;
  readonly dataset: string;
  readonly seed: number;
  /** Channels, height and width of an image. */
  readonly input: readonly [number, number, number];
  readonly classes: number;
  /** As `--normalize` takes it; recorded in the file. */
  readonly normalize: string;
  /** Numbers that training changes. */
  readonly parameters: number;
  /** Running means and variances of batch normalisation. */
  readonly runningStatistics: number;
  /** Multiply-accumulates for one image. */
  readonly macs: number;
  /** ReLU nodes, and the elements that pass through them for one image. */
  readonly relus: number;
  readonly reluElements: number;
  readonly path: string;
  /** Of the file. */
  readonly bytes: number;
}

/**
 * Writes an untrained network.
 * @param network mlp, lenet, alexnet, vgg11, vgg16, resnet18, resnet32 or mobilenetv1
 * @throws SisyphusError `usage` for unknown names and for data that the network is not made for; `file` where the output
 * exists or can't be written; `aborted`
 */
export async function newNetwork(network: string, options: NewOptions): Promise<NewReport> {
  const { dataset, seed = 42, output = `${network}-${dataset.replace(':', '-')}.onnx` } = options;
  const { images } = findNetwork(network, dataset);
  await refuseTarget(output, options.force ?? false); // before the weights are drawn
  const model = makeNetwork(network, dataset, seed);
  const { parameters, macs, sites, activationElements } = summarize(model);
  const statistics = runningStatistics(model);
  const files = await writeModel(model, output, options);
  return {
    network,
    dataset,
    seed,
    input: [images.channels, images.side, images.side],
    classes: images.classes,
    normalize: formatNormalize(usualNormalization(dataset)),
    parameters: parameters - statistics,
    runningStatistics: statistics,
    macs,
    relus: sites.length,
    reluElements: activationElements ?? 0,
    path: output,
    bytes: files.get(output) ?? 0,
  };
}

/**
 * An untrained network of the paper (Garimella et al., arXiv 2107.12342), initialised as PyTorch does, with the usual
 * preprocessing of its data set and its origin in the metadata. Equal seeds give equal files.
 * @throws SisyphusError `usage`
 */
export function makeNetwork(network: string, dataset: string, seed = 42): Model {
  if (!Number.isSafeInteger(seed)) throw new SisyphusError('usage', `a seed of ${seed}: it must be a whole number`);
  const model = buildNetwork(network, dataset, seed);
  setMetadata(model, 'sisyphus.version', VERSION);
  setMetadata(model, 'sisyphus.new', JSON.stringify({ network, dataset, seed }));
  recordPreprocessing(model, { normalize: usualNormalization(dataset), source: 'default' });
  return model;
}

const usualNormalization = (dataset: string): Normalize => parseNormalize(usualNormalize(dataset.replace(/:.*/, '')));

/** Elements of means and variances, which batch normalisation collects. */
function runningStatistics({ graph }: Model): number {
  const inputs = graph.nodes.filter(({ op }) => op === 'BatchNormalization').flatMap((node) => node.inputs.slice(3));
  return inputs.reduce((sum, value) => sum + elementCount(value?.initializer?.dims ?? [0]), 0);
}
