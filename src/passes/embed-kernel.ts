/**
 * Before: a convolution with an even, rectangular or dilated kernel, uneven pads, or groups that are not depthwise
 * After:  a square, odd kernel 2q+1 with pads q on all sides, the taps in their old places among zeros; one group
 * Conditions: weights are constant; the output has ceil(size / stride) positions on both axes, as "same" padding makes.
 *   Kernels that all compilers take (odd and square with pads (k-1)/2; or valid with stride 1) stay.
 * Algebra: the tap at offset i of a kernel padded by a lies at q - a + i of the larger one
 */
import { intAttr, intAttribute, intsAttribute } from '../graph/attributes.ts';
import { setAttribute } from '../graph/edit.ts';
import type { Model, Node } from '../graph/ir.ts';
import { elementCount, makeTensor } from '../graph/tensor.ts';
import { at, floats, setConstant } from './affine.ts';
import { type NodeOutcome, nodePass } from './node-pass.ts';
import type { Pass } from './pass.ts';
import { type Windows, windowsOf } from './windows.ts';

export const embedKernel = embedding(
  { name: 'embed-kernel', summary: 'Embed convolution kernels in square odd ones with "same" padding', exact: true },
  isPlain,
);

/** For compilers that take even kernels and groups, but read pads or dilations wrong. */
export const embedUnevenKernel = embedding(
  { name: 'embed-uneven-kernel', summary: 'Embed kernels with uneven pads or dilations in larger ones', exact: true },
  ({ pads, dilations }) => pads.every((pad) => pad === pads[0]) && dilations.every((d) => d === 1),
  false,
);

function embedding(
  about: Pick<Pass, 'name' | 'summary' | 'exact'>,
  stays: (windows: Windows) => boolean,
  mergesGroups = true,
): Pass {
  return nodePass(about, ['Conv'], ({ model, types }, conv): NodeOutcome => {
    const windows = windowsOf(model, conv, types());
    if (typeof windows === 'string') return { reason: windows };
    const weights = floats(model, conv.inputs[1]);
    if (typeof weights === 'string') return { reason: `its weight ${weights}` };
    const done: string[] = [];
    const groups = intAttr(conv, 'group') ?? 1;
    const depthwise = groups === windows.input[1] && groups === weights.tensor.dims[0];
    if (mergesGroups && groups > 1 && !depthwise) done.push(merge(model, conv, groups));
    if (!stays(windows)) {
      const reason = embed(model, conv, windows);
      if (reason) return done.length > 0 ? { detail: `${done}; its kernel stays: ${reason}` } : { reason };
      done.push(`kernel ${windows.kernel.join('x')} embedded`);
    }
    return done.length > 0 ? { detail: done.join(', ') } : null;
  });
}

function isPlain({ kernel: [k, l], strides: [s, t], dilations, pads, output }: Windows): boolean {
  if (k !== l || k % 2 === 0 || s !== t || dilations.some((d) => d !== 1)) return false;
  if (pads.every((pad) => pad === (k - 1) / 2)) return true;
  return pads.every((pad) => pad === 0) && s === 1 && output.every((size) => size >= k);
}

/** A dense kernel with zeros between the groups. */
function merge(model: Model, conv: Node, groups: number): string {
  const weights = floats(model, conv.inputs[1]);
  if (typeof weights === 'string') return weights;
  const [rows = 0, columns = 0, ...kernel] = weights.tensor.dims;
  const inner = elementCount(kernel);
  const perGroup = rows / groups;
  const values = new Float64Array(rows * columns * groups * inner);
  for (const [i, value] of weights.values.entries()) {
    const [row, column] = [Math.floor(i / (columns * inner)), Math.floor(i / inner) % columns];
    const channel = Math.floor(row / perGroup) * columns + column;
    values[(row * columns * groups + channel) * inner + (i % inner)] = value;
  }
  const dims = [rows, columns * groups, ...kernel];
  setConstant(model, conv, 1, makeTensor(weights.name, weights.tensor.elem, dims, values));
  setAttribute(conv, intAttribute('group', 1));
  return `${groups} groups merged`;
}

/** @returns why not */
function embed(model: Model, conv: Node, { kernel, strides, dilations, pads, input, output }: Windows): string | null {
  if (strides[0] !== strides[1]) return 'its strides differ';
  if (output.some((size, axis) => size !== Math.ceil((input[axis + 2] as number) / strides[axis as 0 | 1])))
    return 'it makes fewer positions than "same" padding would';
  const reach = kernel.map((k, axis) => (k - 1) * dilations[axis as 0 | 1]);
  const q = Math.max(0, ...reach.map((r, axis) => Math.max(pads[axis] as number, r - (pads[axis] as number))));
  const weights = floats(model, conv.inputs[1]);
  if (typeof weights === 'string') return weights;
  const [rows = 0, columns = 0] = weights.tensor.dims;
  const size = 2 * q + 1;
  const values = new Float64Array(rows * columns * size * size);
  const inner = kernel[0] * kernel[1];
  for (let plane = 0; plane < rows * columns; plane++)
    for (let i = 0; i < inner; i++) {
      const y = q - pads[0] + Math.floor(i / kernel[1]) * dilations[0];
      const x = q - pads[1] + (i % kernel[1]) * dilations[1];
      values[plane * size * size + y * size + x] = at(weights.values, plane * inner + i);
    }
  const dims = [rows, columns, size, size];
  setConstant(model, conv, 1, makeTensor(weights.name, weights.tensor.elem, dims, values));
  setAttribute(conv, intsAttribute('kernel_shape', [size, size]));
  setAttribute(conv, intsAttribute('pads', [q, q, q, q]));
  setAttribute(conv, intsAttribute('dilations', [1, 1]));
  return null;
}
