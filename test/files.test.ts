import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { refuseTarget, writeFileSafely } from '../src/files.ts';

let folder: string;
const at = (name: string) => path.join(folder, name);
const refusal = (message: RegExp) =>
  expect.objectContaining({ name: 'SisyphusError', code: 'file', message: expect.stringMatching(message) });

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-files-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('writeFileSafely', () => {
  it('writes text as UTF-8 and bytes as they are, says how many, and leaves nothing else', async () => {
    expect(await writeFileSafely(at('text'), 'größer ≥ 9\n')).toBe(15);
    expect(await writeFileSafely(at('bytes'), new Uint8Array([0, 255, 10]))).toBe(3);
    expect(await writeFileSafely(at('empty'), '')).toBe(0);
    expect(readFileSync(at('text'), 'utf8')).toBe('größer ≥ 9\n');
    expect([...readFileSync(at('bytes'))]).toEqual([0, 255, 10]);
    expect(readdirSync(folder).sort()).toEqual(['bytes', 'empty', 'text']);
  });

  it('replaces a file only with force', async () => {
    writeFileSync(at('report'), 'old');
    await expect(writeFileSafely(at('report'), 'new')).rejects.toEqual(refusal(/report: exists already; give --force/));
    expect(readFileSync(at('report'), 'utf8')).toBe('old');
    await writeFileSafely(at('report'), 'new', { force: true });
    expect(readFileSync(at('report'), 'utf8')).toBe('new');
    expect(readdirSync(folder)).toEqual(['report']);
  });

  it('writes through a link, which stays one', async () => {
    writeFileSync(at('real'), 'old');
    symlinkSync(at('real'), at('link'));
    await expect(writeFileSafely(at('link'), 'new')).rejects.toEqual(refusal(/exists already/));
    await writeFileSafely(at('link'), 'new', { force: true });
    expect(lstatSync(at('link')).isSymbolicLink()).toBe(true);
    expect(readFileSync(at('real'), 'utf8')).toBe('new');
  });

  it('does not take a dangling link for a free name', async () => {
    symlinkSync(at('nowhere'), at('link'));
    await expect(writeFileSafely(at('link'), 'new')).rejects.toEqual(refusal(/exists already/));
    expect(existsSync(at('nowhere'))).toBe(false);
  });

  // Root may write anywhere, so a full folder is shown by a name that is too long for the temporary file.
  it('keeps the old file, and no half-written one, when writing fails', async () => {
    const name = 'n'.repeat(250);
    writeFileSync(at(name), 'old');
    await expect(writeFileSafely(at(name), 'new', { force: true })).rejects.toEqual(
      refusal(/ENAMETOOLONG|name too long/),
    );
    expect(readFileSync(at(name), 'utf8')).toBe('old');
    expect(readdirSync(folder)).toEqual([name]);
  });

  it.skipIf(process.getuid?.() === 0)('says that permission is denied', async () => {
    mkdirSync(at('locked'));
    chmodSync(at('locked'), 0o500);
    await expect(writeFileSafely(at('locked/x'), 'new')).rejects.toEqual(refusal(/permission denied/));
  });
});

describe('refuseTarget', () => {
  it.each([true, false])('folders, special files and missing folders (force: %s)', async (force) => {
    symlinkSync(folder, at('link'));
    await expect(refuseTarget(folder, force)).rejects.toEqual(refusal(/is a folder; give the name of a file/));
    await expect(refuseTarget(at('link'), force)).rejects.toEqual(refusal(/is a folder/));
    await expect(refuseTarget('/dev/null', force)).rejects.toEqual(refusal(/is no regular file/));
    await expect(refuseTarget(at('no/x'), force)).rejects.toEqual(
      refusal(/there is no folder '.*no'; create it first/),
    );
    await expect(refuseTarget('', force)).rejects.toMatchObject({ code: 'usage' });
    writeFileSync(at('file'), '');
    await expect(refuseTarget(at('file/x'), force)).rejects.toEqual(refusal(/there is no folder/));
  });

  it('accepts a free name', async () => {
    await expect(refuseTarget(at('free'), false)).resolves.toBeUndefined();
  });
});
