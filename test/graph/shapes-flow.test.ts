/** Type inference through names of sizes, shapes under computation, nested graphs, functions, and broken models. */
import { describe, expect, it } from 'vitest';
import { intsAttribute } from '../../src/graph/attributes.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { cost } from '../../src/graph/cost.ts';
import { typeMessage } from '../../src/graph/edit.ts';
import type { Dim, ElementType, Model, Value } from '../../src/graph/ir.ts';
import { modelFromProto } from '../../src/graph/read.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { allNodes } from '../../src/graph/walk.ts';
import {
  type AttributeProto,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  message,
  type NodeProto,
  type OpsetProto,
} from '../../src/graph/wire.ts';

const ints = (g: GraphBuilder, ...values: number[]) => g.constant('c', 'int64', [values.length], values);
const weights = (g: GraphBuilder, ...dims: number[]) =>
  g.constant('w', 'float', dims, new Float32Array(dims.reduce((a, b) => a * b, 1)));

describe('names of sizes', () => {
  it.each<[string, readonly Dim[], (g: GraphBuilder, x: Value) => Value, readonly Dim[] | null]>([
    ['a name with 1', ['N', 1], (g, x) => g.node('Add', [x, weights(g, 1, 4)]), ['N', 4]],
    ['a name with a number', [1, 'C'], (g, x) => g.node('Add', [x, weights(g, 2, 4)]), [2, 4]],
    ['a name with itself', ['N', 'C'], (g, x) => g.node('Mul', [x, x]), ['N', 'C']],
    ['a name with another', ['N', 'C'], (g, x) => g.node('Add', [x, g.input('y', 'float', ['M', 'C'])]), [null, 'C']],
    ['placeholders are no names', ['?', 4], (g, x) => g.node('Relu', [x]), [null, 4]],
    ['batches of images', ['N', 3, 8, 8], (g, x) => g.node('Conv', [x, weights(g, 5, 3, 3, 3)]), ['N', 5, 6, 6]],
    [
      'windows that keep sizes',
      ['N', 3, 'H', 'W'],
      (g, x) => g.node('Conv', [x, weights(g, 5, 3, 3, 3)], { pads: [1, 1, 1, 0] }),
      ['N', 5, 'H', null],
    ],
    ['Flatten', ['N', 16, 4, 4], (g, x) => g.node('Flatten', [x]), ['N', 256]],
    ['Reshape to [0, -1]', ['N', 16, 4, 4], (g, x) => g.node('Reshape', [x, ints(g, 0, -1)]), ['N', 256]],
    ['Reshape to [-1, 256]', ['N', 16, 4, 4], (g, x) => g.node('Reshape', [x, ints(g, -1, 256)]), ['N', 256]],
    ['Reshape to [-1, 128]', ['N', 16, 4, 4], (g, x) => g.node('Reshape', [x, ints(g, -1, 128)]), [null, 128]],
    ['Reshape of unknown sizes', [null, 16, 4], (g, x) => g.node('Reshape', [x, ints(g, 0, -1)]), [null, 64]],
    ['Reshape that mixes names', ['N', 'T', 8], (g, x) => g.node('Reshape', [x, ints(g, -1, 8)]), [null, 8]],
    ['Reshape that splits', ['N', 'T', 8], (g, x) => g.node('Reshape', [x, ints(g, 0, -1, 2, 4)]), ['N', 'T', 2, 4]],
    ['MatMul', ['N', 'T', 8], (g, x) => g.node('MatMul', [x, weights(g, 8, 3)]), ['N', 'T', 3]],
    ['Concat beside a name', ['N', 3], (g, x) => g.node('Concat', [x, x], { axis: 1 }), ['N', 6]],
    ['Concat along a name', ['N', 3], (g, x) => g.node('Concat', [x, x], { axis: 0 }), [null, 3]],
    [
      'Slice to the end',
      ['N', 5],
      (g, x) => g.node('Slice', [x, ints(g, 0, 1), g.constant('e', 'int64', [2], [2 ** 53 - 1, 4])]),
      ['N', 3],
    ],
    ['Tile', ['N', 5], (g, x) => g.node('Tile', [x, ints(g, 1, 2)]), ['N', 10]],
    ['GlobalAveragePool', ['N', 5, 'H', 'W'], (g, x) => g.node('GlobalAveragePool', [x]), ['N', 5, 1, 1]],
  ])('%s', (_, shape, make, expected) => {
    const g = buildModel({ name: 'names', opset: 13 });
    const made = make(g, g.input('x', 'float', shape));
    expect(inferTypes(g.model).get(made)).toEqual({ elem: 'float', shape: expected });
  });
});

