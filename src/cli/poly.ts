import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import type { PolynomialReport } from '../describe-polynomial.ts';
import { didYouMean, SisyphusError } from '../errors.ts';
import { refuseTarget, writeFileSafely } from '../files.ts';
import { fileError } from '../graph/read.ts';
import { parsePolynomial } from '../poly/polynomial.ts';
import { CALIBRATE, type SiteStatistics, sourceOf } from '../poly/recipe.ts';
import { parseSpec } from '../poly/spec.ts';
import { Entries } from '../poly/spec-entries.ts';
import {
  type CommonOptions,
  makeOutput,
  type Output,
  type Streams,
  shortNumber,
  shortPolynomial,
  table,
} from './output.ts';

interface Flags extends CommonOptions {
  readonly fn?: string;
  readonly range?: string;
  readonly site?: string;
  readonly plot?: string;
  readonly force?: boolean;
}

export function polyCommand(program: Command, streams: Streams): void {
  program
    .command('poly')
    .summary('one polynomial: coefficients, error, depth, curve')
    .description(
      'Shows what a polynomial spec makes of an activation function: coefficients, error, and what each way to evaluate it costs.',
    )
    .argument('<spec>', 'as --poly takes it: deg=4,a=5 | preset=precise,alpha=10 | …')
    .option('--fn <name>', 'the activation: relu, relu6, leaky-relu(0.1), gelu, silu, tanh, …', 'relu')
    .option('--range <a>', 'where errors are taken: a for [-a, a], or low:high (default: where it was fitted)')
    .option('--site <name>', 'whose statistics to take, for a=stats.json')
    .option('--plot <file>', 'draw the curve beside the activation, as SVG')
    .option('--force', 'replace an existing drawing')
    .action(async (spec: string, flags: Flags) => {
      if (flags.plot !== undefined) await refuseTarget(flags.plot, flags.force ?? false);
      const output = makeOutput(streams, flags);
      const statistics = await siteStatistics(spec, flags);
      const { describePolynomial } = await import('../describe-polynomial.ts');
      const interval = flags.range === undefined ? undefined : new Entries(`range=${flags.range}`).range('range');
      if (interval && 'from' in interval) throw new SisyphusError('usage', '--range takes a number, or low:high');
      const report = describePolynomial(spec, {
        ...(flags.fn !== undefined && { fn: flags.fn }),
        ...(interval && { interval }),
        ...(statistics && { statistics }),
      });
      tell(output, report);
      if (flags.plot !== undefined) {
        const { polynomialSvg } = await import('../view/pages.ts');
        await writeFileSafely(flags.plot, await polynomialSvg(report), { force: flags.force ?? false });
        output.result(`wrote ${flags.plot}`);
      }
      output.finish(report);
    });
}

/** What a file of statistics, if the spec names one, holds for --site. */
async function siteStatistics(spec: string, flags: Flags): Promise<SiteStatistics | null> {
  const source = sourceOf(parseSpec(spec).recipe);
  if (source === null || source === CALIBRATE) return null;
  const { parseStatistics } = await import('../passes/statistics.ts');
  const { sites } = parseStatistics(read(source), source);
  const names = Object.keys(sites);
  const [only] = names.length === 1 ? names : [];
  const name = flags.site ?? only;
  if (name === undefined)
    throw new SisyphusError(
      'usage',
      `${source} holds ${names.length} sites: name one with --site (${names.slice(0, 5).join(', ')}, …)`,
    );
  const found = Object.hasOwn(sites, name) ? sites[name] : undefined;
  if (!found) throw new SisyphusError('usage', `--site: ${source} holds no '${name}'${didYouMean(name, names)}`);
  return found;
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw fileError(file, cause);
  }
}

function tell(output: Output, report: PolynomialReport): void {
  const { spec, activation, interval, error, degree, stages, coefficients, forms } = report;
  output.result(`  ${activation} -> ${spec}, degree ${degree}`);
  output.result(`  ${shortPolynomial(parsePolynomial(report.polynomial))}`);
  const rows = coefficients
    ? coefficients.map((c, k) => [`x^${k}`, String(c)])
    : stages.flatMap(({ basis, coefficients: list }, i) =>
        list.flatMap((c, k) =>
          c === 0
            ? []
            : [[`${stages.length > 1 ? `stage ${i + 1}, ` : ''}${basis === 'power' ? 'x^' : 'T'}${k}`, String(c)]],
        ),
      );
  output.say(table(['', 'coefficient'], rows, false));
  const where = `[${interval.map(shortNumber).join(', ')}]`;
  output.result(
    `  off by at most ${shortNumber(error.max)} on ${where} (rms ${shortNumber(error.rms)}, L2 norm ${shortNumber(error.l2)})`,
  );
  const head = ['form', 'depth', 'products', 'by constants', 'largest error in float32'];
  const costs = forms.map(({ form, depth, multiplications: { ciphertext, plaintext }, float32Error }) => [
    form,
    depth,
    ciphertext,
    plaintext,
    shortNumber(float32Error),
  ]);
  output.say(table(head, costs, true));
}
