/**
 * What `refit` costs beside `eval`: time in passes of `eval` over the same images, side by side, and memory.
 *
 *   npm run bench:refit -- [MODEL] [--data NAME:PATH] [--images 500] [--degree 4] [--rounds 3]
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { evaluate } from '../src/eval/accuracy.ts';
import { refit } from '../src/refit/refit.ts';
import { shared, unpacked } from './data.ts';

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: 'string' },
    normalize: { type: 'string', default: 'mean=.4914,.4822,.4465,std=.2023,.1994,.2010' },
    images: { type: 'string', default: '500' },
    degree: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '3' },
  },
});
const file = positionals[0] ?? shared('ace_resnet20_cifar10_pre');
const folder = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-bench-'));
const data = flags.data ?? `cifar10:${path.join(unpacked(folder), 'cifar10')}`;
const images = Number(flags.images);
const common = { data, normalize: flags.normalize, seed: 0, split: 'train' as const };
const median = (list: readonly number[]) => [...list].sort((a, b) => a - b)[list.length >> 1] ?? Number.NaN;

const [passes, refits]: [number[], number[]] = [[], []];
const before = process.memoryUsage().rss;
let most = before;
const watch = setInterval(() => {
  most = Math.max(most, process.memoryUsage().rss);
}, 50);
for (let round = 0; round < Number(flags.rounds); round++) {
  // The first pass of a session warms it up; the last of three counts.
  for (let i = 0; i < 3; i++) {
    const { models } = await evaluate([file], { ...common, limit: images });
    if (i === 2) passes.push(models[0]?.seconds ?? Number.NaN);
  }
  const output = path.join(folder, `refit-${round}.onnx`);
  const { seconds } = await refit(file, { ...common, images, poly: [`deg=${flags.degree}`], output });
  refits.push(seconds);
  console.log(`round ${round + 1}: eval ${passes.at(-1)?.toFixed(2)} s, refit ${seconds.toFixed(1)} s`);
}
clearInterval(watch);
console.log(
  `medians: eval ${median(passes).toFixed(2)} s for ${images} images, refit ${median(refits).toFixed(1)} s: ${(median(refits) / median(passes)).toFixed(1)} passes; at most ${((most - before) / 2 ** 20).toFixed(0)} MiB more than before`,
);
await rm(folder, { recursive: true, force: true });
