/**
 * Makes the sample model again, run as `npm run models`: the paper's LeNet, trained on the generated images (data set
 * `synthetic`) with the hyperparameters of the paper's authors but 8 epochs. The file is committed; another processor may
 * come to other last digits.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { newNetwork } from '../src/new.ts';
import { train } from '../src/train/train.ts';

const folder = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-models-'));
const untrained = path.join(folder, 'lenet.onnx');
await newNetwork('lenet', { dataset: 'synthetic', seed: 42, output: untrained });
await train(untrained, {
  data: 'synthetic',
  epochs: 8,
  backend: 'onnxruntime',
  threads: 2,
  run: path.join(folder, 'run'),
  output: fileURLToPath(new URL('lenet.onnx', import.meta.url)),
  force: true,
  onEpoch: ({ epoch, loss, testAccuracy }) => console.log(`epoch ${epoch}: loss ${loss}, test ${testAccuracy}`),
});
await rm(folder, { recursive: true });
