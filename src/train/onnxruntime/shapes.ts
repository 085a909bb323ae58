/** Shapes of results, which tfjs wants to know before anything is computed. */

type Dims = readonly number[];

export const sameDims = (a: Dims, b: Dims): boolean => a.length === b.length && a.every((dim, i) => dim === b[i]);

/** Of two operands by the rules that ONNX shares with NumPy; tfjs has checked that they fit. */
export function broadcast(a: Dims, b: Dims): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const [p = 1, q = 1] = [a[i - rank + a.length], b[i - rank + b.length]];
    return p === 1 ? q : p;
  });
}

/** What is left when some axes are reduced. @param keep as dimensions of 1 */
export const reduced = (dims: Dims, axes: Dims, keep: boolean): number[] =>
  keep ? dims.map((dim, i) => (axes.includes(i) ? 1 : dim)) : dims.filter((_, i) => !axes.includes(i));

/** With another size along one axis. */
export const withDim = (dims: Dims, axis: number, size: number): number[] =>
  dims.map((dim, i) => (i === axis ? size : dim));

/** With one more dimension of 1. @param axis negative: counted from the end of the result */
export function unsqueezed(dims: Dims, axis: number): number[] {
  const at = axis < 0 ? dims.length + 1 + axis : axis;
  return [...dims.slice(0, at), 1, ...dims.slice(at)];
}

/** How many steps a range with these ends has. */
export const rangeLength = (start: number, stop: number, step: number): number =>
  Math.max(0, Math.ceil((stop - start) / step));
