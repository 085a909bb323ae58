/**
 * The tfjs backend `onnxruntime`. Its kernels compute nothing: each records ONNX nodes (`lazy.ts`). Reading a tensor
 * compiles everything that is pending and alive into one model, keeps its session under the graph's signature, and runs
 * it. `compile` makes a function of a whole training step: traced once, then one run of one session a call.
 */
import { type DataId, KernelBackend, type TensorInfo } from '@tensorflow/tfjs-core';
import { SisyphusError } from '../../errors.ts';
import { CPU, type Device } from '../../eval/device.ts';
import { type NdArray, type NdData, openSession, type Session } from '../../eval/session.ts';
import { elementCount } from '../../graph/tensor.ts';
import { serialize } from '../../graph/write.ts';
import { tf } from '../tf.ts';
import { BATCH_NORM_KERNELS } from './batch-norm.ts';
import { CONV_KERNELS } from './conv.ts';
import { KERNELS } from './kernels.ts';
import { argument, known, type LazyElement, type LazyTensor, type LazyType, record } from './lazy.ts';
import { POOL_KERNELS } from './pool.ts';

const ALL_KERNELS = { ...KERNELS, ...CONV_KERNELS, ...POOL_KERNELS, ...BATCH_NORM_KERNELS };

export const BACKEND = 'onnxruntime';

const ELEMENTS: Readonly<Record<string, LazyElement>> = { float32: 'float', int32: 'int32', bool: 'bool' };
const DTYPES = { float: 'float32', int32: 'int32', bool: 'bool', int64: 'int32' } as const;

export interface BackendOptions {
  readonly device?: Device;
  readonly threads?: number | undefined;
}

/** What a tensor of tfjs stands for, and how many tensors share it. */
interface Stored {
  readonly tensor: LazyTensor;
  references: number;
}

/** Sessions that are kept for graphs that may come again; the training step has its own. */
const KEPT_SESSIONS = 24;

export class OnnxRuntimeBackend extends KernelBackend {
  private readonly stored = new Map<DataId, Stored>();
  private readonly sessions = new Map<string, Promise<Session>>();
  readonly options: BackendOptions;

  constructor(options: BackendOptions) {
    super();
    this.options = options;
  }

  /** The recorded tensor of a tfjs tensor, in the shape that the tensor has. */
  lazy(info: TensorInfo): LazyTensor {
    const entry = this.stored.get(info.dataId);
    if (!entry) throw new SisyphusError('internal', `a tensor of another backend or a disposed one: [${info.shape}]`);
    return entry.tensor;
  }

  /** Gives a recorded tensor to tfjs. */
  give(tensor: LazyTensor): TensorInfo {
    const dataId = {};
    this.stored.set(dataId, { tensor, references: 1 });
    return { dataId, shape: [...tensor.dims], dtype: DTYPES[tensor.elem] };
  }

  override write(values: Parameters<KernelBackend['write']>[0], shape: number[], dtype: string): DataId {
    const dataId = {};
    this.move(dataId, values, shape, dtype, 1);
    return dataId;
  }

  override move(
    dataId: DataId,
    values: Parameters<KernelBackend['write']>[0],
    shape: number[],
    dtype: string,
    references: number,
  ): void {
    const elem = ELEMENTS[dtype];
    if (!elem) throw new SisyphusError('unsupported', `tensors of ${dtype} can't be trained with`);
    this.stored.set(dataId, { tensor: known(elem, shape, values as NdData), references });
  }

  override async read(dataId: DataId): Promise<Float32Array> {
    const { tensor } = this.stored.get(dataId) as Stored;
    if (!tensor.data) await this.compute();
    if (!tensor.data) throw new SisyphusError('internal', 'the argument of a compiled function has no values to read');
    return tensor.data as Float32Array;
  }

  /** Of what is computed already. @throws SisyphusError `internal` where it is not: onnxruntime answers with promises */
  override readSync(dataId: DataId): Float32Array {
    const { tensor } = this.stored.get(dataId) as Stored;
    if (!tensor.data) throw new SisyphusError('internal', 'use data(), not dataSync(): nothing is computed yet');
    return tensor.data as Float32Array;
  }

  override disposeData(dataId: DataId, force = false): boolean {
    const entry = this.stored.get(dataId);
    if (entry && --entry.references > 0 && !force) return false;
    this.stored.delete(dataId);
    return true;
  }

  override refCount(dataId: DataId): number {
    return this.stored.get(dataId)?.references ?? 0;
  }

