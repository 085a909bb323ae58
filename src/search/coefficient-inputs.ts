/**
 * Networks that differ in the coefficients of their polynomials only, as one onnxruntime session: what `rewrite` would write
 * as constants are inputs of the graph. A candidate costs a pass over the data and no session, and computes exactly what its
 * file would.
 */
import { createHash } from 'node:crypto';
import { arrayFromTensor, type NdArray } from '../eval/session.ts';
import { makeInput } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';

export interface CoefficientInputs {
  /** Equal for networks that one session serves. */
  readonly structure: string;
  /** Equal for networks that compute the same. */
  readonly identity: string;
  readonly inputs: ReadonlyMap<string, NdArray>;
}

/**
 * Makes inputs of the constants that `model` has and `original` has not, in place. Those inside functions stay, and make
 * structures of their own.
 */
export function coefficientsAsInputs(model: Model, original: Model): CoefficientInputs {
  const old = new Set(original.graph.initializers.map(({ value }) => value.name));
  const own = model.graph.initializers.filter(({ value }) => !old.has(value.name));
  const inputs = new Map(own.map(({ value, tensor }) => [value.name, arrayFromTensor(tensor)] as const));
  for (const { value } of own) makeInput(model, value);
  const structure = structureOf(model);
  const hash = createHash('sha256').update(structure);
  for (const [name, { dims, data }] of inputs)
    hash.update(JSON.stringify([name, dims, Array.from(data as ArrayLike<number>)]));
  return { structure, identity: hash.digest('hex'), inputs };
}

/** Of everything but the weights, which all candidates share. */
function structureOf({ graph, functions }: Model): string {
  const hash = createHash('sha256');
  for (const { op, domain, inputs, outputs } of graph.nodes)
    hash.update(JSON.stringify([domain, op, inputs.map((value) => value?.name), outputs.map((value) => value?.name)]));
  for (const { nodes } of functions)
    for (const { op, inputs, attributes } of nodes)
      hash.update(JSON.stringify([op, inputs.map((value) => value?.name), attributes.map(({ proto }) => proto)]));
  return hash.digest('hex');
}
