/**
 * Before: y = Conv(Pad(x)), Pad with zeros on the two spatial axes
 * After:  y = Conv(x) with larger pads
 * Conditions: nobody else reads Pad's output; the pads and the number are constants, none is negative; the convolution's
 *   shapes are known (`windows.ts`)
 * Algebra: none, a convolution's own padding is zeros too
 */
import { intsAttr, intsAttribute, stringAttr } from '../graph/attributes.ts';
import { constantNumbers, constantScalar } from '../graph/constants.ts';
import { dropValueInfo, pruneUnused, removeAttribute, removeNode, replaceUses, setAttribute } from '../graph/edit.ts';
import type { Model, Node } from '../graph/ir.ts';
import { label } from '../graph/verify.ts';
import { opsetOf } from '../graph/walk.ts';
import { type NodeOutcome, nodePass } from './node-pass.ts';
import { windowsOf } from './windows.ts';

export const foldPad = nodePass(
  { name: 'fold-pad', summary: 'Fold a Pad with zeros into the convolution that reads it', exact: true },
  ['Pad'],
  ({ model, types }, pad): NodeOutcome => {
    const pads = spatialPads(model, pad);
    if (typeof pads === 'string') return { reason: pads };
    const [x] = pad.inputs;
    const [y] = pad.outputs;
    const [reader, more] = y ? [...y.users.keys()] : [];
    if (!x || !y || !reader || more || !('op' in reader) || reader.op !== 'Conv' || reader.inputs[0] !== y)
      return { reason: 'something else than one convolution reads it' };
    const windows = windowsOf(model, reader, types());
    if (typeof windows === 'string') return { reason: `${label(reader)}: ${windows}` };
    if (!replaceUses(y, x)) return { reason: 'its output is public' };
    setAttribute(
      reader,
      intsAttribute(
        'pads',
        windows.pads.map((old, i) => old + (pads[i] as number)),
      ),
    );
    removeAttribute(reader, 'auto_pad');
    const rest = pad.inputs.slice(1);
    removeNode(pad);
    dropValueInfo(pad.body, (value) => value === y);
    pruneUnused(rest);
    return { detail: `folded into ${label(reader)}` };
  },
);

/** Top, left, bottom, right; or why not. */
function spatialPads(model: Model, pad: Node): number[] | string {
  const old = opsetOf(model, pad.body) < 11;
  if ((stringAttr(pad, 'mode') ?? 'constant') !== 'constant') return 'it does not pad with a constant';
  const pads = old ? intsAttr(pad, 'pads') : constantNumbers(model, pad.inputs[1]);
  const filler = old ? 0 : pad.inputs[2] ? constantScalar(model, pad.inputs[2]) : 0;
  if (filler !== 0) return 'it does not pad with zeros';
  if (pad.inputs[3]) return 'it lists axes';
  if (pads?.length !== 8) return 'its pads are not those of four axes';
  const [n0, c0, top, left, n1, c1, bottom, right] = [...pads] as number[];
  if ([n0, c0, n1, c1].some((count) => count !== 0)) return 'it pads batch or channels';
  const all = [top, left, bottom, right] as number[];
  return all.some((count) => count < 0) ? 'it crops' : all;
}
