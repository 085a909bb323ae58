import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { leakyRelu } from '../../src/poly/activations.ts';
import {
  ALPHA_DEGREES,
  CHEON,
  preciseSign,
  reluComposite,
  SMART_PAF,
  type SmartPaf,
  signComposite,
  smartPaf,
} from '../../src/poly/composite.ts';
import {
  type ChebyshevSeries,
  chebyshevSeries,
  degreeOf,
  evaluate,
  evaluateSeries,
  type Series,
  toPowers,
} from '../../src/poly/polynomial.ts';
import { COMPOSITE_ERRORS } from '../support/published.ts';
import { distance, largest, midpoints } from './activations.ts';

const through = (stages: readonly Series[], x: number) =>
  stages.reduce((value, series) => evaluateSeries(series, value), x);
const oddPowers = (series: Series) => toPowers(series).coefficients.filter((_, k) => k % 2 === 1);

/** Equal steps, and steps by a factor towards 0: the error has its extrema at any scale. */
const PLACES = Array.from({ length: 20_001 }, (_, i) => [i / 20_000, 2 ** ((-20 * i) / 20_000)]).flat();
const reluErrors = (stages: readonly Series[]) => PLACES.map((x) => (x * (through(stages, x) - 1)) / 2);

describe('composites for ReLU', () => {
  // Ours are below all of them.
  it.each(COMPOSITE_ERRORS)('alpha %i has an error of at most %f 2^-alpha', (alpha, published) => {
    const { stages, error } = preciseSign(alpha);
    const worst = largest(reluErrors(stages)) * 2 ** alpha;
    expect(worst).toBeLessThan(published);
    // Half of the sign's error at 1, and the same within epsilon: neither can fall without the other rising.
    expect(worst).toBeCloseTo((error / 2) * 2 ** alpha, 5);
    expect(stages.map(({ coefficients }) => coefficients.length - 1)).toEqual(ALPHA_DEGREES[alpha]);
  });

  it.each([4, 7, 10, 14])('alpha %i: another epsilon is worse', (alpha) => {
    const best = preciseSign(alpha);
    for (const factor of [0.9, 0.99, 1.01, 1.1]) {
      const { stages } = signComposite(ALPHA_DEGREES[alpha] ?? [], best.epsilon * factor);
      expect(largest(reluErrors(stages))).toBeGreaterThan(largest(reluErrors(best.stages)));
    }
  });

  it('stay within [-1, 1] before the last stage, and within 1 + error after it', () => {
    for (const alpha of Object.keys(ALPHA_DEGREES).map(Number)) {
      const { stages, error } = preciseSign(alpha);
      for (const [i, series] of stages.entries()) {
        expect((series as ChebyshevSeries).interval).toEqual([-1, 1]);
        const bound = i + 1 < stages.length ? 1 : 1 + error;
        expect(largest(PLACES.map((x) => evaluateSeries(series, x)))).toBeLessThanOrEqual(bound * (1 + 1e-12));
      }
    }
  });

  it('are computed once', () => {
    expect(preciseSign(9)).toBe(preciseSign(9));
  });

  it('refuse other alphas', () => {
    for (const alpha of [3, 15, 4.5, Number.NaN])
      expect(() => preciseSign(alpha)).toThrow('no whole number from 4 to 14');
  });
});

