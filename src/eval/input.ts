/** Rows of a data set as the input of a model: which layout it takes, and the conversion. */
import type { Batch, Dataset } from '../data/dataset.ts';
import { affineOf, formatNormalize, type Normalize } from '../data/normalize.ts';
import { didYouMean, SisyphusError } from '../errors.ts';
import type { Dim, ElementType, TensorType } from '../graph/ir.ts';
import { elementCount } from '../graph/tensor.ts';
import { arrayFromNumbers, type NdArray } from './session.ts';

/** 'flat': the numbers of a row in the order channel, row, column, whatever shape the model gives them. */
export const LAYOUTS = ['nchw', 'nhwc', 'flat'] as const;
export type Layout = (typeof LAYOUTS)[number];

/** @throws SisyphusError `usage` */
export function parseLayout(text: string): Layout {
  const layout = LAYOUTS.find((candidate) => candidate === text);
  if (layout) return layout;
  throw new SisyphusError('usage', `--layout: unknown layout '${text}'${didYouMean(text, LAYOUTS)}`);
}

export interface InputPlan {
  readonly layout: Layout;
  /** Shape of the input for a number of rows. */
  dims(count: number): number[];
  /** `count` rows may be more than the batch has: the last one is repeated. */
  convert(batch: Batch, count: number): NdArray;
}

export interface InputRequest {
  readonly dataset: Pick<Dataset, 'name' | 'shape' | 'layout' | 'elem'>;
  /** Name and type of the model's input; its leading dimension is the batch. */
  readonly input: string;
  readonly type: TensorType;
  readonly normalize: Normalize;
  /** Default: found from the shapes. */
  readonly layout?: Layout | undefined;
  /** What errors call the model. */
  readonly where: string;
}

/**
 * Matches a row of the data set with the model's input.
 * @throws SisyphusError `usage` where they don't fit; it shows both shapes and the option that would help
 */
export function planInput(request: InputRequest): InputPlan {
  const { dataset, type, normalize, where, input } = request;
  const { elem, shape } = type;
  if (!elem || !shape || shape.length === 0)
    throw new SisyphusError('usage', `${where}: its input '${input}' states no shape with a batch dimension`);
  const wanted = shape.slice(1);
  const chw = planarShape(dataset);
  const layout = request.layout ?? findLayout(chw, wanted);
  const target = layout && targetShape(layout, chw, wanted);
  if (!layout || !target) throw mismatch(request, chw, wanted);
  const channels = chw.length === 3 ? (chw[0] as number) : 1;
  for (const [name, list] of [
    ['mean', normalize.mean],
    ['std', normalize.std],
  ] as const)
    if (list.length > 1 && list.length !== channels)
      throw new SisyphusError(
        'usage',
        `--normalize: ${name} has ${list.length} numbers, but the data have ${channels} channel${channels === 1 ? '' : 's'}`,
      );
  const size = elementCount(dataset.shape);
  const fill = filler(dataset, chw, layout, normalize, elem);
  const dims = (count: number) => [count, ...target];
  return {
    layout,
    dims,
    convert(batch, count) {
      const rows = padded(batch.rows, size, batch.count, count);
      return fill(rows, dims(count));
    },
  };
}

/** Images as [channels, height, width] whichever way they are stored; other rows as they are. */
function planarShape({ layout, shape }: InputRequest['dataset']): readonly number[] {
  if (layout !== 'hwc') return shape;
  const [height = 1, width = 1, channels = 1] = shape;
  return [channels, height, width];
}

const fits = (have: readonly number[], wanted: readonly Dim[]): boolean =>
  have.length === wanted.length && have.every((size, i) => typeof wanted[i] !== 'number' || wanted[i] === size);

const interleaved = ([channels = 1, height = 1, width = 1]: readonly number[]) => [height, width, channels];

function findLayout(chw: readonly number[], wanted: readonly Dim[]): Layout | null {
  if (fits(chw, wanted)) return 'nchw';
  if (chw.length === 3 && fits(interleaved(chw), wanted)) return 'nhwc';
  return targetShape('flat', chw, wanted) ? 'flat' : null;
}

/** The row's shape in that layout, where the model takes it. */
function targetShape(layout: Layout, chw: readonly number[], wanted: readonly Dim[]): number[] | null {
  if (layout === 'nchw') return fits(chw, wanted) ? [...chw] : null;
  if (layout === 'nhwc') return chw.length === 3 && fits(interleaved(chw), wanted) ? interleaved(chw) : null;
  const size = elementCount(chw);
  const open = wanted.filter((dim) => typeof dim !== 'number').length;
  const known = elementCount(wanted.filter((dim) => typeof dim === 'number'));
  if (open > 1 || (open === 0 ? known !== size : size % known !== 0)) return null;
  // Two dimensions or more beyond 1 that are not those of the image would be a guess.
  if (wanted.filter((dim) => dim !== 1).length > 1 && !fits(squeeze(chw), squeeze(wanted))) return null;
  return wanted.map((dim) => (typeof dim === 'number' ? dim : size / known));
}

