/** `sisyphus rewrite` as a function: read, run passes on a copy, verify, write. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { didYouMean, SisyphusError } from './errors.ts';
import type { CalibrationOptions } from './eval/calibration.ts';
import { checkEqual, type EqualityReport } from './eval/check.ts';
import { outputName, refuseTarget } from './files.ts';
import { cloneModel, setMetadata } from './graph/edit.ts';
import type { Model } from './graph/ir.ts';
import { fileError, readModel } from './graph/read.ts';
import { isStripped } from './graph/tensor.ts';
import { assertValid } from './graph/verify.ts';
import { encodedSize, writeModel } from './graph/write.ts';
import { type ModelSummary, summarize } from './inspect.ts';
import { loweringTarget, lowerModel } from './lower.ts';
import { SIMPLE_PASSES } from './passes/index.ts';
import { insertAmm } from './passes/insert-amm.ts';
import type { PassReport } from './passes/pass.ts';
import type { PlanFile } from './passes/plan-file.ts';
import type { ReplaceActivationOptions } from './passes/replace-activation.ts';
import type { SiteSelection } from './passes/select-sites.ts';
import { setOpsetPass } from './passes/set-opset.ts';
import type { ActivationStatistics } from './passes/statistics.ts';
import type { Form } from './poly/plan.ts';
import { CALIBRATE, fallbackOf, sourceOf } from './poly/recipe.ts';
import { parseSiteSpec, type SiteSpec } from './poly/spec.ts';
import { chooseSites, presetAdvice, replaceWithinRange } from './replace-on-data.ts';
import { VERSION } from './version.ts';

export interface RewriteOptions extends SiteSelection {
  /** `SPEC` or `GLOB=SPEC`; the last one that matches a site is used for it. */
  readonly poly?: readonly string[];
  /** A file that `sisyphus plan` wrote, in place of `poly`: which activations become what. */
  readonly plan?: string;
  /** Data that ranges are measured on, and activations chosen by, where a polynomial asks for that. */
  readonly calibration?: CalibrationOptions;
  readonly form?: Form;
  /** Names of passes to run first, in this order. */
  readonly passes?: readonly string[];
  /** Convert the default domain to this opset before anything else. */
  readonly opset?: number;
  /** A statistics file: insert ApproxMinMaxNorm before the activations. */
  readonly amm?: string;
  /** Insert the true min-max normalisation instead. */
  readonly mm?: boolean;
  /** Lower the result for this target, as `lower` does. */
  readonly target?: string;
  /** How many random inputs to compare on after the exact passes. 0: no check. */
  readonly check?: number;
  readonly seed?: number;
  /** What `check` allows, relative to the largest output. Default 1e-4. */
  readonly rtol?: number;
  /** Default: `MODEL.poly.onnx` beside the input. */
  readonly output?: string;
  readonly force?: boolean;
  /** Do everything but write. */
  readonly dryRun?: boolean;
  readonly externalData?: boolean;
  readonly signal?: AbortSignal;
}

export interface RewriteReport {
  readonly input: string;
  /** null after a dry run. */
  readonly output: string | null;
  /** Files written, with their sizes in bytes. */
  readonly files: Readonly<Record<string, number>>;
  readonly passes: readonly PassReport[];
  readonly before: ModelSummary;
  readonly after: ModelSummary;
  /** Bytes of the model file (external data not included). */
  readonly size: { readonly before: number; readonly after: number };
  readonly check: CheckOutcome | null;
  /** What was found out on the way, and what a preset counts on. */
  readonly notes: readonly string[];
  readonly warnings: readonly string[];
}

/** The comparison after the exact passes, or why there was none. */
export type CheckOutcome = EqualityReport | { readonly skipped: string };

/**
 * Rewrites a file.
 * @throws SisyphusError for bad options, unreadable or invalid models, and where the output can't be written; `gate`
 * where `check` finds that an exact pass changed the function
 */
export async function rewrite(input: string, options: RewriteOptions): Promise<RewriteReport> {
  const output = options.output ?? outputName(input, 'poly');
  // Before the work, not after it.
  if (!options.dryRun && output !== '') await refuseTarget(output, options.force ?? false);
  const original = readModel(input);
  const { model, ...report } = await rewriteModel(original, options, input);
  const files = options.dryRun ? new Map<string, number>() : await writeModel(model, output, options);
  return {
    input,
    output: options.dryRun ? null : output,
    files: Object.fromEntries(files),
    ...report,
    size: { before: encodedSize(original), after: files.get(output) ?? encodedSize(model) },
  };
}

export type ModelRewrite = Pick<RewriteReport, 'passes' | 'before' | 'after' | 'check' | 'notes' | 'warnings'> & {
  readonly model: Model;
};

