/** Files with statistics of activations. Loaded only where one is read: zod takes longer to load than a small model. */
import { z } from 'zod';
import { SisyphusError } from '../errors.ts';

// null: there was no finite value.
const number = z.number().nullable();
const deviation = z.number().nonnegative().nullable();
const channels = <T extends z.ZodType<number | null>>(value: T) => z.array(value).min(1).readonly();

const histogram = z
  .object({ edges: z.array(z.number()).readonly(), counts: z.array(z.number().nonnegative()).readonly() })
  .refine(({ edges, counts }) => edges.length === counts.length + 1, 'there must be one edge more than counts')
  .refine(
    ({ edges }) => edges.every((edge, i) => i === 0 || edge >= (edges[i - 1] as number)),
    'the edges must not fall',
  )
  .nullable();

const siteStatistics = z
  .object({
    channelMin: channels(number),
    channelMax: channels(number),
    min: number.optional(),
    max: number.optional(),
    mean: number.optional(),
    std: deviation.optional(),
    channelMean: channels(number).optional(),
    channelStd: channels(deviation).optional(),
    histogram: histogram.optional(),
  })
  .refine(({ min, max }) => (min ?? Number.NEGATIVE_INFINITY) <= (max ?? Number.POSITIVE_INFINITY), 'min is above max')
  .refine(
    ({ channelMin, channelMean, channelStd }) =>
      [channelMean, channelStd].every((list) => !list || list.length === channelMin.length),
    'channelMean and channelStd must be as long as channelMin',
  );
const statisticsSchema = z.object({ sites: z.record(z.string(), siteStatistics) });

/**
 * What was measured of the pre-activations, by site name: what `probe -o` writes, and what AMM and the fits on measured
 * ranges or densities read. Moments and histogram are those of a sample; files may leave them out.
 */
export type ActivationStatistics = z.infer<typeof statisticsSchema>;
export type SiteStatistics = ActivationStatistics['sites'][string];

/**
 * Reads `{"sites": {"relu1": {"channelMin": [...], "channelMax": [...]}}}`, with more about a site where the file has it.
 * @throws SisyphusError `file`
 */
export function parseStatistics(json: string, where: string): ActivationStatistics {
  let data: unknown;
  try {
    data = JSON.parse(json);
  } catch (cause) {
    const message = (cause as Error).message.replace(/\s+/g, ' '); // it quotes the file, line ends included
    throw new SisyphusError('file', `${where}: not JSON (${message})`, { cause });
  }
  const result = statisticsSchema.safeParse(data);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new SisyphusError(
    'file',
    `${where}: ${issue?.path.join('.') ?? ''}: ${issue?.message}; expected {"sites": {NAME: {"channelMin": [...], "channelMax": [...]}}}`,
  );
}
