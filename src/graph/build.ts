/** Makes models from nothing: for the networks in `models/`, for tests and for benchmarks. */
import { floatAttribute, intAttribute, intsAttribute, stringAttribute, tensorAttribute } from './attributes.ts';
import { addConstant, addNode, typeMessage } from './edit.ts';
import type { Attribute, Dim, ElementType, Model, Value } from './ir.ts';
import { addUser, mutable, newValue } from './links.ts';
import { modelFromProto } from './read.ts';
import { makeTensor, type Tensor } from './tensor.ts';
import { type GraphProto, type ModelProto, message, type OpsetProto } from './wire.ts';

/** Whole numbers become INT or INTS; give `floatAttribute(…)` for a float that happens to be whole. */
export type AttributeValue = number | string | readonly number[] | Tensor | Attribute;

export interface GraphBuilder {
  readonly model: Model;
  /** Declares a graph input. */
  input(name: string, elem: ElementType, shape: readonly Dim[]): Value;
  /** Adds an initializer. */
  constant(name: string, elem: ElementType, dims: readonly number[], values: ArrayLike<number>): Value;
  /** Adds an initializer that exists already. */
  tensor(tensor: Tensor): Value;
  /** Adds a node and returns its first output. */
  node(
    op: string,
    inputs: readonly (Value | null)[],
    attributes?: Readonly<Record<string, AttributeValue>>,
    name?: string,
  ): Value;
  /** Makes a value a graph output; the value takes the name. */
  output(value: Value, name: string, elem: ElementType, shape: readonly Dim[]): void;
}

/** An empty model to fill. @param options.domains versions of other operator sets, by domain */
export function buildModel(options: {
  name: string;
  opset: number;
  irVersion?: number;
  domains?: Readonly<Record<string, number>>;
}): GraphBuilder {
  const opsets = Object.entries({ '': options.opset, ...options.domains });
  const model = modelFromProto(
    message<ModelProto>('ModelProto', {
      ir_version: options.irVersion ?? 8,
      producer_name: 'sisyphus',
      opset_import: opsets.map(([domain, version]) => message<OpsetProto>('OperatorSetIdProto', { domain, version })),
      graph: message<GraphProto>('GraphProto', { name: options.name }),
    }),
    undefined,
  );
  const { graph } = model;
  return {
    model,
    input(name, elem, shape) {
      const value = mutable(newValue(name, graph));
      mutable(model).names.add(name);
      value.isInput = true;
      value.declared = { elem, shape };
      mutable(graph).inputs.push({ value: value as Value, info: typeMessage(name, { elem, shape }) });
      return value as Value;
    },
    constant: (name, elem, dims, values) => addConstant(model, graph, makeTensor(name, elem, dims, values), null),
    tensor: (tensor) => addConstant(model, graph, tensor, null),
    node(op, inputs, attributes = {}, name = op.toLowerCase()) {
      return addNode(model, graph, { op, name, inputs, attributes: makeAttributes(attributes) }).outputs[0] as Value;
    },
    output(value, name, elem, shape) {
      mutable(value).name = name;
      mutable(model).names.add(name);
      mutable(value).declared = { elem, shape };
      mutable(graph).outputs.push({ value, info: typeMessage(name, { elem, shape }) });
      addUser(value, graph);
    },
  };
}

export const makeAttributes = (attributes: Readonly<Record<string, AttributeValue>>): Attribute[] =>
  Object.entries(attributes).map(([name, value]) => makeAttribute(name, value));

function makeAttribute(name: string, value: AttributeValue): Attribute {
  if (typeof value === 'string') return stringAttribute(name, value);
  if (typeof value === 'number')
    return Number.isInteger(value) ? intAttribute(name, value) : floatAttribute(name, value);
  if (isNumbers(value)) return intsAttribute(name, value);
  return 'elem' in value ? tensorAttribute(name, value) : value;
}

const isNumbers = (value: AttributeValue): value is readonly number[] => Array.isArray(value);
