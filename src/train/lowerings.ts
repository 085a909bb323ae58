/**
 * Operators of ONNX as differentiable functions of tensors, by name.
 * Source: the operators of the ONNX standard (onnx.ai/onnx/operators), opsets 7 to 23.
 */
import type { Node } from '../graph/ir.ts';
import { ARRANGE_LOWERINGS } from './lower-arrange.ts';
import { ELEMENTWISE_LOWERINGS } from './lower-elementwise.ts';
import { LAYER_LOWERINGS } from './lower-layers.ts';
import type { Lowering } from './lowering.ts';

const LOWERINGS: ReadonlyMap<string, Lowering> = new Map(
  Object.entries({ ...ELEMENTWISE_LOWERINGS, ...ARRANGE_LOWERINGS, ...LAYER_LOWERINGS }),
);

export const loweringOf = ({ domain, op }: Node): Lowering | undefined =>
  domain === '' ? LOWERINGS.get(op) : undefined;
