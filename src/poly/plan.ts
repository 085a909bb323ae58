/**
 * How a polynomial is evaluated with additions, subtractions and multiplications only. One set of algorithms serves powers
 * and Chebyshev polynomials: x^(m+i) = x^m x^i, and T_(m+i) = 2 T_m T_i - T_|m-i|, where doubling is an addition.
 *
 * A multiplicative level is a product of two values, or of a value and a constant: schemes that rescale after every
 * product (CKKS) pay one level for either.
 *
 * Sources: Clenshaw 1955; Estrin 1960; Paterson, Stockmeyer 1973, on Chebyshev polynomials Chen, Chillotti, Song 2018
 * (eprint 2018/1043).
 */
import { SisyphusError } from '../errors.ts';
import { type Polynomial, type Series, toPowers } from './polynomial.ts';

export const FORMS = ['horner', 'powers', 'estrin', 'paterson-stockmeyer', 'clenshaw'] as const;
export type Form = (typeof FORMS)[number];

/** The input, a constant of the plan, or the result of an earlier step. */
export type Operand = 'x' | { readonly constant: number } | { readonly step: number };
export interface Step {
  readonly op: 'mul' | 'add' | 'sub';
  readonly a: Operand;
  readonly b: Operand;
}
export interface Plan {
  readonly form: Form;
  readonly steps: readonly Step[];
  readonly result: Operand;
  /** Each: one number per polynomial, or a single one where it is the same for all. */
  readonly constants: readonly (readonly number[])[];
  /** Of the constants: c3 is the coefficient of x^3, s2/c3 that of the second stage; others are counted, k0, k1, … */
  readonly names: readonly string[];
  /** Multiplicative levels on the longest path. */
  readonly depth: number;
  /** Products of two data-dependent values, and of such a value with a constant. */
  readonly multiplications: { readonly ciphertext: number; readonly plaintext: number };
}

/**
 * The steps that evaluate one polynomial, or those of all channels at once. A term whose coefficient is zero in every one
 * costs nothing, and a coefficient that is one in every one no multiplication.
 *
 * Default form: the least depth, then the fewest products of data, then the fewest with constants; each series stays in
 * its own basis. With d the degree of a series, Estrin's form takes at most ceil(log2(d + 1)) levels, and one more for a
 * Chebyshev series on another interval than [-1, 1]; Paterson-Stockmeyer's takes no more levels and no more products of
 * data. In these two the gate of a composite is a factor of the coefficients and takes no level.
 * @param polynomials alike in the number of stages, their bases and the gate; at least one
 * @throws SisyphusError `usage` for Clenshaw's rule on powers of x
 */
export function plan(polynomials: readonly Polynomial[], form?: Form): Plan {
  const sample = representatives(polynomials);
  const options = (form ? [form] : formsFor(polynomials)).map((candidate) => {
    const choices: number[] = [];
    const result = compose(sample, candidate, (variants) => {
      const choice = cheapest(variants.map((make) => record(make(), candidate)));
      choices.push(choice);
      return choice;
    });
    return { form: candidate, choices, plan: record(result, candidate) };
  });
  const best = options[cheapest(options.map((option) => option.plan))] as (typeof options)[number];
  if (sample === polynomials) return best.plan;
  return record(
    compose(polynomials, best.form, (_, stage) => best.choices[stage] ?? 0),
    best.form,
  );
}

/**
 * A few polynomials that stand for all in the choice of a plan, as there can be one for each element of a tensor: those
 * with the least and the largest value of each coefficient and end. What is 0, or 1, in them is so in all.
 */
function representatives(polynomials: readonly Polynomial[]): readonly Polynomial[] {
  const lengths = polynomials.reduce(
    (longest: readonly number[], { stages }) =>
      stages.map(({ coefficients }, n) => Math.max(longest[n] ?? 0, coefficients.length)),
    [],
  );
  const rows = polynomials.map(({ stages }) =>
    stages.flatMap((series, n) => [
      ...Array.from({ length: lengths[n] ?? 0 }, (_, k) => series.coefficients[k] ?? 0),
      ...(series.basis === 'chebyshev' ? series.interval : []),
    ]),
  );
  const chosen = new Set<number>();
  for (const column of rows[0]?.keys() ?? []) {
    const at = (row: number) => rows[row]?.[column] ?? 0;
    let [least, most] = [0, 0];
    for (const row of rows.keys()) {
      if (at(row) < at(least)) least = row;
      if (at(row) > at(most)) most = row;
    }
    chosen.add(least).add(most);
  }
  return chosen.size < polynomials.length ? polynomials.filter((_, i) => chosen.has(i)) : polynomials;
}

