import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { zipSync } from 'fflate';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type GetOptions, getDataset } from '../../src/data/get.ts';
import { type Digest, SOURCES, type Source } from '../../src/data/sources.ts';
import type { ProgressEvent } from '../../src/progress.ts';
import { makeRng } from '../../src/rng.ts';
import { SHARED } from '../support/shared.ts';

const base = mkdtempSync(path.join(tmpdir(), 'sisyphus get é '));
let to = '';
let count = 0;
type Handler = (request: IncomingMessage, response: ServerResponse) => void;
let answer: Handler;
let requests: IncomingMessage[] = [];
let server: Server;
let address = '';

beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push(request);
    answer(request, response);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
});
afterAll(async () => {
  await new Promise((done) => {
    server.close(done);
    server.closeAllConnections();
  });
  rmSync(base, { recursive: true });
});
beforeEach(() => {
  to = path.join(base, `${count++}`);
  requests = [];
});

const rng = makeRng(1);
const BYTES = Buffer.from(Uint8Array.from({ length: 300_000 }, () => rng.int(256)));
const digest = (data: Uint8Array, algorithm: 'md5' | 'sha256' = 'sha256'): Digest =>
  `${algorithm}:${createHash(algorithm).update(data).digest('hex')}`;
const toy = (data: Uint8Array, extra: Partial<Source> = {}): Source => ({
  name: 'toy',
  title: 'a toy',
  base: address,
  files: [{ name: 'toy.bin', bytes: data.length, digest: digest(data) }],
  ...extra,
});

const get = (options: Partial<GetOptions> = {}) =>
  getDataset('toy', { to, sources: [toy(BYTES)], retries: 0, retryDelayMs: 1, ...options });
const message = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'no error',
    (error) => `${error.code}: ${error.message}`.replaceAll(base, '').replaceAll(address, 'http://server/'),
  );
const file = () => path.join(to, 'toy/toy.bin');
const part = () => `${file()}.part`;
const listing = () => (existsSync(path.join(to, 'toy')) ? readdirSync(path.join(to, 'toy')).sort() : []);

/** Serves BYTES as a server with resumable downloads does. */
const serve: Handler = (request, response) => {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const fresh = request.headers['if-range'] === undefined || request.headers['if-range'] === '"v1"';
  if (start > 0 && start >= BYTES.length) response.writeHead(416, { 'content-range': `bytes */${BYTES.length}` }).end();
  else if (start > 0 && fresh)
    response
      .writeHead(206, {
        etag: '"v1"',
        'content-length': BYTES.length - start,
        'content-range': `bytes ${start}-${BYTES.length - 1}/${BYTES.length}`,
      })
      .end(BYTES.subarray(start));
  else response.writeHead(200, { etag: '"v1"', 'content-length': BYTES.length }).end(BYTES);
};

/** Sends a third, then cuts the connection. */
const cut: Handler = (_request, response) => {
  response.writeHead(200, { etag: '"v1"', 'content-length': BYTES.length });
  response.write(BYTES.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 30));
};

