/** A polynomial as nodes: only Mul, Add and Sub on the data, coefficients as named constants. */
import { addConstant, addNode } from '../graph/edit.ts';
import type { Body, ElementType, Model, Node, Value } from '../graph/ir.ts';
import { makeTensor, rounding } from '../graph/tensor.ts';
import type { Operand, Plan, Step } from '../poly/plan.ts';
import type { Polynomial } from '../poly/polynomial.ts';

export interface PolynomialTensor {
  /** One polynomial, or one for each element of `shape`. */
  readonly polynomials: readonly Polynomial[];
  /** Shape of the coefficient tensors: [] for one polynomial, else broadcast against the input. */
  readonly shape: readonly number[];
}

/**
 * Why the constants can't be held in an element type, or null: float16 overflows at 65504 and loses what is
 * below 6e-8.
 */
export function unrepresentable({ constants, names }: Plan, elem: ElementType): string | null {
  const round = rounding(elem);
  for (const [i, values] of constants.entries())
    for (const c of values) {
      const stored = round(c);
      if (!Number.isFinite(stored) || (stored === 0 && c !== 0))
        return `its coefficient ${names[i]} = ${c} does not fit ${elem}`;
    }
  return null;
}

export interface PolynomialPlace {
  readonly body: Body;
  /** Where in the body; null for the end. */
  readonly before: Node | null;
  /** Prefix of all new names. */
  readonly name: string;
  readonly elem: ElementType;
}

const OPERATORS = { mul: 'Mul', add: 'Add', sub: 'Sub' } as const;

/**
 * Emits the steps of a plan for `x`. Constants that are the same for all polynomials become scalars, the others tensors of
 * `shape`, which has an element for each polynomial.
 * @param output what the last node makes, without a producer so far; null for a new value
 * @returns the output
 */
export function emitPolynomial(
  model: Model,
  { body, before, name, elem }: PolynomialPlace,
  {
    shape,
    plan,
  }: { readonly shape: readonly number[]; readonly plan: Pick<Plan, 'steps' | 'result' | 'constants' | 'names'> },
  x: Value,
  output: Value | null,
): Value {
  const { steps, constants, names } = withProducer(plan);
  const emitted: Value[] = [];
  const results: Value[] = [];
  const constant = (i: number): Value => {
    const values = constants[i] ?? [];
    const tensor = makeTensor(`${name}/${names[i]}`, elem, values.length === 1 ? [] : shape, values);
    return addConstant(model, body, tensor, before);
  };
  const resolve = (operand: Operand): Value => {
    if (operand === 'x') return x;
    if ('step' in operand) return results[operand.step] as Value;
    emitted[operand.constant] ??= constant(operand.constant);
    return emitted[operand.constant] as Value;
  };
  for (const [index, { op, a, b }] of steps.entries()) {
    const inputs = [resolve(a), resolve(b)];
    const last = index === steps.length - 1;
    const node = addNode(
      model,
      body,
      { op: OPERATORS[op], name: `${name}/${op}`, inputs, ...(last && output && { outputs: [output] }) },
      before,
    );
    results.push(node.outputs[0] as Value);
  }
  return results.at(-1) as Value;
}

/** The identity and constants have no steps, but the output needs a producer, and a constant the shape of x: c0 + c1 x. */
function withProducer(
  plan: Pick<Plan, 'steps' | 'result' | 'constants' | 'names'>,
): Pick<Plan, 'steps' | 'constants' | 'names'> {
  if (plan.steps.length > 0) return plan;
  const times: Step = { op: 'mul', a: 'x', b: { constant: 0 } };
  if (plan.result === 'x') return { steps: [times], constants: [[1]], names: ['c1'] };
  const [c0 = [0]] = plan.constants;
  return {
    steps: [times, { op: 'add', a: { step: 0 }, b: { constant: 1 } }],
    constants: [[0], c0],
    names: ['c1', 'c0'],
  };
}
