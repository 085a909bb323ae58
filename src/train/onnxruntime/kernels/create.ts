/** Kernels that make tensors from numbers. */
import { type Kernel, type Kernels, kernel } from '../kernel.ts';
import { known, type LazyElement, type LazyTensor } from '../lazy.ts';
import { rangeLength } from '../shapes.ts';
import { cast, elementOf, filled, numeric, reshape, scalar } from './common.ts';
import { bools, select } from './elementwise.ts';

const fill: Kernel = (recorder, _, attributes) => {
  const { shape, value, dtype } = attributes as { shape: number[]; value: number; dtype: string };
  return recorder.give(filled(Number(value), elementOf(dtype), shape));
};

/** at(0), at(1), … */
function sequence(elem: LazyElement, length: number, at: (i: number) => number): LazyTensor {
  const values = new (elem === 'float' ? Float32Array : Int32Array)(length);
  for (let i = 0; i < length; i++) values[i] = at(i);
  return known(elem, [length], values);
}

const range: Kernel = (recorder, _, attributes) => {
  const { start, stop, step, dtype } = attributes as { start: number; stop: number; step: number; dtype: string };
  const stride = stop < start && step === 1 ? -1 : step; // tfjs lets a range without a step run downwards
  return recorder.give(sequence(elementOf(dtype), rangeLength(start, stop, stride), (i) => start + i * stride));
};

const linSpace: Kernel = (recorder, _, attributes) => {
  const { start, stop, num } = attributes as { start: number; stop: number; num: number };
  const step = num === 1 ? 0 : (stop - start) / (num - 1);
  return recorder.give(sequence('float', num, (i) => start + i * step));
};

/** Compares with 0, 1, …: indices out of range then have nothing set, as tfjs wants and ONNX's OneHot does not. */
const oneHot: Kernel = kernel(['indices'], ([indices], attributes) => {
  const { depth, onValue, offValue, dtype } = attributes as {
    depth: number;
    onValue: number;
    offValue: number;
    dtype: string;
  };
  const elem = elementOf(dtype);
  const classes = { ...sequence('int32', depth, (i) => i), structural: true };
  const column = reshape(cast(numeric(indices), 'int32'), [...indices.dims, 1]);
  const hot = bools('Equal', [column, classes], [...indices.dims, depth]);
  return onValue === 1 && offValue === 0 ? cast(hot, elem) : select(hot, scalar(onValue, elem), scalar(offValue, elem));
});

export const CREATE_KERNELS: Kernels = {
  Fill: fill,
  ZerosLike: kernel(['x'], ([x]) => filled(0, x.elem, x.dims)),
  OnesLike: kernel(['x'], ([x]) => filled(1, x.elem, x.dims)),
  Range: range,
  LinSpace: linSpace,
  OneHot: oneHot,
};
