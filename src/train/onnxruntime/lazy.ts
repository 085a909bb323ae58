/**
 * Tensors that are not computed yet. Kernels record ONNX nodes with static shapes; `assemble` makes a model of everything
 * that some tensors depend on, and a signature by which equal graphs share a session.
 */
import { type NdArray, type NdData, tensorFromArray } from '../../eval/session.ts';
import { type AttributeValue, buildModel, makeAttributes } from '../../graph/build.ts';
import { addNode } from '../../graph/edit.ts';
import type { ElementType, Model, Value } from '../../graph/ir.ts';

/** Element types of a recording: those of tfjs, and int64 for shapes and axes. */
export type LazyElement = Extract<ElementType, 'float' | 'int32' | 'bool' | 'int64'>;

export interface LazyTensor {
  readonly elem: LazyElement;
  readonly dims: readonly number[];
  /** Its values where they are known. */
  data: NdData | null;
  /** What makes it; null where the values are known, and for the arguments of a compiled function. */
  node: LazyNode | null;
  /** Part of the graph's structure (axes, shapes): stored in the model instead of fed to it. */
  readonly structural: boolean;
}

export interface LazyNode {
  readonly op: string;
  readonly domain: string;
  readonly inputs: readonly (LazyTensor | null)[];
  readonly attributes: Readonly<Record<string, AttributeValue>>;
  readonly outputs: readonly LazyTensor[];
}

/** onnxruntime's own operators. */
export const MICROSOFT = 'com.microsoft';

export type LazyType = Pick<LazyTensor, 'elem' | 'dims'>;

export const known = (elem: LazyElement, dims: readonly number[], data: NdData): LazyTensor => ({
  elem,
  dims,
  data,
  node: null,
  structural: false,
});

/** A place for values that come later. */
export const argument = ({ elem, dims }: LazyType): LazyTensor => ({
  elem,
  dims,
  data: null,
  node: null,
  structural: false,
});

/** A list of whole numbers that belongs to the structure: axes, shapes, pads. */
export const int64s = (values: readonly number[]): LazyTensor => ({
  elem: 'int64',
  dims: [values.length],
  data: BigInt64Array.from(values, BigInt),
  node: null,
  structural: true,
});

/** A number that belongs to the structure. */
export const constant = (value: number, elem: 'float' | 'int32' = 'float'): LazyTensor => ({
  elem,
  dims: [],
  data: elem === 'float' ? Float32Array.of(value) : Int32Array.of(value),
  node: null,
  structural: true,
});

/** Records a node with one output. */
export function node(
  op: string,
  inputs: readonly (LazyTensor | null)[],
  type: LazyType,
  attributes: LazyNode['attributes'] = {},
  domain = '',
): LazyTensor {
  return nodes(op, inputs, [type], attributes, domain)[0] as LazyTensor;
}

/** Records a node with several outputs. */
export function nodes(
  op: string,
  inputs: readonly (LazyTensor | null)[],
  types: readonly LazyType[],
  attributes: LazyNode['attributes'] = {},
  domain = '',
): LazyTensor[] {
  const outputs = types.map(argument);
  const made: LazyNode = { op, domain, inputs, attributes, outputs };
  for (const output of outputs) output.node = made;
  return outputs;
}

export interface Recording {
  /** Equal for graphs that compute the same from inputs of the same types, unless values were baked in. */
  readonly signature: string;
  /** What has to be fed, in the order of the model's inputs `i0`, `i1`, … */
  readonly inputs: readonly LazyTensor[];
  /** The graph with outputs `o0`, `o1`, … in the order of the targets. */
  model(): Model;
}

/**
 * Everything that the targets depend on.
 * @param args fed first, in this order, whether anything depends on them or not
 * @param bake store tensors with known values in the model, instead of feeding them
 */
export function record(targets: readonly LazyTensor[], args: readonly LazyTensor[] = [], bake = false): Recording {
  const inputs = [...args];
  const order: LazyNode[] = [];
  const ids = new Map<LazyTensor, number>();
  const stored: LazyTensor[] = [];
  const text: string[] = [];
  const identify = (tensor: LazyTensor) => {
    ids.set(tensor, ids.size);
  };
  for (const arg of args) {
    identify(arg);
    text.push(`${arg.elem}[${arg.dims}]`);
  }
  const leaf = (tensor: LazyTensor) => {
    if (ids.has(tensor)) return;
    identify(tensor);
    if (tensor.structural || (bake && tensor.data)) {
      stored.push(tensor);
      text.push(`=${tensor.elem}[${tensor.dims}]${bake ? '' : tensor.data}`);
    } else {
      inputs.push(tensor);
      text.push(`${tensor.elem}[${tensor.dims}]`);
    }
  };
  // Depth first without recursion: chains of thousands of nodes are usual.
  const started = new Set<LazyNode>();
  const stack: LazyTensor[] = [];
  for (const target of targets) {
    stack.push(target);
    for (let top = stack.at(-1); top; top = stack.at(-1)) {
      const { node: made } = top;
      if (ids.has(top) || !made) {
        leaf(top);
        stack.pop();
        continue;
      }
      const waiting = started.has(made) ? [] : made.inputs.filter((input) => input && !ids.has(input));
      started.add(made);
      if (waiting.length > 0) {
        for (const input of waiting) stack.push(input as LazyTensor);
        continue;
      }
      order.push(made);
      const from = made.inputs.map((input) => (input ? ids.get(input) : '-'));
      text.push(`${made.domain}${made.op}(${from})${JSON.stringify(made.attributes)}`);
      for (const output of made.outputs) identify(output);
      stack.pop();
    }
  }
  text.push(`>${targets.map((target) => ids.get(target))}`);
  return {
    signature: text.join(';'),
    inputs,
    model: () => toModel(order, inputs, stored, targets),
  };
}

function toModel(
  order: readonly LazyNode[],
  inputs: readonly LazyTensor[],
  stored: readonly LazyTensor[],
  targets: readonly LazyTensor[],
): Model {
  const domains = Object.fromEntries(
    [...new Set(order.map(({ domain }) => domain))].filter(Boolean).map((d) => [d, 1]),
  );
  const net = buildModel({ name: 'step', opset: 17, irVersion: 8, domains });
  const values = new Map<LazyTensor, Value>();
  for (const [i, { elem, dims }] of inputs.entries())
    values.set(inputs[i] as LazyTensor, net.input(`i${i}`, elem, dims));
  for (const [i, tensor] of stored.entries()) {
    const { elem, dims, data } = tensor;
    values.set(tensor, net.tensor(tensorFromArray(`c${i}`, { elem, dims, data } as NdArray)));
  }
  for (const [i, { op, domain, inputs: from, attributes, outputs }] of order.entries()) {
    const made = addNode(net.model, net.model.graph, {
      op,
      domain,
      name: `n${i}`,
      inputs: from.map((input) => (input ? (values.get(input) as Value) : null)),
      attributes: makeAttributes(attributes),
      outputs: outputs.length,
    });
    for (const [k, output] of outputs.entries()) values.set(output, made.outputs[k] as Value);
  }
  const taken = new Set<Value>();
  for (const [i, target] of targets.entries()) {
    const value = values.get(target) as Value;
    // What is an input, a constant, or an output already needs a value of its own.
    const own = taken.has(value) || !value.producer ? net.node('Identity', [value]) : value;
    taken.add(own);
    net.output(own, `o${i}`, target.elem, target.dims);
  }
  return net.model;
}
