/** Rewrites of single nodes for the versions of operators: the vocabulary of `opset-changes.ts`. */
import {
  attribute,
  floatAttr,
  floatAttribute,
  floatsAttr,
  intAttr,
  intAttribute,
  intsAttr,
  intsAttribute,
  stringAttr,
  tensorAttribute,
} from '../graph/attributes.ts';
import { constantOf, constantScalar } from '../graph/constants.ts';
import { addConstant, pruneUnused, removeAttribute, setAttribute, setInput, truncateInputs } from '../graph/edit.ts';
import type { ElementType, Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import { makeTensor } from '../graph/tensor.ts';
import { clampInteger, wholeNumbers } from './integers.ts';
import { siteName } from './pass.ts';

/** A node under conversion. */
export interface OpsetSite {
  readonly model: Model;
  readonly node: Node;
  readonly types: Types;
}

/** Makes a node mean the same on the other side of a version change; says why where it can't. */
export type Convert = (site: OpsetSite) => string | null;

export const fine: Convert = () => null;
export const breaking =
  (why: string): Convert =>
  () =>
    why;

/** One after the other, up to the first that can't. */
export const all =
  (...steps: readonly Convert[]): Convert =>
  (site) => {
    for (const step of steps) {
      const reason = step(site);
      if (reason !== null) return reason;
    }
    return null;
  };

const elemOf = (site: OpsetSite, value: Value | null | undefined): ElementType | null =>
  value ? site.types.get(value).elem : null;
const rankOf = (site: OpsetSite, value: Value | null | undefined): number | null =>
  (value ? site.types.get(value).shape?.length : undefined) ?? null;

/** The older version does not know these element types. Looks at the first input and output unless told otherwise. */
export function without(added: readonly ElementType[], every = false): Convert {
  return (site) => {
    const { inputs, outputs } = site.node;
    const values = every ? [...inputs, ...outputs] : [inputs[0], outputs[0]];
    for (const value of values) {
      if (!value) continue;
      // Where the input comes from another domain, the zero point still tells its type.
      const twin = site.node.op === 'DequantizeLinear' && value === inputs[0] ? inputs[2] : null;
      const elem = elemOf(site, value) ?? elemOf(site, twin);
      if (elem === null) return `the element type of '${value.name}' is unknown, and the older version knows fewer`;
      if (added.includes(elem)) return `the older version takes no ${elem}`;
    }
    return null;
  };
}

/** An attribute that the older version lacks must say what the older version does. */
export function only(name: string, standard: number | string): Convert {
  return ({ node }) => {
    const attr = attribute(node, name);
    if (!attr) return null;
    const value =
      typeof standard === 'string'
        ? stringAttr(node, name)
        : attr.proto.ints?.length
          ? (intsAttr(node, name)?.find((entry) => entry !== standard) ?? standard)
          : intAttr(node, name);
    if (value !== standard) return `the older version has no ${name} = ${value}`;
    removeAttribute(node, name);
    return null;
  };
}

/** An attribute that the other version ignores or lacks, with no effect on the result. */
export const drop =
  (name: string): Convert =>
  ({ node }) => {
    removeAttribute(node, name);
    return null;
  };

export const absent =
  (name: string): Convert =>
  ({ node }) =>
    attribute(node, name) ? `it has the attribute ${name}` : null;

/** Only the first output may be there at all: in some operators the others turn training on. */
export const oneOutput: Convert = ({ node }) =>
  node.outputs.slice(1).some((value) => value) ? 'it returns statistics, as in training' : null;

/** Nobody may read these outputs. */
export const unread =
  (...indices: readonly number[]): Convert =>
  ({ node }) =>
    indices.some((index) => node.outputs[index]?.users.size) ? 'an output that means something else is read' : null;

/** At most so many inputs may be given. */
export const inputsUpTo =
  (count: number): Convert =>
  ({ node }) =>
    node.inputs.slice(count).some((value) => value) ? `it has more than ${count} inputs` : null;

/** All of these inputs must be given. */
export const needs =
  (...indices: readonly number[]): Convert =>
  ({ node }) =>
    indices.every((index) => node.inputs[index]) ? null : 'the older version needs an input that is left out';

/** A setting that means something else on the other side. */
export const avoids =
  (name: string, refused: readonly string[]): Convert =>
  ({ node }) => {
    const value = stringAttr(node, name);
    return value !== undefined && refused.includes(value) ? `${name} = ${value} means something else` : null;
  };

/** Below opset 11 axes are counted from the front, of the input or of the output. */
export function frontAxes(name: string, of: 'input' | 'output' = 'input'): Convert {
  return (site) => {
    const { node } = site;
    const attr = attribute(node, name);
    if (!attr) return null;
    const single = !attr.proto.ints?.length;
    const axes = single ? [intAttr(node, name) ?? 0] : (intsAttr(node, name) ?? []);
    if (axes.every((axis) => axis >= 0)) return null;
    const rank = rankOf(site, of === 'input' ? node.inputs[0] : node.outputs[0]);
    if (rank === null) return `${name} is counted from the end, and the rank is unknown`;
    const front = axes.map((axis) => (axis < 0 ? axis + rank : axis));
    setAttribute(node, single ? intAttribute(name, front[0] ?? 0) : intsAttribute(name, front));
    return null;
  };
}

function constant(
  site: OpsetSite,
  what: string,
  elem: ElementType,
  dims: readonly number[],
  values: readonly number[],
) {
  const { model, node } = site;
  return addConstant(model, node.body, makeTensor(`${siteName(node)}/${what}`, elem, dims, values), node);
}

/** Integers that were an attribute become a constant input. */
export function intsToInput(name: string, index: number, single = false): Convert {
  return (site) => {
    const { node } = site;
    const values = single ? [intAttr(node, name)].filter((value) => value !== undefined) : intsAttr(node, name);
    // An empty list says the same as none.
    if (values?.length) {
      const clamped = values.map(clampInteger);
      setInput(node, index, constant(site, name, 'int64', [clamped.length], clamped));
    }
    removeAttribute(node, name);
    return null;
  };
}

/** A constant input becomes an attribute of integers. Inputs behind it must be gone already. */
export function inputToInts(name: string, index: number, single = false): Convert {
  return ({ model, node }) => {
    const value = node.inputs[index];
    if (value) {
      const tensor = constantOf(model, value);
      if (!tensor) return `its ${name} are computed, and the older version has them as an attribute`;
      const numbers = wholeNumbers(tensor);
      if (numbers.length === 0) return `its ${name} are an empty list, which the older version reads in another way`;
      setAttribute(node, single ? intAttribute(name, numbers[0] ?? 0) : intsAttribute(name, numbers));
    }
    dropInputs(node, index);
    return null;
  };
}

function dropInputs(node: Node, length: number): void {
  const gone = node.inputs.slice(length);
  truncateInputs(node, length);
  pruneUnused(gone);
}

/** Largest float, which Clip before opset 11 takes for the bound that is left out. */
const FLOAT_MAX = 3.4028234663852886e38;

export const clipToInputs: Convert = (site) => {
  const { node } = site;
  const elem = elemOf(site, node.inputs[0]);
  if (elem === null) return 'the element type of its input is unknown';
  for (const [index, name, otherwise] of [
    [1, 'min', -FLOAT_MAX],
    [2, 'max', FLOAT_MAX],
  ] as const) {
    // In double the default is a bound like any other.
    const bound = floatAttr(node, name) ?? (elem === 'double' ? otherwise : undefined);
    if (bound !== undefined) setInput(node, index, constant(site, name, elem, [], [bound]));
    removeAttribute(node, name);
  }
  return null;
};

export const clipToAttributes: Convert = (site) => {
  const { model, node } = site;
  const elem = elemOf(site, node.inputs[0]);
  if (elem !== 'float') return `Clip of ${elem ?? 'unknown elements'} has other bounds before opset 11`;
  for (const [index, name] of [
    [1, 'min'],
    [2, 'max'],
  ] as const) {
    const value = node.inputs[index];
    if (!value) continue;
    const bound = constantScalar(model, value);
    if (bound === null) return `its ${name} is computed, and the older version has it as an attribute`;
    setAttribute(node, floatAttribute(name, bound));
  }
  dropInputs(node, 1);
  return null;
};

export const dropoutToInputs: Convert = (site) => {
  const ratio = floatAttr(site.node, 'ratio');
  if (ratio !== undefined) setInput(site.node, 1, constant(site, 'ratio', 'float', [], [ratio]));
  removeAttribute(site.node, 'ratio');
  return null;
};

export const dropoutToAttributes: Convert = ({ model, node }) => {
  const [, ratio, training] = node.inputs;
  if (training && constantScalar(model, training) !== 0) return 'its training_mode is not constantly false';
  const value = ratio ? constantScalar(model, ratio) : undefined;
  // Nothing is dropped outside of training, so a computed ratio may as well be the default one.
  if (typeof value === 'number') setAttribute(node, floatAttribute('ratio', value));
  removeAttribute(node, 'seed');
  dropInputs(node, 1);
  return null;
};

/**
 * Softmax and its like: before opset 13 all axes from `axis` on are normalised together, afterwards `axis` alone. The
 * same where all of them but one have size 1.
 */
function oneAxis(before: number, pick: 'up' | 'down'): Convert {
  return (site) => {
    const { node } = site;
    const shape = node.inputs[0] ? site.types.get(node.inputs[0]).shape : null;
    if (!shape) return 'the rank of its input is unknown';
    const given = intAttr(node, 'axis') ?? before;
    const axis = given < 0 ? given + shape.length : given;
    if (axis < 0 || axis >= shape.length) return 'its input lacks the axis';
    const wide = [...shape.keys()].filter((at) => at >= axis && shape[at] !== 1);
    const [at = shape.length - 1, ...more] = wide;
    if (more.length > 0 || (pick === 'down' && at !== axis && wide.length > 0))
      return `axes ${axis} to ${shape.length - 1} are normalised together before opset 13, and one by one from it on`;
    setAttribute(node, intAttribute('axis', pick === 'up' ? at : axis));
    return null;
  };
}
export const softmaxUp = oneAxis(1, 'up');
export const softmaxDown = oneAxis(-1, 'down');

export const splitToCount: Convert = ({ node }) => {
  if (!node.inputs[1]) setAttribute(node, intAttribute('num_outputs', node.outputs.length));
  return null;
};

export const splitFromCount: Convert = (site) => {
  const { node } = site;
  const count = intAttr(node, 'num_outputs');
  if (count === undefined) return null;
  const shape = node.inputs[0] ? site.types.get(node.inputs[0]).shape : null;
  const axis = intAttr(node, 'axis') ?? 0;
  const size = shape?.[axis < 0 ? axis + shape.length : axis];
  if (count !== node.outputs.length || typeof size !== 'number' || size % count !== 0)
    return 'the older version only splits into equal parts';
  removeAttribute(node, 'num_outputs');
  return null;
};

/** With it a reduction over no axes does nothing, which the older version can't say. */
export const noNoop: Convert = ({ node }) => {
  if (intAttr(node, 'noop_with_empty_axes') && !node.inputs[1]) return 'the older version reduces over all axes here';
  removeAttribute(node, 'noop_with_empty_axes');
  return null;
};

export const padToInputs: Convert = (site) => {
  const { node } = site;
  const pads = intsAttr(node, 'pads');
  const elem = elemOf(site, node.inputs[0]);
  const value = floatAttr(node, 'value') ?? 0;
  if (!pads) return 'it has no pads';
  if (value !== 0 && elem === null) return 'the element type of its input is unknown';
  setInput(node, 1, constant(site, 'pads', 'int64', [pads.length], pads));
  if (value !== 0 && elem) setInput(node, 2, constant(site, 'value', elem, [], [value]));
  removeAttribute(node, 'pads');
  removeAttribute(node, 'value');
  return null;
};

export const padToAttributes: Convert = ({ model, node }) => {
  const pads = constantOf(model, node.inputs[1]);
  const value = node.inputs[2] ? constantScalar(model, node.inputs[2]) : 0;
  if (!pads || value === null) return 'its pads are computed, and the older version has them as attributes';
  setAttribute(node, intsAttribute('pads', wholeNumbers(pads)));
  if (value !== 0) setAttribute(node, floatAttribute('value', value));
  dropInputs(node, 1);
  return null;
};

export const sliceToAttributes: Convert = ({ model, node }) => {
  const [, starts, ends, axes, steps] = node.inputs.map((value) => constantOf(model, value));
  if (!starts || !ends || (node.inputs[3] && !axes))
    return 'its ranges are computed, and the older version has them as attributes';
  if (node.inputs[4] && !(steps && wholeNumbers(steps).every((step) => step === 1)))
    return 'the older version has no steps';
  setAttribute(node, intsAttribute('starts', wholeNumbers(starts)));
  setAttribute(node, intsAttribute('ends', wholeNumbers(ends)));
  if (axes) setAttribute(node, intsAttribute('axes', wholeNumbers(axes)));
  dropInputs(node, 1);
  return null;
};

/** Axes that are an input must be counted from the front, since only attributes are rewritten here. */
export const frontAxesInput =
  (index: number): Convert =>
  ({ model, node }) => {
    if (!node.inputs[index]) return null;
    const axes = constantOf(model, node.inputs[index]);
    return axes && wholeNumbers(axes).every((axis) => axis >= 0) ? null : 'its axes may be counted from the end';
  };

/** Constants that are written as plain attributes become tensors. */
export const constantToTensor: Convert = ({ model, node }) => {
  if (attribute(node, 'value')) return null;
  const tensor = constantOf(model, node.outputs[0]);
  if (!tensor) return 'the older version knows tensors only';
  for (const { name } of node.attributes) removeAttribute(node, name);
  setAttribute(node, tensorAttribute('value', tensor));
  return null;
};

export const scalesToInput: Convert = (site) => {
  const scales = floatsAttr(site.node, 'scales');
  if (!scales) return 'it has no scales';
  setInput(site.node, 1, constant(site, 'scales', 'float', [scales.length], scales));
  removeAttribute(site.node, 'scales');
  return null;
};

/** Before opset 13 there is one scale for the whole tensor. */
export const scalarScale: Convert = (site) => {
  const dims = site.node.inputs[1] ? site.types.get(site.node.inputs[1]).shape : null;
  if (dims?.length !== 0) return 'the older version has a single scale only';
  removeAttribute(site.node, 'axis');
  return null;
};

/** The inputs have element types of their own in the newer version. */
export const sameTypes: Convert = (site) => {
  const [first, ...others] = site.node.inputs.filter((value) => value !== null).map((value) => elemOf(site, value));
  return first && others.every((elem) => elem === first)
    ? null
    : 'the older version needs one element type for all inputs';
};

/** Without broadcasting all operands have one shape. */
export const sameShapes: Convert = (site) => {
  const shapes = site.node.inputs.map((value) => (value && site.types.get(value).shape) ?? [null]);
  const equal = shapes.every((shape) => !shape.includes(null) && `${shape}` === `${shapes[0]}`);
  return equal ? null : 'the older version does not broadcast';
};

export const resizeInputs: Convert = ({ node }) =>
  node.inputs[1] && node.inputs[2] ? null : 'the older version needs roi and scales';

/** allowzero only matters where there is a zero. */
export const noZeros: Convert = ({ model, node }) => {
  const target = constantOf(model, node.inputs[1]);
  const zeros = !target || wholeNumbers(target).includes(0);
  if (intAttr(node, 'allowzero') && zeros) return 'the older version has no allowzero = 1';
  removeAttribute(node, 'allowzero');
  return null;
};
