/**
 * Before:  y = activation(x)
 * After:   y = c0 + c1 x + c2 x^2 + …            (Mul and Add only; y keeps its name)
 * Conditions: floating point; parameters of the activation constant. An activation of a constant is computed instead.
 * Algebra: an approximation on the range that the polynomial was made for, and a bad one outside of it
 *          (Garimella, Jha, Reagen 2021, section 3: drop and replace).
 */
import { SisyphusError } from '../errors.ts';
import { constantOf } from '../graph/constants.ts';
import { addConstant, pruneUnused, removeNode, replaceUses } from '../graph/edit.ts';
import type { ElementType, Model, Value } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { makeTensor, rounding, toNumbers } from '../graph/tensor.ts';
import { ACTIVATION_KINDS, type Activation } from '../poly/activations.ts';
import { fitError } from '../poly/fit.ts';
import { evaluatePlan, type Form, type Plan, plan } from '../poly/plan.ts';
import {
  type Coefficients,
  degreeOf,
  evaluate,
  formatPolynomial,
  type Polynomial,
  parsePolynomial,
  toPowers,
} from '../poly/polynomial.ts';
import { type Refusal, type Resolved, resolve, sourceOf, widened } from '../poly/recipe.ts';
import { formatResolved, type PolySpec, type SiteSpec } from '../poly/spec.ts';
import { type ActivationSite, findActivations } from './activation-sites.ts';
import { emitPolynomial, unrepresentable } from './emit-polynomial.ts';
import { type KeptChannels, keepChannels, splitChannels } from './keep-channels.ts';
import type { Change, Pass, PassReport } from './pass.ts';
import type { PlanFile } from './plan-file.ts';
import { refuseStrangers } from './ranges.ts';
import { type SiteSelection, selectedKinds, siteFilter, siteMatcher } from './select-sites.ts';
import type { ActivationStatistics } from './statistics.ts';

export interface ReplaceActivationOptions extends SiteSelection {
  /** The last one that matches a site is used for it. Sites that none matches stay. */
  readonly poly: readonly SiteSpec[];
  /** What each site becomes, in place of `poly`; sites that it does not name stay. */
  readonly plan?: PlanFile;
  /** The same, polynomials as they are: one, or one for each channel (axis 1). */
  readonly given?: ReadonlyMap<string, GivenPolynomials>;
  /** Default: the least multiplicative depth that keeps the accuracy of the element type. */
  readonly form?: Form;
  /** The statistics in a file that a spec names, or (for 'data') of a calibration; undefined for none. */
  readonly statistics?: (source: string) => ActivationStatistics | undefined;
  /** Sites whose composites get a wider range than asked for, by which factor. */
  readonly widened?: ReadonlyMap<string, number>;
}

export interface GivenPolynomials {
  readonly polynomials: readonly Polynomial[];
  /** a of the range [-a, a] that its input should not leave. */
  readonly range: number | null;
  /** What people are told that it became. */
  readonly text: string;
}

/** What stands at a site now. */
export interface Replacement extends Change {
  readonly activation: string;
  readonly poly: string;
  /** As `formatPolynomial` writes it; of the first channel where they differ by channel. */
  readonly polynomial: string;
  /** Of the powers of x, constant first; null for composites and Chebyshev series. */
  readonly coefficients: Coefficients | null;
  readonly degree: number;
  readonly form: Form;
  readonly depth: number;
  readonly multiplications: Plan['multiplications'];
  /** How often one run evaluates the site (above 1 inside functions). */
  readonly calls: number;
  /** Channels that keep their activation. */
  readonly keptChannels: number;
  /**
   * Difference to the activation where it is meant to be used: largest and rms as the nodes compute it in the graph's
   * element type, and the largest one without rounding. Of the worst channel; null for polynomials without such a place.
   */
  readonly error: { readonly max: number; readonly rms: number; readonly exact: number } | null;
  /** a of the range [-a, a] that its input should not leave; null for a polynomial without one. */
  readonly range: number | null;
}

export interface ReplaceActivationReport extends PassReport {
  readonly applied: Replacement[];
  /** Activations of constants, which are computed once and for all. */
  readonly folded: Change[];
}

export const replaceActivation: Pass<ReplaceActivationOptions> = {
  name: 'replace-activation',
  summary: 'activation functions become polynomials (--poly, --plan)',
  exact: false,
  run: runReplaceActivation,
};

