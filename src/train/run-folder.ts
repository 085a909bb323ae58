/**
 * The folder of a training run: `config.json` (what was asked for), `metrics.ndjson` (one line an epoch),
 * `checkpoint.safetensors` (everything that going on needs), and models. A run that was killed at any
 * moment goes on from its last checkpoint as if nothing had happened: lines that are newer are dropped and come again.
 */
import { appendFile, mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { SisyphusError } from '../errors.ts';
import { writeFileSafely } from '../files.ts';
import { fileError } from '../graph/read.ts';
import { type NamedTensors, readSafetensors, writeSafetensors } from './safetensors.ts';

type Config = Readonly<Record<string, unknown>>;

export interface RunFolder {
  readonly path: string;
  /** The path of a file in it. */
  file(name: string): string;
  /** What an earlier session left; null for a new run. */
  readonly checkpoint: NamedTensors | null;
  /** Appends a line to the metrics. */
  log(record: Readonly<Record<string, unknown>>): Promise<void>;
  save(checkpoint: NamedTensors): Promise<void>;
  /** All lines of the metrics. */
  records(): Promise<Config[]>;
}

const CONFIG = 'config.json';
const METRICS = 'metrics.ndjson';
const CHECKPOINT = 'checkpoint.safetensors';

/**
 * Starts a run in a new folder, or goes on with one.
 * @param keep which lines of the metrics the checkpoint covers
 * @throws SisyphusError `file` where the folder holds something already and neither `resume` nor `force` is given;
 *   `usage` where `resume` finds no run, or one with another configuration, whose differences it names
 */
export async function openRunFolder(
  folder: string,
  config: Config,
  options: {
    readonly resume?: boolean | undefined;
    readonly force?: boolean | undefined;
    /** Names of the models and pages that such a run makes, which a new one removes. */
    readonly own: RegExp;
    readonly keep: (record: Config, checkpoint: NamedTensors | null) => boolean;
  },
): Promise<RunFolder> {
  const file = (name: string) => path.join(folder, name);
  const checkpoint = options.resume ? await resumeRun(file, folder, config, options.keep) : null;
  if (!options.resume) await startRun(file, folder, config, options);
  return {
    path: folder,
    file,
    checkpoint,
    async log(record) {
      await appendFile(file(METRICS), `${JSON.stringify(record)}\n`).catch((cause) => {
        throw fileError(file(METRICS), cause);
      });
    },
    save: (state) => writeSafetensors(file(CHECKPOINT), state),
    records: async () =>
      (await readFile(file(METRICS), 'utf8').catch(() => ''))
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Config),
  };
}

/** What a run was started with. @throws SisyphusError `usage` where there is none */
export async function readConfig(folder: string): Promise<Config> {
  const file = path.join(folder, CONFIG);
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Config;
  } catch (cause) {
    throw new SisyphusError('usage', `--resume: ${file} can't be read: there is no run to go on with`, { cause });
  }
}

type FileOf = (name: string) => string;

async function startRun(
  file: FileOf,
  folder: string,
  config: Config,
  { force, own }: { readonly force?: boolean | undefined; readonly own: RegExp },
): Promise<void> {
  const found = await stat(folder).catch(() => null);
  if (found && !found.isDirectory()) throw new SisyphusError('file', `${folder}: is a file; give --run another name`);
  if (found && !force && (await stat(file(CONFIG)).catch(() => null)))
    throw new SisyphusError(
      'file',
      `${folder}: holds a run already; give --resume to go on with it, --force to start anew, or --run another name`,
    );
  await mkdir(folder, { recursive: true }).catch((cause) => {
    throw fileError(folder, cause);
  });
  // The configuration comes last: a folder without one holds no run.
  const old = (await readdir(folder)).filter((name) => own.test(name));
  for (const name of [CONFIG, CHECKPOINT, METRICS, ...old]) await rm(file(name), { force: true });
  await writeFileSafely(file(CONFIG), `${JSON.stringify(config, null, 2)}\n`);
}

async function resumeRun(
  file: FileOf,
  folder: string,
  config: Config,
  keep: (record: Config, checkpoint: NamedTensors | null) => boolean,
): Promise<NamedTensors | null> {
  const old = await readConfig(folder);
  const other = [...new Set([...Object.keys(old), ...Object.keys(config)])].filter(
    (key) => JSON.stringify(old[key]) !== JSON.stringify(config[key]),
  );
  if (other.length > 0)
    throw new SisyphusError(
      'usage',
      `--resume: the run in ${folder} was started with ${other.map((key) => `${key} ${JSON.stringify(old[key])}, not ${JSON.stringify(config[key])}`).join('; ')}; leave these options away, or start another run`,
    );
  // Killed before the first checkpoint, it starts at the beginning.
  const saved = (await stat(file(CHECKPOINT)).catch(() => null)) ? await readSafetensors(file(CHECKPOINT)) : null;
  const lines = (await readFile(file(METRICS), 'utf8').catch(() => '')).split('\n');
  const kept = lines.filter((line) => covered(line, (record) => keep(record, saved)));
  await writeFileSafely(file(METRICS), kept.map((line) => `${line}\n`).join(''), { force: true });
  return saved;
}

/** A line that was cut short when the run was killed is none. */
function covered(line: string, keep: (record: Config) => boolean): boolean {
  try {
    return line !== '' && keep(JSON.parse(line) as Config);
  } catch {
    return false;
  }
}
