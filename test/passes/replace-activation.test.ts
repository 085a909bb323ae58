import { describe, expect, it } from 'vitest';
import { arrayFromNumbers } from '../../src/eval/session.ts';
import { floatAttribute } from '../../src/graph/attributes.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { ElementType, Model } from '../../src/graph/ir.ts';
import { makeTensor } from '../../src/graph/tensor.ts';
import { verify } from '../../src/graph/verify.ts';
import { runReplaceActivation } from '../../src/passes/replace-activation.ts';
import type { ActivationKind } from '../../src/poly/activations.ts';
import { ACTIVATION_KINDS } from '../../src/poly/activations.ts';
import { leastSquares } from '../../src/poly/fit.ts';
import { FORMS } from '../../src/poly/plan.ts';
import { evaluate, evaluateSeries } from '../../src/poly/polynomial.ts';
import { resolve } from '../../src/poly/recipe.ts';
import { parseSiteSpec, parseSpec } from '../../src/poly/spec.ts';
import { expectClose, numbersOf, ops, runModel } from '../support/numeric.ts';

const poly = (...texts: string[]) => texts.map(parseSiteSpec);
const X = [-4.5, -2, -0.75, -0.1, 0, 0.2, 1.5, 3.25];

/** y = op(x) on [8] or [2, 4], with whatever else the spelling needs. */
type Spelling = (
  b: ReturnType<typeof buildModel>,
  x: ReturnType<ReturnType<typeof buildModel>['input']>,
) => ReturnType<ReturnType<typeof buildModel>['node']>;

function spelled(make: Spelling, opset = 17, elem: ElementType = 'float'): Model {
  const b = buildModel({ name: 'g', opset });
  const x = b.input('x', elem, [2, 4]);
  b.output(make(b, x), 'y', elem, [2, 4]);
  return b.model;
}

const scalar = (b: ReturnType<typeof buildModel>, name: string, value: number, elem: ElementType = 'float') =>
  b.constant(name, elem, [], [value]);

