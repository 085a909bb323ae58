import type { Command } from 'commander';
import { listPasses } from '../passes/index.ts';
import { type CommonOptions, makeOutput, table } from './output.ts';

export function passesCommand(program: Command): void {
  program
    .command('passes')
    .summary('list the rewrites')
    .action((flags: CommonOptions) => {
      const output = makeOutput(flags);
      const passes = listPasses();
      const rows = passes.map(({ name, summary, exact, option }) => [
        name,
        option,
        exact ? 'exact' : 'changes results',
        summary,
      ]);
      output.result(table(['pass', 'asked for with', 'effect', 'what it does'], rows, false));
      output.finish({ passes });
    });
}
