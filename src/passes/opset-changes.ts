/**
 * What changed in which version of the operators of the default domain, opsets 7 to 23.
 * After the changelog of the ONNX operators (onnx/onnx, docs/Changelog.md); checked in onnxruntime on the real models and
 * on small graphs (test/passes/set-opset.test.ts).
 *
 * "Wider" changes only admit more element types; "clarified" ones only say better what held before. An operator that is
 * not listed is not converted, and a change that is not surely understood is listed as breaking.
 */
import { intAttr } from '../graph/attributes.ts';
import type { ElementType } from '../graph/ir.ts';
import {
  absent,
  all,
  avoids,
  breaking,
  type Convert,
  clipToAttributes,
  clipToInputs,
  constantToTensor,
  drop,
  dropoutToAttributes,
  dropoutToInputs,
  fine,
  frontAxes,
  frontAxesInput,
  inputsUpTo,
  inputToInts,
  intsToInput,
  needs,
  noNoop,
  noZeros,
  oneOutput,
  only,
  padToAttributes,
  padToInputs,
  resizeInputs,
  sameShapes,
  sameTypes,
  scalarScale,
  scalesToInput,
  sliceToAttributes,
  softmaxDown,
  softmaxUp,
  splitFromCount,
  splitToCount,
  unread,
  without,
} from './opset-adapters.ts';

/** The version in which a definition changed, and what that takes from a node on the way up and on the way down. */
export interface OpsetChange {
  readonly since: number;
  readonly up: Convert;
  readonly down: Convert;
}

export interface OperatorHistory {
  /** First version that has it; 7 for all older ones. */
  readonly first: number;
  /** The version that no longer has it. */
  readonly gone?: number;
  /** In ascending order. */
  readonly changes: readonly OpsetChange[];
}

const BF16 = ['bfloat16'] as const;
const F8 = ['float8e4m3fn', 'float8e4m3fnuz', 'float8e5m2', 'float8e5m2fnuz'] as const;
const I4 = ['uint4', 'int4'] as const;
const F4 = ['float4e2m1'] as const;
const WORDS = ['int32', 'int64', 'uint32', 'uint64'] as const;
const SHORT = ['int8', 'uint8', 'int16', 'uint16'] as const;
const INTEGERS = [...WORDS, ...SHORT] as const;
const NO_FLOATS = [...INTEGERS, 'bool', 'string', 'complex64', 'complex128'] as const;

const change = (since: number, up: Convert, down: Convert): OpsetChange => ({ since, up, down });
const wider = (since: number, ...added: readonly ElementType[]) => change(since, fine, without(added));
const widerEverywhere = (since: number, ...added: readonly ElementType[]) => change(since, fine, without(added, true));
const clarified = (since: number) => change(since, fine, fine);
const breaks = (since: number, why: string) => change(since, breaking(why), breaking(why));
/** Versions from 11 on count axes from the end too. */
const signedAxes = (...names: readonly string[]) => change(11, fine, all(...names.map((name) => frontAxes(name))));
const bf13 = wider(13, ...BF16);
const bf16 = wider(16, ...BF16);
const bf22 = wider(22, ...BF16);
/** Operators that only move data admit each new element type. */
const anyData = (...since: readonly (13 | 19 | 21 | 23)[]): OpsetChange[] =>
  since.map((version, index) => {
    const eights = version === 21 && !since.slice(0, index).includes(19) ? F8 : [];
    const added = { 13: BF16, 19: F8, 21: [...I4, ...eights], 23: F4 }[version];
    return widerEverywhere(version, ...added);
  });

const from = (first: number, ...changes: readonly OpsetChange[]): OperatorHistory => ({
  first,
  changes: changes.toSorted((a, b) => a.since - b.since),
});
const old = (...changes: readonly OpsetChange[]) => from(7, ...changes);

const reduction = (...more: readonly OpsetChange[]) =>
  old(signedAxes('axes'), bf13, change(18, intsToInput('axes', 1), all(noNoop, inputToInts('axes', 1))), ...more);