const SPELLINGS: [string, ActivationKind, number, Spelling][] = [
  ['Relu', 'relu', 17, (b, x) => b.node('Relu', [x])],
  ['Clip from 0 by inputs', 'relu', 17, (b, x) => b.node('Clip', [x, scalar(b, 'zero', 0)])],
  ['Clip from 0 by attributes', 'relu', 9, (b, x) => b.node('Clip', [x], { min: floatAttribute('min', 0) })],
  ['ReLU6 by inputs', 'clip', 13, (b, x) => b.node('Clip', [x, scalar(b, 'zero', 0), scalar(b, 'six', 6)])],
  [
    'ReLU6 by attributes',
    'clip',
    8,
    (b, x) => b.node('Clip', [x], { min: floatAttribute('min', 0), max: floatAttribute('max', 6) }),
  ],
  ['ReLU6 as Min(Relu)', 'clip', 17, (b, x) => b.node('Min', [b.node('Relu', [x]), scalar(b, 'six', 6)])],
  [
    'ReLU6 as Max(Min)',
    'clip',
    17,
    (b, x) => b.node('Max', [scalar(b, 'zero', 0), b.node('Min', [x, scalar(b, 'six', 6)])]),
  ],
  ['Max(x, 0)', 'relu', 17, (b, x) => b.node('Max', [x, scalar(b, 'zero', 0)])],
  [
    'Max(0, x) with a full constant',
    'relu',
    17,
    (b, x) => b.node('Max', [b.constant('zeros', 'float', [2, 4], new Array(8).fill(0)), x]),
  ],
  [
    'Where(x > 0, x, 0)',
    'relu',
    17,
    (b, x) => {
      const z = scalar(b, 'zero', 0);
      return b.node('Where', [b.node('Greater', [x, z]), x, z]);
    },
  ],
  [
    'Where(x < 0, 0, x)',
    'relu',
    17,
    (b, x) => {
      const z = scalar(b, 'zero', 0);
      return b.node('Where', [b.node('Less', [x, z]), z, x]);
    },
  ],
  [
    'x * (x > 0)',
    'relu',
    17,
    (b, x) => b.node('Mul', [x, b.node('Cast', [b.node('Greater', [x, scalar(b, 'zero', 0)])], { to: 1 })]),
  ],
  ['(x + |x|) / 2', 'relu', 17, (b, x) => b.node('Div', [b.node('Add', [x, b.node('Abs', [x])]), scalar(b, 'two', 2)])],
  ['LeakyRelu', 'leaky-relu', 17, (b, x) => b.node('LeakyRelu', [x], { alpha: 0.2 })],
  ['LeakyRelu by default', 'leaky-relu', 17, (b, x) => b.node('LeakyRelu', [x])],
  [
    'leaky ReLU as Where',
    'leaky-relu',
    17,
    (b, x) =>
      b.node('Where', [b.node('Greater', [x, scalar(b, 'zero', 0)]), x, b.node('Mul', [x, scalar(b, 'slope', 0.1)])]),
  ],
  ['leaky ReLU as Max', 'leaky-relu', 17, (b, x) => b.node('Max', [x, b.node('Mul', [x, scalar(b, 'slope', 0.1)])])],
  ['PRelu with one slope', 'prelu', 17, (b, x) => b.node('PRelu', [x, b.constant('slope', 'float', [1], [0.3])])],
  [
    'PRelu by channel',
    'prelu',
    17,
    (b, x) => b.node('PRelu', [x, b.constant('slope', 'float', [4], [0.1, 0.2, 0, 1.5])]),
  ],
  ['Sigmoid', 'sigmoid', 17, (b, x) => b.node('Sigmoid', [x])],
  ['Tanh', 'tanh', 17, (b, x) => b.node('Tanh', [x])],
  ['Elu', 'elu', 17, (b, x) => b.node('Elu', [x], { alpha: 0.5 })],
  ['Selu', 'selu', 17, (b, x) => b.node('Selu', [x])],
  ['Celu', 'celu', 17, (b, x) => b.node('Celu', [x], { alpha: 1.5 })],
  ['Gelu', 'gelu', 20, (b, x) => b.node('Gelu', [x])],
  ['Gelu by tanh', 'gelu', 20, (b, x) => b.node('Gelu', [x], { approximate: 'tanh' })],
  [
    'GELU as exporters spell it',
    'gelu',
    17,
    (b, x) => {
      const e = b.node('Erf', [b.node('Div', [x, scalar(b, 'root', Math.SQRT2)])]);
      return b.node('Mul', [b.node('Mul', [x, b.node('Add', [e, scalar(b, 'one', 1)])]), scalar(b, 'half', 0.5)]);
    },
  ],
  ['SiLU', 'silu', 17, (b, x) => b.node('Mul', [x, b.node('Sigmoid', [x])])],
  ['HardSigmoid', 'hard-sigmoid', 17, (b, x) => b.node('HardSigmoid', [x])],
  ['HardSwish', 'hard-swish', 17, (b, x) => b.node('HardSwish', [x])],
  [
    'hard swish as x relu6(x + 3) / 6',
    'hard-swish',
    17,
    (b, x) =>
      b.node('Div', [
        b.node('Mul', [
          x,
          b.node('Clip', [b.node('Add', [x, scalar(b, 'three', 3)]), scalar(b, 'zero', 0), scalar(b, 'six', 6)]),
        ]),
        scalar(b, 'six2', 6),
      ]),
  ],
  ['Softplus', 'softplus', 17, (b, x) => b.node('Softplus', [x])],
  [
    'softplus as log(1 + exp)',
    'softplus',
    17,
    (b, x) => b.node('Log', [b.node('Add', [b.node('Exp', [x]), scalar(b, 'one', 1)])]),
  ],
  ['Mish', 'mish', 18, (b, x) => b.node('Mish', [x])],
  ['Mish as x tanh(softplus(x))', 'mish', 17, (b, x) => b.node('Mul', [x, b.node('Tanh', [b.node('Softplus', [x])])])],
];

