/**
 * Before:  y = activation(x)
 * After:   y = c0 + c1 x + c2 x^2 + …            (Mul and Add only; y keeps its name)
 * Conditions: floating point; parameters of the activation constant. An activation of a constant is computed instead.
 * Algebra: an approximation on the range that the polynomial was made for, and a bad one outside of it
 *          (Garimella, Jha, Reagen 2021, section 3: drop and replace).
 */
import { constantOf } from '../graph/constants.ts';
import { addConstant, pruneUnused, removeNode, replaceUses } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { makeTensor, toNumbers } from '../graph/tensor.ts';
import type { Activation } from '../poly/activations.ts';
import { type Coefficients, fitError } from '../poly/fit.ts';
import type { Form, Plan } from '../poly/plan.ts';
import { formatSpec, type PolySpec, polynomialFor, type SiteSpec } from '../poly/spec.ts';
import { type ActivationSite, findActivations } from './activation-sites.ts';
import { emitPolynomial, type PolynomialTensor, planTensor, unrepresentable } from './emit-polynomial.ts';
import type { Change, Pass, PassReport } from './pass.ts';
import { type SiteSelection, selectedKinds, siteFilter, siteMatcher } from './select-sites.ts';

export interface ReplaceActivationOptions extends SiteSelection {
  /** The last one that matches a site is used for it. Sites that none matches stay. */
  readonly poly: readonly SiteSpec[];
  /** Default: the form with the least multiplicative depth. */
  readonly form?: Form;
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
  /** Largest and rms difference to the activation on [-a, a], for fits. */
  readonly error: { readonly max: number; readonly rms: number } | null;
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
  const fitted = fitter();
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
    const fits = site.activations.map((activation) => fitted(spec, activation));
    const tensor = { polynomials: fits.map(({ coefficients }) => coefficients), shape: site.parameterShape };
    const misfit = unrepresentable(tensor, site.elem);
    if (misfit) report.skipped.push({ site: site.name, reason: misfit });
    else
      report.applied.push({ ...replaceSite(model, site, spec, tensor, options.form), error: fits[0]?.error ?? null });
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

interface Fitted {
  readonly coefficients: Coefficients;
  readonly error: Replacement['error'];
}

/** Most sites share one activation and one spec, so each fit is made and judged once. */
function fitter(): (spec: PolySpec, activation: Activation) => Fitted {
  const made = new Map<PolySpec, Map<Activation, Fitted>>();
  return (spec, activation) => {
    const bySpec = made.get(spec) ?? new Map<Activation, Fitted>();
    made.set(spec, bySpec);
    const known = bySpec.get(activation);
    if (known) return known;
    const coefficients = polynomialFor(spec, activation);
    const error = spec.kind === 'fit' ? fitError(activation, coefficients, spec.range) : null;
    bySpec.set(activation, { coefficients, error });
    return { coefficients, error };
  };
}

function replaceSite(
  model: Model,
  site: ActivationSite,
  spec: PolySpec,
  polynomial: PolynomialTensor,
  form?: Form,
): Omit<Replacement, 'error'> {
  const { node, output, input: x } = site;
  const steps = planTensor(polynomial, form);
  const before = removeNode(node);
  const place = { body: node.body, before, name: `${site.name}/poly`, elem: site.elem };
  emitPolynomial(model, place, { tensor: polynomial, steps }, x, output);
  pruneUnused(node.inputs);

  const [coefficients = [], activation] = [polynomial.polynomials[0], site.activations[0] as Activation];
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
