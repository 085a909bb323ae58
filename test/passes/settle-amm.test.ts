/** What becomes of trained min-max normalisation: plain operators that compute what training computed. */
import { describe, expect, it } from 'vitest';
import { buildNetwork } from '../../models/index.ts';
import type { NdArray } from '../../src/eval/session.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { verify } from '../../src/graph/verify.ts';
import { findActivations } from '../../src/passes/activation-sites.ts';
import { DOMAIN, insertTrainableAmm } from '../../src/passes/insert-amm.ts';
import { type AmmMode, settleAmm } from '../../src/passes/settle-amm.ts';
import { lower } from '../../src/train/lower.ts';
import { raise } from '../../src/train/raise.ts';
import { forward, relativeError, rowsFor, useBackend } from '../support/lowered.ts';
import { runModel } from '../support/numeric.ts';

/** A LeNet with normalisations before all activations, whose estimates are those of one batch. */
async function trained(): Promise<{ model: Model; x: NdArray; training: NdArray; inference: NdArray }> {
  const model = buildNetwork('lenet', 'mnist', 3);
  for (const { name } of findActivations(model, inferTypes(model)).sites) {
    const site = findActivations(model, inferTypes(model)).sites.find((each) => each.name === name);
    if (site) expect(insertTrainableAmm(model, site)).toBeNull();
  }
  expect(verify(model)).toEqual([]);
  await useBackend('cpu');
  const lowered = await lower(model, 'lenet');
  const x = rowsFor(lowered, 6);
  // Batch norms keep the estimates of the file; only the normalisations see the batch.
  const ranges = await lower(model, 'lenet', { trains: ({ name }) => name.includes('/amm/') });
  const { values, statistics } = await forward(ranges, x, { training: true });
  const after = raise(model, new Map([...statistics].map(([name, { data }]) => [name, data as Float32Array])));
  const settled = await forward(await lower(after, 'lenet'), x);
  const output = (from: ReadonlyMap<string, NdArray>) => from.get(lowered.logits) as NdArray;
  return { model: after, x, training: output(values), inference: output(settled.values) };
}

async function outputOf(model: Model, mode: AmmMode, x: NdArray, fold?: boolean): Promise<NdArray> {
  const plain = cloneModel(model);
  const { applied, skipped } = settleAmm(plain, { mode, ...(fold !== undefined && { fold }) });
  expect([applied.length, skipped]).toEqual([4, []]);
  expect(verify(plain)).toEqual([]);
  expect(plain.opsets.has(DOMAIN)).toBe(false);
  expect(plain.graph.initializers.some(({ value }) => value.name.endsWith('/amm/seen'))).toBe(false);
  if (mode === 'stored')
    expect(plain.graph.nodes.filter(({ name }) => name.includes('/amm/')).length).toBe(fold === false ? 8 : 0);
  const [input] = plain.graph.inputs;
  const [result] = (await runModel(plain, new Map([[input?.value.name ?? '', x]]))).values();
  return result as NdArray;
}

describe('settled normalisations', () => {
  it('are folded or not, the same; and as training has them in inference', async () => {
    const { model, x, inference } = await trained();
    const folded = await outputOf(model, 'stored', x);
    const unfolded = await outputOf(model, 'stored', x, false);
    expect(relativeError(folded, unfolded)).toBeLessThan(1e-5);
    expect(relativeError(folded, inference)).toBeLessThan(1e-5);
  });

  it('with true ranges are what training computes on the same batch; on the batch of the estimates both agree', async () => {
    const { model, x, training } = await trained();
    const mm = await outputOf(model, 'true', x);
    expect(relativeError(mm, training)).toBeLessThan(1e-5);
    // The estimates are those of this very batch.
    expect(relativeError(await outputOf(model, 'stored', x), mm)).toBeLessThan(1e-4);
    // On another batch they differ, as they must.
    const other = { ...x, data: (x.data as Float32Array).map((value) => 3 * value) };
    expect(relativeError(await outputOf(model, 'stored', other), await outputOf(model, 'true', other))).toBeGreaterThan(
      0.1,
    );
  });
});
