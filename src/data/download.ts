/** One file over HTTP: resumed where the last attempt ended, and renamed to its name only when its checksum is right. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { createGunzip } from 'node:zlib';
import { SisyphusError } from '../errors.ts';
import { fileError } from '../graph/read.ts';
import type { OnProgress } from '../progress.ts';
import type { Digest, SourceFile } from './sources.ts';

export interface DownloadOptions {
  /** Download even if the right file is there. */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
  /** How often to try again after network errors and HTTP 5xx, and how long to wait before the first time (then twice). */
  readonly retries?: number;
  readonly retryDelayMs?: number;
}

/** 'present': the right file was there already. */
export type DownloadStatus = 'present' | 'downloaded' | 'resumed';

/**
 * Gets `url` into `file`. Meanwhile the bytes are in FILE.part, which an interruption leaves for the next call to go on
 * from (HTTP Range, with If-Range where the server had named a version, kept in FILE.part.etag).
 * @throws SisyphusError `data` for a wrong checksum, `file` for the network and the disk, `aborted`
 */
export async function download(
  url: string,
  file: string,
  source: SourceFile,
  options: DownloadOptions = {},
): Promise<DownloadStatus> {
  const { force = false, signal, retries = 3, retryDelayMs = 1000 } = options;
  if (!force && existsSync(file)) {
    const { right, found } = await check(file, source);
    if (right) return 'present';
    throw new SisyphusError(
      'data',
      `${file}: is there already, but is not the published file (${found} instead of ${source.digest}); delete it, or give --force to download it anew`,
    );
  }
  const part = `${file}.part`;
  const onBytes = monotone(source.name, options.onProgress);
  let resumed: boolean;
  for (let failures = 0; ; failures++)
    try {
      resumed = await fetchPart(url, part, source, onBytes, signal);
      break;
    } catch (cause) {
      if (signal?.aborted) throw aborted(part, cause);
      if (cause instanceof SisyphusError) throw cause;
      if (failures === retries) throw unreachable(url, file, cause);
      await sleep(retryDelayMs * 2 ** failures, undefined, { ...(signal && { signal }) }).catch((reason) => {
        throw aborted(part, reason);
      });
    }
  await rm(versionFile(part), { force: true });
  const { right, found } = await check(part, source);
  if (!right) {
    await rm(part, { force: true });
    throw new SisyphusError(
      'data',
      `${url}: wrong checksum, expected ${source.digest} but found ${found}; it was deleted: try again, or another mirror with --from URL`,
    );
  }
  await onDisk(file, rename(part, file));
  return resumed ? 'resumed' : 'downloaded';
}

/** The server's name (ETag or date) of what is in the part. */
const versionFile = (part: string) => `${part}.etag`;

/**
 * One request, whose bytes are added to the part, or replace it where the server doesn't resume.
 * @returns whether it resumed
 * @throws SisyphusError for what another attempt would not change; anything else is worth one
 */
async function fetchPart(
  url: string,
  part: string,
  source: SourceFile,
  onBytes: (done: number, total: number) => void,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const have = await sizeOf(part);
  const version = have > 0 ? await readFile(versionFile(part), 'utf8').catch(() => '') : '';
  const response = await fetch(url, {
    headers: {
      'accept-encoding': 'identity', // or fetch would unpack
      ...(have > 0 && { range: `bytes=${have}-` }),
      ...(version && { 'if-range': version }),
    },
    ...(signal && { signal }),
  });
  const range = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '');
  const complete = response.status === 416 && range?.[2] === `${have}`;
  const resumes = response.status === 206 && range?.[1] === `${have}`;
  if (!response.body || !response.ok || (response.status === 206 && !resumes)) {
    await response.body?.cancel();
    if (complete) return true;
    if (response.status === 206 || response.status === 416) await rm(part, { force: true }); // start over
    throw httpError(url, part.slice(0, -'.part'.length), response.status);
  }
  const handle = await onDisk(part, open(part, resumes ? 'a' : 'w'));
  try {
    const etag = response.headers.get('etag');
    const strong = etag?.startsWith('W/') ? null : etag;
    await onDisk(part, writeFile(versionFile(part), strong ?? response.headers.get('last-modified') ?? ''));
    const length = Number(response.headers.get('content-length'));
    let done = resumes ? have : 0;
    const total = length > 0 ? done + length : source.bytes;
    onBytes(done, total);
    for await (const chunk of response.body) {
      await onDisk(part, handle.appendFile(chunk));
      done += chunk.byteLength;
      onBytes(done, total);
    }
    return resumes;
  } finally {
    await handle.close();
  }
}

const sizeOf = (file: string): Promise<number> =>
  stat(file).then(
    ({ size }) => size,
    () => 0,
  );

/** Failures of the disk, told from those of the network. */
const onDisk = <T>(file: string, action: Promise<T>): Promise<T> =>
  action.catch((cause) => {
    throw fileError(file, cause);
  });

/** Events that never fall, also where a download starts over. */
function monotone(task: string, onProgress: OnProgress | undefined): (done: number, total: number) => void {
  let highest = -1;
  return (done, total) => {
    if (done <= highest) return;
    highest = done;
    onProgress?.({ task, done, total: Math.max(done, total), unit: 'B' });
  };
}

async function check(file: string, { digest, contents }: SourceFile): Promise<{ right: boolean; found: Digest }> {
  const found = await onDisk(file, digestOf(file, digest, false));
  const repacked =
    found !== digest && contents && (await digestOf(file, contents, true).catch(() => null)) === contents;
  return { right: found === digest || repacked === true, found };
}

async function digestOf(file: string, like: Digest, unpack: boolean): Promise<Digest> {
  const algorithm = like.startsWith('md5') ? 'md5' : 'sha256';
  const hash = createHash(algorithm);
  const stream = createReadStream(file);
  if (!unpack) for await (const chunk of stream) hash.update(chunk);
  else for await (const chunk of stream.pipe(createGunzip())) hash.update(chunk);
  return `${algorithm}:${hash.digest('hex')}`;
}

const aborted = (part: string, cause: unknown) =>
  new SisyphusError('aborted', `interrupted; ${part} is kept, and the same command goes on from there`, { cause });

const byHand = (file: string) => `name a mirror with --from URL, or put the file at ${file} yourself`;

function httpError(url: string, file: string, status: number): Error {
  if (status >= 500 || [206, 408, 416, 429].includes(status)) return new Error(`HTTP ${status}`);
  const meaning: Record<number, string> = { 401: ' (not allowed)', 403: ' (not allowed)', 404: ' (not found)' };
  return new SisyphusError('file', `${url}: HTTP ${status}${meaning[status] ?? ''}; ${byHand(file)}`);
}

function unreachable(url: string, file: string, cause: unknown): SisyphusError {
  const { message, cause: inner } = cause as Error;
  const { code, message: detail } = (inner ?? {}) as NodeJS.ErrnoException;
  const { HTTP_PROXY, HTTPS_PROXY, http_proxy, https_proxy } = process.env;
  const proxied = HTTP_PROXY || HTTPS_PROXY || http_proxy || https_proxy;
  const proxy = proxied ? ' (the proxy of HTTP_PROXY is not used)' : '';
  return new SisyphusError('file', `${url}: ${detail || code || message}${proxy}; try again, ${byHand(file)}`, {
    cause,
  });
}
