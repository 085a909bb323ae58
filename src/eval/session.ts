/**
 * onnxruntime, behind plain data. The only file of the toolkit that imports it, and only on first use: loading the
 * native library takes longer than everything else at startup.
 */
import type { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
import { SisyphusError } from '../errors.ts';
import type { ElementType } from '../graph/ir.ts';
import {
  elementCount,
  float16ToNumber,
  fromRaw,
  makeTensor,
  rawBytes,
  type Tensor,
  toStrings,
} from '../graph/tensor.ts';
import { CPU, type Device, deviceHint, formatDevice } from './device.ts';

/** Typed arrays as onnxruntime uses them; float16 is always `Uint16Array` (bit patterns), bool is 0 and 1. */
export type NdData =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | readonly string[];

/** What goes into and comes out of a session, in row-major order. */
export interface NdArray {
  readonly elem: ElementType;
  readonly dims: readonly number[];
  readonly data: NdData;
}

export interface SessionOptions {
  /** Let onnxruntime rewrite the graph before it runs. Default true; false runs the nodes as they stand. */
  readonly optimize?: boolean;
  /** Threads for one operator. Default: onnxruntime's own choice, one for each physical core. */
  readonly threads?: number | undefined;
  /** Default: the CPU. Operators that a graphics card has no code for run on the CPU. */
  readonly device?: Device;
  /** What onnxruntime itself writes to stderr. Default 'fatal': failures arrive as errors anyway. */
  readonly logLevel?: LogLevel | undefined;
  /** What errors call the model. */
  readonly name?: string;
}

export const LOG_LEVELS = ['verbose', 'info', 'warning', 'error', 'fatal'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** A loaded model. It owns native memory: `release` it. */
export interface Session {
  /** Inputs that must be fed: those that an initializer gives a value are not among them. */
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  /**
   * @param feeds by input name; names that the model does not know are ignored
   * @param outputs those that are wanted; default all
   * @param into memory for some of them, by name: their results are written there, and no memory is taken anew
   * @throws SisyphusError `unsupported` where onnxruntime refuses or an operator fails
   */
  run(
    feeds: ReadonlyMap<string, NdArray>,
    outputs?: readonly string[],
    into?: ReadonlyMap<string, NdArray>,
  ): Promise<Map<string, NdArray>>;
  release(): Promise<void>;
}

interface TypedArrayConstructor {
  readonly BYTES_PER_ELEMENT: number;
  new (buffer: ArrayBuffer): Exclude<NdData, readonly string[]>;
}

/** onnxruntime's name for an element type, and the array that holds its elements. */
const TYPES: Partial<Record<ElementType, readonly [OrtTensor.Type, TypedArrayConstructor | null]>> = {
  float: ['float32', Float32Array],
  double: ['float64', Float64Array],
  float16: ['float16', Uint16Array],
  int8: ['int8', Int8Array],
  uint8: ['uint8', Uint8Array],
  int16: ['int16', Int16Array],
  uint16: ['uint16', Uint16Array],
  int32: ['int32', Int32Array],
  uint32: ['uint32', Uint32Array],
  int64: ['int64', BigInt64Array],
  uint64: ['uint64', BigUint64Array],
  bool: ['bool', Uint8Array],
  string: ['string', null],
};
const ELEMENTS = new Map(Object.entries(TYPES).map(([elem, [type]]) => [type, elem as ElementType]));

type Runtime = typeof import('onnxruntime-node');
let loading: Promise<Runtime> | undefined;

function runtime(): Promise<Runtime> {
  // It would report file names and hardware to its makers, and keep a database of that in the user's home.
  process.env.ORT_DISABLE_TELEMETRY ??= '1';
  loading ??= import('onnxruntime-node').then((ort) => {
    ort.env.logLevel = 'fatal'; // failures arrive as exceptions; its own log would only repeat them on stderr
    return ort;
  });
  return loading;
}

/**
 * Loads a model.
 * @param model the bytes of an ONNX file with its weights inside (`serialize(model, { inline: true })`)
 * @throws SisyphusError `unsupported` where onnxruntime can't load it
 */
export async function openSession(model: Uint8Array, options: SessionOptions = {}): Promise<Session> {
  const name = options.name ?? 'model';
  const device = options.device ?? CPU;
  const ort = await runtime();
  let native: InferenceSession;
  try {
    native = await ort.InferenceSession.create(model, {
      executionProviders: PROVIDERS[device.kind](device),
      graphOptimizationLevel: options.optimize === false ? 'disabled' : 'all',
      logSeverityLevel: LOG_LEVELS.indexOf(options.logLevel ?? 'fatal') as 0 | 1 | 2 | 3 | 4,
      ...(options.threads !== undefined && { intraOpNumThreads: options.threads }),
    });
  } catch (cause) {
    if (device.kind !== 'cpu' && NO_DEVICE.test(reasonOf(cause)))
      throw new SisyphusError('unsupported', `--device ${formatDevice(device)}: ${deviceHint(device)}`, { cause });
    throw refusal(name, "onnxruntime can't load it", cause);
  }
  return {
    inputNames: native.inputNames,
    outputNames: native.outputNames,
    async run(feeds, outputs = native.outputNames, into = new Map()) {
      const tensors: Record<string, OrtTensor> = {};
      for (const input of native.inputNames) {
        const array = feeds.get(input);
        if (!array) throw new SisyphusError('usage', `${name}: nothing is given for its input '${input}'`);
        tensors[input] = toOrt(ort, array, `${name}: input '${input}'`);
      }
      const fetches: Record<string, OrtTensor | null> = {};
      for (const output of outputs) {
        const array = into.get(output);
        fetches[output] = array ? toOrt(ort, array, `${name}: output '${output}'`) : null;
      }
      let results: InferenceSession.ReturnType;
      try {
        results = await native.run(tensors, fetches);
      } catch (cause) {
        throw refusal(name, "onnxruntime can't run it", cause);
      }
      // In the order that was asked for: an object puts names that are numbers first.
      return new Map(
        outputs
          .filter((key) => results[key])
          .map((key) => [key, fromOrt(results[key] as OrtTensor, `${name}: output '${key}'`)]),
      );
    },
    release: () => native.release(),
  };
}

type Providers = InferenceSession.ExecutionProviderConfig[];
const PROVIDERS: { readonly [K in Device['kind']]: (device: Device) => Providers } = {
  cpu: () => ['cpu'],
  webgpu: () => ['webgpu', 'cpu'],
  cuda: (device) => [{ name: 'cuda', deviceId: device.kind === 'cuda' ? device.index : 0 }, 'cpu'],
};
/** How onnxruntime 1.30 says that a provider's library, driver or hardware is missing. */
const NO_DEVICE = /AppendExecutionProvider|shared library|providers_cuda|WebGPU adapter|CUDA (failure|error)|cuDNN/i;

/**
 * The device that 'auto' stands for: the first graphics card where onnxruntime's CUDA provider works, else the CPU.
 * WebGPU is never taken unasked: without a graphics card it would be a slow emulation.
 * @returns the device and, for people, why
 */
export async function chooseDevice(wanted: Device | 'auto'): Promise<{ device: Device; why: string }> {
  if (wanted !== 'auto') return { device: wanted, why: 'as asked' };
  const cuda: Device = { kind: 'cuda', index: 0 };
  try {
    const session = await openSession(await emptyModel(), { device: cuda });
    await session.release();
    return { device: cuda, why: "onnxruntime's CUDA provider works" };
  } catch {
    return { device: CPU, why: 'no working CUDA provider (`npm run setup:cuda` fetches one)' };
  }
}

/** The smallest model that a provider can be tried with. */
async function emptyModel(): Promise<Uint8Array> {
  const { buildModel } = await import('../graph/build.ts');
  const { serialize } = await import('../graph/write.ts');
  const net = buildModel({ name: 'empty', opset: 17, irVersion: 8 });
  net.output(net.node('Identity', [net.input('x', 'float', [1])], {}, 'identity'), 'y', 'float', [1]);
  return serialize(net.model);
}

const LONGEST_REASON = 400;
/** What onnxruntime says, without the places in its own source, and no longer than anybody reads. */
function reasonOf(cause: unknown): string {
  const text = (cause instanceof Error ? cause.message : String(cause)).trim();
  const reason = text.replace(/\/onnxruntime_src\/\S+:\d+ .*?\) /g, '');
  return reason.length > LONGEST_REASON ? `${reason.slice(0, LONGEST_REASON)} …` : reason;
}

function refusal(name: string, what: string, cause: unknown): SisyphusError {
  return new SisyphusError('unsupported', `${name}: ${what}: ${reasonOf(cause)}`, { cause });
}

function toOrt(ort: Runtime, array: NdArray, where: string): OrtTensor {
  const [type] = TYPES[array.elem] ?? [];
  if (!type) throw new SisyphusError('unsupported', `${where}: onnxruntime-node takes no ${array.elem}`);
  if (array.data.length !== elementCount(array.dims))
    throw new SisyphusError('tensor', `${where}: ${array.data.length} values for the shape [${array.dims}]`);
  // The constructor is overloaded by literal type names, which a table can't express.
  return new ort.Tensor(type as 'float32', array.data as Float32Array, array.dims);
}

function fromOrt(tensor: OrtTensor, where: string): NdArray {
  const elem = ELEMENTS.get(tensor.type);
  if (!elem) throw new SisyphusError('unsupported', `${where}: elements of type ${tensor.type} can't be read`);
  const data = tensor.data as Exclude<OrtTensor.DataType, string[]>;
  // Runtimes that have Float16Array get one; the bits are what is wanted.
  const bits = elem === 'float16' && !(data instanceof Uint16Array);
  return { elem, dims: [...tensor.dims], data: bits ? new Uint16Array(bufferOf(data)) : data };
}

function bufferOf(view: ArrayBufferView): ArrayBuffer {
  const bytes = new Uint8Array(view.byteLength);
  bytes.set(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
  return bytes.buffer;
}

/**
 * An array of a numeric element type from numbers, rounded to it.
 * @throws SisyphusError `unsupported` for element types that onnxruntime-node has no array for
 */
export function arrayFromNumbers(elem: ElementType, dims: readonly number[], values: ArrayLike<number>): NdArray {
  return arrayFromTensor(makeTensor('values', elem, dims, values));
}

/** The elements as numbers; integers beyond 2^53 lose their last digits. */
export function arrayNumbers(array: NdArray): Float64Array {
  const { data } = array;
  if (array.elem === 'string') throw new SisyphusError('tensor', 'strings are no numbers');
  const numbers = new Float64Array(data.length);
  if (array.elem === 'float16') for (let i = 0; i < numbers.length; i++) numbers[i] = float16ToNumber(Number(data[i]));
  else for (let i = 0; i < numbers.length; i++) numbers[i] = Number(data[i]);
  return numbers;
}

/** A constant as session data. Copies; reads external data. */
export function arrayFromTensor(tensor: Tensor): NdArray {
  const { elem, dims } = tensor;
  const [type, Constructor] = TYPES[elem] ?? [];
  if (!type) throw new SisyphusError('unsupported', `tensor '${tensor.name}': onnxruntime-node takes no ${elem}`);
  return { elem, dims, data: Constructor ? new Constructor(bufferOf(rawBytes(tensor))) : toStrings(tensor) };
}

/**
 * Session data as a constant, without a copy of the elements.
 * @throws SisyphusError `unsupported` for strings
 */
export function tensorFromArray(name: string, array: NdArray): Tensor {
  const { elem, dims, data } = array;
  if (!ArrayBuffer.isView(data)) throw new SisyphusError('unsupported', `'${name}' holds text`);
  return fromRaw(name, elem, dims, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}
