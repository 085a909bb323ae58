/**
 * Operators of ONNX as differentiable functions of tensors, by name.
 * Source: the operators of the ONNX standard (onnx.ai/onnx/operators), opsets 7 to 23.
 */
import type { Node } from '../graph/ir.ts';
import { DOMAIN, TRAINABLE } from '../passes/insert-amm.ts';
import { approxMinMaxNorm } from './lower-amm.ts';
import { ARRANGE_LOWERINGS } from './lower-arrange.ts';
import { ELEMENTWISE_LOWERINGS } from './lower-elementwise.ts';
import { LAYER_LOWERINGS } from './lower-layers.ts';
import type { Lowering } from './lowering.ts';

const LOWERINGS: ReadonlyMap<string, Lowering> = new Map(
  Object.entries({
    ...ELEMENTWISE_LOWERINGS,
    ...ARRANGE_LOWERINGS,
    ...LAYER_LOWERINGS,
    [`${DOMAIN}::${TRAINABLE}`]: approxMinMaxNorm,
  }),
);

export const loweringOf = ({ domain, op }: Node): Lowering | undefined =>
  LOWERINGS.get(domain === '' ? op : `${domain}::${op}`);
