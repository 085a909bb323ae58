/** Kernels that work element by element: functions of one, two and three tensors, which broadcast. */
import type { NamedAttrMap } from '@tensorflow/tfjs-core';
import { floatAttribute } from '../../../graph/attributes.ts';
import { elementCount } from '../../../graph/tensor.ts';
import { type Kernel, type Kernels, kernel } from '../kernel.ts';
import { constant, type LazyTensor, node } from '../lazy.ts';
import { broadcast, sameDims } from '../shapes.ts';
import { cast, elementOf, expand, like, listed, numeric, reshape, scalar, toFloat, unexpanded } from './common.ts';

type Unary = (x: LazyTensor, attributes: NamedAttrMap) => LazyTensor;

const unary = (make: Unary): Kernel => kernel(['x'], ([x], attributes) => make(x, attributes));
/** Of what onnxruntime has for floats alone. */
const ofFloats = (make: Unary): Kernel => unary((x, attributes) => make(toFloat(x), attributes));
const named = (op: string): Kernel => ofFloats((x) => like(op, [x]));

export const bools = (op: string, inputs: readonly LazyTensor[], dims: readonly number[]): LazyTensor =>
  node(op, inputs, { elem: 'bool', dims });

/** Operands before they were expanded, as far as the result keeps its shape. */
function operands(inputs: readonly LazyTensor[], dims: readonly number[]): LazyTensor[] {
  const small = [...inputs];
  for (const [i, input] of inputs.entries()) {
    small[i] = unexpanded(input);
    if (!sameDims(small.map((s) => s.dims).reduce(broadcast), dims)) small[i] = input;
  }
  return small;
}

/** A list where the other is a number: onnxruntime goes element by element where the last dimension is 1. */
const flattened = (x: LazyTensor, other: LazyTensor): LazyTensor =>
  elementCount(other.dims) === 1 && x.dims.at(-1) === 1 ? reshape(x, [elementCount(x.dims)]) : x;

/** Booleans are computed with as 0 and 1; what is not 0 is true again. */
const arithmetic = (op: string): Kernel =>
  kernel(['a', 'b'], ([a, b]) => {
    const dims = broadcast(a.dims, b.dims);
    const [p, q] = operands([a, b], dims).map(numeric) as [LazyTensor, LazyTensor];
    const [r, s] = [flattened(p, q), flattened(q, p)];
    const result = node(op, [r, s], { elem: p.elem, dims: broadcast(r.dims, s.dims) });
    return cast(reshape(result, dims), a.elem);
  });

const comparison = (op: string): Kernel =>
  kernel(['a', 'b'], ([a, b]) => {
    const dims = broadcast(a.dims, b.dims);
    return bools(op, operands([a, b], dims).map(numeric), dims);
  });

const logical = (op: string): Kernel =>
  kernel(['a', 'b'], ([a, b]) => bools(op, [cast(a, 'bool'), cast(b, 'bool')], broadcast(a.dims, b.dims)));

const not = (x: LazyTensor): LazyTensor => bools('Not', [x], x.dims);

function binary(op: string, a: LazyTensor, b: LazyTensor): LazyTensor {
  return node(op, [a, b], { elem: a.elem, dims: broadcast(a.dims, b.dims) });
}

export function select(condition: LazyTensor, t: LazyTensor, e: LazyTensor): LazyTensor {
  const elem = t.elem === e.elem ? t.elem : [t, e].some((x) => x.elem === 'float') ? 'float' : 'int32';
  const dims = [condition, t, e].map((x) => x.dims).reduce(broadcast);
  const [c, p, q] = operands([condition, t, e], dims) as [LazyTensor, LazyTensor, LazyTensor];
  const between = elem === 'bool' ? 'int32' : elem; // onnxruntime can't choose between booleans
  return cast(node('Where', [c, cast(p, between), cast(q, between)], { elem: between, dims }), elem);
}

/** A divisor of 0 ends the process where whole numbers are divided: 1 stands for it, and the result is 0. */
function divideWhole(a: LazyTensor, b: LazyTensor, make: (b: LazyTensor) => LazyTensor): LazyTensor {
  if (a.elem === 'float') return make(b);
  const zero = bools('Equal', [b, constant(0, 'int32')], b.dims);
  const result = make(node('Where', [zero, constant(1, 'int32'), b], b));
  return select(zero, constant(0, 'int32'), result);
}

/** The remainder with the divisor's sign. */
const modulo = (a: LazyTensor, b: LazyTensor): LazyTensor => {
  const type = { elem: a.elem, dims: broadcast(a.dims, b.dims) };
  if (a.elem !== 'float') return node('Mod', [a, b], type);
  const remainder = node('Mod', [a, b], type, { fmod: 1 });
  const opposite = bools('Less', [binary('Mul', remainder, b), constant(0)], type.dims);
  return select(opposite, binary('Add', remainder, b), remainder);
};

const floorDivision = (a: LazyTensor, b: LazyTensor): LazyTensor =>
  a.elem === 'float'
    ? cast(like('Floor', [binary('Div', a, b)]), 'int32')
    : binary('Div', binary('Sub', a, modulo(a, b)), b);

const clip = (x: LazyTensor, min: number, max: number): LazyTensor =>
  like('Clip', [x, scalar(min, x.elem), scalar(max, x.elem)]);

/**
 * 1 where positive, else 0. The slope takes the smallest normal number beyond 1, where HardSigmoid ends: one pass over
 * memory, where a comparison and a cast are two. NaN stays NaN.
 */
