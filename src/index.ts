/** The library: what the command line does, as functions that return reports. */
export { type ErrorCode, SisyphusError } from './errors.ts';
export { type CheckOptions, checkEqual, type EqualityReport } from './eval/check.ts';
export { buildModel, type GraphBuilder } from './graph/build.ts';
export { cloneModel } from './graph/edit.ts';
export type { Graph, Model, Node, TensorType, Value } from './graph/ir.ts';
export { parseModel, readModel } from './graph/read.ts';
export { inferTypes, type Types } from './graph/shapes.ts';
export { makeTensor, type Tensor, toNumbers } from './graph/tensor.ts';
export { verify } from './graph/verify.ts';
export { serialize, type WriteOptions, writeModel } from './graph/write.ts';
export { type InspectedModel, inspect, type ModelSummary, summarize } from './inspect.ts';
export { listPasses } from './passes/index.ts';
export type { Pass, PassReport } from './passes/pass.ts';
export { leastSquares } from './poly/fit.ts';
export { type Plan, plan } from './poly/plan.ts';
export { formatSpec, type PolySpec, parseSpec } from './poly/spec.ts';
export { type ModelRewrite, type RewriteOptions, type RewriteReport, rewrite, rewriteModel } from './rewrite.ts';
export { VERSION } from './version.ts';
