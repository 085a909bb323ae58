/** `--report FILE`: refused before the work where it can't be written, written after it. */
import { refuseTarget, writeFileSafely } from '../files.ts';
import type { Output } from './output.ts';

type Pages = typeof import('../view/pages.ts');

export interface ReportTarget {
  write(make: (pages: Pages) => Promise<string>, output: Output): Promise<void>;
}

/** @returns null without the option. @throws SisyphusError `file` */
export async function reportTarget(flags: { report?: string; force?: boolean }): Promise<ReportTarget | null> {
  const { report: file, force = false } = flags;
  if (file === undefined) return null;
  await refuseTarget(file, force);
  return {
    async write(make, output) {
      await writeFileSafely(file, await make(await import('../view/pages.ts')), { force });
      output.result(`wrote ${file}`);
    },
  };
}
