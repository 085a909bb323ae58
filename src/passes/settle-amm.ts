/**
 * Before:  y = ApproxMinMaxNorm(x, min, range, seen)      as training knows it
 * After:   'stored': y = alpha (x - min) / range - beta with the stored estimates: folded into the layer that makes x where
 *          that can be, else one Mul and one Add. 'true': with minimum and range of the very inputs (MM).
 */
import { floatAttr } from '../graph/attributes.ts';
import { constantNumbers } from '../graph/constants.ts';
import { importDomain, pruneUnused, removeNode, replaceUses } from '../graph/edit.ts';
import type { Model, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { allNodes } from '../graph/walk.ts';
import { DOMAIN, insertRanges, insertTrue, TRAINABLE } from './insert-amm.ts';
import { emptyReport, type PassReport, siteName } from './pass.ts';

export type AmmMode = 'stored' | 'true';

/**
 * Estimates that no batch has reached are used as they are, so that the result always runs; the report says so.
 * @param options.fold false: Mul and Add in any case
 */
export function settleAmm(model: Model, options: { readonly mode: AmmMode; readonly fold?: boolean }): PassReport {
  const { mode, fold = true } = options;
  const report = emptyReport('settle-amm');
  const nodes = [...allNodes(model)].filter(({ op, domain }) => op === TRAINABLE && domain === DOMAIN);
  for (const node of nodes) {
    const [input, ...stored] = node.inputs as Value[];
    const [alpha, beta] = [floatAttr(node, 'alpha') ?? 2, floatAttr(node, 'beta') ?? 1];
    const site = siteName(node).replace(/\/amm$/, '');
    const [min, range, seen] = stored.map((value) => constantNumbers(model, value, Number.POSITIVE_INFINITY));
    if (!min || !range || !seen) {
      report.skipped.push({ site, reason: 'its estimates are not stored in the file' });
      continue;
    }
    const types = inferTypes(model);
    const reader = { name: site, node, input: input as Value, elem: 'float' as const };
    const result =
      mode === 'stored'
        ? insertRanges(model, types, reader, { min, range, alpha, beta }, fold)
        : insertTrue(model, types, reader, alpha, beta);
    if ('reason' in result) {
      report.skipped.push({ site, reason: result.reason });
      continue;
    }
    const untrained = mode === 'stored' && seen[0] === 0;
    report.applied.push({ site, detail: untrained ? `${result.detail}; never trained` : result.detail });
    // What the node reads now is the result.
    replaceUses(node.outputs[0] as Value, node.inputs[0] as Value);
    removeNode(node);
    pruneUnused(stored);
  }
  if (report.skipped.length === 0 && nodes.length > 0) importDomain(model, DOMAIN, null);
  return report;
}
