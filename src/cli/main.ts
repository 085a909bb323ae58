#!/usr/bin/env node
/** The executable: ties a run to the process. */
import { run } from './run.ts';

const interrupt = new AbortController();
process.once('SIGINT', () => interrupt.abort()); // a second Ctrl-C ends the process at once
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0); // the reader has seen enough (`| head`)
  throw error;
});

const streams = {
  out: (text: string | Uint8Array) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
  errIsTty: process.stderr.isTTY ?? false,
};
process.exitCode = await run(process.argv.slice(2), streams, interrupt.signal);
