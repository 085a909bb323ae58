/** Files with statistics of activations. Loaded only where one is read: zod takes longer to load than a small model. */
import { z } from 'zod';
import { SisyphusError } from '../errors.ts';

// null: the channel held no finite value.
const channels = z.array(z.number().nullable()).min(1);
const siteStatistics = z.object({ channelMin: channels, channelMax: channels });
const statisticsSchema = z.object({ sites: z.record(z.string(), siteStatistics) });

/** Per-channel range of the pre-activations by site name: what `probe -o` writes and AMM reads. */
export type ActivationStatistics = z.infer<typeof statisticsSchema>;

/** Reads `{"sites": {"relu1": {"channelMin": [...], "channelMax": [...]}}}`. @throws SisyphusError `file` */
export function parseStatistics(json: string, where: string): ActivationStatistics {
  let data: unknown;
  try {
    data = JSON.parse(json);
  } catch (cause) {
    throw new SisyphusError('file', `${where}: not JSON (${(cause as Error).message})`, { cause });
  }
  const result = statisticsSchema.safeParse(data);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new SisyphusError(
    'file',
    `${where}: ${issue?.path.join('.') ?? ''}: ${issue?.message}; expected {"sites": {NAME: {"channelMin": [...], "channelMax": [...]}}}`,
  );
}
