/**
 * Before:  y = activation(x)
 * After:   y = c0 + c1 x + c2 x^2 + …            (Mul and Add only; y keeps its name)
 * Conditions: floating point; parameters of the activation constant. An activation of a constant is computed instead.
 * Algebra: an approximation on the range that the polynomial was made for, and a bad one outside of it
 *          (Garimella, Jha, Reagen 2021, section 3: drop and replace).
 */
import { constantOf } from '../graph/constants.ts';
import { addConstant, pruneUnused, removeNode, replaceUses } from '../graph/edit.ts';
import type { ElementType, Model } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { makeTensor, rounding, toNumbers } from '../graph/tensor.ts';
import { type Activation, relu } from '../poly/activations.ts';
import { type Coefficients, evaluate, fitError } from '../poly/fit.ts';
import { evaluatePlan, type Form, type Plan } from '../poly/plan.ts';
import { type FixedSpec, formatSpec, type PolySpec, polynomialFor, type SiteSpec } from '../poly/spec.ts';
import { type ActivationSite, findActivations } from './activation-sites.ts';
import { emitPolynomial, type PolynomialTensor, planTensor, unrepresentable } from './emit-polynomial.ts';
import type { Change, Pass, PassReport } from './pass.ts';
import { measuredRange, refuseStrangers } from './ranges.ts';
import { type SiteSelection, selectedKinds, siteFilter, siteMatcher } from './select-sites.ts';
import type { ActivationStatistics } from './statistics.ts';

export interface ReplaceActivationOptions extends SiteSelection {
  /** The last one that matches a site is used for it. Sites that none matches stay. */
  readonly poly: readonly SiteSpec[];
  /** Default: the form with the least multiplicative depth. */
  readonly form?: Form;
  /** The statistics in a file that a spec names. */
  readonly statistics?: (file: string) => ActivationStatistics;
}

/** What stands at a site now. */
export interface Replacement extends Change {
  readonly activation: string;
  readonly poly: string;
  /** Coefficients, constant first; of the first channel where they differ by channel. */
  readonly coefficients: Coefficients;
  readonly form: Form;
  readonly depth: number;
  readonly multiplications: Plan['multiplications'];
  /** How often one run evaluates the site (above 1 inside functions). */
  readonly calls: number;
  /**
   * Difference to the activation on [-a, a], for fits: largest and rms as the nodes compute it in the graph's element
   * type, and the largest one without rounding. Of the worst channel.
   */
  readonly error: { readonly max: number; readonly rms: number; readonly exact: number } | null;
  /** a of the range [-a, a] that it was fitted on; null for a polynomial without one. */
  readonly range: number | null;
}

export interface ReplaceActivationReport extends PassReport {
  readonly applied: Replacement[];
  /** Activations of constants, which are computed once and for all. */
  readonly folded: Change[];
}

export const replaceActivation: Pass<ReplaceActivationOptions> = {
  name: 'replace-activation',
  summary: 'activation functions become polynomials (--poly)',
  exact: false,
  run: runReplaceActivation,
};

export function runReplaceActivation(model: Model, options: ReplaceActivationOptions): ReplaceActivationReport {
  const { sites, refused } = findActivations(model, inferTypes(model), selectedKinds(options));
  const report: ReplaceActivationReport = {
    pass: replaceActivation.name,
    applied: [],
    folded: [],
    skipped: [...refused],
  };
  const leftOut = siteFilter(options, sites);
  const specFor = specChooser(options.poly, sites);
  const prepare = preparer(options.form);
  const fixSpec = specFixer(model, options);
  for (const site of sites) {
    const spec = specFor(site);
    const reason = leftOut(site) ?? (spec ? null : 'no --poly is given for it');
    if (reason || !spec) {
      report.skipped.push({ site: site.name, reason: reason ?? '' });
      continue;
    }
    if (constantOf(model, site.input)) {
      const change = foldConstant(model, site);
      if (change) report.folded.push(change);
      else
        report.skipped.push({
          site: site.name,
          reason: 'its input is a constant; --passes fold-constants computes it',
        });
      continue;
    }
    const fixed = fixSpec(spec, site);
    if ('reason' in fixed) {
      report.skipped.push({ site: site.name, ...fixed });
      continue;
    }
    const prepared = prepare(fixed, site);
    const problem = unrepresentable(prepared.tensor, site.elem) ?? overflow(prepared, site.elem);
    if (problem) report.skipped.push({ site: site.name, reason: problem });
    else report.applied.push(replaceSite(model, site, fixed, prepared));
  }
  return report;
}

function specChooser(
  specs: readonly SiteSpec[],
  sites: readonly ActivationSite[],
): (site: ActivationSite) => PolySpec | null {
  const rules = specs.map(({ glob, spec }) => ({
    spec,
    matches: glob === null ? () => true : siteMatcher(glob, '--poly', sites),
  }));
  return (site) => rules.findLast(({ matches }) => matches(site))?.spec ?? null;
}

type Fixed = FixedSpec | { readonly reason: string };

/** Looks up ranges that stand in a file. */
function specFixer(model: Model, options: ReplaceActivationOptions): (spec: PolySpec, site: ActivationSite) => Fixed {
  const files = new Map<string, ActivationStatistics | undefined>();
  for (const { spec } of options.poly)
    if (spec.kind === 'measured' && !files.has(spec.file)) {
      const statistics = options.statistics?.(spec.file);
      if (statistics) refuseStrangers(statistics, model, inferTypes(model), '--poly');
      files.set(spec.file, statistics);
    }
  return (spec, { name }) => {
    if (spec.kind !== 'measured') return spec;
    const range = measuredRange(files.get(spec.file), name);
    if (typeof range === 'string') return { reason: range };
    return { kind: 'fit', degree: spec.degree, range, ...(spec.dx !== undefined && { dx: spec.dx }) };
  };
}

