/**
 * Running statistics of the values at one place of a network, in memory that does not grow with the data: extremes and
 * moments by channel, counts of NaN and infinities, and a histogram whose bins are as fine as 1/64 octave, because
 * escaping activations span dozens of orders of magnitude.
 */

/** The top 15 bits of a float32: sign, exponent and 6 bits of mantissa. */
const SHIFT = 17;
const BINS = 1 << (32 - SHIFT);
const NEGATIVE = BINS >> 1;
/** From here on, within each sign, are infinity and NaN. */
const NON_FINITE = (0xff << 23) >>> SHIFT;
/** Of float32; larger magnitudes are NaN. */
const INFINITY_BITS = 0x7f800000;

export interface Running {
  /** Extremes of the finite values by channel; Infinity and -Infinity where there is none. */
  channelMin: Float64Array;
  channelMax: Float64Array;
  nan: number;
  inf: number;
  /** Inputs with a value outside of the range that is watched, or not finite. */
  leavingRows: number;
  /** Of the finite values of the sampled rows, by channel: how many, their mean, sum of squared distances from it. */
  channelCount: Float64Array;
  channelMean: Float64Array;
  channelSquares: Float64Array;
  readonly bins: Float64Array;
}

export function startRunning(): Running {
  return {
    channelMin: new Float64Array(0),
    channelMax: new Float64Array(0),
    nan: 0,
    inf: 0,
    leavingRows: 0,
    channelCount: new Float64Array(0),
    channelMean: new Float64Array(0),
    channelSquares: new Float64Array(0),
    bins: new Float64Array(BINS),
  };
}

/** How the numbers of a tensor are arranged: rows, channels (axis 1), and what is left. */
export interface Blocks {
  readonly rows: number;
  /** Consecutive rows that belong to one input. */
  readonly each: number;
  readonly channels: number;
  readonly plane: number;
}

/** @param rows how many of the leading ones count; the others fill up a fixed batch */
export function blocksOf(dims: readonly number[], rows: number, each = 1): Blocks {
  const [, channels = 1, ...rest] = dims;
  return { rows, each, channels, plane: rest.reduce((product, size) => product * size, 1) };
}

function widen(running: Running, channels: number): void {
  if (running.channelMin.length >= channels) return;
  const grow = (old: Float64Array, fill: number) => {
    const array = new Float64Array(channels).fill(fill);
    array.set(old);
    return array;
  };
  running.channelMin = grow(running.channelMin, Number.POSITIVE_INFINITY);
  running.channelMax = grow(running.channelMax, Number.NEGATIVE_INFINITY);
  running.channelCount = grow(running.channelCount, 0);
  running.channelMean = grow(running.channelMean, 0);
  running.channelSquares = grow(running.channelSquares, 0);
}

/** Four histograms side by side, so that a run of equal values does not wait for itself. */
const LANES = new Uint32Array(4 * BINS);

export interface AddOptions {
  /** Also take moments and the histogram. */
  readonly sample: boolean;
  /** Count inputs with |x| above it; null for none. */
  readonly range: number | null;
  /** Gets a 1 for each input with a value that is not finite. */
  readonly bad: Uint8Array;
}

/** Takes in whole tensors. */
export function addValues(running: Running, data: Float32Array, blocks: Blocks, options: AddOptions): void {
  const { sample, range, bad } = options;
  const { rows, each, channels, plane } = blocks;
  widen(running, channels);
  const { channelMin, channelMax, channelCount, channelMean, channelSquares } = running;
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  let leaving = false;
  for (let row = 0, at = 0; row < rows; row++) {
    for (let c = 0; c < channels; c++) {
      const end = at + plane;
      let [low, high, sum, squares] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 0];
      let count = plane;
      for (let i = at; i < end; i++) {
        const x = data[i] as number;
        if (x < low) low = x;
        if (x > high) high = x;
        sum += x;
        squares += x * x;
      }
      if (!Number.isFinite(sum)) {
        // float64 holds any sum of float32, so one of them is not finite.
        bad[Math.floor(row / each)] = 1;
        leaving = range !== null;
        [low, high, sum, squares] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 0];
        let [nan, inf] = [0, 0];
        for (let i = at; i < end; i++) {
          const magnitude = (bits[i] as number) & 0x7fffffff;
          if (magnitude < INFINITY_BITS) {
            const x = data[i] as number;
            if (x < low) low = x;
            if (x > high) high = x;
            sum += x;
            squares += x * x;
          } else if (magnitude > INFINITY_BITS) nan++;
          else inf++;
        }
        running.nan += nan;
        running.inf += inf;
        count -= nan + inf;
      }
      if (low < (channelMin[c] as number)) channelMin[c] = low;
      if (high > (channelMax[c] as number)) channelMax[c] = high;
      if (range !== null && (high > range || low < -range)) leaving = true;
      if (sample && count > 0) {
        const before = channelCount[c] as number;
        const mean = sum / count;
        let spread = count > 1 ? squares - sum * mean : 0;
        if (count > 1 && spread < CANCELLED * squares) spread = squaredDistances(data.subarray(at, end), mean);
        // Two samples made one (Chan, Golub and LeVeque 1983).
        const apart = mean - (channelMean[c] as number);
        const share = count / (before + count);
        channelCount[c] = before + count;
        (channelMean[c] as number) += apart * share;
        (channelSquares[c] as number) += spread + apart * apart * before * share;
      }
      at = end;
    }
    if ((row + 1) % each > 0) continue;
    if (leaving) running.leavingRows++;
    leaving = false;
  }
  if (sample) addToHistogram(running.bins, data.subarray(0, rows * channels * plane));
}

