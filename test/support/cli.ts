/** The command line within this process, for speed. */
import { stripVTControlCharacters } from 'node:util';
import { run } from '../../src/cli/run.ts';

export interface CliResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** One run with what it wrote, without colours. */
export async function sisyphus(args: readonly string[], signal = new AbortController().signal): Promise<CliResult> {
  const [out, err]: [string[], string[]] = [[], []];
  const streams = {
    out: (text: string | Uint8Array) => void out.push(Buffer.from(text).toString()),
    err: (text: string) => void err.push(text),
  };
  const code = await run(args, streams, signal);
  return { code, out: stripVTControlCharacters(out.join('')), err: stripVTControlCharacters(err.join('')) };
}

/** An interruption at a place that does not depend on how fast the machine is: after so many looks at the signal. */
export function signalAfter(looks: number): AbortSignal {
  const { signal } = new AbortController();
  let seen = 0;
  Object.defineProperty(signal, 'aborted', { get: () => ++seen > looks });
  return signal;
}