/**
 * What the steps compute for `x`, rounded after each as the element type of a graph does.
 * @param round to the element type; the identity for float64
 * @param channel which of the polynomials
 */
export function evaluatePlan(
  { steps, result, constants }: Plan,
  x: number,
  round: (value: number) => number,
  channel = 0,
): number {
  const values: number[] = [];
  const read = (operand: Operand): number => {
    if (operand === 'x') return round(x);
    if ('step' in operand) return values[operand.step] as number;
    const list = constants[operand.constant] ?? [];
    return round((list.length === 1 ? list[0] : list[channel]) as number);
  };
  for (const step of steps) {
    const [a, b] = [read(step.a), read(step.b)];
    values.push(round(step.op === 'mul' ? a * b : step.op === 'add' ? a + b : a - b));
  }
  return read(result);
}

// Terms: the sums and products of a polynomial as a graph, in which constants are computed at once.

/** One number per polynomial, or a single one where it is the same for all. */
interface Constant {
  readonly values: readonly number[];
  readonly name?: string;
}
/** Depends on x. */
interface Value {
  readonly op: Step['op'];
  readonly a: Term;
  readonly b: Term;
  readonly depth: number;
}
type Term = 'x' | Constant | Value;

const isConstant = (term: Term): term is Constant => term !== 'x' && 'values' in term;
const isAll = (term: Term, number: number): boolean =>
  isConstant(term) && term.values.length === 1 && term.values[0] === number;
const depthOf = (term: Term): number => (term === 'x' || isConstant(term) ? 0 : term.depth);

function constant(values: readonly number[], name?: string): Constant {
  const [first = 0] = values;
  const list = values.every((value) => value === first) ? [first] : values;
  return name === undefined ? { values: list } : { values: list, name };
}
const ZERO = constant([0]);
const ONE = constant([1]);

function zip(a: Constant, b: Constant, f: (a: number, b: number) => number): Constant {
  const at = ({ values }: Constant, i: number) => (values.length === 1 ? values[0] : values[i]) as number;
  return constant(Array.from({ length: Math.max(a.values.length, b.values.length) }, (_, i) => f(at(a, i), at(b, i))));
}
function sum(a: Constant, b: Constant): Constant {
  if (isAll(a, 0)) return b;
  // What is left where two cancel is rounding.
  const rounded = (value: number, of: number) => (Math.abs(value) < 1e-15 * Math.abs(of) ? 0 : value);
  return isAll(b, 0) ? a : zip(a, b, (left, right) => rounded(left + right, left));
}
function product(a: Constant, b: Constant): Constant {
  if (isAll(a, 1)) return b;
  return isAll(b, 1) ? a : zip(a, b, (left, right) => left * right);
}
const times = (factor: number, a: Constant): Constant => product(constant([factor]), a);

function add(a: Term, b: Term): Term {
  if (isConstant(a) && isConstant(b)) return sum(a, b);
  if (isAll(a, 0)) return b;
  return isAll(b, 0) ? a : { op: 'add', a, b, depth: Math.max(depthOf(a), depthOf(b)) };
}
function sub(a: Term, b: Term): Term {
  if (isConstant(b)) return add(a, times(-1, b));
  return { op: 'sub', a, b, depth: Math.max(depthOf(a), depthOf(b)) };
}
function mul(a: Term, b: Term): Term {
  if (isConstant(a) && isConstant(b)) return product(a, b);
  if (isAll(a, 0) || isAll(b, 0)) return ZERO;
  if (isAll(a, 1)) return b;
  return isAll(b, 1) ? a : { op: 'mul', a, b, depth: Math.max(depthOf(a), depthOf(b)) + 1 };
}

/** The terms that a result takes, as steps in order. */
function record(term: Term, form: Form): Plan {
  const steps: Step[] = [];
  const constants: Constant[] = [];
  const multiplications = { ciphertext: 0, plaintext: 0 };
  const known = new Map<unknown, Operand>();
  const visit = (at: Term): Operand => {
    if (at === 'x') return at;
    // Equal numbers without a name are one constant.
    const key = isConstant(at) && at.name === undefined && at.values.length === 1 ? at.values[0] : at;
    const place = known.get(key);
    if (place) return place;
    let made: Operand;
    if (isConstant(at)) made = { constant: constants.push(at) - 1 };
    else {
      const step = { op: at.op, a: visit(at.a), b: visit(at.b) };
      if (at.op === 'mul') multiplications[isConstant(at.a) || isConstant(at.b) ? 'plaintext' : 'ciphertext']++;
      made = { step: steps.push(step) - 1 };
    }
    known.set(key, made);
    return made;
  };
  const result = visit(term);
  let counted = 0;
  return {
    form,
    steps,
    result,
    constants: constants.map(({ values }) => values),
    names: constants.map(({ name }) => name ?? `k${counted++}`),
    depth: depthOf(term),
    multiplications,
  };
}

