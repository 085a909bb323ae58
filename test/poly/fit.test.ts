import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Activation,
  celu,
  clip,
  elu,
  gelu,
  hardSigmoid,
  hardSwish,
  leakyRelu,
  mish,
  relu,
  selu,
  sigmoidActivation,
  silu,
  softplusActivation,
  tanh,
} from '../../src/poly/activations.ts';
import { evaluate, fitError, leastSquares, tangent } from '../../src/poly/fit.ts';

const polynomial = (coefficients: readonly number[]) => (x: number) => evaluate(coefficients, x);

const ALL: Activation[] = [
  relu,
  clip(6),
  leakyRelu(0.1),
  sigmoidActivation,
  tanh,
  elu(1),
  selu(1.67326, 1.0507),
  celu(2),
  gelu(false),
  gelu(true),
  silu(),
  hardSigmoid(0.2, 0.5),
  hardSwish,
  softplusActivation,
  mish,
];

describe('least squares', () => {
  it('is the exact rational projection for ReLU', () => {
    expect(leastSquares(relu, 1, 1)).toEqual([1 / 4, 1 / 2]);
    expect(leastSquares(relu, 2, 1)).toEqual([3 / 32, 1 / 2, 15 / 32]);
    expect(leastSquares(relu, 4, 1)).toEqual([15 / 256, 1 / 2, 105 / 128, 0, -105 / 256]);
    const [c0, c1, c2, , c4, , c6] = leastSquares(relu, 6, 1);
    expect([c1, c0, c2, c4, c6].map((c) => c?.toFixed(9))).toEqual(
      [0.5, 175 / 4096, 1.153564453, -1.409912109, 0.733154297].map((c) => c.toFixed(9)),
    );
  });

  it('gives odd degrees the polynomial of the even degree below, without ghosts', () => {
    for (const degree of [3, 5, 7, 9]) expect(leastSquares(relu, degree, 5)).toHaveLength(degree);
    expect(leastSquares(relu, 9, 5)[3]).toBe(0);
  });

  it('scales as c_k(a) = c_k(1) a^(1-k)', () => {
    for (const a of [0.5, 5, 50])
      leastSquares(relu, 8, a).forEach((c, k) => {
        const expected = (leastSquares(relu, 8, 1)[k] ?? 0) * a ** (1 - k);
        expect(Math.abs(c - expected)).toBeLessThanOrEqual(1e-12 * Math.abs(expected));
      });
  });

  it("equals the paper's grid fit within 1e-6: exactly for its dx, and the continuous fit as its limit", () => {
    for (const [degree, a] of [
      [2, 5],
      [4, 5],
      [6, 10],
    ] as const) {
      close(leastSquares(relu, degree, a, 1e-3), gridReference(degree, a, 1e-3), 1e-9);
      // The grid weighs its two ends as much as inner points, an error linear in dx; extrapolated to dx = 0:
      const [coarse, fine] = [gridReference(degree, a, 1e-3), gridReference(degree, a, 5e-4)];
      close(
        leastSquares(relu, degree, a),
        fine.map((c, k) => 2 * c - (coarse[k] as number)),
        1e-6,
      );
    }
    close(leastSquares(relu, 4, 5), leastSquares(relu, 4, 5, 1e-5), 1e-6);
  });

  it.each(ALL.map((activation) => [activation.label, activation] as const))(
    '%s: no neighbour is better in the norm of the fit',
    (_, activation) => {
      const a = 4;
      const fit = leastSquares(activation, 4, a);
      const norm = (c: readonly number[]) => {
        let sum = 0;
        for (let i = 0; i < 4000; i++)
          sum += (evaluate(c, -a + (2 * a * (i + 0.5)) / 4000) - activation.f(-a + (2 * a * (i + 0.5)) / 4000)) ** 2;
        return sum;
      };
      const best = norm(fit);
      fc.assert(
        fc.property(
          fc.integer({ min: 0, max: 4 }),
          fc.double({ min: 1e-3, max: 0.1, noNaN: true }),
          fc.boolean(),
          (k, size, up) => {
            const neighbour = Array.from(
              { length: 5 },
              (__, i) => (fit[i] ?? 0) + (i === k ? (up ? size : -size) * a ** -k : 0),
            );
            expect(norm(neighbour)).toBeGreaterThan(best);
          },
        ),
        { seed: 1, numRuns: 60 },
      );
    },
  );

  it('resolves a narrow transition in a wide range', () => {
    // The projection of tanh on a wide range tends to that of the sign function: c1 -> 3/2 / a.
    expect((leastSquares(tanh, 1, 1000)[1] as number) * 1000).toBeCloseTo(1.5, 4);
  });

  it('states the error', () => {
    expect(fitError(relu, polynomial(leastSquares(relu, 4, 5)), 5).max).toBeCloseTo(5 * 0.05859375, 9);
    expect(fitError(relu, polynomial(leastSquares(relu, 8, 5)), 5).rms).toBeCloseTo(5 * 0.0079, 3);
  });

  it('loses no precision at the highest degree', () => {
    expect(fitError(relu, polynomial(leastSquares(relu, 32, 5)), 5).max).toBeLessThan(0.05);
  });
});

describe('tangent', () => {
  it('is x/2 for ReLU, and value and slope at 0 elsewhere', () => {
    expect(tangent(relu)).toEqual([0, 0.5]);
    for (const activation of ALL) {
      const h = 1e-6;
      const slope = (activation.f(h) - activation.f(-h)) / (2 * h);
      expect(activation.tangent[0]).toBeCloseTo(activation.f(0), 9);
      expect(activation.tangent[1]).toBeCloseTo(slope, 5);
    }
  });
});

/** Normal equations in t = x/a, solved by elimination with pivots: written apart from the code under test. */
function gridReference(degree: number, a: number, dx: number): number[] {
  const n = Math.trunc((2 * a) / dx);
  const size = degree + 1;
  const rows = Array.from({ length: size }, () => new Array<number>(size + 1).fill(0));
  for (let i = 0; i < n; i++) {
    const t = -1 + (2 * i) / (n - 1);
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

function close(found: readonly number[], expected: readonly number[], tolerance: number) {
  for (const [k, c] of expected.entries()) expect(Math.abs((found[k] ?? 0) - c)).toBeLessThanOrEqual(tolerance);
}
