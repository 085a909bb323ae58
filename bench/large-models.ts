/**
 * Time and memory of a rewrite against copying the file: `npm run bench`, after `npm run build`.
 *
 * Makes a model of 500 MB with its weights inside and one beyond 2 GiB with its weights beside it, both by seed, in a
 * temporary folder. Every measurement is a median; copies and rewrites take turns in one run. `cp` may copy inside of the kernel,
 * so the target is set against plain reading and writing; the ratio to both is printed.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, statfsSync, statSync } from 'node:fs';
import { mkdtemp, open, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { buildModel } from '../src/graph/build.ts';
import type { Model } from '../src/graph/ir.ts';
import { elementCount, fromRaw } from '../src/graph/tensor.ts';
import { writeModel } from '../src/graph/write.ts';
import { makeRng } from '../src/rng.ts';

const REPOSITORY = path.resolve(import.meta.dirname, '..');
const CLI = path.join(REPOSITORY, 'dist/src/cli/main.js');
const MB = 1e6;
/** What a rewrite may take: so many times the copy, and this much memory. */
const TIME_RATIO = 3;
const memoryLimit = (bytes: number) => 1.3 * bytes + 150 * MB;

const WIDTH = 1024;
/** 1024x1024 kernels of 3x3 in float32. */
const LAYER_BYTES = WIDTH * WIDTH * 9 * 4;

/** Convolutions of 3x3 with ReLU, like VGG but wider; the weights of all layers are views of one seeded block. */
function vggLike(layers: number): Model {
  const rng = makeRng(500);
  const block = Float32Array.from({ length: LAYER_BYTES / 4 }, () => (rng.uniform() - 0.5) / 96);
  const net = buildModel({ name: 'vgg-like', opset: 17 });
  const weights = (name: string, dims: number[]) =>
    net.tensor(fromRaw(name, 'float', dims, new Uint8Array(block.buffer, 0, 4 * elementCount(dims))));
  let x = net.input('input', 'float', ['N', 3, 32, 32]);
  const widths = [3, 64, 128, 256, 512, ...new Array<number>(layers + 1).fill(WIDTH)];
  for (const [i, to] of widths.slice(1).entries()) {
    const from = widths[i] ?? to;
    const operands = [x, weights(`conv${i}.weight`, [to, from, 3, 3]), weights(`conv${i}.bias`, [to])];
    x = net.node('Conv', operands, { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }, `conv${i}`);
    x = net.node('Relu', [x], {}, `relu${i}`);
    if (i < 5) x = net.node('AveragePool', [x], { kernel_shape: [2, 2], strides: [2, 2] }, `pool${i}`);
  }
  x = net.node('Flatten', [x], { axis: 1 }, 'flatten');
  x = net.node('Gemm', [x, weights('fc.weight', [10, WIDTH]), weights('fc.bias', [10])], { transB: 1 }, 'fc');
  net.output(x, 'output', 'float', ['N', 10]);
  return net.model;
}

/** Plain reading and writing: `fs.copyFile` may share blocks instead of copying them. */
async function copy(from: string, to: string): Promise<void> {
  const source = await open(from, 'r');
  const target = await open(to, 'w');
  const buffer = Buffer.allocUnsafe(1 << 22);
  for (;;) {
    const { bytesRead } = await source.read(buffer, 0, buffer.length);
    if (bytesRead === 0) break;
    await target.write(buffer, 0, bytesRead);
  }
  await source.close();
  await target.close();
}

/** Loaded before the measured program: leaves the peak of its memory behind when it ends. */
const PRELOAD = `data:text/javascript,${encodeURIComponent(`
import { writeFileSync } from 'node:fs';
process.on('exit', () => writeFileSync(process.env.BENCH_RSS, String(process.resourceUsage().maxRSS)));
`)}`;

/** The command that is measured; without a built command line, reading and writing alone. */
function rewriteCommand(file: string, out: string): string[] {
  if (existsSync(CLI)) return [CLI, 'rewrite', file, '--poly', 'deg=4,a=5', '-o', out, '--force'];
  const built = existsSync(path.join(REPOSITORY, 'dist/src/graph/write.js'));
  const url = (name: string) => {
    const file = path.join(REPOSITORY, built ? `dist/src/graph/${name}.js` : `src/graph/${name}.ts`);
    return JSON.stringify(pathToFileURL(file));
  };
  const script = `
    import { readModel } from ${url('read')};
    import { writeModel } from ${url('write')};
    await writeModel(readModel(${JSON.stringify(file)}), ${JSON.stringify(out)}, { force: true });`;
  return [...(built ? [] : ['--import', 'tsx']), '--input-type=module', '-e', script];
}

