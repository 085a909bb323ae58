/**
 * A network as an encrypted evaluation sees it: dense affine maps of flattened features, with monic polynomials of degrees
 * 2 to 4 between them, a set of coefficients for each feature.
 */
import { SisyphusError } from '../errors.ts';
import { arrayFromNumbers, arrayNumbers, openSession } from '../eval/session.ts';
import { cloneModel } from '../graph/edit.ts';
import { extract } from '../graph/extract.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import { levelsOf } from '../graph/levels.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { label } from '../graph/verify.ts';
import { topologicalOrder } from '../graph/walk.ts';
import { serialize } from '../graph/write.ts';
import { dropIdentity } from '../passes/drop-identity.ts';
import { dropSoftmax } from '../passes/drop-softmax.ts';
import { type ElementPolynomial, elementPolynomials, expand } from '../passes/element-polynomials.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { setBatch } from '../passes/set-batch.ts';
import { setStatic } from '../passes/set-static.ts';

/** y = rows * (weights (columns * x)) + bias, with weights [out, in] in row-major order. */
export interface DenseMap {
  readonly name: string;
  readonly outs: number;
  readonly ins: number;
  readonly weights: Float32Array;
  readonly rows: Float64Array;
  readonly columns: Float64Array;
  readonly bias: Float64Array;
}

/** u^degree + sum over 0 < k < degree of coefficients[k] u^k; the constant term is in the next map. */
export interface MonicLayer {
  readonly name: string;
  /** Of the value, without the batch. */
  readonly shape: readonly number[];
  readonly degree: number;
  readonly coefficients: readonly Float64Array[];
}

export interface Program {
  /** maps[0], layers[0], maps[1], …: one map more than layers. */
  readonly maps: readonly DenseMap[];
  readonly layers: readonly MonicLayer[];
  /** Multiplicative levels: one for each map, ceil(log2 degree) for each polynomial. */
  readonly levels: number;
  /** The most features of any value, the input among them. */
  readonly width: number;
  readonly input: string;
  /** Of an input, without the batch. */
  readonly shape: readonly number[];
  readonly output: string;
  /** What was done to the model first, for people. */
  readonly notes: readonly string[];
}

/** Rows of unit vectors that run at once. */
const ROWS = 128;

const refuse = (where: string, why: string): SisyphusError => new SisyphusError('unsupported', `${where}: ${why}`);

/**
 * Cuts a model at its polynomials and computes the map of every linear run in between.
 * @param options.width the most features that a ciphertext holds; wider values are refused before any map is computed
 * @throws SisyphusError `unsupported` where it is no such chain, naming the node
 */
export async function makeProgram(
  original: Model,
  where: string,
  options: { readonly width: number },
): Promise<Program> {
  const { model, notes } = await prepare(original);
  const types = inferTypes(model);
  const input = onlyInput(model, where);
  const output = model.graph.outputs[0]?.value as Value;
  const polynomials = elementPolynomials(model, types).filter(({ coefficients }) => coefficients.length > 2);
  refuseNonLinear(model, types, polynomials, where);
  const sizes = [input, ...polynomials.map(({ source }) => source), output].map((value) =>
    features(types, value, where),
  );
  const width = Math.max(...sizes);
  if (width > options.width)
    throw refuse(where, `its widest value has ${width} features, and a ciphertext holds ${options.width} at most`);
  const shape = (types.get(input).shape ?? []).slice(1) as number[];
  const cuts = [input, ...polynomials.map((polynomial) => polynomial.output)];
  const ends = [...polynomials.map(({ source }) => source), output];
  const raw: RawMap[] = [];
  for (const [i, from] of cuts.entries()) raw.push(await denseMap(model, types, from, ends[i] as Value, where));
  return { ...fold(raw, polynomials, types), width, shape, input: input.name, output: output.name, notes };
}

