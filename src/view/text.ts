/** Numbers and names as charts and pages show them. */

/** To some significant digits: '0.25', '1200', '3.4e38', 'inf', 'NaN'. */
export function numberText(x: number, digits = 4): string {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? 'NaN' : x > 0 ? 'inf' : '-inf';
  const rounded = Number(x.toPrecision(digits));
  const size = Math.abs(rounded);
  const plain = size === 0 || (size >= 1e-3 && size < 1e6);
  return plain ? String(rounded) : rounded.toExponential().replace('e+', 'e');
}

/** Leaves out the beginning of what is too long: names differ at their ends. */
export function shorten(text: string, length: number): string {
  const letters = [...text];
  return letters.length <= length ? text : `…${letters.slice(letters.length - length + 1).join('')}`;
}

/** Labels of sites: their names without the parts at the end that all have ('/Relu'), shortened. */
export function siteLabels(sites: readonly string[], length: number): string[] {
  const paths = sites.map((site) => site.split('/').filter(Boolean));
  const [first = []] = paths;
  let common = 0;
  while (
    paths.length > 1 &&
    paths.every((parts) => parts.length > common + 1 && parts.at(-1 - common) === first.at(-1 - common))
  )
    common++;
  return paths.map((parts, i) => shorten(parts.slice(0, parts.length - common).join('/') || (sites[i] ?? ''), length));
}

/** About how wide a text is drawn, in pixels: rather too much than too little. */
export function textWidth(text: string, size: number): number {
  const ems = [...text].map((c) => (/[a-zA-Z0-9]/.test(c) ? (/[A-Zmw]/.test(c) ? 0.8 : 0.63) : c < '\x7f' ? 0.5 : 1));
  return size * ems.reduce((sum, width) => sum + width, 0);
}

/** Replaces what no page or SVG file may hold: control characters, halves of surrogate pairs. */
export const printable = (text: string): string =>
  text.replace(/[\p{Cc}\p{Cs}\uFFFE\uFFFF]/gu, (c) => ('\t\n\r'.includes(c) ? c : '\uFFFD'));

/** For text and for attributes in double quotes. */
export const escapeText = (text: string): string =>
  printable(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