describe('shapes under computation', () => {
  const batch = (g: GraphBuilder, x: Value) =>
    g.node('Gather', [g.node('Shape', [x]), g.constant('i', 'int64', [], [0])]);
  const vector = (g: GraphBuilder, of: Value) => g.node('Unsqueeze', [of, ints(g, 0)]);

  it.each<[string, (g: GraphBuilder, x: Value) => Value, readonly Dim[] | null]>([
    [
      'a flattening of torch',
      (g, x) => g.node('Reshape', [x, g.node('Concat', [vector(g, batch(g, x)), ints(g, -1)], { axis: 0 })]),
      ['N', 60],
    ],
    [
      'class tokens, with -1 replaced as torch does',
      (g, x) => {
        const wanted = g.node('Concat', [vector(g, batch(g, x)), ints(g, -1, -1)], { axis: 0 });
        const ones = g.node('ConstantOfShape', [ints(g, 3)], { value: makeTensor('one', 'int64', [1], [1]) });
        const isMinusOne = g.node('Equal', [wanted, g.node('Mul', [ones, ints(g, -1)])]);
        return g.node('Expand', [weights(g, 1, 1, 7), g.node('Where', [isMinusOne, ones, wanted])]);
      },
      ['N', 1, 7],
    ],
    ['Shape with bounds', (g, x) => g.node('ConstantOfShape', [g.node('Shape', [x], { start: 1, end: -1 })]), [3, 4]],
    [
      'Slice, Cast, Squeeze',
      (g, x) => {
        const two = g.node('Slice', [g.node('Shape', [x]), ints(g, 1), ints(g, 3)]);
        const product = g.node('ReduceProd', [g.node('Cast', [g.node('Cast', [two], { to: 1 })], { to: 7 })], {
          keepdims: 0,
        });
        return g.node('ConstantOfShape', [vector(g, g.node('Squeeze', [vector(g, product), ints(g, 0)]))]);
      },
      [12],
    ],
    [
      'arithmetic',
      (g, x) => {
        const size = g.node('Div', [g.node('Size', [g.node('Shape', [x])]), g.constant('d', 'int64', [], [3])]);
        const one = g.node('Sub', [g.node('Add', [size, batch(g, x)]), batch(g, x)]);
        return g.node('ConstantOfShape', [vector(g, one)]);
      },
      [null],
    ],
    [
      'Range over a name',
      (g, x) => g.node('Range', [g.constant('z', 'int64', [], [0]), batch(g, x), g.constant('d', 'int64', [], [1])]),
      ['N'],
    ],
  ])('%s', (_, make, expected) => {
    const g = buildModel({ name: 'data', opset: 15 });
    const made = make(g, g.input('x', 'float', ['N', 3, 4, 5]));
    expect(inferTypes(g.model).get(made).shape).toEqual(expected);
  });

  it('gives the elements', () => {
    const g = buildModel({ name: 'data', opset: 15 });
    const shape = g.node('Shape', [g.input('x', 'float', ['N', null, 4])]);
    expect(inferTypes(g.model).elements(shape)).toEqual(['N', null, 4]);
    expect(inferTypes(g.model).elements(weights(g, 100))).toBeNull();
  });
});

