#!/usr/bin/env node
/** The command line: parses, prints, and turns every outcome into an exit code (0 ok, 1 error, 2 usage, 3 gate, 130). */
import { Command, CommanderError } from 'commander';
import { type ErrorCode, SisyphusError } from '../errors.ts';
import { VERSION } from '../version.ts';
import { inspectCommand } from './inspect.ts';
import { failure } from './output.ts';
import { passesCommand } from './passes.ts';
import { rewriteCommand } from './rewrite.ts';

const EXIT: Partial<Record<ErrorCode, number>> = { usage: 2, spec: 2, gate: 3, aborted: 130 };

async function main(args: readonly string[]): Promise<number> {
  const interrupt = new AbortController();
  process.once('SIGINT', () => interrupt.abort()); // a second Ctrl-C ends the process at once
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0); // the reader has seen enough (`| head`)
    throw error;
  });
  const program = new Command('sisyphus')
    .description('Turns the ReLUs of a trained ONNX network into low-degree polynomials for private inference.')
    .version(VERSION)
    .showSuggestionAfterError()
    .exitOverride();
  rewriteCommand(program, interrupt.signal);
  inspectCommand(program);
  passesCommand(program);
  for (const command of program.commands)
    command
      .option('--json', 'print one JSON document on standard output')
      .option('-q, --quiet', 'print results only')
      .option('-v, --verbose', 'print every site')
      .exitOverride();
  try {
    await program.parseAsync(args, { from: 'user' });
    return 0;
  } catch (error) {
    return report(error);
  }
}

function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // commander has printed its message
  if (error instanceof SisyphusError) {
    process.stderr.write(`${failure('error')}: ${error.message}\n`);
    return EXIT[error.code] ?? 1;
  }
  const text = error instanceof Error ? error.message : String(error);
  process.stderr.write(`${failure('error')}: ${text} (this is a bug in sisyphus; SISYPHUS_DEBUG=1 shows where)\n`);
  if (process.env.SISYPHUS_DEBUG && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return 1;
}

process.exitCode = await main(process.argv.slice(2));
