/** Accuracy while training, by `sisyphus eval`'s own means. */
import { type Accuracy, accuracy } from '../eval/accuracy.ts';
import { parseDevice } from '../eval/device.ts';
import { type DataOptions, openFeed } from '../eval/feed.ts';
import { openModel } from '../eval/run.ts';
import { chooseDevice } from '../eval/session.ts';
import type { Model } from '../graph/ir.ts';

/**
 * Of a model in memory on the test split; preprocessing is what the model records.
 * @param where what errors call the model
 */
export async function measure(
  model: Model,
  where: string,
  options: Pick<DataOptions, 'data' | 'signal'> & {
    readonly device?: string | undefined;
    readonly threads?: number | undefined;
    /** So many, chosen at random. Default: all. */
    readonly images?: number;
  },
): Promise<Accuracy> {
  const { data, signal, threads, images } = options;
  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const some = images === undefined ? {} : { limit: images, seed: 0 };
  const run = { data, split: 'test', ...some, ...(signal && { signal }), ...(threads && { threads }) } as const;
  const feed = await openFeed(model, where, run);
  const session = await openModel(feed.model, where, device, run);
  try {
    return await accuracy(session, feed, {});
  } finally {
    await session.release();
  }
}