async function outputs(model: Model, values = X, elem: ElementType = 'float') {
  return numbersOf(await runModel(model, new Map([['x', arrayFromNumbers(elem, [2, 4], values)]])), 'y');
}

describe('spellings', () => {
  it.each(SPELLINGS)('%s', async (_, kind, opset, make) => {
    const original = spelled(make, opset);
    const model = cloneModel(original);
    const report = runReplaceActivation(model, { poly: poly('deg=4,a=5'), activations: ACTIVATION_KINDS });
    expect(report.skipped).toEqual([]);
    expect(report.applied.map(({ activation }) => activation.replace(/\(.*/, ''))).toEqual([kind]);
    expect(verify(model)).toEqual([]);
    expect(new Set(ops(model))).toEqual(new Set(['Mul', 'Add']));
    expect(model.opsets.get('')).toBe(opset);
    // The reference: the activation itself, as onnxruntime computes it, fitted point by point here.
    const degree = leastSquares({ ...REFERENCE, f: await sampled(original) }, 4, [-5, 5]);
    if (!report.applied[0]?.detail.includes('channels'))
      expectClose(
        await outputs(model),
        X.map((x) => evaluateSeries(degree, x)),
        2e-3,
      );
  });

  it('replaces PRelu by one polynomial for each channel', async () => {
    const [, , , make] = SPELLINGS.find(([name]) => name === 'PRelu by channel') as (typeof SPELLINGS)[number];
    const model = spelled(make);
    runReplaceActivation(model, { poly: poly('deg=4,a=5') });
    const slopes = [0.1, 0.2, 0, 1.5];
    const expected = X.map((x, i) => {
      const s = slopes[i % 4] as number;
      return evaluateSeries(leastSquares({ ...REFERENCE, f: (v) => (v >= 0 ? v : s * v), kinks: [0] }, 4, [-5, 5]), x);
    });
    expectClose(await outputs(model), expected, 1e-5);
  });
});

const REFERENCE = {
  kind: 'relu' as const,
  label: 'reference',
  slope: () => Number.NaN,
  kinks: [-3, 0, 3, 6],
  tangent: [0, 0] as const,
};

/** The activation as a function: onnxruntime's outputs on a fine grid of [-5, 5], interpolated. */
async function sampled(model: Model): Promise<(x: number) => number> {
  const count = 8000;
  const grid = Array.from({ length: count }, (_, i) => -5 + (10 * i) / (count - 1));
  const wide = cloneModel(model);
  const table: number[] = [];
  const session = await runModelOnce(wide);
  for (let i = 0; i < count; i += 8) table.push(...(await session(grid.slice(i, i + 8))));
  return (x) => {
    const at = ((x + 5) / 10) * (count - 1);
    const low = Math.min(count - 2, Math.max(0, Math.floor(at)));
    return (table[low] as number) + (at - low) * ((table[low + 1] as number) - (table[low] as number));
  };
}

async function runModelOnce(model: Model) {
  const { openSession } = await import('../../src/eval/session.ts');
  const { serialize } = await import('../../src/graph/write.ts');
  const session = await openSession(serialize(model), { optimize: false });
  return async (values: number[]) => [
    ...numbersOf(await session.run(new Map([['x', arrayFromNumbers('float', [2, 4], values)]])), 'y'),
  ];
}

describe('polynomials', () => {
  const relu: Spelling = (b, x) => b.node('Relu', [x]);

  it.each(['taylor', 'quad', 'deg=2,a=3', 'deg=8,a=4', 'coeffs=0.25:0.5:0.1', 'coeffs=0:1', 'coeffs=0:0:0:1'])(
    '%s, in every form',
    async (text) => {
      const activation = { ...REFERENCE, f: (v: number) => Math.max(0, v), kinks: [0], tangent: [0, 0.5] as const };
      const resolved = resolve(parseSpec(text).recipe, [activation], undefined);
      if ('reason' in resolved) throw new Error(resolved.reason);
      const [p] = resolved.polynomials;
      const expected = X.map((x) => (p ? evaluate(p, x) : Number.NaN));
      // Clenshaw's recurrence takes a range.
      for (const form of FORMS.filter((one) => one !== 'clenshaw' || text.includes('a='))) {
        const model = spelled(relu);
        runReplaceActivation(model, { poly: poly(text), form });
        expect(verify(model)).toEqual([]);
        expectClose(await outputs(model), expected, 1e-4);
      }
    },
  );

  it('gives float16 and double graphs constants of their type', async () => {
    for (const [elem, tolerance] of [
      ['double', 1e-12],
      ['float16', 2e-2],
    ] as const) {
      const model = spelled(
        (b, x) => b.node('Mul', [b.node('Mul', [x, b.constant('one', elem, [], [1])]), b.node('Relu', [x])]),
        17,
        elem,
      );
      const report = runReplaceActivation(model, { poly: poly('deg=4,a=5') });
      expect(report.applied).toHaveLength(1);
      for (const { tensor } of model.graph.initializers) expect(tensor.elem).toBe(elem);
      const c = leastSquares({ ...REFERENCE, f: (v) => Math.max(0, v), kinks: [0] }, 4, [-5, 5]);
      expectClose(
        await outputs(model, X, elem),
        X.map((x) => x * evaluateSeries(c, x)),
        tolerance * 20,
      );
    }
  });

  it('refuses coefficients that the element type loses', () => {
    const model = spelled(relu, 17, 'float16');
    const report = runReplaceActivation(model, { poly: poly('deg=8,a=50'), form: 'horner' });
    expect(report.applied).toEqual([]);
    expect(report.skipped[0]?.reason).toMatch(/coefficient c8 = .* does not fit float16/);
    expect(ops(model)).toEqual(['Relu']);
  });

  it('names coefficients, nodes and outputs after the site', () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', [2, 4]);
    b.output(b.node('Relu', [x], {}, 'act1'), 'y', 'float', [2, 4]);
    runReplaceActivation(b.model, { poly: poly('deg=2,a=1') });
    expect(b.model.graph.initializers.map(({ value }) => value.name).sort()).toEqual([
      'act1/poly/c0',
      'act1/poly/c1',
      'act1/poly/c2',
    ]);
    expect(b.model.graph.nodes.map(({ name }) => name)[0]).toMatch(/^act1\/poly\/(mul|add)$/);
    expect(b.model.graph.outputs[0]?.value.name).toBe('y');
  });
});

