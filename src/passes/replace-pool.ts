/**
 * Before: AveragePool with windows that compilers miscompute: 4x4 by 4, padding that does not count, odd sizes
 * After:  2x2 by 2 twice; the pool with padding that counts, times a border constant; a depthwise convolution
 * Conditions: see each; the sizes are known (`windows.ts`)
 * Algebra: a mean of means over equal parts; mean over n of k^2 pixels = (k^2 / n) (sum / k^2); sum / k^2 is a convolution
 */
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import { addConstant, addNode, removeNode, setAttribute } from '../graph/edit.ts';
import type { ElementType, Model, Node, Value } from '../graph/ir.ts';
import { makeTensor } from '../graph/tensor.ts';
import { type NodeOutcome, nodePass } from './node-pass.ts';
import { siteName } from './pass.ts';
import { countsPadding, isGlobal, type Windows, windowsOf } from './windows.ts';

/** AveragePool in which padding does not count becomes one in which it does. */
export const replacePaddedPool = nodePass(
  {
    name: 'replace-padded-pool',
    summary: 'Let the padding of AveragePool count, and multiply the borders by what that takes away',
    exact: true,
  },
  ['AveragePool'],
  ({ model, types }, node): NodeOutcome => {
    const windows = windowsOf(model, node, types());
    if (typeof windows === 'string') return { reason: windows };
    if (windows.pads.every((pad) => pad === 0) || countsPadding(node)) return null;
    const [y] = node.outputs;
    const elem = y && types().get(y).elem;
    if (!y || !elem) return { reason: 'its element type is not known' };
    const shares = borderShares(windows);
    const [height, width] = windows.output;
    const channels = windows.input[1];
    const values = Float64Array.from(
      { length: channels * height * width },
      (_, i) => shares[i % (height * width)] as number,
    );
    const name = siteName(node);
    const next = removeNode(node);
    setAttribute(node, intAttribute('count_include_pad', 1));
    const pooled = addNode(
      model,
      node.body,
      { op: 'AveragePool', name, inputs: node.inputs, attributes: node.attributes },
      next,
    );
    const border = addConstant(
      model,
      node.body,
      makeTensor(`${name}/border`, elem, [1, channels, height, width], values),
      next,
    );
    const inputs = [pooled.outputs[0] as Value, border];
    addNode(model, node.body, { op: 'Mul', name: `${name}/mul`, inputs, outputs: [y] }, next);
    return { detail: 'padding counts, and the borders are multiplied' };
  },
);

/** For each position, the size of the window by how much of it is inside. */
function borderShares({ kernel, strides, pads, input, output }: Windows): number[] {
  const inside = (axis: 0 | 1, at: number) => {
    const start = at * strides[axis] - pads[axis];
    const [low, high] = [Math.max(0, start), Math.min(input[axis + 2] as number, start + kernel[axis])];
    return high - low;
  };
  const size = kernel[0] * kernel[1];
  return Array.from({ length: output[0] * output[1] }, (_, i) => {
    return size / (inside(0, Math.floor(i / output[1])) * inside(1, i % output[1]));
  });
}

/** 2x2 by 2 is what all compilers take; 3x3 by 2 with padding that counts as well, on even square maps. */
function isPlain({ kernel, strides, pads, input }: Windows): boolean {
  const square = input[2] === input[3] && input[2] % 2 === 0;
  const [k, s] = [`${kernel}`, `${strides}`];
  return (
    square && s === '2,2' && ((k === '2,2' && `${pads}` === '0,0,0,0') || (k === '3,3' && `${pads}` === '1,1,1,1'))
  );
}

/** AveragePool with other windows than 2x2 by 2 becomes two of those, or a depthwise convolution. */
export const replacePool = nodePass(
  {
    name: 'replace-pool',
    summary: 'Write AveragePool as pools of 2x2 by 2, or as a depthwise convolution',
    exact: true,
  },
  ['AveragePool'],
  ({ model, types }, node): NodeOutcome => {
    const windows = windowsOf(model, node, types());
    if (typeof windows === 'string') return { reason: windows };
    if (isPlain(windows) || isGlobal(windows)) return null;
    const [x] = node.inputs;
    const [y] = node.outputs;
    const elem = y && types().get(y).elem;
    if (!x || !y || !elem) return { reason: 'its element type is not known' };
    const { kernel, strides, pads, input, dilations, output } = windows;
    if (dilations.some((d) => d !== 1)) return { reason: 'it is dilated' };
    const fits = [0, 1].every((axis) => {
      const size = (input[axis + 2] as number) + (pads[axis] as number) + (pads[axis + 2] as number);
      return Math.floor((size - (kernel[axis] as number)) / (strides[axis] as number)) + 1 === output[axis];
    });
    if (!fits) return { reason: 'its last windows reach beyond the padding (ceil_mode)' };
    if (
      `${kernel}` === '4,4' &&
      `${strides}` === '4,4' &&
      `${pads}` === '0,0,0,0' &&
      input[2] === input[3] &&
      input[2] % 4 === 0
    )
      return halves(model, node, x, y);
    if (pads.some((pad) => pad > 0) && !countsPadding(node)) return { reason: 'its padding does not count' };
    return convolve(model, node, windows, elem);
  },
);

function halves(model: Model, node: Node, x: Value, y: Value): NodeOutcome {
  const name = siteName(node);
  const attributes = [
    intsAttribute('kernel_shape', [2, 2]),
    intsAttribute('strides', [2, 2]),
    intsAttribute('pads', [0, 0, 0, 0]),
  ];
  const next = removeNode(node);
  const first = addNode(model, node.body, { op: 'AveragePool', name, inputs: [x], attributes }, next);
  const inputs = [first.outputs[0] as Value];
  addNode(model, node.body, { op: 'AveragePool', name, inputs, attributes, outputs: [y] }, next);
  return { detail: 'two pools of 2x2' };
}

function convolve(model: Model, node: Node, { kernel, strides, pads, input }: Windows, elem: ElementType): NodeOutcome {
  const channels = input[1];
  const size = kernel[0] * kernel[1];
  const name = siteName(node);
  const output = node.outputs[0] as Value;
  const next = removeNode(node);
  const constant = (what: string, dims: number[], value: number) => {
    const count = dims.reduce((a, b) => a * b, 1);
    return addConstant(
      model,
      node.body,
      makeTensor(`${name}/${what}`, elem, dims, new Float64Array(count).fill(value)),
      next,
    );
  };
  const inputs = [
    node.inputs[0] ?? null,
    constant('weight', [channels, 1, ...kernel], 1 / size),
    constant('bias', [channels], 0),
  ];
  const attributes = [
    intsAttribute('kernel_shape', kernel),
    intsAttribute('strides', strides),
    intsAttribute('pads', pads),
    intsAttribute('dilations', [1, 1]),
    intAttribute('group', channels),
  ];
  addNode(model, node.body, { op: 'Conv', name, inputs, attributes, outputs: [output] }, next);
  return { detail: `a depthwise convolution ${kernel.join('x')}` };
}
