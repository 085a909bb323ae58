/** What the commands that run models on data have in common: options, sessions, interruptions. */
import { SisyphusError } from '../errors.ts';
import type { Model } from '../graph/ir.ts';
import { serialize } from '../graph/write.ts';
import type { Device } from './device.ts';
import type { DataOptions } from './feed.ts';
import { type LogLevel, openSession, type Session } from './session.ts';

export interface RunOptions extends DataOptions {
  /** auto | cpu | cuda[:n] | webgpu. Default: cpu. */
  readonly device?: string;
  readonly threads?: number;
  readonly logLevel?: LogLevel;
  /** After an interruption give what there is, marked as such, instead of failing. */
  readonly partial?: boolean;
}

/** A session for a model in memory. @param where what errors call it */
export function openModel(model: Model, where: string, device: Device, options: RunOptions): Promise<Session> {
  const { threads, logLevel } = options;
  return openSession(serialize(model, { inline: true }), { name: where, device, threads, logLevel });
}

/** Was it an interruption after which what was seen so far, if anything, is wanted? */
export const endsEarly = (error: unknown, { partial }: Pick<RunOptions, 'partial'>, seen: number): boolean =>
  Boolean(partial) && seen > 0 && error instanceof SisyphusError && error.code === 'aborted';

/** One model after the other; after an interruption, with `partial`, those that there is something of. */
export async function untilAborted<T>(
  files: readonly string[],
  options: Pick<RunOptions, 'partial' | 'signal'>,
  run: (path: string) => Promise<T>,
): Promise<T[]> {
  const done: T[] = [];
  for (const path of files) {
    if (options.partial && done.length > 0 && options.signal?.aborted) break;
    try {
      done.push(await run(path));
    } catch (error) {
      if (!endsEarly(error, options, done.length)) throw error;
      break;
    }
  }
  return done;
}
