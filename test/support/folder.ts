/** Folders for test files that write some. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';

/**
 * A folder that goes when the test file is done; its name holds a space, an é and a colon. `fresh` makes a new empty one
 * in it at each call.
 */
export function testFolder(name: string): { base: string; fresh: () => string } {
  const base = mkdtempSync(path.join(tmpdir(), `sisyphus ${name} é: `));
  afterAll(() => rmSync(base, { recursive: true }));
  let count = 0;
  const fresh = () => {
    const folder = path.join(base, `${count++}`);
    mkdirSync(folder);
    return folder;
  };
  return { base, fresh };
}
