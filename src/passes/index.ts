/** All passes, in the order in which `rewrite` applies those it was asked for. */
import { dropDead } from './drop-dead.ts';
import { dropIdentity } from './drop-identity.ts';
import { dropSoftmax } from './drop-softmax.ts';
import { embedKernel, embedUnevenKernel } from './embed-kernel.ts';
import { foldBatchnorm } from './fold-batchnorm.ts';
import { foldConstants } from './fold-constants.ts';
import { foldGlobalPool } from './fold-global-pool.ts';
import { foldPad } from './fold-pad.ts';
import { foldPolynomial } from './fold-polynomial.ts';
import { insertAmm } from './insert-amm.ts';
import type { Pass } from './pass.ts';
import { replaceActivation } from './replace-activation.ts';
import { replaceArithmetic, replaceRepeated } from './replace-arithmetic.ts';
import { replaceBatchnorm } from './replace-batchnorm.ts';
import { replaceMaxpool } from './replace-maxpool.ts';
import { replaceMaxpoolSum } from './replace-maxpool-sum.ts';
import { replacePaddedPool, replacePool } from './replace-pool.ts';
import { replaceReshape } from './replace-reshape.ts';
import { setAttributes } from './set-attributes.ts';
import { setBatch } from './set-batch.ts';
import { setCoefficients } from './set-coefficients.ts';
import { setForm } from './set-form.ts';
import { setGemm } from './set-gemm.ts';
import { setOpsetPass } from './set-opset.ts';
import { setStatic } from './set-static.ts';

/** Passes that need no options, by name: what `--passes` takes. */
export const SIMPLE_PASSES = [
  dropIdentity,
  foldConstants,
  setStatic,
  setAttributes,
  foldPad,
  replaceReshape,
  setGemm,
  foldBatchnorm,
  replaceBatchnorm,
  replaceArithmetic,
  foldPolynomial,
  foldGlobalPool,
  replacePaddedPool,
  replacePool,
  embedKernel,
  embedUnevenKernel,
  replaceRepeated,
  setBatch,
  replaceMaxpool,
  replaceMaxpoolSum,
  dropSoftmax,
  dropDead,
] as const satisfies readonly Pass<Record<never, never>>[];

/** Passes that options of `rewrite` ask for. */
export const OPTION_PASSES = [setOpsetPass, insertAmm, replaceActivation, setCoefficients, setForm] as const;

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
    [setCoefficients.name]: '--target NAME',
    [setForm.name]: '--target NAME',
  };
  return [...SIMPLE_PASSES, ...OPTION_PASSES].map(({ name, summary, exact }) => ({
    name,
    summary,
    exact,
    option: options[name] ?? `--passes ${name}`,
  }));
}