export function runReplaceActivation(model: Model, options: ReplaceActivationOptions): ReplaceActivationReport {
  const types = inferTypes(model);
  // A plan says itself which activations it is about.
  const kinds = options.plan || options.given ? { activations: ACTIVATION_KINDS, ...options } : options;
  const { sites, refused } = findActivations(model, types, selectedKinds(kinds));
  const report: ReplaceActivationReport = {
    pass: replaceActivation.name,
    applied: [],
    folded: [],
    skipped: [...refused],
  };
  const leftOut = siteFilter(options, sites);
  const choose = options.given
    ? givenChooser(options.given, types)
    : options.plan
      ? planChooser(options.plan, model, types)
      : specChooser(options, model, types, sites);
  const prepare = preparer(options.form);
  for (const site of sites) {
    const skip = (reason: string) => report.skipped.push({ site: site.name, reason });
    const reason = leftOut(site);
    if (reason) {
      skip(reason);
      continue;
    }
    const choice = choose(site);
    if ('reason' in choice && choice.stays) {
      skip(choice.reason);
      continue;
    }
    if (constantOf(model, site.input)) {
      const change = foldConstant(model, site);
      if (change) report.folded.push(change);
      else skip('its input is a constant; --passes fold-constants computes it');
      continue;
    }
    if ('reason' in choice) {
      skip(choice.reason);
      continue;
    }
    const prepared = prepare(choice, site);
    const problem = unrepresentable(prepared.steps, site.elem) ?? overflow(prepared, site.elem);
    if (problem) skip(problem);
    else report.applied.push(replaceSite(model, site, choice, prepared));
  }
  return report;
}

/** What becomes of a site. */
interface Choice {
  readonly resolved: Resolved;
  /** Of the coefficients: [] for one polynomial, else broadcast against the input. */
  readonly shape: readonly number[];
  readonly text: string;
  readonly kept: KeptChannels | null;
}
/** `stays`: nobody asked for it to be replaced. */
type Chosen = Choice | (Refusal & { readonly stays?: boolean });

function specChooser(
  options: ReplaceActivationOptions,
  model: Model,
  types: Types,
  sites: readonly ActivationSite[],
): (site: ActivationSite) => Chosen {
  const rules = options.poly.map(({ glob, spec }) => ({
    spec,
    matches: glob === null ? () => true : siteMatcher(glob, '--poly', sites),
  }));
  const statistics = statisticsReader(options, model, types);
  const resolved = new Map<PolySpec, Map<Activation, Resolved | Refusal>>();
  return (site) => {
    const spec = rules.findLast(({ matches }) => matches(site))?.spec;
    if (!spec) return { reason: 'no --poly is given for it', stays: true };
    const source = sourceOf(spec.recipe);
    const [only, ...others] = site.activations;
    const factor = options.widened?.get(site.name) ?? 1;
    const recipe = widened(spec.recipe, factor);
    const make = () => resolve(recipe, site.activations, source === null ? undefined : statistics(source, site.name));
    // Most sites share one activation and spec, so each fit is made once.
    const shared = source === null && factor === 1 && only && others.length === 0;
    const result = shared
      ? into(
          into(resolved, spec, () => new Map<Activation, Resolved | Refusal>()),
          only,
          make,
        )
      : make();
    if ('reason' in result) return result;
    const shape = result.perChannel ? channelShape(site, types, result.polynomials.length) : site.parameterShape;
    if ('reason' in shape) return shape;
    const isOne = result.polynomials.length === 1;
    const text = formatResolved(spec, result.intervals[0] ?? null);
    return { resolved: result, shape: isOne ? [] : shape, text, kept: null };
  };
}

/** Looks sites up in files of statistics, or in a calibration. */
function statisticsReader(options: ReplaceActivationOptions, model: Model, types: Types) {
  const sources = new Map<string, ActivationStatistics | undefined>();
  for (const { spec } of options.poly) {
    const source = sourceOf(spec.recipe);
    if (source === null || sources.has(source)) continue;
    const statistics = options.statistics?.(source);
    if (statistics) refuseStrangers(statistics, model, types, '--poly');
    sources.set(source, statistics);
  }
  return (source: string, site: string) => {
    const statistics = sources.get(source);
    return statistics && Object.hasOwn(statistics.sites, site) ? statistics.sites[site] : undefined;
  };
}

