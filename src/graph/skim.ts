/**
 * Reads a large model file without its weights. `raw_data` of the main graph's initializers stays in the file, as ranges;
 * everything else goes into a buffer that is decoded as usual.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import path from 'node:path';
import { type FileRange, fileStamp, readFully, standIn } from './ranges.ts';
import { decodeModel, type ModelProto } from './wire.ts';

/** Sizes in bytes from which on files are skimmed, and tensors left in them. */
export interface SkimLimits {
  readonly file: number;
  readonly tensor: number;
}
export const SKIM_LIMITS: SkimLimits = { file: 2 ** 26, tensor: 2 ** 20 };

// Field numbers of ModelProto, GraphProto and TensorProto.
const GRAPH = 7;
const INITIALIZER = 5;
const RAW_DATA = 9;

/**
 * Decodes a file with its large weights left out.
 * @returns null where there are none, or where anything is odd: reading all of the file tells what is wrong with it
 */
export function skimModel(file: string, minimum: number): ModelProto | null {
  let handle: number | undefined;
  try {
    handle = openSync(file, 'r');
    const stat = fstatSync(handle);
    if (!stat.isFile()) return null;
    const found = findWeights(handle, stat.size, minimum);
    if (!found || found.weights.length === 0) return null;
    const proto = decodeModel(withoutWeights(handle, stat.size, found), file);
    const stamp = fileStamp(stat);
    if (fileStamp(fstatSync(handle)) !== stamp) return null;
    return attach(proto, found, { path: path.resolve(file), stamp }) ? proto : null;
  } catch {
    return null;
  } finally {
    if (handle !== undefined) closeSync(handle);
  }
}

/** A length-delimited field: where its length is written, and its bytes. */
interface Span {
  readonly lengthAt: number;
  readonly start: number;
  readonly end: number;
}
interface Weight {
  /** Which of the initializers. */
  readonly index: number;
  readonly tensor: Span;
  readonly data: Span;
}
interface Found {
  readonly graph: Span;
  readonly initializers: number;
  /** In file order. */
  readonly weights: readonly Weight[];
}

/** Looks at tags and lengths alone. null: messages that occur twice are merged, which this does not do. */
function findWeights(handle: number, size: number, minimum: number): Found | null {
  const source = new Source(handle);
  const graphs = [...source.fields(0, size, GRAPH)];
  const [graph] = graphs;
  if (!graph || graphs.length > 1) return null;
  const weights: Weight[] = [];
  let initializers = 0;
  for (const tensor of source.fields(graph.start, graph.end, INITIALIZER)) {
    const index = initializers++;
    if (tensor.end - tensor.start < minimum) continue;
    const fields = [...source.fields(tensor.start, tensor.end, RAW_DATA)];
    const [data] = fields;
    if (fields.length > 1) return null;
    if (data && data.end - data.start >= minimum) weights.push({ index, tensor, data });
  }
  return { graph, initializers, weights };
}

/** The file without the weights. Lengths keep their width, padded with zero groups, so that nothing else moves. */
function withoutWeights(handle: number, size: number, { graph, weights }: Found): Buffer {
  const lengths = weights.map(({ data }) => data.end - data.start);
  const left = lengths.reduce((sum, length) => sum + length, 0);
  const bytes = Buffer.allocUnsafe(size - left);
  let from = 0; // in the file
  let to = 0; // in `bytes`
  const copyUntil = (end: number) => {
    if (!readFully(handle, bytes.subarray(to, to + end - from), from)) throw new RangeError('the file became shorter');
    to += end - from;
  };
  const shorten = ({ lengthAt, start, end }: Span, by: number) => {
    let rest = end - start - by;
    const last = start - 1 - from + to; // how far its end is from the place that was copied last
    for (let at = last - (start - 1 - lengthAt); at <= last; at++, rest >>>= 7)
      bytes[at] = at < last ? (rest & 127) | 128 : rest;
  };
  for (const [i, { tensor, data }] of weights.entries()) {
    copyUntil(data.start);
    from = data.start;
    if (i === 0) shorten(graph, left);
    shorten(tensor, lengths[i] ?? 0);
    shorten(data, lengths[i] ?? 0);
    from = data.end;
  }
  copyUntil(size);
  return bytes;
}

/** Links the decoded tensors to their data. @returns whether the decoder saw the same fields */
function attach(proto: ModelProto, found: Found, file: Pick<FileRange, 'path' | 'stamp'>): boolean {
  const tensors = proto.graph?.initializer ?? [];
  if (tensors.length !== found.initializers) return false;
  return found.weights.every(({ index, data }) => {
    const tensor = tensors[index];
    if (!tensor || !Object.hasOwn(tensor, 'raw_data') || tensor.raw_data?.length !== 0) return false;
    tensor.raw_data = standIn({ ...file, offset: data.start, length: data.end - data.start });
    return true;
  });
}

/** Protobuf's wire format over an open file, through a small window. Throws where anything is not as usual. */
class Source {
  private readonly handle: number;
  private readonly window = Buffer.allocUnsafe(1 << 14);
  private start = 0;
  private length = 0;

  constructor(handle: number) {
    this.handle = handle;
  }

  /** All fields of that number in a message; the others are passed over. */
  *fields(start: number, end: number, wanted: number): Generator<Span> {
    for (let at = start; at < end; ) {
      const tag = this.varint(at);
      const wire = tag.value & 7;
      const number = tag.value >>> 3;
      if (number === 0 || (number === wanted && wire !== 2)) throw new RangeError('an odd field');
      const lengthAt = tag.end;
      if (wire === 0) at = this.varint(lengthAt, 10).end;
      else if (wire === 1) at = lengthAt + 8;
      else if (wire === 5) at = lengthAt + 4;
      else if (wire === 2) {
        const length = this.varint(lengthAt);
        at = length.end + length.value;
        if (number === wanted && at <= end) yield { lengthAt, start: length.end, end: at };
      } else throw new RangeError('a group');
      if (at > end) throw new RangeError('a field that ends beyond its message');
    }
  }

  /** Tags and lengths have at most five bytes, and lengths beyond 2 GiB are of no use. */
  private varint(start: number, longest = 5): { value: number; end: number } {
    let value = 0;
    for (let at = start; at < start + longest; at++) {
      const byte = this.byte(at);
      value += (byte & 127) * 2 ** (7 * (at - start));
      if (byte > 127) continue;
      if (longest === 5 && value >= 2 ** 31) break;
      return { value, end: at + 1 };
    }
    throw new RangeError('an overlong number');
  }

  private byte(at: number): number {
    if (at < this.start || at >= this.start + this.length) {
      this.start = at;
      this.length = readSync(this.handle, this.window, 0, this.window.length, at);
    }
    const byte = this.window[at - this.start];
    if (byte === undefined || at - this.start >= this.length) throw new RangeError('the end of the file');
    return byte;
  }
}
