/** Every preset rewrites real networks, and onnxruntime runs what comes out on real images. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { evaluate } from '../../src/eval/accuracy.ts';
import { listPresets } from '../../src/poly/presets.ts';
import { rewrite } from '../../src/rewrite.ts';
import { type SharedSet, sharedData, sharedDataMissing } from '../support/data.ts';
import { testFolder } from '../support/folder.ts';
import { SHARED, sharedMissing } from '../support/shared.ts';

const missing = sharedMissing || sharedDataMissing;
const slow = Boolean(process.env.SISYPHUS_SLOW);
const RESNET = 'mean=.4914,.4822,.4465,std=.2023,.1994,.2010';
const NETWORKS: readonly { name: string; set: SharedSet; normalize: string; images: number; calibration: number }[] = [
  { name: 'kanav99_lenet', set: 'mnist', normalize: 'raw', images: 100, calibration: 100 },
  { name: 'burn_mnist', set: 'mnist', normalize: 'mean=.1307,std=.3081', images: 50, calibration: 50 },
  ...(slow
    ? [{ name: 'ace_resnet20_cifar10_pre', set: 'cifar10', normalize: RESNET, images: 50, calibration: 50 } as const]
    : []),
];

describe.skipIf(missing)('presets on real networks', () => {
  const root = missing ? '' : sharedData(...new Set(NETWORKS.map(({ set }) => set)));
  const folder = testFolder('presets');
  const names = listPresets().map(({ name }) => name);

  for (const { name: network, set, normalize, images, calibration } of NETWORKS) {
    const file = path.join(SHARED, 'models', `${network}.onnx`);
    const data = { data: `${set}:${path.join(root, set)}`, normalize };
    it.each(names)(`${network}: %s`, { timeout: 240_000 }, async (name) => {
      const output = path.join(folder.fresh(), 'rewritten.onnx');
      const spec = name === 'delphi' ? 'preset=delphi,k=2' : `preset=${name}`;
      const report = await rewrite(file, { poly: [spec], calibration: { ...data, images: calibration }, output });
      const applied = report.passes.find(({ pass }) => pass === 'replace-activation')?.applied.length ?? 0;
      const partly = name === 'delphi' || name === 'safenet';
      if (name === 'delphi') expect(applied).toBe(2);
      if (!partly) expect(report.after.privateInference.reluElements).toBe(0);
      const before = report.before.privateInference.reluElements ?? 0;
      if (name === 'safenet') expect(report.after.privateInference.reluElements).toBeLessThanOrEqual(before / 2);
      const { models } = await evaluate([file, output], { ...data, limit: images });
      const [original, rewritten] = models;
      // What is precise has to keep the accuracy; the others are measured, not judged.
      if (name === 'precise') {
        expect(rewritten?.nonFinite).toBe(0);
        expect(rewritten?.top1).toBeGreaterThanOrEqual((original?.top1 ?? 1) - 0.02);
      }
    });
  }
});

describe.skipIf(missing || !slow)('PreciseApprox with alpha 10 on a calibrated range', () => {
  const { base } = testFolder('precise');
  it('keeps ResNet-20 within half a point, with nothing that is not finite', { timeout: 1_800_000 }, async () => {
    const file = path.join(SHARED, 'models/ace_resnet20_cifar10_pre.onnx');
    const data = { data: `cifar10:${path.join(sharedData('cifar10'), 'cifar10')}`, normalize: RESNET };
    const output = path.join(base, 'precise.onnx');
    await rewrite(file, { poly: ['preset=precise,alpha=10'], calibration: data, output });
    const { models } = await evaluate([file, output], data);
    const [original, precise] = models;
    expect(precise?.nonFinite).toBe(0);
    expect(Math.abs((precise?.top1 ?? 0) - (original?.top1 ?? 1))).toBeLessThanOrEqual(0.005);
  });
});