const squeeze = <T extends Dim>(dims: readonly T[]) => dims.filter((dim) => dim !== 1);

function mismatch({ dataset, input, where, layout }: InputRequest, chw: readonly number[], wanted: readonly Dim[]) {
  const shown = `[N,${wanted.map((dim) => dim ?? '?').join(',')}]`;
  const rows = `[N,${dataset.shape.join(',')}]`;
  const [channels, height, width] = chw;
  const spatial = ([c, h, w]: readonly Dim[]) =>
    c === channels && typeof h === 'number' && typeof w === 'number' && (h !== height || w !== width)
      ? `${h}x${w}`
      : null;
  const resize =
    chw.length === 3 && wanted.length === 3
      ? (spatial(wanted) ?? spatial([2, 0, 1].map((i) => wanted[i] ?? null)))
      : null;
  const hint = resize
    ? `give --resize ${resize}`
    : layout
      ? `--layout ${layout} does not suit it`
      : `choose a data set with rows of that shape${chw.length === 3 ? ', or bring them there with --resize HxW' : ''}`;
  return new SisyphusError(
    'usage',
    `${where}: its input '${input}' takes ${shown}, but the rows of ${dataset.name} are ${rows}: ${hint}`,
  );
}

function padded(rows: Batch['rows'], size: number, have: number, count: number): Batch['rows'] {
  if (have === count) return rows;
  const longer = rows instanceof Uint8Array ? new Uint8Array(count * size) : new Float32Array(count * size);
  longer.set(rows);
  for (let i = have; i < count; i++) longer.copyWithin(i * size, (have - 1) * size, have * size);
  return longer;
}

type Fill = (rows: Batch['rows'], dims: number[]) => NdArray;

/** The conversion of whole batches, made once: a table of 256 values per channel for bytes, else one multiply-add. */
function filler(
  dataset: InputRequest['dataset'],
  chw: readonly number[],
  layout: Layout,
  normalize: Normalize,
  elem: ElementType,
): Fill {
  const channels = chw.length === 3 ? (chw[0] as number) : 1;
  const plane = elementCount(chw) / channels;
  const pixels = dataset.elem === 'uint8';
  const { factor, offset } = affineOf(normalize, channels, pixels);
  const identical = [...factor].every((f) => f === 1) && [...offset].every((o) => o === 0);
  const sourceStride = dataset.layout === 'hwc' ? channels : 1;
  const targetStride = layout === 'nhwc' ? channels : 1;
  const tables = Array.from({ length: pixels ? channels : 0 }, (_, c) =>
    Float32Array.from({ length: 256 }, (_, v) => (factor[c] as number) * v + (offset[c] as number)),
  );
  const toFloats = (rows: Batch['rows']): Float32Array => {
    const out = new Float32Array(rows.length);
    const size = channels * plane;
    for (let row = 0; row < rows.length; row += size)
      for (let c = 0; c < channels; c++) {
        let from = row + (sourceStride === 1 ? c * plane : c);
        let to = row + (targetStride === 1 ? c * plane : c);
        const table = rows instanceof Uint8Array ? tables[c] : undefined;
        if (table)
          for (let i = 0; i < plane; i++, from += sourceStride, to += targetStride)
            out[to] = table[rows[from] as number] as number;
        else {
          const [f, o] = [factor[c] as number, offset[c] as number];
          for (let i = 0; i < plane; i++, from += sourceStride, to += targetStride)
            out[to] = f * (rows[from] as number) + o;
        }
      }
    return out;
  };
  if (elem === 'float') return (rows, dims) => ({ elem, dims, data: toFloats(rows) });
  if (elem === 'float16' || elem === 'double' || elem === 'bfloat16')
    return (rows, dims) => arrayFromNumbers(elem, dims, toFloats(rows));
  if (elem !== 'uint8' || !pixels || !identical)
    throw new SisyphusError(
      'usage',
      `the model's input holds ${elem}, which ${dataset.elem === 'uint8' ? `--normalize ${formatNormalize(normalize)} does not give; ${elem === 'uint8' ? 'give --normalize raw' : 'choose another model or convert its input'}` : 'floating-point data do not suit'}`,
    );
  return (rows, dims) => ({ elem, dims, data: Uint8Array.from(toFloats(rows), Math.round) });
}