async function prepare(original: Model): Promise<{ model: Model; notes: string[] }> {
  const model = cloneModel(original);
  await setStatic.run(model, {});
  const head = await dropSoftmax.run(model, {});
  await dropIdentity.run(model, {});
  await foldConstants.run(model, {});
  const notes = head.applied.map(({ site, detail }) => `${site}: ${detail}; the largest class stays the same`);
  return { model, notes };
}

function onlyInput(model: Model, where: string): Value {
  const inputs = model.graph.inputs.map(({ value }) => value).filter((value) => !value.initializer);
  if (inputs.length !== 1 || model.graph.outputs.length !== 1)
    throw refuse(
      where,
      `it has ${inputs.length} inputs and ${model.graph.outputs.length} outputs; one of each can be run`,
    );
  return inputs[0] as Value;
}

function features(types: Types, value: Value, where: string): number {
  const [, ...rest] = types.get(value).shape ?? [null];
  if (!rest.every((dim) => typeof dim === 'number'))
    throw refuse(where, `the shape of '${value.name}' is not known in numbers`);
  return rest.reduce<number>((product, dim) => product * (dim as number), 1);
}

function refuseNonLinear(model: Model, types: Types, polynomials: readonly ElementPolynomial[], where: string): void {
  const inside = new Set(polynomials.flatMap(({ nodes }) => nodes));
  const data = new Set<Value>(model.graph.inputs.map(({ value }) => value).filter((value) => !value.initializer));
  for (const { output, coefficients } of polynomials)
    if (coefficients.length > 5)
      throw refuse(
        where,
        `'${output.name}' is a polynomial of degree ${coefficients.length - 1}; 4 at most can be run`,
      );
  for (const node of topologicalOrder(model.graph)) {
    const isData = (i: number) => data.has(node.inputs[i] as Value);
    if (!node.inputs.some((_, i) => isData(i))) continue;
    for (const value of node.outputs) if (value) data.add(value);
    if (inside.has(node)) continue;
    const levels = levelsOf({ node, types, isData });
    if (levels === 'non-polynomial')
      throw refuse(
        where,
        `${label(node)} is no polynomial: replace it first (rewrite --poly, rewrite --passes replace-maxpool)`,
      );
    const factors = node.inputs.filter((_, i) => isData(i)).length;
    if (levels !== 'known' && levels > 0 && factors > 1)
      throw refuse(where, `${label(node)} multiplies two values, and is no polynomial of one of degree 4 at most`);
  }
}

async function denseMap(model: Model, types: Types, from: Value, to: Value, where: string) {
  const [ins, outs] = [features(types, from, where), features(types, to, where)];
  const name = label(to.producer as Node);
  if (from === to) {
    const weights = new Float32Array(ins * ins);
    for (let i = 0; i < ins; i++) weights[i * ins + i] = 1;
    return { name: 'identity', outs, ins, weights, bias: new Float64Array(outs) };
  }
  let part: Model;
  try {
    part = extract(model, [from.name], [to.name]);
  } catch {
    throw refuse(
      where,
      `'${to.name}' depends on more than '${from.name}': a branch goes around an activation, and only chains can be run`,
    );
  }
  if ((await setBatch.run(part, {})).applied.length === 0 && ins > 4 * ROWS)
    throw refuse(where, `the run of layers that ends in ${name} can't be computed for many inputs at once`);
  const free = typeof part.graph.inputs[0]?.value.declared?.shape?.[0] === 'string';
  const dims = types.get(from).shape?.slice(1) as number[];
  const session = await openSession(serialize(part, { inline: true }), { optimize: false, name: where });
  try {
    const run = async (rows: Float32Array, count: number) => {
      const array = arrayFromNumbers('float', [count, ...dims], rows);
      const result = (await session.run(new Map([[from.name, array]]))).get(to.name);
      if (!result) throw refuse(where, `${name} made nothing`);
      return arrayNumbers(result);
    };
    const bias = Float64Array.from(await run(new Float32Array(ins), 1));
    const weights = new Float32Array(outs * ins);
    const step = free ? ROWS : 1;
    for (let start = 0; start < ins; start += step) {
      const count = Math.min(step, ins - start);
      const rows = new Float32Array(count * ins);
      for (let i = 0; i < count; i++) rows[i * ins + start + i] = 1;
      const made = await run(rows, count);
      for (let i = 0; i < count; i++)
        for (let r = 0; r < outs; r++)
          weights[r * ins + start + i] = (made[i * outs + r] as number) - (bias[r] as number);
    }
    return { name, outs, ins, weights, bias };
  } finally {
    await session.release();
  }
}

