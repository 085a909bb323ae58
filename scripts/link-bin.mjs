// Puts `sisyphus` into this checkout's own node_modules/.bin, so that `npx sisyphus` runs what was just built. npx can
// find a package's own executable without this, but through a cache that breaks on paths with spaces.
import { chmodSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const bin = path.join(root, 'node_modules', '.bin');
const main = path.join(root, 'dist', 'src', 'cli', 'main.js');
mkdirSync(bin, { recursive: true });
chmodSync(main, 0o755);
if (process.platform === 'win32') writeFileSync(path.join(bin, 'sisyphus.cmd'), `@node "${main}" %*\r\n`);
else {
  rmSync(path.join(bin, 'sisyphus'), { force: true });
  symlinkSync(path.relative(bin, main), path.join(bin, 'sisyphus'));
}
