/** From trained weights back to a model. */
import { SisyphusError } from '../errors.ts';
import { attribute } from '../graph/attributes.ts';
import { cloneModel, setAttribute, setInitializer } from '../graph/edit.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import { elementCount, isUnpackedData, rawBytes, type Tensor, tensorFromProto } from '../graph/tensor.ts';
import { copyMessage } from '../graph/wire.ts';
import { storedTensor } from './parameters.ts';

/**
 * A copy of a model with other numbers in tensors of the main graph; everything else stays as it was. Tensors that have
 * these numbers already are not touched.
 * @param weights by name, as `lower` names its parameters and statistics
 * @throws SisyphusError `usage` where the model has no such float32 tensor, or one of another size
 */
export function raise(model: Model, weights: ReadonlyMap<string, Float32Array>): Model {
  const copy = cloneModel(model);
  const values = new Map<string, Value>();
  for (const { value } of copy.graph.initializers) values.set(value.name, value);
  for (const { outputs } of copy.graph.nodes) for (const value of outputs) if (value) values.set(value.name, value);
  for (const [name, numbers] of weights) {
    const value = values.get(name);
    const tensor = value && storedTensor(value);
    if (!value || !tensor) throw new SisyphusError('usage', `the model stores no tensor '${name}'`);
    if (tensor.elem !== 'float' || elementCount(tensor.dims) !== numbers.length)
      throw new SisyphusError(
        'usage',
        `'${name}' is ${tensor.elem} [${tensor.dims}] in the model, and gets ${numbers.length} numbers of type float`,
      );
    const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
    if (Buffer.compare(rawBytes(tensor), bytes) === 0) continue;
    const changed = withData(tensor, Uint8Array.from(bytes));
    if (value.producer) setValue(value.producer, changed);
    else setInitializer(value, changed);
  }
  return copy;
}

/** Of a Constant node. */
function setValue(node: Node, { proto }: Tensor): void {
  const attr = attribute(node, 'value');
  if (attr) setAttribute(node, { ...attr, proto: copyMessage(attr.proto, { t: proto }) });
}

/** The numbers go into the model's own bytes, wherever they were; what else the message says stays. */
function withData({ proto }: Tensor, bytes: Uint8Array): Tensor {
  const gone = { float_data: undefined, external_data: undefined, data_location: undefined };
  const $unknowns = proto.$unknowns?.filter((field) => !isUnpackedData(field));
  return tensorFromProto(copyMessage(proto, { ...gone, $unknowns, raw_data: bytes }));
}
