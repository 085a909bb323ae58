/**
 * What a candidate of `sisyphus search` costs against a pass of `sisyphus eval` over the same images with the candidate's own
 * file: `npm run bench:search [-- --images 1000] [--data DIR] [--model FILE --normalize SPEC]`. Both in turns, medians. A
 * candidate includes making its polynomial; sessions are open in both, as a search opens one for each form of polynomial.
 */
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { accuracy } from '../src/eval/accuracy.ts';
import { CPU } from '../src/eval/device.ts';
import { openFeed } from '../src/eval/feed.ts';
import { openModel } from '../src/eval/run.ts';
import { readModel } from '../src/graph/read.ts';
import { rewriteModel } from '../src/rewrite.ts';
import { openEvaluator } from '../src/search/evaluator.ts';

const SHARED = path.resolve(import.meta.dirname, '../../shared');
const { values: flags } = parseArgs({
  options: {
    images: { type: 'string', default: '1000' },
    data: { type: 'string' },
    model: { type: 'string', default: path.join(SHARED, 'models/ace_resnet20_cifar10_pre.onnx') },
    normalize: { type: 'string', default: 'mean=.4914,.4822,.4465,std=.2023,.1994,.2010' },
    rounds: { type: 'string', default: '7' },
  },
});
const work = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-bench-'));
const limit = Number(flags.images);
const rows = { data: `cifar10:${flags.data ?? unpacked()}`, normalize: flags.normalize, limit, split: 'test' } as const;
const model = readModel(flags.model);
const evaluator = await openEvaluator(await openFeed(model, flags.model, rows), {
  device: CPU,
  run: rows,
  statistics: undefined,
});
console.log(`${path.basename(flags.model)}, ${limit} images, ${os.cpus().length} cores, medians of ${flags.rounds}`);
for (const degree of [2, 4, 8]) {
  const { model: rewritten } = await rewriteModel(model, { poly: [`deg=${degree},a=5`] });
  const feed = await openFeed(rewritten, 'candidate', rows);
  const session = await openModel(feed.model, 'candidate', CPU, rows);
  const candidate = async (a: number) => {
    const start = performance.now();
    await evaluator.prepare([`deg=${degree},a=${a}`]).evaluate(limit);
    return performance.now() - start;
  };
  const pass = async () => {
    const start = performance.now();
    await accuracy(session, feed, {});
    return performance.now() - start;
  };
  await candidate(4); // opens its session
  await pass();
  const [own, evals]: [number[], number[]] = [[], []];
  for (let round = 0; round < Number(flags.rounds); round++) {
    own.push(await candidate(5 + round / 10));
    evals.push(await pass());
  }
  const ratios = own.map((time, i) => time / (evals[i] as number));
  console.log(
    `degree ${degree}: a candidate ${median(own).toFixed(0)} ms, a pass of eval ${median(evals).toFixed(0)} ms, ratio ${median(ratios).toFixed(2)}`,
  );
  await session.release();
}
await evaluator.release();
await rm(work, { recursive: true, force: true });

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] as number;
}

function unpacked(): string {
  const { status, stderr } = spawnSync('node', [path.join(SHARED, 'data/unpack.mjs'), work], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`there is no data: give --data DIR (${stderr})`);
  return path.join(work, 'cifar10');
}
