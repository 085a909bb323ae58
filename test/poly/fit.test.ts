import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { clip, hardSwish, relu, sigmoidActivation, silu, tanh } from '../../src/poly/activations.ts';
import { fitError, interpolation, leastSquares, tangentLine, taylor } from '../../src/poly/fit.ts';
import { evaluateSeries, fromUnit, type Interval, toPowers } from '../../src/poly/polynomial.ts';
import { weightedFit } from '../../src/poly/quadrature.ts';
import {
  ALL,
  anyActivation,
  anyChange,
  anyInterval,
  changed,
  distance,
  largest,
  midpoints,
  ROWS,
} from './activations.ts';

const powersOf = (...parameters: Parameters<typeof leastSquares>) => toPowers(leastSquares(...parameters)).coefficients;

describe('least squares', () => {
  it('is the exact rational projection for ReLU', () => {
    expect(powersOf(relu, 1, [-1, 1])).toEqual([1 / 4, 1 / 2]);
    expect(powersOf(relu, 2, [-1, 1])).toEqual([3 / 32, 1 / 2, 15 / 32]);
    expect(powersOf(relu, 4, [-1, 1])).toEqual([15 / 256, 1 / 2, 105 / 128, 0, -105 / 256]);
    expect(powersOf(relu, 6, [-1, 1]).map((c) => c.toFixed(9))).toEqual(
      [175 / 4096, 0.5, 1.153564453, 0, -1.409912109, 0, 0.733154297].map((c) => c.toFixed(9)),
    );
    expect(
      distance(
        powersOf(relu, 8, [-1, 1]),
        [0.0336456298828, 0.5, 1.48040771484, 0, -3.20755004883, 0, 3.84906005859, 0, -1.66923522949],
      ),
    ).toBeLessThan(1e-11);
  });

  it('gives odd degrees the polynomial of the even degree below, without ghosts', () => {
    for (const degree of [3, 5, 7, 9, 21, 31]) {
      const { coefficients } = leastSquares(relu, degree, [-5, 5]);
      expect(coefficients).toHaveLength(degree);
      expect(coefficients[3] ?? 0).toBe(0);
    }
    expect(powersOf(relu, 9, [-5, 5])).toHaveLength(9);
  });

  it('scales as c_k(a) = c_k(1) a^(1-k)', () => {
    for (const a of [0.5, 5, 50])
      for (const [k, c] of powersOf(relu, 8, [-a, a]).entries()) {
        const expected = (powersOf(relu, 8, [-1, 1])[k] ?? 0) * a ** (1 - k);
        expect(Math.abs(c - expected)).toBeLessThanOrEqual(1e-12 * Math.abs(expected));
      }
  });

  it('loses nothing at degree 32: the Legendre series of ReLU in closed form, to 1e-13', () => {
    // On P_2m it has (4m + 1) / 2 (-1)^(m+1) (2m - 2)! / (4^m (m - 1)! (m + 1)!), and 1/2 on P_1.
    const legendre = [1 / 4, 1 / 2];
    let term = 1 / 8; // (2m - 2)! / (4^m (m - 1)! (m + 1)!) for m = 1
    for (let m = 1; m <= 16; m++) {
      legendre[2 * m] = (m % 2 === 1 ? 1 : -1) * (2 * m + 0.5) * term;
      term *= (2 * m * (2 * m - 1)) / (4 * m * (m + 2));
    }
    const series = leastSquares(relu, 32, [-5, 5]);
    for (const t of midpoints([-1, 1], 101)) {
      let [p, next, sum] = [1, t, 0];
      for (let k = 0; k <= 32; k++) {
        sum += (legendre[k] ?? 0) * p;
        [p, next] = [next, ((2 * k + 3) * t * next - (k + 1) * p) / (k + 2)];
      }
      expect(Math.abs(evaluateSeries(series, 5 * t) - 5 * sum)).toBeLessThan(5e-13);
    }
  });

  it('keeps the polynomials that it can make: ReLU away from 0, straight lines', () => {
    expect(powersOf(relu, 7, [1, 5])).toEqual([0, 1]);
    expect(powersOf(hardSwish, 4, [-2, 3])).toEqual([0, 0.5, 0.16666666666667]);
  });

  it("equals the paper's grid fit within 1e-6: exactly for its dx, and the continuous fit as its limit", () => {
    for (const [degree, low, high] of [
      [2, -5, 5],
      [4, -5, 5],
      [6, -10, 10],
      [4, -1, 3],
    ] as const) {
      // The reference solves normal equations, which cost it digits; 1e-9 is what it keeps.
      expect(
        distance(powersOf(relu, degree, [low, high], 1e-3), gridReference(degree, [low, high], 1e-3)),
      ).toBeLessThan(1e-9);
      // The grid weighs its two ends as much as inner points, an error linear in dx; extrapolated to dx = 0:
      const [coarse, fine] = [gridReference(degree, [low, high], 1e-3), gridReference(degree, [low, high], 5e-4)];
      expect(
        distance(
          powersOf(relu, degree, [low, high]),
          fine.map((c, k) => 2 * c - (coarse[k] as number)),
        ),
      ).toBeLessThan(1e-6);
    }
  });

  it('beats its neighbours in its own norm: any activation, degree and interval', () => {
    fc.assert(
      fc.property(
        anyActivation,
        fc.nat({ max: 12 }),
        anyInterval,
        anyChange,
        (activation, degree, interval, change) => {
          const places = midpoints(interval, 4000);
          const values = places.map(activation.f);
          const norm = (series: Parameters<typeof evaluateSeries>[0]) =>
            places.reduce((sum, x, i) => sum + (evaluateSeries(series, x) - (values[i] as number)) ** 2, 0);
          const best = leastSquares(activation, degree, interval);
          const scale = largest(values);
          fc.pre(scale > 1e-3);
          expect(norm(changed(best, degree, change, scale))).toBeGreaterThan(norm(best));
        },
      ),
      { seed: 1, numRuns: 100 },
    );
  });

  it('resolves a narrow transition in a wide range', () => {
    // The projection of tanh on a wide range tends to that of the sign function: c1 -> 3/2 / a.
    expect((powersOf(tanh, 1, [-1000, 1000])[1] as number) * 1000).toBeCloseTo(1.5, 4);
  });

  it.each([
    [-1, [-1, 1]],
    [2.5, [-1, 1]],
    [33, [-1, 1]],
    [2, [1, 1]],
    [2, [3, -3]],
    [2, [Number.NaN, 1]],
    [2, [0, Number.POSITIVE_INFINITY]],
  ] as const)('refuses degree %s on %j in one line', (degree, interval) => {
    expect(() => leastSquares(relu, degree, interval)).toThrow(/^(degree|\[).*/);
    expect(() => interpolation(relu, degree, interval, 'chebyshev')).toThrow(expect.objectContaining({ code: 'spec' }));
  });

  it('refuses a grid of too few or too many points', () => {
    expect(() => leastSquares(relu, 4, [-1, 1], 0.5)).toThrow('dx=0.5 gives 4 points');
    expect(() => leastSquares(relu, 4, [-1, 1], 1e-8)).toThrow('takes 5 to 2000000');
  });
});

describe('interpolation', () => {
  it('is the lookup table of q levels as a polynomial', () => {
    // Three levels: x/2 + x^2 / (sqrt(3) a) through Chebyshev nodes, x/2 + x^2 / (2a) through equispaced ones.
    const a = 4;
    expect(
      distance(toPowers(interpolation(relu, 2, [-a, a], 'chebyshev')).coefficients, [0, 0.5, 1 / (Math.sqrt(3) * a)]),
    ).toBeLessThan(1e-14);
    expect(
      distance(toPowers(interpolation(relu, 2, [-a, a], 'equispaced')).coefficients, [0, 0.5, 1 / (2 * a)]),
    ).toBeLessThan(1e-14);
  });

  it('meets the activation at its nodes', () => {
    fc.assert(
      fc.property(
        anyActivation,
        fc.nat({ max: 20 }),
        anyInterval,
        fc.boolean(),
        (activation, degree, interval, even) => {
          const series = interpolation(activation, degree, interval, even ? 'equispaced' : 'chebyshev');
          const units = Array.from({ length: degree + 1 }, (_, i) =>
            even ? (degree === 0 ? 0 : -1 + (2 * i) / degree) : Math.cos((Math.PI * (i + 0.5)) / (degree + 1)),
          );
          const places = units.map((t) => fromUnit(interval, t));
          // Coefficients of equispaced interpolants grow like 2^degree, and rounding with them.
          const scale = largest(series.coefficients);
          for (const x of places)
            expect(Math.abs(evaluateSeries(series, x) - activation.f(x))).toBeLessThanOrEqual(1e-12 * (scale + 1e-3));
        },
      ),
      { seed: 2, numRuns: 150 },
    );
  });

  it('is not the truncated Chebyshev series, which is least squares under the Chebyshev weight', () => {
    // |x| = 2/pi + 4/pi sum (-1)^(k+1) T_2k / (4k^2 - 1), for ReLU in powers of x.
    const truncated = {
      2: [0.1061033, 0.5, 0.42441318],
      4: [0.06366198, 0.5, 0.76394373, 0, -0.33953055],
      6: [0.04547284, 0.5, 1.09134818, 0, -1.21260909, 0, 0.58205236],
    };
    const count = 20_000;
    const x = Float64Array.from({ length: count }, (_, i) => Math.cos((Math.PI * (i + 0.5)) / count));
    const weight = new Float64Array(count).fill(1);
    for (const [degree, expected] of Object.entries(truncated)) {
      const found = toPowers(weightedFit({ x, weight }, relu.f, Number(degree), [-1, 1])).coefficients;
      expect(distance(found, expected)).toBeLessThan(1e-7);
      expect(
        distance(toPowers(interpolation(relu, Number(degree), [-1, 1], 'chebyshev')).coefficients, expected),
      ).toBeGreaterThan(0.02);
    }
  });
});

describe('Taylor polynomials', () => {
  it('are those of SiLU as the released code of Sisyphus has them', () => {
    const published = [0, 1 / 2, 1 / 4, 0, -1 / 48, 0, 1 / 480, 0, -17 / 80640, 0, 31 / 1451520];
    expect(distance(taylor(silu(), 10).coefficients, published)).toBeLessThan(1e-16);
  });

  it('are x/2 for ReLU whatever the degree, and the tangent wherever 0 is a kink', () => {
    for (const degree of [1, 2, 9]) {
      expect(taylor(relu, degree).coefficients).toEqual([0, 0.5]);
      expect(taylor(clip(6), degree).coefficients).toEqual([0, 0.5]);
    }
    expect(tangentLine(relu).coefficients).toEqual([0, 0.5]);
    expect(tangentLine(sigmoidActivation).coefficients).toEqual([0.5, 0.25]);
    expect(taylor(hardSwish, 8).coefficients).toEqual([0, 0.5, 1 / 6]);
  });

  it.each(ROWS)(
    '%s: its tangent is value and slope at 0, and its derivative the slope of its values',
    (_, activation) => {
      const h = 1e-5;
      const difference = (x: number) => (activation.f(x + h) - activation.f(x - h)) / (2 * h);
      expect(activation.tangent[0]).toBeCloseTo(activation.f(0), 12);
      expect(activation.tangent[1]).toBeCloseTo(difference(0), 4);
      // Central differences are good to h^2 and to rounding / h.
      for (const x of [-4.3, -2.6, -1.1, -0.3, 0.2, 0.7, 1.9, 4.4, 6.5])
        expect(Math.abs(activation.slope(x) - difference(x))).toBeLessThan(1e-9);
    },
  );

  it.each(ROWS.filter(([, { series }]) => series))(
    '%s: meets the function to the order of its degree',
    (_, activation) => {
      const [small, large] = [0.05, 0.1].map((x) =>
        Math.max(
          ...[-x, x].map((place) => Math.abs(evaluateSeries(taylor(activation, 4), place) - activation.f(place))),
        ),
      ) as [number, number];
      // The rest is of order x^5 or higher: halving x divides it by 32 or more, until only rounding is left.
      expect(small).toBeLessThan(large / 28 + 1e-16);
      expect(Math.abs(evaluateSeries(taylor(activation, 20), 0.3) - activation.f(0.3))).toBeLessThan(1e-11);
    },
  );
});

describe('the error of a fit', () => {
  it('is the largest one, at kinks too, and the root of the mean square', () => {
    const line = leastSquares(relu, 4, [-5, 5]);
    const { max, rms } = fitError(relu, (x) => evaluateSeries(line, x), [-5, 5]);
    expect(max).toBeCloseTo(5 * 0.05859375, 12);
    // Pythagoras: the mean square of ReLU is a^2 / 6, and its projection's the sum of c_k^2 / (2k + 1), c_k on P_k.
    const projection = [1 / 4, 1 / 2, 5 / 16, 0, -3 / 32].reduce((sum, c, k) => sum + (c * c) / (2 * k + 1), 0);
    expect(rms).toBeCloseTo(5 * Math.sqrt(1 / 6 - projection), 12);
    expect(fitError(relu, () => 0, [-5, 5])).toEqual({ max: 5, rms: expect.closeTo(5 / Math.sqrt(6), 12) });
  });

  it.each(ROWS)('%s: agrees with a plain sum over 20000 places on a lopsided interval', (_, activation) => {
    const interval: Interval = [-7, 4];
    const series = leastSquares(activation, 5, interval);
    const errors = midpoints(interval, 20_000).map((x) => evaluateSeries(series, x) - activation.f(x));
    const { max, rms } = fitError(activation, (x) => evaluateSeries(series, x), interval);
    const corners = [...interval, ...activation.kinks.filter((x) => x > -7 && x < 4)].map(
      (x) => evaluateSeries(series, x) - activation.f(x),
    );
    expect(max).toBeCloseTo(largest([...errors, ...corners]), 5);
    expect(rms).toBeCloseTo(Math.sqrt(errors.reduce((sum, e) => sum + e * e, 0) / errors.length), 7);
  });

  it('is NaN, not 0, where the polynomial is', () => {
    expect(fitError(relu, () => Number.NaN, [-1, 1]).max).toBeNaN();
  });

  it('falls with the degree for every activation', () => {
    for (const activation of ALL) {
      const errors = [1, 3, 5, 8, 16, 32].map((degree) => {
        const series = leastSquares(activation, degree, [-4, 5]);
        return fitError(activation, (x) => evaluateSeries(series, x), [-4, 5]).rms;
      });
      for (let i = 1; i < errors.length; i++)
        expect(errors[i]).toBeLessThanOrEqual((errors[i - 1] as number) * (1 + 1e-9) + 1e-14);
    }
  });
});

/** Normal equations in t = x/a, solved by elimination with pivots: written apart from the code under test. */
function gridReference(degree: number, [low, high]: Interval, dx: number): number[] {
  const n = Math.trunc((high - low) / dx);
  const a = Math.max(-low, high);
  const size = degree + 1;
  const rows = Array.from({ length: size }, () => new Array<number>(size + 1).fill(0));
  for (let i = 0; i < n; i++) {
    const t = (low + ((high - low) * i) / (n - 1)) / a;
    const powers = Array.from({ length: size }, (_, k) => t ** k);
    for (const [r, row] of rows.entries()) {
      for (let c = 0; c < size; c++) (row[c] as number) += (powers[r] as number) * (powers[c] as number);
      (row[size] as number) += (powers[r] as number) * Math.max(0, a * t);
    }
  }
  for (let i = 0; i < size; i++) {
    let best = i;
    for (let r = i; r < size; r++) if (Math.abs(rows[r]?.[i] ?? 0) > Math.abs(rows[best]?.[i] ?? 0)) best = r;
    const pivot = rows[best] as number[];
    rows[best] = rows[i] as number[];
    rows[i] = pivot;
    for (const [r, row] of rows.entries()) {
      if (r === i) continue;
      const factor = (row[i] as number) / (pivot[i] as number);
      for (let c = i; c <= size; c++) (row[c] as number) -= factor * (pivot[c] as number);
    }
  }
  return rows.map((row, k) => ((row[size] as number) / (row[k] as number)) * a ** -k);
}