const softmax = old(change(11, fine, frontAxes('axis')), change(13, softmaxUp, all(without(BF16), softmaxDown)));
const arithmetic = old(bf13, wider(14, ...SHORT));
const extremum = old(change(8, fine, sameShapes), wider(12, ...INTEGERS), bf13);
const total = old(change(8, fine, sameShapes), bf13);
const argument = old(signedAxes('axis'), change(12, fine, only('select_last_index', 0)), bf13);
const recurrent = old(change(14, fine, only('layout', 0)), bf22);
const scatter = from(
  11,
  bf13,
  change(16, fine, all(only('reduction', 'none'), without(BF16))),
  change(18, fine, avoids('reduction', ['min', 'max'])),
);
/** Nested graphs: what changed is which values may cross their borders. */
const control = (first: number, ...changes: readonly OpsetChange[]) =>
  from(first, ...changes, clarified(13), widerEverywhere(16, ...BF16), ...anyData(19, 21, 23));
const shapesMayDiffer = change(11, fine, breaking('before it both ways must have one shape'));
const ceilCount: Convert = ({ node }) => (intAttr(node, 'ceil_mode') ? 'what ceil_mode counts was put right' : null);

const table = (history: OperatorHistory, ops: string): [string, OperatorHistory][] =>
  ops.split(' ').map((op) => [op, history]);

