/**
 * Before: y = f(x)
 * After:  y = f(PolyNorm(x)): each sample brought to the variance and mean of a typical one, by additions and products only
 * Conditions: x is float with a batch axis and others; typical mean E0 and variance V0 of a sample are known and V0 > 0
 * Algebra: with E, V of the sample's own values and t = mu V / V0, g(t) = a (t - b)² + c touches 1/sqrt(t) at t = mu in value
 *   and slope; x' = (x - E) g(t) sqrt(mu) + E0, which is x for a sample of mean E0 and variance V0. Excesses of variance
 *   below 7 V0 shrink. Source: ULD-Net (Xie et al., ICLR 2026), with k = 4, mu = 2; E0 and V0 put back, so that a trained
 *   network stays nearly the same.
 */
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import { addConstant, addNode, setInput } from '../graph/edit.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import { makeTensor } from '../graph/tensor.ts';
import { opsetOf } from '../graph/walk.ts';

const MU = 2;
const K = 4;
const A = 1 / (4 * (K - 1) * MU ** 2.5);
const B = K * MU;
const C = (5 - K) / (4 * Math.sqrt(MU));
/** At which the axes of ReduceMean became an input. */
const AXES_AS_INPUT = 18;

/** Of a typical sample: means over samples of their means and variances. */
export interface Typical {
  readonly mean: number;
  readonly variance: number;
}

/** @param data [rows, ...row] */
export function typicalSample(dims: readonly number[], data: ArrayLike<number>): Typical {
  const rows = dims[0] ?? 1;
  const size = data.length / rows;
  let [mean, variance] = [0, 0];
  for (let row = 0; row < rows; row++) {
    let [sum, squares] = [0, 0];
    for (let i = row * size; i < (row + 1) * size; i++) {
      const value = data[i] as number;
      sum += value;
      squares += value * value;
    }
    mean += sum / size / rows;
    variance += Math.max(0, squares / size - (sum / size) ** 2) / rows;
  }
  return { mean, variance };
}

/**
 * @param readers the nodes of the layer that read its input, in order
 * @returns why nothing was done, or null
 */
export function insertPolynorm(
  model: Model,
  site: { readonly name: string; readonly input: Value; readonly rank: number },
  readers: readonly Node[],
  { mean, variance }: Typical,
): string | null {
  const { input, rank } = site;
  const [before] = readers;
  if (!before || rank < 2) return 'its input has no axes besides the batch';
  if (!(variance > 0 && Number.isFinite(variance))) return 'its inputs do not vary within a sample';
  const name = `${site.name}/polynorm`;
  const { body } = before;
  const scalar = (what: string, value: number) =>
    addConstant(model, body, makeTensor(`${name}/${what}`, 'float', [], [value]), before);
  const node = (op: string, a: Value, b: Value): Value =>
    addNode(model, body, { op, name: `${name}/${op.toLowerCase()}`, inputs: [a, b] }, before).outputs[0] as Value;
  const axes = Array.from({ length: rank - 1 }, (_, i) => i + 1);
  const average = (x: Value): Value => {
    const asInput = opsetOf(model, body) >= AXES_AS_INPUT;
    const list = () => addConstant(model, body, makeTensor(`${name}/axes`, 'int64', [axes.length], axes), before);
    const spec = {
      op: 'ReduceMean',
      name: `${name}/mean`,
      inputs: asInput ? [x, list()] : [x],
      attributes: [...(asInput ? [] : [intsAttribute('axes', axes)]), intAttribute('keepdims', 1)],
    };
    return addNode(model, body, spec, before).outputs[0] as Value;
  };
  const centred = node('Sub', input, average(input));
  const own = average(node('Mul', centred, centred));
  const away = node('Add', node('Mul', own, scalar('rate', MU / variance)), scalar('b', -B));
  const root = Math.sqrt(MU);
  const gain = node('Add', node('Mul', node('Mul', away, away), scalar('a', A * root)), scalar('c', C * root));
  const result = node('Add', node('Mul', centred, gain), scalar('typical', mean));
  for (const reader of readers)
    for (const [index, value] of reader.inputs.entries()) if (value === input) setInput(reader, index, result);
  return null;
}
