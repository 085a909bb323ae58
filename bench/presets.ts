/**
 * Every preset on real networks, nothing retrained: `npm run bench:presets` writes docs/presets.md.
 *
 *   npm run bench:presets -- [--mnist DIR] [--cifar10 DIR] [--limit N] [--only NAME]
 *
 * The networks are those of ../shared/models. Without folders of data, those of ../shared/data are unpacked.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { type EvaluatedModel, evaluate } from '../src/eval/accuracy.ts';
import { type RewriteReport, rewrite } from '../src/rewrite.ts';

const REPOSITORY = path.resolve(import.meta.dirname, '..');
const SHARED = path.resolve(REPOSITORY, '../shared');

const MODELS = [
  { name: 'burn_mnist', set: 'mnist', normalize: 'mean=.1307,std=.3081', half: 2 },
  { name: 'kanav99_lenet', set: 'mnist', normalize: 'raw', half: 2 },
  {
    name: 'ace_resnet20_cifar10_pre',
    set: 'cifar10',
    normalize: 'mean=.4914,.4822,.4465,std=.2023,.1994,.2010',
    half: 10,
  },
] as const;

/** What is tried; `HALF` is half of the network's sites. */
const SPECS = [
  'preset=cryptonets',
  'preset=lookup-table',
  'preset=lookup-table,a=data',
  'preset=polyfit,deg=2',
  'preset=polyfit,deg=4',
  'preset=polyfit,deg=4,published',
  'preset=polyfit,deg=6',
  'preset=secureml',
  'preset=faster-cryptonets',
  'preset=cryptodl',
  'preset=cryptodl,deg=4,a=data',
  'preset=hcnn',
  'preset=hcnn,net=cifar10',
  'preset=delphi,k=HALF',
  'preset=safenet',
  'preset=precise,alpha=7',
  'preset=precise,alpha=10',
  'preset=taylor',
  'preset=sisyphus',
  'preset=sisyphus,deg=4,a=10',
  'preset=hermite,a=data',
  'preset=hermite,deg=4,a=data,per=channel',
  'preset=orion',
  'preset=orion,composite',
  'preset=smart-paf',
  'preset=smart-paf,paf=f1g2',
  'preset=pillar',
];

const { values: flags } = parseArgs({
  options: {
    mnist: { type: 'string' },
    cifar10: { type: 'string' },
    limit: { type: 'string' },
    only: { type: 'string' },
    output: { type: 'string', default: path.join(REPOSITORY, 'docs/presets.md') },
  },
});

const thousands = (count: number) => String(count).replace(/\B(?=(\d{3})+$)/g, ',');

function row(spec: string, report: RewriteReport, result: EvaluatedModel): string {
  const percent = (share: number) => (100 * share).toFixed(2);
  const finite = result.nonFinite === 0 ? '' : ` (${result.top1Finite === null ? '-' : percent(result.top1Finite)})`;
  const cells = [
    `\`${spec}\``,
    `${percent(result.top1)}${finite}`,
    thousands(result.nan),
    thousands(result.inf),
    report.after.depth,
    thousands(report.after.privateInference.reluElements ?? 0),
    thousands(Math.round(report.after.multiplications.ciphertext)),
  ];
  return `| ${cells.join(' | ')} |`;
}

const folder = await mkdtemp(path.join(os.tmpdir(), 'sisyphus-presets-'));
try {
  if (!(flags.mnist && flags.cifar10)) {
    const unpack = path.join(SHARED, 'data/unpack.mjs');
    if (!existsSync(unpack)) throw new Error(`give --mnist DIR and --cifar10 DIR: ${unpack} is not there`);
    spawnSync(process.execPath, [unpack, folder], { stdio: 'inherit' });
  }
  const folders = {
    mnist: flags.mnist ?? path.join(folder, 'mnist'),
    cifar10: flags.cifar10 ?? path.join(folder, 'cifar10'),
  };
  const limit = flags.limit === undefined ? {} : { limit: Number(flags.limit) };
  const lines: string[] = [];
  for (const { name, set, normalize, half } of MODELS) {
    if (flags.only && flags.only !== name) continue;
    const file = path.join(SHARED, 'models', `${name}.onnx`);
    const data = { data: `${set}:${folders[set]}`, normalize, batch: 100 };
    const [original] = (await evaluate([file], { ...data, ...limit })).models as [EvaluatedModel];
    lines.push(
      `## ${name}`,
      '',
      `ReLU: ${(100 * original.top1).toFixed(2)} % of ${thousands(original.images)} test images.`,
      '',
    );
    lines.push(
      '| `--poly` | top-1 % | NaN | Inf | depth | ReLUs left | products of ciphertexts |',
      '|---|---|---|---|---|---|---|',
    );
    for (const template of SPECS) {
      const spec = template.replace('HALF', String(half));
      const output = path.join(folder, 'rewritten.onnx');
      const start = performance.now();
      const report = await rewrite(file, { poly: [spec], calibration: { ...data, images: 500 }, output, force: true });
      const [result] = (await evaluate([output], { ...data, ...limit })).models as [EvaluatedModel];
      lines.push(row(spec, report, result));
      console.log(`${name} ${lines.at(-1)} ${Math.round((performance.now() - start) / 1000)} s`);
    }
    lines.push('');
  }
  const head = `# Presets on real networks

Made by \`npm run bench:presets\`: three third-party networks, every ReLU replaced (but where the preset keeps some),
**nothing retrained**, although most of the systems behind the presets retrain. \`sisyphus rewrite MODEL --poly SPEC --data
…\`, ranges and choices from 500 training images (seed 0), then \`eval\` on the test set. An image with a logit that is not
finite counts as wrong; in parentheses the accuracy over the others. Depth: multiplicative levels of the whole network,
linear layers included.

`;
  if (!flags.only) writeFileSync(flags.output, `${head}${lines.join('\n')}`);
} finally {
  await rm(folder, { recursive: true, force: true });
}
