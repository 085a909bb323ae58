/**
 * Replaces activations apart from the code under test: with onnx-proto's decoder, by nodes that evaluate the polynomial
 * in float64 (Cast, Horner in double, Cast back), in nested graphs and functions too.
 */
import onnxProto from 'onnx-proto';

const { onnx } = onnxProto;
type NodeMessage = InstanceType<typeof onnx.NodeProto>;

export interface Reference {
  readonly bytes: Uint8Array;
  /** Outputs of the replaced activations, in file order. */
  readonly replaced: readonly string[];
}

/** @param polynomial coefficients (constant first) for a node that is an activation, else null */
export function replaceInDouble(
  model: Uint8Array,
  polynomial: (node: NodeMessage, constant: (name: string) => number[] | null) => number[] | null,
): Reference {
  const proto = onnx.ModelProto.decode(model);
  const graph = proto.graph as NonNullable<typeof proto.graph>;
  const constants = new Map<string, number[]>();
  for (const tensor of graph.initializer ?? []) constants.set(tensor.name ?? '', floats(tensor));
  for (const node of graph.node ?? [])
    if (node.opType === 'Constant') {
      const value = node.attribute?.find(({ name }) => name === 'value')?.t;
      if (value) constants.set(node.output?.[0] ?? '', floats(value));
    }
  const replaced: string[] = [];
  const rewrite = (list: readonly NodeMessage[]): NodeMessage[] =>
    list.flatMap((node) => {
      for (const nested of node.attribute?.flatMap(({ g }) => g ?? []) ?? [])
        nested.node = rewrite((nested.node ?? []) as NodeMessage[]);
      const coefficients = polynomial(node, (name) => constants.get(name) ?? null);
      if (!coefficients) return [node];
      const output = node.output?.[0] ?? '';
      replaced.push(output);
      return inDouble(node.input?.[0] ?? '', output, coefficients, `reference_${replaced.length}`);
    });
  graph.node = rewrite((graph.node ?? []) as NodeMessage[]);
  for (const fn of proto.functions ?? []) fn.node = rewrite((fn.node ?? []) as NodeMessage[]);
  return { bytes: onnx.ModelProto.encode(proto).finish(), replaced };
}

/** The same model with more of its values as outputs. */
export function expose(model: Uint8Array, names: readonly string[]): Uint8Array {
  const proto = onnx.ModelProto.decode(model);
  const outputs = proto.graph?.output ?? [];
  const known = new Set(outputs.map(({ name }) => name));
  for (const name of names) if (!known.has(name)) outputs.push(onnx.ValueInfoProto.create({ name }));
  return onnx.ModelProto.encode(proto).finish();
}

function inDouble(x: string, y: string, coefficients: number[], prefix: string): NodeMessage[] {
  const { FLOAT, DOUBLE } = onnx.TensorProto.DataType;
  const node = (opType: string, input: string[], output: string, attribute: object[] = []) =>
    onnx.NodeProto.create({ opType, input, output: [output], attribute } as never) as NodeMessage;
  const int = (name: string, i: number) => ({ name, type: onnx.AttributeProto.AttributeType.INT, i });
  const constant = (value: number, output: string) => {
    const t = { dataType: DOUBLE, dims: [], doubleData: [value] };
    return node('Constant', [], output, [{ name: 'value', type: onnx.AttributeProto.AttributeType.TENSOR, t }]);
  };
  const made = [node('Cast', [x], `${prefix}_x`, [int('to', DOUBLE)])];
  let sum = `${prefix}_top`;
  made.push(constant(coefficients.at(-1) as number, sum));
  for (let k = coefficients.length - 2; k >= 0; k--) {
    made.push(constant(coefficients[k] as number, `${prefix}_c${k}`));
    made.push(node('Mul', [sum, `${prefix}_x`], `${prefix}_p${k}`));
    made.push(node('Add', [`${prefix}_p${k}`, `${prefix}_c${k}`], `${prefix}_s${k}`));
    sum = `${prefix}_s${k}`;
  }
  made.push(node('Cast', [sum], y, [int('to', FLOAT)]));
  return made;
}

/** The numbers of a float tensor, raw or typed. */
function floats(tensor: {
  rawData?: Uint8Array | null;
  floatData?: number[] | null;
  dataType?: number | null;
}): number[] {
  if (tensor.floatData && tensor.floatData.length > 0) return [...tensor.floatData];
  const raw = tensor.rawData;
  if (!raw || raw.length === 0 || tensor.dataType !== onnx.TensorProto.DataType.FLOAT) return [];
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  return Array.from({ length: raw.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
