/** How good a network is with some polynomials in place of its activations: a pass over images that stay in memory. */
import { SisyphusError } from '../errors.ts';
import { type Accuracy, accuracy, findLogits, rowsOf } from '../eval/accuracy.ts';
import type { Device } from '../eval/device.ts';
import type { Feed, FeedBatch } from '../eval/feed.ts';
import { openModel, type RunOptions } from '../eval/run.ts';
import type { NdArray, Session } from '../eval/session.ts';
import { cloneModel } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';
import { runReplaceActivation } from '../passes/replace-activation.ts';
import type { SiteSelection } from '../passes/select-sites.ts';
import type { ActivationStatistics } from '../passes/statistics.ts';
import { parseSiteSpec } from '../poly/spec.ts';
import { coefficientsAsInputs } from './coefficient-inputs.ts';

export interface Evaluator {
  /** Of the network as it is, on all images. */
  readonly original: Accuracy;
  /**
   * @param specs `SPEC` and `GLOB=SPEC`, the last that matches a site is used there
   * @throws SisyphusError where a spec is none or replaces nothing
   */
  prepare(specs: readonly string[]): Prepared;
  release(): Promise<void>;
}

export interface Prepared {
  /** Equal for networks that compute the same. */
  readonly identity: string;
  /** The activations that are replaced. */
  readonly sites: readonly string[];
  /** Those that this polynomial can't replace, and why. */
  readonly refused: readonly { readonly site: string; readonly reason: string }[];
  /** On so many of the first images. */
  evaluate(images: number): Promise<Measured>;
}

export interface Measured extends Accuracy {
  /** How much the logits depend on the image as those of the network as it is do, see `likeness`. */
  readonly likeness: number;
}

export interface EvaluatorOptions extends SiteSelection {
  readonly device: Device;
  readonly run: RunOptions;
  readonly logits?: string | undefined;
  /** Of the inputs of activations, for specs that ask for it (`a=data`). */
  readonly statistics: ActivationStatistics | undefined;
}

/** Sessions that are kept; each holds the weights. */
const SESSIONS = 8;
/** Images are kept up to so many bytes, else read again for each candidate. */
const MOST_KEPT = 2 ** 30;

export async function openEvaluator(feed: Feed, options: EvaluatorOptions): Promise<Evaluator> {
  const { device, run, logits, statistics, ...selection } = options;
  const kept = await keep(feed);
  const sessions = new Map<string, Session>();
  const open = async (structure: string, model: Model): Promise<Session> => {
    const session = sessions.get(structure) ?? (await openModel(model, feed.where, device, run));
    sessions.delete(structure);
    sessions.set(structure, session);
    const [oldest] = sessions.keys();
    if (sessions.size > SESSIONS && oldest !== undefined) {
      await sessions.get(oldest)?.release();
      sessions.delete(oldest);
    }
    return session;
  };
  const measure = async (
    session: Session,
    inputs: ReadonlyMap<string, NdArray>,
    images: number,
  ): Promise<{ counted: Accuracy; rows: number[][] }> => {
    const rows: number[][] = [];
    let output = logits;
    const fed: Session = {
      ...session,
      async run(feeds, ...rest) {
        const results = await session.run(new Map([...feeds, ...inputs]), ...rest);
        const batch = feedOf.get(feeds);
        if (batch) {
          output ??= findLogits(feed, batch, results);
          const numbers = rowsOf(feed, batch, output, results.get(output));
          const classes = numbers.length / batch.rows;
          for (let row = 0; row < batch.count; row++)
            rows.push(Array.from({ length: classes }, (_, c) => numbers[row * classes + c] as number));
        }
        return results;
      },
    };
    const feedOf = new Map<FeedBatch['feeds'], FeedBatch>();
    const batches = async function* () {
      for await (const batch of first(kept ?? feed.batches(), feed, images)) {
        feedOf.set(batch.feeds, batch);
        yield batch;
      }
    };
    const counted = await accuracy(fed, { ...feed, batches }, { ...(logits !== undefined && { logits }) });
    return { counted, rows };
  };
  const teacher = await measure(await open('', feed.model), new Map(), feed.count);
  return {
    original: teacher.counted,
    prepare(specs) {
      const model = cloneModel(feed.model);
      const { applied, skipped } = runReplaceActivation(model, {
        ...selection,
        poly: specs.map(parseSiteSpec),
        statistics: () => statistics,
      });
      const sites = applied.map(({ site }) => site);
      const { structure, identity, inputs } = coefficientsAsInputs(model, feed.model);
      return {
        identity,
        sites,
        refused: skipped,
        async evaluate(images) {
          if (run.signal?.aborted) throw new SisyphusError('aborted', 'interrupted');
          const { counted, rows } = await measure(await open(structure, model), inputs, images);
          return { ...counted, likeness: likeness(rows, teacher.rows) };
        },
      };
    },
    async release() {
      for (const session of sessions.values()) await session.release();
    },
  };
}

