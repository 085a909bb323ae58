/**
 * The measured matrix: what CrypTen, Athos and ACE made of small models, as data. ok: right; R: refused; W: accepted and
 * computed wrongly; U: unverified; -: not executed. Every model is real: onnxruntime runs it.
 */
import { expect, test } from 'vitest';
import { randomFeeds } from '../../src/eval/check.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import type { Model, Node, TensorProto, Value } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { tensorFromProto } from '../../src/graph/tensor.ts';
import { message } from '../../src/graph/wire.ts';
import { makeRng } from '../../src/rng.ts';
import { lint } from '../../src/targets/check.ts';
import { noise, runModel } from '../support/numeric.ts';

type Attributes = Record<string, number | string | number[]>;
type Activation = (g: GraphBuilder, x: Value) => Value;
type Style = 'full' | 'one' | 'channel' | 'rank0' | 'constant0' | 'constant1';

const count = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
const random = (g: GraphBuilder, dims: number[], seed: number) =>
  g.constant(
    'w',
    'float',
    dims,
    noise(count(dims), seed).map((v) => v * 0.4),
  );
const shape = (g: GraphBuilder, x: Value) =>
  (inferTypes(g.model).get(x).shape ?? []).map((dim) => (typeof dim === 'number' ? dim : 1));

/** A coefficient in one of the ways in which files have them. */
function coefficient(g: GraphBuilder, x: Value, value: number, style: Style): Value {
  const full = shape(g, x);
  const dims = {
    full,
    one: [1],
    channel: full.map((dim, i) => (i === 1 ? dim : 1)),
    rank0: [],
    constant0: [],
    constant1: [1],
  }[style];
  const filled = g.constant('c', 'float', dims, new Array<number>(count(dims)).fill(value));
  if (!style.startsWith('constant')) return filled;
  const tensor = filled.initializer;
  if (!tensor) throw new Error('no tensor');
  return g.node('Constant', [], { value: tensor });
}

const C2 = [0.1, 0.5, 0.25];
const C4 = [0.1, 0.5, 0.25, 0.03, 0.02];
const horner =
  (style: Style, c = C2, first = false): Activation =>
  (g, x) => {
    const pair = (a: Value, b: Value) => (first ? [b, a] : [a, b]);
    let at = g.node('Mul', pair(x, coefficient(g, x, c.at(-1) ?? 0, style)));
    for (let k = c.length - 2; k >= 0; k--) {
      at = g.node('Add', pair(at, coefficient(g, x, c[k] ?? 0, style)));
      if (k > 0) at = g.node('Mul', [at, x]);
    }
    return at;
  };
const squares =
  (style: Style): Activation =>
  (g, x) => {
    const high = g.node('Mul', [g.node('Mul', [x, x]), coefficient(g, x, 0.25, style)]);
    const low = g.node('Add', [g.node('Mul', [x, coefficient(g, x, 0.5, style)]), coefficient(g, x, 0.1, style)]);
    return g.node('Add', [high, low]);
  };
const estrin: Activation = (g, x) => {
  const c = (k: number) => coefficient(g, x, C4[k] ?? 0, 'full');
  const square = g.node('Mul', [x, x]);
  const line = (k: number) => g.node('Add', [g.node('Mul', [x, c(k + 1)]), c(k)]);
  const top = g.node('Mul', [g.node('Mul', [square, g.node('Add', [square, c(0)])]), c(4)]);
  return g.node('Add', [g.node('Add', [top, g.node('Mul', [square, line(2)])]), line(0)]);
};
const monic =
  (style: Style): Activation =>
  (g, x) =>
    g.node('Add', [g.node('Mul', [g.node('Add', [x, coefficient(g, x, 2, style)]), x]), coefficient(g, x, 0.4, style)]);
const quartic =
  (style: Style): Activation =>
  (g, x) => {
    const c = (value: number) => coefficient(g, x, value, style);
    const y = g.node('Add', [g.node('Mul', [g.node('Add', [x, c(0.3)]), x]), c(0.2)]);
    return g.node('Add', [g.node('Mul', [g.node('Add', [g.node('Add', [y, x]), c(0.5)]), y]), c(0.1)]);
  };
const power =
  (asNode: boolean): Activation =>
  (g, x) =>
    g.node('Pow', [x, coefficient(g, x, 2, asNode ? 'constant0' : 'rank0')]);
const unary =
  (op: string): Activation =>
  (g, x) =>
    horner('full')(g, g.node(op, [x]));