export const OPSET_CHANGES: ReadonlyMap<string, OperatorHistory> = new Map<string, OperatorHistory>([
  ...table(old(), 'And Or Xor Not'),
  ...table(old(bf13), 'Abs Ceil Floor Reciprocal Sqrt Exp Log Neg Sigmoid Tanh LRN SpaceToDepth Tile'),
  ...table(old(bf22), 'Acos Asin Atan Cos Sin Tan Elu Selu HardSigmoid Softplus Softsign GlobalAveragePool'),
  ...table(old(bf22), 'GlobalMaxPool GlobalLpPool InstanceNormalization LpNormalization MaxRoiPool'),
  ...table(from(9, bf22), 'Acosh Asinh Atanh Cosh Sinh EyeLike'),
  ...table(from(9, bf13), 'Erf Sign NonZero MeanVarianceNormalization'),
  ...table(arithmetic, 'Add Sub Mul Div'),
  ...table(extremum, 'Max Min'),
  ...table(total, 'Sum Mean'),
  ...table(argument, 'ArgMax ArgMin'),
  ...table(softmax, 'Softmax LogSoftmax Hardmax'),
  ...table(reduction(), 'ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare'),
  ...table(reduction(wider(12, 'int8', 'uint8'), wider(20, 'bool')), 'ReduceMax ReduceMin'),
  ...table(recurrent, 'LSTM GRU RNN'),
  ...table(scatter, 'ScatterElements ScatterND'),
  ...table(from(12, bf16), 'GreaterOrEqual LessOrEqual'),
  ...table(old(wider(9, ...INTEGERS), bf13), 'Greater Less MatMul'),
  ...table(from(10), 'ConvInteger MatMulInteger QLinearConv ReverseSequence'),
  ...table(from(11), 'BitShift DynamicQuantizeLinear Range Unique'),
  ...table(from(11, bf22), 'Det Round'),
  ...table(from(12), 'Celu Einsum'),
  ...table(from(14), 'Trilu'),
  ...table(from(17), 'LayerNormalization HannWindow HammingWindow BlackmanWindow STFT MelWeightMatrix'),
  ...table(from(18), 'BitwiseAnd BitwiseOr BitwiseXor BitwiseNot CenterCropPad Col2Im'),
  ...table(from(18, bf22), 'Mish'),
  ...table(from(20), 'Gelu AffineGrid'),
  ...table(from(23), 'Attention RMSNormalization RotaryEmbedding'),
  ['Shrink', from(9)],
  ['ThresholdedRelu', from(10, bf22)],
  ['HardSwish', from(14, bf22)],
  ['IsInf', from(10, wider(20, ...F8, 'float16', 'bfloat16'))],
  ['IsNaN', from(9, bf13, wider(20, ...F8))],
  ['Mod', from(10, bf13)],
  ['Where', from(9, bf16)],
  ['Expand', from(8, bf13)],
  ['LeakyRelu', old(bf16)],
  ['PRelu', old(wider(9, ...WORDS), bf16)],
  ['Relu', old(bf13, wider(14, 'int32', 'int64', 'int8', 'int16'))],
  [
    'Equal',
    old(
      wider(11, 'float', 'double', 'float16', 'int8', 'int16', 'uint8', 'uint16', 'uint32', 'uint64'),
      bf13,
      wider(19, 'string'),
    ),
  ],
  ['Pow', old(change(12, fine, all(sameTypes, without(INTEGERS))), bf13, widerEverywhere(15, ...BF16))],
  ['Clip', old(change(11, clipToInputs, clipToAttributes), wider(12, ...INTEGERS), bf13)],
  [
    'Dropout',
    old(
      change(10, unread(1), unread(1)),
      change(12, all(unread(1), dropoutToInputs), all(unread(1), dropoutToAttributes)),
      bf13,
      wider(22, ...F8),
    ),
  ],
  [
    'BatchNormalization',
    old(
      change(9, all(allSpatial(), oneOutput), oneOutput),
      change(14, oneOutput, all(only('training_mode', 0), oneOutput, without(BF16))),
      change(15, fine, sameTypes),
    ),
  ],
  [
    'Squeeze',
    old(
      signedAxes('axes'),
      change(13, intsToInput('axes', 1), all(without(BF16), inputToInts('axes', 1))),
      ...anyData(21, 23),
    ),
  ],
  [
    'Unsqueeze',
    old(
      change(11, fine, frontAxes('axes', 'output')),
      change(13, intsToInput('axes', 1), all(without(BF16), inputToInts('axes', 1))),
      ...anyData(21, 23),
    ),
  ],
  [
    'ReduceSum',
    old(signedAxes('axes'), change(13, intsToInput('axes', 1), all(without(BF16), noNoop, inputToInts('axes', 1)))),
  ],
  [
    'Slice',
    old(
      change(10, all(intsToInput('starts', 1), intsToInput('ends', 2), intsToInput('axes', 3)), sliceToAttributes),
      change(11, fine, frontAxesInput(3)),
      bf13,
    ),
  ],
  [
    'Pad',
    old(
      change(11, padToInputs, all(without(INTEGERS), padToAttributes)),
      wider(13, ...BF16, 'bool', 'string', 'complex64', 'complex128'),
      change(18, fine, inputsUpTo(3)),
      change(19, fine, avoids('mode', ['wrap'])),
      ...anyData(21, 23),
    ),
  ],
  [
    'Split',
    old(
      signedAxes('axis'),
      change(13, intsToInput('split', 1), all(without(BF16), inputToInts('split', 1))),
      change(18, splitToCount, splitFromCount),
    ),
  ],
  ['Reshape', old(...anyData(13, 19, 21, 23), change(14, fine, noZeros))],
  ['Transpose', old(...anyData(13, 21, 23))],
  ['Flatten', old(wider(9, ...NO_FLOATS), signedAxes('axis'), ...anyData(13, 21, 23))],
  ['Concat', old(signedAxes('axis'), bf13)],
  ['Gather', old(signedAxes('axis'), bf13)],
  ['GatherElements', from(11, bf13)],
  ['GatherND', from(11, change(12, fine, only('batch_dims', 0)), bf13)],
  ['Compress', from(9, signedAxes('axis'))],
  ['CumSum', from(11, wider(14, 'float16', ...BF16))],
  ['DepthToSpace', old(change(11, fine, only('mode', 'DCR')), bf13)],
  ['Upsample', { ...old(change(9, scalesToInput, breaking('its scales are an input from here on'))), gone: 10 }],
  [
    'Resize',
    from(
      10,
      breaks(11, 'it computes coordinates in another way'),
      change(13, avoids('coordinate_transformation_mode', ['tf_half_pixel_for_nn']), all(without(BF16), resizeInputs)),
      change(18, fine, all(only('antialias', 0), absent('axes'), only('keep_aspect_ratio_policy', 'stretch'))),
      change(19, fine, avoids('coordinate_transformation_mode', ['half_pixel_symmetric'])),
    ),
  ],
  [
    'AveragePool',
    old(
      change(10, fine, only('ceil_mode', 0)),
      clarified(11),
      change(19, ceilCount, all(ceilCount, only('dilations', 1))),
      bf22,
    ),
  ],
  [
    'MaxPool',
    old(
      change(8, fine, all(unread(1), only('storage_order', 0))),
      change(10, fine, all(only('ceil_mode', 0), only('dilations', 1))),
      clarified(11),
      wider(12, 'int8', 'uint8'),
      bf22,
    ),
  ],
  ['MaxUnpool', from(9, clarified(11), bf22)],
  ['LpPool', old(clarified(11), change(18, fine, all(only('ceil_mode', 0), only('dilations', 1))), bf22)],
  ['Conv', old(clarified(11), bf22)],
  ['ConvTranspose', old(change(11, plainPadding(), plainPadding()), bf22)],
  ['Gemm', old(wider(9, ...WORDS), change(11, fine, needs(2)), bf13)],
  [
    'TopK',
    old(
      change(10, intsToInput('k', 1, true), inputToInts('k', 1, true)),
      change(11, fine, all(only('largest', 1), only('sorted', 1), without(INTEGERS))),
    ),
  ],
  ['OneHot', from(9, breaks(11, 'negative indices mean something else'))],
  [
    'Cast',
    old(
      widerEverywhere(9, 'string'),
      widerEverywhere(13, ...BF16),
      change(19, fine, all(without(F8, true), drop('saturate'))),
      ...anyData(19, 21, 23).slice(1),
    ),
  ],
  ['CastLike', from(15, change(19, fine, all(without(F8, true), drop('saturate'))), ...anyData(19, 21, 23).slice(1))],
  [
    'Constant',
    old(
      wider(9, ...NO_FLOATS),
      change(11, fine, absent('sparse_value')),
      change(12, fine, constantToTensor),
      ...anyData(13, 19, 21, 23),
    ),
  ],
  ['ConstantOfShape', from(9, wider(20, ...BF16, ...F8), wider(21, ...I4), wider(23, ...F4))],
  ['Identity', old(...anyData(13), clarified(14), clarified(16), ...anyData(19), ...anyData(19, 21, 23).slice(1))],
  ['Shape', old(...anyData(13, 19, 21, 23), change(15, fine, all(only('start', 0), absent('end'))))],
  ['Size', old(...anyData(13, 19, 21, 23))],
  [
    'QuantizeLinear',
    from(
      10,
      change(13, fine, scalarScale),
      change(19, fine, all(drop('saturate'), without([...F8, 'float16', 'bfloat16']))),
      change(21, fine, all(only('block_size', 0), only('output_dtype', 0), without([...I4, 'int16', 'uint16']))),
      change(23, fine, all(only('precision', 0), without(F4))),
    ),
  ],
  [
    'DequantizeLinear',
    from(
      10,
      change(13, fine, scalarScale),
      wider(19, ...F8, 'float16', 'bfloat16'),
      change(21, fine, all(only('block_size', 0), without([...I4, 'int16', 'uint16']))),
      change(23, fine, all(only('output_dtype', 0), without(F4))),
    ),
  ],
  ['QLinearMatMul', from(10, wider(21, ...F8))],
  ['If', control(7, shapesMayDiffer)],
  ['Loop', control(7, shapesMayDiffer)],
  [
    'Scan',
    control(
      8,
      breaks(9, 'its inputs have no batch axis from here on'),
      change(11, fine, breaking('axes may be counted from the end')),
    ),
  ],
  ['GridSample', from(16, breaks(20, 'its modes have other names'), bf22)],
  ['RoiAlign', from(10, breaks(16, 'it computes coordinates in another way'), bf22)],
  ['GroupNormalization', from(18, breaks(21, 'its scale and bias are by channel, no longer by group'))],
  ['NonMaxSuppression', from(10, breaks(11, 'it is not known here what this means for a node'))],
]);

/** Before opset 9 a BatchNormalization may have statistics for each position. */
function allSpatial(): Convert {
  return (site) => (only('spatial', 1)(site) === null ? null : 'spatial = 0 is gone');
}

/** Which side gets the odd pixel, and what an output shape does, was put right. */
function plainPadding(): Convert {
  return all(avoids('auto_pad', ['SAME_UPPER', 'SAME_LOWER']), absent('output_shape'));
}
