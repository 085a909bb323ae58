/** Numbers and names as charts and pages show them. */

/** To some significant digits: '0.25', '1200', '3.4e38', 'inf', 'NaN'. */
export function numberText(x: number, digits = 4): string {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? 'NaN' : x > 0 ? 'inf' : '-inf';
  const rounded = Number(x.toPrecision(digits));
  const size = Math.abs(rounded);
  const plain = size === 0 || (size >= 1e-3 && size < 1e6);
  return plain ? String(rounded) : rounded.toExponential().replace('e+', 'e');
}

/** Leaves out the middle of what is too long: names of sites differ at their ends. */
export function shorten(text: string, length: number): string {
  const letters = [...text];
  if (letters.length <= length) return text;
  const head = Math.floor((length - 1) / 3);
  return `${letters.slice(0, head).join('')}…${letters.slice(letters.length - (length - 1 - head)).join('')}`;
}

/** Replaces what no page or SVG file may hold: control characters, halves of surrogate pairs. */
export const printable = (text: string): string =>
  text.replace(/[\p{Cc}\p{Cs}\uFFFE\uFFFF]/gu, (c) => ('\t\n\r'.includes(c) ? c : '\uFFFD'));

/** For text and for attributes in double quotes. */
export const escapeText = (text: string): string =>
  printable(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
