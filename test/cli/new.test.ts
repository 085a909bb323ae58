import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { DATASETS } from '../../models/index.ts';
import { openDataset } from '../../src/data/open.ts';
import { parseModel, readModel } from '../../src/graph/read.ts';
import { makeNetwork } from '../../src/new.ts';
import { VERSION } from '../../src/version.ts';
import { sisyphus } from '../support/cli.ts';
import { testFolder } from '../support/folder.ts';

const { fresh } = testFolder('new');
const home = process.cwd();
beforeEach(() => process.chdir(fresh()));
afterAll(() => process.chdir(home));

describe('sisyphus new', () => {
  it('writes NETWORK-DATASET.onnx, once', async () => {
    const { code, out, err } = await sisyphus(['new', 'lenet', '--dataset', 'mnist']);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toContain('44,878 parameters, 281,640 MACs');
    expect(out).toContain('4 ReLUs with 4,684 elements');
    expect(out).toMatch(/wrote lenet-mnist\.onnx \(\d+\.\d kB\)\n/);
    expect(out).toMatch(/next: (npx )?sisyphus train lenet-mnist\.onnx --data mnist:PATH\n/);
    const written = readFileSync('lenet-mnist.onnx');
    const metadata = Object.fromEntries(parseModel(written).metadata.map(({ key, value }) => [key, value]));
    expect(metadata['sisyphus.version']).toBe(VERSION);
    expect(JSON.parse(metadata['sisyphus.new'] ?? '')).toEqual({ network: 'lenet', dataset: 'mnist', seed: 42 });

    const again = await sisyphus(['new', 'lenet', '--dataset', 'mnist', '--seed', '7']);
    expect(again).toEqual({
      code: 1,
      out: '',
      err: 'error: lenet-mnist.onnx: exists already; give --force to replace it, or another name\n',
    });
    expect((await sisyphus(['new', 'lenet', '--dataset', 'mnist', '--seed', '7', '--force', '-q'])).code).toBe(0);
    expect(readFileSync('lenet-mnist.onnx').equals(written)).toBe(false);
    await sisyphus(['new', 'lenet', '--dataset', 'mnist', '--seed', '42', '-o', 'same.onnx']);
    expect(readFileSync('same.onnx').equals(written)).toBe(true);
  });

  it('--json prints one document on stdout and the rest on stderr', async () => {
    const args = ['new', 'resnet32', '--dataset', 'cifar100', '--seed', '3', '-o', 'r 32.onnx', '--json'];
    const { code, out, err } = await sisyphus(args);
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual({
      network: 'resnet32',
      dataset: 'cifar100',
      seed: 3,
      input: [3, 32, 32],
      classes: 100,
      normalize: 'mean=0.5071,0.4866,0.4409,std=0.2673,0.2564,0.2762',
      parameters: 470_004,
      runningStatistics: 2 * (11 * 16 + 10 * 32 + 10 * 64),
      macs: 68_868_352,
      relus: 31,
      reluElements: 303_104,
      path: 'r 32.onnx',
      bytes: readFileSync('r 32.onnx').length,
    });
    expect(err).toContain("train 'r 32.onnx' --data cifar100:PATH");
  });

  it('-o - writes the model to stdout', async () => {
    const { code, out, err } = await sisyphus(['new', 'mlp', '--dataset', 'synthetic', '-o', '-']);
    expect([code, err]).toEqual([0, '']);
    expect(out).toContain('fc1.weight');
    expect(readdirSync('.')).toEqual([]);
  });

  it('makes files that eval runs without --normalize', async () => {
    await sisyphus(['new', 'mlp', '--dataset', 'synthetic', '-q']);
    await sisyphus(['new', 'resnet32', '--dataset', 'synthetic:3x32x32', '-q']);
    for (const [file, data] of [
      ['mlp-synthetic.onnx', 'synthetic'],
      ['resnet32-synthetic-3x32x32.onnx', 'synthetic:3x32x32'],
    ] as const) {
      const { code, out } = await sisyphus(['eval', file, '--data', data, '--limit', '20']);
      expect(code).toBe(0);
      expect(out).toContain('normalize mean=0.5,std=0.25, nchw (recorded in the model)');
      expect(out).toMatch(/ 20 +[\d,]+\n/); // all images, none of them NaN
    }
  });

  // Section 3.1 of what the paper's code does; fashion-mnist is ours.
  it.each([
    ['mlp', 'mnist', 'mean=0.1307,std=0.3081'],
    ['mlp', 'fashion-mnist', 'mean=0.286,std=0.353'],
    ['resnet32', 'cifar10', 'mean=0.4914,0.4822,0.4465,std=0.247,0.2435,0.2616'],
    ['resnet32', 'cifar100', 'mean=0.5071,0.4866,0.4409,std=0.2673,0.2564,0.2762'],
    ['resnet32', 'tiny-imagenet', 'mean=0.485,0.456,0.406,std=0.229,0.224,0.225'],
  ])('%s for %s records %s', (network, dataset, normalize) => {
    const { metadata } = makeNetwork(network, dataset);
    const text = metadata.find(({ key }) => key === 'sisyphus.preprocessing')?.value;
    expect(JSON.parse(text ?? '')).toEqual({ normalize });
  });

  it('knows the synthetic images as they are', async () => {
    const { shape, classes } = await openDataset('synthetic', {});
    const { channels, side, classes: expected } = DATASETS.get('synthetic') ?? {};
    expect([[...shape], classes]).toEqual([[channels, side, side], expected]);
  });

  it.each([
    [['resnet81', '--dataset', 'cifar10'], 2, "there is no network 'resnet81'; did you mean 'resnet18'?"],
    [['vgg', '--dataset', 'cifar10'], 2, "there is no network 'vgg'; known: mlp, lenet, alexnet, vgg11,"],
    [['vgg11', '--dataset', 'cifar1'], 2, "--dataset 'cifar1': no data set that networks are made for; did you mean"],
    [['vgg11', '--dataset', 'cifar10:data'], 2, 'give --dataset cifar10\n'],
    [['vgg11', '--dataset', 'synthetic:3x32'], 2, 'give --dataset synthetic or synthetic:3x32x32'],
    [['vgg11', '--dataset', 'imagefolder'], 2, 'known: mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet, synth'],
    [
      ['lenet', '--dataset', 'cifar10'],
      2,
      'lenet takes images of 1x28x28, and cifar10 has 3x32x32; give --dataset mnist | fashion-mnist | synthetic, or for these images alexnet, vgg11, vgg16, resnet18, resnet32, mobilenetv1',
    ],
    [
      ['alexnet', '--dataset', 'mnist'],
      2,
      'alexnet takes images of 3x32x32 or 3x64x64, and mnist has 1x28x28; give --dataset cifar10 | cifar100 | tiny-imagenet, or for these images mlp, lenet, cryptonets',
    ],
    [['alexnet', '--dataset', 'synthetic:3x48x48'], 2, 'synthetic:3x48x48 has 3x48x48'],
    [['mlp'], 2, "required option '--dataset <name>' not specified"],
    [['mlp', '--dataset', 'mnist', '--seed', '-1'], 2, '--seed takes a whole number from 0 to'],
    [['mlp', '--dataset', 'mnist', '-o', '-', '--json'], 2, '--json and -o - both want standard output'],
    [['mlp', '--dataset', 'mnist', '-o', 'no/such.onnx'], 1, "there is no folder 'no'; create it first"],
    [['mlp', '--dataset', 'mnist', '-o', '.'], 1, '.: is a folder'],
    [['mlp', '--dataset', 'mnist', '-o', ''], 2, 'the name of the file to write is empty'],
  ] as const)('%j ends with %i: %s', async (args, code, message) => {
    const result = await sisyphus(['new', ...args]);
    expect(result.err).toContain(message);
    expect([result.code, result.out]).toEqual([code, '']);
    expect(result.err.trim().split('\n')).toHaveLength(1);
    expect(readdirSync('.')).toEqual([]);
  });

  it('--help lists the networks', async () => {
    const { code, out } = await sisyphus(['new', '--help']);
    expect(code).toBe(0);
    expect(out).toMatch(/resnet32 +3x32x32, 3x64x64 +15 residual blocks/);
  });

  it('says what is wrong with a seed, and replaces no file of somebody else', async () => {
    expect(() => makeNetwork('mlp', 'mnist', 0.5)).toThrow('a seed of 0.5: it must be a whole number');
    writeFileSync('mlp-mnist.onnx', 'mine');
    expect((await sisyphus(['new', 'mlp', '--dataset', 'mnist'])).code).toBe(1);
    expect(readFileSync('mlp-mnist.onnx', 'utf8')).toBe('mine');
    expect((await sisyphus(['new', 'mlp', '--dataset', 'mnist', '--force'])).code).toBe(0);
    expect(readModel('mlp-mnist.onnx').graph.nodes).toHaveLength(5);
  });
});