/**
 * Whether logits say of the images what others say, whatever their scale and offset: the mean cosine between both rows of an
 * image, the median over the images taken away; 0 for rows that are not finite. It tells networks apart that all decide for the
 * same class always, whose accuracy is the same.
 * @param rows of the first images; @param wanted of at least as many
 * @returns in -1..1
 */
export function likeness(rows: readonly (readonly number[])[], wanted: readonly (readonly number[])[]): number {
  const [own, other] = [centred(rows), centred(wanted.slice(0, rows.length))];
  let sum = 0;
  for (const [i, a] of own.entries()) {
    const b = other[i] as readonly number[];
    const [aa, ab, bb] = [dot(a, a), dot(a, b), dot(b, b)];
    const cosine = ab / Math.sqrt(aa) / Math.sqrt(bb);
    if (Number.isFinite(cosine)) sum += cosine;
  }
  return own.length === 0 ? 0 : sum / own.length;
}

const dot = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, x, i) => sum + x * (b[i] as number), 0);

/** Minus the median of each column, of the rows that are finite. */
function centred(rows: readonly (readonly number[])[]): number[][] {
  const finite = rows.filter((row) => row.every(Number.isFinite));
  const medians = (rows[0] ?? []).map((_, c) => {
    const column = finite.map((row) => row[c] as number).sort((a, b) => a - b);
    return column[column.length >> 1] ?? 0;
  });
  return rows.map((row) => row.map((value, c) => value - (medians[c] as number)));
}

/** @returns null where they are too many */
async function keep(feed: Feed): Promise<FeedBatch[] | null> {
  const batches: FeedBatch[] = [];
  let bytes = 0;
  for await (const batch of feed.batches()) {
    for (const { data } of batch.feeds.values()) bytes += 'byteLength' in data ? data.byteLength : 0;
    if (bytes > MOST_KEPT) return null;
    batches.push(batch);
  }
  return batches;
}

/** The first images. A model that insists on its batch gets whole batches, of which the first images count. */
async function* first(
  batches: AsyncIterable<FeedBatch> | readonly FeedBatch[],
  { fixed }: Feed,
  images: number,
): AsyncGenerator<FeedBatch> {
  let left = images;
  for await (const batch of batches) {
    if (batch.count <= left) yield batch;
    else yield fixed === null ? head(batch, left) : { ...batch, count: left };
    left -= batch.count;
    if (left <= 0) return;
  }
}

/** The first rows of a batch. */
export function head({ feeds, rows, labels }: FeedBatch, count: number): FeedBatch {
  const cut = (array: NdArray): NdArray => ({
    ...array,
    dims: [count, ...array.dims.slice(1)],
    data: array.data.slice(0, (array.data.length / rows) * count),
  });
  const own = [...feeds].map(([name, array]) => [name, cut(array)] as const);
  return { feeds: new Map(own), rows: count, count, labels: labels === null ? null : labels.slice(0, count) };
}
