import { type Command, Option } from 'commander';
import { SisyphusError } from '../errors.ts';
import { refuseTarget, writeFileSafely } from '../files.ts';
import { parseActivations } from '../passes/select-sites.ts';
import type { SearchObjective, SearchOptions, SearchReport } from '../search/search.ts';
import type { AcquisitionName, Strategy } from '../search/strategies.ts';
import { VERSION } from '../version.ts';
import { collect, wholeNumber } from './options.ts';
import { bold, type CommonOptions, dim, makeOutput, nextStep, type Output, type Streams, table } from './output.ts';
import { addModelRunOptions, type RunFlags } from './run-options.ts';

interface Flags extends CommonOptions, Omit<RunFlags, 'limit' | 'images' | 'partial'> {
  readonly strategy?: Strategy;
  readonly acquisition?: AcquisitionName;
  readonly objective?: SearchObjective;
  readonly poly?: string[];
  readonly degrees?: readonly number[];
  readonly range?: readonly [number, number];
  readonly budget?: number;
  readonly initial?: number;
  readonly subset?: number | null;
  readonly halving?: number;
  readonly perLayer?: number;
  readonly activations?: string;
  readonly only?: string[];
  readonly skip?: string[];
  readonly logits?: string;
  readonly output?: string;
  readonly history?: string;
  readonly resume?: boolean;
  readonly force?: boolean;
  readonly svg?: string;
  readonly report?: string;
}

const COUNT = 2 ** 31 - 1;

export function searchCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('search')
    .summary('the degree and range whose polynomial keeps most of the accuracy (Poly-Reg)')
    .description(
      'Puts one polynomial after another in place of every activation, by default the least-squares fits of degrees 2 to 9 on [-a, a], and looks for the one with the best accuracy on training images: the paper’s Poly-Reg, by Bayesian optimisation. Nothing is trained. What was measured is in the history; Ctrl-C keeps it, and --resume goes on from it.',
    )
    .argument('<model>', 'ONNX file')
    .requiredOption('--data <name:path>', 'data set: cifar10:DIR, mnist:DIR, imagefolder:DIR, npz:FILE, synthetic, …')
    .addOption(
      new Option('--split <split>', 'which part of it to search on (default: train, where there is one)').choices([
        'train',
        'test',
      ]),
    )
    .option('--subset <n>', 'search on so many images, chosen at random, or all (default: 5000)', (value: string) =>
      value === 'all' ? null : wholeNumber('--subset', 1, COUNT)(value),
    )
    .addOption(
      new Option(
        '--strategy <name>',
        'bayes: a Gaussian process says where to look | grid | random | sisyphus: as the paper’s authors ran it (default: bayes)',
      ).choices(['bayes', 'grid', 'random', 'sisyphus']),
    )
    .addOption(
      new Option(
        '--acquisition <name>',
        'expected improvement, or upper confidence bound (default: ei; sisyphus: ucb)',
      ).choices(['ei', 'ucb']),
    )
    .addOption(
      new Option(
        '--objective <name>',
        'accuracy: an image whose logits are not finite is wrong | finite-accuracy: it is left out (default: accuracy; sisyphus: finite-accuracy)',
      ).choices(['accuracy', 'finite-accuracy']),
    )
    .option(
      '--poly <spec>',
      'what to search over, stars standing for numbers (default: deg=*,a=*): deg=*,a=*,fit=minimax | deg=*,a=data,margin=* | preset=NAME; repeatable',
      collect,
    )
    .option('--degrees <list>', 'for deg=*: 2..9 or 2,4,8 (default: 2..9; sisyphus: 1..9)', degreesOf)
    .option('--range <low..high>', 'for other stars (default: 0.5..50)', rangeOf)
    .option('--budget <n>', 'different polynomials to try (default: 50; sisyphus: 60)', wholeNumber('--budget', 1, 1e5))
    .option('--initial <n>', 'of them, before there is a model (default: 10)', wholeNumber('--initial', 1, 1e5))
    .option(
      '--halving <n>',
      'show a polynomial a part of the images first, and n times as many if it is among the best of n; 1: all images at once (default: 4; sisyphus: 1)',
      wholeNumber('--halving', 1, 1000),
    )
    .option(
      '--per-layer <n>',
      'then let single activations differ, by n trials of other ranges and degrees',
      wholeNumber('--per-layer', 0, 1e6),
    )
    .option('--activations <kinds>', 'which functions: relu,gelu,… | relu-family | all (default: relu-family)')
    .option('--only <glob>', 'only sites with such a name (repeatable)', collect)
    .option('--skip <glob>', 'leave sites with such a name alone (repeatable)', collect)
    .option('--logits <name>', 'the output that holds the logits (default: the first one with a number for each class)')
    .option('--seed <n>', 'of the images and of the search (default: 0)', wholeNumber('--seed', 0, 2 ** 32 - 1))
    .option('-o, --output <file>', 'the network with the best polynomial (default: MODEL.search.onnx)')
    .option('--history <file>', 'what was measured, a line each (default: the output with .ndjson)')
    .option('--resume', 'go on with the search in the history')
    .option('--svg <file>', 'plot of the search')
    .option('--report <file>', 'the search as a page')
    .option('--force', 'replace existing files');
  addModelRunOptions(command).action(async (file: string, flags: Flags) => {
    for (const target of [flags.svg, flags.report])
      if (target !== undefined) await refuseTarget(target, flags.force ?? false);
    const output = makeOutput(streams, flags);
    output.say(dim(`sisyphus ${VERSION} search ${file} · ${flags.data}`));
    // Loaded only now: other commands start faster without.
    const [{ search }, { showProgress }] = await Promise.all([import('../search/search.ts'), import('./progress.ts')]);
    const progress = showProgress(streams, flags);
    const { json: _json, quiet: _quiet, verbose, activations, svg, report: page, ...options } = flags;
    const report = await search(file, {
      ...(options as SearchOptions),
      ...(activations !== undefined && { activations: parseActivations(activations) }),
      signal,
      onProgress: progress.onProgress,
    }).finally(progress.stop);
    if (svg !== undefined || page !== undefined) await writePlots(report, svg, page, flags.force ?? false);
    tell(output, report, verbose ?? false);
    output.finish(report);
  });
}

