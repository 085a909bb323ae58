/** Type rules of the operators that work on spatial axes: convolution, pooling, padding and resizing. */
import { floatsAttr, intAttr, intsAttr, stringAttr } from './attributes.ts';
import type { Dim } from './ir.ts';
import {
  addDim,
  allNumbers,
  axisOf,
  type Call,
  type Fact,
  fact,
  input,
  integers,
  type Rule,
  type Shape,
  scaleDim,
  unknownShape,
  withDim,
} from './shape-facts.ts';

/** What one axis of a window is made of. */
interface Window {
  readonly kernel: Dim;
  readonly stride: number;
  readonly dilation: number;
  readonly begin: number;
  readonly end: number;
}

function windows(call: Call, kernel: Shape): Window[] {
  const rank = kernel.length;
  const strides = intsAttr(call.node, 'strides') ?? [];
  const dilations = intsAttr(call.node, 'dilations') ?? [];
  const pads = padding(call) === 'NOTSET' ? (intsAttr(call.node, 'pads') ?? []) : [];
  return kernel.map((size, i) => ({
    kernel: size,
    stride: strides[i] ?? 1,
    dilation: dilations[i] ?? 1,
    begin: pads[i] ?? 0,
    end: pads[i + rank] ?? 0,
  }));
}

const padding = (call: Call): string => stringAttr(call.node, 'auto_pad') || 'NOTSET';
const isSame = (call: Call): boolean => padding(call).startsWith('SAME');

/** How many windows fit. A symbolic size survives a window that keeps every size. */
function slide(dim: Dim, window: Window, same: boolean, ceil: boolean): Dim {
  const { kernel, stride, dilation, begin, end } = window;
  if (same) return typeof dim === 'number' ? Math.ceil(dim / stride) : stride === 1 ? dim : null;
  if (typeof kernel !== 'number') return null;
  const grown = begin + end - (kernel - 1) * dilation - 1;
  if (typeof dim !== 'number') return stride === 1 && grown === -1 ? dim : null;
  const steps = (dim + grown) / stride;
  const count = (ceil ? Math.ceil(steps) : Math.floor(steps)) + 1;
  // Rounding up must not add a window that lies in the padding only.
  return ceil && (count - 1) * stride >= dim + begin ? count - 1 : count;
}

/** [N, M, ...windows] of data [N, C, ...] under weights [M, C/group, ...kernel]. */
function convShape(call: Call, x: Shape | null, w: Shape | null): Shape | null {
  const kernel = intsAttr(call.node, 'kernel_shape') ?? w?.slice(2) ?? (x && unknownShape(x.length - 2));
  if (!kernel) return null;
  const spatial = windows(call, kernel).map((window, i) => slide(x?.[i + 2] ?? null, window, isSame(call), false));
  return [x?.[0] ?? null, w?.[0] ?? null, ...spatial];
}

const convTranspose: Rule = (call) => {
  const [x, w] = [input(call, 0), input(call, 1).shape];
  const kernel = intsAttr(call.node, 'kernel_shape') ?? w?.slice(2) ?? (x.shape && unknownShape(x.shape.length - 2));
  if (!kernel) return [fact(x.elem, null)];
  const extra = intsAttr(call.node, 'output_padding') ?? [];
  const stated = intsAttr(call.node, 'output_shape')?.slice(-kernel.length);
  const spatial = windows(call, kernel).map(({ kernel: size, stride, dilation, begin, end }, i): Dim => {
    if (stated) return stated[i] ?? null;
    const dim = x.shape?.[i + 2] ?? null;
    if (isSame(call)) return scaleDim(dim, stride);
    if (typeof size !== 'number') return null;
    const grown = (size - 1) * dilation + 1 - stride + (extra[i] ?? 0) - begin - end;
    return addDim(scaleDim(dim, stride), grown);
  });
  return [fact(x.elem, [x.shape?.[0] ?? null, scaleDim(w?.[1] ?? null, intAttr(call.node, 'group') ?? 1), ...spatial])];
};

