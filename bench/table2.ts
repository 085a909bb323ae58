/**
 * Rows of the paper's Table 2 (Garimella, Jha, Reagen 2021), made by this toolkit from the first weight on: `npm run table2
 * -- --rows mnist` writes docs/table2-mnist.md.
 *
 *   npm run table2 -- --rows mnist [--data DIR] [--seeds 42,43,44] [--epochs 5] [--stage-epochs 2] [--work DIR]
 *
 * Without a folder of data, those of ../shared/data are unpacked. With --work, models and run folders stay there, and what
 * is there already is not made again.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { evaluate } from '../src/eval/accuracy.ts';
import { newNetwork } from '../src/new.ts';
import { rewrite } from '../src/rewrite.ts';
import { quail } from '../src/train/quail/quail.ts';
import { train } from '../src/train/train.ts';

const REPOSITORY = path.resolve(import.meta.dirname, '..');
const SHARED = path.resolve(REPOSITORY, '../shared');

const COLUMNS = ['Baseline', 'Taylor', 'Poly-Reg', 'QuaIL', 'QuaIL+AMM', 'QuaIL+MM'] as const;
type Column = (typeof COLUMNS)[number];
/** In %; null where the paper has none. */
type Row = Readonly<Record<Column, number | null>>;

const PAPER: Readonly<Record<string, Row>> = {
  mlp: { Baseline: 97.98, Taylor: 86.28, 'Poly-Reg': 97.88, QuaIL: 98.2, 'QuaIL+AMM': 98.17, 'QuaIL+MM': null },
  lenet: { Baseline: 99.32, Taylor: 9.81, 'Poly-Reg': 99.14, QuaIL: 99.45, 'QuaIL+AMM': 99.26, 'QuaIL+MM': null },
};

const DEGREES = [2, 4, 6, 8];
const RANGES = [2, 3, 4, 5, 6, 8];
/** Training images that polynomials are compared on. */
const SEARCH_IMAGES = 5000;

const { values: flags } = parseArgs({
  options: {
    rows: { type: 'string', default: 'mnist' },
    data: { type: 'string' },
    seeds: { type: 'string', default: '42,43,44' },
    epochs: { type: 'string', default: '5' },
    'stage-epochs': { type: 'string', default: '2' },
    work: { type: 'string' },
  },
});
if (flags.rows !== 'mnist') throw new Error(`--rows ${flags.rows}: only mnist so far`);

const temporary = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-table2-'));
const work = flags.work ?? temporary;
await mkdir(work, { recursive: true });
const data = `mnist:${flags.data ?? unpacked()}`;
const [epochs, stageEpochs] = [Number(flags.epochs), Number(flags['stage-epochs'])];
const started = performance.now();

const results = new Map<string, Row[]>();
const seeds = flags.seeds.split(',').map(Number);
for (const network of Object.keys(PAPER))
  for (const seed of seeds)
    results.set(network, [...(results.get(network) ?? []), await once(network, seed, () => row(network, seed))]);
const page = render();
writeFileSync(path.join(REPOSITORY, 'docs/table2-mnist.md'), page);
console.log(page);
await rm(temporary, { recursive: true, force: true });

function unpacked(): string {
  const to = path.join(temporary, 'data');
  const { status, stderr } = spawnSync('node', [path.join(SHARED, 'data/unpack.mjs'), to], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`there is no data: give --data DIR (${stderr})`);
  return path.join(to, 'mnist');
}

/** What an earlier run with --work has found. */
async function once(network: string, seed: number, make: () => Promise<Row>): Promise<Row> {
  const file = path.join(work, `${network}-${seed}.json`);
  if (existsSync(file)) return JSON.parse(readFileSync(file, 'utf8')) as Row;
  const made = await make();
  writeFileSync(file, JSON.stringify(made));
  console.error(
    `${network}, seed ${seed}: ${COLUMNS.map((column) => `${column} ${made[column]?.toFixed(2)}`).join(', ')}`,
  );
  return made;
}

async function row(network: string, seed: number): Promise<Row> {
  const place = (name: string) => path.join(work, `${network}-${seed}${name}`);
  const force = true;
  await newNetwork(network, { dataset: 'mnist', seed, output: place('.onnx'), force });
  const { last } = await train(place('.onnx'), { data, epochs, seed, run: place('.train'), force });
  const accuracy = async (file: string, split: 'train' | 'test' = 'test'): Promise<number> => {
    const few = split === 'train' ? { limit: SEARCH_IMAGES, seed } : {};
    const { models } = await evaluate([file], { data, split, ...few });
    return 100 * (models[0]?.top1 ?? 0);
  };
  const replaced = async (poly: string): Promise<string> => {
    const output = place('.poly.onnx');
    await rewrite(last, { poly: [poly], output, force });
    return output;
  };
  let best = { spec: '', score: -1 };
  for (const degree of DEGREES)
    for (const a of RANGES) {
      const spec = `deg=${degree},a=${a}`;
      const score = await accuracy(await replaced(spec), 'train');
      if (score > best.score) best = { spec, score };
    }
  const settings = { data, epochs: stageEpochs, seed, force };
  const plain = await quail(last, { ...settings, run: place('.quail'), output: place('.quail.onnx') });
  const amm = await quail(last, { ...settings, amm: true, run: place('.amm'), output: place('.amm.onnx') });
  return {
    Baseline: await accuracy(last),
    Taylor: await accuracy(await replaced('taylor')),
    'Poly-Reg': await accuracy(await replaced(best.spec)),
    QuaIL: 100 * plain.testAccuracy,
    'QuaIL+AMM': 100 * amm.testAccuracy,
    'QuaIL+MM': 100 * (amm.mm?.testAccuracy ?? Number.NaN),
  };
}

function render(): string {
  const shown = (value: number | null) => (value === null ? '' : value.toFixed(2));
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const rows = [...results].flatMap(([network, found]) => [
    ...found.map((each, i) => line([`${network}, seed ${seeds[i]}`, ...COLUMNS.map((column) => shown(each[column]))])),
    line([
      `**${network}, mean**`,
      ...COLUMNS.map(
        (column) => `**${shown(found.reduce((sum, each) => sum + (each[column] ?? 0), 0) / found.length)}**`,
      ),
    ]),
    line([`${network}, paper`, ...COLUMNS.map((column) => shown(PAPER[network]?.[column] ?? null))]),
  ]);
  const minutes = ((performance.now() - started) / 60_000).toFixed(0);
  return [
    '# Table 2 of the paper, MNIST rows',
    '',
    `Made by \`npm run table2 -- --rows mnist\`: test accuracy in % on real MNIST, ${epochs} epochs for the baseline and ${stageEpochs} for each`,
    `stage of imitation and each step of fine-tuning (the paper: 50 each), everything else the authors' defaults.`,
    'Poly-Reg: the best least-squares polynomial of a grid (degree 2, 4, 6, 8; a 2, 3, 4, 5, 6, 8) by accuracy on 5,000',
    'training images. QuaIL+MM is the network of QuaIL+AMM with true ranges, in batches of 100, on which it depends.',
    `${minutes} minutes on ${os.cpus().length} cores.`,
    '',
    line(['network', ...COLUMNS]),
    line(['network', ...COLUMNS].map(() => '---')),
    ...rows,
    '',
  ].join('\n');
}
