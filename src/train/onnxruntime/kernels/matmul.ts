/** Products of matrices. */
import { type Kernels, kernel } from '../kernel.ts';
import { type LazyTensor, MICROSOFT, node } from '../lazy.ts';
import { broadcast } from '../shapes.ts';
import { transpose } from './movement.ts';

/** The last two axes exchanged. */
function transposed(x: LazyTensor): LazyTensor {
  const perm = x.dims.map((_, i) => i);
  return transpose(x, [...perm.slice(0, -2), ...perm.slice(-2).reverse()]);
}

function multiply(a: LazyTensor, b: LazyTensor, transposeA: boolean, transposeB: boolean): LazyTensor {
  const rows = a.dims.at(transposeA ? -1 : -2) as number;
  const columns = b.dims.at(transposeB ? -2 : -1) as number;
  const dims = [...broadcast(a.dims.slice(0, -2), b.dims.slice(0, -2)), rows, columns];
  const type = { elem: a.elem, dims };
  if (!transposeA && !transposeB) return node('MatMul', [a, b], type);
  if (a.elem !== 'float') return node('MatMul', [transposeA ? transposed(a) : a, transposeB ? transposed(b) : b], type);
  const attributes = { transA: transposeA ? 1 : 0, transB: transposeB ? 1 : 0 };
  return node('FusedMatMul', [a, b], type, attributes, MICROSOFT);
}

export const MATMUL_KERNELS: Kernels = {
  BatchMatMul: kernel(['a', 'b'], ([a, b], { transposeA, transposeB }) =>
    multiply(a, b, Boolean(transposeA), Boolean(transposeB)),
  ),
};
