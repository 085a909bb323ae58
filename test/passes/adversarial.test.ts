/** Graphs that once fooled a pass: each was silently wrong, crashed, or hung. */
import { describe, expect, it } from 'vitest';
import { arrayFromNumbers } from '../../src/eval/session.ts';
import { floatAttribute, intAttribute } from '../../src/graph/attributes.ts';
import { buildModel } from '../../src/graph/build.ts';
import { removeNode } from '../../src/graph/edit.ts';
import type { Model, Value } from '../../src/graph/ir.ts';
import { verify } from '../../src/graph/verify.ts';
import { summarize } from '../../src/inspect.ts';
import { insertAmm } from '../../src/passes/insert-amm.ts';
import { runReplaceActivation } from '../../src/passes/replace-activation.ts';
import { ACTIVATION_KINDS } from '../../src/poly/activations.ts';
import { parseSiteSpec } from '../../src/poly/spec.ts';
import { rewriteModel } from '../../src/rewrite.ts';
import { expectClose, numbersOf, ops, reversed, runModel } from '../support/numeric.ts';

type Builder = ReturnType<typeof buildModel>;
const all = (text: string) => ({ poly: [parseSiteSpec(text)], activations: ACTIVATION_KINDS });

function model(make: (b: Builder, x: Value) => Value, shape = [1, 4]): Model {
  const b = buildModel({ name: 'g', opset: 17 });
  const x = b.input('x', 'float', shape);
  b.output(make(b, x), 'y', 'float', shape);
  return b.model;
}
const scalar = (b: Builder, name: string, value: number) => b.constant(name, 'float', [], [value]);
const run = async (m: Model, values: number[]) =>
  numbersOf(await runModel(m, new Map([['x', arrayFromNumbers('float', [1, values.length], values)]])), 'y');

describe('rewrites that were wrong', () => {
  it('finds a spelling whose nodes stand in reverse order', async () => {
    const m = reversed(model((b, x) => b.node('Min', [b.node('Max', [x, scalar(b, 'zero', 0)]), scalar(b, 'six', 6)])));
    const report = runReplaceActivation(m, all('quad'));
    expect(report.applied.map(({ activation }) => activation)).toEqual(['clip(0,6)']);
    expect(verify(m)).toEqual([]);
    expectClose(await run(m, [1, -2, 3, 0]), [1, 4, 9, 0], 1e-6);
  });

  it('normalises the right operand of Max(0, x)', async () => {
    const m = model((b, x) => b.node('Max', [scalar(b, 'zero', 0), x], {}, 'act'));
    await insertAmm.run(m, {
      statistics: { sites: { act: { channelMin: [0, 0, 0, 0], channelMax: [10, 10, 10, 10] } } },
    });
    expectClose(await run(m, [1, 4, 6, 10]), [0, 0, 0.2, 1], 1e-6);
  });

  it('writes a constant polynomial as that constant', async () => {
    const m = model((b, x) => b.node('HardSigmoid', [x], { alpha: floatAttribute('alpha', 0), beta: 0.5 }));
    expect(runReplaceActivation(m, all('taylor')).applied).toHaveLength(1);
    expectClose(await run(m, [1, -2, 3, 0]), [0.5, 0.5, 0.5, 0.5], 0);
  });

  it('does not see through casts that truncate', () => {
    const m = model((b, x) =>
      b.node('Max', [b.node('Cast', [b.node('Cast', [x], { to: 7 })], { to: 1 }), scalar(b, 'zero', 0)]),
    );
    runReplaceActivation(m, all('coeffs=0:1'));
    expect(ops(m).filter((op) => op === 'Cast')).toHaveLength(2);
  });

  it('sees a limit far out', () => {
    const m = model((b, x) => b.node('Min', [b.node('Max', [x, scalar(b, 'zero', 0)]), scalar(b, 'limit', 255)]));
    expect(runReplaceActivation(m, all('quad')).applied[0]?.activation).toBe('clip(0,255)');
    const odd = model((b, x) => {
      const zero = scalar(b, 'zero', 0);
      return b.node('Where', [b.node('Greater', [x, scalar(b, 'forty', 40)]), zero, b.node('Max', [x, zero])]);
    });
    expect(runReplaceActivation(odd, all('quad')).applied.map(({ site }) => site)).toEqual(['max']);
  });

  it('refuses an AMM whose scale leaves the element type', async () => {
    const m = model((b, x) => b.node('Relu', [x], {}, 'act'));
    const channelMin = [0, 0, 0, 0];
    const report = await insertAmm.run(m, {
      statistics: { sites: { act: { channelMin, channelMax: channelMin.map(() => 1e-300) } } },
    });
    expect(report.skipped).toEqual([{ site: 'act', reason: 'its scale would not be finite in float' }]);
  });

  it('reads no attribute of another type as zero', () => {
    const m = model((b, x) => b.node('LeakyRelu', [x], { alpha: intAttribute('alpha', 3) }));
    expect(() => runReplaceActivation(m, all('quad'))).toThrow(
      "its attribute 'alpha' has another type than its operator wants",
    );
  });

  it('fits thousands of slopes at once', async () => {
    const slopes = Array.from({ length: 20_000 }, (_, i) => i / 20_000);
    const m = model((b, x) => b.node('PRelu', [x, b.constant('slope', 'float', [20_000], slopes)]), [1, 20_000]);
    expect(runReplaceActivation(m, all('deg=4,a=5')).applied).toHaveLength(1);
    const [zero, last] = [
      (
        await run(
          m,
          slopes.map(() => 0),
        )
      )[7],
      (
        await run(
          m,
          slopes.map(() => -5),
        )
      )[19_999],
    ];
    expect(zero).toBeCloseTo((15 / 256) * 5 * (1 - 7 / 20_000), 5);
    expect(last).toBeCloseTo(-5, 2);
  });
});

describe('names', () => {
  it('of sites are unique, also where one looks like an output of another', () => {
    const m = model((b, x) => b.node('Relu', [b.node('Relu', [x], {}, 'a')], {}, 'a_output'));
    const { sites } = summarize(m);
    expect(new Set(sites.map(({ name }) => name)).size).toBe(2);
  });
});

describe('crashes and hangs', () => {
  it.each(['constructor', 'toString', '__proto__', 'valueOf'])('an operator called %s', async (op) => {
    const m = model((b, x) => b.node('Mul', [b.node(op, [x]), x]));
    expect(summarize(m).sites).toEqual([]);
    expect((await rewriteModel(m, { poly: ['quad'], passes: ['set-batch'] })).passes[0]?.applied).toEqual([]);
  });

  it('many shared nodes', () => {
    const m = model((b, x) => {
      let top = x;
      for (let i = 0; i < 10; i++) top = b.node('Max', new Array(12).fill(top));
      return top;
    });
    expect(summarize(m).sites).toEqual([]);
  });

  it('a node is removed once', () => {
    const m = model((b, x) => b.node('Relu', [x]));
    const [relu] = m.graph.nodes;
    if (!relu) throw new Error('no node');
    removeNode(relu);
    expect(() => removeNode(relu)).toThrow('was removed already');
  });
});
