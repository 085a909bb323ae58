/** One run of the command line: parses, prints, and gives the exit code (0 ok, 1 error, 2 usage, 3 gate, 130). */
import { Command, CommanderError } from 'commander';
import { type ErrorCode, SisyphusError } from '../errors.ts';
import { VERSION } from '../version.ts';
import { checkCommand } from './check.ts';
import { compareCommand } from './compare.ts';
import { dataCommand } from './data.ts';
import { encryptEvalCommand } from './encrypt-eval.ts';
import { evalCommand } from './eval.ts';
import { inspectCommand } from './inspect.ts';
import { lowerCommand } from './lower.ts';
import { newCommand } from './new.ts';
import { failure, type Streams } from './output.ts';
import { passesCommand } from './passes.ts';
import { planCommand } from './plan.ts';
import { polyCommand } from './poly.ts';
import { polynomializeCommand } from './polynomialize.ts';
import { presetsCommand } from './presets.ts';
import { probeCommand } from './probe.ts';
import { quailCommand } from './quail.ts';
import { refitCommand } from './refit.ts';
import { rewriteCommand } from './rewrite.ts';
import { searchCommand } from './search.ts';
import { shrinkCommand } from './shrink.ts';
import { trainCommand } from './train.ts';

const EXIT: Partial<Record<ErrorCode, number>> = { usage: 2, spec: 2, gate: 3, aborted: 130 };

export async function run(args: readonly string[], streams: Streams, signal: AbortSignal): Promise<number> {
  const program = new Command('sisyphus')
    .description('Turns the ReLUs of a trained ONNX network into low-degree polynomials for private inference.')
    .version(VERSION)
    .showSuggestionAfterError();
  newCommand(program, streams, signal);
  rewriteCommand(program, streams, signal);
  inspectCommand(program, streams);
  evalCommand(program, streams, signal);
  probeCommand(program, streams, signal);
  trainCommand(program, streams, signal);
  shrinkCommand(program, streams, signal);
  quailCommand(program, streams, signal);
  polynomializeCommand(program, streams, signal);
  refitCommand(program, streams, signal);
  searchCommand(program, streams, signal);
  planCommand(program, streams, signal);
  compareCommand(program, streams, signal);
  checkCommand(program, streams);
  lowerCommand(program, streams);
  encryptEvalCommand(program, streams, signal);
  dataCommand(program, streams, signal);
  passesCommand(program, streams);
  presetsCommand(program, streams);
  polyCommand(program, streams);
  for (const command of program.commands)
    command
      .option('--json', 'print one JSON document on standard output')
      .option('-q, --quiet', 'print results only')
      .option('-v, --verbose', 'print every site');
  for (const command of [program, ...program.commands])
    command.exitOverride().configureOutput({ writeOut: streams.out, writeErr: streams.err });
  try {
    await program.parseAsync(args, { from: 'user' });
    return 0;
  } catch (error) {
    return report(error, streams);
  }
}

function report(error: unknown, streams: Streams): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // commander has printed its message
  if (error instanceof SisyphusError) {
    streams.err(`${failure('error')}: ${error.message}\n`);
    return EXIT[error.code] ?? 1;
  }
  const text = error instanceof Error ? error.message : String(error);
  streams.err(`${failure('error')}: ${text} (this is a bug in sisyphus; SISYPHUS_DEBUG=1 shows where)\n`);
  if (process.env.SISYPHUS_DEBUG && error instanceof Error) streams.err(`${error.stack}\n`);
  return 1;
}