/** Which one has the least depth, then the fewest products of data, then of constants; of equals the first. */
function cheapest(plans: readonly Plan[]): number {
  const cost = ({ depth, multiplications: { ciphertext, plaintext } }: Plan) => [depth, ciphertext, plaintext];
  const less = (a: number[], b: number[]) => {
    const at = a.findIndex((value, i) => value !== b[i]);
    return at >= 0 && (a[at] as number) < (b[at] as number);
  };
  const costs = plans.map(cost);
  return costs.reduce((best, next, i) => (less(next, costs[best] as number[]) ? i : best), 0);
}

// Series of all polynomials at once.

/** Sum of c_k x^k, or of c_k T_k(slope x + shift). */
interface Sum {
  readonly basis: Series['basis'];
  readonly coefficients: readonly Constant[];
  readonly slope: Constant;
  readonly shift: Constant;
}

/** The n-th stage of all polynomials, in powers if told so. */
function stageOf(polynomials: readonly Polynomial[], n: number, form: Form): Sum {
  const several = polynomials.some(({ stages }) => stages.length > 1);
  const list = polynomials.map(({ stages }) => {
    const series = stages[n] as Series;
    return form === 'horner' ? toPowers(series) : series;
  });
  const basis = list[0]?.basis ?? 'power';
  if (list.some((series) => series.basis !== basis))
    throw new SisyphusError('internal', 'the polynomials of one plan must be in the same basis');
  if (basis === 'power' && form === 'clenshaw')
    throw new SisyphusError(
      'usage',
      "clenshaw takes a polynomial with a range: give one in Chebyshev polynomials ('T1 + 0.5 T2 on [-5, 5]'), or " +
        'another form',
    );
  const length = list.reduce((longest, { coefficients }) => Math.max(longest, coefficients.length), 0);
  const name = (k: number) => (basis === 'power' ? `${several ? `s${n + 1}/` : ''}c${k}` : undefined);
  const ends = list.map((series) => (series.basis === 'chebyshev' ? series.interval : ([-1, 1] as const)));
  return {
    basis,
    coefficients: Array.from({ length }, (_, k) =>
      constant(
        list.map(({ coefficients }) => coefficients[k] ?? 0),
        name(k),
      ),
    ),
    slope: constant(ends.map(([low, high]) => 2 / (high - low))),
    shift: constant(ends.map(([low, high]) => -(low + high) / (high - low))),
  };
}

/** x times the series, as a series. */
function timesX({ basis, coefficients, slope, shift }: Sum): Sum {
  if (basis === 'power') return { basis, coefficients: [ZERO, ...coefficients], slope, shift };
  // x = (t - shift) / slope, and t T_k = (T_(k+1) + T_|k-1|) / 2.
  const out = new Array<Constant>(coefficients.length + 1).fill(ZERO);
  const put = (k: number, c: Constant) => {
    out[k] = sum(out[k] ?? ZERO, c);
  };
  const divided = (c: Constant) => zip(c, slope, (value, by) => value / by);
  for (const [k, c] of coefficients.entries()) {
    put(k, divided(times(-1, product(c, shift))));
    put(k + 1, divided(times(0.5, c)));
    put(Math.abs(k - 1), divided(times(0.5, c)));
  }
  return { basis, coefficients: out, slope, shift };
}

/** Forms that need no change of basis. */
function formsFor(polynomials: readonly Polynomial[]): readonly Form[] {
  const bases = new Set(polynomials.flatMap(({ stages }) => stages.map(({ basis }) => basis)));
  return FORMS.filter(
    (form) => !(form === 'horner' && bases.has('chebyshev')) && !(form === 'clenshaw' && bases.has('power')),
  );
}

type Variants = readonly (() => Term)[];

/**
 * Stage after stage in one form.
 * @param choose which of the ways to evaluate a stage
 */