const withConstant =
  (op: string): Activation =>
  (g, x) =>
    horner('full')(g, g.node(op, [x, coefficient(g, x, 2, 'full')]));
const FULL = horner('full');

const CONV = { kernel_shape: [3, 3], strides: [1, 1], pads: [1, 1, 1, 1], dilations: [1, 1], group: 1 };
const POOL = { kernel_shape: [2, 2], strides: [2, 2], pads: [0, 0, 0, 0] };
const without = (attributes: Attributes, ...names: string[]): Attributes =>
  Object.fromEntries(Object.entries(attributes).filter(([name]) => !names.includes(name)));

function conv(g: GraphBuilder, x: Value, outs: number, attributes: Attributes = CONV, bias = true): Value {
  const group = Number(attributes.group ?? 1);
  const kernel = (attributes.kernel_shape as number[] | undefined) ?? [3, 3];
  const w = random(g, [outs, (shape(g, x)[1] ?? 1) / group, ...kernel], 2);
  return g.node('Conv', [x, w, ...(bias ? [random(g, [outs], 3)] : [])], attributes);
}
const gemmAttributes = (alpha = 1, beta = 1, transB = 1) => ({ ...floats(alpha, beta), transA: 0, transB });
/** Whole numbers become integer attributes in the builder, and these are floats. */
const floats = (alpha: number, beta: number): object => ({ alpha: float('alpha', alpha), beta: float('beta', beta) });
const float = (name: string, f: number) => ({ name, graphs: [], proto: { name, type: 1, f } });

function gemm(g: GraphBuilder, x: Value, outs: number, attributes: object = gemmAttributes(), transB = 1): Value {
  const ins = shape(g, x)[1] ?? 1;
  return g.node(
    'Gemm',
    [x, random(g, transB ? [outs, ins] : [ins, outs], 4), random(g, [outs], 5)],
    attributes as Attributes,
  );
}
const flatten = (g: GraphBuilder, x: Value) => g.node('Flatten', [x], { axis: 1 });

interface Options {
  readonly opset?: number;
  readonly ir?: number;
  readonly batch?: number | string;
  readonly input?: string;
  readonly act?: Activation;
  readonly conv?: Attributes;
  readonly bias?: boolean;
  readonly layer?: (g: GraphBuilder, x: Value) => Value;
  readonly tail?: (g: GraphBuilder, x: Value) => Value;
}

/** Conv 1->4, activation, pool, Flatten, Gemm, activation, Gemm on 8x8. */
function cnn({
  opset = 14,
  ir = 7,
  batch = 1,
  input = 'x',
  act = FULL,
  conv: attributes = CONV,
  bias = true,
  layer,
  tail,
}: Options): Model {
  const g = buildModel({ name: 'cnn', opset, irVersion: ir });
  const x = g.input(input, 'float', [batch, 1, 8, 8]);
  const a = act(g, conv(g, x, 4, attributes, bias));
  const pooled = layer ? layer(g, a) : g.node('AveragePool', [a], POOL);
  const y = tail ? tail(g, pooled) : gemm(g, act(g, gemm(g, flatten(g, pooled), 10)), 3);
  g.output(y, 'y', 'float', [batch, shape(g, y)[1] ?? 3]);
  return g.model;
}

/** Gemm 16->10, activation, Gemm 10->3. */
function mlp(
  { opset = 14, ir = 7, batch = 1, input = 'x', act = FULL }: Options,
  dims: (number | string)[] = [batch, 16],
): Model {
  const g = buildModel({ name: 'mlp', opset, irVersion: ir });
  const x = g.input(input, 'float', dims);
  const rows = dims.length > 2 ? flatten(g, x) : x;
  g.output(gemm(g, act(g, gemm(g, rows, 10)), 3), 'y', 'float', [batch, 3]);
  return g.model;
}

/** One layer on 4 channels, then activation, (GlobalAveragePool,) Flatten, Gemm. */
function one(size: number[], layer: (g: GraphBuilder, x: Value) => Value, global = false): Model {
  const g = buildModel({ name: 'layer', opset: 14, irVersion: 7 });
  const a = FULL(g, layer(g, g.input('x', 'float', [1, 4, ...size])));
  const rows = flatten(g, global ? g.node('GlobalAveragePool', [a]) : a);
  g.output(gemm(g, rows, 3), 'y', 'float', [1, 3]);
  return g.model;
}
const geometry = (side: number, attributes: Attributes, global = false, outs = 4) =>
  one([side, side], (g, x) => conv(g, x, outs, { ...CONV, ...attributes }), global);
