/**
 * A data set as a stream of batches, whatever files it is kept in. Formats (`idx.ts`, `cifar.ts`, …) each make one of
 * these; nothing downstream knows which.
 */

export type Split = 'train' | 'test';

/** How the numbers of one row are arranged: planar or interleaved image, or anything else (a row of features). */
export type RowLayout = 'chw' | 'hwc' | 'plain';

/** How a model takes rows. 'flat': their numbers in the order channel, row, column, whatever shape it gives them. */
export const LAYOUTS = ['nchw', 'nhwc', 'flat'] as const;
export type Layout = (typeof LAYOUTS)[number];

export interface Dataset {
  /** As in `--data NAME:PATH`. */
  readonly name: string;
  /** The file or folder, for messages; '' for generated data. */
  readonly source: string;
  readonly split: Split;
  /** How many rows there are in all. */
  readonly length: number;
  /** Shape of one row, without the batch: [channels, height, width] for 'chw'. */
  readonly shape: readonly number[];
  readonly layout: RowLayout;
  /**
   * 'uint8': pixels, 0 to 255. 'pixels': the same in a Float32Array, after resizing, which doesn't round. 'float': values
   * as they were stored, whose scale only the user knows.
   */
  readonly elem: 'uint8' | 'pixels' | 'float';
  /** Labels are 0 to classes - 1; null where there are none. */
  readonly classes: number | null;
  /** Names of the classes where the files give them. */
  readonly classNames?: readonly string[];
  /**
   * The rows in the order of the files, or those that `select` names. Every batch is full but the last. Each call reads
   * the files anew; memory stays bounded by a few batches.
   * @throws SisyphusError `data` for corrupt, short or inconsistent files, `aborted` after the signal
   */
  batches(options: BatchOptions): AsyncIterable<Batch>;
}

export interface BatchOptions {
  /** Rows in a batch. */
  readonly size: number;
  /** Indices of the rows wanted, ascending and without repetition; all by default. */
  readonly select?: Selection;
  readonly signal?: AbortSignal;
}

/** The first `count` rows, or the rows with these indices. */
export type Selection = { readonly count: number } | { readonly indices: Int32Array };

export interface Batch {
  /** Index in the data set of the first row. */
  readonly first: number;
  readonly count: number;
  /** `count` rows one after the other, each `shape` in row-major order. Not reused: the consumer may keep it. */
  readonly rows: Uint8Array | Float32Array;
  /** Class of each row; null where the data set has no labels. */
  readonly labels: Int32Array | null;
}

/** What `openDataset` may be told about the rows that are wanted. */
export interface DatasetOptions {
  readonly split?: Split;
  /** Images are brought to this size. Required for folders of images whose sizes differ. */
  readonly resize?: Resize;
  /** For image files: decode to grey (1) or colour (3, the default). Arrays keep the channels that they have. */
  readonly channels?: 1 | 3;
  readonly signal?: AbortSignal;
}

/** Stretch to height x width; or scale the shorter side to `short`, then cut the centre `crop` x `crop` out. */
export type Resize =
  | { readonly height: number; readonly width: number }
  | { readonly short: number; readonly crop: number };
