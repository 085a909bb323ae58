/** Parts of networks as inference sessions: frozen stages, which only compute. */

import { extract } from '../graph/extract.ts';
import type { Model } from '../graph/ir.ts';
import { serialize } from '../graph/write.ts';
import type { Device } from './device.ts';
import { type NdArray, openSession } from './session.ts';

export type Values = ReadonlyMap<string, NdArray>;

export interface Part {
  /** What it needs of the values that are known. */
  readonly reads: readonly string[];
  /** What it computes, by name, of values by name; those that it is given and asked for go through. */
  run(values: Values): Promise<Values>;
  release(): Promise<void>;
}

export interface PartOptions {
  readonly device: Device;
  readonly threads?: number | undefined;
  /** What errors call the model. */
  readonly name: string;
}

/**
 * @param model of operators that onnxruntime has
 * @param from names of values that are known; @param to of those that are wanted
 */
export async function openPart(
  model: Model,
  from: readonly string[],
  to: readonly string[],
  options: PartOptions,
): Promise<Part> {
  const known = new Set(from);
  const made = to.filter((name) => !known.has(name));
  const kept = to.filter((name) => known.has(name));
  if (made.length === 0) return { reads: kept, run: async (values) => only(values, kept), release: async () => {} };
  const session = await openSession(serialize(extract(model, from, made), { inline: true }), options);
  return {
    reads: [...new Set([...session.inputNames, ...kept])],
    async run(values) {
      const results = await session.run(only(values, session.inputNames));
      return new Map([...only(values, kept), ...results]);
    },
    release: () => session.release(),
  };
}

const only = (values: Values, names: readonly string[]): Values =>
  new Map(names.map((name) => [name, values.get(name) as NdArray]));
