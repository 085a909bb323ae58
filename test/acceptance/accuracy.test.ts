/** Every third-party classifier reaches the accuracy that was measured independently, on its whole test set. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { evaluate } from '../../src/eval/accuracy.ts';
import { type SharedSet, sharedData, sharedDataMissing } from '../support/data.ts';
import { SHARED, sharedMissing } from '../support/shared.ts';

/** Within the four digits that the table states. */
const TOLERANCE = 0.0005;

/** The words of the table's preprocessing column, see ../shared/models/README.md. */
const NORMALIZE: Readonly<Record<string, string>> = {
  'raw0-255': 'raw',
  'x/255': 'scale=1/255',
  'c10mean/std(.2023..)': 'mean=0.4914,0.4822,0.4465,std=0.2023,0.1994,0.2010',
  'c10mean/std(.2470..)': 'mean=0.4914,0.4822,0.4465,std=0.2470,0.2435,0.2616',
  'c100mean/std': 'mean=0.5071,0.4865,0.4409,std=0.2673,0.2564,0.2762',
  'imagenet mean/.225': 'mean=0.485,0.456,0.406,std=0.225,0.225,0.225',
  '(x/255-.1307)/.3081': 'mean=0.1307,std=0.3081',
  '(x/255-.5)/.5': 'mean=0.5,std=0.5',
};

interface Classifier {
  readonly name: string;
  readonly file: string;
  readonly dataset: SharedSet;
  readonly accuracy: number;
  readonly normalize: string;
  readonly resize?: string;
}

function classifiers(): Classifier[] {
  if (sharedMissing) return [];
  const [head = '', ...rows] = readFileSync(path.join(SHARED, 'models/models.tsv'), 'utf8').trimEnd().split(/\r?\n/);
  const columns = head.split('\t');
  return rows.flatMap((row) => {
    const cells = row.split('\t');
    const cell = (name: string) => cells[columns.indexOf(name)] ?? '';
    if (cell('test_accuracy') === '') return [];
    const [, layout, values = ''] = /^(\S+) (.*?)(?: \(author.*)?$/.exec(cell('preprocessing')) ?? [];
    const normalize = NORMALIZE[values];
    if (normalize === undefined) throw new Error(`${cell('name')}: unknown preprocessing '${values}'`);
    return [
      {
        name: cell('name'),
        file: path.join(SHARED, 'models', cell('file')),
        dataset: cell('dataset') as SharedSet,
        accuracy: Number(cell('test_accuracy')),
        normalize,
        ...(layout === 'resize32' && { resize: '32' }),
      },
    ];
  });
}

/** A few seconds together, so they run every time. */
const QUICK = new Set(['mnist_fc_256x2', 'kanav99_lenet', 'zuramai_mnist_dynamo']);
const slow = !process.env.SISYPHUS_SLOW;

const missing = sharedMissing || sharedDataMissing;
describe.skipIf(missing)(`accuracy on the whole test set ${missing && `(skipped: ${missing})`}`, () => {
  for (const { name, file, dataset, accuracy, normalize, resize } of classifiers()) {
    const skipped = slow && !QUICK.has(name);
    it.skipIf(skipped)(
      `${name}${skipped ? ' (skipped: slow; set SISYPHUS_SLOW=1)' : ''}`,
      { timeout: 300_000 },
      async () => {
        const data = `${dataset}:${path.join(sharedData(dataset), dataset)}`;
        const { models } = await evaluate([file], { data, normalize, ...(resize && { resize }) });
        expect(models[0]).toMatchObject({ images: 10_000, nonFinite: 0 });
        expect(Math.abs((models[0]?.top1 ?? Number.NaN) - accuracy)).toBeLessThanOrEqual(TOLERANCE);
        expect(models[0]?.top1Finite).toBe(models[0]?.top1);
        expect(models[0]?.top5).toBeGreaterThan(models[0]?.top1 ?? 1);
      },
    );
  }

  it('covers all of them', () => expect(classifiers()).toHaveLength(20));
});
