/**
 * Rows of a data set as the input of a model: which layout it takes, and the nodes that bring them there. Scaling and
 * transposing bytes in onnxruntime costs a twentieth of what it costs here, and bytes are what is handed over.
 */
import { type Batch, type Dataset, LAYOUTS, type Layout } from '../data/dataset.ts';
import { affineOf, formatNormalize, type Normalize } from '../data/normalize.ts';
import { didYouMean, SisyphusError } from '../errors.ts';
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import { addConstant, addNode, replaceInput } from '../graph/edit.ts';
import type { Attribute, Dim, ElementType, Model, TensorType, Value } from '../graph/ir.ts';
import { elementCode, elementCount, FLOAT_TYPES, makeTensor, type Tensor } from '../graph/tensor.ts';
import type { NdArray } from './session.ts';

/** @throws SisyphusError `usage` */
export function parseLayout(text: string): Layout {
  const layout = LAYOUTS.find((candidate) => candidate === text);
  if (layout) return layout;
  throw new SisyphusError('usage', `--layout: unknown layout '${text}'${didYouMean(text, LAYOUTS)}`);
}

export interface InputPlan {
  readonly layout: Layout;
  /**
   * Adds the nodes in front of the model's input, which keeps its name and becomes an intermediate value.
   * @returns the name of the input that takes rows as the data set has them
   */
  attach(model: Model): string;
  /** A batch as the new input takes it. `count` may be more than the batch has: the last row is repeated. */
  feed(batch: Batch, count: number): NdArray;
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
  const target = layout && targetShape(layout, chw, wanted, request.layout !== undefined);
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
  const { factor, offset } = affineOf(normalize, channels, dataset.elem !== 'float');
  const identical = factor.every((f) => f === 1) && offset.every((o) => o === 0);
  if (!FLOAT_TYPES.has(elem) && !(identical && dataset.elem !== 'float'))
    throw new SisyphusError(
      'usage',
      `${where}: its input '${input}' holds ${elem}, ${dataset.elem === 'float' ? 'which floating-point data do not suit' : `which --normalize ${formatNormalize(normalize)} does not give; give --normalize raw`}`,
    );
  return {
    layout,
    attach: (model) => attach(model, { request, layout, target, elem, factor, offset, identical }),
    feed: (batch, count) => ({
      elem: dataset.elem === 'uint8' ? 'uint8' : 'float',
      dims: [count, ...dataset.shape],
      data: padded(batch.rows, elementCount(dataset.shape), batch.count, count),
    }),
  };
}

interface Attachment {
  readonly request: InputRequest;
  readonly layout: Layout;
  readonly target: readonly number[];
  readonly elem: ElementType;
  /** y = factor[c] * x + offset[c] */
  readonly factor: Float64Array;
  readonly offset: Float64Array;
  readonly identical: boolean;
}

/** What all nodes that are put in front of a model are called by. */
export const PREPROCESSING_PREFIX = 'sisyphus/preprocess';

