/** The real data sets beside the checkout, unpacked once for all test processes. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { REPOSITORY, SHARED } from './shared.ts';

export type SharedSet = 'mnist' | 'cifar10' | 'cifar100';

const PACKED = path.join(SHARED, 'data');
const SCRIPT = path.join(PACKED, 'unpack.mjs');
const MANIFEST = path.join(PACKED, 'manifest.json');

/** Why tests on real data are skipped; empty where they run. */
export const sharedDataMissing = [SCRIPT, MANIFEST].every(existsSync) ? '' : `${PACKED} is not there`;
if (sharedDataMissing) process.stderr.write(`skipping tests on real data: ${sharedDataMissing}\n`);

/** The folder that holds mnist/, cifar10/ and cifar100/ in their published formats, as far as they were asked for. */
export function sharedData(...sets: SharedSet[]): string {
  // Another version of the packed data gets another folder.
  const version = createHash('sha256').update(readFileSync(SCRIPT)).update(readFileSync(MANIFEST)).digest('hex');
  const folder = path.join(tmpdir(), `sisyphus-data-${userInfo().username}-${version.slice(0, 12)}`);
  for (const set of sets) if (!isComplete(folder, set)) unpack(folder, set);
  return folder;
}

/** Also false where something that tidies up the temporary folder took some of the files. */
function isComplete(folder: string, set: SharedSet): boolean {
  return [...expectedFiles(set)].every(([name, size]) => {
    const found = statSync(path.join(folder, set, name), { throwIfNoEntry: false });
    return found && (size === null || found.size === size);
  });
}

/** With their sizes where the manifest gives them. */
function expectedFiles(set: SharedSet): Map<string, number | null> {
  const manifest: Record<string, { records: number; labelBytes: number }> = JSON.parse(readFileSync(MANIFEST, 'utf8'));
  const copied = readdirSync(path.join(PACKED, set)).filter((name) => /\.(gz|txt)$/.test(name));
  const files = new Map<string, number | null>(copied.map((name) => [name, null]));
  for (const [name, { records, labelBytes }] of Object.entries(manifest))
    if (path.dirname(name) === set) files.set(path.basename(name), records * (labelBytes + 3 * 32 * 32));
  return files;
}

/** Into a folder of this process, which is then moved into place; others that want the same wait for it. */
function unpack(folder: string, set: SharedSet): void {
  mkdirSync(folder, { recursive: true });
  const lock = path.join(folder, `.${set}.lock`);
  const locked = takeLock(lock);
  if (!locked) {
    while (!isComplete(folder, set) && holderLives(lock))
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    if (isComplete(folder, set)) return;
  }
  // The lock only saves work: whoever finds an old one goes on without it.
  const own = mkdtempSync(path.join(folder, '.unpacking-'));
  try {
    execFileSync(process.execPath, [SCRIPT, own, set], { cwd: REPOSITORY, stdio: ['ignore', 'ignore', 'inherit'] });
    if (isComplete(folder, set)) return; // another process was faster
    const target = path.join(folder, set);
    if (existsSync(target)) renameSync(target, path.join(own, 'incomplete'));
    renameSync(path.join(own, set), target);
  } catch (error) {
    if (!isComplete(folder, set)) throw error;
  } finally {
    rmSync(own, { recursive: true, force: true });
    rmSync(lock, { force: true });
  }
}

function takeLock(lock: string): boolean {
  try {
    writeFileSync(lock, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function holderLives(lock: string): boolean {
  try {
    const pid = Number(readFileSync(lock, 'utf8'));
    if (pid > 0) process.kill(pid, 0); // no signal: only asks; nothing is written yet where there is no number
    return true;
  } catch {
    return false;
  }
}
