/** `sisyphus lower` as a function: what a compiler takes, made of a model by exact passes, checked, and written. */
import { didYouMean, SisyphusError } from './errors.ts';
import { checkEqual, type EqualityReport } from './eval/check.ts';
import { outputName, refuseTarget } from './files.ts';
import { cloneModel, setMetadata } from './graph/edit.ts';
import type { Model } from './graph/ir.ts';
import { readModel } from './graph/read.ts';
import { assertValid } from './graph/verify.ts';
import { writeModel } from './graph/write.ts';
import { type ModelSummary, summarize } from './inspect.ts';
import { dropDead } from './passes/drop-dead.ts';
import { dropIdentity } from './passes/drop-identity.ts';
import { dropSoftmax } from './passes/drop-softmax.ts';
import { embedKernel, embedUnevenKernel } from './passes/embed-kernel.ts';
import { foldBatchnorm } from './passes/fold-batchnorm.ts';
import { foldConstants } from './passes/fold-constants.ts';
import { foldGlobalPool } from './passes/fold-global-pool.ts';
import { foldPad } from './passes/fold-pad.ts';
import { foldPolynomial } from './passes/fold-polynomial.ts';
import type { Pass, PassReport } from './passes/pass.ts';
import { replaceArithmetic, replaceRepeated } from './passes/replace-arithmetic.ts';
import { replaceBatchnorm } from './passes/replace-batchnorm.ts';
import { replacePaddedPool, replacePool } from './passes/replace-pool.ts';
import { replaceReshape } from './passes/replace-reshape.ts';
import { setAttributes } from './passes/set-attributes.ts';
import { type SetCoefficientsOptions, setCoefficients } from './passes/set-coefficients.ts';
import { setForm } from './passes/set-form.ts';
import { setGemm } from './passes/set-gemm.ts';
import { setOpsetPass } from './passes/set-opset.ts';
import { setStatic } from './passes/set-static.ts';
import { LOWERING_TARGETS, type LoweringTarget } from './targets/targets.ts';
import { VERSION } from './version.ts';

/** How a target wants its file; what it does not say stays as it is. */
interface Recipe {
  readonly opset?: number;
  readonly irVersion?: number;
  readonly style: SetCoefficientsOptions['style'];
  /** The batch as a number. */
  readonly static: boolean;
  /** Softmax at the end goes, which is not exact; the largest class stays the same. */
  readonly dropsHead: boolean;
  /** After the common ones. */
  readonly passes: readonly Pass[];
}

const PORTABLE: Recipe = {
  opset: 14,
  irVersion: 7,
  style: 'full',
  static: true,
  dropsHead: true,
  passes: [foldGlobalPool, replacePaddedPool, replacePool, embedKernel, replaceRepeated],
};

/** By target; the rules that they follow are those of `sisyphus check` (`targets/`). */
const RECIPES = {
  portable: PORTABLE,
  ace: PORTABLE,
  heir: PORTABLE,
  crypten: {
    style: 'constant',
    static: false,
    dropsHead: false,
    passes: [replacePaddedPool, embedUnevenKernel, replaceRepeated],
  },
  athos: { style: 'vector', static: true, dropsHead: true, passes: [replacePaddedPool, embedUnevenKernel] },
  'concrete-ml': {
    opset: 14,
    style: 'vector',
    static: true,
    dropsHead: true,
    passes: [foldGlobalPool, replacePaddedPool, embedUnevenKernel],
  },
  helayers: {
    style: 'constant',
    static: false,
    dropsHead: true,
    passes: [foldGlobalPool, replacePaddedPool, embedUnevenKernel],
  },
  ezkl: { style: 'vector', static: true, dropsHead: false, passes: [embedUnevenKernel] },
} as const satisfies Record<LoweringTarget, Recipe>;

/** In this order for every target, before those that it adds. */
const COMMON: readonly Pass[] = [
  dropIdentity,
  foldConstants,
  setAttributes,
  foldPad,
  replaceReshape,
  setGemm,
  foldBatchnorm,
  replaceBatchnorm,
  replaceArithmetic,
  foldPolynomial,
];

export interface LowerOptions {
  readonly target: string;
  /** On how many random inputs the result is compared with the source. Default 2; 0: not at all. */
  readonly check?: number;
  readonly seed?: number;
  /** What is allowed, relative to the largest output. Default 1e-4. */
  readonly rtol?: number;
  /** Default: `MODEL.TARGET.onnx` beside the input. */
  readonly output?: string;
  readonly force?: boolean;
}