// Nested graphs and functions, from messages.
type Entry = [op: string, inputs: string[], outputs: string[], attributes?: AttributeProto[]];
const nodeOf = ([op_type, input, output, attribute = []]: Entry): NodeProto =>
  message<NodeProto>('NodeProto', {
    op_type,
    input,
    output,
    attribute,
    ...(op_type.startsWith('my') && { domain: 'local' }),
  });
const info = (name: string, elem: ElementType | null, shape: readonly Dim[] | null) =>
  typeMessage(name, { elem, shape });
const graphOf = (nodes: Entry[], input: string[], output: string[]): GraphProto =>
  message<GraphProto>('GraphProto', {
    name: 'g',
    node: nodes.map(nodeOf),
    input: input.map((name) => info(name, null, null)),
    output: output.map((name) => info(name, null, null)),
  });
const attr = (name: string, fields: Partial<AttributeProto>) =>
  message<AttributeProto>('AttributeProto', { name, ...fields });
const body = (name: string, g: GraphProto) => attr(name, { type: 5, g });
const refer = (name: string, ref_attr_name: string) => attr(name, { ref_attr_name, type: 7 });
const opset = [
  message<OpsetProto>('OperatorSetIdProto', { domain: '', version: 18 }),
  message<OpsetProto>('OperatorSetIdProto', { domain: 'local', version: 1 }),
];

function modelOf(nodes: Entry[], inputs: Record<string, readonly Dim[]>, functions: FunctionProto[] = []): Model {
  const graph = graphOf(nodes, [], []);
  graph.input = Object.entries(inputs).map(([name, shape]) => info(name, name === 'flag' ? 'bool' : 'float', shape));
  return modelFromProto(
    message<ModelProto>('ModelProto', { ir_version: 10, graph, opset_import: opset, functions }),
    undefined,
  );
}
const functionOf = (name: string, input: string[], output: string[], nodes: Entry[], attribute: string[] = []) =>
  message<FunctionProto>('FunctionProto', {
    name,
    domain: 'local',
    input,
    output,
    node: nodes.map(nodeOf),
    opset_import: opset,
    attribute,
  });

/** The shapes of all values, by name; the last of equal names. */
function shapesOf(model: Model): Record<string, readonly Dim[] | null> {
  const types = inferTypes(model);
  return Object.fromEntries(
    [...allNodes(model)].flatMap((node) => node.outputs).flatMap((v) => (v ? [[v.name, types.get(v).shape]] : [])),
  );
}

