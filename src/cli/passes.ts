import type { Command } from 'commander';
import { listPasses } from '../passes/index.ts';
import { type CommonOptions, makeOutput, type Streams, table } from './output.ts';

export function passesCommand(program: Command, streams: Streams): void {
  program
    .command('passes')
    .summary('list the rewrites')
    .description('Lists the rewrites and the options of `rewrite` that ask for them.')
    .action((flags: CommonOptions) => {
      const output = makeOutput(streams, flags);
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
