/**
 * Before:  y = activation(x)
 * After:   y = activation(BatchNormalization(x)) that leaves x as it is: scale and bias are the deviation and the mean of a
 *          sample, and so are the running statistics. For networks that were exported with theirs folded away.
 */
import { SisyphusError } from '../errors.ts';
import { floatAttribute } from '../graph/attributes.ts';
import { addConstant, addNode, setInput } from '../graph/edit.ts';
import type { Model, Value } from '../graph/ir.ts';
import { makeTensor } from '../graph/tensor.ts';
import type { ActivationSite } from './activation-sites.ts';

const EPSILON = 1e-5;

/**
 * @param sample values of x, [N, C, ...spatial]
 * @throws SisyphusError `unsupported` where they have no channels
 */
export function insertBatchnorm(
  model: Model,
  site: ActivationSite,
  sample: { readonly dims: readonly number[]; readonly data: ArrayLike<unknown> },
): void {
  const [rows = 0, channels, ...spatial] = sample.dims;
  if (channels === undefined || site.elem !== 'float')
    throw new SisyphusError('unsupported', `'${site.name}': its input is no float32 tensor with channels`);
  const size = spatial.reduce((product, dim) => product * dim, 1);
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  for (let c = 0; c < channels; c++) {
    const each = (add: (x: number) => number): number => {
      let sum = 0;
      for (let row = 0; row < rows; row++)
        for (let i = 0; i < size; i++) sum += add(sample.data[(row * channels + c) * size + i] as number);
      return sum / (rows * size);
    };
    const centre = each((x) => x);
    mean[c] = centre;
    variance[c] = each((x) => (x - centre) ** 2);
  }
  const { body } = site.node;
  const name = `${site.name}/norm`;
  const constant = (what: string, values: Float64Array) =>
    addConstant(model, body, makeTensor(`${name}/${what}`, 'float', [channels], values), site.node);
  const inputs = [
    site.input,
    constant(
      'scale',
      variance.map((v) => Math.sqrt(v + EPSILON)),
    ),
    constant('bias', mean),
    constant('mean', mean),
    constant('var', variance),
  ];
  const attributes = [floatAttribute('epsilon', EPSILON)];
  const node = addNode(model, body, { op: 'BatchNormalization', name, inputs, attributes }, site.node);
  const [output] = node.outputs as [Value];
  for (const [index, value] of site.node.inputs.entries()) if (value === site.input) setInput(site.node, index, output);
}