describe('nested graphs', () => {
  it('If keeps what both branches agree in', () => {
    const wide = graphOf([['Concat', ['x', 'x'], ['a'], [attr('axis', { i: 1, type: 2 })]]], [], ['a']);
    const plain = graphOf([['Relu', ['x'], ['b']]], [], ['b']);
    const model = modelOf([['If', ['flag'], ['y'], [body('then_branch', wide), body('else_branch', plain)]]], {
      flag: [],
      x: ['N', 4],
    });
    expect(shapesOf(model)).toEqual({ y: ['N', null], a: ['N', 8], b: ['N', 4] });
  });

  it('If with a known condition has the types of one branch', () => {
    const wide = graphOf([['Concat', ['x', 'x'], ['a'], [attr('axis', { i: 1, type: 2 })]]], [], ['a']);
    const plain = graphOf([['Relu', ['x'], ['b']]], [], ['b']);
    const model = modelOf(
      [
        ['Shape', ['x'], ['s']],
        ['Size', ['s'], ['rank']],
        ['Constant', [], ['two'], [attr('value_int', { i: 2, type: 2 })]],
        ['Equal', ['rank', 'two'], ['flat']],
        ['If', ['flat'], ['y'], [body('then_branch', wide), body('else_branch', plain)]],
      ],
      { x: ['N', 4] },
    );
    expect(shapesOf(model).y).toEqual(['N', 8]);
    expect(cost(model, inferTypes(model)).nonPolynomial).toBe(0);
  });

  it('Loop gives up sizes that vary, and stacks the rest', () => {
    const step = graphOf(
      [
        ['Identity', ['keep'], ['more']],
        ['Concat', ['grow', 'stay'], ['grown'], [attr('axis', { i: 0, type: 2 })]],
        ['Relu', ['stay'], ['stayed']],
      ],
      ['round', 'keep', 'grow', 'stay'],
      ['more', 'grown', 'stayed', 'stayed'],
    );
    const model = modelOf([['Loop', ['', '', 'x', 'x'], ['long', 'same', 'all'], [body('body', step)]]], { x: [2, 4] });
    expect(shapesOf(model)).toMatchObject({ long: [null, 4], same: [2, 4], all: [null, 2, 4], grown: [null, 4] });
  });

  it('a loop whose state becomes data costs what one round costs', () => {
    const step = graphOf(
      [
        ['Identity', ['keep'], ['more']],
        ['Mul', ['state', 'state'], ['square']],
        ['Add', ['square', 'x'], ['next']],
      ],
      ['round', 'keep', 'state'],
      ['more', 'next'],
    );
    const model = modelOf(
      [
        ['Constant', [], ['start'], [attr('value_float', { f: 1, type: 1 })]],
        ['Loop', ['', '', 'start'], ['y'], [body('body', step)]],
      ],
      { x: [4] },
    );
    model.graph.proto.output = [info('y', null, null)];
    const again = modelFromProto(model.proto, undefined);
    expect(shapesOf(again)).toMatchObject({ y: null, square: null });
    expect(cost(again, inferTypes(again))).toMatchObject({ depth: 1, nonPolynomial: 0 });
  });

  it('Scan takes slices and stacks them', () => {
    const step = graphOf(
      [
        ['Add', ['sum', 'slice'], ['next']],
        ['Relu', ['slice'], ['out']],
      ],
      ['sum', 'slice'],
      ['next', 'out'],
    );
    const attributes = [
      body('body', step),
      attr('num_scan_inputs', { i: 1, type: 2 }),
      attr('scan_input_axes', { ints: [1], type: 7 }),
      attr('scan_output_axes', { ints: [-1], type: 7 }),
    ];
    const model = modelOf([['Scan', ['z', 'x'], ['total', 'all'], attributes]], { z: [4], x: [4, 'T'] });
    expect(shapesOf(model)).toMatchObject({ next: [4], out: [4], total: [4], all: [4, 'T'] });
  });
});

describe('functions', () => {
  const double = functionOf(
    'my_double',
    ['a'],
    ['b'],
    [['Concat', ['a', 'a'], ['b'], [attr('axis', { i: 0, type: 2 })]]],
  );

  it('infers each call, and merges them inside', () => {
    const model = modelOf(
      [
        ['my_double', ['x'], ['y']],
        ['my_double', ['y'], ['z']],
      ],
      { x: [2, 5] },
      [double],
    );
    expect(shapesOf(model)).toEqual({ y: [4, 5], z: [8, 5], b: [null, 5] });
    const types = inferTypes(model);
    const [inner] = model.functions[0]?.outputs ?? [];
    expect(model.graph.nodes.map((call) => inner && types.inside(call).get(inner.value).shape)).toEqual([
      [4, 5],
      [8, 5],
    ]);
  });

  it('resolves attributes of the caller, and leaves out those it does not give', () => {
    const turn = functionOf(
      'my_turn',
      ['a'],
      ['b'],
      [['Transpose', ['a'], ['b'], [refer('perm', 'order')]]],
      ['order'],
    );
    const order = attr('order', { ...intsAttribute('order', [1, 0, 2]).proto, name: 'order' });
    const model = modelOf(
      [
        ['my_turn', ['x'], ['y'], [order]],
        ['my_turn', ['x'], ['z']],
      ],
      { x: [2, 3, 4] },
      [turn],
    );
    expect(shapesOf(model)).toMatchObject({ y: [3, 2, 4], z: [4, 3, 2] });
  });

  it('survives recursion, direct and mutual', () => {
    const ping = functionOf(
      'my_ping',
      ['a'],
      ['b'],
      [
        ['Relu', ['a'], ['r']],
        ['my_pong', ['r'], ['b']],
      ],
    );
    const pong = functionOf(
      'my_pong',
      ['a'],
      ['b'],
      [
        ['my_ping', ['a'], ['c']],
        ['my_pong', ['c'], ['b']],
      ],
    );
    const model = modelOf([['my_ping', ['x'], ['y']]], { x: [2] }, [ping, pong]);
    expect(shapesOf(model)).toMatchObject({ y: null, r: null });
    expect(cost(model, inferTypes(model)).macs).toBe(0);
  });

  it('does not blow up where each function calls the next one twice with other types', () => {
    const levels = 30; // with 2^30 different inputs of the last one
    const functions = Array.from({ length: levels }, (_, i) => {
      const next = i + 1 < levels ? `my_${i + 1}` : 'Relu';
      return functionOf(
        `my_${i}`,
        ['a'],
        ['d'],
        [
          ['Constant', [], ['rows'], [attr('value_ints', { ints: [2 ** i, 5], type: 7 })]],
          ['ConstantOfShape', ['rows'], ['zeros']],
          ['Concat', ['a', 'zeros'], ['b'], [attr('axis', { i: 0, type: 2 })]],
          [next, ['a'], ['c']],
          [next, ['b'], ['d']],
        ],
      );
    });
    const model = modelOf([['my_0', ['x'], ['y']]], { x: [1, 5] }, functions);
    const started = performance.now();
    const types = inferTypes(model);
    expect(performance.now() - started).toBeLessThan(10_000);
    const [y] = model.graph.nodes[0]?.outputs ?? [];
    expect(y && types.get(y).elem).toBe('float');
    expect(cost(model, types).nonPolynomial).toBe(2 ** levels);
  });
});