function compose(
  polynomials: readonly Polynomial[],
  form: Form,
  choose: (variants: Variants, stage: number) => number,
): Term {
  const [first] = polynomials;
  if (!first) throw new SisyphusError('internal', 'a plan takes at least one polynomial');
  const { stages, gated } = first;
  if (polynomials.some((other) => other.stages.length !== stages.length || other.gated !== gated))
    throw new SisyphusError('internal', 'the polynomials of one plan must have the same stages');
  let term: Term = 'x';
  for (const n of stages.keys()) {
    const series = stageOf(polynomials, n, form);
    const last = n === stages.length - 1;
    const variants: Variants = gated && last ? gatedVariants(form, series, term) : variantsOf(form, series, term);
    term = (variants[Math.min(choose(variants, n), variants.length - 1)] as () => Term)();
  }
  return term;
}

/** x times the series: at the end, in the coefficients, or where x is the variable too, as one series. */
function gatedVariants(form: Form, series: Sum, input: Term): Variants {
  return [
    ...(input === 'x' ? variantsOf(form, timesX(series), input) : []),
    ...variantsOf(form, series, input).map((make) => () => mul('x', make())),
    ...variantsOf(form, series, input, 'x'),
  ];
}

function variantsOf(form: Form, series: Sum, input: Term, gate: Term = ONE): Variants {
  const { coefficients } = series;
  const basis = () => makeBasis(series, input, gate);
  if (form === 'horner') return [() => horner(basis(), coefficients)];
  if (form === 'powers') return [() => powers(basis(), coefficients)];
  if (form === 'clenshaw') return [() => clenshaw(basis(), coefficients)];
  const degree = degreeOf(coefficients);
  const least = depthOf(input) + Math.ceil(Math.log2(degree + 1));
  const counts = form === 'estrin' ? [2] : BABIES.filter((count) => count === 2 || count <= degree + 1);
  return counts.flatMap((count) =>
    [-1, 0, 1, 2].map((more) => () => divide(basis(), coefficients, count, least + more)),
  );
}

/** Numbers of baby steps to try: about sqrt(degree) is best. */
const BABIES = [...Array.from({ length: 15 }, (_, i) => i + 2), 32, 64];

function degreeOf(coefficients: readonly Constant[]): number {
  return Math.max(
    0,
    coefficients.findLastIndex((c) => !isAll(c, 0)),
  );
}

/** What the forms are made of: b_k is x^k, or T_k. */
interface Basis {
  readonly kind: Series['basis'];
  /** b_k for k >= 1, made once. */
  readonly element: (k: number) => Term;
  /** A coefficient as a factor of b_k: with the gate, if there is one. */
  readonly coefficient: (c: Constant | undefined) => Term;
  /** c_0 + c_1 b_1 + c_2 b_2 + … term by term. */
  readonly combination: (coefficients: readonly Constant[]) => Term;
}

function makeBasis({ basis: kind, slope, shift }: Sum, input: Term, gate: Term): Basis {
  const elements = new Map<number, Term>();
  const make = (k: number): Term => {
    if (k === 1) return kind === 'power' ? input : add(mul(slope, input), shift);
    if (kind === 'power') {
      const high = powerOfTwoBelow(k);
      return mul(element(high), element(k - high));
    }
    const low = Math.floor(k / 2);
    const half = mul(element(k - low), element(low));
    return sub(add(half, half), k % 2 === 0 ? ONE : element(1));
  };
  const element = (k: number): Term => {
    const term = elements.get(k) ?? make(k);
    elements.set(k, term);
    return term;
  };
  const coefficient = (c: Constant = ZERO) => mul(c, gate);
  const combination = ([c0 = ZERO, c1 = ZERO, ...others]: readonly Constant[]): Term => {
    // c_1 T_1 takes one level, not two: the slope is a factor of the coefficient.
    const [constantPart, factor] = kind === 'power' ? [c0, c1] : [sum(c0, product(c1, shift)), product(c1, slope)];
    const linear = add(coefficient(constantPart), mul(coefficient(factor), input));
    return others.reduce((so: Term, c, i) => add(so, mul(coefficient(c), element(i + 2))), linear);
  };
  return { kind, element, coefficient, combination };
}

/** The largest power of two below k, k >= 2: halves of x^k meet there. */
const powerOfTwoBelow = (k: number): number => 2 ** (Math.ceil(Math.log2(k)) - 1);

