/**
 * From a model to a differentiable function over tensors of tfjs. What the operators are is in `lowerings.ts`, which
 * tensors are trained in `parameters.ts`, how a batch size is prepared in `lower-plan.ts`; `raise.ts` is the way back.
 */
import { SisyphusError } from '../errors.ts';
import { logitsOf } from '../eval/logits.ts';
import { typeMessage } from '../graph/edit.ts';
import type { Model, Value } from '../graph/ir.ts';
import { modelFromProto } from '../graph/read.ts';
import { inferTypes } from '../graph/shapes.ts';
import { assertValid, label } from '../graph/verify.ts';
import { copyMessage, type GraphProto } from '../graph/wire.ts';
import { modelToProto } from '../graph/write.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { siteName } from '../passes/pass.ts';
import { setBatch } from '../passes/set-batch.ts';
import { type Dropout, makePlan, type Plan, runPlan } from './lower-plan.ts';
import type { Run } from './lowering.ts';
import { findParameters, type Parameter } from './parameters.ts';
import { tf } from './tf.ts';

export type { Dropout, Parameter };

export interface ForwardOptions {
  /** BatchNormalization uses the batch's statistics, and Dropout drops. */
  readonly training: boolean;
  /** What a Dropout multiplies its input by: 0 where it drops, else 1/(1 - ratio). Without it nothing is dropped. */
  readonly dropout?: (node: string, ratio: number, dims: readonly number[]) => tf.Tensor;
  /** Values to return beside the outputs and the logits, by name; with 'all' those of all nodes, in order. */
  readonly taps?: readonly string[] | 'all';
}

export interface Lowered {
  /** What rows of data are fed to. */
  readonly inputs: readonly {
    readonly name: string;
    /** Of one row. */
    readonly shape: readonly number[];
  }[];
  /** Rows that the model insists on; null for any number. */
  readonly rows: number | null;
  readonly outputs: readonly string[];
  /** The value that a loss is computed of: the first output, before a last Softmax or LogSoftmax over its classes. */
  readonly logits: string;
  /** Where the logits are [N, classes]. */
  readonly classes: number | null;
  /** Trained by gradient: weights and biases of layers. */
  readonly parameters: readonly Parameter[];
  /** Running means and variances of BatchNormalization, which training updates. */
  readonly statistics: readonly Parameter[];
  readonly dropouts: readonly Dropout[];
  /** What people call the node that makes a value. */
  makerOf(name: string): string;
  /**
   * A pure function of tensors: reads no values and keeps no state.
   * @param rows one for each input, [N, ...row]
   * @param weights by name; parameters and statistics that are not among them have the file's values
   * @returns values by name, and in training the next running statistics
   * @throws SisyphusError `unsupported` where the model can't be lowered for this number of rows
   */
  forward(
    rows: readonly tf.Tensor[],
    weights: ReadonlyMap<string, tf.Tensor>,
    options: ForwardOptions,
  ): { values: Map<string, tf.Tensor>; statistics: Map<string, tf.Tensor> };
}

export interface LowerOptions {
  /** Which parameters and statistics are trained. Default: all. BatchNormalization with others normalises with them. */
  readonly trains?: (parameter: Pick<Parameter, 'name' | 'layer'>) => boolean;
}

/**
 * @param where what errors call the model
 * @throws SisyphusError `unsupported` with all nodes that can't be lowered (five at most) and why, or where the model
 * does not have float inputs with rows of known shape
 */
