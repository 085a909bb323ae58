/** The library: what the command line does, as functions that return reports. */
import type { PlannedStage, QuailOptions, QuailReport } from './train/quail/quail.ts';
import type { QuailSettings } from './train/quail/settings.ts';
import type { ShrinkOptions, ShrinkReport } from './train/shrink.ts';
import type { TrainOptions, TrainReport } from './train/train.ts';

export type { Batch, Dataset, DatasetOptions, Split } from './data/dataset.ts';
export { type GetOptions, type GetReport, getDataset } from './data/get.ts';
export { makeSelection, openDataset } from './data/open.ts';
export { type DescribeOptions, describePolynomial, type PolynomialReport } from './describe-polynomial.ts';
export { type EncryptEvalOptions, type EncryptEvalReport, encryptEval } from './encrypt/encrypt-eval.ts';
export { type ErrorCode, SisyphusError } from './errors.ts';
export {
  type Accuracy,
  type EvalOptions,
  type EvalReport,
  type EvaluatedModel,
  evaluate,
} from './eval/accuracy.ts';
export { type CheckOptions, checkEqual, type EqualityReport } from './eval/check.ts';
export {
  type ComparedLayer,
  type CompareOptions,
  type CompareReport,
  compare,
  type Difference,
} from './eval/compare.ts';
export { type ProbedModel, type ProbedSite, type ProbeOptions, type ProbeReport, probe } from './eval/probe.ts';
export type { Histogram, ValueStatistics } from './eval/statistics.ts';
export { statisticsFile } from './eval/statistics-file.ts';
export type { EscapeScore } from './eval/verdict.ts';
export { buildModel, type GraphBuilder } from './graph/build.ts';
export { cloneModel } from './graph/edit.ts';
export type { Graph, Model, Node, TensorType, Value } from './graph/ir.ts';
export { parseModel, readModel } from './graph/read.ts';
export { inferTypes, type Types } from './graph/shapes.ts';
export { makeTensor, type Tensor, toNumbers } from './graph/tensor.ts';
export { verify } from './graph/verify.ts';
export { serialize, type WriteOptions, writeModel } from './graph/write.ts';
export { type InspectedModel, inspect, type ModelSummary, summarize } from './inspect.ts';
export { type LowerOptions, type LowerReport, lower, lowerModel, type ModelLowering } from './lower.ts';
export { makeNetwork, type NewOptions, type NewReport, newNetwork } from './new.ts';
export { listPasses } from './passes/index.ts';
export type { Pass, PassReport } from './passes/pass.ts';
export { type PlanOptions, type PlanReport, planReplacement } from './planner/plan.ts';
export { type Activation, namedActivation } from './poly/activations.ts';
export { leastSquares } from './poly/fit.ts';
export { evaluatePlan, type Form, type Plan, plan } from './poly/plan.ts';
export {
  type ChebyshevSeries,
  evaluate as evaluatePolynomial,
  formatPolynomial,
  type Interval,
  type Polynomial,
  type PowerSeries,
  parsePolynomial,
  toChebyshev,
  toPowers,
} from './poly/polynomial.ts';
export { listPresets, type PresetSummary } from './poly/presets.ts';
export { formatSpec, type PolySpec, parseSpec } from './poly/spec.ts';
export { type PolynomializeOptions, type PolynomializeReport, polynomialize } from './polynomialize.ts';
export type { OnProgress, ProgressEvent } from './progress.ts';
export { type RefitOptions, type RefitReport, refit, refitModel } from './refit/refit.ts';
export type { FitRecord, LinearRefit } from './refit/walk.ts';
export { type ModelRewrite, type RewriteOptions, type RewriteReport, rewrite, rewriteModel } from './rewrite.ts';
export { type SearchCandidate, type SearchOptions, type SearchReport, search } from './search/search.ts';
export { type CheckReport, checkTargets, lint, type TargetReport } from './targets/check.ts';
export type { Finding, Severity } from './targets/finding.ts';
export { LOWERING_TARGETS, TARGET_NAMES, type TargetName } from './targets/targets.ts';
export type {
  PlannedStage,
  QuailEpoch,
  QuailOptions,
  QuailReport,
  QuailStart,
  StageRecord,
} from './train/quail/quail.ts';
export type { QuailSettings } from './train/quail/settings.ts';
export type { ShrinkOptions, ShrinkReport, ShrunkSite } from './train/shrink.ts';
export type { EpochRecord, TrainOptions, TrainReport, TrainStart } from './train/train.ts';
export { VERSION } from './version.ts';
export { comparePage, evalPage, maximaSvg, polynomialSvg, probePage } from './view/pages.ts';

/** `sisyphus train`, see `train/train.ts`. TensorFlow.js is loaded on the first call: others need not wait for it. */
export async function train(file: string, options: TrainOptions): Promise<TrainReport> {
  return (await import('./train/train.ts')).train(file, options);
}

/** `sisyphus shrink`, see `train/shrink.ts`. */
export async function shrink(file: string, options: ShrinkOptions): Promise<ShrinkReport> {
  return (await import('./train/shrink.ts')).shrink(file, options);
}

/** `sisyphus quail`, see `train/quail/quail.ts`. */
export async function quail(file: string, options: QuailOptions): Promise<QuailReport> {
  return (await import('./train/quail/quail.ts')).quail(file, options);
}

/** `sisyphus quail --plan`: the stages, nothing trained. */
export async function quailPlan(file: string, options: Partial<QuailSettings> = {}): Promise<PlannedStage[]> {
  return (await import('./train/quail/quail.ts')).quailPlan(file, options);
}