describe('which sites', () => {
  function chain() {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', [2, 4]);
    const first = b.node('Relu', [x], {}, 'conv1/relu');
    const second = b.node('Relu', [b.node('Sub', [first, scalar(b, 'one', 1)])], {}, 'conv2/relu');
    const third = b.node('Sigmoid', [second], {}, 'head/sigmoid');
    b.output(third, 'y', 'float', [2, 4]);
    return b.model;
  }

  it('replaces the ReLU family unless told otherwise', () => {
    const model = chain();
    expect(runReplaceActivation(model, { poly: poly('quad') }).applied).toHaveLength(2);
    expect(ops(model)).toContain('Sigmoid');
    const report = runReplaceActivation(model, { poly: poly('deg=3,a=4'), activations: ['sigmoid'] });
    expect(report.applied.map(({ site }) => site)).toEqual(['head/sigmoid']);
  });

  it('takes the last spec that matches', () => {
    const report = runReplaceActivation(chain(), { poly: poly('deg=2,a=3', 'conv1/*=deg=6,a=10') });
    expect(report.applied.map(({ site, poly: text }) => [site, text])).toEqual([
      ['conv1/relu', 'deg=6,a=10'],
      ['conv2/relu', 'deg=2,a=3'],
    ]);
  });

  it('leaves sites without a spec, and says so', () => {
    const report = runReplaceActivation(chain(), { poly: poly('conv2*=quad') });
    expect(report.applied.map(({ site }) => site)).toEqual(['conv2/relu']);
    expect(report.skipped).toEqual([{ site: 'conv1/relu', reason: 'no --poly is given for it' }]);
  });

  it('--only and --skip', () => {
    expect(
      runReplaceActivation(chain(), { poly: poly('quad'), only: ['conv1/*'] }).applied.map(({ site }) => site),
    ).toEqual(['conv1/relu']);
    expect(
      runReplaceActivation(chain(), { poly: poly('quad'), skip: ['conv1/*'] }).applied.map(({ site }) => site),
    ).toEqual(['conv2/relu']);
    expect(() => runReplaceActivation(chain(), { poly: poly('quad'), only: ['conv3/*'] })).toThrow(
      "--only: 'conv3/*' matches no activation of this model",
    );
    expect(() => runReplaceActivation(chain(), { poly: poly('conf1/relu=quad') })).toThrow(
      "did you mean 'conv1/relu'?",
    );
  });

  it('keeps what others read, and constants that others use', async () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', [2, 4]);
    const zero = scalar(b, 'zero', 0);
    const positive = b.node('Greater', [x, zero]);
    const y = b.node('Where', [positive, x, zero]);
    b.output(y, 'y', 'float', [2, 4]);
    b.output(b.node('Not', [positive]), 'negative', 'bool', [2, 4]);
    const report = runReplaceActivation(b.model, { poly: poly('deg=2,a=5') });
    expect(report.applied).toHaveLength(1);
    expect(verify(b.model)).toEqual([]);
    expect(ops(b.model)).toContain('Greater');
    expect(b.model.graph.initializers.map(({ value }) => value.name)).toContain('zero');
  });

  it('computes activations of constants instead of approximating them', async () => {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', [2, 4]);
    const w = b.tensor(makeTensor('w', 'float', [4], [-1, 2, -3, 4]));
    b.output(b.node('Mul', [x, b.node('Relu', [w])]), 'y', 'float', [2, 4]);
    const report = runReplaceActivation(b.model, { poly: poly('quad') });
    expect(report).toMatchObject({ applied: [], folded: [{ detail: 'relu of a constant, computed' }] });
    expect(ops(b.model)).toEqual(['Mul']);
    expectClose(
      await outputs(b.model),
      X.map((v, i) => v * ([0, 2, 0, 4][i % 4] as number)),
      1e-6,
    );
  });

  it('skips integers, and Clips that are no ReLU', () => {
    const integers = spelled((b, x) => b.node('Relu', [x]), 17, 'int32');
    expect(runReplaceActivation(integers, { poly: poly('quad') }).skipped[0]?.reason).toBe(
      'it works on int32; polynomials here are for floating point',
    );
    const clip = spelled((b, x) => b.node('Clip', [x, scalar(b, 'low', -1), scalar(b, 'high', 1)]));
    expect(runReplaceActivation(clip, { poly: poly('quad') }).skipped[0]?.reason).toBe(
      'Clip from -1 is no ReLU: that starts at 0',
    );
  });

  it('lists new initializers among the inputs below IR 4, as the format wants', async () => {
    const b = buildModel({ name: 'g', opset: 8, irVersion: 3 });
    const x = b.input('x', 'float', [2, 4]);
    b.output(b.node('Relu', [x]), 'y', 'float', [2, 4]);
    runReplaceActivation(b.model, { poly: poly('deg=2,a=5') });
    expect(b.model.graph.inputs).toHaveLength(4);
    const c = leastSquares({ ...REFERENCE, f: (v) => Math.max(0, v), kinks: [0] }, 2, [-5, 5]);
    expectClose(
      await outputs(b.model),
      X.map((v) => evaluateSeries(c, v)),
      1e-5,
    );
  });
});
