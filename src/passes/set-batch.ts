/**
 * Before: inputs [1, ...] (exporters freeze the batch)
 * After:  inputs [batch, ...]; targets of Reshape that hold the 1 copy or infer it, declared types say so
 * Conditions: every node on the way is known to keep rows apart (`batch-rules.ts`), every output has the batch as its
 *   axis 0, and every input that a caller feeds has a leading 1 or a symbolic dimension. All of it or nothing.
 * Algebra: f([x1; ...; xk]) = [f(x1); ...; f(xk)]
 */
import { SisyphusError } from '../errors.ts';
import { dropValueInfo, setType } from '../graph/edit.ts';
import type { Dim, Model, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { OPSETS } from '../graph/verify.ts';
import { opsetOf } from '../graph/walk.ts';
import { type Flow, followBatch, type Refusal } from './batch-flow.ts';
import type { Change, Pass, PassReport } from './pass.ts';

export interface SetBatchOptions {
  /** Name of the new dimension. Default: that of an input which has one already, else 'batch'. */
  readonly name?: string;
}

export const setBatch: Pass<SetBatchOptions> = {
  name: 'set-batch',
  summary: 'inputs with a fixed leading dimension 1 get a symbolic one, so that many rows run at once',
  exact: true,
  run: runSetBatch,
};

function runSetBatch(model: Model, options: SetBatchOptions): PassReport {
  const refused = (skip: Refusal): PassReport => ({ pass: setBatch.name, applied: [], skipped: [skip] });
  const inputs = batchInputs(model);
  if ('reason' in inputs) return refused(inputs);
  const { flows, edits, refusal } = followBatch(
    model,
    inferTypes(model),
    new Set([...inputs.fixed, ...inputs.symbolic]),
  );
  const problem = refusal ?? outputProblem(model, flows);
  if (problem) return refused(problem);
  const name = dimensionName(model, flows, inputs.symbolic, options.name);

  const applied: Change[] = [];
  for (const input of inputs.fixed) {
    const [, ...rest] = input.declared?.shape ?? [];
    applied.push({ site: input.name, detail: `[${[1, ...rest].join(', ')}] -> [${[name, ...rest].join(', ')}]` });
  }
  for (const { site, detail, apply } of edits) {
    apply();
    applied.push({ site, detail });
  }
  declareBatch(model, flows, name);
  return { pass: setBatch.name, applied, skipped: [] };
}

interface BatchInputs {
  readonly fixed: readonly Value[];
  /** Their leading dimension is symbolic already. */
  readonly symbolic: readonly Value[];
}

/** The inputs that a caller feeds. Those that initializers give a value are settings, which all rows share. */
function batchInputs(model: Model): BatchInputs | Refusal {
  const opset = opsetOf(model, model.graph);
  if (opset < OPSETS.min || opset > OPSETS.max)
    return { site: 'opset', reason: `opset ${opset} is outside of ${OPSETS.min} to ${OPSETS.max}` };
  const fed = model.graph.inputs.map(({ value }) => value).filter((value) => !value.initializer);
  const fixed = fed.filter((value) => value.declared?.shape?.[0] === 1);
  const isSymbolic = ({ declared }: Value) => declared?.shape?.length && typeof declared.shape[0] !== 'number';
  const symbolic = fed.filter(isSymbolic);
  const other = fed.find((value) => !fixed.includes(value) && !symbolic.includes(value));
  if (other) return { site: other.name, reason: otherInput(other) };
  const [first] = symbolic;
  if (fixed.length > 0) return { fixed, symbolic };
  if (!first) return { site: model.graph.name, reason: 'the graph has no inputs' };
  return {
    site: first.name,
    reason: `its leading dimension '${first.declared?.shape?.[0] ?? '?'}' is symbolic already`,
  };
}

function otherInput({ declared }: Value): string {
  if (!declared?.shape) return 'this input has no known shape, so it is open what its rows are';
  const shape = `[${declared.shape.map((dim) => dim ?? '?').join(', ')}]`;
  return `this input has the shape ${shape} without a leading 1, so it is open what its rows are`;
}

function outputProblem(model: Model, flows: ReadonlyMap<Value, Flow>): Refusal | null {
  for (const { value } of model.graph.outputs) {
    const flow = flows.get(value);
    if (flow?.kind !== 'rows' || flow.axis !== 0)
      return { site: value.name, reason: `the output '${value.name}' would not have one row per input` };
  }
  return null;
}

/** A name says that two dimensions are equal, so one that stands for something else can't be taken. */
function dimensionName(
  model: Model,
  flows: ReadonlyMap<Value, Flow>,
  symbolic: readonly Value[],
  wanted: string | undefined,
): string {
  const { inputs, outputs, valueInfo } = model.graph;
  const taken = new Set<Dim>();
  for (const { value } of [...inputs, ...outputs, ...valueInfo]) {
    const flow = flows.get(value);
    for (const [axis, dim] of (value.declared?.shape ?? []).entries())
      if (flow?.kind !== 'rows' || flow.axis !== axis) taken.add(dim);
  }
  if (wanted !== undefined && taken.has(wanted))
    throw new SisyphusError(
      'usage',
      `set-batch: another dimension of the model is called '${wanted}'; choose another name`,
    );
  const present = symbolic[0]?.declared?.shape?.[0];
  const base = wanted ?? (typeof present === 'string' && !taken.has(present) ? present : 'batch');
  let name = base;
  for (let n = 1; taken.has(name); n++) name = `${base}_${n}`;
  return name;
}

/** States the new dimension wherever the file states a size of 1 for it, and forgets what can't be right. */
function declareBatch(model: Model, flows: ReadonlyMap<Value, Flow>, name: string): void {
  const wrong = new Set<Value>();
  for (const [value, flow] of flows) {
    const declared = value.declared;
    if (flow.kind !== 'rows' || !declared?.shape) continue;
    const dim = declared.shape[flow.axis];
    if (dim === 1)
      setType(value, { ...declared, shape: declared.shape.map((old, axis) => (axis === flow.axis ? name : old)) });
    else if (typeof dim === 'number' || dim === undefined) wrong.add(value);
  }
  dropValueInfo(model.graph, (value) => wrong.has(value));
}
