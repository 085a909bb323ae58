/**
 * The table of type rules: what each operator of the default domain makes of its inputs' types. Variants over the
 * opsets are told apart by what a node has (an attribute, or an input in its place), so one rule serves them all.
 */
import { intAttr, stringAttr } from './attributes.ts';
import type { Dim, ElementType } from './ir.ts';
import { combineData, spread } from './shape-data.ts';
import {
  allNumbers,
  axisOf,
  broadcast,
  type Call,
  type Fact,
  fact,
  input,
  integers,
  productDim,
  type Rule,
  type Shape,
  unknownShape,
} from './shape-facts.ts';
import { LAYOUT_RULES } from './shape-layout.ts';
import { WINDOW_RULES } from './shape-windows.ts';
import { elementType } from './tensor.ts';

const table = (operators: string, rule: Rule): Record<string, Rule> =>
  Object.fromEntries(operators.split(' ').map((op) => [op, rule]));

const sameType: Rule = (call) => [fact(input(call, 0).elem, input(call, 0).shape)];

/** A, its scale and zero point, B, its scale and zero point, … */
const quantisedPair: Rule = (call) => [
  fact(input(call, 0).elem, broadcast([input(call, 0).shape, input(call, 3).shape])),
];

const predicate: Rule = (call) => [fact('bool', input(call, 0).shape)];
const not: Rule = (call) => {
  const { shape, data } = input(call, 0);
  return [fact('bool', shape, data?.map((flag) => (typeof flag === 'number' ? 1 - flag : null)) ?? null)];
};

/** The first element type known among the inputs; an operator's operands agree in it. */
const commonElem = (call: Call): ElementType | null => call.inputs.find((operand) => operand?.elem)?.elem ?? null;

const broadcastShape = (call: Call): Shape | null => broadcast(call.inputs.map((_, i) => input(call, i).shape));

const arithmetic: Rule = (call) => [fact(commonElem(call), broadcastShape(call), combineData(call))];
/** Where the second operand may have another element type. */
const power: Rule = (call) => [fact(input(call, 0).elem, broadcastShape(call))];
const comparison: Rule = (call) => [fact('bool', broadcastShape(call), combineData(call))];

const where: Rule = (call) => {
  const [condition, yes, no] = [input(call, 0), input(call, 1), input(call, 2)];
  const shape = broadcastShape(call);
  const count = shape && productDim(shape);
  const [c, y, n] = [condition, yes, no].map((of) => spread(of, typeof count === 'number' ? count : null));
  const data = c && y && n && c.map((flag, i) => (flag === null ? null : ((flag ? y[i] : n[i]) ?? null)));
  return [fact(yes.elem ?? no.elem, shape, data ?? null)];
};

/** The mask of Dropout became boolean in opset 10. */
const dropout: Rule = (call) => {
  const x = input(call, 0);
  return [x, fact(call.opset >= 10 ? 'bool' : x.elem, x.shape)];
};

const batchNormalization: Rule = (call) => {
  const x = input(call, 0);
  const statistics = fact(input(call, 3).elem ?? x.elem, input(call, 1).shape);
  return [fact(x.elem, x.shape), statistics, statistics, statistics, statistics];
};

/** Mean and deviation keep the axes that were reduced, with size 1. */
const layerNormalization: Rule = (call) => {
  const x = input(call, 0);
  const { shape } = x;
  const axis = shape ? axisOf(intAttr(call.node, 'axis') ?? -1, shape.length) : 0;
  const statistics = fact(
    elementType(intAttr(call.node, 'stash_type') ?? 1),
    shape?.map((dim, at) => (at < axis ? dim : 1)) ?? null,
  );
  return [fact(x.elem, shape), statistics, statistics];
};

const reduce: Rule = (call) => {
  const x = input(call, 0);
  const axes = integers(call, 'axes', 1);
  const all = axes === undefined || axes?.length === 0;
  if (all && intAttr(call.node, 'noop_with_empty_axes') === 1) return [fact(x.elem, x.shape)];
  const gone = all ? (x.shape?.map((_, at) => at) ?? []) : allNumbers(axes);
  const keep = intAttr(call.node, 'keepdims') !== 0;
  const data = call.node.op === 'ReduceProd' && all && x.data ? [productDim(x.data)] : null;
  if (all && !keep) return [fact(x.elem, [], data)];
  return [fact(x.elem, x.shape && reducedShape(x.shape, gone, keep), data)];
};

function reducedShape(shape: Shape, axes: readonly number[] | null, keep: boolean): Shape | null {
  if (!axes) return keep ? unknownShape(shape.length) : null;
  const gone = axes.map((axis) => axisOf(axis, shape.length));
  return keep ? shape.map((dim, at) => (gone.includes(at) ? 1 : dim)) : shape.filter((_, at) => !gone.includes(at));
}

const argument: Rule = (call) => {
  const { shape } = input(call, 0);
  const keep = intAttr(call.node, 'keepdims') !== 0;
  return [fact('int64', shape && reducedShape(shape, [intAttr(call.node, 'axis') ?? 0], keep))];
};

const gemm: Rule = (call) => {
  const [a, b] = [input(call, 0).shape, input(call, 1).shape];
  const rows = a?.[intAttr(call.node, 'transA') ? 1 : 0] ?? null;
  const columns = b?.[intAttr(call.node, 'transB') ? 0 : 1] ?? null;
  return [fact(input(call, 0).elem ?? input(call, 1).elem, [rows, columns])];
};

