/** The commands of docs/hand-over.md, as they stand there. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { sisyphus } from '../support/cli.ts';
import { REPOSITORY } from '../support/shared.ts';

const page = readFileSync(path.join(REPOSITORY, 'docs', 'hand-over.md'), 'utf8');
const commands = [...page.matchAll(/^```sh\n(.*?)^```/gms)]
  .flatMap(([, block = '']) => block.split('\n'))
  .filter((line) => line.trim() !== '');

const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-hand-over-'));
const before = process.cwd();
beforeAll(() => process.chdir(folder));
afterAll(() => {
  process.chdir(before);
  rmSync(folder, { recursive: true, force: true });
});

test('the page has commands, and all of them are of this package', () => {
  expect(commands.length).toBeGreaterThanOrEqual(10);
  expect(commands.filter((line) => !line.startsWith('npx sisyphus '))).toEqual([]);
});

test.each(commands)('%s', { timeout: 120_000 }, async (line) => {
  const [command = '', comment = ''] = line.split('#').map((part) => part.trim());
  const { code, err } = await sisyphus(command.split(/\s+/).slice(2));
  expect(code, err).toBe(Number(/exits with (\d+)/.exec(comment)?.[1] ?? 0));
});