function attach(model: Model, { request, layout, target, elem, factor, offset, identical }: Attachment): string {
  const { dataset, input: name } = request;
  const body = model.graph;
  const old = body.inputs.find(({ value }) => value.name === name)?.value;
  if (!old) throw new SisyphusError('internal', `no input '${name}'`);
  const [first = null] = old.declared?.shape ?? [];
  const given: ElementType = dataset.elem === 'uint8' ? 'uint8' : 'float';
  const before = body.nodes[0] ?? null;
  const steps: { op: string; attributes?: Attribute[]; constant?: Tensor }[] = [];
  const cast = (to: ElementType) => steps.push({ op: 'Cast', attributes: [intAttribute('to', elementCode(to))] });
  if (!identical && given !== 'float') cast('float');
  if (!identical) {
    // One number for all channels needs no shape.
    const shape = factor.length === 1 ? [] : dataset.layout === 'hwc' ? [factor.length] : [factor.length, 1, 1];
    steps.push({ op: 'Mul', constant: makeTensor(`${PREPROCESSING_PREFIX}/factor`, 'float', shape, factor) });
    steps.push({ op: 'Add', constant: makeTensor(`${PREPROCESSING_PREFIX}/offset`, 'float', shape, offset) });
  }
  if ((identical ? given : 'float') !== elem) cast(elem);
  // Rows are stored as 'hwc' or planar; 'flat' numbers go channel by channel.
  const [from, to] = [dataset.layout === 'hwc' ? 'nhwc' : 'nchw', layout === 'nhwc' ? 'nhwc' : 'nchw'];
  const image = dataset.shape.length === 3;
  if (image && from !== to)
    steps.push({ op: 'Transpose', attributes: [intsAttribute('perm', to === 'nchw' ? [0, 3, 1, 2] : [0, 2, 3, 1])] });
  const [a = 1, b = 1, c = 1] = dataset.shape;
  const arranged = !image || from === to ? dataset.shape : to === 'nchw' ? [c, a, b] : [b, c, a];
  if (`${arranged}` !== `${target}`)
    steps.push({
      op: 'Reshape',
      constant: makeTensor(`${PREPROCESSING_PREFIX}/shape`, 'int64', [target.length + 1], [-1, ...target]),
    });
  if (steps.length === 0) return name;
  const input = replaceInput(model, old, PREPROCESSING_PREFIX, { elem: given, shape: [first, ...dataset.shape] });
  let x = input;
  for (const [i, { op, attributes = [], constant }] of steps.entries()) {
    const inputs = constant ? [x, addConstant(model, body, constant, before)] : [x];
    const outputs = i === steps.length - 1 ? [old] : 1;
    x = addNode(model, body, { op, name: `${PREPROCESSING_PREFIX}/${op}`, inputs, attributes, outputs }, before)
      .outputs[0] as Value;
  }
  return input.name;
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
  return targetShape('flat', chw, wanted, false) ? 'flat' : null;
}

/** The row's shape in that layout, where the model takes it. @param asked nothing is guessed: the user chose it */
function targetShape(layout: Layout, chw: readonly number[], wanted: readonly Dim[], asked: boolean): number[] | null {
  if (layout === 'nchw') return fits(chw, wanted) ? [...chw] : null;
  if (layout === 'nhwc') return chw.length === 3 && fits(interleaved(chw), wanted) ? interleaved(chw) : null;
  const size = elementCount(chw);
  const open = wanted.filter((dim) => typeof dim !== 'number').length;
  const known = elementCount(wanted.filter((dim) => typeof dim === 'number'));
  if (open > 1 || (open === 0 ? known !== size : size % known !== 0)) return null;
  // Two dimensions or more beyond 1 that are not those of the image would be a guess.
  if (!asked && wanted.filter((dim) => dim !== 1).length > 1 && !fits(squeeze(chw), squeeze(wanted))) return null;
  return wanted.map((dim) => (typeof dim === 'number' ? dim : size / known));
}

const squeeze = <T extends Dim>(dims: readonly T[]) => dims.filter((dim) => dim !== 1);

function mismatch({ dataset, input, where, layout }: InputRequest, chw: readonly number[], wanted: readonly Dim[]) {
  const shown = `[${['N', ...wanted.map((dim) => dim ?? '?')].join(',')}]`;
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
      : wanted.length === 3 && chw.length === 3
        ? `choose data with as many channels${fitsSize(wanted, chw) ? '' : ', and give --resize HxW'}`
        : `choose a data set with rows of that shape${chw.length === 3 ? ', or bring them there with --resize HxW' : ''}`;
  return new SisyphusError(
    'usage',
    `${where}: its input '${input}' takes ${shown}, but the rows of ${dataset.name} are ${rows}: ${hint}`,
  );
}

/** Do the two have the same sizes, whichever of them is the channels? */
const fitsSize = (wanted: readonly Dim[], [, height, width]: readonly number[]): boolean =>
  [wanted.slice(1), wanted.slice(0, 2)].some(([h, w]) => h === height && w === width);

function padded(rows: Batch['rows'], size: number, have: number, count: number): Batch['rows'] {
  if (have === count) return rows;
  const longer = rows instanceof Uint8Array ? new Uint8Array(count * size) : new Float32Array(count * size);
  longer.set(rows);
  for (let i = have; i < count; i++) longer.copyWithin(i * size, (have - 1) * size, have * size);
  return longer;
}