type RawMap = Awaited<ReturnType<typeof denseMap>>;

/** Leading coefficients go back into rows, signs and constant terms forth into columns and biases (exact: no borders). */
function fold(raw: readonly RawMap[], polynomials: readonly ElementPolynomial[], types: Types) {
  const maps = raw.map((map) => ({
    ...map,
    rows: new Float64Array(map.outs).fill(1),
    columns: new Float64Array(map.ins).fill(1),
  }));
  const layers = polynomials.map(({ source, output, coefficients }, i): MonicLayer => {
    const shape = [1, ...((types.get(source).shape?.slice(1) ?? []) as number[])];
    const lists = coefficients.map((coefficient) => Float64Array.from(expand(coefficient, shape)));
    const degree = lists.length - 1;
    const leading = lists[degree] as Float64Array;
    if (leading.includes(0))
      throw refuse(output.name, 'its leading coefficient is 0 for some features, so it is not of one degree');
    const [before, after] = [maps[i] as (typeof maps)[number], maps[i + 1] as (typeof maps)[number]];
    for (const [j, c] of leading.entries()) {
      const root = Math.abs(c) ** (1 / degree);
      before.rows[j] = root;
      before.bias[j] = (before.bias[j] as number) * root;
      after.columns[j] = Math.sign(c);
      for (let k = 1; k < degree; k++) {
        const list = lists[k] as Float64Array;
        list[j] = (Math.sign(c) * (list[j] as number)) / root ** k;
      }
    }
    const constant = lists[0] as Float64Array;
    for (let r = 0; r < after.outs; r++) {
      let sum = after.bias[r] as number;
      // The columns' signs belong to u^d + …; the constant term is that of the polynomial itself.
      for (let c = 0; c < after.ins; c++) sum += (after.weights[r * after.ins + c] as number) * (constant[c] as number);
      after.bias[r] = sum;
    }
    return { name: output.name, shape: shape.slice(1), degree, coefficients: lists.slice(0, degree) };
  });
  const levels = maps.length + layers.reduce((sum, { degree }) => sum + Math.ceil(Math.log2(degree)), 0);
  return { maps, layers, levels };
}

/** What the program computes for one input, in float64 and in the clear. */
export function runClear({ maps, layers }: Pick<Program, 'maps' | 'layers'>, input: Float64Array): Float64Array {
  let x = input;
  for (const [i, map] of maps.entries()) {
    const y = applyMap(map, x);
    const layer = layers[i];
    x = layer ? y.map((u, j) => applyMonic(layer, u, j)) : y;
  }
  return x;
}

export function applyMap({ outs, ins, weights, rows, columns, bias }: DenseMap, x: Float64Array): Float64Array {
  const y = new Float64Array(outs);
  for (let r = 0; r < outs; r++) {
    let sum = 0;
    for (let c = 0; c < ins; c++) sum += (weights[r * ins + c] as number) * (columns[c] as number) * (x[c] as number);
    y[r] = sum * (rows[r] as number) + (bias[r] as number);
  }
  return y;
}

export function applyMonic({ degree, coefficients }: MonicLayer, u: number, feature: number): number {
  let value = u;
  for (let k = degree - 1; k > 0; k--) value = (value + (coefficients[k]?.[feature] as number)) * u;
  return value;
}