/** Everything that a site's replacement takes. */
interface Prepared {
  readonly tensor: PolynomialTensor;
  readonly steps: Plan;
  readonly error: Replacement['error'];
}

/** Most sites share one activation, spec and element type, so each fit is made and judged once. */
function preparer(form?: Form): (spec: FixedSpec, site: ActivationSite) => Prepared {
  const made = new Map<FixedSpec, Map<Activation, Map<ElementType, Prepared>>>();
  return (spec, site) => {
    const byActivation = into(made, spec, () => new Map<Activation, Map<ElementType, Prepared>>());
    const [only, ...others] = site.activations;
    if (!only || others.length > 0) return prepareSite(spec, site, form);
    const byElem = into(byActivation, only, () => new Map<ElementType, Prepared>());
    return into(byElem, site.elem, () => prepareSite(spec, site, form));
  };
}

function into<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const value = map.get(key) ?? make();
  map.set(key, value);
  return value;
}

function prepareSite(spec: FixedSpec, site: ActivationSite, form?: Form): Prepared {
  const polynomials = polynomialsFor(spec, site.activations);
  const tensor = { polynomials, shape: site.parameterShape };
  const steps = planTensor(tensor, form);
  if (spec.kind !== 'fit') return { tensor, steps, error: null };
  const round = rounding(site.elem);
  // Slopes by channel differ least in the middle, so the two ends tell.
  const slopes = site.activations.map(({ tangent }) => tangent[1]);
  const extremes = new Set([Math.min, Math.max].map((pick) => slopes.indexOf(slopes.reduce((a, b) => pick(a, b)))));
  const errors = [...extremes].map((i) => {
    const [activation, coefficients] = [site.activations[i] as Activation, polynomials[i] ?? []];
    const emitted = fitError(activation, (x) => evaluatePlan(steps, coefficients, x, round), spec.range);
    return { ...emitted, exact: fitError(activation, (x) => evaluate(coefficients, x), spec.range).max };
  });
  // NaN is worse than any number.
  const worst = errors.reduce((a, b) => (a.max >= b.max || Number.isNaN(a.max) ? a : b));
  return { tensor, steps, error: worst };
}

/**
 * The polynomials of a site. PRelu may have a slope for every element; s x + (1 - s) relu(x) is linear in ReLU, and so are
 * its fits, so one fit serves them all.
 */
function polynomialsFor(spec: FixedSpec, activations: readonly Activation[]): Coefficients[] {
  if (activations.length === 1 || (spec.kind !== 'fit' && spec.kind !== 'taylor'))
    return activations.map((activation) => polynomialFor(spec, activation));
  const base = polynomialFor(spec, relu);
  return activations.map(({ tangent }) => {
    const slope = 2 * tangent[1] - 1;
    return base.map((c, k) => (1 - slope) * c + (k === 1 ? slope : 0));
  });
}

/** High powers of a wide range leave the element type before their small coefficients bring them back. */
function overflow({ error, steps }: Prepared, elem: ElementType): string | null {
  if (!error || Number.isFinite(error.max)) return null;
  const remedy =
    steps.form === 'horner' ? 'take a lower degree or a smaller range' : 'take --form horner, or a lower degree';
  return `its evaluation (${steps.form}) overflows ${elem} within the range; ${remedy}`;
}

function replaceSite(
  model: Model,
  site: ActivationSite,
  spec: FixedSpec,
  { tensor, steps, error }: Prepared,
): Replacement {
  const { node, output, input: x } = site;
  const before = removeNode(node);
  const place = { body: node.body, before, name: `${site.name}/poly`, elem: site.elem };
  emitPolynomial(model, place, { tensor, steps }, x, output);
  pruneUnused(node.inputs);

  const [coefficients = [], activation] = [tensor.polynomials[0], site.activations[0] as Activation];
  const several = site.activations.length > 1 ? `, ${site.activations.length} channels` : '';
  const called = site.calls === 1 ? '' : `, in a function that runs ${site.calls} times`;
  return {
    site: site.name,
    detail: `${activation.label} -> ${formatSpec(spec)} (${steps.form}, depth ${steps.depth}${several}${called})`,
    activation: activation.label,
    poly: formatSpec(spec),
    coefficients,
    form: steps.form,
    depth: steps.depth,
    multiplications: steps.multiplications,
    calls: site.calls,
    error,
    range: spec.kind === 'fit' ? spec.range : null,
  };
}

/** An activation of a constant (of weights, say) is data: computed here, exactly, once. */
function foldConstant(model: Model, site: ActivationSite): Change | null {
  const constant = constantOf(model, site.input);
  const [activation] = site.activations;
  if (!constant || !activation || site.activations.length > 1 || site.node.body.kind === 'function') return null;
  const values = toNumbers(constant).map(activation.f);
  const folded = addConstant(
    model,
    site.node.body,
    makeTensor(site.output.name, constant.elem, constant.dims, values),
    site.node,
  );
  if (!replaceUses(site.output, folded)) {
    pruneUnused([folded]);
    return null;
  }
  pruneUnused([site.output]);
  return { site: site.name, detail: `${activation.label} of a constant, computed` };
}
