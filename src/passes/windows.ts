/** What the windows of a convolution or a pool are, with everything that a file may leave out. */
import { intAttr, intsAttr, referenced, stringAttr } from '../graph/attributes.ts';
import { constantOf } from '../graph/constants.ts';
import type { Model, Node } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';

/** Of two spatial axes: rows first. */
export interface Windows {
  readonly kernel: readonly [number, number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  /** Top, left, bottom, right, as ONNX has them. */
  readonly pads: readonly [number, number, number, number];
  /** [N, C, H, W]; the batch stands for one. */
  readonly input: readonly [number, number, number, number];
  readonly output: readonly [number, number];
}

/** @returns why they are not known */
export function windowsOf(model: Model, node: Node, types: Types): Windows | string {
  const [x, w] = node.inputs;
  const [y] = node.outputs;
  if (!x || !y || referenced(node).length > 0) return 'its attributes are given by a caller';
  const weights = constantOf(model, w)?.dims ?? (w ? types.get(w).shape : null);
  const input = types.get(x).shape?.slice(1);
  const output = types.get(y).shape?.slice(2);
  const kernel = intsAttr(node, 'kernel_shape') ?? weights?.slice(2);
  if (!numbers(input, 3) || !numbers(output, 2) || !numbers(kernel, 2))
    return 'its shapes are not known in two dimensions';
  const strides = intsAttr(node, 'strides') ?? [1, 1];
  const dilations = intsAttr(node, 'dilations') ?? [1, 1];
  const auto = stringAttr(node, 'auto_pad') || 'NOTSET';
  const given = intsAttr(node, 'pads') ?? [0, 0, 0, 0];
  const pads = auto === 'NOTSET' ? given : auto === 'VALID' ? [0, 0, 0, 0] : same();
  if (!numbers(strides, 2) || !numbers(dilations, 2) || !numbers(pads, 4))
    return 'its attributes are of another length';
  return {
    kernel: kernel as [number, number],
    strides: strides as [number, number],
    dilations: dilations as [number, number],
    pads: pads as [number, number, number, number],
    input: [1, ...(input as [number, number, number])],
    output: output as [number, number],
  };

  function same(): number[] {
    const totals = [0, 1].map((axis) => {
      const [size, out] = [input?.[axis + 1] as number, output?.[axis] as number];
      const reach = ((kernel?.[axis] as number) - 1) * (dilations[axis] ?? 1) + 1;
      return Math.max(0, (out - 1) * (strides[axis] ?? 1) + reach - size);
    });
    const [first, second] = [totals.map((total) => Math.floor(total / 2)), totals.map((total) => Math.ceil(total / 2))];
    return auto === 'SAME_UPPER' ? [...first, ...second] : [...second, ...first];
  }
}

const numbers = (list: readonly unknown[] | null | undefined, length: number): boolean =>
  list?.length === length && list.every((item) => typeof item === 'number');

/** Whether the windows are all of the input. */
export const isGlobal = ({ kernel, pads, input, output }: Windows): boolean =>
  output.every((size) => size === 1) && pads.every((pad) => pad === 0) && kernel.every((k, i) => k === input[i + 2]);

/** Whether zeros around the input count in an average. */
export const countsPadding = (node: Node): boolean => (intAttr(node, 'count_include_pad') ?? 0) !== 0;
