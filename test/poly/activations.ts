/** The activations that the fits are tried on, and how far a polynomial is from one, measured apart from the fits. */
import fc from 'fast-check';
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
import { type ChebyshevSeries, chebyshevSeries, fromUnit, type Interval } from '../../src/poly/polynomial.ts';

export const ALL: readonly Activation[] = [
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
export const ROWS = ALL.map((activation) => [activation.label, activation] as const);

export const anyActivation = fc.constantFrom(...ALL);
/** Around 0 or not, from narrow to wide; seldom without the kink of ReLU. */
export const anyInterval: fc.Arbitrary<Interval> = fc
  .tuple(fc.double({ min: -1, max: 1, noNaN: true }), fc.double({ min: -1, max: 1.5, noNaN: true }))
  .map(([shift, exponent]) => {
    const half = 10 ** exponent;
    return [shift * half - half, shift * half + half];
  });
/** Which coefficient is changed, and by how much of the largest value of the activation. */
export const anyChange = fc.record({
  term: fc.nat({ max: 40 }),
  size: fc.double({ min: 1e-3, max: 0.1, noNaN: true }),
  up: fc.boolean(),
});

export function changed(
  { coefficients, interval }: ChebyshevSeries,
  degree: number,
  { term, size, up }: { term: number; size: number; up: boolean },
  scale: number,
): ChebyshevSeries {
  const list = Array.from({ length: degree + 1 }, (_, k) => coefficients[k] ?? 0);
  (list[term % (degree + 1)] as number) += (up ? size : -size) * scale;
  return chebyshevSeries(list, interval);
}

/** `count` places in the middle of equal parts. */
export const midpoints = (interval: Interval, count: number): number[] =>
  Array.from({ length: count }, (_, i) => fromUnit(interval, -1 + (2 * i + 1) / count));

export const largest = (values: readonly number[]): number =>
  values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** The largest |found - expected|, coefficient by coefficient; missing ones are 0. */
export function distance(found: readonly number[], expected: readonly number[]): number {
  return largest(
    Array.from({ length: Math.max(found.length, expected.length) }, (_, k) => (found[k] ?? 0) - (expected[k] ?? 0)),
  );
}
