/** What several kernels record: nodes that are left out where they would change nothing. */
import type { NamedTensorInfoMap, TensorInfo } from '@tensorflow/tfjs-core';
import { SisyphusError } from '../../../errors.ts';
import type { Recorder } from '../kernel.ts';
import { constant, int64s, type LazyElement, type LazyTensor, node } from '../lazy.ts';
import { sameDims } from '../shapes.ts';

/** Element types of tfjs, and their numbers in ONNX. */
const ELEMENTS: Readonly<Record<string, LazyElement>> = { float32: 'float', int32: 'int32', bool: 'bool' };
const NUMBERS: Readonly<Record<LazyElement, number>> = { float: 1, int32: 6, int64: 7, bool: 9 };

/** @throws SisyphusError `unsupported` for text and complex numbers */
export function elementOf(dtype: unknown): LazyElement {
  const elem = ELEMENTS[String(dtype)];
  if (!elem) throw new SisyphusError('unsupported', `tensors of ${dtype} can't be trained with`);
  return elem;
}

/** The inputs of a kernel that takes a list, which is never empty. */
export const listed = (recorder: Recorder, inputs: NamedTensorInfoMap): [LazyTensor, ...LazyTensor[]] =>
  Object.values(inputs).map((input) => recorder.lazy(input as TensorInfo)) as [LazyTensor, ...LazyTensor[]];

/** Recorded with the type of its first input. */
export const like = (
  op: string,
  inputs: readonly [LazyTensor, ...(LazyTensor | null)[]],
  attributes: Parameters<typeof node>[3] = {},
): LazyTensor => node(op, inputs, inputs[0], attributes);

export const cast = (x: LazyTensor, elem: LazyElement): LazyTensor =>
  x.elem === elem ? x : node('Cast', [x], { elem, dims: x.dims }, { to: NUMBERS[elem] });

export const toFloat = (x: LazyTensor): LazyTensor => cast(x, 'float');

/** Few operators of onnxruntime take booleans. */
export const numeric = (x: LazyTensor): LazyTensor => (x.elem === 'bool' ? cast(x, 'int32') : x);

export const reshape = (x: LazyTensor, dims: readonly number[]): LazyTensor =>
  sameDims(x.dims, dims) ? x : node('Reshape', [x, int64s(dims)], { elem: x.elem, dims }, { allowzero: 1 });

/** Repeated along dimensions of 1, or along new ones in front. */
export const expand = (x: LazyTensor, dims: readonly number[]): LazyTensor =>
  sameDims(x.dims, dims) ? x : node('Expand', [x, int64s(dims)], { elem: x.elem, dims });

/** A number of the structure, of any element type of tfjs. */
export const scalar = (value: number, elem: LazyElement): LazyTensor =>
  elem === 'float' || elem === 'int32' ? constant(value, elem) : cast(constant(value, 'int32'), elem);

/** The same number everywhere. */
export const filled = (value: number, elem: LazyElement, dims: readonly number[]): LazyTensor =>
  expand(scalar(value, elem), dims);

/** A tensor before it was expanded: operators that broadcast take it as it was, and touch less memory. */
export const unexpanded = (x: LazyTensor): LazyTensor =>
  x.node?.op === 'Expand' ? ((x.node.inputs[0] as LazyTensor | null) ?? x) : x;
