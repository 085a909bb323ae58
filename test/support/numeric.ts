/** Running models in onnxruntime as they stand, for tests that compare numbers. */
import { expect } from 'vitest';
import { checkEqual, type EqualityReport } from '../../src/eval/check.ts';
import { arrayFromNumbers, arrayNumbers, type NdArray, openSession } from '../../src/eval/session.ts';
import type { ElementType, Model } from '../../src/graph/ir.ts';
import { modelFromProto } from '../../src/graph/read.ts';
import { verify } from '../../src/graph/verify.ts';
import { copyMessage } from '../../src/graph/wire.ts';
import { modelToProto, serialize } from '../../src/graph/write.ts';
import { makeRng } from '../../src/rng.ts';

/** One run without optimisations. */
export async function runModel(model: Model, feeds: ReadonlyMap<string, NdArray>): Promise<Map<string, NdArray>> {
  const session = await openSession(serialize(model, { inline: true }), { optimize: false });
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

/** Element by element: |Δ| <= tolerance; NaN equals NaN. */
export function expectClose(found: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  expect(found.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [Number(found[i]), Number(expected[i])];
    if (!Object.is(a, b) && !(Math.abs(a - b) <= tolerance))
      expect.fail(`element ${i}: ${a}, expected ${b} within ${tolerance}`);
  }
}

/** The same function within the tolerance, and a well-formed model. */
export async function expectSame(
  original: Model,
  rewritten: Model,
  tolerance: { atol: number; rtol: number },
  runs = 2,
): Promise<EqualityReport> {
  expect(verify(rewritten)).toEqual([]);
  const report = await checkEqual(original, rewritten, { runs, seed: 7, ...tolerance });
  expect(report.passed, JSON.stringify(report)).toBe(true);
  return report;
}

/** Repeatable numbers in [-1, 1). */
export function noise(count: number, seed = 1): Float64Array {
  const rng = makeRng(seed);
  return Float64Array.from({ length: count }, () => 2 * rng.uniform() - 1);
}

/** An array of repeatable noise. */
export function noiseArray(elem: ElementType, dims: readonly number[], seed = 1): NdArray {
  return arrayFromNumbers(
    elem,
    dims,
    noise(
      dims.reduce((a, b) => a * b, 1),
      seed,
    ),
  );
}

/** The numbers of one output. */
export function numbersOf(outputs: ReadonlyMap<string, NdArray>, name: string): Float64Array {
  const array = outputs.get(name);
  if (!array) throw new Error(`no output '${name}'`);
  return arrayNumbers(array);
}

/** Operators in file order. */
export const ops = (model: Model): string[] => model.graph.nodes.map(({ op }) => op);

/** The same model with its nodes in the opposite order, which readers must cope with. */
export function reversed(model: Model): Model {
  const proto = modelToProto(model);
  return modelFromProto(
    copyMessage(proto, { graph: copyMessage(proto.graph ?? {}, { node: [...(proto.graph?.node ?? [])].reverse() }) }),
    undefined,
  );
}
