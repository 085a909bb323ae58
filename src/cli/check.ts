import type { Command } from 'commander';
import { SisyphusError } from '../errors.ts';
import type { TargetReport } from '../targets/check.ts';
import type { Finding } from '../targets/finding.ts';
import { LOWERING_TARGETS, TARGET_NAMES } from '../targets/targets.ts';
import { VERSION } from '../version.ts';
import { type CommonOptions, dim, groupBy, makeOutput, nextStep, type Output, type Streams, table } from './output.ts';

type Flags = CommonOptions & { readonly target?: string };

export function checkCommand(program: Command, streams: Streams): void {
  program
    .command('check')
    .summary('what HE and MPC compilers would make of a model')
    .description(
      'Lints a model against the rules of compilers and protocols: what they refuse, what they accept and compute wrongly, and which pass mends it. With --target it ends with 3 where that target would refuse or miscompute the file.',
    )
    .argument('<model>', 'ONNX file')
    .option('--target <name>', `${TARGET_NAMES.join(' | ')} (default: a table of all)`)
    .action(async (file: string, flags: Flags) => {
      const output = makeOutput(streams, flags);
      const { checkTargets } = await import('../targets/check.ts');
      const report = checkTargets(file, flags);
      const [first] = report.targets;
      output.say(dim(`sisyphus ${VERSION} check ${file}`));
      if (flags.target === undefined || !first) tellAll(output, report.targets);
      else tellOne(output, first, flags.verbose ?? false);
      output.say(dim(`  ${report.basis}`));
      const fails = flags.target !== undefined && (first?.verdict === 'rejected' || first?.verdict === 'wrong');
      if (fails && LOWERING_TARGETS.some((name) => name === flags.target))
        output.say(nextStep('lower', file, '--target', flags.target ?? ''));
      output.finish(report);
      if (fails && first)
        throw new SisyphusError(
          'gate',
          `${file}: ${first.target} would ${first.verdict === 'rejected' ? 'refuse it' : 'compute something else'}`,
        );
    });
}

function tellAll(output: Output, targets: readonly TargetReport[]): void {
  const rows = targets.map(({ target, kind, verdict, findings, evidence, version }) => {
    const grave = findings.filter(({ severity }) => severity === verdict);
    const rules = [...new Set(grave.map(({ rule }) => rule))].join(' ');
    return [
      target,
      verdict,
      String(findings.filter(({ severity }) => severity !== 'info').length),
      rules,
      evidence,
      version,
      kind,
    ];
  });
  output.result(table(['target', 'verdict', 'findings', 'because of', 'rules', 'version', ''], rows, false));
}

function tellOne(
  output: Output,
  { target, kind, verdict, findings, evidence, version }: TargetReport,
  verbose: boolean,
): void {
  output.result(`  ${target} (${kind}; version ${version}, ${evidence}): ${verdict}`);
  const groups = groupBy(
    findings,
    ({ rule, severity, why, fix }) =>
      (verbose ? `${findings.length}` : '') + JSON.stringify([rule, severity, shape(why), fix]),
  );
  for (const group of groups.values()) {
    const [{ rule, severity, why, fix }] = group as [Finding];
    const sites = group.map(({ site }) => site);
    const shown =
      verbose || sites.length <= 3 ? sites.join(', ') : `${sites.slice(0, 2).join(', ')} and ${sites.length - 2} more`;
    output.result(`  ${rule} ${severity}  ${shown}: ${why}${fix ? `; ${fix}` : ''}`);
  }
}

/** Findings that differ in names and numbers alone are one line. */
const shape = (why: string): string => why.replace(/'[^']*'/g, '').replace(/\d+/g, '');
