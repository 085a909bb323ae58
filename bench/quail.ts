/**
 * What imitation costs: all stages of a network for one epoch each against one epoch of ordinary training, side by side:
 * `npm run bench:quail [-- --images 20480] [--data DIR] [--model FILE --normalize SPEC]`. Recomputing the whole network for
 * each stage, as the paper's authors do, would cost about as many epochs as there are stages.
 *
 * Default: ResNet-20 of ../shared/models (19 activations) and the images of ../shared/data.
 */
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { quail } from '../src/train/quail/quail.ts';
import { train } from '../src/train/train.ts';

const SHARED = path.resolve(import.meta.dirname, '../../shared');

const { values: flags } = parseArgs({
  options: {
    images: { type: 'string', default: '20480' },
    data: { type: 'string' },
    model: { type: 'string', default: path.join(SHARED, 'models/ace_resnet20_cifar10_pre.onnx') },
    normalize: { type: 'string', default: 'mean=.4914,.4822,.4465,std=.2023,.1994,.2010' },
  },
});
const work = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-bench-'));
const data = `cifar10:${flags.data ?? unpacked()}`;
const limit = Number(flags.images);
const { model, normalize } = flags;
const common = { data, normalize, limit, epochs: 1, threads: 2 };

const baseline = async (name: string) =>
  (await train(model, { ...common, lr: 1e-4, run: path.join(work, name) })).epochs[0]?.seconds ?? Number.NaN;
const before = await baseline('before');

let [begun, ended, stages] = [0, 0, 0];
await quail(model, {
  ...common,
  finetuneEpochs: 0,
  // Normalised, so that no stage has to start again.
  amm: true,
  stage: ['logits=lr=0.000001'],
  testImages: 1,
  run: path.join(work, 'quail'),
  output: path.join(work, 'quail.onnx'),
  onStart: () => {
    begun = performance.now();
  },
  onStage: ({ phase }) => {
    if (phase !== 'imitation') return;
    stages++;
    ended = performance.now();
  },
});
const all = (ended - begun) / 1000;
const after = await baseline('after');
const epoch = (before + after) / 2;
console.log(`${path.basename(model)}, ${limit} images, ${os.cpus().length} cores, load ${os.loadavg()[0]?.toFixed(1)}`);
console.log(
  `one epoch of training ${before.toFixed(1)} s before, ${after.toFixed(1)} s after; ${stages} stages of imitation ${all.toFixed(1)} s: ${(all / epoch).toFixed(2)} epochs`,
);
await rm(work, { recursive: true, force: true });

function unpacked(): string {
  const to = path.join(work, 'data');
  const { status, stderr } = spawnSync('node', [path.join(SHARED, 'data/unpack.mjs'), to], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`there is no data: give --data DIR (${stderr})`);
  return path.join(to, 'cifar10');
}
