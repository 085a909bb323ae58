/** Coefficients and errors that papers and their code state, against what is computed here (docs/polynomials.md). */
import { describe, expect, it } from 'vitest';
import { relu, silu } from '../../src/poly/activations.ts';
import { SMART_PAF, signComposite, smartPaf } from '../../src/poly/composite.ts';
import { fitError } from '../../src/poly/fit.ts';
import { minimax } from '../../src/poly/minimax.ts';
import { evaluate, evaluateSeries, powerSeries, type Series, toPowers } from '../../src/poly/polynomial.ts';
import { listPresets } from '../../src/poly/presets.ts';
import { resolve } from '../../src/poly/recipe.ts';
import { parseSpec } from '../../src/poly/spec.ts';

/** Powers of x that a spec gives for ReLU, constant first. */
function coefficients(spec: string): readonly number[] {
  const resolved = resolve(parseSpec(spec).recipe, [relu], undefined);
  if ('reason' in resolved) throw new Error(resolved.reason);
  const [series] = resolved.polynomials[0]?.stages ?? [];
  return series ? toPowers(series).coefficients : [];
}

/** Equal to so many decimals. */
function expectDecimals(actual: readonly number[], expected: readonly number[], decimals: number): void {
  expect(actual).toHaveLength(expected.length);
  for (const [k, c] of expected.entries())
    expect(Math.abs((actual[k] ?? 0) - c)).toBeLessThanOrEqual(0.5 * 10 ** -decimals);
}

describe('coefficients in print', () => {
  it.each([
    ['preset=faster-cryptonets', [1 / 4, 1 / 2, 1 / 8]],
    ['preset=hcnn,net=cifar10', [1 / 4, 1 / 2, 1 / 8]],
    ['preset=cryptonets', [0, 0, 1]],
    ['preset=secureml', [0, 0, 1]],
    ['preset=hcnn', [0, 0, 1]],
    ['preset=delphi,k=all', [0.1992, 0.5002, 0.1997]],
    ['preset=delphi,from=paper,k=all', [0, 0, 1]],
    ['preset=taylor', [0, 0.5]],
    ['preset=pillar,bits=8', [0.2734375, 0.5, 0.17578125, 0, -0.00390625]],
  ])('%s: exactly', (spec, expected) => expect(coefficients(spec)).toEqual(expected));

  it.each([
    // Chou et al. print the minimax quadratic of Swish; here it is computed.
    ['Swish on [-4, 4]', toPowers(minimax(silu(), 2, [-4, 4]).series).coefficients, [0.153613744, 0.5, 0.12050344], 7],
    [
      'preset=faster-cryptonets,fn=swish',
      coefficients('preset=faster-cryptonets,fn=swish'),
      [0.153613744, 0.5, 0.12050344],
      9,
    ],
    ['PILLAR before rounding', coefficients('deg=4,a=5,dx=0.01'), [0.29326, 0.5, 0.1639, 0, -0.0032714], 5],
    ['preset=polyfit,deg=2', coefficients('preset=polyfit,deg=2'), [0.199471, 0.5, 0.199471], 6],
    ['preset=polyfit,deg=4', coefficients('preset=polyfit,deg=4'), [0.149603, 0.5, 0.299207, 0, -0.016623], 6],
    [
      'preset=polyfit,deg=6',
      coefficients('preset=polyfit,deg=6'),
      [0.124669, 0.5, 0.374008, 0, -0.041556, 0, 0.001662],
      6,
    ],
    ['CryptoDL, Legendre', coefficients('preset=cryptodl,a=1').slice(1), [0.5, 0.375], 9],
    ['CryptoDL, Chebyshev', coefficients('preset=cryptodl,a=1,weight=chebyshev').slice(1), [0.5, 0.31831], 5],
    [
      'CryptoDL, Chebyshev, degree 4',
      coefficients('preset=cryptodl,a=1,deg=4,weight=chebyshev').slice(1),
      [0.5, 0.63662, 0, -0.21221],
      5,
    ],
    [
      'lookup table of 3, Chebyshev nodes',
      coefficients('preset=lookup-table,a=2'),
      [0, 0.5, 1 / (2 * Math.sqrt(3))],
      12,
    ],
    ['lookup table of 3, equispaced', coefficients('preset=lookup-table,a=2,nodes=equispaced'), [0, 0.5, 0.25], 12],
    [
      'AutoReP, degree 2 under N(0, 1)',
      coefficients('preset=hermite'),
      [0.5 / Math.sqrt(2 * Math.PI), 0.5, 0.5 / Math.sqrt(2 * Math.PI)],
      12,
    ],
  ] as const)('%s', (_, actual, expected, decimals) => expectDecimals(actual, expected, decimals));

  it.each([
    // Fitted to samples: the exact projection is within the noise that their odd terms, which should be 0, show.
    [2, [0.1992, 0.5002, 0.1997], 3e-4],
    [6, [0.1249, 0.5, 0.3729, 0, -0.041, 0, 0.0016], 1.2e-3],
  ])('Chabanne et al., degree %i: within sampling noise', (degree, published, noise) => {
    const here = coefficients(`preset=polyfit,deg=${degree}`);
    for (const [k, c] of published.entries()) expect(Math.abs((here[k] ?? 0) - c)).toBeLessThan(noise);
    expect(coefficients(`preset=polyfit,deg=${degree},published`)).toEqual(published);
  });

  it('Chabanne et al., degree 4: x^4 is no noise, and makes it worse under N(0, 1)', () => {
    const [here, published] = ['preset=polyfit,deg=4', 'preset=polyfit,deg=4,published'].map(coefficients);
    expect(Math.abs((here?.[4] ?? 0) - (published?.[4] ?? 0))).toBeGreaterThan(0.02);
    const error = (c: readonly number[] = []) => {
      let sum = 0;
      for (let x = -8; x <= 8; x += 1e-3)
        sum +=
          1e-3 *
          (Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)) *
          (evaluateSeries(powerSeries(c), x) - Math.max(0, x)) ** 2;
      return Math.sqrt(sum);
    };
    expect(error(here)).toBeCloseTo(0.0681, 4);
    expect(error(published)).toBeGreaterThan(3 * error(here));
  });
});

