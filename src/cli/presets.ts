import type { Command } from 'commander';
import { listPresets } from '../poly/presets.ts';
import { bold, type CommonOptions, dim, makeOutput, type Streams, table } from './output.ts';

export function presetsCommand(program: Command, streams: Streams): void {
  program
    .command('presets')
    .summary('list the polynomials of the literature')
    .description(
      'Lists what `rewrite --poly preset=NAME[,key=value…]` takes. Table 1 is that of the paper; degree and depth are those for ReLU with default options. Below: the polynomials, and their options with defaults.',
    )
    .action((flags: CommonOptions) => {
      const output = makeOutput(streams, flags);
      const presets = listPresets();
      const head = ['preset', 'Table 1', 'degree', 'depth', 'replaces', 'source', 'what else it changes'];
      const rows = presets.map(({ name, source, table1, degree, depth, replaces, also }) => [
        name,
        table1 ? 'yes' : '',
        degree,
        depth,
        replaces,
        source,
        also,
      ]);
      output.result(table(head, rows, false));
      output.say();
      for (const { name, polynomial, options } of presets)
        output.say(`  ${bold(name)}: ${polynomial}${options ? dim(` [${options}]`) : ''}`);
      output.finish({ presets });
    });
}
