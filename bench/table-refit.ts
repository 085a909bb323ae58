/**
 * Real networks with every activation replaced and nothing trained: `sisyphus refit` at degrees 2 and 4 against the best
 * single polynomial (Poly-Reg) that `sisyphus search` finds. Full test sets; calibration on training images. Writes
 * docs/refit-table.md.
 *
 *   npm run table-refit -- [--rows NAMES] [--data DIR] [--images 500] [--seeds 1] [--work DIR] [--search DIR]
 *
 * DIR holds `mnist`, `cifar10` and `cifar100`; without it those of ../shared/data are unpacked. With --work, networks and rows
 * stay there, and rows that are there are not measured again; what `table-search --work DIR` left is taken from the folder that --search names.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { readModel } from '../src/graph/read.ts';
import { type RefitReport, refit } from '../src/refit/refit.ts';
import { type Verified, verify } from '../src/refit/verify.ts';
import { search } from '../src/search/search.ts';
import { percent, REPOSITORY, shared, unpacked } from './data.ts';

interface Row {
  readonly name: string;
  readonly data: 'mnist' | 'cifar10' | 'cifar100';
  readonly normalize: string;
  /** What it is calibrated on, where its own data have no training images. */
  readonly calibration?: 'cifar10';
}

const NARROW = 'mean=.4914,.4822,.4465,std=.2023,.1994,.2010';
const WIDE = 'mean=.4914,.4822,.4465,std=.2470,.2435,.2616';
const ROWS: readonly Row[] = [
  { name: 'ace_resnet20_cifar10_pre', data: 'cifar10', normalize: NARROW },
  { name: 'ace_resnet32_cifar10_pre', data: 'cifar10', normalize: NARROW },
  { name: 'ace_resnet32_cifar100_pre', data: 'cifar100', normalize: 'cifar100', calibration: 'cifar10' },
  { name: 'burn_mnist', data: 'mnist', normalize: 'mean=.1307,std=.3081' },
  { name: 'sri_resnet_a', data: 'cifar10', normalize: WIDE },
  { name: 'marabou_cifar10_large', data: 'cifar10', normalize: 'scale=1/255' },
  { name: 'tinymobilenet_cifar10_dynamo', data: 'cifar10', normalize: 'cifar100' },
];
const DEGREES = [2, 4];

const { values: flags } = parseArgs({
  options: {
    rows: { type: 'string' },
    data: { type: 'string' },
    images: { type: 'string', default: '500' },
    seeds: { type: 'string', default: '1' },
    subset: { type: 'string', default: '2000' },
    work: { type: 'string' },
    search: { type: 'string' },
  },
});
const temporary = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-refit-'));
const work = flags.work ?? temporary;
await mkdir(work, { recursive: true });
const folder = flags.data ?? unpacked(temporary);
const chosen = flags.rows?.split(',');
const lines: string[] = [];
for (const row of ROWS) {
  if (!existsSync(shared(row.name)) || (chosen && !chosen.includes(row.name))) continue;
  const known = path.join(work, `${row.name}.row`);
  const line = existsSync(known) ? await readFile(known, 'utf8') : await tableRow(row);
  await writeFile(known, line);
  console.error(line);
  lines.push(line);
}
const page = render();
await writeFile(path.join(REPOSITORY, 'docs/refit-table.md'), page);
console.log(page);
await rm(temporary, { recursive: true, force: true });

async function tableRow({ name, data, normalize, calibration }: Row): Promise<string> {
  const file = shared(name);
  const source = (set: string) => `${set}:${path.join(folder, set)}`;
  const teacher = readModel(file);
  const test = async (student: string): Promise<Verified> => {
    const [found] = await verify(teacher, readModel(student), name, { data: source(data), split: 'test', normalize });
    return found as Verified;
  };
  const single = await test(await polyReg(name, source(data), normalize, calibration !== undefined));
  const cells: string[] = [];
  for (const degree of DEGREES) {
    const found: Verified[] = [];
    const reports: RefitReport[] = [];
    for (let seed = 0; seed < Number(flags.seeds); seed++) {
      const output = path.join(work, `${name}-deg${degree}-seed${seed}.onnx`);
      const report = await refit(file, {
        data: source(calibration ?? data),
        split: 'train',
        normalize,
        images: Number(flags.images),
        poly: [`deg=${degree}`],
        seed,
        output,
        force: true,
      });
      reports.push(report);
      found.push(await test(output));
    }
    const seconds = reports.map((report) => report.seconds).sort((a, b) => a - b)[reports.length >> 1] ?? 0;
    cells.push(found.map(shown).join('; '), seconds.toFixed(0));
  }
  return [name, percent(single.teacherAccuracy ?? Number.NaN), shown(single), ...cells].join(' | ');
}

/** The network with the best single polynomial. CIFAR-100 has no training images here: it is searched on the test split. */
async function polyReg(name: string, data: string, normalize: string, onTest: boolean): Promise<string> {
  const place = flags.search ?? work;
  const output = path.join(place, `${name}-bayes.onnx`);
  if (existsSync(output)) return output;
  const history = path.join(place, `${name}-bayes.ndjson`);
  await search(shared(name), {
    data,
    ...(onTest && { split: 'test' }),
    normalize,
    subset: Number(flags.subset),
    output,
    history,
    ...(existsSync(history) ? { resume: true } : { force: true }),
  });
  return output;
}

function shown({ accuracy, nonFinite, escaped }: Verified): string {
  return `${percent(accuracy ?? Number.NaN)} (${nonFinite} / ${escaped})`;
}

function render(): string {
  return [
    '# Real networks, every activation a polynomial, nothing trained',
    '',
    `Made by \`npm run table-refit\`: accuracy on the whole test set in %, in parentheses test images with a logit that is not`,
    `finite, and these together with those with a logit beyond 1,000. Poly-Reg is the best single polynomial that`,
    `\`sisyphus search\` finds in 50 trials on ${flags.subset} training images; \`refit\` saw ${flags.images} training images without their labels.`,
    'The CIFAR-100 network has no training images here: `refit` saw images of the training set of CIFAR-10, and Poly-Reg,',
    'which needs labels, was searched on test images, to its advantage. Seconds on 2 cores, calibration to file.',
    '',
    '| network | ReLU | Poly-Reg | refit, degree 2 | s | refit, degree 4 | s |',
    '| --- | --- | --- | --- | --- | --- | --- |',
    ...lines.map((line) => `| ${line} |`),
    '',
  ].join('\n');
}