function degreesOf(text: string): number[] {
  const whole = wholeNumber('--degrees', 1, 63);
  const [low, high] = text.split('..');
  if (high === undefined) return text.split(',').map(whole);
  const [from, to] = [whole(low as string), whole(high)];
  if (to < from) throw new SisyphusError('usage', `--degrees ${text}: goes down`);
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

function rangeOf(text: string): [number, number] {
  const ends = text.split('..').map(Number);
  const [low = Number.NaN, high = low] = ends;
  if (ends.length > 2 || !Number.isFinite(low) || !Number.isFinite(high))
    throw new SisyphusError('usage', `--range ${text}: two numbers, such as 0.5..50`);
  return [low, high];
}

async function writePlots(report: SearchReport, svg: string | undefined, page: string | undefined, force: boolean) {
  const [{ searchChart, searchPage }, { renderSvg }] = await Promise.all([
    import('../view/search-page.ts'),
    import('../view/svg.ts'),
  ]);
  if (svg !== undefined) await writeFileSafely(svg, await renderSvg(searchChart(report)), { force });
  if (page !== undefined) await writeFileSafely(page, await searchPage(report), { force });
}

const SHOWN = 8;
const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

function tell(output: Output, report: SearchReport, verbose: boolean): void {
  const { candidates, best, original, images, split, test, seconds, specs, value, passes, strategy, objective } =
    report;
  output.say();
  const distinct = candidates.filter(({ same }) => same === null);
  const ranked = [...distinct].sort((a, b) => b.images - a.images || b.value - a.value);
  output.say(
    table(
      ['polynomial', objective, 'images', 'not finite', 'found as'],
      ranked
        .slice(0, verbose ? ranked.length : SHOWN)
        .map((each) => [
          each.spec,
          percent(each.value),
          String(each.images),
          String(each.nonFinite),
          String(each.number),
        ]),
      true,
    ),
  );
  output.say();
  output.result(
    `  ${bold(best.spec)}: ${percent(best.value)} of ${images} images (${split}), the network as it is ${percent(original)}`,
  );
  if (specs.length > 1) {
    output.result(`  by layer: ${percent(value)}, ${specs.length - 1} activations differ`);
    for (const spec of specs.slice(1)) output.say(`    ${spec}`);
  }
  if (test) {
    const { before, after } = test;
    const among =
      after.top1Finite === null || after.nonFinite === 0
        ? ''
        : ` (${(100 * after.top1Finite).toFixed(2)} of the finite ones)`;
    output.result(
      `  test: ${percent(after.top1)}${among}, ${after.nonFinite} images not finite; the network as it is ${percent(before.top1)}`,
    );
  }
  output.say(dim(`  ${strategy}: ${distinct.length} polynomials, ${passes} measurements, ${seconds.toFixed(0)} s`));
  output.result(`wrote ${report.output}`);
  output.say(`  history ${report.historyFile}`);
  output.say(nextStep('probe', report.output, '--data', report.data));
}
