/**
 * Before: y = activation(x)
 * After:  y = BN1(x) + BN2((x² - 1) / sqrt(2)): Hermite polynomials of degree 1 and 2, each with a batch normalisation of its
 *         own (AESPA, Park et al. 2022, arXiv 2201.06699; its constants are in the scales and biases, and each basis has a
 *         scale of its own where AESPA's share one). `settleHermite` makes one quadratic by channel of it.
 * Conditions: float input with channels (axis 1)
 * Algebra: with scale g, bias b, mean m and variance v of each, h = sqrt(v + e):
 *   c2 = g2 / (sqrt(2) h2), c1 = g1 / h1, c0 = b1 + b2 - g1 m1 / h1 - g2 (1 / sqrt(2) + m2) / h2
 */
import { floatAttr, floatAttribute } from '../graph/attributes.ts';
import { constantNumbers } from '../graph/constants.ts';
import { addConstant, addNode, pruneUnused, removeNode } from '../graph/edit.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { makeTensor } from '../graph/tensor.ts';
import { plan } from '../poly/plan.ts';
import { powers } from '../poly/polynomial.ts';
import type { ActivationSite } from './activation-sites.ts';
import { emitPolynomial } from './emit-polynomial.ts';

const EPSILON = 1e-5;

/** Starts as the least-squares quadratic of the activation, by channel. @param sample [N, C, ...spatial] of x */
export function insertHermite(
  model: Model,
  site: ActivationSite,
  sample: { readonly dims: readonly number[]; readonly data: ArrayLike<number> },
): string | null {
  const [rows = 0, channels, ...spatial] = sample.dims;
  if (channels === undefined || site.elem !== 'float') return 'its input is no float32 tensor with channels';
  const size = spatial.reduce((a, b) => a * b, 1);
  const stats = Array.from({ length: channels }, (_, c) => {
    const f = (site.activations[c] ?? site.activations[0])?.f ?? Math.abs;
    return channelStart(sample.data, { rows, channels, size }, c, f);
  });
  const { node, output, input } = site;
  const { body } = node;
  const next = removeNode(node);
  const name = `${site.name}/hermite`;
  const constant = (what: string, dims: readonly number[], values: ArrayLike<number>) =>
    addConstant(model, body, makeTensor(`${name}/${what}`, 'float', dims, values), next);
  const norm = (which: 'first' | 'second', x: Value): Value => {
    const list = (key: 'scale' | 'bias' | 'mean' | 'variance') =>
      constant(
        `${which}/${key}`,
        [channels],
        stats.map((each) => each[which][key]),
      );
    const inputs = [x, list('scale'), list('bias'), list('mean'), list('variance')];
    const spec = {
      op: 'BatchNormalization',
      name: `${name}/${which}`,
      inputs,
      attributes: [floatAttribute('epsilon', EPSILON)],
    };
    return addNode(model, body, spec, next).outputs[0] as Value;
  };
  const step = (op: string, what: string, a: Value, b: Value, outputs?: Value[]): Value =>
    addNode(model, body, { op, name: `${name}/${what}`, inputs: [a, b], ...(outputs && { outputs }) }, next)
      .outputs[0] as Value;
  const square = step('Mul', 'square', input, input);
  const moved = step('Add', 'moved', square, constant('one', [], [-1]));
  const basis = step('Mul', 'basis', moved, constant('root', [], [Math.SQRT1_2]));
  step('Add', 'sum', norm('first', input), norm('second', basis), [output]);
  pruneUnused(node.inputs);
  return null;
}

/** Scales and statistics of a channel with which both together are the least-squares quadratic of f. */
function channelStart(
  data: ArrayLike<number>,
  { rows, channels, size }: { rows: number; channels: number; size: number },
  channel: number,
  f: (x: number) => number,
) {
  const count = rows * size;
  const each = (visit: (x: number) => void) => {
    for (let row = 0; row < rows; row++)
      for (let i = 0; i < size; i++) visit(data[(row * channels + channel) * size + i] as number);
  };
  // Regression on the two bases, which after normalisation have mean 0 and variance 1, but are not orthogonal.
  const h2 = (x: number) => (x * x - 1) * Math.SQRT1_2;
  const [mean1, mean2, meanY] = [(x: number) => x, h2, f].map((term) => {
    let sum = 0;
    each((x) => {
      sum += term(x);
    });
    return sum / count;
  }) as [number, number, number];
  let [v1, v2, v12, y1, y2] = [0, 0, 0, 0, 0];
  each((x) => {
    const [a, b, y] = [x - mean1, h2(x) - mean2, f(x) - meanY];
    v1 += (a * a) / count;
    v2 += (b * b) / count;
    v12 += (a * b) / count;
    y1 += (a * y) / count;
    y2 += (b * y) / count;
  });
  const [d1, d2] = [Math.sqrt(v1 + EPSILON), Math.sqrt(v2 + EPSILON)];
  const r = v12 / (d1 * d2);
  const determinant = Math.max(1e-6, 1 - r * r);
  const [p1, p2] = [y1 / d1, y2 / d2];
  return {
    first: { scale: (p1 - r * p2) / determinant, bias: meanY, mean: mean1, variance: v1 },
    second: { scale: (p2 - r * p1) / determinant, bias: 0, mean: mean2, variance: v2 },
  };
}

/** Makes polynomials by channel of what `insertHermite` put there and training moved, in place. @returns the sites */
export function settleHermite(model: Model): string[] {
  const settled: string[] = [];
  for (const node of [...model.graph.nodes]) {
    const site = /^(.+)\/hermite\/sum$/s.exec(node.name)?.[1];
    const [first, second] = node.inputs.map((value) => value?.producer);
    const input = first?.inputs[0];
    const output = node.outputs[0];
    if (site === undefined || !first || !second || !input || !output) continue;
    const [a, b] = [read(model, first), read(model, second)];
    const rank = inferTypes(model).get(input).shape?.length ?? 2;
    const list = a.scale.map((_, c) => {
      const [g1, g2] = [
        (a.scale[c] as number) / (a.deviation[c] as number),
        (b.scale[c] as number) / (b.deviation[c] as number),
      ];
      const constant =
        (a.bias[c] as number) +
        (b.bias[c] as number) -
        g1 * (a.mean[c] as number) -
        g2 * (Math.SQRT1_2 + (b.mean[c] as number));
      return powers(constant, g1, g2 * Math.SQRT1_2);
    });
    const before = removeNode(node);
    const shape = list.length > 1 ? [list.length, ...Array<number>(rank - 2).fill(1)] : [];
    const steps = plan(list);
    emitPolynomial(
      model,
      { body: node.body, before, name: `${site}/poly`, elem: 'float' },
      { shape, plan: steps },
      input,
      output,
    );
    pruneUnused(node.inputs);
    settled.push(site);
  }
  return settled;
}

function read(model: Model, node: Node) {
  const [scale = [], bias = [], mean = [], variance = []] = node.inputs
    .slice(1)
    .map((value) => [...(constantNumbers(model, value, Number.POSITIVE_INFINITY) ?? [])]);
  const epsilon = Math.fround(floatAttr(node, 'epsilon') ?? EPSILON);
  return { scale, bias, mean, deviation: variance.map((v) => Math.sqrt(v + epsilon)) };
}