export async function lower(original: Model, where: string, options: LowerOptions = {}): Promise<Lowered> {
  assertValid(original, where);
  const model = withoutDefaults(original);
  const rows = await freeBatch(model, where);
  const { parameters, statistics, problems } = findParameters(model, inferTypes(model), options.trains ?? (() => true));
  refuse(where, problems);
  const stored = [...parameters, ...statistics];
  const open = await opened(model, stored);
  const byName = new Map(open.graph.inputs.map(({ value }) => [value.name, value]));
  const inputs = dataInputs(open, where, new Set(stored.map(({ name }) => name)));
  const shapes = inputs.map((input) => rowShape(input, where));
  const updated = new Set(statistics.map(({ name }) => name));
  const plans = new Map<number, Plan>();
  const planFor = (count: number): Plan => {
    const given = new Map(inputs.map((input, i) => [input, [count, ...(shapes[i] as readonly number[])]]));
    const plan = plans.get(count) ?? makePlan(open, given, updated);
    plans.set(count, plan);
    refuse(where, plan.problems);
    return plan;
  };
  const trial = rows ?? 2;
  const { types, dropouts, steps } = planFor(trial);
  const made = new Set(steps.flatMap(({ node }) => node.outputs));
  const outputs = [...new Set(open.graph.outputs.map(({ value }) => value))];
  const logits = logitsOf(outputs[0] as Value, types);
  refuse(
    where,
    outputs.flatMap((value) => (made.has(value) ? [] : `its output '${value.name}' does not depend on the input`)),
  );
  const [lead, classes = null, ...more] = types.get(logits).shape ?? [];
  if (lead !== trial)
    refuse(where, [`'${logits.name}' has ${lead ?? 'an unknown number of'} rows where the input has ${trial}`]);
  const makers = new Map(
    original.graph.nodes.flatMap((node) => node.outputs.map((value) => [value?.name, label(node)] as const)),
  );
  return {
    inputs: inputs.map(({ name }, i) => ({ name, shape: shapes[i] as readonly number[] })),
    rows,
    outputs: outputs.map(({ name }) => name),
    logits: logits.name,
    classes: typeof classes === 'number' && more.length === 0 ? classes : null,
    parameters,
    statistics,
    dropouts,
    makerOf: (name) => makers.get(name) ?? `'${name}'`,
    forward(given, weights, { training, dropout, taps = [] }) {
      const count = given[0]?.shape[0] ?? 0;
      if (rows !== null && count !== rows)
        throw new SisyphusError('usage', `${where}: the model takes ${rows} rows at a time, and gets ${count}`);
      const values = new Map<Value, tf.Tensor>(inputs.map((input, i) => [input, given[i] as tf.Tensor]));
      for (const { name, dims, value } of stored)
        values.set(byName.get(name) as Value, weights.get(name) ?? tf.tensor(value, [...dims]));
      const run: Run = {
        training,
        mask: (node, ratio, dims) => dropout?.(siteName(node), ratio, dims) ?? null,
        update: (name, value) => values.set(byName.get(name) as Value, value),
      };
      runPlan(planFor(count), values, run, where);
      const computed = [...values].filter(([value]) => value.producer || inputs.includes(value));
      const all = new Map(computed.map(([value, tensor]) => [value.name, tensor]));
      const fed = new Set(inputs.map(({ name }) => name));
      const tapped = taps === 'all' ? [...all.keys()].filter((name) => !fed.has(name)) : taps;
      const wanted = [...tapped, ...outputs.map(({ name }) => name), logits.name];
      const unknown = wanted.find((name) => !all.has(name));
      if (unknown !== undefined) throw new SisyphusError('usage', `${where}: no layer computes the value '${unknown}'`);
      return {
        values: new Map(wanted.map((name) => [name, all.get(name) as tf.Tensor])),
        statistics: new Map(
          training ? statistics.map(({ name }) => [name, values.get(byName.get(name) as Value) as tf.Tensor]) : [],
        ),
      };
    },
  };
}

/** A copy in which initializers are no inputs: before IR 4 they had to be, and nobody gives others here. */
function withoutDefaults(model: Model): Model {
  const proto = modelToProto(model);
  const { input = [] } = proto.graph ?? {};
  const own = new Set(model.graph.initializers.map(({ value }) => value.name));
  const graph = copyMessage(proto.graph as GraphProto, { input: input.filter(({ name = '' }) => !own.has(name)) });
  return modelFromProto(copyMessage(proto, { graph, ir_version: Math.max(model.irVersion, 4) }), model.folder);
}

/** @returns rows that the model insists on, or null where any number will do */
async function freeBatch(model: Model, where: string): Promise<number | null> {
  const leads = dataInputs(model, where).map(({ declared }) => declared?.shape?.[0]);
  const lead = leads.find((dim) => typeof dim === 'number');
  if (lead !== 1) return lead ?? null;
  const { skipped } = await setBatch.run(model, {});
  return skipped.length > 0 ? 1 : null;
}

/** @param known names of inputs that are no data */
function dataInputs(model: Model, where: string, known: ReadonlySet<string> = new Set()): Value[] {
  const inputs = model.graph.inputs.map(({ value }) => value).filter(({ name }) => !known.has(name));
  if (inputs.length === 0) refuse(where, ['it has no inputs']);
  const other = inputs.find(({ declared }) => declared?.elem !== 'float');
  if (other)
    throw new SisyphusError(
      'unsupported',
      `${where}: its input '${other.name}' is ${other.declared?.elem ?? 'of unknown type'}, and models with float inputs are trained`,
    );
  return inputs;
}

function rowShape({ name, declared }: Value, where: string): readonly number[] {
  const row = declared?.shape?.slice(1);
  if (row?.length && row.every((dim) => typeof dim === 'number')) return row;
  const shown = declared?.shape ? `[${declared.shape.map((dim) => dim ?? '?').join(',')}]` : 'no shape at all';
  throw new SisyphusError(
    'unsupported',
    `${where}: its input '${name}' states ${shown}, so it is open what a row is; export the model with all dimensions but the batch`,
  );
}

/** The model with what is trained as inputs, and whatever depends on constants only computed. */
async function opened(model: Model, stored: readonly Parameter[]): Promise<Model> {
  const names = new Set(stored.map(({ name }) => name));
  const proto = modelToProto(model);
  const { input = [], initializer = [], node = [] } = proto.graph ?? {};
  const graph = copyMessage(proto.graph as GraphProto, {
    input: [...input, ...stored.map(({ name, dims }) => typeMessage(name, { elem: 'float', shape: dims }))],
    initializer: initializer.filter(({ name = '' }) => !names.has(name)),
    node: node.filter(({ op_type, output = [] }) => !(op_type === 'Constant' && names.has(output[0] ?? ''))),
  });
  const open = modelFromProto(copyMessage(proto, { graph }), model.folder);
  await foldConstants.run(open, {});
  return open;
}

const SHOWN = 5;
function refuse(where: string, problems: readonly string[]): void {
  if (problems.length === 0) return;
  const more = problems.length > SHOWN ? `; and ${problems.length - SHOWN} more` : '';
  throw new SisyphusError('unsupported', `${where}: can't be trained: ${problems.slice(0, SHOWN).join('; ')}${more}`);
}
