/** A polynomial as nodes: only Mul and Add on the data, coefficients as named constants. */
import { addConstant, addNode } from '../graph/edit.ts';
import type { Body, ElementType, Model, Node, Value } from '../graph/ir.ts';
import { makeTensor, toNumbers } from '../graph/tensor.ts';
import type { Coefficients } from '../poly/fit.ts';
import { type Form, type Operand, type Plan, plan } from '../poly/plan.ts';

export interface PolynomialTensor {
  /** One polynomial, or one for each element of `shape`. */
  readonly polynomials: readonly Coefficients[];
  /** Shape of the coefficient tensors: [] for one polynomial, else broadcast against the input. */
  readonly shape: readonly number[];
}

/** The plan for all polynomials at once: a term is left out where it is zero in every one of them. */
export function planTensor({ polynomials }: PolynomialTensor, form?: Form): Plan {
  const length = polynomials.reduce((longest, p) => Math.max(longest, p.length), 0);
  const pattern = Array.from({ length }, (_, k) => {
    const first = polynomials[0]?.[k] ?? 0;
    return polynomials.every((p) => (p[k] ?? 0) === first) ? first : 0.5; // any value but 0 and 1 stands for "varies"
  });
  return plan(pattern, form);
}

/**
 * Why the coefficients can't be held in an element type, or null: float16 overflows at 65504 and loses what is
 * below 6e-8.
 */
export function unrepresentable({ polynomials }: PolynomialTensor, elem: ElementType): string | null {
  for (const coefficients of polynomials)
    for (const [k, c] of coefficients.entries()) {
      const [stored] = toNumbers(makeTensor('', elem, [1], [c]));
      if (!Number.isFinite(stored) || (stored === 0 && c !== 0))
        return `its coefficient c${k} = ${c} does not fit ${elem}`;
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

/** Emits the polynomial of `x`; the last node makes `output`, which must have no producer. */
export function emitPolynomial(
  model: Model,
  { body, before, name, elem }: PolynomialPlace,
  { tensor, steps }: { tensor: PolynomialTensor; steps: Plan },
  x: Value,
  output: Value,
): void {
  const constants = new Map<number, Value>();
  const constant = (k: number): Value => {
    const known = constants.get(k);
    if (known) return known;
    const values = tensor.polynomials.map((p) => p[k] ?? 0);
    const value = addConstant(model, body, makeTensor(`${name}/c${k}`, elem, tensor.shape, values), before);
    constants.set(k, value);
    return value;
  };
  const made: Value[] = [];
  const resolve = (operand: Operand): Value => {
    if (operand === 'x') return x;
    return 'coefficient' in operand ? constant(operand.coefficient) : (made[operand.step] as Value);
  };
  // The identity (0 + 1 x) and constants have no steps, but the output needs a producer, and x its shape.
  const times = { op: 'mul', a: 'x', b: { coefficient: 1 } } as const;
  const isConstant = tensor.polynomials.every((p) => p.length <= 1);
  const trivial = isConstant ? [times, { op: 'add', a: { step: 0 }, b: { coefficient: 0 } } as const] : [times];
  const list = steps.steps.length > 0 ? steps.steps : trivial;
  for (const [index, { op, a, b }] of list.entries()) {
    const last = index === list.length - 1;
    const node = addNode(
      model,
      body,
      {
        op: op === 'mul' ? 'Mul' : 'Add',
        name: `${name}/${op}`,
        inputs: [resolve(a), resolve(b)],
        ...(last && { outputs: [output] }),
      },
      before,
    );
    made.push(node.outputs[0] as Value);
  }
}
