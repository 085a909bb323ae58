/**
 * The graph in memory: plain objects that refer to each other. Names exist for the file and for people; passes compare
 * `Value` identity. Everything is readonly here; `edit.ts` holds the verbs that change it and keep the links right.
 */
import type { Tensor } from './tensor.ts';
import type {
  AttributeProto,
  FunctionProto,
  GraphProto,
  ModelProto,
  NodeProto,
  OpsetProto,
  StringEntry,
  TensorProto,
  ValueInfoProto,
} from './wire.ts';

/** A dimension: its size, the name of a symbolic one, or null where nothing is known. */
export type Dim = number | string | null;
/** ONNX element types by their names in `TensorProto.DataType`, lower case. */
export type ElementType = (typeof ELEMENT_TYPES)[number];
export const ELEMENT_TYPES = [
  'undefined',
  'float',
  'uint8',
  'int8',
  'uint16',
  'int16',
  'int32',
  'int64',
  'string',
  'bool',
  'float16',
  'double',
  'uint32',
  'uint64',
  'complex64',
  'complex128',
  'bfloat16',
  'float8e4m3fn',
  'float8e4m3fnuz',
  'float8e5m2',
  'float8e5m2fnuz',
  'uint4',
  'int4',
  'float4e2m1',
  'float8e8m0',
  'uint2',
  'int2',
] as const;

/** What is known of a tensor: element type and shape, either of which may be unknown (`null`). */
export interface TensorType {
  readonly elem: ElementType | null;
  readonly shape: readonly Dim[] | null;
}

export interface Model {
  readonly graph: Graph;
  readonly functions: readonly LocalFunction[];
  readonly irVersion: number;
  /** Opset version by domain; the default domain is '' however the file spells it. */
  readonly opsets: ReadonlyMap<string, number>;
  readonly metadata: readonly StringEntry[];
  /** Names in use anywhere in the model, so that a fresh name collides with none. */
  readonly names: ReadonlySet<string>;
  /** Folder that external data is relative to; undefined for models that come from no file. */
  readonly folder: string | undefined;
  readonly proto: ModelProto;
}

interface BodyFields {
  readonly name: string;
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  /** Types of intermediate values as the file states them. */
  readonly valueInfo: readonly Port[];
  /** In file order; well-formed models are sorted topologically. */
  readonly nodes: readonly Node[];
}
export interface Graph extends BodyFields {
  readonly kind: 'graph';
  readonly initializers: readonly Initializer[];
  /** The node whose attribute this graph is; null for the main graph. */
  readonly owner: Node | null;
  readonly proto: GraphProto;
}
/** A model-local function: nodes call it by domain and name (and overload, from IR 10 on). */
export interface LocalFunction extends BodyFields {
  readonly kind: 'function';
  readonly domain: string;
  readonly overload: string;
  readonly opsets: ReadonlyMap<string, number>;
  readonly proto: FunctionProto;
}
export type Body = Graph | LocalFunction;

/** A value with the file's statement about it; `info` is null for the inputs and outputs of functions. */
export interface Port {
  readonly value: Value;
  readonly info: ValueInfoProto | null;
}
export interface Initializer {
  readonly value: Value;
  readonly tensor: Tensor;
}

/** An edge of the graph: made once by a node, an input or an initializer, and used any number of times. */
export interface Value {
  readonly name: string;
  /** As the file states it, not inferred. */
  readonly declared: TensorType | null;
  readonly producer: Node | null;
  /** Which output of the producer. */
  readonly index: number;
  /** The body that defines it; null for a name that nothing defines. */
  readonly body: Body | null;
  /** Its data where it is an initializer. */
  readonly initializer: Tensor | null;
  readonly isInput: boolean;
  /** Who reads it (a body reads its outputs), and how many times. Nodes of nested graphs are listed too. */
  readonly users: ReadonlyMap<Node | Body, number>;
}

export interface Node {
  readonly name: string;
  readonly op: string;
  /** '' for the default domain, however the file spells it. */
  readonly domain: string;
  /** null where an optional input is left out. */
  readonly inputs: readonly (Value | null)[];
  readonly outputs: readonly (Value | null)[];
  readonly attributes: readonly Attribute[];
  readonly body: Body;
  /** What was read from the file, for what the IR does not model; null for new nodes. */
  readonly proto: NodeProto | null;
}

/** Attributes are immutable; those that hold graphs refer to IR graphs, all others to what was read. */
export interface Attribute {
  readonly name: string;
  readonly graphs: readonly Graph[];
  readonly proto: AttributeProto;
}

export type { AttributeProto, OpsetProto, StringEntry, TensorProto, ValueInfoProto };