describe('what the file states', () => {
  it('fills gaps only', () => {
    const model = modelOf(
      [
        ['Relu', ['x'], ['r']],
        ['Unknown', ['r'], ['u']],
        ['Relu', ['u'], ['v']],
      ],
      { x: [2, null] },
    );
    model.graph.proto.value_info = [info('r', 'double', [7, 3]), info('u', 'float', [5]), info('v', null, [6])];
    const again = modelFromProto(model.proto, undefined);
    expect(shapesOf(again)).toEqual({ r: [2, 3], u: [5], v: [5] });
    const [r] = again.graph.nodes[0]?.outputs ?? [];
    expect(r && inferTypes(again).get(r).elem).toBe('float');
  });

  it('is all there is of cycles, undefined names and invalid nodes', () => {
    const model = modelOf(
      [
        ['Relu', ['b'], ['a']],
        ['Relu', ['a'], ['b']],
        ['Relu', ['nobody'], ['c']],
        ['Concat', ['x', 'x'], ['d'], [attr('axis', { i: 9, type: 2 })]],
        ['Transpose', ['x'], ['e'], [refer('perm', 'nothing')]],
        ['Add', ['x', 'x'], ['f']],
      ],
      { x: [2, 3] },
    );
    expect(shapesOf(model)).toEqual({ a: null, b: null, c: null, d: null, e: null, f: [2, 3] });
  });

  it('follows nodes in any order', () => {
    const model = modelOf(
      [
        ['Transpose', ['r'], ['t']],
        ['Relu', ['x'], ['r']],
      ],
      { x: [2, 3] },
    );
    expect(shapesOf(model)).toEqual({ t: [3, 2], r: [2, 3] });
  });

  it('does not trust initializers that the caller may replace', () => {
    const g = buildModel({ name: 'override', opset: 13, irVersion: 8 });
    const w = ints(g, 2, 3);
    Object.assign(w, { isInput: true, declared: { elem: 'int64', shape: ['K'] } });
    (g.model.graph.inputs as unknown as { value: Value; info: null }[]).push({ value: w, info: null });
    const y = g.node('ConstantOfShape', [w]);
    const types = inferTypes(g.model);
    expect(types.get(w)).toEqual({ elem: 'int64', shape: ['K'] });
    expect(types.get(y)).toEqual({ elem: 'float', shape: null });
  });
});
