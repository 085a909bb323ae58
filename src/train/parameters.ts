/**
 * Which stored tensors of a model are trained: those that are weights or biases of a layer, directly or through operators
 * that only arrange elements. All others (normalisation of the input, coefficients of polynomials, …) are constants.
 */
import { arrayFromTensor } from '../eval/session.ts';
import { tensorAttr } from '../graph/attributes.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { elementCount, FLOAT_TYPES, isStripped, type Tensor } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import { DOMAIN, TRAINABLE } from '../passes/insert-amm.ts';
import { siteName } from '../passes/pass.ts';

export interface Parameter {
  /** Of the initializer, or of what the Constant node makes. */
  readonly name: string;
  readonly dims: readonly number[];
  readonly value: Float32Array;
  /** The first node that reads it. */
  readonly layer: string;
}

/** A tensor in the file, and what it is to the layer that reads it. */
interface Role {
  readonly node: Node;
  readonly value: Value;
  readonly tensor: Tensor;
  readonly kind: 'parameter' | 'statistic';
}

export interface Parameters {
  readonly parameters: readonly Parameter[];
  readonly statistics: readonly Parameter[];
  /** What can't be trained, and why, one sentence each. */
  readonly problems: readonly string[];
}

/** The tensor that a value holds by itself: an initializer's, or a Constant node's. */
export function storedTensor({ initializer, producer }: Value): Tensor | null {
  if (initializer) return initializer;
  return producer?.op === 'Constant' && producer.domain === '' ? (tensorAttr(producer, 'value') ?? null) : null;
}

/** Operators that only arrange the elements of their first input. */
const ARRANGES: ReadonlySet<string> = new Set([
  'Identity',
  'Transpose',
  'Reshape',
  'Flatten',
  'Squeeze',
  'Unsqueeze',
  'Cast',
]);

/** Looks through operators that only arrange elements. */
function origin(value: Value | null | undefined): Value | null {
  let at = value;
  while (at?.producer && at.producer.domain === '' && ARRANGES.has(at.producer.op)) at = at.producer.inputs[0];
  return at ?? null;
}

/** Inputs that are weights where they are stored. */
const WEIGHTS: Readonly<Record<string, readonly number[]>> = {
  Conv: [1, 2],
  Gemm: [0, 1, 2],
  MatMul: [0, 1],
  BatchNormalization: [1, 2],
  InstanceNormalization: [1, 2],
  LayerNormalization: [1, 2],
  PRelu: [1],
};

/** Inputs that are running estimates. */
const statisticInputs = ({ op }: Node): readonly number[] =>
  op === TRAINABLE ? [1, 2, 3] : op === 'BatchNormalization' ? [3, 4] : [];

/**
 * @param types of this model
 * @param trains false for those that stay as they are
 */
export function findParameters(
  model: Model,
  types: Types,
  trains: (parameter: Pick<Parameter, 'name' | 'layer'>) => boolean,
): Parameters {
  const found = new Map<Value, Role>();
  const problems: string[] = [];
  for (const role of model.graph.nodes.flatMap((node) => rolesOf(node, types))) {
    const { value, node, tensor, kind } = role;
    const known = found.get(value);
    if (known && known.kind !== kind)
      problems.push(
        `${label(node)}: '${value.name}' is a running statistic and a trained weight at once; export the model with a tensor for each`,
      );
    if (known || !trains({ name: value.name, layer: siteName(node) })) continue;
    found.set(value, role);
    if (tensor.elem !== 'float')
      problems.push(
        `${label(node)}: '${value.name}' is ${tensor.elem}, and only float is trained; convert it to float32`,
      );
    else if (isStripped(tensor)) problems.push(`${label(node)}: the data of '${value.name}' was left out of the file`);
  }
  const list = (kind: Role['kind']) =>
    problems.length > 0 ? [] : [...found.values()].filter((role) => role.kind === kind).map(read);
  return { parameters: list('parameter'), statistics: list('statistic'), problems };
}

const read = ({ node, value, tensor }: Role): Parameter => ({
  name: value.name,
  dims: tensor.dims,
  value: arrayFromTensor(tensor).data as Float32Array,
  layer: siteName(node),
});

function rolesOf(node: Node, types: Types): Role[] {
  const own = node.domain === DOMAIN && node.op === TRAINABLE;
  if (node.domain !== '' && !own) return [];
  const role = (value: Value | null | undefined, kind: Role['kind']): Role[] => {
    const stored = kind === 'parameter' ? origin(value) : value;
    const tensor = stored && storedTensor(stored);
    return stored && tensor && FLOAT_TYPES.has(tensor.elem) ? [{ node, value: stored, tensor, kind }] : [];
  };
  const weights = Object.hasOwn(WEIGHTS, node.op) ? (WEIGHTS[node.op] ?? []) : biasInputs(node, types);
  return [
    ...weights.flatMap((index) => role(node.inputs[index], 'parameter')),
    ...statisticInputs(node).flatMap((index) => role(node.inputs[index], 'statistic')),
  ];
}

/** The axis of its channels, for layers that an Add may give a bias. */
const CHANNEL_AXIS: Readonly<Record<string, number>> = { Conv: 1, Gemm: -1, MatMul: -1 };

/**
 * The input of an Add or Sub that is the bias of a layer: the layer has none of its own, and it is no scalar and has an
 * element for each channel, as the coefficients of polynomials have not.
 */
function biasInputs(node: Node, types: Types): readonly number[] {
  if (node.op !== 'Add' && node.op !== 'Sub') return [];
  return [0, 1].filter((index) => {
    const layer = origin(node.inputs[1 - index])?.producer;
    const bias = origin(node.inputs[index]);
    const dims = bias && storedTensor(bias)?.dims;
    const axis = layer?.domain === '' && !layer.inputs[2] ? CHANNEL_AXIS[layer.op] : undefined;
    const [output] = layer?.outputs ?? [];
    if (!dims?.length || axis === undefined || !output) return false;
    const channels = types.get(output).shape?.at(axis);
    return typeof channels === 'number' && elementCount(dims) % channels === 0;
  });
}
