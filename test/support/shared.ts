/** The real third-party material beside the checkout. Tests that need it skip, and say so, where it is absent. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';

export const REPOSITORY = path.resolve(import.meta.dirname, '../..');
export const SHARED = path.resolve(REPOSITORY, '../shared');

/** Why tests on real models are skipped; empty where they run. */
export const sharedMissing = existsSync(path.join(SHARED, 'models/models.tsv')) ? '' : `${SHARED} is not there`;
if (sharedMissing) process.stderr.write(`skipping tests on real models: ${sharedMissing}\n`);

/** All .onnx files under folders of the shared material, as paths relative to it; none where it is absent. */
export function sharedModels(...folders: string[]): string[] {
  return folders.flatMap((folder) => {
    const root = path.join(SHARED, folder);
    if (!existsSync(root)) return [];
    return readdirSync(root, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.onnx') && statSync(path.join(root, file)).isFile())
      .map((file) => path.join(folder, file))
      .sort();
  });
}
