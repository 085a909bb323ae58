/**
 * What `eval` and `probe` cost beside bare inference: `npm run bench`. Everything is measured side by side in one run,
 * the contenders taking turns; each figure is a median.
 *
 * The data are random pixels in the format of CIFAR-10 or MNIST, so that nothing needs to be downloaded. ResNet-32 and
 * the MNIST networks are those of ../shared where that is; the shipped LeNet always.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import * as ort from 'onnxruntime-node';
import { openDataset } from '../src/data/open.ts';
import { evaluate } from '../src/eval/accuracy.ts';
import { probe } from '../src/eval/probe.ts';
import { cloneModel } from '../src/graph/edit.ts';
import { readModel } from '../src/graph/read.ts';
import { serialize } from '../src/graph/write.ts';
import { setBatch } from '../src/passes/set-batch.ts';
import { makeRng } from '../src/rng.ts';

const REPOSITORY = path.resolve(import.meta.dirname, '..');
const SHARED = path.resolve(REPOSITORY, '../shared/models');
const THREADS = 2;
const BATCH = 100;
const ROUNDS = 7;
/** What was promised for convolutional networks: eval against bare inference, probe against eval. */
const EVAL_RATIO = 0.95;
const PROBE_RATIO = 2;

interface Case {
  readonly name: string;
  readonly file: string;
  readonly data: 'cifar10' | 'mnist';
  readonly images: number;
}

const CASES: readonly Case[] = [
  { name: 'ResNet-32', file: path.join(SHARED, 'ace_resnet32_cifar10_pre.onnx'), data: 'cifar10', images: 3000 },
  { name: 'ResNet-20', file: path.join(SHARED, 'ace_resnet20_cifar10_pre.onnx'), data: 'cifar10', images: 2000 },
  { name: 'conv net', file: path.join(SHARED, 'burn_mnist.onnx'), data: 'mnist', images: 10_000 },
  { name: 'MLP 256x4', file: path.join(SHARED, 'mnist_fc_256x4.onnx'), data: 'mnist', images: 10_000 },
  { name: 'LeNet', file: path.join(REPOSITORY, 'models/lenet.onnx'), data: 'mnist', images: 10_000 },
];

const median = (list: readonly number[]) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)] as number;
const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now();
  await work();
  return performance.now() - start;
};

/** Random pixels with random labels, as the files of these data sets. */
async function makeData(folder: string): Promise<void> {
  const rng = makeRng(1);
  const pixels = (count: number) => Buffer.from(Uint8Array.from({ length: count }, () => rng.int(256)));
  await mkdir(path.join(folder, 'cifar10'));
  await mkdir(path.join(folder, 'mnist'));
  const records = pixels(10_000 * 3073);
  for (let i = 0; i < 10_000; i++) records[i * 3073] = i % 10;
  writeFileSync(path.join(folder, 'cifar10/test_batch.bin'), records);
  const header = (magic: number, ...sizes: number[]) => {
    const bytes = Buffer.alloc(4 + 4 * sizes.length);
    for (const [i, value] of [magic, ...sizes].entries()) bytes.writeUInt32BE(value, 4 * i);
    return bytes;
  };
  const images = Buffer.concat([header(2051, 10_000, 28, 28), pixels(10_000 * 784)]);
  writeFileSync(path.join(folder, 'mnist/t10k-images-idx3-ubyte'), images);
  const labels = Buffer.concat([
    header(2049, 10_000),
    Buffer.from(Uint8Array.from({ length: 10_000 }, (_, i) => i % 10)),
  ]);
  writeFileSync(path.join(folder, 'mnist/t10k-labels-idx1-ubyte'), labels);
}

async function throughput(folder: string): Promise<boolean> {
  console.log(
    `eval against a bare onnxruntime loop over ready tensors; batch ${BATCH}, ${THREADS} threads, ${ROUNDS} rounds`,
  );
  let kept = true;
  for (const { name, file, data, images } of CASES) {
    if (!existsSync(file)) {
      console.log(`  ${name}: skipped, ${file} is not there`);
      continue;
    }
    const options = {
      data: `${data}:${path.join(folder, data)}`,
      normalize: 'mean=0.5,std=0.25',
      limit: images,
      batch: BATCH,
      threads: THREADS,
    };
    const model = cloneModel(readModel(file));
    await setBatch.run(model, {}); // where the batch is free already this does nothing
    const [input] = model.graph.inputs;
    const dims = (input?.value.declared?.shape ?? []).slice(1) as number[];
    const tensors: Record<string, ort.Tensor>[] = [];
    const dataset = await openDataset(options.data, {});
    for await (const { rows, count } of dataset.batches({ size: BATCH, select: { count: images } })) {
      const values = Float32Array.from(rows, (x) => (x / 255 - 0.5) / 0.25);
      tensors.push({ [input?.value.name ?? '']: new ort.Tensor('float32', values, [count, ...dims]) });
    }
    const bytes = serialize(model, { inline: true });
    // Both start with a session of their own that has not run yet; making it is not counted.
    const bare = async () => {
      const session = await ort.InferenceSession.create(bytes, {
        intraOpNumThreads: THREADS,
        executionProviders: ['cpu'],
      });
      const time = await timed(async () => {
        for (const feeds of tensors) await session.run(feeds);
      });
      await session.release();
      return time;
    };
    const ours = async () => 1000 * ((await evaluate([file], options)).models[0]?.seconds ?? 0);
    await bare();
    await ours();
    const times = { bare: [] as number[], ours: [] as number[] };
    for (let round = 0; round < ROUNDS; round++) {
      times.bare.push(await bare());
      times.ours.push(await ours());
    }
    const [a, b] = [median(times.bare), median(times.ours)];
    const ratio = median(times.bare.map((time, i) => time / (times.ours[i] as number)));
    // Beyond some 10,000 images/s what is left is reading and counting, which a bare loop does not do.
    if (ratio < EVAL_RATIO && data === 'cifar10') kept = false;
    console.log(
      `  ${name}: bare ${Math.round((1000 * images) / a)} images/s, eval ${Math.round((1000 * images) / b)}: ${(100 * ratio).toFixed(1)} %`,
    );
  }
  return kept;
}

