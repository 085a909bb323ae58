/**
 * What of a model computes with data, prepared for one batch size: tensors of tfjs have static shapes, and shape inference
 * follows all arithmetic on shapes to numbers.
 */
import { SisyphusError } from '../errors.ts';
import { arrayFromTensor } from '../eval/session.ts';
import { setType } from '../graph/edit.ts';
import type { Dim, Model, Node, Value } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { toNumbers } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import { functionTable, opsetOf, topologicalOrder } from '../graph/walk.ts';
import { siteName } from '../passes/pass.ts';
import { dropoutRatio } from './lower-layers.ts';
import { type Apply, type Run, type Site, unsupported } from './lowering.ts';
import { loweringOf } from './lowerings.ts';
import { storedTensor } from './parameters.ts';
import { tf } from './tf.ts';

export interface Plan {
  readonly types: Types;
  /** In order. */
  readonly steps: readonly Step[];
  readonly dropouts: readonly Dropout[];
  /** Nodes that have no differentiable form, and why; the plan runs where there are none. */
  readonly problems: readonly string[];
}

interface Step {
  readonly node: Node;
  readonly apply: Apply;
}

export interface Dropout {
  readonly node: string;
  /** Probability that an element is dropped. */
  readonly ratio: number;
  /** Of its input, without the batch. */
  readonly shape: readonly number[];
}

/**
 * @param model states the types of its inputs anew
 * @param inputs with their shapes
 * @param updated names of running statistics that training updates
 */
export function makePlan(
  model: Model,
  inputs: ReadonlyMap<Value, readonly number[]>,
  updated: ReadonlySet<string>,
): Plan {
  for (const [input, shape] of inputs) setType(input, { elem: 'float', shape });
  const types = inferTypes(model);
  const opset = opsetOf(model, model.graph);
  const calls = functionTable(model);
  const needed = neededNodes(model, types);
  const steps: Step[] = [];
  const dropouts: Dropout[] = [];
  const problems: string[] = [];
  for (const node of topologicalOrder(model.graph).filter((each) => needed.has(each))) {
    const site = siteOf(node, types, opset, updated);
    try {
      if (calls(node)) throw unsupported('it calls a function of the model');
      const lowering = loweringOf(node);
      const domain = node.domain && ` of ${node.domain}`;
      if (!lowering) throw unsupported(`this operator${domain} is not among those that can be trained`);
      const apply = lowering(site);
      const other = node.outputs.map((value) => value && types.get(value).elem).find((elem) => !computable(elem));
      if (other) throw unsupported(`its result is ${other}, and only float32 is trained`);
      steps.push({ node, apply });
      if (node.op === 'Dropout')
        dropouts.push({ node: siteName(node), ratio: dropoutRatio(site), shape: site.shape(0).slice(1) });
    } catch (cause) {
      if (!(cause instanceof SisyphusError)) throw cause;
      problems.push(`${label(node)}: ${cause.message.replace(`${label(node)}: `, '')}`);
    }
  }
  return { types, steps, dropouts, problems };
}

const computable = (elem: string | null): boolean => elem === null || elem === 'float' || elem === 'bool';

/** Nodes that the outputs depend on, without those that only compute shapes. */
function neededNodes(model: Model, types: Types): Set<Node> {
  const needed = new Set<Node>();
  const queue = model.graph.outputs.map(({ value }) => value);
  for (let value = queue.pop(); value; value = queue.pop()) {
    const node = value.producer;
    if (!node || needed.has(node) || elementsOf(value, types)) continue;
    if (node.op === 'Constant' && node.domain === '') continue;
    needed.add(node);
    for (const read of node.inputs) if (read) queue.push(read);
  }
  return needed;
}

/** All elements of a value that is known before the run. */
function elementsOf(value: Value, types: Types): readonly number[] | null {
  const elements = types.elements(value);
  return elements?.every((element) => typeof element === 'number') ? elements : null;
}

function siteOf(node: Node, types: Types, opset: number, updated: ReadonlySet<string>): Site {
  const known = (value: Value | null | undefined): readonly number[] => {
    const shape: readonly Dim[] | null = value ? types.get(value).shape : null;
    if (shape?.every((dim) => typeof dim === 'number')) return shape;
    throw unsupported(`the shape of '${value?.name ?? ''}' depends on data, or is not known`);
  };
  const numbers = (value: Value | null | undefined): readonly number[] | null => {
    if (!value) return null;
    const tensor = storedTensor(value);
    return (
      elementsOf(value, types) ??
      (tensor && tensor.elem !== 'string' ? [...toNumbers(tensor, { rounded: true })] : null)
    );
  };
  return {
    node,
    opset,
    has: (index) => Boolean(node.inputs[index]),
    shape: (index) => known(node.inputs[index]),
    result: (index = 0) => known(node.outputs[index]),
    isKnown: (index) => numbers(node.inputs[index]) !== null,
    numbers(index) {
      const value = node.inputs[index];
      const found = numbers(value);
      if (!found) throw unsupported(`its input '${value?.name ?? index}' depends on data, and has to be known before`);
      return found;
    },
    statistic(index) {
      const { name = '' } = node.inputs[index] ?? {};
      return updated.has(name) ? name : null;
    },
  };
}

/**
 * Computes all steps.
 * @param values the inputs and what is trained; gets the values of all steps, in order
 * @param where what errors call the model
 * @throws SisyphusError `unsupported` where tfjs refuses a step
 */
export function runPlan({ types, steps }: Plan, values: Map<Value, tf.Tensor>, run: Run, where: string): void {
  const constants = new Map<Value, tf.Tensor>();
  for (const { node, apply } of steps) {
    const input = (index: number): tf.Tensor => {
      const value = node.inputs[index] as Value;
      const known = values.get(value) ?? constants.get(value) ?? constantTensor(value, types);
      if (!values.has(value)) constants.set(value, known);
      return known;
    };
    let results: tf.Tensor | readonly tf.Tensor[];
    try {
      results = apply(input, run);
    } catch (cause) {
      if (cause instanceof SisyphusError) throw cause;
      throw new SisyphusError('unsupported', `${where}: ${label(node)}: ${(cause as Error).message}`, { cause });
    }
    const list: readonly tf.Tensor[] = Array.isArray(results) ? results : [results];
    for (const [i, value] of node.outputs.entries()) if (value && list[i]) values.set(value, list[i]);
  }
}

function constantTensor(value: Value, types: Types): tf.Tensor {
  const tensor = storedTensor(value);
  const type = types.get(value);
  const elem = tensor?.elem ?? type.elem;
  const dims = [...(tensor?.dims ?? (type.shape as readonly number[]))];
  const numbers = tensor && elem === 'float' ? (arrayFromTensor(tensor).data as Float32Array) : null;
  const elements = numbers ?? (tensor ? toNumbers(tensor, { rounded: true }) : elementsOf(value, types));
  if (!elements) throw new SisyphusError('internal', `nothing makes the value '${value.name}'`);
  if (elem === 'bool') return tf.tensor(Uint8Array.from(elements), dims, 'bool');
  return elem === 'float'
    ? tf.tensor(Float32Array.from(elements), dims)
    : tf.tensor(Int32Array.from(elements), dims, 'int32');
}