/** The share of the squares below which their difference from the squared mean has lost too many digits. */
const CANCELLED = 1e-4;

/** Of the finite values, from their mean. */
function squaredDistances(data: Float32Array, mean: number): number {
  let sum = 0;
  for (const x of data) if (Number.isFinite(x)) sum += (x - mean) * (x - mean);
  return sum;
}

function addToHistogram(bins: Float64Array, data: Float32Array): void {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  LANES.fill(0);
  const quads = bits.length & ~3;
  let i = 0;
  for (; i < quads; i += 4) {
    (LANES[(bits[i] as number) >>> SHIFT] as number)++;
    (LANES[BINS + ((bits[i + 1] as number) >>> SHIFT)] as number)++;
    (LANES[2 * BINS + ((bits[i + 2] as number) >>> SHIFT)] as number)++;
    (LANES[3 * BINS + ((bits[i + 3] as number) >>> SHIFT)] as number)++;
  }
  for (; i < bits.length; i++) (LANES[(bits[i] as number) >>> SHIFT] as number)++;
  for (let b = 0; b < BINS; b++) {
    const more =
      (LANES[b] as number) +
      (LANES[BINS + b] as number) +
      (LANES[2 * BINS + b] as number) +
      (LANES[3 * BINS + b] as number);
    if (more > 0) (bins[b] as number) += more;
  }
}

/** Extremes of each row and channel, row after row. */
export interface Extremes {
  readonly min: Float32Array;
  readonly max: Float32Array;
  readonly rows: number;
  readonly each: number;
  readonly channels: number;
}

/** Takes in extremes in place of the values that they are of, which must all be finite. */
export function addExtremes(
  running: Running,
  { min, max, rows, each, channels }: Extremes,
  range: number | null,
): void {
  widen(running, channels);
  const { channelMin, channelMax } = running;
  let leaving = false;
  for (let row = 0, at = 0; row < rows; row++) {
    for (let c = 0; c < channels; c++, at++) {
      const low = min[at] as number;
      const high = max[at] as number;
      if (low < (channelMin[c] as number)) channelMin[c] = low;
      if (high > (channelMax[c] as number)) channelMax[c] = high;
      if (range !== null && (high > range || low < -range)) leaving = true;
    }
    if ((row + 1) % each > 0) continue;
    if (leaving) running.leavingRows++;
    leaving = false;
  }
}

/** Bins one after the other: `counts[i]` values lie between `edges[i]` and `edges[i + 1]`. */
export interface Histogram {
  readonly edges: readonly number[];
  readonly counts: readonly number[];
}

/** Of the finite values; null where there is none. */
export interface ValueStatistics {
  readonly min: number | null;
  readonly max: number | null;
  /** Of the sampled inputs, as are the following. */
  readonly mean: number | null;
  readonly std: number | null;
  /** Values that 0.1 %, 50 % and 99.9 % of all values lie below. */
  readonly q001: number | null;
  readonly median: number | null;
  readonly q999: number | null;
  /** The magnitude that 99.9 % of all values lie below. */
  readonly abs999: number | null;
  readonly histogram: Histogram | null;
  /** Elements, over all inputs. */
  readonly nan: number;
  readonly inf: number;
  /** By channel (axis 1), over all inputs. */
  readonly channelMin: readonly (number | null)[];
  readonly channelMax: readonly (number | null)[];
  /** By channel, of the sampled inputs. */
  readonly channelMean: readonly (number | null)[];
  readonly channelStd: readonly (number | null)[];
}

const finiteOrNull = (x: number): number | null => (Number.isFinite(x) ? x : null);

export function finishRunning(running: Running): ValueStatistics {
  const { nan, inf } = running;
  const channelMin = [...running.channelMin].map(finiteOrNull);
  const channelMax = [...running.channelMax].map(finiteOrNull);
  const { mean, std, channelMean, channelStd } = moments(running);
  const bins = finiteBins(running);
  const below = (share: number) => quantile(bins, share);
  return {
    min: finiteOrNull(running.channelMin.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY)),
    max: finiteOrNull(running.channelMax.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)),
    mean,
    std,
    q001: below(0.001),
    median: below(0.5),
    q999: below(0.999),
    abs999: quantile(magnitudes(bins), 0.999),
    histogram: toHistogram(bins),
    nan,
    inf,
    channelMin,
    channelMax,
    channelMean,
    channelStd,
  };
}

type Moments = Pick<ValueStatistics, 'mean' | 'std' | 'channelMean' | 'channelStd'>;

