/** Typed access to attributes, and makers of new ones. */
import { SisyphusError } from '../errors.ts';
import type { Attribute, Graph, Node } from './ir.ts';
import { type Tensor, tensorFromProto } from './tensor.ts';
import { type AttributeProto, message } from './wire.ts';

const TYPES = { FLOAT: 1, INT: 2, STRING: 3, TENSOR: 4, FLOATS: 6, INTS: 7 } as const;

export function attribute(node: Node, name: string): Attribute | undefined {
  return node.attributes.find((candidate) => candidate.name === name);
}

/** Inside a function an attribute may stand for one of the caller's, so its value is not known there. */
export const isReference = (attr: Attribute): boolean => Boolean(attr.proto.ref_attr_name);

/** The names of attributes whose values are the caller's. */
export function referenced(node: Node): string[] {
  return node.attributes.filter(isReference).map(({ name }) => name);
}

/** The type that a message states for each field. */
const FIELD_TYPES: Partial<Record<keyof AttributeProto, number>> = { f: 1, i: 2, s: 3, t: 4, floats: 6, ints: 7 };

function read<T>(
  node: Node,
  name: string,
  field: keyof AttributeProto,
  convert: (proto: AttributeProto) => T,
): T | undefined {
  const attr = attribute(node, name);
  if (!attr) return undefined;
  if (isReference(attr))
    throw new SisyphusError(
      'unsupported',
      `${node.op} '${node.name}': its attribute '${name}' is given by the function's caller`,
    );
  // proto2 writers may leave out a value that is the type's zero; the type then tells which field is meant.
  const present = Object.hasOwn(attr.proto, field);
  const stated = attr.proto.type;
  if (stated ? stated !== FIELD_TYPES[field] : !present)
    throw new SisyphusError(
      'invalid-model',
      `${node.op} '${node.name}': its attribute '${name}' has ${stated ? 'another type than its operator wants' : 'no value'}`,
    );
  return convert(attr.proto);
}

export const intAttr = (node: Node, name: string): number | undefined =>
  read(node, name, 'i', (proto) => Number(proto.i ?? 0));
export const floatAttr = (node: Node, name: string): number | undefined =>
  read(node, name, 'f', (proto) => proto.f ?? 0);
export const intsAttr = (node: Node, name: string): number[] | undefined =>
  read(node, name, 'ints', (proto) => (proto.ints ?? []).map(Number));
export const floatsAttr = (node: Node, name: string): number[] | undefined =>
  read(node, name, 'floats', (proto) => [...(proto.floats ?? [])]);
export const stringAttr = (node: Node, name: string): string | undefined =>
  read(node, name, 's', (proto) => Buffer.from(proto.s ?? []).toString('utf8'));
export const tensorAttr = (node: Node, name: string): Tensor | undefined =>
  read(node, name, 't', (proto) => (proto.t ? tensorFromProto(proto.t) : undefined));
export const graphAttr = (node: Node, name: string): Graph | undefined => attribute(node, name)?.graphs[0];

function make(name: string, type: keyof typeof TYPES, fields: Partial<AttributeProto>): Attribute {
  return { name, graphs: [], proto: message<AttributeProto>('AttributeProto', { name, type: TYPES[type], ...fields }) };
}

export const intAttribute = (name: string, i: number): Attribute => make(name, 'INT', { i });
/** Rounded to float32 at once, as it will be in the file. */
export const floatAttribute = (name: string, f: number): Attribute => make(name, 'FLOAT', { f: Math.fround(f) });
export const intsAttribute = (name: string, ints: readonly number[]): Attribute =>
  make(name, 'INTS', { ints: [...ints] });
export const stringAttribute = (name: string, text: string): Attribute =>
  make(name, 'STRING', { s: Buffer.from(text) });
export const tensorAttribute = (name: string, tensor: Tensor): Attribute => make(name, 'TENSOR', { t: tensor.proto });