const pooling = (size: number[], attributes: Attributes, global = false) =>
  one(size, (g, x) => g.node('AveragePool', [x], { ...POOL, ...attributes }), global);
const kernel = (k: number, p: number, s = 1): Attributes => ({
  kernel_shape: [k, k],
  pads: [p, p, p, p],
  strides: [s, s],
});

function residual(act: Activation): Model {
  const g = buildModel({ name: 'residual', opset: 14, irVersion: 7 });
  const a = act(g, conv(g, g.input('x', 'float', [1, 4, 8, 8]), 4));
  const b = act(g, conv(g, a, 4));
  const sum = act(g, g.node('Add', [conv(g, b, 4), a]));
  const shortcut = conv(g, sum, 4, { ...CONV, kernel_shape: [1, 1], pads: [0, 0, 0, 0], strides: [2, 2] });
  const down = conv(g, act(g, conv(g, sum, 4, { ...CONV, strides: [2, 2] })), 4);
  const y = act(g, g.node('Add', [down, shortcut]));
  g.output(gemm(g, flatten(g, y), 3), 'y', 'float', [1, 3]);
  return g.model;
}

function normalised(epsilon: number): Model {
  return one([8, 8], (g, x) => {
    const c = conv(g, x, 4);
    const parameters = [1, 0.1, 0.05, 0.8].map((value) => g.constant('p', 'float', [4], [value, value, value, value]));
    return g.node('BatchNormalization', [c, ...parameters], { epsilon });
  });
}

/** Weights in `float_data`. */
function floatData(): Model {
  const model = mlp({});
  for (const entry of model.graph.initializers) {
    const { name, dims } = entry.tensor;
    const float_data = [Buffer.from(Float32Array.from(noise(count(dims), 6)).buffer)];
    const proto = message<TensorProto>('TensorProto', { dims: [...dims], data_type: 1, name, float_data });
    Object.assign(entry, { tensor: tensorFromProto(proto) });
    Object.assign(entry.value, { initializer: entry.tensor });
  }
  return model;
}

function renamed(model: Model, name: (node: Node) => string): Model {
  for (const node of model.graph.nodes) Object.assign(node, { name: name(node) });
  return model;
}

const styles = (act: (style: Style) => Activation, ...list: Style[]) => list.map((style) => cnn({ act: act(style) }));
const softmax = (op: string) => cnn({ tail: (g, x) => g.node(op, [gemm(g, flatten(g, x), 3)], { axis: 1 }) });
const GAP = (side: number) => one([side, side], (g, x) => conv(g, x, 4), true);

type Cell = 'ok' | 'R' | 'W' | 'U' | '-';
/** Row, models, and what CrypTen, Athos and ACE made of each (a single cell is that of all), with the rules to name. */
type Row = readonly [string, readonly Model[], readonly Cell[], readonly Cell[], readonly Cell[], string];

