/**
 * Kernels that reduce axes, and those that normalise along one. The largest and the smallest of numbers with NaN among
 * them need not be NaN, as it is in tfjs: onnxruntime doesn't look for it.
 */
import { util } from '@tensorflow/tfjs-core';
import { type Kernel, type Kernels, kernel } from '../kernel.ts';
import { int64s, type LazyTensor, node } from '../lazy.ts';
import { reduced } from '../shapes.ts';
import { cast, like, numeric, toFloat } from './common.ts';

const axesOf = (axis: unknown, { dims }: LazyTensor): number[] =>
  util.parseAxisParam(axis as number | number[], [...dims]);

function reduce(op: string, x: LazyTensor, axis: unknown, keepDims: unknown): LazyTensor {
  const axes = axesOf(axis, x);
  if (axes.length === 0) return x; // ONNX would reduce all of them
  const type = { elem: x.elem, dims: reduced(x.dims, axes, Boolean(keepDims)) };
  const keepdims = keepDims ? 1 : 0;
  return op === 'ReduceSum' // the only one whose axes are an input in opset 17
    ? node(op, [x, int64s(axes)], type, { keepdims })
    : node(op, [x], type, { axes, keepdims });
}

const reduction = (op: string, convert: (x: LazyTensor) => LazyTensor = numeric): Kernel =>
  kernel(['x'], ([x], { axis, keepDims }) => reduce(op, convert(x), axis, keepDims));

/** All is the least of 0 and 1, any the largest. */
const quantifier = (op: string): Kernel =>
  kernel(['x'], ([x], { axis, keepDims }) => cast(reduce(op, numeric(x), axis, keepDims), 'bool'));

const position = (op: string): Kernel =>
  kernel(['x'], ([x], { axis }) => {
    const [first = 0] = axesOf(axis, x);
    const type = { elem: 'int64', dims: reduced(x.dims, [first], false) } as const;
    return cast(node(op, [numeric(x)], type, { axis: first, keepdims: 0 }), 'int32');
  });

export const REDUCE_KERNELS: Kernels = {
  Sum: reduction('ReduceSum'),
  Mean: reduction('ReduceMean', toFloat),
  Prod: reduction('ReduceProd'),
  Max: kernel(['x'], ([x], { reductionIndices, keepDims }) =>
    cast(reduce('ReduceMax', numeric(x), reductionIndices, keepDims), x.elem),
  ),
  Min: kernel(['x'], ([x], { axis, keepDims }) => cast(reduce('ReduceMin', numeric(x), axis, keepDims), x.elem)),
  All: quantifier('ReduceMin'),
  Any: quantifier('ReduceMax'),
  ArgMax: position('ArgMax'),
  ArgMin: position('ArgMin'),
  Softmax: kernel(['logits'], ([logits], { dim }) => like('Softmax', [toFloat(logits)], { axis: Number(dim) })),
  LogSoftmax: kernel(['logits'], ([logits], { axis }) => like('LogSoftmax', [toFloat(logits)], { axis: Number(axis) })),
};