const pool: Rule = (call) => {
  const x = input(call, 0);
  const kernel = intsAttr(call.node, 'kernel_shape') ?? (x.shape && unknownShape(x.shape.length - 2));
  if (!kernel) return [fact(x.elem, null), fact('int64', null)];
  const ceil = intAttr(call.node, 'ceil_mode') === 1;
  const spatial = windows(call, kernel).map((at, i) => slide(x.shape?.[i + 2] ?? null, at, isSame(call), ceil));
  const shape = [x.shape?.[0] ?? null, x.shape?.[1] ?? null, ...spatial];
  return [fact(x.elem, shape), fact('int64', shape)];
};

const globalPool: Rule = (call) => {
  const x = input(call, 0);
  return [fact(x.elem, x.shape?.map((dim, at) => (at < 2 ? dim : 1)) ?? null)];
};

const pad: Rule = (call) => {
  const x = input(call, 0);
  if (!x.shape) return [fact(x.elem, null)];
  const { length: rank } = x.shape;
  const pads = integers(call, 'pads', 1);
  const given = integers(call, 'axes', 3);
  const axes = given === undefined ? x.shape.map((_, at) => at) : allNumbers(given)?.map((axis) => axisOf(axis, rank));
  if (!axes) return [fact(x.elem, unknownShape(rank))];
  let shape: Dim[] = [...x.shape];
  for (const [i, axis] of axes.entries()) {
    const grown = addDim(pads?.[i] ?? null, pads?.[i + axes.length] ?? null);
    shape = withDim(shape, axis, addDim(shape[axis] ?? null, grown));
  }
  return [fact(x.elem, shape)];
};

/** Resize and its forerunner Upsample, by scales or by sizes, on all axes or on some. */
const resize: Rule = (call) => {
  const x = input(call, 0);
  if (!x.shape) return [fact(x.elem, null)];
  const { length: rank } = x.shape;
  const scalesAt = call.node.op === 'Upsample' || call.opset < 11 ? 1 : 2;
  const scales = floatsAttr(call.node, 'scales') ?? given(input(call, scalesAt));
  const sizes = scalesAt === 2 ? given(input(call, 3)) : null;
  const axes = intsAttr(call.node, 'axes')?.map((axis) => axisOf(axis, rank)) ?? x.shape.map((_, at) => at);
  const policy = stringAttr(call.node, 'keep_aspect_ratio_policy') ?? 'stretch';
  const cropped = stringAttr(call.node, 'coordinate_transformation_mode') === 'tf_crop_and_resize';
  let shape: Dim[] = [...x.shape];
  for (const [i, axis] of axes.entries()) {
    const byScale = cropped ? null : scaled(shape[axis] ?? null, scales?.[i] ?? null);
    shape = withDim(shape, axis, sizes ? (policy === 'stretch' ? (sizes[i] ?? null) : null) : byScale);
  }
  return [fact(x.elem, shape)];
};

/** Empty tensors stand for inputs that are left out. */
const given = (of: Fact): Shape | null => (of.data && of.data.length > 0 ? of.data : null);

/** Runtimes multiply in single precision. */
const scaled = (dim: Dim, scale: Dim): Dim =>
  typeof dim === 'number' && typeof scale === 'number'
    ? Math.floor(Math.fround(Math.fround(scale) * dim))
    : scaleDim(dim, scale);

/** Rules by operator of the default domain. */
export const WINDOW_RULES: Readonly<Record<string, Rule>> = {
  Conv: (call) => [fact(input(call, 0).elem, convShape(call, input(call, 0).shape, input(call, 1).shape))],
  ConvInteger: (call) => [fact('int32', convShape(call, input(call, 0).shape, input(call, 1).shape))],
  QLinearConv: (call) => [fact(input(call, 7).elem, convShape(call, input(call, 0).shape, input(call, 3).shape))],
  ConvTranspose: convTranspose,
  MaxPool: pool,
  AveragePool: pool,
  LpPool: pool,
  GlobalAveragePool: globalPool,
  GlobalMaxPool: globalPool,
  GlobalLpPool: globalPool,
  Pad: pad,
  Resize: resize,
  Upsample: resize,
};