const unitStep = (x: LazyTensor): LazyTensor =>
  like('HardSigmoid', [x], { alpha: floatAttribute('alpha', 3e38), beta: floatAttribute('beta', 0) });

/** 1 where positive, else `alpha`. */
const step = (x: LazyTensor, alpha: number): LazyTensor =>
  alpha === 0 ? unitStep(x) : like('Add', [like('Mul', [unitStep(x), constant(1 - alpha)]), constant(alpha)]);

/** exp(x) - 1 = tanh(x/2) (exp(x) + 1), which loses nothing near 0. */
const expm1 = (x: LazyTensor): LazyTensor =>
  like('Mul', [like('Tanh', [like('Mul', [x, constant(0.5)])]), like('Add', [like('Exp', [x]), constant(1)])]);

/** log(1 + x), near 0 as 2 atanh(x / (2 + x)), which loses nothing there. */
function log1p(x: LazyTensor): LazyTensor {
  const small = bools('Less', [like('Abs', [x]), constant(0.5)], x.dims);
  const near = like('Mul', [like('Atanh', [like('Div', [x, like('Add', [x, constant(2)])])]), constant(2)]);
  return select(small, near, like('Log', [like('Add', [x, constant(1)])]));
}

const LARGEST_FLOAT = 3.4028234663852886e38;
const finite = (x: LazyTensor): LazyTensor => bools('LessOrEqual', [like('Abs', [x]), constant(LARGEST_FLOAT)], x.dims);

export const ELEMENTWISE_KERNELS: Kernels = {
  Identity: unary((x) => x),
  Cast: unary((x, { dtype }) => cast(x, elementOf(dtype))),
  Abs: unary((x) => like('Abs', [x])),
  Neg: unary((x) => like('Neg', [x])),
  Square: unary((x) => like('Mul', [x, x])),
  Sign: unary((x) => like('Sign', [x])),
  Relu: unary((x) => like('Relu', [x])),
  Relu6: unary((x) => clip(x, 0, 6)),
  ClipByValue: unary((x, { clipValueMin, clipValueMax }) => clip(x, Number(clipValueMin), Number(clipValueMax))),
  Floor: named('Floor'),
  Ceil: named('Ceil'),
  Round: unary((x) => (x.elem === 'float' ? like('Round', [x]) : x)),
  Exp: named('Exp'),
  Expm1: ofFloats(expm1),
  Log: named('Log'),
  Log1p: ofFloats(log1p),
  Sqrt: named('Sqrt'),
  Rsqrt: ofFloats((x) => like('Reciprocal', [like('Sqrt', [x])])),
  Reciprocal: named('Reciprocal'),
  Sin: named('Sin'),
  Cos: named('Cos'),
  Tan: named('Tan'),
  Atan: named('Atan'),
  Sinh: named('Sinh'),
  Cosh: named('Cosh'),
  Tanh: named('Tanh'),
  Sigmoid: named('Sigmoid'),
  Softplus: named('Softplus'),
  Erf: named('Erf'),
  Elu: named('Elu'),
  Selu: named('Selu'),
  LeakyRelu: ofFloats((x, { alpha }) => like('LeakyRelu', [x], { alpha: floatAttribute('alpha', Number(alpha)) })),
  Prelu: kernel(['x', 'alpha'], ([x, alpha]) => like('PRelu', [expand(x, broadcast(x.dims, alpha.dims)), alpha])),
  Step: ofFloats((x, { alpha }) => step(x, Number(alpha ?? 0))),
  IsNan: ofFloats((x) => bools('IsNaN', [x], x.dims)),
  IsInf: ofFloats((x) => bools('IsInf', [x], x.dims)),
  IsFinite: ofFloats(finite),
  Add: arithmetic('Add'),
  Sub: arithmetic('Sub'),
  Multiply: arithmetic('Mul'),
  RealDiv: kernel(['a', 'b'], ([a, b]) => {
    const dims = broadcast(a.dims, b.dims);
    return node('Div', operands([a, b], dims).map(toFloat), { elem: 'float', dims });
  }),
  Maximum: arithmetic('Max'),
  Minimum: arithmetic('Min'),
  Pow: arithmetic('Pow'),
  FloorDiv: kernel(['a', 'b'], ([a, b]) => divideWhole(a, b, (divisor) => floorDivision(a, divisor))),
  Mod: kernel(['a', 'b'], ([a, b]) => divideWhole(a, b, (divisor) => modulo(a, divisor))),
  SquaredDifference: kernel(['a', 'b'], ([a, b]) => {
    const difference = binary('Sub', a, b);
    return like('Mul', [difference, difference]);
  }),
  AddN: (recorder, inputs) => {
    const [first, ...others] = listed(recorder, inputs);
    return recorder.give(others.length === 0 ? first : like('Sum', [first, ...others]));
  },
  Greater: comparison('Greater'),
  GreaterEqual: comparison('GreaterOrEqual'),
  Less: comparison('Less'),
  LessEqual: comparison('LessOrEqual'),
  Equal: comparison('Equal'),
  NotEqual: kernel(['a', 'b'], ([a, b]) => {
    const dims = broadcast(a.dims, b.dims);
    return not(bools('Equal', operands([a, b], dims), dims));
  }),
  LogicalAnd: logical('And'),
  LogicalOr: logical('Or'),
  LogicalNot: unary((x) => not(cast(x, 'bool'))),
  Select: kernel(['condition', 't', 'e'], ([condition, t, e]) => select(cast(condition, 'bool'), t, e)),
};