/** @returns peak resident memory in bytes */
async function rewrite(file: string, out: string): Promise<number> {
  const rss = `${out}.rss`;
  const child = spawn(process.execPath, ['--import', PRELOAD, ...rewriteCommand(file, out)], {
    cwd: REPOSITORY,
    env: { ...process.env, BENCH_RSS: rss },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  if (code !== 0) throw new Error(`the rewrite ended with code ${code}`);
  return Number(readFileSync(rss, 'utf8')) * 1024;
}

interface Measured {
  readonly seconds: number;
  readonly rss: number;
}
type Measurements = Record<'copy' | 'cp' | 'rewrite', Measured>;

const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

/** Copies and rewrites in turns, each with its output removed and the disk's queue empty beforehand. */
async function compare(folder: string, file: string, files: string[], runs: number): Promise<Measurements> {
  const targets = files.map((_, i) => path.join(folder, `copy.${i}`));
  const out = path.join(folder, 'out.onnx');
  const actions: Record<keyof Measurements, () => Promise<number>> = {
    copy: async () => {
      for (const [i, name] of files.entries()) await copy(name, targets[i] ?? '');
      return 0;
    },
    cp: async () => {
      for (const [i, name] of files.entries()) spawnSync('cp', ['--reflink=never', name, targets[i] ?? '']);
      return 0;
    },
    rewrite: () => rewrite(file, out),
  };
  const samples = Object.entries(actions).map(([name, action]) => ({
    name,
    action,
    seconds: [] as number[],
    rss: [] as number[],
  }));
  for (let run = 0; run < runs; run++)
    for (const { action, ...sample } of samples) {
      spawnSync('sync');
      const start = performance.now();
      const rss = await action();
      sample.seconds.push((performance.now() - start) / 1000);
      sample.rss.push(rss);
      for (const name of [...targets, out, `${out}.data`, `${out}.rss`]) rmSync(name, { force: true });
    }
  return Object.fromEntries(
    samples.map(({ name, seconds, rss }) => [name, { seconds: median(seconds), rss: median(rss) }]),
  ) as Measurements;
}

async function bench(title: string, folder: string, layers: number, externalData: boolean, runs: number) {
  const needed = 2.2 * layers * LAYER_BYTES;
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize < needed) {
    console.log(`${title}: skipped, ${(needed / MB).toFixed()} MB of disk are needed in ${folder}`);
    return true;
  }
  const file = path.join(folder, 'model.onnx');
  const files = [...(await writeModel(vggLike(layers), file, { externalData, force: true })).keys()];
  const size = files.reduce((sum, name) => sum + statSync(name).size, 0);
  console.log(`${title}: ${(size / MB).toFixed()} MB, medians of ${runs}`);
  const { copy: copied, cp, rewrite: rewritten } = await compare(folder, file, files, runs);
  const line = (what: string, seconds: number) => `  ${what.padEnd(22)} ${seconds.toFixed(2).padStart(7)} s`;
  const ratio = rewritten.seconds / copied.seconds;
  console.log(line('copy (read and write)', copied.seconds));
  console.log(`${line('cp', cp.seconds)}  rewrite / cp = ${(rewritten.seconds / cp.seconds).toFixed(2)}`);
  console.log(line('rewrite', rewritten.seconds));
  // External data is never in memory as a whole.
  const limit = externalData ? memoryLimit(0) + LAYER_BYTES : memoryLimit(size);
  const fine = ratio <= TIME_RATIO && rewritten.rss <= limit;
  console.log(
    `  rewrite / copy = ${ratio.toFixed(2)} (at most ${TIME_RATIO}), memory ${(rewritten.rss / MB).toFixed()} of ${(limit / MB).toFixed()} MB: ${fine ? 'met' : 'MISSED'}`,
  );
  for (const name of files) rmSync(name);
  return fine;
}

console.log(existsSync(CLI) ? `measuring ${CLI}` : 'no built command line: measuring readModel and writeModel alone');
const load = () => os.loadavg().map((value) => value.toFixed(1));
console.log(`${os.cpus().length} cores, load ${load()}`);
const folder = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-bench-'));
try {
  const inline = await bench('inline weights', folder, 13, false, 5);
  const external = await bench('external weights, beyond 2 GiB', folder, 58, true, 3);
  console.log(`load ${load()}`);
  if (!inline || !external) process.exitCode = 1;
} finally {
  await rm(folder, { recursive: true });
}
