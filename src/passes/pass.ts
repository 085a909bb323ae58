/** What every pass is: data and one function. */
import type { Model, Node } from '../graph/ir.ts';

/**
 * One rewrite. It changes the model it is given (`cloneModel` first to keep the original) and says what it did.
 * Checks come before changes: a site is either rewritten whole or left as it was, with a reason.
 */
export interface Pass<Options = Record<never, never>> {
  /** Also its name on the command line: a verb (drop, fold, insert, replace, set) and what it is done to. */
  readonly name: string;
  readonly summary: string;
  /** True where the model computes the same function afterwards, up to rounding. */
  readonly exact: boolean;
  run(model: Model, options: Options): PassReport | Promise<PassReport>;
}

export interface PassReport {
  readonly pass: string;
  readonly applied: Change[];
  /** Looked at and left alone. */
  readonly skipped: Skip[];
}
/** Where something changed, and how, in a few words. */
export interface Change {
  readonly site: string;
  readonly detail: string;
}
export interface Skip {
  readonly site: string;
  readonly reason: string;
}

export const emptyReport = (pass: string): PassReport => ({ pass, applied: [], skipped: [] });

/** How reports call a node: by its name, or by its first output where it has none. Activations: see `ActivationSite`. */
export function siteName(node: Node): string {
  return node.name || (node.outputs.find((value) => value !== null)?.name ?? node.op);
}