const ROWS: readonly Row[] = [
  ['1 Horner, [1]', [...styles(horner, 'one'), mlp({ act: horner('one') })], ['ok'], ['ok'], ['W'], 'P003'],
  [
    '2 Horner, [1,C,1,1] or [1,F]',
    [...styles(horner, 'channel'), mlp({ act: horner('channel') })],
    ['ok'],
    ['ok'],
    ['W', 'ok'],
    'P003',
  ],
  ['3 Horner, full shape', [cnn({}), mlp({})], ['ok'], ['ok'], ['ok'], ''],
  ['4 Horner, rank 0', styles(horner, 'rank0'), ['ok'], ['R'], ['W'], 'P003'],
  ['5 Horner, rank-0 Constant', styles(horner, 'constant0'), ['ok'], ['R'], ['W'], 'P003'],
  ['6 Horner, [1] Constant', styles(horner, 'constant1'), ['ok'], ['ok'], ['W'], 'P003'],
  ['7 constant first', [cnn({ act: horner('full', C2, true) })], ['ok'], ['ok'], ['ok'], ''],
  [
    '8 Mul(x,x), full; Add(x,x)',
    [cnn({ act: squares('full') }), cnn({ act: (g, x) => FULL(g, g.node('Add', [x, x])) })],
    ['R'],
    ['ok'],
    ['ok'],
    'P002',
  ],
  ['9 Mul(x,x), [1]', styles(squares, 'one'), ['R'], ['ok'], ['W'], 'P002 P003'],
  ['10 pure square', [cnn({ act: (g, x) => g.node('Mul', [x, x]) })], ['R'], ['ok'], ['ok'], 'P002'],
  ['11 Pow, Constant', [cnn({ act: power(true) })], ['ok'], ['R'], ['R'], 'P004'],
  ['12 Pow, initializer', [cnn({ act: power(false) })], ['R'], ['R'], ['R'], 'P004'],
  ['13 degree 4 Horner', [cnn({ act: horner('full', C4) })], ['ok'], ['ok'], ['ok'], ''],
  ['14 degree 4 Estrin', [cnn({ act: estrin })], ['R'], ['ok'], ['ok'], 'P002'],
  [
    '15 monic quadratic',
    styles(monic, 'full', 'one', 'constant0'),
    ['ok'],
    ['ok', 'ok', 'R'],
    ['ok', 'W', '-'],
    'P003',
  ],
  [
    '16 preconditioned quartic',
    styles(quartic, 'full', 'one', 'constant0'),
    ['ok'],
    ['ok', 'ok', 'R'],
    ['ok', 'W', '-'],
    'P003',
  ],
  ['17 Sub(x, c)', [cnn({ act: withConstant('Sub') })], ['ok'], ['ok'], ['R'], 'P001'],
  ['18 Div(x, c)', [cnn({ act: withConstant('Div') })], ['-'], ['W'], ['R'], 'P017'],
  ['19 Neg; Identity', [cnn({ act: unary('Neg') }), cnn({ act: unary('Identity') })], ['R'], ['R'], ['R'], 'P001'],
  ['20 Conv without bias', [cnn({ bias: false })], ['ok'], ['ok'], ['R'], 'P007'],
  [
    '21 Conv without dilations, group',
    [cnn({ conv: without(CONV, 'dilations', 'group') })],
    ['R'],
    ['ok'],
    ['R'],
    'P005',
  ],
  ['22 Conv without strides', [cnn({ conv: without(CONV, 'strides') })], ['R'], ['R'], ['R'], 'P005'],
  ['23 Conv without pads', [cnn({ conv: without(CONV, 'pads') })], ['R'], ['ok'], ['R'], 'P005'],
  ['24 auto_pad', [cnn({ conv: { ...without(CONV, 'pads'), auto_pad: 'SAME_UPPER' } })], ['R'], ['R'], ['R'], 'P006'],
  [
    '25 3x3 same, valid, 1x1, 1x1 by 2',
    [geometry(8, {}), geometry(8, kernel(3, 0)), geometry(8, kernel(1, 0)), geometry(8, kernel(1, 0, 2))],
    ['ok'],
    ['ok'],
    ['ok'],
    '',
  ],
  [
    '26 3x3 same by 2, even sides',
    [6, 8, 10, 14, 28].map((side) => geometry(side, kernel(3, 1, 2))),
    ['ok'],
    ['ok'],
    ['ok'],
    '',
  ],
  ['27 the same, side 7', [geometry(7, kernel(3, 1, 2))], ['ok'], ['ok'], ['W'], 'P021'],
  [
    '28 by 3 on 12, by 4 on 16',
    [geometry(12, kernel(3, 1, 3)), geometry(16, kernel(3, 1, 4))],
    ['ok'],
    ['ok'],
    ['W', 'ok'],
    'P021',
  ],
  ['29 3x3 valid by 2', [geometry(8, kernel(3, 0, 2)), geometry(9, kernel(3, 0, 2))], ['ok'], ['ok'], ['W'], 'P021'],
  ['30 strides [2,1]', [geometry(8, { strides: [2, 1] })], ['ok'], ['ok'], ['R'], 'P021'],
  ['31 2x2 valid', [geometry(8, kernel(2, 0))], ['ok'], ['ok'], ['W'], 'P021'],
  ['31 4x4 by 2, pads 1', [geometry(8, kernel(4, 1, 2))], ['ok'], ['ok'], ['W'], 'P021 P006'],
  ['32 5x5 by 2, pads 2', [geometry(8, kernel(5, 2, 2))], ['ok'], ['ok'], ['ok'], ''],
  ['33 5x5, pads 1', [geometry(8, kernel(5, 1))], ['ok'], ['ok'], ['W'], 'P006'],
  [
    '34 5x5 valid on 8, 9, 12, 16',
    [8, 9, 12, 16].map((side) => geometry(side, kernel(5, 0))),
    ['ok'],
    ['ok'],
    ['W', 'ok', 'ok', 'ok'],
    'P021',
  ],
  ['35 dilation 2', [geometry(8, { dilations: [2, 2], pads: [2, 2, 2, 2] })], ['ok'], ['R'], ['W'], 'P021'],
  [
    '36 pads [0,0,1,1]',
    [false, true].map((global) => geometry(8, { kernel_shape: [2, 2], pads: [0, 0, 1, 1] }, global)),
    ['R', 'W'],
    ['R'],
    ['W'],
    'P006',
  ],
  [
    '37 pads [1,0,1,0]',
    [false, true].map((global) => geometry(8, { pads: [1, 0, 1, 0] }, global)),
    ['R', 'W'],
    ['R'],
    ['W'],
    'P006',
  ],
  [
    '38 3x5, pads [1,2,1,2]',
    [geometry(8, { kernel_shape: [3, 5], pads: [1, 2, 1, 2] })],
    ['R'],
    ['R'],
    ['R'],
    'P006 P021',
  ],
  ['39 groups, depthwise', [geometry(8, { group: 2 }), geometry(8, { group: 4 })], ['ok'], ['ok'], ['R', 'ok'], 'P021'],
  ['40 AveragePool 2x2 by 2', [6, 8, 10, 12, 14].map((side) => pooling([side, side], {})), ['ok'], ['ok'], ['ok'], ''],
  [
    '41 the same, side 7, 9, 8x12',
    [
      [7, 7],
      [9, 9],
      [8, 12],
    ].map((size) => pooling(size, {})),
    ['ok'],
    ['ok'],
    ['W'],
    'P023',
  ],
  [
    '42 3x3 by 2, pads 1, counted',
    [pooling([8, 8], { ...kernel(3, 1, 2), count_include_pad: 1 })],
    ['ok'],
    ['ok'],
    ['ok'],
    '',
  ],
  [
    '43 the same, not counted',
    [pooling([8, 8], { ...kernel(3, 1, 2), count_include_pad: 0 })],
    ['W'],
    ['W'],
    ['W'],
    'P022',
  ],
  [
    '44 2x2 by 1, 3x3 by 3, full size',
    [pooling([8, 8], kernel(2, 0)), pooling([9, 9], kernel(3, 0, 3)), pooling([8, 8], kernel(8, 0))],
    ['ok'],
    ['ok'],
    ['R'],
    'P016',
  ],
  ['45 4x4 by 4', [pooling([8, 8], kernel(4, 0, 4))], ['ok'], ['ok'], ['W'], 'P016'],
  [
    '46 kernel [2,1]',
    [false, true].map((global) => pooling([8, 8], { kernel_shape: [2, 1], strides: [1, 1] }, global)),
    ['R', 'W'],
    ['ok'],
    ['R'],
    'P016',
  ],
  [
    '47 AveragePool without pads',
    [one([8, 8], (g, x) => g.node('AveragePool', [x], without(POOL, 'pads')))],
    ['ok'],
    ['ok'],
    ['ok'],
    '',
  ],
  ['48 GlobalAveragePool', [4, 8, 16, 6, 7, 12].map(GAP), ['ok'], ['ok'], ['ok', 'ok', 'ok', 'W', 'W', 'W'], 'P016'],
  ['49 MaxPool', [one([8, 8], (g, x) => g.node('MaxPool', [x], POOL))], ['-'], ['ok'], ['W'], 'P001'],
  [
    '50 transB=0',
    [cnn({ tail: (g, x) => gemm(g, flatten(g, x), 3, gemmAttributes(1, 1, 0), 0) })],
    ['ok'],
    ['ok'],
    ['W'],
    'P008',
  ],
  [
    '51 alpha, beta',
    [
      [0.5, 1],
      [1, 0.5],
    ].map(([a, b]) => cnn({ tail: (g, x) => gemm(g, flatten(g, x), 3, gemmAttributes(a, b)) })),
    ['ok'],
    ['W'],
    ['W'],
    'P009',
  ],
  [
    '52 Gemm without alpha, beta, transA',
    [cnn({ tail: (g, x) => gemm(g, flatten(g, x), 3, { transB: 1 }) })],
    ['R'],
    ['ok'],
    ['ok'],
    'P005',
  ],
  [
    '53 MatMul and Add',
    [
      cnn({
        tail: (g, x) => g.node('Add', [g.node('MatMul', [flatten(g, x), random(g, [64, 3], 4)]), random(g, [1, 3], 5)]),
      }),
    ],
    ['ok'],
    ['ok'],
    ['R'],
    'P001',
  ],
  ['54 BatchNormalization, epsilon', [normalised(1e-5), normalised(1e-3)], ['ok'], ['ok', 'W'], ['R'], 'P011'],
  [
    '55 Reshape',
    [cnn({ tail: (g, x) => gemm(g, g.node('Reshape', [x, g.constant('s', 'int64', [2], [1, -1])]), 3) })],
    ['R'],
    ['ok'],
    ['ok'],
    'P010',
  ],
  [
    '56 Flatten without axis',
    [cnn({ tail: (g, x) => gemm(g, g.node('Flatten', [x]), 3) })],
    ['ok'],
    ['ok'],
    ['ok'],
    '',
  ],
  [
    '57 Concat of two',
    [one([8, 8], (g, x) => g.node('Concat', [conv(g, x, 4), conv(g, x, 4)], { axis: 1 }))],
    ['ok'],
    ['ok'],
    ['ok'],
    '',
  ],
  ['58 Softmax, LogSoftmax', ['Softmax', 'LogSoftmax'].map(softmax), ['-'], ['R'], ['R'], 'P028'],
  ['59 initializers as inputs', [mlp({ ir: 3, opset: 8 })], ['R'], ['ok'], ['R'], 'P014'],
  ['60 symbolic batch', [mlp({ batch: 'N' })], ['ok'], ['R'], ['ok'], 'P013'],
  ['61 batch 2', [mlp({ batch: 2 })], ['ok'], ['ok'], ['W'], 'P025'],
  ['62 float_data', [floatData()], ['ok'], ['ok'], ['R'], 'P015'],
  [
    '63 node called like an operator',
    [renamed(mlp({}), (node) => (node.op === 'Gemm' ? 'Gemm' : node.name))],
    ['ok'],
    ['ok'],
    ['R'],
    'P018',
  ],
  [
    '64 no names; . / :',
    [renamed(mlp({}), () => ''), renamed(mlp({}), (node) => `a.b/c:${node.name}`)],
    ['ok'],
    ['ok'],
    ['ok'],
    '',
  ],
  ['65 input named 0', [mlp({ input: '0' })], ['ok'], ['ok'], ['R'], 'P018'],
  ['66 opsets', [9, 11, 13, 14, 17].map((opset) => mlp({ opset })), ['ok'], ['ok'], ['ok'], ''],
  ['67 input [1,16,1]', [mlp({}, [1, 16, 1])], ['ok'], ['ok'], ['ok'], ''],
  ['68 residual, degrees 2 and 4', [residual(FULL), residual(horner('full', C4))], ['ok'], ['ok'], ['ok'], ''],
  ['69 Relu', [cnn({ act: (g, x) => g.node('Relu', [x]) })], ['ok'], ['ok'], ['U'], 'P001'],
];