describe('the published coefficients', () => {
  // Odd ones, of snu-ccl/approxCNN, to 12 digits.
  const PUBLISHED = {
    4: [[1.703095255015, -0.711917930897, 0.105888380889]],
    6: [
      [3.501123069858, -2.965384634851],
      [2.500858657805, -2.835698539325, 1.65087958203, -0.339479674628],
    ],
    7: [
      [7.304451649583, -34.682587110866, 59.859651829883, -31.875522590647],
      [2.400856522176, -2.631254542618, 1.549126747736, -0.331172956504],
    ],
  };

  it.each([
    [6, 0.15625],
    [7, 0.0859375],
  ] as const)('of alpha %i are ours for epsilon = %f', (alpha, epsilon) => {
    const [degree, second] = ALPHA_DEGREES[alpha] as readonly [number, number];
    const [first, last] = PUBLISHED[alpha] as [number[], number[]];
    const { stages } = signComposite([degree, second], epsilon);
    const { error } = signComposite([degree], epsilon);
    // Our first stage ends at 1, theirs at 1 + E.
    expect(
      distance(
        oddPowers(stages[0] as Series).map((c) => c * (1 + error)),
        first,
      ),
    ).toBeLessThan(1e-10);
    // Their second stage is for [1 - E, 1 + E] with 2^-22 more at both ends, which is 1e-6 of a coefficient;
    const room = 2 ** -22;
    const ends = [1 - error - room, 1 + error + room] as const;
    const widened = signComposite([second], ends[0] / ends[1]).stages[0] as Series;
    const unscaled = (series: Series, end: number) => oddPowers(series).map((c, k) => c * end ** -(2 * k + 1));
    expect(distance(unscaled(stages[1] as Series, 1 + error), last)).toBeLessThan(1e-6);
    // with that room they agree to all of the 12 digits but the last three.
    expect(distance(unscaled(widened, ends[1]), last)).toBeLessThan(2e-9);
  });

  it('of alpha 4 are ours for epsilon = 0.3125 on [-2, 2]: half of their domain is not used', () => {
    const [stage] = signComposite([5], 0.3125).stages as [Series];
    expect(
      distance(
        oddPowers(stage).map((c, k) => c / 2 ** (2 * k + 1)),
        PUBLISHED[4][0] as number[],
      ),
    ).toBeLessThan(1e-10);
    const theirs: Series = { basis: 'power', coefficients: (PUBLISHED[4][0] as number[]).flatMap((c) => [0, c]) };
    expect(largest(reluErrors([theirs])) * 16).toBeCloseTo(1.22, 2);
  });
});

describe('composites of minimax sign polynomials', () => {
  it('have their error at both ends, with alternating signs between, and beat their neighbours', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(3, 5, 9, 15, 21),
        fc.double({ min: 0.02, max: 0.5, noNaN: true }),
        fc.nat({ max: 20 }),
        fc.double({ min: 1e-3, max: 0.1, noNaN: true }),
        fc.boolean(),
        (degree, epsilon, term, size, up) => {
          const { stages, error } = signComposite([degree], epsilon);
          const [series] = stages as [ChebyshevSeries];
          const places = [epsilon, ...midpoints([epsilon, 1], 2000), 1];
          const worst = (coefficients: readonly number[]) =>
            largest(places.map((x) => evaluateSeries(chebyshevSeries(coefficients, [-1, 1]), x) - 1));
          expect(worst(series.coefficients)).toBeLessThanOrEqual(error * (1 + 1e-9) + 1e-14);
          expect(1 - evaluateSeries(series, epsilon)).toBeCloseTo(error, 10);
          expect(Math.abs(1 - evaluateSeries(series, 1))).toBeCloseTo(error, 10);
          const neighbour = [...series.coefficients];
          (neighbour[1 + 2 * (term % ((degree + 1) / 2))] as number) += up ? size : -size;
          expect(worst(neighbour)).toBeGreaterThan(error);
        },
      ),
      { seed: 9, numRuns: 80 },
    );
  });

  it('state the error of the whole', () => {
    for (const [degrees, epsilon] of [
      [[7, 7, 13], 2 ** -8],
      [[15, 15, 27], 2 ** -12],
      [[3, 3, 3, 3, 3, 3], 0.01],
      [[1, 1], 0.5],
    ] as const) {
      const { stages, error } = signComposite(degrees, epsilon);
      // Equal steps of the logarithm: 0.1 % of the extrema's height is missed at most.
      const places = [epsilon, ...midpoints([Math.log(epsilon), 0], 20_000).map(Math.exp), 1];
      const found = largest(places.map((x) => 1 - through(stages, x)));
      expect(found).toBeLessThanOrEqual(error * (1 + 1e-9));
      expect(found).toBeGreaterThan(error * 0.999);
      for (const x of places.slice(0, 50)) expect(through(stages, -x)).toBeCloseTo(-through(stages, x), 13);
    }
  });

  it('survive stages that are exact to rounding', () => {
    for (const [degrees, epsilon] of [
      [[15, 15], 0.9],
      [[27, 27], 0.5],
      [[7, 7, 27], 0.3],
    ] as const) {
      const { stages, error } = signComposite(degrees, epsilon);
      expect(error).toBeLessThan(1e-12);
      for (const x of midpoints([epsilon, 1], 100)) expect(Math.abs(1 - through(stages, x))).toBeLessThan(1e-12);
    }
  });

  it('refuse even degrees, none, and an epsilon outside of (0, 1)', () => {
    expect(() => signComposite([7, 4], 0.1)).toThrow('stage degrees are odd, 1 to 31, not 4');
    expect(() => signComposite([], 0.1)).toThrow('not none');
    for (const epsilon of [0, 1, -1, Number.NaN])
      expect(() => signComposite([7], epsilon)).toThrow(expect.objectContaining({ code: 'spec' }));
  });
});

