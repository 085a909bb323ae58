import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { relu } from '../../src/poly/activations.ts';
import { evaluate, leastSquares } from '../../src/poly/fit.ts';
import { FORMS, type Operand, type Plan, plan, planForm } from '../../src/poly/plan.ts';

/** Runs the steps, and counts depth and products anew. */
function run(steps: Plan, coefficients: readonly number[], x: number) {
  const values: { value: number; depth: number; constant: boolean }[] = [];
  let [ciphertext, plaintext] = [0, 0];
  const get = (operand: Operand) => {
    if (operand === 'x') return { value: x, depth: 0, constant: false };
    if ('coefficient' in operand)
      return { value: coefficients[operand.coefficient] as number, depth: 0, constant: true };
    return values[operand.step] as (typeof values)[number];
  };
  for (const { op, a, b } of steps.steps) {
    const [left, right] = [get(a), get(b)];
    expect(left.constant && right.constant).toBe(false);
    if (op === 'mul') left.constant || right.constant ? plaintext++ : ciphertext++;
    values.push({
      value: op === 'mul' ? left.value * right.value : left.value + right.value,
      depth: Math.max(left.depth, right.depth) + (op === 'mul' ? 1 : 0),
      constant: false,
    });
  }
  return { ...get(steps.result), ciphertext, plaintext };
}

const coefficient = fc.oneof(
  fc.constant(0),
  fc.constant(1),
  fc.double({ min: -2, max: 2, noNaN: true }).filter((c) => c === 0 || Math.abs(c) > 1e-6),
);

describe('plans', () => {
  it.each(FORMS)('%s evaluates to the naive sum at its stated depth and counts', (form) => {
    fc.assert(
      fc.property(
        fc.array(coefficient, { minLength: 2, maxLength: 20 }),
        fc.double({ min: -1.5, max: 1.5, noNaN: true }),
        (list, x) => {
          const coefficients = [...list, 0.75];
          const steps = planForm(coefficients, form);
          const result = run(steps, coefficients, x);
          const scale = coefficients.reduce((sum, c, k) => sum + Math.abs(c * x ** k), 0);
          expect(Math.abs(result.value - evaluate(coefficients, x))).toBeLessThanOrEqual(1e-13 * scale);
          expect(result.depth).toBe(steps.depth);
          expect({ ciphertext: result.ciphertext, plaintext: result.plaintext }).toEqual(steps.multiplications);
        },
      ),
      { seed: 7, numRuns: 300 },
    );
  });

  it('reaches the least depth, ceil(log2(degree + 1)), by default', () => {
    for (let degree = 1; degree <= 20; degree++) {
      const coefficients = Array.from({ length: degree + 1 }, (_, k) => 0.3 + k);
      expect(plan(coefficients).depth).toBe(Math.ceil(Math.log2(degree + 1)));
    }
  });

  it('costs what the field expects for the usual polynomials', () => {
    expect(plan([0, 0, 1])).toMatchObject({ depth: 1, multiplications: { ciphertext: 1, plaintext: 0 } });
    expect(plan([0, 0.5])).toMatchObject({ depth: 1, multiplications: { ciphertext: 0, plaintext: 1 } });
    expect(plan(leastSquares(relu, 2, 5))).toMatchObject({
      depth: 2,
      multiplications: { ciphertext: 1, plaintext: 1 },
    });
    expect(plan(leastSquares(relu, 4, 5))).toMatchObject({
      depth: 3,
      multiplications: { ciphertext: 2, plaintext: 3 },
    });
    expect(planForm(leastSquares(relu, 4, 5), 'horner')).toMatchObject({ depth: 4 });
  });
});
