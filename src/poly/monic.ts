/**
 * Evaluates polynomials of degrees 1 to 4 with the fewest products, once their leading coefficient is one: a quadratic
 * takes one product and one level, a cubic and a quartic two. No step multiplies by a constant or a value by itself,
 * which some compilers refuse.
 *
 * Source: preconditioning of quartics, Knuth, The Art of Computer Programming, vol. 2, 4.6.4.
 */
import type { Operand, Plan, Step } from './plan.ts';

/** By power, constant first: one number, or one for each polynomial. */
export type CoefficientLists = readonly (readonly number[])[];
export type MonicPlan = Pick<Plan, 'steps' | 'result' | 'constants' | 'names'>;

/** What preconditioning may lose, relative to the sum of the magnitudes of the terms, in float32 (whose unit is 6e-8). */
const PRECONDITIONING_LOSS = 2e-6;

/**
 * @param coefficients of degree 1 to 4; where the leading one is not 1 everywhere, it costs a product and a level
 */
export function monicPlan(coefficients: CoefficientLists): MonicPlan {
  const degree = coefficients.length - 1;
  const monic = coefficients.at(-1)?.every((value) => value === 1) ?? false;
  const steps = recorder();
  if (degree === 4 && monic) {
    const parameters = precondition(coefficients);
    return parameters ? quartic(steps, parameters) : quarticOfSquares(steps, coefficients);
  }
  // ((x + c1) x + c0), …; with another leading coefficient (c2 x + c1) x + c0.
  let at: Operand = 'x';
  if (!monic) at = steps.step('mul', 'x', steps.constant(coefficients[degree], `c${degree}`));
  for (let k = degree - 1; k >= 0; k--) {
    const zero = coefficients[k]?.every((value) => value === 0) ?? false;
    // x x would read one value twice.
    if (!zero || at === 'x') at = steps.step('add', at, steps.constant(coefficients[k], `c${k}`));
    if (k > 0) at = steps.step('mul', at, 'x');
  }
  return steps.plan(at);
}

function recorder() {
  const steps: Step[] = [];
  const constants: (readonly number[])[] = [];
  const names: string[] = [];
  return {
    step: (op: Step['op'], a: Operand, b: Operand): Operand => ({ step: steps.push({ op, a, b }) - 1 }),
    constant: (values: readonly number[] = [0], name: string): Operand => {
      names.push(name);
      const same = values.every((value) => value === values[0]);
      return { constant: constants.push(same ? values.slice(0, 1) : values) - 1 };
    },
    plan: (result: Operand): MonicPlan => ({ steps, result, constants, names }),
  };
}

type Parameters = readonly [readonly number[], readonly number[], readonly number[], readonly number[]];

/** y = (x + k0) x + k1, p = (y + x + k2) y + k3. */
function quartic({ step, constant, plan }: ReturnType<typeof recorder>, parameters: Parameters): MonicPlan {
  const [k0, k1, k2, k3] = parameters.map((values, i) => constant(values, `k${i}`)) as [
    Operand,
    Operand,
    Operand,
    Operand,
  ];
  const y = step('add', step('mul', step('add', 'x', k0), 'x'), k1);
  return plan(step('add', step('mul', step('add', step('add', y, 'x'), k2), y), k3));
}

/** Two levels too, with two products by constants more: s = x (x + c3), t = x (x + 0), p = t (s + c2) + (c1 x + c0). */
function quarticOfSquares({ step, constant, plan }: ReturnType<typeof recorder>, c: CoefficientLists): MonicPlan {
  const s = step('mul', step('add', 'x', constant(c[3], 'c3')), 'x');
  const t = step('mul', step('add', 'x', constant([0], 'zero')), 'x');
  const high = step('mul', step('add', s, constant(c[2], 'c2')), t);
  const low = step('add', step('mul', 'x', constant(c[1], 'c1')), constant(c[0], 'c0'));
  return plan(step('add', high, low));
}

/** The four parameters of a monic quartic, or null where they would cancel too much of the result. */
function precondition(coefficients: CoefficientLists): Parameters | null {
  const count = Math.max(...coefficients.map((values) => values.length));
  const at = (k: number, i: number) => {
    const values = coefficients[k] as readonly number[];
    return (values.length === 1 ? values[0] : values[i]) as number;
  };
  const rows = Array.from({ length: count }, (_, i) => {
    const [a0, a1, a2, a3] = [at(0, i), at(1, i), at(2, i), at(3, i)];
    const k0 = (a3 - 1) / 2;
    const beta = a2 - k0 * (k0 + 1);
    const k1 = a1 - k0 * beta;
    const k2 = beta - 2 * k1;
    return { row: [k0, k1, k2, a0 - k1 * (k1 + k2)] as const, exact: [a0, a1, a2, a3] as const };
  });
  if (!rows.every(({ row, exact }) => isAccurate(row, exact))) return null;
  const column = (k: 0 | 1 | 2 | 3) => rows.map(({ row }) => row[k]);
  return [column(0), column(1), column(2), column(3)];
}

type Four = readonly [number, number, number, number];

/**
 * Whether float32 evaluates the preconditioned form about as well as the powers: out to where the leading term rules, and
 * near zero.
 */
function isAccurate(row: Four, [a0, a1, a2, a3]: Four): boolean {
  const reach = Math.max(Math.abs(a3), Math.sqrt(Math.abs(a2)), Math.cbrt(Math.abs(a1)), Math.abs(a0) ** 0.25);
  const f = Math.fround;
  const [k0, k1, k2, k3] = row.map(f) as unknown as Four;
  return [reach, reach / 4].every((range) => {
    const scale = [a0, a1, a2, a3, 1].reduce((sum, a, k) => sum + Math.abs(a) * range ** k, 0);
    return Array.from({ length: 33 }, (_, i) => f((i / 16 - 1) * range)).every((x) => {
      const y = f(f(f(x + k0) * x) + k1);
      const value = f(f(f(f(y + x) + k2) * y) + k3);
      const exact = (((x + a3) * x + a2) * x + a1) * x + a0;
      return Math.abs(value - exact) <= PRECONDITIONING_LOSS * scale;
    });
  });
}
