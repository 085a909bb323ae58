/**
 * How a polynomial is evaluated with additions and multiplications only.
 *
 * A multiplicative level is a product of two values, or of a value and a constant: schemes that rescale after every
 * product (CKKS) pay one level for either.
 */
import type { Coefficients } from './fit.ts';

export const FORMS = ['horner', 'powers', 'estrin'] as const;
export type Form = (typeof FORMS)[number];

/** The input, a coefficient, or the result of an earlier step. */
export type Operand = 'x' | { readonly coefficient: number } | { readonly step: number };
export interface Step {
  readonly op: 'mul' | 'add';
  readonly a: Operand;
  readonly b: Operand;
}
export interface Plan {
  readonly form: Form;
  readonly steps: readonly Step[];
  readonly result: Operand;
  /** Multiplicative levels on the longest path. */
  readonly depth: number;
  /** Products of two data-dependent values, and of such a value with a constant. */
  readonly multiplications: { readonly ciphertext: number; readonly plaintext: number };
}

/**
 * The steps of one form. Zero coefficients cost nothing and coefficients of one no multiplication.
 * @param coefficients constant first; the degree must be at least 1
 */
export function planForm(coefficients: Coefficients, form: Form): Plan {
  const tape = newTape(coefficients);
  const build = { horner, powers, estrin }[form];
  const result = build(tape, coefficients);
  const { steps, depths, ciphertext, plaintext } = tape;
  return {
    form,
    steps,
    result: result.operand,
    depth: Math.max(0, ...depths),
    multiplications: { ciphertext, plaintext },
  };
}

/** The form with the least depth; ties go to the fewest products of data, then to the fewest products at all. */
export function plan(coefficients: Coefficients, form?: Form): Plan {
  if (form) return planForm(coefficients, form);
  const plans = FORMS.map((candidate) => planForm(coefficients, candidate));
  const cost = ({ depth, multiplications }: Plan) => [depth, multiplications.ciphertext, multiplications.plaintext];
  return plans.reduce((best, next) => (lexicographicallyLess(cost(next), cost(best)) ? next : best));
}

/**
 * What the steps compute for `x`, rounded after each as the element type of a graph does.
 * @param round to the element type; the identity for float64
 */
export function evaluatePlan(
  { steps, result }: Plan,
  coefficients: Coefficients,
  x: number,
  round: (value: number) => number,
): number {
  const values: number[] = [];
  const read = (operand: Operand): number => {
    if (operand === 'x') return round(x);
    return 'coefficient' in operand ? round(coefficients[operand.coefficient] ?? 0) : (values[operand.step] as number);
  };
  for (const { op, a, b } of steps) values.push(round(op === 'mul' ? read(a) * read(b) : read(a) + read(b)));
  return read(result);
}

function lexicographicallyLess(a: number[], b: number[]): boolean {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at >= 0 && (a[at] as number) < (b[at] as number);
}

/** A value on the way: where it is, and the levels below it; constants have none. */
interface Term {
  readonly operand: Operand;
  readonly depth: number;
  readonly constant: boolean;
}

interface Tape {
  readonly steps: Step[];
  readonly depths: number[];
  readonly coefficients: Coefficients;
  /** Powers of x made so far. */
  readonly powers: Map<number, Term>;
  ciphertext: number;
  plaintext: number;
}

const X: Term = { operand: 'x', depth: 0, constant: false };

const newTape = (coefficients: Coefficients): Tape => ({
  steps: [],
  depths: [],
  coefficients,
  powers: new Map([[1, X]]),
  ciphertext: 0,
  plaintext: 0,
});

function emit(tape: Tape, op: Step['op'], a: Term, b: Term): Term {
  tape.steps.push({ op, a: a.operand, b: b.operand });
  if (op === 'mul') {
    if (a.constant || b.constant) tape.plaintext++;
    else tape.ciphertext++;
  }
  const depth = Math.max(a.depth, b.depth) + (op === 'mul' ? 1 : 0);
  tape.depths.push(depth);
  return { operand: { step: tape.steps.length - 1 }, depth, constant: false };
}

/** Addition, and multiplication, where null stands for an absent term (0 in a sum). */
const add = (tape: Tape, a: Term | null, b: Term | null): Term | null => (a && b ? emit(tape, 'add', a, b) : (a ?? b));

const constant = (tape: Tape, k: number): Term | null =>
  tape.coefficients[k] ? { operand: { coefficient: k }, depth: 0, constant: true } : null;

/** x^k by splitting at the largest power of two below: the least depth, and shared between terms. */
function power(tape: Tape, k: number): Term {
  const known = tape.powers.get(k);
  if (known) return known;
  const high = 2 ** Math.floor(Math.log2(k));
  const term =
    high === k
      ? emit(tape, 'mul', power(tape, k / 2), power(tape, k / 2))
      : emit(tape, 'mul', power(tape, high), power(tape, k - high));
  tape.powers.set(k, term);
  return term;
}

/** c_k x^k, the coefficient on the shallow factor so that it costs no level of its own. */
function scaledPower(tape: Tape, k: number, value: number | undefined, c: Term): Term {
  if (value === 1) return power(tape, k);
  const high = 2 ** Math.floor(Math.log2(k));
  return high === k
    ? emit(tape, 'mul', power(tape, k), c)
    : emit(tape, 'mul', scaledPower(tape, k - high, value, c), power(tape, high));
}

/** The sum of c_k x^k. */
function powers(tape: Tape, coefficients: Coefficients): Term {
  let sum = constant(tape, 0);
  for (let k = 1; k < coefficients.length; k++) {
    const c = constant(tape, k);
    if (c) sum = add(tape, sum, scaledPower(tape, k, coefficients[k], c));
  }
  return sum ?? X;
}

/** (((c_n x + c_{n-1}) x + …) x + c_0; runs of zero coefficients become one product with a power of x. */
function horner(tape: Tape, coefficients: Coefficients): Term {
  const exponents = coefficients.flatMap((c, k) => (c !== 0 ? [k] : [])).reverse();
  let at = exponents[0] ?? 0;
  let sum: Term | null = coefficients[at] === 1 ? null : constant(tape, at);
  for (const k of [...exponents.slice(1), 0]) {
    if (at > k) {
      const factor = power(tape, at - k);
      sum = sum ? emit(tape, 'mul', sum, factor) : factor;
      if (k !== 0 || coefficients[0]) sum = add(tape, sum, constant(tape, k));
    }
    at = k;
  }
  return sum ?? X;
}

/** low(x) + x^h high(x), halves in parallel (Estrin 1960). */
function estrin(tape: Tape, coefficients: Coefficients): Term {
  const build = (from: number, length: number): Term | null => {
    if (length <= 1) return constant(tape, from);
    const half = 2 ** Math.ceil(Math.log2(length) - 1);
    const low = build(from, half);
    const high = build(from + half, length - half);
    if (!high) return low;
    const isOne = high.constant && coefficients[from + half] === 1;
    return add(tape, low, isOne ? power(tape, half) : emit(tape, 'mul', high, power(tape, half)));
  };
  return build(0, coefficients.length) ?? X;
}