/** Means and standard deviations of each channel and of all values. */
function moments({ channelCount, channelMean, channelSquares }: Running): Moments {
  const count = channelCount.reduce((a, b) => a + b, 0);
  const total = channelMean.reduce((sum, mean, c) => sum + mean * at(channelCount, c), 0);
  const mean = count > 0 ? total / count : null;
  // Within the channels, and between them.
  const squares = channelSquares.reduce(
    (sum, own, c) => sum + own + at(channelCount, c) * (at(channelMean, c) - (mean ?? 0)) ** 2,
    0,
  );
  const perChannel = (value: (c: number) => number) =>
    Array.from(channelCount, (own, c) => (own > 0 ? finiteOrNull(value(c)) : null));
  return {
    mean,
    std: mean === null ? null : finiteOrNull(Math.sqrt(squares / count)),
    channelMean: perChannel((c) => at(channelMean, c)),
    channelStd: perChannel((c) => Math.sqrt(at(channelSquares, c) / at(channelCount, c))),
  };
}

const at = (values: Float64Array, index: number): number => values[index] as number;

/** One bin with values in it. */
export interface Bin {
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

const edgeBits = new Uint32Array(1);
const edgeFloat = new Float32Array(edgeBits.buffer);
/** The magnitude at which a bin of a positive number starts. */
function edge(bin: number): number {
  edgeBits[0] = bin << SHIFT;
  return edgeFloat[0] as number;
}

/** The bins that hold finite values, from the lowest to the highest, cut at the extremes. */
export function finiteBins({ bins, channelMin, channelMax }: Running): Bin[] {
  const low = channelMin.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const high = channelMax.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const list: Bin[] = [];
  const add = (from: number, to: number, count: number) => {
    if (count > 0) list.push({ from: Math.max(from, low), to: Math.min(to, high), count });
  };
  const largest = 3.4028234663852886e38;
  for (let b = NON_FINITE - 1; b > 0; b--) add(-Math.min(edge(b + 1), largest), -edge(b), bins[NEGATIVE + b] as number);
  // The first bin of each sign holds zero and what is next to it.
  add(-edge(1), 0, bins[NEGATIVE] as number);
  add(0, edge(1), bins[0] as number);
  for (let b = 1; b < NON_FINITE; b++) add(edge(b), Math.min(edge(b + 1), largest), bins[b] as number);
  return list;
}

function magnitudes(bins: readonly Bin[]): Bin[] {
  const folded = bins.map(({ from, to, count }) => (to <= 0 ? { from: -to, to: -from, count } : { from, to, count }));
  return folded.sort((a, b) => a.from - b.from);
}

/** Within a bin values are taken as spread evenly: off by at most the bin's width, 1.6 % of the value. */
function quantile(bins: readonly Bin[], share: number): number | null {
  const total = bins.reduce((sum, { count }) => sum + count, 0);
  if (total === 0) return null;
  let before = 0;
  for (const { from, to, count } of bins) {
    if (before + count >= share * total) return from + (to - from) * Math.max(0, (share * total - before) / count);
    before += count;
  }
  return bins.at(-1)?.to ?? null;
}

/** Bins in an octave of a histogram that is written to a file. */
const PER_OCTAVE = 16;

/**
 * Fewer bins, for people and files: 16 for each octave, and one for all that is small beside the median magnitude.
 */
function toHistogram(bins: readonly Bin[]): Histogram | null {
  const [first] = bins;
  const last = bins.at(-1);
  if (!first || !last) return null;
  const typical = quantile(magnitudes(bins), 0.5) || Math.max(Math.abs(first.from), Math.abs(last.to));
  const small = 2 ** Math.floor(Math.log2(typical || 1) - 6);
  // The key of a bin: 0 for the small ones, else its place on the logarithmic scale, with its sign.
  const key = ({ from, to }: Bin) => {
    const middle = (from + to) / 2;
    if (Math.abs(middle) < small) return 0;
    return Math.sign(middle) * (1 + Math.floor(PER_OCTAVE * Math.log2(Math.abs(middle) / small)));
  };
  const lower = (k: number) =>
    k === 0 ? -small : k > 0 ? small * 2 ** ((k - 1) / PER_OCTAVE) : -small * 2 ** (-k / PER_OCTAVE);
  const upper = (k: number) => -lower(-k);
  const edges: number[] = [];
  const counts: number[] = [];
  let current = Number.NaN;
  for (const bin of bins) {
    const k = key(bin);
    if (k !== current) {
      const start = edges.length === 0 ? Math.max(lower(k), first.from) : lower(k);
      const end = edges.at(-1);
      // A gap is a bin with nothing in it.
      if (end !== undefined && start > end) counts.push(0);
      if (end === undefined || start > end) edges.push(start);
      edges.push(upper(k));
      counts.push(0);
      current = k;
    }
    counts[counts.length - 1] = (counts.at(-1) as number) + bin.count;
  }
  edges[edges.length - 1] = Math.max(Math.min(edges.at(-1) as number, last.to), edges.at(-2) as number);
  return { edges, counts };
}
