/**
 * What replacing activations takes data for: choosing which ones go, and ranges that no input may leave. The data are
 * those of `--data`, a few inputs without their labels.
 */
import { SisyphusError } from './errors.ts';
import type { CalibrationOptions } from './eval/calibration.ts';
import { cloneModel } from './graph/edit.ts';
import type { Model } from './graph/ir.ts';
import { inferTypes } from './graph/shapes.ts';
import { findActivations } from './passes/activation-sites.ts';
import type { PlanFile } from './passes/plan-file.ts';
import { recordRanges } from './passes/ranges.ts';
import {
  type ReplaceActivationOptions,
  type ReplaceActivationReport,
  runReplaceActivation,
} from './passes/replace-activation.ts';
import type { SiteSelection } from './passes/select-sites.ts';
import type { PolySpec, SiteSpec } from './poly/spec.ts';

/** A preset that replaces some of the activations: which ones is decided on data, as `sisyphus plan` does. */
export async function chooseSites(
  model: Model,
  where: string,
  { text, recipe, preset }: PolySpec,
  options: SiteSelection & { readonly calibration?: CalibrationOptions },
  notes: string[],
): Promise<PlanFile> {
  if (!options.calibration)
    throw new SisyphusError(
      'usage',
      `--poly ${text}: which activations it replaces is chosen on data: give --data NAME:PATH${preset?.name === 'delphi' ? ', or k=all to replace every one' : ''}`,
    );
  const { planModel } = await import('./planner/plan.ts');
  const report = await planModel(model, where, {
    ...options.calibration,
    ...(options.activations && { activations: options.activations }),
    ...(options.only && { only: options.only }),
    ...(options.skip && { skip: options.skip }),
    method: preset?.choice?.method ?? 'delphi',
    ...(preset?.choice?.budget != null && { budget: preset.choice.budget }),
    ...(preset?.choice?.method === 'delphi' && { recipe: { text, recipe } }),
  });
  notes.push(...report.notes);
  return report.plan;
}

/**
 * Replaces, and where a polynomial is worth nothing outside of its range (composites), runs the result on the
 * calibration data and starts over with wider ranges until no input leaves one. Ranges grow by tenths: Lee et al. 2021
 * (arXiv 2105.10879) abort and raise B = 50 by 5.
 */
export async function replaceWithinRange(
  prepared: Model,
  where: string,
  work: ReplaceActivationOptions,
  calibration: CalibrationOptions | undefined,
  notes: string[],
): Promise<{ model: Model; report: ReplaceActivationReport }> {
  const widened = new Map<string, number>();
  for (let round = 0; ; round++) {
    const model = cloneModel(prepared);
    const report = runReplaceActivation(model, { ...work, widened });
    recordRanges(model, new Map(report.applied.flatMap(({ site, range }) => (range === null ? [] : [[site, range]]))));
    if (!calibration || !work.poly.some(({ spec }) => spec.preset?.mustStayInRange)) return { model, report };
    const { calibrate } = await import('./eval/calibration.ts');
    const { sites, images } = await calibrate(model, where, calibration);
    const ours = new Set(report.applied.flatMap(({ site, polynomial }) => (isComposite(polynomial) ? [site] : [])));
    const [first, ...rest] = sites.filter(({ name, leaving }) => ours.has(name) && leaving !== null && leaving > 0);
    if (!first) {
      const hidden = [...ours].filter((site) => !sites.some(({ name }) => name === site));
      if (hidden.length > 0) notes.push(`not watched, because their values are not visible: ${hidden.join(', ')}`);
      if (round > 0) notes.push(`ranges of ${widened.size} sites grew until none of ${images} inputs left them`);
      return { model, report };
    }
    // Nothing before the first one escaped, so it has to hold what it was given; what comes after it may have escaped
    // because of it, unless by little.
    const near = rest.filter(({ input, range }) => reach(input) < 2 * (range ?? 0));
    if (!Number.isFinite(reach(first.input)) || round > MORE_ROUNDS + ours.size)
      throw new SisyphusError(
        'unsupported',
        `${where}: inputs of '${first.name}' leave [-${first.range}, ${first.range}] and wider ranges: the activations before it are not approximated well enough; take a higher alpha or a larger margin`,
      );
    for (const { name, input, range } of [first, ...near]) {
      const tenths = Math.max(1, Math.ceil(Math.log(reach(input) / (range ?? 1)) / Math.log(1.1)));
      widened.set(name, (widened.get(name) ?? 1) * 1.1 ** tenths);
    }
  }
}

/** As `formatPolynomial` writes them. */
const isComposite = (polynomial: string) => polynomial.startsWith('x * (');

/** A range may have to grow again, because with the ones before it what it is given changes a little. */
const MORE_ROUNDS = 10;

const reach = ({ min, max }: { readonly min: number | null; readonly max: number | null }): number =>
  Math.max(-(min ?? Number.NaN), max ?? Number.NaN);

/** What a user should know about how a preset's polynomials meet this network. */
export function presetAdvice(model: Model, specs: readonly SiteSpec[], report: ReplaceActivationReport): string[] {
  const wanting = specs.filter(({ spec }) => spec.preset?.wantsBatchNormalization);
  if (wanting.length === 0) return [];
  const replaced = new Set(report.applied.map(({ site }) => site));
  const { sites } = findActivations(model, inferTypes(model));
  const bare = sites.filter(({ name, input }) => replaced.has(name) && input.producer?.op !== 'BatchNormalization');
  if (bare.length === 0) return [];
  const name = wanting[0]?.spec.preset?.name;
  return [
    `${name} counts on inputs of mean 0 and deviation 1: ${bare.length} of ${replaced.size} sites have no BatchNormalization right before them (it may be folded into their weights); \`--poly deg=2,fit=gaussian,a=stats.json\` takes what \`probe -o\` measured instead`,
  ];
}
