import type { Command } from 'commander';
import type { LowerOptions } from '../lower.ts';
import { LOWERING_TARGETS } from '../targets/targets.ts';
import { VERSION } from '../version.ts';
import { positiveNumber, wholeNumber } from './options.ts';
import { bytes, type CommonOptions, dim, makeOutput, nextStep, type Streams, warning } from './output.ts';
import { changes, tellPass } from './pass-report.ts';

type Flags = CommonOptions & LowerOptions;

export function lowerCommand(program: Command, streams: Streams): void {
  program
    .command('lower')
    .summary('write a model in the form that a compiler takes')
    .description(
      'Writes MODEL.TARGET.onnx: the same function, spelled so that the target computes it rightly and with few levels. Every pass is checked against the source.',
    )
    .argument('<model>', 'ONNX file')
    .requiredOption('--target <name>', LOWERING_TARGETS.join(' | '))
    .option('--check <n>', 'compare on n random inputs (default: 2)', wholeNumber('--check', 0, 1e6))
    .option(
      '--rtol <x>',
      'what the comparison allows, relative to the largest output (default: 1e-4)',
      positiveNumber('--rtol'),
    )
    .option('--seed <n>', 'seed of the random inputs', wholeNumber('--seed', 0, 2 ** 32 - 1), 0)
    .option('-o, --output <file>', 'where to write')
    .option('--force', 'replace an existing output')
    .action(async (file: string, flags: Flags) => {
      const output = makeOutput(streams, flags);
      const { lower } = await import('../lower.ts');
      output.say(dim(`sisyphus ${VERSION} lower ${file} for ${flags.target}`));
      const report = await lower(file, flags);
      for (const pass of report.passes)
        if (flags.verbose || pass.applied.length > 0) tellPass(output, pass, flags.verbose ?? false);
      const { check } = report;
      if (check && check.scale > 0)
        output.say(
          `  check passed: ${check.runs} random inputs, largest difference ${check.maxError.toPrecision(3)} at a scale of ${check.scale.toPrecision(3)}`,
        );
      else if (check)
        output.say(warning('  ! the comparison says nothing: no output of the source was finite or not 0'));
      output.say(changes(report.before, report.after, null));
      for (const [name, size] of Object.entries(report.files)) output.result(`wrote ${name} (${bytes(size)})`);
      output.say(nextStep('check', report.output, '--target', report.target));
      output.finish(report);
    });
}