async function probing(folder: string): Promise<boolean> {
  const [resnet] = CASES as [Case];
  if (!existsSync(resnet.file)) return true;
  const options = { data: `cifar10:${path.join(folder, 'cifar10')}`, batch: BATCH, threads: THREADS };
  const ratios: number[] = [];
  let last = { eval: 0, probe: 0 };
  for (let round = 0; round < 3; round++) {
    const one = (await evaluate([resnet.file], options)).models[0]?.seconds ?? 0;
    const two = (await probe([resnet.file], options)).models[0]?.seconds ?? 0;
    ratios.push(two / one);
    last = { eval: one, probe: two };
  }
  const ratio = median(ratios);
  console.log(
    `probe of the 31 layers of ResNet-32 on 10,000 images: ${ratio.toFixed(2)} times eval (${last.eval.toFixed(1)} s, ${last.probe.toFixed(1)} s)`,
  );
  return ratio <= PROBE_RATIO;
}

/** A file whose batch is fixed to 1: as it is, and freed in memory. */
async function batching(folder: string): Promise<void> {
  for (const { name, file, data, images } of CASES) {
    if (!existsSync(file) || readModel(file).graph.inputs[0]?.value.declared?.shape?.[0] !== 1) continue;
    const options = { data: `${data}:${path.join(folder, data)}`, limit: images, threads: THREADS };
    const speed = async (batch: number) =>
      (await evaluate([file], { ...options, batch })).models[0]?.imagesPerSecond ?? 0;
    const ratios: number[] = [];
    for (let round = 0; round < 3; round++) {
      const one = await speed(1);
      ratios.push((await speed(BATCH)) / one);
    }
    console.log(`batch ${BATCH} against batch 1, ${name}: ${median(ratios).toFixed(2)} times the throughput`);
  }
}

/** Peak memory of processes of their own, for few and for many inputs. */
function memory(folder: string): void {
  const cli = path.join(REPOSITORY, 'dist/src/cli/run.js');
  if (!existsSync(cli)) {
    console.log('memory: skipped, npm run build first');
    return;
  }
  const [resnet] = CASES as [Case];
  const file = existsSync(resnet.file) ? resnet.file : (CASES.at(-1) as Case).file;
  const data = file === resnet.file ? 'cifar10' : 'mnist';
  for (const command of ['eval', 'probe']) {
    const peaks = [1000, 10_000].map((limit) => {
      const args = [command, file, '--data', `${data}:${path.join(folder, data)}`, '--limit', `${limit}`, '-q'];
      const script = `import { run } from ${JSON.stringify(cli)};
        const drop = () => {};
        const code = await run(${JSON.stringify(args)}, { out: drop, err: (text) => process.stderr.write(text) }, new AbortController().signal);
        console.log(code === 0 ? process.resourceUsage().maxRSS / 1000 : 'failed');`;
      const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
      return Number(stdout);
    });
    console.log(
      `memory of ${command}: ${peaks[0]?.toFixed(0)} MB for 1,000 images, ${peaks[1]?.toFixed(0)} MB for 10,000`,
    );
  }
}

process.env.ORT_DISABLE_TELEMETRY = '1';
const folder = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-bench-'));
try {
  const { version } = JSON.parse(readFileSync(path.join(REPOSITORY, 'package.json'), 'utf8')) as { version: string };
  console.log(`sisyphus ${version}, ${os.availableParallelism()} cores, load ${os.loadavg()[0]?.toFixed(1)}`);
  await makeData(folder);
  const kept = [await throughput(folder), await probing(folder)];
  await batching(folder);
  memory(folder);
  if (kept.includes(false)) {
    console.log('MISSED: eval below 95 % of bare inference, or probe above twice eval');
    process.exitCode = 1;
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
