import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { Command, CommanderError } from 'commander';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dataCommand } from '../../src/cli/data.ts';
import { SHARED } from '../support/shared.ts';

const mnist = path.join(SHARED, 'data/mnist');
const missing = existsSync(mnist) ? '' : `${mnist} is not there`;
if (missing) process.stderr.write(`skipping tests with real MNIST files: ${missing}\n`);

const base = mkdtempSync(path.join(tmpdir(), 'sisyphus data '));
let server: Server;
let address = '';
beforeAll(async () => {
  server = createServer((request, response) => {
    const file = path.join(mnist, path.basename(request.url ?? ''));
    if (existsSync(file)) response.end(readFileSync(file));
    else response.writeHead(404).end();
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(async () => {
  await new Promise((done) => {
    server.close(done);
    server.closeAllConnections();
  });
  rmSync(base, { recursive: true });
});

/** As `run` equips its commands. */
async function data(...args: string[]) {
  const [written, told]: [string[], string[]] = [[], []];
  const streams = {
    out: (text: string | Uint8Array) => void written.push(Buffer.from(text).toString()),
    err: (text: string) => void told.push(text),
  };
  const program = new Command('sisyphus').exitOverride();
  dataCommand(program, streams, new AbortController().signal);
  for (const command of program.commands)
    command
      .option('--json', '')
      .option('-q, --quiet', '')
      .exitOverride()
      .configureOutput({ writeOut: streams.out, writeErr: streams.err });
  const failed: Error | null = await program.parseAsync(['data', ...args], { from: 'user' }).then(
    () => null,
    (error: Error) => error,
  );
  const [out, err] = [written, told].map((lines) => stripVTControlCharacters(lines.join(''))) as [string, string];
  return { out, err, failed };
}

describe('data get', () => {
  it.skipIf(missing)('downloads, and says how to use it', async () => {
    const { out, failed } = await data('get', 'mnist', '--to', base, '--from', address);
    expect(failed).toBe(null);
    expect(out).toContain('t10k-labels-idx1-ubyte.gz: downloaded');
    expect(out).toContain(`use it with --data mnist:${path.join(base, 'mnist')}\n`);
    expect(readdirSync(path.join(base, 'mnist')).length).toBe(4);
    const again = await data('get', 'mnist', '--to', base, '--from', address, '-q');
    expect(again).toEqual({ out: `use it with --data mnist:${path.join(base, 'mnist')}\n`, err: '', failed: null });
  });

  it.skipIf(missing)('--json prints one document, wherever the option stands', async () => {
    for (const args of [
      ['get', 'mnist', '--to', base, '--from', address, '--json'],
      ['--json', 'get', 'mnist', '--to', base, '--from', address],
    ]) {
      const { out, failed } = await data(...args);
      expect(failed).toBe(null);
      expect(JSON.parse(out)).toMatchObject({ name: 'mnist', data: `mnist:${path.join(base, 'mnist')}` });
    }
  });

  it('fails in one line', async () => {
    const { failed, out } = await data('get', 'cifar10', '--to', base, '--from', address);
    expect(failed?.message).toMatch(/cifar-10-binary\.tar\.gz: HTTP 404 \(not found\); name a mirror with --from/);
    expect(out).toBe('');
    expect((await data('get', 'mist', '--to', base)).failed?.message).toMatch(/did you mean 'mnist'/);
    const usage = await data('get', 'mnist');
    expect(usage.failed).toBeInstanceOf(CommanderError);
    expect(usage.err).toContain("required option '--to <dir>' not specified");
  });
});

it('data list shows names and sizes', async () => {
  const { out, failed } = await data('list');
  expect(failed).toBe(null);
  expect(out).toMatch(/tiny-imagenet +248\.1 MB +photographs, 64x64 colour, 200 classes/);
  const { datasets } = JSON.parse((await data('list', '--json')).out);
  expect(datasets.length).toBe(5);
  expect(datasets[0]).toMatchObject({ name: 'mnist', bytes: 11_594_722 });
});