/** Lee et al. 2021: odd coefficients of the first stage, and the epsilon that they belong to, by alpha. */
const FIRST_STAGES: readonly (readonly [number, number, readonly number[]])[] = [
  [4, 0.3125, [1.703095255015, -0.711917930897, 0.105888380889]],
  [6, 0.15625, [3.501123069858, -2.965384634851]],
  [7, 0.0859375, [7.304451649583, -34.682587110866, 59.859651829883, -31.875522590647]],
];
/** The largest error of ReLU on [-1, 1], also close to 0. */
function reluError(stages: readonly Series[]): number {
  const p = { stages, gated: false };
  let worst = 0;
  for (let i = 0; i <= 100_000; i++)
    for (const x of [i / 100_000, 2 ** ((-20 * i) / 100_000)])
      worst = Math.max(worst, Math.abs((x * (1 - evaluate(p, x))) / 2));
  return worst;
}

describe('composites in print', () => {
  it.each(FIRST_STAGES)(
    'alpha %i: the first stage is the one that is computed here for epsilon %f',
    (alpha, epsilon, odd) => {
      const degree = 2 * odd.length - 1;
      const { stages, error } = signComposite([degree], epsilon);
      const own = toPowers(stages[0] as Series).coefficients;
      // Alpha 4 is for [-2, 2].
      const scale = alpha === 4 ? 2 : 1;
      for (const [i, c] of odd.entries()) {
        const k = 2 * i + 1;
        expect(Math.abs((own[k] ?? 0) / (c * scale ** k) - 1), `x^${k}, error ${error}`).toBeLessThan(1e-10);
      }
    },
  );

  it.each([
    ['f2g3', 0.0164, 0.126],
    ['f1f1g1g1', 0.0139, 0.048],
    ['f2g2', 0.022, 0.072],
    ['f1g2', 0.037, 0.086],
  ] as const)('%s: %f with g first, %f in the order of the code', (name, first, last) => {
    expect(Object.keys(SMART_PAF)).toContain(name);
    // Stated to two digits.
    expect(Math.abs(reluError(smartPaf(name)) - first)).toBeLessThan(1e-3);
    expect(Math.abs(reluError(smartPaf(name, true)) - last)).toBeLessThan(1e-3);
  });
});

describe('presets', () => {
  it("are listed with the ten rows of the paper's Table 1", () => {
    const presets = listPresets();
    expect(presets.filter(({ table1 }) => table1).map(({ name }) => name)).toEqual([
      'cryptonets',
      'lookup-table',
      'polyfit',
      'secureml',
      'faster-cryptonets',
      'cryptodl',
      'hcnn',
      'delphi',
      'safenet',
      'precise',
    ]);
    for (const { degree, depth } of presets) expect(depth).toBeGreaterThanOrEqual(Math.ceil(Math.log2(degree)));
  });

  it('composites of a bound: off by alpha times the bound', () => {
    const resolved = resolve(parseSpec('preset=precise,alpha=8,B=20').recipe, [relu], undefined);
    if ('reason' in resolved) throw new Error(resolved.reason);
    const [p] = resolved.polynomials;
    if (!p) throw new Error('no polynomial');
    expect(fitError(relu, (x) => evaluate(p, x), [-20, 20]).max).toBeLessThanOrEqual(20 * 0.98 * 2 ** -8);
    expect(resolved.range).toBe(20);
  });
});