/** Of tensors with one number for each channel (axis 1). */
function channelShape({ input, name }: ActivationSite, types: Types, channels: number): readonly number[] | Refusal {
  const { shape } = types.get(input);
  if (!shape || shape.length < 2)
    return { reason: `the rank of '${input.name}' is unknown, or it has no channel axis` };
  const [, own] = shape;
  if (typeof own === 'number' && own !== channels)
    return { reason: `'${name}' has ${own} channels, and there are polynomials for ${channels}` };
  return [channels, ...shape.slice(2).map(() => 1)];
}

function planChooser(file: PlanFile, model: Model, types: Types): (site: ActivationSite) => Chosen {
  refuseStrangers(file, model, types, '--plan');
  return (site) => {
    const entry = Object.hasOwn(file.sites, site.name) ? file.sites[site.name] : undefined;
    if (!entry || !('polynomials' in entry)) return { reason: 'the plan keeps it', stays: true };
    const all = entry.polynomials.map((text) => readPolynomial(text, site.name));
    const kept = entry.keep && entry.keep.length > 0 ? keepChannels(site, types, entry.keep) : null;
    if (kept && 'reason' in kept) return kept;
    const replaced = kept && all.length > 1 ? kept.rest.flatMap((c) => all[c] ?? []) : all;
    const shape = all.length > 1 ? channelShape(site, types, all.length) : [];
    if ('reason' in shape) return shape;
    return {
      resolved: { polynomials: replaced, perChannel: all.length > 1, intervals: replaced.map(() => null), range: null },
      shape: all.length > 1 ? [replaced.length, ...shape.slice(1)] : [],
      text: all.length > 1 ? 'by channel' : 'as planned',
      kept,
    };
  };
}

function givenChooser(given: ReadonlyMap<string, GivenPolynomials>, types: Types): (site: ActivationSite) => Chosen {
  return (site) => {
    const choice = given.get(site.name);
    if (!choice) return { reason: 'nothing is given for it', stays: true };
    const { polynomials, range, text } = choice;
    const perChannel = polynomials.length > 1;
    const shape = perChannel ? channelShape(site, types, polynomials.length) : [];
    if ('reason' in shape) return shape;
    return {
      resolved: { polynomials, perChannel, intervals: polynomials.map(() => null), range },
      shape,
      text,
      kept: null,
    };
  };
}

function readPolynomial(text: string, site: string): Polynomial {
  try {
    return parsePolynomial(text);
  } catch (cause) {
    throw new SisyphusError('file', `--plan: '${site}': ${(cause as Error).message}`, { cause });
  }
}

/** Everything that a site's replacement takes. */
interface Prepared {
  readonly steps: Plan;
  /** What `steps` evaluates: the fits in powers, or as they are. */
  readonly polynomials: readonly Polynomial[];
  readonly error: Replacement['error'];
}

/** Most sites share one fit and element type, so each is planned and judged once. */
function preparer(form?: Form): (choice: Choice, site: ActivationSite) => Prepared {
  const made = new Map<Resolved, Map<ElementType, Prepared>>();
  return ({ resolved }, site) => {
    const byElem = into(made, resolved, () => new Map<ElementType, Prepared>());
    return into(byElem, site.elem, () => prepare(resolved, site, form));
  };
}

function into<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const value = map.get(key) ?? make();
  map.set(key, value);
  return value;
}

/** Rounding may add this much to the error before a fit in powers of x gives way to one in Chebyshev polynomials. */
const ROUNDING = 1.5;
/** Roundings that no form goes without. */
const NOISE = 64;
/** Powers of x are hopeless above: their coefficients have lost all digits. */
const MOST_POWERS = 20;

function prepare(resolved: Resolved, site: ActivationSite, form?: Form): Prepared {
  const own = judge(resolved, resolved.polynomials, site, form);
  const noise = NOISE * Math.abs(rounding(site.elem)(1 / 3) - 1 / 3);
  const isChebyshev = resolved.polynomials.every(
    ({ stages: [only, ...more] }) => only?.basis === 'chebyshev' && !more.length,
  );
  if (!isChebyshev || form === 'clenshaw') return own();
  const degree = resolved.polynomials.map(degreeOf).reduce(most);
  const inPowers = resolved.polynomials.map((p) => ({ ...p, stages: p.stages.map(toPowers) }));
  const simple = judge(resolved, inPowers, site, form);
  if (form === 'horner') return simple();
  if (degree > MOST_POWERS) return own();
  // Powers of x spare the map to [-1, 1], a level.
  const { error, ...rest } = simple();
  const scale = resolved.intervals.reduce((a, on) => Math.max(a, ...(on ?? []).map(Math.abs)), 0);
  const loses = error && !(error.max <= ROUNDING * error.exact + noise * scale);
  return loses ? own() : { error, ...rest };
}

