/** What the CLI says, and where: results on stdout, or one JSON document there and everything for people on stderr. */
import { styleText } from 'node:util';
import Table from 'cli-table3';
import { formatPolynomial, type Polynomial } from '../poly/polynomial.ts';

export interface CommonOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly verbose?: boolean;
}

/** Standard output and standard error. */
export interface Streams {
  out(text: string | Uint8Array): void;
  err(text: string): void;
  /** Somebody watches standard error: progress may be a bar. */
  readonly errIsTty?: boolean;
}

export interface Output {
  /** A line for people; left out with -q. */
  say(line?: string): void;
  /** A line that even -q leaves in. */
  result(line: string): void;
  /** Ends the command: prints the document with --json. */
  finish(document: unknown): void;
}

/** @param binary stdout carries a model, so nothing else may go there */
export function makeOutput(streams: Streams, options: CommonOptions, binary = false): Output {
  const toPeople = options.json || binary ? streams.err : streams.out;
  return {
    say: (line = '') => void (options.quiet || toPeople(`${line}\n`)),
    result: (line) => toPeople(`${line}\n`),
    finish: (document) => void (options.json && streams.out(`${JSON.stringify(document, null, 2)}\n`)),
  };
}

export const dim = (text: string) => styleText('dim', text, { stream: process.stdout });
export const bold = (text: string) => styleText('bold', text, { stream: process.stdout });
export const warning = (text: string) => styleText('yellow', text, { stream: process.stderr });
export const failure = (text: string) => styleText('red', text, { stream: process.stderr });

/** A line that proposes a command, as the user would type it. */
export const nextStep = (...words: readonly string[]): string =>
  dim(`next: ${process.env.npm_command === 'exec' ? 'npx sisyphus' : 'sisyphus'} ${words.map(quoted).join(' ')}`);
const quoted = (word: string) => (/^[\w./@%+=:-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** Rows as aligned columns: the first to the left, numbers to the right. */
export function table(
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
  numeric: boolean,
): string {
  const bare = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '' };
  const borders = { 'bottom-left': '', 'bottom-right': '', left: '', 'left-mid': '', mid: '', 'mid-mid': '' };
  const made = new Table({
    head: [...head],
    chars: { ...bare, ...borders, right: '', 'right-mid': '', middle: '  ' },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
    colAligns: head.map((_, i) => (i > 0 && numeric ? 'right' : 'left')),
  });
  made.push(...rows.map((row) => [...row]));
  return made
    .toString()
    .split('\n')
    .map((line) => `  ${line.trimEnd()}`)
    .join('\n');
}

const UNITS = ['B', 'kB', 'MB', 'GB'];
/** 1234567 -> '1.2 MB' (powers of 1000). */
export function bytes(count: number): string {
  const power = Math.min(UNITS.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(count, 1)) / 3)));
  const scaled = count / 1000 ** power;
  return `${power === 0 ? scaled : scaled.toFixed(1)} ${UNITS[power]}`;
}

/** 1234567 -> '1,234,567'; toLocaleString would load 30 ms of locale data. */
export const thousands = (count: number): string => String(count).replace(/\B(?=(\d{3})+$)/g, ',');

/** 0.123, 12.3, 1.23e+5: three digits. */
export function shortNumber(x: number | null): string {
  if (x === null) return '-';
  if (x === 0 || !Number.isFinite(x)) return String(x);
  const size = Math.abs(x);
  return size >= 1e4 || size < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(3)));
}

/** A polynomial with four digits; long ones by their degrees. */
export function shortPolynomial({ stages, gated }: Polynomial): string {
  const degrees = stages.map(({ coefficients }) => coefficients.length - 1);
  if (stages.length > 1) return `${gated ? 'x times a ' : ''}composite of degrees ${degrees.join(', ')}`;
  if (degrees.some((degree) => degree > 12)) return `${stages[0]?.basis} series of degree ${degrees[0]}`;
  return formatPolynomial({ stages, gated }, 4);
}

/** Elements by key, in order of first appearance. */
export function groupBy<T>(list: readonly T[], key: (element: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const element of list) {
    const group = groups.get(key(element));
    if (group) group.push(element);
    else groups.set(key(element), [element]);
  }
  return groups;
}
