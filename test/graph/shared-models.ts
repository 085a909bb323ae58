/** What is known of the real models beside the repository. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { SHARED, sharedMissing } from '../support/shared.ts';

/** A row of `models.tsv`. */
export interface SharedModel {
  readonly name: string;
  readonly file: string;
  readonly parameters: number;
  /** How often each operator occurs. */
  readonly nodes: Record<string, number>;
}

/** All rows; none where the folder is absent. */
export function sharedTable(): SharedModel[] {
  if (sharedMissing) return [];
  const table = path.join(SHARED, 'models/models.tsv');
  const [head = '', ...rows] = readFileSync(table, 'utf8').trimEnd().split(/\r?\n/);
  const columns = head.split('\t');
  return rows.map((row) => {
    const cells = row.split('\t');
    const cell = (name: string) => cells[columns.indexOf(name)] ?? '';
    const nodes = cell('ops')
      .split(' ')
      .map((entry) => entry.match(/^(.*):(\d+)$/)?.slice(1) ?? ['', '0'])
      .map(([op = '', count]) => [op, Number(count)]);
    return {
      name: cell('name'),
      file: path.join(SHARED, 'models', cell('file')),
      parameters: Number(cell('params')),
      nodes: Object.fromEntries(nodes),
    };
  });
}

/** Odd files that onnxruntime can run and that state the rank of their inputs. */
export function oddFiles(): string[] {
  if (sharedMissing) return [];
  const rows = readFileSync(path.join(SHARED, 'odd/index.tsv'), 'utf8').trimEnd().split(/\r?\n/).slice(1);
  return rows
    .map((row) => row.split('\t'))
    .filter((cells) => cells.at(-1) === 'yes' && !cells.includes('FLOAT:?'))
    .map(([file = '']) => file);
}
