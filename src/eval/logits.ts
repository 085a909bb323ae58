/** Where a classifier's logits are. */
import { intAttr } from '../graph/attributes.ts';
import type { Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';

/** The first output, or what a last Softmax or LogSoftmax over its classes is computed of. */
export function logitsOf(output: Value, types: Types): Value {
  let value = output;
  for (let node = value.producer; node; node = value.producer) {
    const [read] = node.inputs;
    const rank = types.get(value).shape?.length;
    const axis = node.op.endsWith('Softmax') ? (intAttr(node, 'axis') ?? 1) : 1;
    const over =
      node.op === 'Softmax' || node.op === 'LogSoftmax'
        ? rank === 2 && (axis === 1 || axis === -1)
        : node.op === 'Identity';
    if (!over || node.domain !== '' || !read) break;
    value = read;
  }
  return value;
}