/** Rewrites a model in memory; the one that is given stays as it is. `where` names it in messages. */
export async function rewriteModel(original: Model, options: RewriteOptions, where = 'model'): Promise<ModelRewrite> {
  if (options.output === '') throw new SisyphusError('usage', '-o: the name is empty');
  if (options.target !== undefined) loweringTarget(options.target);
  const specs = (options.poly ?? []).map(parseSiteSpec);
  const simple = passNames(options, specs).map(simplePass);
  refuseCombinations(options, specs, simple.length);
  const statistics = options.amm === undefined ? undefined : await readStatistics(options.amm);
  const measured = new Map<string, ActivationStatistics>();
  for (const source of sources(specs)) if (source !== CALIBRATE) measured.set(source, await readStatistics(source));
  let plan = options.plan === undefined ? undefined : await readPlan(options.plan);
  assertValid(original, where);

  const prepared = cloneModel(original);
  const reports: PassReport[] = [];
  if (options.opset !== undefined) {
    const report = await setOpsetPass.run(prepared, { opset: options.opset });
    const [refusal] = report.skipped;
    if (refusal && prepared.opsets.get('') !== options.opset)
      throw new SisyphusError('unsupported', `${where}: can't become opset ${options.opset}: ${refusal.reason}`);
    reports.push(report);
  }
  for (const pass of simple) {
    reports.push(await pass.run(prepared, {}));
    assertValid(prepared, `after ${pass.name}`);
  }
  const exact = simple.every((pass) => pass.exact);
  const check = await checkExact(original, prepared, reports.length > 0, exact, options);
  if (statistics || options.mm)
    reports.push(await insertAmm.run(prepared, { ...options, ...(statistics && { statistics }) }));

  const notes: string[] = [];
  const choice = specs.find(({ spec }) => spec.preset?.choice)?.spec;
  if (choice) plan = await chooseSites(prepared, where, choice, options, notes);
  if (!plan && options.calibration && sources(specs).has(CALIBRATE)) {
    const { calibrate } = await import('./eval/calibration.ts');
    const probed = await calibrate(prepared, where, options.calibration);
    notes.push(`ranges measured on ${probed.images} inputs (${probed.split}) of ${probed.data}`);
    const { statisticsOf } = await import('./eval/statistics-file.ts');
    measured.set(CALIBRATE, statisticsOf(probed));
  }
  const work: ReplaceActivationOptions = {
    ...pick(options),
    poly: specs,
    ...(plan && { plan }),
    statistics: (source) => measured.get(source),
  };
  const { model, report } =
    specs.length > 0 || plan
      ? await replaceWithinRange(prepared, where, work, options.calibration, notes)
      : { model: prepared, report: null };
  if (report) {
    reports.push(report);
    notes.push(...presetAdvice(prepared, specs, report));
  }

  stampProvenance(model, options, where);
  assertValid(model, 'the result');
  const { target, seed, rtol } = options;
  const lowered =
    target === undefined
      ? null
      : await lowerModel(model, { target, ...(seed !== undefined && { seed }), ...(rtol !== undefined && { rtol }) });
  return {
    model: lowered?.model ?? model,
    passes: [...reports, ...(lowered?.passes ?? [])],
    before: summarize(original),
    after: lowered?.after ?? summarize(model),
    check,
    notes,
    warnings: warn(original),
  };
}

/** Only what choosing sites and emitting takes. */
const pick = ({ activations, only, skip, form }: RewriteOptions) => ({
  ...(activations && { activations }),
  ...(only && { only }),
  ...(skip && { skip }),
  ...(form && { form }),
});

/** Passes that were asked for, then those that presets bring. */
function passNames(options: RewriteOptions, specs: readonly SiteSpec[]): string[] {
  return [...new Set([...(options.passes ?? []), ...specs.flatMap(({ spec }) => spec.preset?.passes ?? [])])];
}

const sources = (specs: readonly SiteSpec[]): Set<string> =>
  new Set(specs.flatMap(({ spec }) => sourceOf(spec.recipe) ?? []));