/** Whether a cell is what the rules say. */
function expectCell(model: Model, target: 'crypten' | 'athos' | 'ace', cell: Cell, rules: string): void {
  const { findings, verdict } = lint(model, target);
  const found = findings.map(({ rule, severity }) => `${rule} ${severity}`);
  const grave = findings.filter(({ severity }) => severity === 'rejected' || severity === 'wrong');
  if (cell === 'ok') expect(grave, `${target}: ${JSON.stringify(grave)}`).toEqual([]);
  if (cell === 'U') expect([verdict, findings.some(({ rule }) => rules.includes(rule))]).toEqual(['unverified', true]);
  const severity = cell === 'R' ? 'rejected' : cell === 'W' ? 'wrong' : null;
  if (severity)
    expect(
      rules.split(' ').some((rule) => found.includes(`${rule} ${severity}`)),
      `${target}: ${found}`,
    ).toBe(true);
}

test.each(ROWS)('%s', async (_, models, crypten, athos, ace, rules) => {
  for (const [i, model] of models.entries()) {
    const at = (cells: readonly Cell[]): Cell => (cells.length === 1 ? cells[0] : cells[i]) ?? '-';
    expectCell(model, 'crypten', at(crypten), rules);
    expectCell(model, 'athos', at(athos), rules);
    expectCell(model, 'ace', at(ace), rules);
    const cells = [at(crypten), at(athos), at(ace)];
    if (cells.includes('R') || cells.includes('W'))
      expect(['rejected', 'wrong']).toContain(lint(model, 'portable').verdict);
    if (_.startsWith('63')) continue; // onnxruntime wants names that differ
    const results = await runModel(model, randomFeeds(model, makeRng(3)));
    expect([...results.keys()]).toEqual(['y']);
  }
});
