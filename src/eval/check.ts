/** Do two models compute the same? Seeded random inputs, onnxruntime without optimisations, a stated tolerance. */
import { SisyphusError } from '../errors.ts';
import type { ElementType, Model, Value } from '../graph/ir.ts';
import { elementCount, FLOAT_TYPES } from '../graph/tensor.ts';
import { serialize } from '../graph/write.ts';
import { makeRng, type Rng } from '../rng.ts';
import { arrayFromNumbers, arrayNumbers, type NdArray, openSession } from './session.ts';

export interface CheckOptions {
  /** How many random inputs. */
  readonly runs: number;
  readonly seed: number;
  /** Default 1e-6. */
  readonly atol?: number;
  /** Default 1e-4; relative to the largest magnitude in the original's output tensor. */
  readonly rtol?: number;
  /** Sizes of symbolic dimensions by name, where the ones chosen here do not suit the model. */
  readonly sizes?: ReadonlyMap<string, number>;
}

/** What was compared and how far apart it was; `maxError` and `scale` are those of the worst tensor. */
export interface EqualityReport {
  readonly runs: number;
  /** The largest |original - rewritten|; infinite where only one of them is NaN or infinite, or the shapes differ. */
  readonly maxError: number;
  /** The largest finite |original| in that tensor. */
  readonly scale: number;
  /** maxError / scale: the rtol that would just do without any atol. */
  readonly toleranceNeeded: number;
  readonly passed: boolean;
  /** Where `maxError` is, as an index into the flat tensor (-1: the shapes differ); null where nothing differs. */
  readonly worst: { readonly output: string; readonly index: number } | null;
}

/**
 * Runs both models on the same random inputs and compares every output that both have.
 * @throws SisyphusError `unsupported` where onnxruntime refuses one of them, where an input can't be made up (no stated
 * shape, not a tensor), or where they have no output in common
 */
export async function checkEqual(original: Model, rewritten: Model, options: CheckOptions): Promise<EqualityReport> {
  const { atol = 1e-6, rtol = 1e-4 } = options;
  const rng = makeRng(options.seed);
  const outputs = commonOutputs(original, rewritten);
  const first = await openSession(serialize(original, { inline: true }), { optimize: false, name: 'the original' });
  try {
    const bytes = serialize(rewritten, { inline: true });
    const second = await openSession(bytes, { optimize: false, name: 'the rewritten model' });
    try {
      let worst: Difference | null = null;
      for (let run = 0; run < options.runs; run++) {
        const feeds = randomFeeds(original, rng, options.sizes);
        const expected = await first.run(feeds, outputs);
        const found = await second.run(feeds, outputs);
        for (const name of outputs) {
          const difference = compare(name, expected.get(name), found.get(name));
          if (!worst || excess(difference, atol, rtol) > excess(worst, atol, rtol)) worst = difference;
        }
      }
      return report(worst, options.runs, atol, rtol);
    } finally {
      await second.release();
    }
  } finally {
    await first.release();
  }
}

function commonOutputs(original: Model, rewritten: Model): string[] {
  const names = (model: Model) => new Set(model.graph.outputs.map(({ value }) => value.name));
  const second = names(rewritten);
  const common = [...names(original)].filter((name) => second.has(name));
  if (common.length === 0)
    throw new SisyphusError('unsupported', 'the two models have no output in common, so there is nothing to compare');
  return common;
}

/**
 * Random values for every input that has to be given: floats uniform in [-1, 1), integers 0 to 2 (which are indices
 * more often than not), booleans.
 * @param sizes of symbolic dimensions; by default 1 for a name that leads a shape (the batch) and 2, 3, … for others
 */
export function randomFeeds(model: Model, rng: Rng, sizes?: ReadonlyMap<string, number>): Map<string, NdArray> {
  const chosen = new Map(sizes);
  const inputs = model.graph.inputs.map(({ value }) => value).filter((value) => !value.initializer);
  for (const { declared } of inputs) {
    const lead = declared?.shape?.[0];
    if (typeof lead === 'string' && !chosen.has(lead)) chosen.set(lead, 1);
  }
  let next = 2;
  const size = (dim: number | string | null): number => {
    if (typeof dim !== 'string') return dim === null || dim < 0 ? 1 : dim;
    const known = chosen.get(dim);
    if (known !== undefined) return known;
    chosen.set(dim, next);
    return next++;
  };
  return new Map(inputs.map((value) => [value.name, randomArray(value, size, rng)]));
}

function randomArray(value: Value, size: (dim: number | string | null) => number, rng: Rng): NdArray {
  const { elem, shape } = value.declared ?? {};
  if (!elem || !shape)
    throw new SisyphusError(
      'unsupported',
      `the input '${value.name}' states no ${elem ? 'shape' : 'tensor type'}, so no random input can be made`,
    );
  const dims = shape.map(size);
  return arrayFromNumbers(elem, dims, Float64Array.from({ length: elementCount(dims) }, drawer(elem, rng)));
}

function drawer(elem: ElementType, rng: Rng): () => number {
  if (FLOAT_TYPES.has(elem)) return () => 2 * rng.uniform() - 1;
  return () => rng.int(elem === 'bool' ? 2 : 3);
}

interface Difference {
  readonly output: string;
  readonly index: number;
  readonly error: number;
  readonly scale: number;
}

function compare(output: string, expected: NdArray | undefined, found: NdArray | undefined): Difference {
  const different = { output, index: -1, error: Number.POSITIVE_INFINITY, scale: 0 };
  if (!expected || !found || expected.elem !== found.elem || `${expected.dims}` !== `${found.dims}`) return different;
  if (expected.elem === 'string') {
    const index = [...expected.data].findIndex((text, i) => text !== found.data[i]);
    return index < 0 ? { ...different, error: 0 } : { ...different, index };
  }
  const [a, b] = [arrayNumbers(expected), arrayNumbers(found)];
  let [error, index, scale] = [0, -1, 0];
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i] as number, b[i] as number];
    if (Number.isFinite(x)) scale = Math.max(scale, Math.abs(x));
    const distance = Object.is(x, y) || x === y ? 0 : Math.abs(x - y);
    const delta = Number.isNaN(distance) ? Number.POSITIVE_INFINITY : distance;
    if (delta > error) [error, index] = [delta, i];
  }
  return { output, index, error, scale };
}

/** How much of the tolerance was used: up to 1 passes. */
function excess({ error, scale }: Difference, atol: number, rtol: number): number {
  return error === 0 ? 0 : error / (atol + rtol * scale);
}

function report(worst: Difference | null, runs: number, atol: number, rtol: number): EqualityReport {
  if (!worst) return { runs, maxError: 0, scale: 0, toleranceNeeded: 0, passed: false, worst: null };
  const { error, scale, output, index } = worst;
  return {
    runs,
    maxError: error,
    scale,
    toleranceNeeded: error === 0 ? 0 : error / scale,
    passed: error <= atol + rtol * scale,
    worst: error === 0 ? null : { output, index },
  };
}
