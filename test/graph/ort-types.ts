/** Types of all values of a model as onnxruntime finds them in a run, beside those that were inferred. */
import { InferenceSession, Tensor } from 'onnxruntime-node';
import type { Dim, ElementType, Model, TensorType, Value } from '../../src/graph/ir.ts';
import { addUser, mutable } from '../../src/graph/links.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { message, type ValueInfoProto } from '../../src/graph/wire.ts';
import { serialize } from '../../src/graph/write.ts';

const BATCH = 3; // what symbolic dimensions of the inputs are bound to
const ELEMENTS: Partial<Record<string, ElementType>> = { float32: 'float', float64: 'double' };

/** Adds every value that the main graph's nodes make to its outputs. */
function exposeAll(model: Model): Value[] {
  const { graph } = model;
  const listed = new Set(graph.outputs.map(({ value }) => value));
  const values = graph.nodes.flatMap((node) => node.outputs.filter((value) => value !== null));
  for (const value of values) {
    if (listed.has(value)) continue;
    mutable(graph).outputs.push({ value, info: message<ValueInfoProto>('ValueInfoProto', { name: value.name }) });
    addUser(value, graph);
  }
  return values;
}

function feedOf({ elem, shape }: TensorType, sizes: Map<string, number>): Tensor {
  const dims = (shape ?? []).map((dim) => {
    if (typeof dim === 'number') return dim;
    if (dim !== null) sizes.set(dim, BATCH);
    return BATCH;
  });
  const count = dims.reduce((a, b) => a * b, 1);
  const numbers = Array.from({ length: count }, (_, i) => Math.sin(i));
  if (elem === 'bool') return new Tensor('bool', new Uint8Array(count).fill(1), dims);
  if (elem === 'int64')
    return new Tensor(
      'int64',
      BigInt64Array.from(numbers, (x) => BigInt(Math.round(x))),
      dims,
    );
  if (elem === 'int32')
    return new Tensor(
      'int32',
      Int32Array.from(numbers, (x) => Math.round(x)),
      dims,
    );
  if (elem === 'float16') return new Tensor('float16', new Uint16Array(count), dims);
  if (elem === 'uint8')
    return new Tensor(
      'uint8',
      Uint8Array.from(numbers, (x) => 100 + 100 * x),
      dims,
    );
  return new Tensor('float32', Float32Array.from(numbers), dims);
}

export interface Outcome {
  /** Values whose inferred type is not the real one. */
  readonly wrong: string[];
  /** Values whose type was not fully inferred. */
  readonly open: string[];
  readonly count: number;
}

/** Infers the types of a model, then runs it with every value exposed. Changes the model. */
export async function compareTypes(model: Model): Promise<Outcome> {
  const types = inferTypes(model);
  const sizes = new Map<string, number>();
  const feeds = Object.fromEntries(
    model.graph.inputs
      .filter(({ value }) => !value.initializer)
      .map(({ value }) => [value.name, feedOf(types.get(value), sizes)]),
  );
  const values = exposeAll(model);
  const session = await InferenceSession.create(serialize(model, { inline: true }), {
    graphOptimizationLevel: 'disabled',
    logSeverityLevel: 3,
  });
  const results = await session.run(feeds);
  await session.release();
  const outcome: Outcome = { wrong: [], open: [], count: values.length };
  for (const value of values) {
    const real = results[value.name];
    if (!real) throw new Error(`onnxruntime returned no '${value.name}'`);
    const { elem, shape } = types.get(value);
    const agrees = (dim: Dim, at: number) => {
      if (typeof dim !== 'string') return dim === null || dim === real.dims[at];
      // A name that no input has is bound where it is met first.
      if (!sizes.has(dim)) sizes.set(dim, real.dims[at] ?? Number.NaN);
      return sizes.get(dim) === real.dims[at];
    };
    const right =
      (elem === null || elem === (ELEMENTS[real.type] ?? real.type)) &&
      (shape === null || (shape.length === real.dims.length && shape.every(agrees)));
    const text = `${value.producer?.op} '${value.name}': ${elem} [${shape}], really ${real.type} [${real.dims}]`;
    if (!right) outcome.wrong.push(text);
    else if (elem === null || !shape || shape.includes(null)) outcome.open.push(text);
  }
  return outcome;
}
