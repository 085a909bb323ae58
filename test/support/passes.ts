/** Models for the tests of passes: the real ones under ../shared, and small ones that `buildModel` can't make. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { typeMessage } from '../../src/graph/edit.ts';
import type { Attribute, Dim, ElementType, Model } from '../../src/graph/ir.ts';
import { parseModel, readModel } from '../../src/graph/read.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import {
  type AttributeProto,
  encodeModel,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  message,
  type NodeProto,
  type OpsetProto,
} from '../../src/graph/wire.ts';
import { serialize } from '../../src/graph/write.ts';

const SHARED = path.resolve(import.meta.dirname, '..', '..', '..', 'shared');

/** A real model, or null (with a line that says so) where the checkout has none. */
export function sharedModel(file: string): Model | null {
  const full = path.join(SHARED, file);
  if (existsSync(full)) return readModel(full);
  process.stdout.write(`skipped: ${full} is not there\n`);
  return null;
}

/** Through bytes and back: what a test built becomes what a reader would see. */
export const reread = (model: Model): Model => parseModel(serialize(model));

/** Name, element type, and shape (null: not stated). */
export type PortSpec = readonly [string, ElementType, readonly Dim[] | null];

export function nodeProto(
  op: string,
  inputs: string[],
  outputs: string[],
  attributes: readonly (Attribute | AttributeProto)[] = [],
  domain = '',
): NodeProto {
  return message<NodeProto>('NodeProto', {
    op_type: op,
    name: `n_${outputs[0] ?? op}`,
    input: inputs,
    output: outputs,
    attribute: attributes.map((attr) => ('proto' in attr ? attr.proto : attr)),
    ...(domain && { domain }),
  });
}

/** An attribute that holds a graph. */
export const graphAttribute = (name: string, g: GraphProto): AttributeProto =>
  message<AttributeProto>('AttributeProto', { name, type: 5, g });

export interface GraphSpec {
  readonly name?: string;
  readonly inputs?: readonly PortSpec[];
  readonly outputs: readonly PortSpec[];
  readonly initializers?: readonly Tensor[];
  readonly nodes: readonly NodeProto[];
}

export function graphProto({ name = 'g', inputs = [], outputs, initializers = [], nodes }: GraphSpec): GraphProto {
  const ports = (list: readonly PortSpec[]) => list.map(([port, elem, shape]) => typeMessage(port, { elem, shape }));
  return message<GraphProto>('GraphProto', {
    name,
    input: ports(inputs),
    output: ports(outputs),
    initializer: initializers.map(({ proto }) => proto),
    node: [...nodes],
  });
}

const opsetProto = (domain: string, version: number) => message<OpsetProto>('OperatorSetIdProto', { domain, version });

/** A model as a file would give it, with functions in the domain `local`. */
export function protoModel(spec: GraphSpec & { opset?: number; functions?: readonly FunctionProto[] }): Model {
  const proto = message<ModelProto>('ModelProto', {
    ir_version: 8,
    opset_import: [opsetProto('', spec.opset ?? 17), opsetProto('local', 1)],
    graph: graphProto(spec),
    functions: [...(spec.functions ?? [])],
  });
  return parseModel(Buffer.concat(encodeModel(proto)));
}

export function functionProto(name: string, input: string[], output: string[], node: NodeProto[], opset = 17) {
  return message<FunctionProto>('FunctionProto', {
    name,
    domain: 'local',
    input,
    output,
    node,
    opset_import: [opsetProto('', opset), opsetProto('local', 1)],
  });
}
