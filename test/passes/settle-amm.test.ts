/** What becomes of trained min-max normalisation: plain operators that compute what training computed. */
import { describe, expect, it } from 'vitest';
import { buildNetwork } from '../../models/index.ts';
import type { NdArray } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import { addInput, cloneModel, setInput } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { inferTypes } from '../../src/graph/shapes.ts';
import { verify } from '../../src/graph/verify.ts';
import { allNodes } from '../../src/graph/walk.ts';
import { findActivations } from '../../src/passes/activation-sites.ts';
import { DOMAIN, insertTrainableAmm } from '../../src/passes/insert-amm.ts';
import { type AmmMode, settleAmm } from '../../src/passes/settle-amm.ts';
import { lower } from '../../src/train/lower.ts';
import { raise } from '../../src/train/raise.ts';
import { forward, relativeError, rowsFor, useBackend } from '../support/lowered.ts';
import { runModel } from '../support/numeric.ts';
import { sharedModel } from '../support/passes.ts';

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

  /** ReLU of x [N, 2] behind a normalisation that was not trained yet. */
  function untrained(): Model {
    const b = buildModel({ name: 'g', opset: 17 });
    const x = b.input('x', 'float', ['N', 2]);
    b.output(b.node('Relu', [x], {}, 'relu'), 'y', 'float', ['N', 2]);
    const [site] = findActivations(b.model, inferTypes(b.model)).sites;
    if (!site) throw new Error('there is an activation');
    expect(insertTrainableAmm(b.model, site)).toBeNull();
    return b.model;
  }
  const rows: NdArray = { elem: 'float', dims: [2, 2], data: Float32Array.of(1, 2, 3, 7) };

  it('divide a constant channel by 1', async () => {
    const estimates = { min: [1, 5], range: [4, 0], seen: [9] };
    const model = raise(
      untrained(),
      new Map(Object.entries(estimates).map(([name, values]) => [`relu/amm/${name}`, Float32Array.from(values)])),
    );
    const [applied] = settleAmm(model, { mode: 'stored' }).applied;
    expect(applied?.detail).toBe('one Mul and one Add; 1 constant channels left unscaled');
    const [y] = (await runModel(model, new Map([['x', rows]]))).values();
    // max(0, 2 (x - 1) / 4 - 1) and max(0, 2 (x - 5) / 1 - 1)
    expect([...((y?.data ?? []) as Float32Array)]).toEqual([0, 0, 0, 3]);
  });

  it('that were never trained run as they are, and the report says so', async () => {
    const model = untrained();
    const report = settleAmm(model, { mode: 'stored' });
    expect(report).toMatchObject({ applied: [{ site: 'relu', detail: expect.stringContaining('never trained') }] });
    expect(report.skipped).toEqual([]);
    expect(verify(model)).toEqual([]);
    const [y] = (await runModel(model, new Map([['x', rows]]))).values();
    expect([...((y?.data ?? []) as Float32Array)]).toEqual([0, 1, 3, 11]); // max(0, 2 (x - 1) / 1 - 1)
    // With true ranges no estimate is used.
    const [mm] = settleAmm(untrained(), { mode: 'true' }).applied;
    expect(mm?.detail).not.toContain('never trained');
  });

  it('without stored estimates stay, with a reason', () => {
    const model = untrained();
    const node = model.graph.nodes.find(({ op }) => op === 'ApproxMinMaxNorm');
    if (!node) throw new Error('there is a normalisation');
    setInput(node, 1, addInput(model, 'given', { elem: 'float', shape: [2] }));
    const { applied, skipped } = settleAmm(model, { mode: 'stored' });
    expect([applied, skipped]).toEqual([[], [{ site: 'relu', reason: 'its estimates are not stored in the file' }]]);
    expect(verify(model)).toEqual([]);
  });

  it('are settled in nested graphs too', (context) => {
    const model = sharedModel('odd/synthetic/loop_if_relu_nested.onnx');
    if (!model) return context.skip('no shared models');
    const [site] = findActivations(model, inferTypes(model)).sites;
    if (!site) throw new Error('there is an activation');
    expect(site.node.body).not.toBe(model.graph);
    expect(insertTrainableAmm(model, site)).toBeNull();
    expect(settleAmm(model, { mode: 'stored' }).applied).toHaveLength(1);
    expect([...allNodes(model)].some(({ domain }) => domain === DOMAIN)).toBe(false);
    expect(model.opsets.has(DOMAIN)).toBe(false);
    expect(verify(model)).toEqual([]);
  });
});
