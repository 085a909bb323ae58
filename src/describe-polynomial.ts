/** `sisyphus poly` as a function: what a spec makes of an activation, how far off it is, and what it costs. */
import { SisyphusError } from './errors.ts';
import { type Activation, namedActivation } from './poly/activations.ts';
import { fitError } from './poly/fit.ts';
import { evaluatePlan, FORMS, type Form, type Plan, plan } from './poly/plan.ts';
import {
  type Coefficients,
  degreeOf,
  evaluate,
  formatPolynomial,
  type Interval,
  type Polynomial,
  toPowers,
} from './poly/polynomial.ts';
import { CALIBRATE, fallbackOf, resolve, type SiteStatistics, sourceOf } from './poly/recipe.ts';
import { formatResolved, type PolySpec, parseSpec } from './poly/spec.ts';

export interface DescribeOptions {
  /** 'relu' (the default), 'gelu', 'leaky-relu(0.1)', …: see `namedActivation`. */
  readonly fn?: string;
  /** Where errors are taken. Default: where the spec fits, else [-5, 5]. */
  readonly interval?: Interval;
  /** What was measured at a site, for specs that name a file of statistics. */
  readonly statistics?: SiteStatistics;
}

export interface DescribedForm {
  readonly form: Form;
  readonly depth: number;
  readonly multiplications: Plan['multiplications'];
  /** Largest difference to the activation when each step is rounded to float32. */
  readonly float32Error: number;
}

export interface PolynomialReport {
  readonly spec: string;
  /** As it was asked for. */
  readonly fn: string;
  readonly activation: string;
  /** As `parsePolynomial` reads it. */
  readonly polynomial: string;
  readonly degree: number;
  /** Of the powers of x, constant first; null where they say nothing (composites, degrees above 20). */
  readonly coefficients: Coefficients | null;
  /** As the fit has them. */
  readonly stages: Polynomial['stages'];
  readonly gated: boolean;
  readonly interval: Interval;
  /** On the interval, in float64: the largest difference, its root mean square, and the L2 norm (rms times sqrt(length)). */
  readonly error: { readonly max: number; readonly rms: number; readonly l2: number };
  /** Each form that can evaluate it, best first: least depth, then fewest products of ciphertexts. */
  readonly forms: readonly DescribedForm[];
}

/**
 * Describes the polynomial that a spec means for an activation.
 * @throws SisyphusError `spec` for a spec or activation that can't be read, or that take each other for nothing
 */
export function describePolynomial(text: string, options: DescribeOptions = {}): PolynomialReport {
  const spec = parseSpec(text);
  const { fn = 'relu' } = options;
  const activation = namedActivation(fn);
  const { polynomial, own } = polynomialOf(spec, activation, options.statistics);
  const interval = options.interval ?? own ?? [-5, 5];
  const { max, rms } = fitError(activation, (x) => evaluate(polynomial, x), interval);
  const powers = asPowers(polynomial);
  const [first] = powers?.stages ?? [];
  return {
    spec: formatResolved(spec, own),
    fn,
    activation: activation.label,
    polynomial: formatPolynomial(powers ?? polynomial),
    degree: degreeOf(polynomial),
    coefficients: first?.coefficients ?? null,
    stages: polynomial.stages,
    gated: polynomial.gated,
    interval,
    error: { max, rms, l2: rms * Math.sqrt(interval[1] - interval[0]) },
    forms: formsOf(polynomial, powers, activation, interval),
  };
}

function polynomialOf(
  spec: PolySpec,
  activation: Activation,
  statistics: SiteStatistics | undefined,
): { polynomial: Polynomial; own: Interval | null } {
  const source = sourceOf(spec.recipe);
  const resolved = resolve(spec.recipe, [activation], source === null ? undefined : statistics);
  if ('reason' in resolved) {
    const missing = source !== null && !statistics && !fallbackOf(spec.recipe);
    const remedy =
      source === CALIBRATE ? 'give a number (a=5) or a file of statistics' : 'name one of its sites with --site';
    throw new SisyphusError('spec', `${spec.text}: ${missing ? `its range is measured: ${remedy}` : resolved.reason}`);
  }
  return { polynomial: resolved.polynomials[0] as Polynomial, own: resolved.intervals[0] ?? null };
}

/** Powers of x, where they are of use. */
function asPowers(polynomial: Polynomial): Polynomial | null {
  const { stages, gated } = polynomial;
  if (stages.length > 1 || gated || degreeOf(polynomial) > 20) return null;
  return { stages: stages.map(toPowers), gated };
}

/** Forms in powers of x and in Chebyshev polynomials; those with the same name are judged by what they cost. */
function formsOf(
  polynomial: Polynomial,
  powers: Polynomial | null,
  activation: Activation,
  interval: Interval,
): DescribedForm[] {
  const chebyshev = polynomial.stages.every(({ basis }) => basis === 'chebyshev');
  const list = FORMS.flatMap((form): DescribedForm[] => {
    const given =
      form === 'clenshaw' ? (chebyshev ? polynomial : null) : (powers ?? (SAFE.has(form) ? polynomial : null));
    if (!given) return [];
    const { depth, multiplications, ...steps } = plan([given], form);
    const emitted = (x: number) => evaluatePlan({ ...steps, depth, multiplications }, x, Math.fround);
    return [{ form, depth, multiplications, float32Error: fitError(activation, emitted, interval).max }];
  });
  const cost = ({ depth, multiplications: { ciphertext, plaintext } }: DescribedForm) =>
    depth * 1e8 + ciphertext * 1e4 + plaintext;
  return list.sort((a, b) => cost(a) - cost(b));
}

/** Forms that don't turn Chebyshev series into powers. */
const SAFE: ReadonlySet<Form> = new Set<Form>(['powers', 'estrin', 'paterson-stockmeyer']);
