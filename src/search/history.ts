/**
 * The log of a search: a line for what was asked for, then one for each evaluation. A search is a function of what it
 * measures, so one that was interrupted starts again, finds here what was measured already, and goes on where that ends.
 */
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { SisyphusError } from '../errors.ts';
import { refuseTarget, writeFileSafely } from '../files.ts';
import { fileError } from '../graph/read.ts';
import type { Measured } from './evaluator.ts';

export interface Evaluation {
  /** Of the polynomials, whatever specs they were written as. */
  readonly identity: string;
  readonly specs: readonly string[];
  readonly images: number;
  readonly accuracy: Pick<Measured, 'top1' | 'top1Finite' | 'nonFinite' | 'nan' | 'likeness'>;
  readonly seconds: number;
}

export interface History {
  readonly path: string;
  find(identity: string, images: number): Evaluation | undefined;
  add(evaluation: Evaluation): Promise<void>;
  readonly count: () => number;
}

type Config = Readonly<Record<string, unknown>>;

/**
 * Starts a log, or goes on with one.
 * @throws SisyphusError `file` where it is there already and neither `resume` nor `force` is given, or is no such log;
 * `usage` where it is of another search, naming what differs
 */
export async function openHistory(
  path: string,
  config: Config,
  { resume = false, force = false }: { readonly resume?: boolean | undefined; readonly force?: boolean | undefined },
): Promise<History> {
  const known = new Map<string, Evaluation>();
  const key = (identity: string, images: number) => `${identity} ${images}`;
  if (resume) {
    const lines = await readLog(path, config);
    for (const line of lines) known.set(key(line.identity, line.images), line);
  } else {
    await refuseTarget(path, force);
    await writeFileSafely(path, `${JSON.stringify(config)}\n`, { force });
  }
  return {
    path,
    count: () => known.size,
    find: (identity, images) => known.get(key(identity, images)),
    async add(evaluation) {
      known.set(key(evaluation.identity, evaluation.images), evaluation);
      await appendFile(path, `${JSON.stringify(evaluation)}\n`).catch((cause) => {
        throw fileError(path, cause);
      });
    },
  };
}

/** The evaluations of a log, which loses a last line that was not written to its end. */
async function readLog(path: string, config: Config): Promise<Evaluation[]> {
  const text = await readFile(path, 'utf8').catch((cause) => {
    throw new SisyphusError('usage', `${path}: there is no search to go on with: leave --resume away`, { cause });
  });
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  const parse = (line: string): Config => {
    try {
      return JSON.parse(line) as Config;
    } catch (cause) {
      throw new SisyphusError('file', `${path}: is no history of a search; give another --history, or --force`, {
        cause,
      });
    }
  };
  const [first, ...lines] = whole.split('\n').filter(Boolean).map(parse);
  for (const name of new Set([...Object.keys(config), ...Object.keys(first ?? {})])) {
    const [was, is] = [first?.[name], config[name]].map((value) => JSON.stringify(value));
    if (was !== is)
      throw new SisyphusError('usage', `${path}: that search has ${name} ${was}, not ${is}; start anew with --force`);
  }
  if (whole !== text) await writeFile(path, whole);
  return lines as unknown as Evaluation[];
}