export interface ModelLowering {
  readonly model: Model;
  readonly target: LoweringTarget;
  /** What each pass did. */
  readonly passes: readonly PassReport[];
  readonly before: ModelSummary;
  readonly after: ModelSummary;
  /** Against the source, whose head was cut at the same place; null where none was asked for. */
  readonly check: EqualityReport | null;
}

export type LowerReport = Omit<ModelLowering, 'model'> & {
  readonly input: string;
  readonly output: string;
  /** Files written, with their sizes in bytes. */
  readonly files: Readonly<Record<string, number>>;
};

/** @throws SisyphusError `usage` for a name that is no target, or of one that takes no ONNX file */
export function loweringTarget(name: string): LoweringTarget {
  const found = LOWERING_TARGETS.find((target) => target === name);
  if (found) return found;
  const why = NO_LOWERING[name];
  const text = why
    ? `${why}; there are ${LOWERING_TARGETS.join(', ')}`
    : `no target '${name}'${didYouMean(name, LOWERING_TARGETS)}`;
  throw new SisyphusError('usage', `--target: ${text}`);
}

const NO_LOWERING: Readonly<Record<string, string>> = {
  orion: 'orion reads no ONNX file but Python modules',
  'ezpc-onnxbridge': 'ezpc-onnxbridge takes no polynomial activation at all: use athos',
};

/**
 * Writes a file in the form that a target takes. Every pass but the cut of the head is exact up to rounding, and the
 * result is compared with the source in onnxruntime.
 * @throws SisyphusError `usage` for unknown targets, `gate` where the comparison fails; nothing is written then
 */
export async function lower(input: string, options: LowerOptions): Promise<LowerReport> {
  const target = loweringTarget(options.target);
  const output = options.output ?? outputName(input, target);
  await refuseTarget(output, options.force ?? false);
  const { model, ...report } = await lowerModel(readModel(input), options, input);
  const files = await writeModel(model, output, { externalData: false });
  return { input, output, files: Object.fromEntries(files), ...report };
}

/** The same for a model in memory; the one that is given stays as it is. `where` names it in messages. */
export async function lowerModel(original: Model, options: LowerOptions, where = 'model'): Promise<ModelLowering> {
  const target = loweringTarget(options.target);
  const recipe: Recipe = RECIPES[target];
  assertValid(original, where);
  const model = cloneModel(original);
  const passes: PassReport[] = [];
  const run = async (pass: Pass): Promise<void> => {
    passes.push(await pass.run(model, {}));
    assertValid(model, `after ${pass.name}`);
  };
  if (recipe.static) await run(setStatic);
  if (recipe.opset !== undefined) passes.push(await setOpsetPass.run(model, { opset: recipe.opset }));
  if (recipe.dropsHead) await run(dropSoftmax);
  // From here on the function stays as it is.
  const source = recipe.dropsHead ? cloneModel(model) : original;
  for (const pass of [...COMMON, ...recipe.passes]) await run(pass);
  // What could not become this opset may have gone.
  if (recipe.opset !== undefined && model.opsets.get('') !== recipe.opset)
    passes.push(await setOpsetPass.run(model, { opset: recipe.opset }));
  passes.push(await setCoefficients.run(model, { style: recipe.style }));
  const { check: runs = 2, seed = 0, rtol } = options;
  const check = runs > 0 ? await compare(source, model, runs, seed, rtol) : null;
  // Names and order alone, inputs' names among them: after the comparison, which goes by names.
  const { irVersion } = recipe;
  passes.push(await setForm.run(model, { ...(irVersion !== undefined && { irVersion }) }));
  await run(dropDead);
  setMetadata(model, 'sisyphus.version', VERSION);
  setMetadata(model, 'sisyphus.target', target);
  assertValid(model, 'the result');
  return { model, target, passes, before: summarize(original), after: summarize(model), check };
}

async function compare(
  source: Model,
  model: Model,
  runs: number,
  seed: number,
  rtol: number | undefined,
): Promise<EqualityReport> {
  const outcome = await checkEqual(source, model, { runs, seed, ...(rtol !== undefined && { rtol, atol: 0 }) });
  if (outcome.passed) return outcome;
  throw new SisyphusError(
    'gate',
    `'${outcome.worst?.output}' differs from the source by ${outcome.maxError.toPrecision(3)} at a scale of ${outcome.scale.toPrecision(3)}; --rtol ${outcome.toleranceNeeded.toPrecision(2)} would allow it; nothing was written`,
  );
}