describe('a download', () => {
  it('arrives whole, is reported, and is left alone the next time', async () => {
    answer = serve;
    const events: ProgressEvent[] = [];
    const report = await get({ onProgress: (event) => void events.push(event) });
    const folder = path.join(to, 'toy');
    expect(report).toEqual({
      name: 'toy',
      folder,
      files: [{ path: file(), status: 'downloaded' }],
      data: `toy:${folder}`,
    });
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
    expect(listing()).toEqual(['toy.bin']);
    expect(events.at(0)).toEqual({ task: 'toy.bin', done: 0, total: BYTES.length, unit: 'B' });
    expect(events.at(-1)?.done).toBe(BYTES.length);
    for (const [i, event] of events.entries()) expect(event.done).toBeGreaterThan(events[i - 1]?.done ?? -1);

    expect((await get()).files[0]?.status).toBe('present');
    expect(requests.length).toBe(1);
    expect((await get({ force: true })).files[0]?.status).toBe('downloaded');
    expect(requests.length).toBe(2);
  });

  it('goes on after a cut connection, in the next call or in a retry of the same', async () => {
    answer = cut;
    expect(await message(get())).toMatch(
      /^file: http:\/\/server\/toy\.bin: .+; try again, name a mirror with --from URL, or put the file at .*toy\.bin yourself$/,
    );
    expect(listing()).toEqual(['toy.bin.part', 'toy.bin.part.etag']);
    const have = readFileSync(part()).length;
    expect(have).toBeGreaterThan(0);
    answer = serve;
    expect((await get()).files[0]?.status).toBe('resumed');
    expect(requests[1]?.headers).toMatchObject({ range: `bytes=${have}-`, 'if-range': '"v1"' });
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
    expect(listing()).toEqual(['toy.bin']);

    to = `${to} again`;
    answer = (request, response) => (request.headers.range ? serve : cut)(request, response);
    const events: ProgressEvent[] = [];
    const report = await get({ retries: 1, onProgress: (event) => void events.push(event) });
    expect(report.files[0]?.status).toBe('resumed');
    for (const [i, event] of events.entries()) expect(event.done).toBeGreaterThan(events[i - 1]?.done ?? -1);
  });

  it('starts over where the server does not resume, or has another version by now', async () => {
    const start = (name: string, version = '"v1"') => {
      to = path.join(base, name);
      mkdirSync(path.dirname(part()), { recursive: true });
      writeFileSync(part(), BYTES.subarray(0, 1000));
      writeFileSync(`${part()}.etag`, version);
    };
    start('no ranges');
    answer = (_request, response) => void response.end(BYTES);
    expect((await get()).files[0]?.status).toBe('downloaded');
    start('other version', '"v0"');
    answer = serve;
    expect((await get()).files[0]?.status).toBe('downloaded');
    start('another range than asked for');
    answer = (request, response) =>
      request.headers.range
        ? void response.writeHead(206, { 'content-range': `bytes 0-9/${BYTES.length}` }).end(BYTES.subarray(0, 10))
        : serve(request, response);
    expect((await get({ retries: 1 })).files[0]?.status).toBe('downloaded');
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
  });

  it('copes with a part that is complete already, or longer than the file (416)', async () => {
    answer = serve;
    mkdirSync(path.dirname(part()), { recursive: true });
    writeFileSync(part(), BYTES);
    expect((await get()).files[0]?.status).toBe('resumed');
    rmSync(file());
    writeFileSync(part(), Buffer.concat([BYTES, BYTES]));
    expect((await get({ retries: 1 })).files[0]?.status).toBe('downloaded');
    expect(readFileSync(file()).equals(BYTES)).toBe(true);
  });

  it('with a wrong checksum is deleted, with both sums said', async () => {
    const wrong = Buffer.from('wrong');
    answer = (_request, response) => void response.end(wrong);
    expect(await message(get())).toBe(
      `data: http://server/toy.bin: wrong checksum, expected ${digest(BYTES)} but found ${digest(wrong)}; it was deleted: try again, or another mirror with --from URL`,
    );
    expect(listing()).toEqual([]);
  });

  it('does not replace another file without --force', async () => {
    answer = serve;
    mkdirSync(path.dirname(file()), { recursive: true });
    writeFileSync(file(), 'mine');
    expect(await message(get())).toMatch(/^data: .*toy\.bin: is there already, but is not the published file \(sha256/);
    expect(readFileSync(file(), 'utf8')).toBe('mine');
    expect((await get({ force: true })).files[0]?.status).toBe('downloaded');
  });

  it('is asked for again after 5xx, not after 404', async () => {
    answer = (request, response) =>
      requests.length < 3 ? void response.writeHead(503).end('busy') : serve(request, response);
    expect((await get({ retries: 2 })).files[0]?.status).toBe('downloaded');
    expect(requests.length).toBe(3);
    rmSync(file());
    answer = (_request, response) => void response.writeHead(500).end();
    expect(await message(get({ retries: 1 }))).toMatch(/^file: http:\/\/server\/toy\.bin: HTTP 500; try again, name a/);
    requests = [];
    answer = (_request, response) => void response.writeHead(404).end('<html>');
    expect(await message(get({ retries: 5 }))).toMatch(
      /^file: http:\/\/server\/toy\.bin: HTTP 404 \(not found\); name a mirror with --from URL, or put the file at .*toy\.bin yourself$/,
    );
    expect(requests.length).toBe(1);
  });

  it('that is aborted keeps its part', async () => {
    const controller = new AbortController();
    answer = (_request, response) => {
      response.writeHead(200, { 'content-length': BYTES.length });
      response.write(BYTES.subarray(0, 100_000));
    };
    const onProgress = ({ done }: ProgressEvent) => void (done > 50_000 && controller.abort());
    expect(await message(get({ signal: controller.signal, onProgress, retries: 3 }))).toMatch(
      /^aborted: interrupted; .*toy\.bin\.part is kept, and the same command goes on from there$/,
    );
    expect(readFileSync(part()).length).toBeGreaterThan(50_000);
    expect(existsSync(file())).toBe(false);
    answer = serve;
    expect((await get()).files[0]?.status).toBe('resumed');
  });

  it('can be aborted while it waits for a retry', async () => {
    answer = (_request, response) => void response.writeHead(503).end();
    const signal = AbortSignal.timeout(100);
    expect(await message(get({ signal, retries: 3, retryDelayMs: 60_000 }))).toMatch(/^aborted: interrupted/);
  });
});

describe('the way there', () => {
  it('without a network says where it would have gone, and knows about proxies', async () => {
    const other = createServer();
    await new Promise<void>((done) => other.listen(0, '127.0.0.1', done));
    const closed = `http://127.0.0.1:${(other.address() as AddressInfo).port}`; // where nobody listens any more
    await new Promise((done) => other.close(done));
    const proxy = process.env.HTTPS_PROXY;
    process.env.HTTPS_PROXY = 'http://proxy.example:3128';
    try {
      expect(await message(get({ from: closed }))).toMatch(
        /^file: http:\/\/127\.0\.0\.1:\d+\/toy\.bin: connect ECONNREFUSED .+ \(the proxy of HTTP_PROXY is not used\); try again, name a mirror/,
      );
    } finally {
      if (proxy === undefined) delete process.env.HTTPS_PROXY;
      else process.env.HTTPS_PROXY = proxy;
    }
  });

  it('leads to a mirror with --from', async () => {
    answer = serve;
    const sources = [toy(BYTES, { base: 'http://official.invalid/' })];
    await get({ sources, from: `${address}a/b` });
    expect(requests[0]?.url).toBe('/a/b/toy.bin');
    expect(await message(get({ from: 'ftp://x' }))).toMatch(/^usage: --from takes an address such as/);
    expect(await message(get({ from: 'http://' }))).toMatch(/^usage: --from takes an address such as/);
  });

  it('is refused for unknown names, and for folders that cannot be made', async () => {
    expect(await message(getDataset('mnst', { to }))).toBe("usage: unknown data set 'mnst'; did you mean 'mnist'?");
    writeFileSync(to, 'a file');
    expect(await message(get())).toMatch(/^file: .*toy: /);
    rmSync(to);
    mkdirSync(part(), { recursive: true });
    answer = (_request, response) => void response.end(BYTES);
    expect(await message(get({ retries: 3 }))).toMatch(/^file: .*toy\.bin\.part: is a folder$/);
    expect(requests.length).toBe(1); // nothing that another attempt would mend
  });
});

describe('MNIST', () => {
  const names = ['train-images', 'train-labels', 't10k-images', 't10k-labels'];
  const folder = path.join(SHARED, 'data/mnist');
  const missing = existsSync(folder) ? '' : `${folder} is not there`;
  if (missing) process.stderr.write(`skipping the test of real MNIST files: ${missing}\n`);

  it.skipIf(missing)('of the shared folder passes the real table, packed anew', async () => {
    answer = (request, response) =>
      void response.end(readFileSync(path.join(folder, path.basename(request.url ?? ''))));
    const report = await getDataset('mnist', { to, from: address });
    expect(report.files.map(({ status }) => status)).toEqual(Array(4).fill('downloaded'));
    expect(readdirSync(path.join(to, 'mnist')).length).toBe(4);
    // The MD5 of the unpacked files, as published with many loaders.
    const published = ['6bbc9ace898e44ae57da46a324031adb', 'a25bea736e30d166cdddb491f175f624'];
    published.push('2646ac647ad5339dbf082846283269ea', '27ae3e4e09519cfbb04c329615203637');
    const kinds = ['images-idx3', 'labels-idx1', 'images-idx3', 'labels-idx1'];
    for (const [i, name] of names.entries()) {
      const packed = readFileSync(path.join(to, 'mnist', `${name.split('-')[0]}-${kinds[i]}-ubyte.gz`));
      expect(digest(gunzipSync(packed), 'md5')).toBe(`md5:${published[i]}`);
    }
    expect((await getDataset('mnist', { to, from: address })).files[0]?.status).toBe('present');
  });

  it('packed anew with other contents does not pass', async () => {
    answer = (_request, response) => void response.end(gzipSync('other'));
    const contents = digest(Buffer.from('this'));
    const sources = [toy(BYTES, { files: [{ name: 'toy.bin', bytes: 9, digest: digest(BYTES), contents }] })];
    expect(await message(get({ sources }))).toMatch(/^data: .*wrong checksum/);
    answer = (_request, response) => void response.end(gzipSync('this'));
    expect((await get({ sources })).files[0]?.status).toBe('downloaded');
  });

  it('and all other sources are complete', () => {
    for (const { name, base: official, files } of SOURCES) {
      expect(`${name} ${official}`).toMatch(/^[a-z0-9-]+ https?:\/\/.*\/$/);
      for (const { digest, contents } of files)
        for (const sum of [digest, contents ?? digest]) expect(sum).toMatch(/^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$/);
    }
    expect(SOURCES.map(({ name }) => name)).toEqual(['mnist', 'fashion-mnist', 'cifar10', 'cifar100', 'tiny-imagenet']);
  });
});

describe('an archive', () => {
  const text = (words: string) => new TextEncoder().encode(words);
  let archive: Uint8Array;
  const source = () =>
    toy(archive, {
      files: [{ name: 'toy.zip', bytes: archive.length, digest: digest(archive, 'md5') }],
      unpack: { folder: 'toy-200', marker: 'wnids.txt' },
    });
  const unpack = (options: Partial<GetOptions> = {}) => get({ sources: [source()], ...options });
  const entries = {
    'toy-200/wnids.txt': text('n1\n'),
    'toy-200/train/n1/images/n1_0.JPEG': text('jpeg'),
    'toy-200/empty/': text(''),
  };
  beforeEach(() => {
    archive = zipSync(entries);
    answer = (_request, response) => void response.end(archive);
  });
  afterEach(() => {
    expect(listing().filter((name) => name.endsWith('.part'))).toEqual([]);
  });

  it('is unpacked beside itself, once', async () => {
    const events: ProgressEvent[] = [];
    const report = await unpack({ onProgress: (event) => void events.push(event) });
    const unpacked = path.join(to, 'toy/toy-200');
    expect(report.data).toBe(`toy:${path.join(to, 'toy')}`);
    expect(readFileSync(path.join(unpacked, 'train/n1/images/n1_0.JPEG'), 'utf8')).toBe('jpeg');
    expect(readdirSync(unpacked).sort()).toEqual(['empty', 'train', 'wnids.txt']);
    expect(events.filter(({ unit }) => unit === 'files').map(({ done, total }) => [done, total])).toEqual([
      [1, 3],
      [2, 3],
      [3, 3],
    ]);
    expect(await unpack()).toMatchObject({ files: [{ path: unpacked, status: 'present' }] });
    expect(requests.length).toBe(1);

    rmSync(path.join(unpacked, 'wnids.txt'));
    expect(await message(unpack())).toMatch(
      /^data: .*toy-200: has no wnids\.txt; delete it, or give --force to replace/,
    );
    expect((await unpack({ force: true })).files[0]?.status).toBe('downloaded');
    expect(existsSync(path.join(unpacked, 'wnids.txt'))).toBe(true);
    rmSync(unpacked, { recursive: true });
    expect((await unpack()).files[0]?.status).toBe('present'); // the archive, which is unpacked again
    expect(existsSync(path.join(unpacked, 'wnids.txt'))).toBe(true);
  });

  it.each(['../evil.txt', 'toy-200/../../evil.txt', '/tmp/evil.txt', 'C:/evil.txt'])(
    'that names %s is refused',
    async (evil) => {
      archive = zipSync({ ...entries, [evil]: text('evil') });
      expect(await message(unpack())).toMatch(/^data: .*toy\.zip: cannot be unpacked \(.*evil\.txt\)/);
      expect(listing()).toEqual(['toy.zip']);
      expect(existsSync(path.join(to, 'evil.txt'))).toBe(false);
    },
  );

  it('that is broken, or holds something else, is refused', async () => {
    archive = zipSync(entries).subarray(0, 100);
    expect(await message(unpack())).toMatch(/^data: .*toy\.zip: cannot be unpacked \(/);
    to = `${to} b`;
    archive = zipSync({ 'other/file.txt': text('x') });
    expect(await message(unpack())).toMatch(/^data: .*toy\.zip: has no folder toy-200/);
    to = `${to} c`;
    const damaged = zipSync({ 'toy-200/wnids.txt': [text('abc'.repeat(1000)), { level: 9 }] });
    damaged.fill(0xff, 48, 56);
    archive = damaged;
    expect(await message(unpack())).toMatch(/^data: .*toy\.zip: cannot be unpacked \(/);
    expect(listing()).toEqual(['toy.zip']);
  });

  it('that is aborted leaves nothing half', async () => {
    const controller = new AbortController();
    const onProgress = ({ unit }: ProgressEvent) => void (unit === 'files' && controller.abort());
    expect(await message(unpack({ signal: controller.signal, onProgress }))).toMatch(/^aborted: interrupted/);
    expect(listing()).toEqual(['toy.zip']);
    expect((await unpack()).files[0]?.status).toBe('present');
  });
});
