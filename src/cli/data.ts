import type { Command } from 'commander';
import { getDataset } from '../data/get.ts';
import { SOURCES } from '../data/sources.ts';
import { bytes, type CommonOptions, dim, makeOutput, type Streams, table } from './output.ts';

interface Flags extends CommonOptions {
  readonly to: string;
  readonly from?: string;
  readonly force?: boolean;
}

export function dataCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const data = program.command('data').summary('download the standard data sets').description('Downloads data sets.');
  const get = data
    .command('get')
    .summary('download a data set')
    .description(
      'Downloads a data set to DIR/NAME and checks it. What is complete is left alone, an interrupted download goes on.',
    )
    .argument('<name>', SOURCES.map(({ name }) => name).join(' | '))
    .requiredOption('--to <dir>', 'the folder that holds data sets')
    .option('--from <url>', 'a mirror: the address of a folder with files of the same names')
    .option('--force', 'download even what is there already')
    .action(async (name: string) => {
      const flags = get.optsWithGlobals<Flags>();
      const output = makeOutput(streams, flags);
      const { showProgress } = await import('./progress.ts');
      const progress = showProgress(streams, flags);
      const report = await getDataset(name, { ...flags, signal, onProgress: progress.onProgress }).finally(
        progress.stop,
      );
      for (const { path, status } of report.files) output.say(`  ${path}: ${STATUS[status]}`);
      output.result(`use it with --data ${report.data}`);
      output.finish(report);
    });
  const list = data
    .command('list')
    .summary('what can be downloaded')
    .description('Lists the data sets that `data get` knows.')
    .action(() => {
      const output = makeOutput(streams, list.optsWithGlobals<CommonOptions>());
      const sets = SOURCES.map(({ name, title, base, files }) => ({
        name,
        title,
        bytes: files.reduce((sum, file) => sum + file.bytes, 0),
        urls: files.map((file) => `${base}${file.name}`),
      }));
      const rows = sets.map((set) => [set.name, bytes(set.bytes), set.title]);
      output.result(table(['name', 'download', 'what it is'], rows, false));
      output.say(dim('  next: sisyphus data get NAME --to DIR'));
      output.finish({ datasets: sets });
    });
  // `run` equips commands, but not the commands of commands.
  for (const command of [get, list])
    command
      .option('--json', 'print one JSON document on standard output')
      .option('-q, --quiet', 'print results only')
      .exitOverride()
      .configureOutput({ writeOut: streams.out, writeErr: streams.err });
}

const STATUS = { present: 'was there already', downloaded: 'downloaded', resumed: 'downloaded the rest' } as const;
