/** Integer constants as numbers, whatever their size. */
import { elementCount, rawBytes, type Tensor, toNumbers } from '../graph/tensor.ts';

/**
 * The elements; those of int64 beyond 2^53 become the nearest number of that size, since they only say "to the end" of
 * some axis.
 */
export function wholeNumbers(tensor: Tensor): number[] {
  if (tensor.elem !== 'int64') return [...toNumbers(tensor)];
  const bytes = rawBytes(tensor);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: elementCount(tensor.dims) }, (_, i) =>
    clampInteger(Number(view.getBigInt64(8 * i, true))),
  );
}

export const clampInteger = (value: number): number =>
  Math.max(Number.MIN_SAFE_INTEGER, Math.min(Number.MAX_SAFE_INTEGER, value));
