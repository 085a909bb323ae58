/** `sisyphus rewrite` as a function: read, run passes on a copy, verify, write. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { didYouMean, SisyphusError } from './errors.ts';
import { checkEqual, type EqualityReport } from './eval/check.ts';
import { cloneModel, setMetadata } from './graph/edit.ts';
import type { Model } from './graph/ir.ts';
import { fileError, readModel } from './graph/read.ts';
import { isStripped } from './graph/tensor.ts';
import { assertValid } from './graph/verify.ts';
import { encodedSize, writeModel } from './graph/write.ts';
import { type ModelSummary, summarize } from './inspect.ts';
import { SIMPLE_PASSES } from './passes/index.ts';
import { insertAmm } from './passes/insert-amm.ts';
import type { PassReport } from './passes/pass.ts';
import { recordRanges } from './passes/ranges.ts';
import { runReplaceActivation } from './passes/replace-activation.ts';
import type { SiteSelection } from './passes/select-sites.ts';
import { setOpsetPass } from './passes/set-opset.ts';
import type { ActivationStatistics } from './passes/statistics.ts';
import type { Form } from './poly/plan.ts';
import { formatSpec, parseSiteSpec } from './poly/spec.ts';
import { VERSION } from './version.ts';

export interface RewriteOptions extends SiteSelection {
  /** `SPEC` or `GLOB=SPEC`; the last one that matches a site is used for it. */
  readonly poly?: readonly string[];
  readonly form?: Form;
  /** Names of passes to run first, in this order. */
  readonly passes?: readonly string[];
  /** Convert the default domain to this opset before anything else. */
  readonly opset?: number;
  /** A statistics file: insert ApproxMinMaxNorm before the activations. */
  readonly amm?: string;
  /** Insert the true min-max normalisation instead. */
  readonly mm?: boolean;
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
  readonly warnings: readonly string[];
}

/** The comparison after the exact passes, or why there was none. */
export type CheckOutcome = EqualityReport | { readonly skipped: string };

/** The default name of a command's result: `model.onnx` -> `model.WHAT.onnx`. */
export function outputName(input: string, what: string): string {
  const { dir, name, ext } = path.parse(input);
  return path.join(dir, ext === '.onnx' ? `${name}.${what}.onnx` : `${name}${ext}.${what}.onnx`);
}

/**
 * Rewrites a file.
 * @throws SisyphusError for bad options, unreadable or invalid models, and where the output can't be written; `gate`
 * where `check` finds that an exact pass changed the function
 */
export async function rewrite(input: string, options: RewriteOptions): Promise<RewriteReport> {
  const output = options.output ?? outputName(input, 'poly');
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

export type ModelRewrite = Pick<RewriteReport, 'passes' | 'before' | 'after' | 'check' | 'warnings'> & {
  readonly model: Model;
};

/** Rewrites a model in memory; the one that is given stays as it is. `where` names it in messages. */
export async function rewriteModel(original: Model, options: RewriteOptions, where = 'model'): Promise<ModelRewrite> {
  if (options.output === '') throw new SisyphusError('usage', '-o: the name is empty');
  const specs = (options.poly ?? []).map(parseSiteSpec);
  const simple = (options.passes ?? []).map(simplePass);
  const selects = [options.only, options.skip, options.activations].some((option) => option !== undefined);
  if (selects && specs.length === 0 && !options.amm && !options.mm)
    throw new SisyphusError(
      'usage',
      '--only, --skip and --activations choose sites for --poly, --amm or --mm: give one',
    );
  if (options.amm && options.mm) throw new SisyphusError('usage', '--amm and --mm exclude each other');
  if (specs.length + simple.length === 0 && !options.amm && !options.mm && options.opset === undefined)
    throw new SisyphusError('usage', 'nothing to do: give --poly (deg=4,a=5), --passes, --amm, --mm or --opset');
  const statistics = options.amm === undefined ? undefined : await readStatistics(options.amm);
  const measured = new Map<string, ActivationStatistics>();
  for (const { spec } of specs) {
    if (spec.kind !== 'measured') continue;
    if (options.amm || options.mm)
      throw new SisyphusError(
        'usage',
        `--poly ${formatSpec(spec)}: --amm and --mm bring the pre-activations to [-1, 1], so give a=1`,
      );
    measured.set(spec.file, await readStatistics(spec.file));
  }
  assertValid(original, where);

  const model = cloneModel(original);
  const reports: PassReport[] = [];
  if (options.opset !== undefined) {
    const report = await setOpsetPass.run(model, { opset: options.opset });
    const [refusal] = report.skipped;
    if (refusal && model.opsets.get('') !== options.opset)
      throw new SisyphusError('unsupported', `${where}: can't become opset ${options.opset}: ${refusal.reason}`);
    reports.push(report);
  }
  for (const pass of simple) {
    reports.push(await pass.run(model, {}));
    assertValid(model, `after ${pass.name}`);
  }
  const exact = simple.every((pass) => pass.exact);
  const check = await checkExact(original, model, reports.length > 0, exact, options);
  if (statistics || options.mm)
    reports.push(await insertAmm.run(model, { ...options, ...(statistics && { statistics }) }));
  if (specs.length > 0) {
    const lookUp = (file: string) => measured.get(file) as ActivationStatistics;
    const report = runReplaceActivation(model, { ...options, poly: specs, statistics: lookUp });
    reports.push(report);
    const fitted = report.applied.flatMap(({ site, range }) => (range === null ? [] : [[site, range] as const]));
    recordRanges(model, new Map(fitted));
  }

  stampProvenance(model, options, where);
  assertValid(model, 'the result');
  return {
    model,
    passes: reports,
    before: summarize(original),
    after: summarize(model),
    check,
    warnings: warn(original),
  };
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

async function readStatistics(file: string): Promise<ActivationStatistics> {
  const { parseStatistics } = await import('./passes/statistics.ts');
  try {
    return parseStatistics(readFileSync(file, 'utf8'), file);
  } catch (cause) {
    throw cause instanceof SisyphusError ? cause : fileError(file, cause);
  }
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
  if (!exact) return { skipped: 'replace-maxpool changes the function by design' };
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
  const { poly, form, passes, opset, amm, mm, only, skip, activations } = options;
  const specs = poly?.map((text) => {
    const { glob, spec: given } = parseSiteSpec(text);
    const spec = given.kind === 'measured' ? { ...given, file: path.basename(given.file) } : given;
    return glob === null ? formatSpec(spec) : `${glob}=${formatSpec(spec)}`;
  });
  const done = {
    source: path.basename(source),
    passes,
    opset,
    amm: amm && path.basename(amm),
    mm,
    poly: specs,
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
