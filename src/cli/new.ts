import type { Command } from 'commander';
import { DATASETS, NETWORKS } from '../../models/index.ts';
import { SisyphusError } from '../errors.ts';
import { serialize } from '../graph/write.ts';
import { makeNetwork, type NewOptions, newNetwork } from '../new.ts';
import { wholeNumber } from './options.ts';
import { bytes, type CommonOptions, makeOutput, nextStep, type Streams, table, thousands } from './output.ts';

interface Flags extends CommonOptions, NewOptions {
  readonly seed: number;
}

export function newCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  program
    .command('new')
    .summary('write an untrained network of the paper')
    .description(
      'Writes one of the networks of the paper, untrained, initialised as PyTorch does it, with the preprocessing of the data set recorded in it.',
    )
    .argument('<network>', [...NETWORKS.keys()].join(' | '))
    .requiredOption('--dataset <name>', `${[...DATASETS.keys()].join(' | ')} | synthetic:3x32x32`)
    .option('-o, --output <file>', "where to write (default: NETWORK-DATASET.onnx); '-' for standard output")
    .option('--seed <n>', 'seed of the weights', wholeNumber('--seed', 0, 2 ** 32 - 1), 42)
    .option('--force', 'replace an existing output')
    .addHelpText('after', () => `\n${table(['network', 'images', 'layers'], networkRows(), false)}`)
    .action(async (network: string, flags: Flags) => {
      if (flags.output === '-') {
        if (flags.json) throw new SisyphusError('usage', '--json and -o - both want standard output');
        streams.out(serialize(makeNetwork(network, flags.dataset, flags.seed)));
        return;
      }
      const output = makeOutput(streams, flags);
      const report = await newNetwork(network, { ...flags, signal });
      const { dataset, input, classes, parameters, macs, relus, reluElements, normalize, path } = report;
      output.say(`  ${network} for ${dataset}: images of ${input.join('x')}, ${classes} classes, seed ${flags.seed}`);
      output.say(`  ${thousands(parameters)} parameters, ${thousands(macs)} MACs, untrained`);
      output.say(`  ${relus} ReLU${relus > 1 ? 's' : ''} with ${thousands(reluElements)} elements`);
      output.say(`  preprocessing recorded: ${normalize}`);
      output.result(`wrote ${path} (${bytes(report.bytes)})`);
      const data = dataset.startsWith('synthetic') ? dataset : `${dataset}:PATH`;
      output.say(nextStep('train', path, '--data', data));
      output.finish(report);
    });
}

const networkRows = () =>
  [...NETWORKS].map(([name, { channels, sides, summary }]) => [
    name,
    sides.map((side) => `${channels}x${side}x${side}`).join(', '),
    summary,
  ]);
