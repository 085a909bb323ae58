/** What passes did, and what a model is before and after them, for people. */
import type { ModelSummary } from '../inspect.ts';
import type { PassReport } from '../passes/pass.ts';
import type { Replacement } from '../passes/replace-activation.ts';
import { parsePolynomial } from '../poly/polynomial.ts';
import { bold, bytes, groupBy, type Output, shortPolynomial, table, thousands } from './output.ts';
import { piRows } from './pi-cost.ts';

export function tellPass(output: Output, report: PassReport, verbose: boolean): void {
  const { applied, skipped } = report;
  const folded = 'folded' in report && Array.isArray(report.folded) ? report.folded.length : 0;
  output.say(
    `  ${bold(report.pass)}: ${applied.length + folded} done${skipped.length > 0 ? `, ${skipped.length} skipped` : ''}`,
  );
  if (report.pass === 'replace-activation' && applied.length + folded === 0)
    output.say(`    no eligible activation: nothing is replaced${skipped.length > 0 ? '' : ALL_KINDS}`);
  const done = verbose ? applied.map(({ site, detail }) => `${site}: ${detail}`) : summary(applied);
  const left = [...groupBy(skipped, ({ reason }) => reason)].map(([reason, sites]) => {
    const names = sites.map(({ site }) => site);
    const short = verbose || names.length <= 3;
    return `skipped ${short ? names.join(', ') : `${names.slice(0, 2).join(', ')} and ${names.length - 2} more`}: ${reason}`;
  });
  for (const lines of [done, left]) {
    const shown = verbose ? lines : lines.slice(0, SHOWN);
    for (const line of shown) output.say(`    ${line}`);
    if (lines.length > shown.length) output.say(`    … and ${lines.length - shown.length} more lines like these (-v)`);
  }
}

const ALL_KINDS = ' (--activations all would also take sigmoid, tanh, gelu, …)';
const SHOWN = 5; // lines of a pass; -v shows all

/** Sites that got the same polynomial on one line. */
function summary(applied: PassReport['applied']): string[] {
  const groups = groupBy(applied, (change) =>
    'polynomial' in change ? JSON.stringify({ ...change, site: '', calls: 0 }) : change.detail,
  );
  return [...groups.values()].map((group) => {
    const change = group[0] as Replacement;
    if (change.polynomial === undefined) return `${group.length} x ${change.detail}`;
    const error = change.error ? `; ${errorText(change.error)}` : '';
    return `${group.length} x ${change.detail}: ${shortPolynomial(parsePolynomial(change.polynomial))}${error}`;
  });
}

function errorText({ max, exact }: NonNullable<Replacement['error']>): string {
  const text = `off by at most ${max.toPrecision(3)} there`;
  return max <= 1.5 * exact || max < 1e-5
    ? text
    : `${text} (${exact.toPrecision(3)} but for rounding: leave --form away, or take a lower degree)`;
}

/** What differs between the two models; equal rows are left out. */
export function changes(
  before: ModelSummary,
  after: ModelSummary,
  size: { readonly before: number; readonly after: number } | null,
): string {
  const operators = [...new Set([...Object.keys(before.nodes), ...Object.keys(after.nodes)])].sort();
  const rows: [string, string | number, string | number][] = [
    ...operators.map((op): [string, number, number] => [op, before.nodes[op] ?? 0, after.nodes[op] ?? 0]),
    ['opset', before.opsets['ai.onnx'] ?? '', after.opsets['ai.onnx'] ?? ''],
    ['activation sites', before.sites.length, after.sites.length],
    ['parameters', thousands(before.parameters), thousands(after.parameters)],
    ...piRows([before, after]).map(([name = '', a = '', b = '']): [string, string, string] => [name, a, b]),
    ['non-polynomial operators', before.nonPolynomial, after.nonPolynomial],
    ...(size ? [['size', bytes(size.before), bytes(size.after)] as [string, string, string]] : []),
  ];
  const changed = rows.filter(([, a, b]) => a !== b);
  return changed.length === 0 ? '  the model is unchanged' : table(['', 'before', 'after'], changed, true);
}
