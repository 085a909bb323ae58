/**
 * Polynomial regression by search on real networks: what `bayes` finds in 50 evaluations and a grid in 64, and how far both
 * stay from ReLU. Writes docs/poly-reg.md.
 *
 *   npm run table-search -- [--rows NAMES] [--data DIR] [--subset 5000] [--work DIR] [NAME=FILE …]
 *
 * DIR holds `mnist` and `cifar10`; without it those of ../shared/data are unpacked. NAME=FILE adds a network of one's own:
 * `mlp=…`, `lenet=…` (MNIST) and `resnet32=…` (CIFAR-10) come with the figures of the paper. With --work, what was measured
 * stays there and is not measured again.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { type SearchOptions, type SearchReport, search } from '../src/search/search.ts';
import { percent, REPOSITORY, shared, unpacked } from './data.ts';

const CIFAR = 'mean=.4914,.4822,.4465,std=.2023,.1994,.2010';

interface Row {
  readonly name: string;
  readonly data: 'mnist' | 'cifar10';
  readonly normalize?: string;
  readonly file?: string;
  /** Of the paper: ReLU and Poly-Reg, in %. */
  readonly paper?: readonly [number, number];
}

const ROWS: readonly Row[] = [
  { name: 'mlp', data: 'mnist', paper: [97.98, 97.88] },
  { name: 'lenet', data: 'mnist', paper: [99.32, 99.14] },
  { name: 'burn_mnist', data: 'mnist', normalize: 'mean=.1307,std=.3081', file: shared('burn_mnist') },
  { name: 'mnist_fc_256x4', data: 'mnist', normalize: 'scale=1/255', file: shared('mnist_fc_256x4') },
  { name: 'mnist_fc_256x2', data: 'mnist', normalize: 'scale=1/255', file: shared('mnist_fc_256x2') },
  {
    name: 'marabou_mnist5x20_leaky_relu',
    data: 'mnist',
    normalize: 'scale=1/255',
    file: shared('marabou_mnist5x20_leaky_relu'),
  },
  { name: 'resnet32', data: 'cifar10', paper: [91.72, 90.48] },
  { name: 'ace_resnet20_cifar10_pre', data: 'cifar10', normalize: CIFAR, file: shared('ace_resnet20_cifar10_pre') },
  { name: 'ace_resnet32_cifar10_pre', data: 'cifar10', normalize: CIFAR, file: shared('ace_resnet32_cifar10_pre') },
];
const GRID = 64;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rows: { type: 'string' },
    data: { type: 'string' },
    subset: { type: 'string', default: '5000' },
    work: { type: 'string' },
  },
});
const temporary = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-search-'));
const work = flags.work ?? temporary;
await mkdir(work, { recursive: true });
const own = new Map(positionals.map((text) => text.split('=', 2) as [string, string]));
const folder = flags.data ?? unpacked(temporary);
const chosen = flags.rows?.split(',');
const lines: string[] = [];
for (const row of ROWS) {
  const file = own.get(row.name) ?? row.file;
  if (!file || !existsSync(file) || (chosen && !chosen.includes(row.name))) continue;
  const line = await tableRow(row, file);
  console.error(line);
  lines.push(line);
}
const page = render();
await writeFile(path.join(REPOSITORY, 'docs/poly-reg.md'), page);
console.log(page);
await rm(temporary, { recursive: true, force: true });

async function tableRow({ name, data, normalize, paper }: Row, file: string): Promise<string> {
  const run = (what: string, options: Partial<SearchOptions>): Promise<SearchReport> => {
    const history = path.join(work, `${name}-${what}.ndjson`);
    return search(file, {
      data: `${data}:${path.join(folder, data)}`,
      ...(normalize && { normalize }),
      subset: Number(flags.subset),
      output: path.join(work, `${name}-${what}.onnx`),
      history,
      ...(existsSync(history) ? { resume: true } : { force: true }),
      ...options,
    });
  };
  const bayes = await run('bayes', {});
  // Sixteen ranges for each of the four polynomials that degrees 2 to 9 have.
  const grid = await run('grid', { strategy: 'grid', budget: GRID, halving: 1, degrees: [2, 4, 6, 8] });
  const goal = grid.best.value;
  const reached = bayes.candidates.findIndex(({ value, images }) => images === bayes.images && value >= goal);
  const shown = ({ test }: SearchReport): string => {
    if (!test) return '';
    const { top1, top1Finite, nonFinite } = test.after;
    return nonFinite === 0 ? percent(top1) : `${percent(top1)} (${top1Finite === null ? '–' : percent(top1Finite)})`;
  };
  return [
    name,
    percent(bayes.test?.before.top1 ?? Number.NaN),
    `\`${grid.best.spec}\` ${percent(goal)}`,
    `\`${bayes.best.spec}\` ${percent(bayes.best.value)}`,
    reached < 0 ? 'no' : String(reached + 1),
    shown(grid),
    shown(bayes),
    String(bayes.test?.after.nonFinite ?? ''),
    paper ? `${paper[0].toFixed(2)} / ${paper[1].toFixed(2)}` : '',
  ].join(' | ');
}

function render(): string {
  return [
    '# Polynomial regression: one polynomial for all activations',
    '',
    `Made by \`npm run table-search\`: \`sisyphus search\` with 50 polynomials (\`bayes\`, expected improvement, seed 0) and a grid of`,
    `${GRID} (degrees 2, 4, 6, 8; sixteen ranges from 0.5 to 50), both on the same ${flags.subset} training images; then the whole`,
    'test split, in %. An image whose logits are not finite is wrong; the accuracy over the others is in parentheses, as in the',
    'paper. "Reached" is the number of the first of the 50 that is at least as good as the best of the grid on these images.',
    '',
    '| network | ReLU | best of the grid, training | best of `bayes`, training | reached | test, grid | test, `bayes` | not finite | paper: ReLU / Poly-Reg |',
    '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ...lines.map((line) => `| ${line} |`),
    '',
  ].join('\n');
}