/** (((c_n x + c_{n-1}) x + …) x + c_0; runs of zero coefficients become one product with a power of x. */
function horner({ element, coefficient }: Basis, coefficients: readonly Constant[]): Term {
  let at = degreeOf(coefficients);
  let so = coefficient(coefficients[at]);
  for (let k = at - 1; k >= 0; k--) {
    const c = coefficients[k] ?? ZERO;
    if (isAll(c, 0) && k > 0) continue;
    so = add(mul(so, element(at - k)), coefficient(c));
    at = k;
  }
  return so;
}

/** Term by term. The coefficient of a power goes to its shallow factor, so that it takes no level of its own. */
function powers({ kind, element, coefficient, combination }: Basis, coefficients: readonly Constant[]): Term {
  if (kind === 'chebyshev') return combination(coefficients);
  const scaled = (k: number, c: Constant): Term => {
    const high = 2 ** Math.floor(Math.log2(k));
    if (high === k || isAll(c, 1)) return mul(coefficient(c), element(k));
    return mul(scaled(k - high, c), element(high));
  };
  return coefficients.reduce((so: Term, c, k) => add(so, k === 0 ? coefficient(c) : scaled(k, c)), ZERO);
}

/**
 * p = q b_m + r, and q and r in the same way: below `babies` terms are summed one by one. With two babies this is Estrin's
 * form; with about sqrt(degree) of them Paterson's and Stockmeyer's. Only the quotient must hurry: it meets b_m one level
 * before the remainder is added, so sums which would be late are divided further.
 * @param budget the depth to keep where that is possible
 */
function divide(basis: Basis, coefficients: readonly Constant[], babies: number, budget: number): Term {
  const degree = degreeOf(coefficients);
  if (degree < babies) {
    const leaf = basis.combination(coefficients.slice(0, degree + 1));
    if (degree <= 1 || depthOf(leaf) <= budget) return leaf;
  }
  const unit = degree < babies ? 1 : babies;
  let m = unit * 2 ** Math.floor(Math.log2(degree / unit));
  // c b_m would take a level more than b_m: (c b_h) b_h is earlier where b_h = b_(m/2) is late already.
  const alone = () => mul(basis.coefficient(coefficients[m]), basis.element(m));
  if (m === degree && m % 2 === 0 && depthOf(alone()) > budget) m /= 2;
  const quotient = coefficients.slice(m, degree + 1);
  const remainder = coefficients.slice(0, m);
  if (basis.kind === 'chebyshev')
    for (let i = 1; i < quotient.length; i++) {
      remainder[m - i] = sum(remainder[m - i] ?? ZERO, times(-1, quotient[i] ?? ZERO));
      quotient[i] = times(2, quotient[i] ?? ZERO);
    }
  return add(
    mul(divide(basis, quotient, babies, budget - 1), basis.element(m)),
    divide(basis, remainder, babies, budget),
  );
}

/**
 * Clenshaw's recurrence, b_k = c_k + 2 t b_(k+1) - b_(k+2). Where all terms but c_0 are even, or all are odd, every other
 * one is absent, and T_2 takes the place of t.
 */
function clenshaw({ element, coefficient, combination }: Basis, coefficients: readonly Constant[]): Term {
  const degree = degreeOf(coefficients);
  const parity = (rest: number) => coefficients.every((c, k) => k === 0 || k % 2 === rest || isAll(c, 0));
  const odd = parity(1);
  const stride = odd || parity(0) ? 2 : 1;
  if (degree <= stride && !(odd && degree > 1)) return combination(coefficients.slice(0, degree + 1));
  // The terms of T_start, T_(start + stride), …
  const start = Number(odd);
  const top = (degree - start) / stride;
  const c = (j: number) => coefficients[start + stride * j] ?? ZERO;
  const element2 = add(element(stride), element(stride));
  const first = new Array<Constant>(stride + 1).fill(ZERO);
  first[0] = c(top - 1);
  first[stride] = times(2, c(top));
  let [next, afterNext]: [Term, Term] = [combination(first), coefficient(c(top))];
  for (let j = top - 2; j + start > 0; j--) {
    const doubled = mul(element2, next);
    const here = isConstant(afterNext)
      ? add(doubled, sub(coefficient(c(j)), afterNext))
      : add(sub(doubled, afterNext), coefficient(c(j)));
    [next, afterNext] = [here, next];
  }
  // The sum is c_0 + T_s b_1 - b_2, or for odd ones T_1 (b_0 - b_1).
  if (odd) return add(mul(element(1), sub(next, afterNext)), coefficient(coefficients[0]));
  return add(sub(mul(element(stride), next), afterNext), coefficient(c(0)));
}