function judge(resolved: Resolved, polynomials: readonly Polynomial[], site: ActivationSite, form?: Form) {
  return (): Prepared => {
    const steps = plan(polynomials, form);
    return { steps, polynomials, error: errorOf(resolved, polynomials, steps, site) };
  };
}

function errorOf(
  { intervals, polynomials: exact }: Resolved,
  polynomials: readonly Polynomial[],
  steps: Plan,
  site: ActivationSite,
): Replacement['error'] {
  const errors = judged(site, exact.length).flatMap((channel) => {
    const [p, interval, activation] = [exact[channel], intervals[channel], activationAt(site, channel)];
    return p && interval
      ? [{ channel, interval, activation, exact: fitError(activation, (x) => evaluate(p, x), interval).max }]
      : [];
  });
  if (errors.length === 0 || polynomials.length === 0) return null;
  const worst = errors.reduce((a, b) => (b.exact > a.exact ? b : a));
  const round = rounding(site.elem);
  const emitted = fitError(worst.activation, (x) => evaluatePlan(steps, x, round, worst.channel), worst.interval);
  return { ...emitted, exact: worst.exact };
}

/** Of fits that differ by slope alone, which may be many, the two extreme ones: the error is linear in the slope. */
function judged({ activations }: ActivationSite, count: number): number[] {
  if (activations.length < count || count === 1) return Array.from({ length: count }, (_, channel) => channel);
  const slopes = activations.map(({ tangent }) => tangent[1]);
  return [...new Set([least, most].map((pick) => slopes.indexOf(slopes.reduce(pick))))];
}
const least = (a: number, b: number) => Math.min(a, b);
const most = (a: number, b: number) => Math.max(a, b);

const activationAt = ({ activations }: ActivationSite, channel: number): Activation =>
  (activations[channel] ?? activations[0]) as Activation;

/** High powers of a wide range leave the element type before their small coefficients bring them back. */
function overflow({ error, steps }: Prepared, elem: ElementType): string | null {
  if (!error || Number.isFinite(error.max)) return null;
  const remedy =
    steps.form === 'clenshaw' ? 'take a lower degree or a smaller range' : 'leave --form away, or take a lower degree';
  return `its evaluation (${steps.form}) overflows ${elem} within the range; ${remedy}`;
}

function replaceSite(
  model: Model,
  site: ActivationSite,
  choice: Choice,
  { steps, polynomials, error }: Prepared,
): Replacement {
  const { node, output, input: x } = site;
  const before = removeNode(node);
  const place = { body: node.body, before, name: `${site.name}/poly`, elem: site.elem };
  const emitted = { shape: choice.shape, plan: steps };
  const emit = (from: Value, to: Value | null) => emitPolynomial(model, place, emitted, from, to);
  if (choice.kept) splitChannels(model, site, before, choice.kept, (part) => emit(part, null));
  else emit(x, output);
  pruneUnused(node.inputs);

  const [first] = polynomials as readonly [Polynomial, ...Polynomial[]];
  const activation = site.activations[0] as Activation;
  const [series, ...more] = first.stages;
  const simple = series?.basis === 'power' && more.length === 0 && !first.gated;
  const kept = choice.kept?.keep.length ?? 0;
  const several = polynomials.length > 1 ? `, ${polynomials.length} channels` : '';
  const called = site.calls === 1 ? '' : `, in a function that runs ${site.calls} times`;
  const partly = kept === 0 ? '' : `, ${kept} channels keep it`;
  return {
    site: site.name,
    detail: `${activation.label} -> ${choice.text} (${steps.form}, depth ${steps.depth}${several}${partly}${called})`,
    activation: activation.label,
    poly: choice.text,
    polynomial: formatPolynomial(first),
    coefficients: simple ? series.coefficients : null,
    degree: polynomials.map(degreeOf).reduce(most),
    form: steps.form,
    depth: steps.depth,
    multiplications: steps.multiplications,
    calls: site.calls,
    keptChannels: kept,
    error,
    range: choice.resolved.range,
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