  override incRef(dataId: DataId): void {
    (this.stored.get(dataId) as Stored).references++;
  }

  override numDataIds(): number {
    return this.stored.size;
  }

  override memory(): { unreliable: boolean } {
    return { unreliable: false };
  }

  override floatPrecision(): 32 {
    return 32;
  }

  override epsilon(): number {
    return 1e-7;
  }

  override timerAvailable(): boolean {
    return false;
  }

  override dispose(): void {
    for (const session of this.sessions.values()) session.then((s) => s.release()).catch(() => {});
    this.sessions.clear();
    this.stored.clear();
  }

  /** Everything that is pending and alive, in one run. */
  private async compute(): Promise<void> {
    const pending = [...new Set([...this.stored.values()].map(({ tensor }) => tensor).filter(({ node }) => node))];
    const recording = record(pending);
    const session = await this.session(recording.signature, () => serialize(recording.model()));
    const results = await session.run(
      new Map(recording.inputs.map(({ elem, dims, data }, i) => [`i${i}`, { elem, dims, data } as NdArray])),
    );
    for (const [i, tensor] of pending.entries()) {
      tensor.data = (results.get(`o${i}`) as NdArray).data;
      tensor.node = null; // what it was made of can go
    }
  }

  private session(signature: string, model: () => Uint8Array): Promise<Session> {
    const kept = this.sessions.get(signature);
    this.sessions.delete(signature);
    const session = kept ?? this.open(model());
    this.sessions.set(signature, session); // the last one in the order of use
    for (const [oldest, old] of this.sessions) {
      if (this.sessions.size <= KEPT_SESSIONS) break;
      this.sessions.delete(oldest);
      old.then((s) => s.release()).catch(() => {});
    }
    return session;
  }

  open(model: Uint8Array): Promise<Session> {
    const { device = CPU, threads } = this.options;
    return openSession(model, { name: 'training step', device, threads });
  }
}

export interface Compiled {
  /** Types of the results, in order. */
  readonly outputs: readonly LazyType[];
  /**
   * @param args in the order and of the types of the trace
   * @param into memory for results by their index, which is written to instead of new memory
   */
  run(args: readonly NdArray[], into?: ReadonlyMap<number, NdArray>): Promise<NdArray[]>;
  release(): Promise<void>;
}

/**
 * Traces a function of tensors once, and makes one session of it.
 * @param fn calls tfjs operations on its arguments, and reads no values
 * @throws SisyphusError `unsupported` where onnxruntime can't load the result
 */
export async function compile(
  backend: OnnxRuntimeBackend,
  fn: (args: tf.Tensor[]) => tf.Tensor[],
  types: readonly LazyType[],
): Promise<Compiled> {
  const args = types.map(argument);
  const targets: LazyTensor[] = [];
  tf.tidy(() => {
    const engine = tf.engine();
    const given = args.map((arg) => engine.makeTensorFromTensorInfo(backend.give(arg), backend));
    for (const result of fn(given)) targets.push(backend.lazy(result));
  });
  const session = await backend.open(serialize(record(targets, args, true).model()));
  const names = targets.map((_, i) => `o${i}`);
  return {
    outputs: targets.map(({ elem, dims }) => ({ elem, dims })),
    async run(values, into) {
      const feeds = new Map(values.map((value, i) => [`i${i}`, value]));
      const memory = into && new Map([...into].map(([i, array]) => [`o${i}`, array]));
      const results = await session.run(feeds, names, memory);
      return names.map((name) => results.get(name) as NdArray);
    },
    release: () => session.release(),
  };
}

/** Registers the backend and its kernels; another registration replaces the first. */
export function registerOnnxRuntime(options: BackendOptions = {}): OnnxRuntimeBackend {
  if (tf.findBackend(BACKEND)) tf.removeBackend(BACKEND);
  const backend = new OnnxRuntimeBackend(options);
  tf.registerBackend(BACKEND, () => backend, 0);
  for (const [kernelName, kernel] of Object.entries(ALL_KERNELS)) {
    if (tf.getKernel(kernelName, BACKEND)) continue;
    tf.registerKernel({
      kernelName,
      backendName: BACKEND,
      kernelFunc: ({ inputs, attrs = {}, backend: self }) => kernel(self as OnnxRuntimeBackend, inputs, attrs),
    });
  }
  return backend;
}

export const sizeOf = ({ dims }: LazyType): number => elementCount(dims);
