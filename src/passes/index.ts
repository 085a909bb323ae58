/** All passes, in the order in which `rewrite` applies those it was asked for. */
import { dropDead } from './drop-dead.ts';
import { dropIdentity } from './drop-identity.ts';
import { dropSoftmax } from './drop-softmax.ts';
import { foldBatchnorm } from './fold-batchnorm.ts';
import { foldConstants } from './fold-constants.ts';
import { foldPolynomial } from './fold-polynomial.ts';
import { insertAmm } from './insert-amm.ts';
import type { Pass } from './pass.ts';
import { replaceActivation } from './replace-activation.ts';
import { replaceMaxpool } from './replace-maxpool.ts';
import { replaceMaxpoolSum } from './replace-maxpool-sum.ts';
import { setBatch } from './set-batch.ts';
import { setOpsetPass } from './set-opset.ts';

/** Passes that need no options, by name: what `--passes` takes. */
export const SIMPLE_PASSES = [
  dropIdentity,
  foldConstants,
  foldBatchnorm,
  foldPolynomial,
  setBatch,
  replaceMaxpool,
  replaceMaxpoolSum,
  dropSoftmax,
  dropDead,
] as const satisfies readonly Pass<Record<never, never>>[];

/** Passes that options of `rewrite` ask for. */
export const OPTION_PASSES = [setOpsetPass, insertAmm, replaceActivation] as const;

export interface PassSummary {
  readonly name: string;
  readonly summary: string;
  readonly exact: boolean;
  /** The option of `rewrite` that runs it. */
  readonly option: string;
}

/** What `sisyphus passes` lists. */
export function listPasses(): PassSummary[] {
  const options: Record<string, string> = {
    [setOpsetPass.name]: '--opset N',
    [insertAmm.name]: '--amm FILE or --mm',
    [replaceActivation.name]: '--poly SPEC',
  };
  return [...SIMPLE_PASSES, ...OPTION_PASSES].map(({ name, summary, exact }) => ({
    name,
    summary,
    exact,
    option: options[name] ?? `--passes ${name}`,
  }));
}
