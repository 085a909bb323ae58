/** Downloads the standard data sets from where their authors publish them, or from a mirror. */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { didYouMean, SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import { type DownloadOptions, type DownloadStatus, download } from './download.ts';
import { SOURCES, type Source } from './sources.ts';
import { unzipFolder } from './unzip.ts';

export interface GetOptions extends DownloadOptions {
  /** The folder that holds data sets; each gets one of its own in there. */
  readonly to: string;
  /** http(s) address of a mirror, to which the file names are added. */
  readonly from?: string;
  /** Another table than `SOURCES`. */
  readonly sources?: readonly Source[];
}

export interface GetReport {
  readonly name: string;
  readonly folder: string;
  readonly files: readonly { readonly path: string; readonly status: DownloadStatus }[];
  /** For `--data`. */
  readonly data: string;
}

/**
 * Downloads a data set to TO/NAME. Archives of CIFAR stay as they are, for the reader streams them; Tiny-ImageNet's is
 * unpacked beside itself. What is complete is left alone, what was interrupted goes on from there.
 * @throws SisyphusError `usage` for unknown names and addresses, `data` for wrong checksums and broken archives, `file`
 * for the network and the disk, `aborted`
 */
export async function getDataset(name: string, options: GetOptions): Promise<GetReport> {
  const sources = options.sources ?? SOURCES;
  const source = sources.find((candidate) => candidate.name === name);
  if (!source) {
    const known = sources.map((candidate) => candidate.name);
    throw new SisyphusError('usage', `unknown data set '${name}'${didYouMean(name, known)}`);
  }
  const base = options.from === undefined ? source.base : mirror(options.from);
  const folder = path.join(options.to, name);
  const report = { name, folder, data: `${name}:${folder}` };
  const { unpack } = source;
  const unpacked = unpack && path.join(folder, unpack.folder);
  if (unpacked && existsSync(unpacked) && !options.force) {
    if (existsSync(path.join(unpacked, unpack.marker)))
      return { ...report, files: [{ path: unpacked, status: 'present' }] };
    throw new SisyphusError('data', `${unpacked}: has no ${unpack.marker}; delete it, or give --force to replace it`);
  }
  await mkdir(folder, { recursive: true }).catch((cause) => {
    throw fileError(folder, cause);
  });
  const files = [];
  for (const file of source.files) {
    const target = path.join(folder, file.name);
    files.push({ path: target, status: await download(new URL(file.name, base).href, target, file, options) });
  }
  for (const { path: archive } of unpack ? files : []) await unzipFolder(archive, unpack?.folder ?? '', options);
  return { ...report, files };
}

function mirror(from: string): string {
  const base = `${from.replace(/\/+$/, '')}/`;
  if (/^https?:\/\//.test(base) && URL.canParse(base)) return base;
  throw new SisyphusError('usage', `--from takes an address such as https://example.org/mnist, not '${from}'`);
}