describe('ReLU and leaky ReLU from a sign', () => {
  it('are scaled to the bound, with its error times the bound', () => {
    const { stages, error } = preciseSign(8);
    for (const bound of [1, 50])
      for (const slope of [0, 0.1, -0.3]) {
        const p = reluComposite(stages, bound, slope);
        const activation = leakyRelu(slope);
        expect(degreeOf(p)).toBe(7 * 15 + 1);
        expect(p.stages[0]).toMatchObject({ interval: [-bound, bound] });
        // The line of slope `slope` is exact; what is left of the step is (1 - slope) of it.
        const errors = PLACES.flatMap((x) => [bound * x, -bound * x]).map((x) => evaluate(p, x) - activation.f(x));
        expect(largest(errors)).toBeCloseTo((bound * (1 - slope) * error) / 2, 6);
      }
  });

  it("take power series too: Cheon's", () => {
    const p = reluComposite([CHEON.g1, CHEON.f1], 10);
    for (const x of midpoints([-10, 10], 50)) {
      const g = 2.076171875 * (x / 10) - 1.3271484375 * (x / 10) ** 3;
      expect(evaluate(p, x)).toBeCloseTo((x * (1 + 1.5 * g - 0.5 * g ** 3)) / 2, 12);
    }
  });
});

describe("SMART-PAF's composites", () => {
  it.each([
    ['f2g3', 0.0164, 0.0043, 0.126, 0.037],
    ['f1f1g1g1', 0.0139, 0.0023, 0.048, 0.015],
    ['f2g2', 0.022, 0.0063, 0.072, 0.027],
    ['f1g2', 0.037, 0.0134, 0.086, 0.033],
  ] as const)(
    '%s has the tabulated errors, g first and in the published order',
    (name, worst, mean, published, publishedMean) => {
      for (const [stages, expectedWorst, expectedMean] of [
        [smartPaf(name), worst, mean],
        [smartPaf(name, true), published, publishedMean],
      ] as const) {
        const errors = midpoints([0, 1], 20_000).map((x) => Math.abs(x * (through(stages, x) - 1)) / 2);
        // Half a unit of the last digit that is printed, in either direction.
        expect(Math.abs(largest(errors) / expectedWorst - 1)).toBeLessThan(0.01);
        expect(Math.abs(errors.reduce((sum, e) => sum + e, 0) / errors.length / expectedMean - 1)).toBeLessThan(0.02);
      }
    },
  );

  it('are signs: f_n(1) = 1, odd, flat at 1; alpha7 is the minimax one', () => {
    for (const [name, series] of Object.entries(CHEON)) {
      for (const x of [0.2, 0.7]) expect(evaluateSeries(series, -x)).toBe(-evaluateSeries(series, x));
      if (name.startsWith('f')) {
        expect(evaluateSeries(series, 1)).toBeCloseTo(1, 14);
        const slope = toPowers(series).coefficients.reduce((sum, c, k) => sum + k * c, 0);
        expect(slope).toBeCloseTo(0, 13);
      }
    }
    expect(smartPaf('alpha7', true)).toBe(preciseSign(7).stages);
    for (const name of Object.keys(SMART_PAF) as SmartPaf[]) expect(through(smartPaf(name), 1)).toBeCloseTo(1, 0);
  });
});
