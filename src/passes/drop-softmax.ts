/**
 * Before: y = Softmax(x), LogSoftmax(x) or Sigmoid(x), with y an output of the model, also through Identity, Reshape,
 *   Flatten, Squeeze or Unsqueeze
 * After: the output is x, the logits, under the same name
 * Conditions: everything that reads y is on the way to an output of the main graph, and x can take over the output's name
 *   (it is no input, initializer or output itself). Softmax and LogSoftmax normalise over the classes: not over the axis
 *   of the batch (from opset 13 on; before, axis 0 normalises over everything), and over the whole row where y is
 *   reshaped. Sigmoid: there are at least two classes.
 * Algebra: exp and the logistic function increase, and a row has one divisor, so that the class with the largest number
 *   stays the same. The numbers are others: they are no probabilities, and a threshold of 0.5 on those of Sigmoid is 0.
 */
import { intAttr, referenced } from '../graph/attributes.ts';
import { dropValueInfo, removeNode, replaceUses } from '../graph/edit.ts';
import type { Dim, Model, Node, Value } from '../graph/ir.ts';
import { inferTypes, type Types } from '../graph/shapes.ts';
import { opsetOf } from '../graph/walk.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';

export const dropSoftmax: Pass = {
  name: 'drop-softmax',
  summary: 'Remove Softmax, LogSoftmax or Sigmoid at an output: it then holds the logits, with the same largest class',
  exact: false,
  run(model) {
    const applied: Change[] = [];
    const skipped: Skip[] = [];
    let types: Types | undefined;
    for (const node of [...model.graph.nodes]) {
      const [output] = node.outputs;
      if (node.domain !== '' || !HEADS.has(node.op) || !output) continue;
      const way = wayToOutputs(model, output);
      if (way === null) continue;
      types ??= inferTypes(model);
      const site = siteName(node);
      const reason = refusal(model, node, way, types) ?? drop(node, output);
      if (reason !== null) skipped.push({ site, reason });
      else applied.push({ site, detail: `${node.op} removed: the output holds its input` });
    }
    return { pass: 'drop-softmax', applied, skipped };
  },
};

const HEADS: ReadonlySet<string> = new Set(['Softmax', 'LogSoftmax', 'Sigmoid']);
/** What moves no element out of its row. */
const MOVES: ReadonlySet<string> = new Set(['Identity', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze']);

interface Way {
  readonly reshaped: boolean;
  /** Readers that are not on the way. */
  readonly others: boolean;
}

/** How a value becomes an output of the model; null where it does not. */
function wayToOutputs(model: Model, value: Value): Way | null {
  let [reached, reshaped, others] = [false, false, false];
  for (const user of value.users.keys()) {
    if (user === model.graph) reached = true;
    else if ('op' in user && user.body === model.graph && user.domain === '' && MOVES.has(user.op)) {
      const [next] = user.outputs;
      const further = next && user.inputs[0] === value ? wayToOutputs(model, next) : null;
      reached ||= further !== null;
      reshaped ||= user.op !== 'Identity' || further?.reshaped === true;
      others ||= further === null || further.others;
    } else others = true;
  }
  return reached ? { reshaped, others } : null;
}

function refusal(model: Model, node: Node, way: Way, types: Types): string | null {
  const [input] = node.inputs;
  if (!input) return 'it has no input';
  if (way.others) return 'others than an output of the model read it';
  const { shape } = types.get(input);
  if (node.op === 'Sigmoid')
    return shape && row(shape).every((dim) => dim === 1) ? 'it has one class, whose threshold would move' : null;
  if (referenced(node).length > 0) return "its axis is given by the function's caller";
  return axisRefusal(shape, intAttr(node, 'axis'), opsetOf(model, node.body) >= 13, way.reshaped);
}

/** The dimensions of one input. */
const row = (shape: readonly Dim[]): readonly Dim[] => (shape.length > 1 ? shape.slice(1) : shape);

/** Whether a row's classes share one divisor: null if so. @param single one axis is normalised, not all from it on */
function axisRefusal(
  shape: readonly Dim[] | null,
  stated: number | undefined,
  single: boolean,
  reshaped: boolean,
): string | null {
  const axis = stated ?? (single ? -1 : 1);
  if (!shape) {
    if (reshaped) return 'its shape is unknown, and it is reshaped';
    return single && axis === 0 ? 'its shape is unknown, so axis 0 may be the batch' : null;
  }
  const at = axis < 0 ? axis + shape.length : axis;
  if (single && at === 0 && shape.length > 1) return 'it normalises over the batch';
  if (!reshaped) return null;
  const batch = shape.length > 1 ? 1 : 0;
  const apart = shape.filter((_, i) => i >= batch && (single ? i !== at : i < at));
  return apart.every((dim) => dim === 1) ? null : 'it normalises parts of a row, and is reshaped';
}

/** @returns why not, with nothing changed */
function drop(node: Node, output: Value): string | null {
  const [input] = node.inputs;
  if (!input) return 'it has no input';
  if (!replaceUses(output, input))
    return `it gives the output '${output.name}' its name, which '${input.name}' can't take over`;
  removeNode(node);
  dropValueInfo(node.body, (value) => value === output);
  return null;
}
