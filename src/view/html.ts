/** Reports as one HTML file that loads nothing and runs nothing. */
import { VERSION } from '../version.ts';
import { type Chart, NARROW, renderSvg, WIDE } from './svg.ts';
import { escapeText, numberText } from './text.ts';

export interface Report {
  readonly title: string;
  readonly subtitle?: string;
  readonly sections: readonly Section[];
  /** Shown as it is; without one the same report gives the same file. */
  readonly time?: string;
}

export interface Section {
  readonly heading: string;
  /** Paragraphs. */
  readonly text?: readonly string[];
  readonly verdict?: Verdict;
  readonly table?: ReportTable;
  readonly charts?: readonly Figure[];
  /** Folded until somebody opens it. */
  readonly details?: boolean;
}

export interface Verdict {
  readonly level: 'good' | 'warning' | 'bad';
  readonly text: string;
}

export interface ReportTable {
  readonly head: readonly string[];
  /** The first cell names its row; null: there is no such value. */
  readonly rows: readonly (readonly (string | number | null)[])[];
}

export interface Figure {
  readonly title: string;
  readonly caption?: string;
  readonly spec: Chart;
}

/** The page, from top to bottom. */
export async function htmlReport(report: Report): Promise<string> {
  const sections: string[] = [];
  for (const [i, section] of report.sections.entries()) sections.push(await sectionHtml(section, `s${i + 1}`));
  const subtitle = report.subtitle === undefined ? '' : `\n<p class="subtitle">${escapeText(report.subtitle)}</p>`;
  const time = report.time === undefined ? '' : `, ${escapeText(report.time)}`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${escapeText(report.title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<header>
<h1>${escapeText(report.title)}</h1>${subtitle}
</header>
${sections.join('\n')}
</main>
<footer>sisyphus ${VERSION}${time}</footer>
</body>
</html>
`;
}

async function sectionHtml(section: Section, id: string): Promise<string> {
  const heading = `<h2>${escapeText(section.heading)}</h2>`;
  const figures: string[] = [];
  for (const [i, figure] of (section.charts ?? []).entries()) figures.push(await figureHtml(figure, `${id}-${i + 1}`));
  const body = [
    ...(section.verdict ? [verdictHtml(section.verdict)] : []),
    ...(section.text ?? []).map((paragraph) => `<p>${escapeText(paragraph)}</p>`),
    ...(figures.length > 0 ? [`<div class="figures">\n${figures.join('\n')}\n</div>`] : []),
    ...(section.table ? [tableHtml(section.table, section.heading)] : []),
  ].join('\n');
  return section.details
    ? `<section><details>\n<summary>${heading}</summary>\n${body}\n</details></section>`
    : `<section>\n${heading}\n${body}\n</section>`;
}

/** In words too: colours alone are not seen by everybody. */
const LEVELS = { good: 'Good', warning: 'Warning', bad: 'Bad' };

const verdictHtml = ({ level, text }: Verdict): string =>
  `<p class="verdict ${level}"><strong>${LEVELS[level]}:</strong> ${escapeText(text)}</p>`;

/** Charts that fill the page come in two widths, of which the style sheet shows one. */
async function figureHtml({ title, caption, spec }: Figure, id: string): Promise<string> {
  const drawing = async (width: number, kind: string) =>
    `<div class="${kind}">${await renderSvg(spec, { width, idPrefix: `${id}-${kind}-` })}</div>`;
  const drawings = spec.compact
    ? [await drawing(NARROW, 'compact')]
    : [await drawing(WIDE, 'wide'), await drawing(NARROW, 'narrow')];
  const words = caption === undefined ? '' : `<p>${escapeText(caption)}</p>`;
  return `<figure${spec.compact ? '' : ' class="full"'}>
<figcaption><h3>${escapeText(title)}</h3>${words}</figcaption>
${drawings.join('\n')}
</figure>`;
}

/** A number, as somebody else may have written it: '-1,234.5', '1.2e38', '92.64 %'. */
const NUMERIC = /^[-+]?(?:[\d,]*\.?\d+(?:e[-+]?\d+)?|inf|NaN)(?: ?%)?$/i;

function tableHtml({ head, rows }: ReportTable, label: string): string {
  const isNumber = (cell: string | number | null | undefined) =>
    typeof cell === 'number' || (typeof cell === 'string' && NUMERIC.test(cell));
  const numeric = head.map((_, i) => rows.some((row) => isNumber(row[i])));
  const style = (i: number) => (numeric[i] ? ' class="number"' : '');
  const header = head.map((name, i) => `<th scope="col"${style(i)}>${escapeText(name)}</th>`).join('');
  const lines = rows.map((row) => {
    const cells = row.map((cell, i) =>
      i === 0 ? `<th scope="row"${style(i)}>${cellText(cell)}</th>` : `<td${style(i)}>${cellText(cell)}</td>`,
    );
    return `<tr>${cells.join('')}</tr>`;
  });
  // What scrolls must be reachable with the keyboard.
  return `<div class="scroll" role="region" aria-label="${escapeText(label)}" tabindex="0"><table>
<thead><tr>${header}</tr></thead>
<tbody>
${lines.join('\n')}
</tbody>
</table></div>`;
}

function cellText(cell: string | number | null): string {
  if (cell === null) return '–';
  if (typeof cell === 'string') return escapeText(cell);
  const whole = Number.isSafeInteger(cell) && Math.abs(cell) < 1e12;
  return whole ? String(cell).replace(/\B(?=(\d{3})+$)/g, ',') : numberText(cell);
}

const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

const STYLE = `
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1c1e21; --faint: #5b6169; --line: #dcdfe4;
  --good: #1a7f37; --warning: #8a5a00; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --card: #1f2226; --ink: #e6e8eb; --faint: #a3abb5; --line: #3a3f46;
    --good: #57c27a; --warning: #e3b341; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; -webkit-text-size-adjust: 100%; overflow-wrap: anywhere;
}
main, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding: 32px 0 8px; }
h1 { margin: 0; font-size: 26px; line-height: 1.25; }
h2 { margin: 0 0 8px; font-size: 19px; line-height: 1.3; }
h3 { margin: 0; font-size: 15px; line-height: 1.4; }
p { margin: 0 0 12px; max-width: 75ch; }
.subtitle { margin: 4px 0 0; color: var(--faint); }
section { margin: 20px 0; padding: 20px 24px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
summary { cursor: pointer; }
summary h2 { display: inline; }
details[open] > summary { margin-bottom: 12px; }
.verdict { max-width: none; padding: 8px 12px; border-left: 4px solid; }
.verdict strong { color: inherit; }
.good { border-color: var(--good); } .good strong { color: var(--good); }
.warning { border-color: var(--warning); } .warning strong { color: var(--warning); }
.bad { border-color: var(--bad); } .bad strong { color: var(--bad); }
.figures {
  display: grid; gap: 16px; margin: 12px 0; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr));
}
figure {
  margin: 0; padding: 12px; background: #fff; color: #1c1e21;
  border: 1px solid var(--line); border-radius: 6px; break-inside: avoid;
}
figure.full { grid-column: 1 / -1; }
figcaption p { margin: 2px 0 0; color: #5b6169; font-size: 13px; }
svg { display: block; width: 100%; height: auto; margin: 8px auto 0; }
.wide svg { max-width: ${WIDE * 1.15}px; }
.narrow svg, .compact svg { max-width: ${NARROW * 1.3}px; }
.narrow { display: none; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 13.5px; overflow-wrap: normal; }
th, td { padding: 5px 12px; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-weight: 600; }
tbody th { font-weight: normal; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
footer { padding-bottom: 32px; color: var(--faint); font-size: 13px; }
@media screen and (max-width: 840px) {
  main, footer { padding: 0 12px; }
  section { padding: 14px 12px; }
  figure { padding: 8px 4px; }
  figcaption { padding: 0 6px; }
  .wide { display: none; }
  .narrow { display: block; }
}
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --faint: #444; --line: #bbb; }
  section { border: 0; padding: 0; }
  .scroll { overflow: visible; }
  table { font-size: 10px; }
  th, td { white-space: normal; padding: 3px 6px; }
  tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
`;