/** numpy.matmul: vectors are rows or columns, leading axes broadcast. */
function matMulShape(a: Shape | null, b: Shape | null): Shape | null {
  if (!a || !b || a.length === 0 || b.length === 0) return null;
  const rows = a.length > 1 ? [a.at(-2) ?? null] : [];
  const columns = b.length > 1 ? [b.at(-1) ?? null] : [];
  return [...(broadcast([a.slice(0, -2), b.slice(0, -2)]) ?? []), ...rows, ...columns];
}

const quantize: Rule = (call) => {
  const stated = elementType(intAttr(call.node, 'output_dtype') ?? 0);
  const elem = call.inputs[2] ? input(call, 2).elem : stated === 'undefined' ? 'uint8' : stated;
  return [fact(elem, input(call, 0).shape)];
};

const dequantize: Rule = (call) => {
  const stated = elementType(intAttr(call.node, 'output_dtype') ?? 0);
  return [fact(stated === 'undefined' ? input(call, 1).elem : stated, input(call, 0).shape)];
};

/** LSTM, GRU and RNN: all states [sequence, directions, batch, hidden], then the last ones. */
const recurrent: Rule = (call) => {
  const x = input(call, 0);
  const batchFirst = intAttr(call.node, 'layout') === 1;
  const [first = null, second = null] = x.shape ?? [];
  const [sequence, batch] = batchFirst ? [second, first] : [first, second];
  const directions = stringAttr(call.node, 'direction') === 'bidirectional' ? 2 : 1;
  const hidden = intAttr(call.node, 'hidden_size') ?? input(call, 2).shape?.[2] ?? null;
  const all: Dim[] = batchFirst ? [batch, sequence, directions, hidden] : [sequence, directions, batch, hidden];
  const last = fact(x.elem, batchFirst ? [batch, directions, hidden] : [directions, batch, hidden]);
  return [fact(x.elem, all), last, last];
};

/** Rules by operator: of the default domain, and of our own. */
export const RULES: ReadonlyMap<string, Rule> = new Map(
  Object.entries({
    ...table(
      'Relu LeakyRelu PRelu Elu Selu Celu Sigmoid Tanh Softplus Softsign HardSigmoid HardSwish Mish Gelu Swish Clip ' +
        'ThresholdedRelu Shrink Erf Exp Log Sqrt Neg Abs Reciprocal Floor Ceil Round Sign Sin Cos Tan Asin Acos Atan ' +
        'Sinh Cosh Asinh Acosh Atanh BitwiseNot Softmax LogSoftmax Hardmax LRN MeanVarianceNormalization ' +
        'InstanceNormalization LpNormalization GroupNormalization RMSNormalization CumSum Trilu ReverseSequence ' +
        'ScatterElements ScatterND Scatter',
      sameType,
    ),
    ...table('IsNaN IsInf', predicate),
    Not: not,
    'sisyphus::ApproxMinMaxNorm': sameType,
    ...table('Add Sub Mul Div Max Min Sum Mean Mod BitwiseAnd BitwiseOr BitwiseXor', arithmetic),
    ...table('Pow BitShift', power),
    ...table('And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual', comparison),
    ...table(
      'ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ' +
        'ReduceSumSquare',
      reduce,
    ),
    ...table('ArgMax ArgMin', argument),
    ...table('LSTM GRU RNN', recurrent),
    Identity: (call: Call) => [input(call, 0)],
    Where: where,
    Dropout: dropout,
    BatchNormalization: batchNormalization,
    LayerNormalization: layerNormalization,
    Gemm: gemm,
    MatMul: (call: Call) => [
      fact(input(call, 0).elem ?? input(call, 1).elem, matMulShape(input(call, 0).shape, input(call, 1).shape)),
    ],
    MatMulInteger: (call: Call) => [fact('int32', matMulShape(input(call, 0).shape, input(call, 1).shape))],
    QLinearMatMul: (call: Call) => [fact(input(call, 7).elem, matMulShape(input(call, 0).shape, input(call, 3).shape))],
    // onnxruntime's own, which its quantiser writes between the standard ones.
    'com.microsoft::QLinearAdd': quantisedPair,
    'com.microsoft::QLinearMul': quantisedPair,
    'com.microsoft::QGemm': (call: Call) => {
      const [product] = gemm({ ...call, inputs: [call.inputs[0] ?? null, call.inputs[3] ?? null] });
      return product ? [call.inputs[7] ? product : fact('float', product.shape)] : []; // a scale for the result quantises it
    },
    QuantizeLinear: quantize,
    DequantizeLinear: dequantize,
    DynamicQuantizeLinear: (call: Call) => [fact('uint8', input(call, 0).shape), fact('float', []), fact('uint8', [])],
    ...LAYOUT_RULES,
    ...WINDOW_RULES,
  }),
);

/** What holds of an operator's outputs, whatever the run: empty where nothing is known, also of invalid nodes. */
export function applyRule(call: Call): readonly Fact[] {
  const { domain, op } = call.node;
  const rule = RULES.get(domain === '' ? op : `${domain}::${op}`);
  if (!rule) return [];
  try {
    return rule(call);
  } catch {
    return [];
  }
}