function refuseCombinations(options: RewriteOptions, specs: readonly SiteSpec[], passes: number): void {
  const refuse = (why: string) => new SisyphusError('usage', why);
  const { amm, mm, plan, calibration, target } = options;
  const replaces = specs.length > 0 || plan !== undefined;
  const selects = [options.only, options.skip, options.activations].some((option) => option !== undefined);
  if (selects && !replaces && !amm && !mm)
    throw refuse('--only, --skip and --activations choose sites for --poly, --plan, --amm or --mm: give one');
  if (amm && mm) throw refuse('--amm and --mm exclude each other');
  if (plan !== undefined && specs.length > 0)
    throw refuse('--plan says what each activation becomes: leave --poly away');
  if ((amm || mm) && (plan !== undefined || specs.some(({ spec }) => spec.preset?.choice)))
    throw refuse('plans are made for the pre-activations as they are, which --amm and --mm change');
  if (passes === 0 && !replaces && !amm && !mm && options.opset === undefined && target === undefined)
    throw refuse('nothing to do: give --poly (deg=4,a=5), --plan, --passes, --amm, --mm, --opset or --target');
  for (const { glob, spec } of specs) {
    const source = sourceOf(spec.recipe);
    if (spec.preset?.choice && (glob !== null || specs.length > 1))
      throw refuse(`--poly ${spec.text}: it chooses among all activations, so it stands alone and without a pattern`);
    if (source === null) continue;
    if (amm || mm)
      throw refuse(`--poly ${spec.text}: --amm and --mm bring the pre-activations to [-1, 1], so give a=1`);
    if (source === CALIBRATE && !calibration && !fallbackOf(spec.recipe) && !spec.preset?.choice)
      throw refuse(
        `--poly ${spec.text}: its range is measured: give --data NAME:PATH, a=stats.json (from \`probe -o\`), or a number`,
      );
  }
}

function simplePass(name: string) {
  const pass = SIMPLE_PASSES.find((candidate) => candidate.name === name);
  if (pass) return pass;
  throw new SisyphusError(
    'usage',
    `--passes: no pass '${name}'${didYouMean(
      name,
      SIMPLE_PASSES.map((candidate) => candidate.name),
    )}`,
  );
}

async function readPlan(file: string): Promise<PlanFile> {
  const { parsePlan } = await import('./passes/plan-file.ts');
  return parsePlan(readText(file), file);
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw fileError(file, cause);
  }
}

async function readStatistics(file: string): Promise<ActivationStatistics> {
  const { parseStatistics } = await import('./passes/statistics.ts');
  return parseStatistics(readText(file), file);
}

async function checkExact(
  original: Model,
  model: Model,
  any: boolean,
  exact: boolean,
  options: RewriteOptions,
): Promise<CheckOutcome | null> {
  if (!options.check) return null;
  if (!any) return { skipped: 'no exact pass was asked for; replacing an activation changes the function by design' };
  if (!exact) return { skipped: 'a pass that was asked for changes the function by design' };
  const { check: runs, seed = 0, rtol } = options;
  const outcome = await checkEqual(original, model, { runs, seed, ...(rtol !== undefined && { rtol, atol: 0 }) });
  if (outcome.passed) return outcome;
  throw new SisyphusError(
    'gate',
    `--check: '${outcome.worst?.output}' differs by ${outcome.maxError.toPrecision(3)} at a scale of ${outcome.scale.toPrecision(3)}; --rtol ${outcome.toleranceNeeded.toPrecision(2)} would allow it; nothing was written`,
  );
}

/** How the file came about, for people and tools that meet it later. */
function stampProvenance(model: Model, options: RewriteOptions, source: string): void {
  const { poly, plan, form, passes, opset, amm, mm, only, skip, activations, calibration } = options;
  const specs = poly?.map((text) => {
    const { glob, spec } = parseSiteSpec(text);
    // Folders of this machine are nobody's business.
    const source = sourceOf(spec.recipe);
    const own = source === null ? spec.text : spec.text.replace(source, () => path.basename(source));
    return glob === null ? own : `${glob}=${own}`;
  });
  const done = {
    source: path.basename(source),
    passes,
    opset,
    amm: amm && path.basename(amm),
    mm,
    poly: specs,
    plan: plan && path.basename(plan),
    data: calibration?.data.split(':')[0],
    form,
    activations,
    only,
    skip,
  };
  setMetadata(model, 'sisyphus.version', VERSION);
  setMetadata(model, 'sisyphus.rewrite', JSON.stringify([...earlierRuns(model), done]));
}

/** What earlier rewrites of the same file left. */
function earlierRuns(model: Model): unknown[] {
  const text = model.metadata.find(({ key }) => key === 'sisyphus.rewrite')?.value;
  try {
    const runs: unknown = JSON.parse(text ?? '[]');
    return Array.isArray(runs) ? runs : [];
  } catch {
    return []; // not ours
  }
}

/** Things that are legal but that consumers stumble over. */
function warn(model: Model): string[] {
  const seen = new Set<string>();
  const repeated = model.graph.nodes.flatMap(({ name }) => (name && seen.size === seen.add(name).size ? [name] : []));
  const empty = model.graph.initializers.filter(({ tensor }) => isStripped(tensor)).map(({ value }) => value.name);
  const [name] = repeated;
  const [weight] = empty;
  return [
    ...(name === undefined ? [] : [`nodes share names ('${name}'), so onnxruntime refuses this file`]),
    ...(weight === undefined
      ? []
      : [`${empty.length} initializers hold no data ('${weight}'), so it can't run as it is`]),
  ];
}
