/**
 * Functions that are called again and again with other batches, and state that lives between the calls (weights, what
 * the optimizer remembers, running statistics). On onnxruntime a step is one run of one session, and the state changes
 * places between two sets of buffers; on the other backends tfjs runs it operation by operation.
 */
import type { NdArray } from '../eval/session.ts';
import { elementCount } from '../graph/tensor.ts';
import { type Compiled, compile, OnnxRuntimeBackend } from './onnxruntime/backend.ts';
import type { LazyElement, LazyType } from './onnxruntime/lazy.ts';
import { tf } from './tf.ts';

/** Pure: makes outputs and the next state of a batch and the state, and reads no values. */
export type StepFunction = (
  batch: readonly tf.Tensor[],
  state: readonly tf.Tensor[],
) => { outputs: tf.Tensor[]; state: tf.Tensor[] };

/** float or int32. */
export interface Stepper {
  /** @returns the outputs */
  run(batch: readonly NdArray[]): Promise<NdArray[]>;
  /** Takes the last step back; only once after each. */
  undo(): void;
  /** A copy of the state. */
  read(): Promise<Float32Array[]>;
  /** Goes back to a state that was read. */
  write(state: readonly Float32Array[]): void;
  release(): Promise<void>;
}

/**
 * @param state float32 tensors; copied
 */
export function makeStepper(
  fn: StepFunction,
  state: readonly { dims: readonly number[]; data: Float32Array }[],
): Stepper {
  const backend = tf.backend();
  return backend instanceof OnnxRuntimeBackend ? compiledStepper(backend, fn, state) : eagerStepper(fn, state);
}

const typeOf = ({ elem, dims }: NdArray): LazyType => ({ elem: elem as LazyElement, dims });

function compiledStepper(
  backend: OnnxRuntimeBackend,
  fn: StepFunction,
  state: readonly { dims: readonly number[]; data: Float32Array }[],
): Stepper {
  const buffer = (fill: boolean): NdArray[] =>
    state.map(({ dims, data }) => ({
      elem: 'float',
      dims,
      data: fill ? Float32Array.from(data) : new Float32Array(elementCount(dims)),
    }));
  let [now, next] = [buffer(true), buffer(false)];
  const swap = () => {
    [now, next] = [next, now];
  };
  // One for each size of batch: the last one of an epoch may be smaller.
  const traces = new Map<string, Promise<Compiled>>();
  const trace = (batch: readonly NdArray[]): Promise<Compiled> => {
    const key = batch.map(({ dims }) => dims.join('x')).join(';');
    const kept = traces.get(key);
    if (kept) return kept;
    const made = compile(
      backend,
      (args) => {
        const { outputs, state: after } = fn(args.slice(0, batch.length), args.slice(batch.length));
        return [...outputs, ...after];
      },
      [...batch, ...now].map(typeOf),
    );
    traces.set(key, made);
    return made;
  };
  return {
    async run(batch) {
      const compiled = await trace(batch);
      const outputs = compiled.outputs.length - state.length;
      const into = new Map(next.map((array, i) => [outputs + i, array]));
      const results = await compiled.run([...batch, ...now], into);
      swap();
      return results.slice(0, outputs);
    },
    undo: swap,
    read: async () => now.map(({ data }) => Float32Array.from(data as Float32Array)),
    write: (values) => {
      for (const [i, { data }] of now.entries()) (data as Float32Array).set(values[i] as Float32Array);
    },
    release: async () => {
      for (const compiled of traces.values()) await (await compiled).release();
      traces.clear();
    },
  };
}

function eagerStepper(fn: StepFunction, state: readonly { dims: readonly number[]; data: Float32Array }[]): Stepper {
  let now = state.map(({ dims, data }) => tf.tensor(Float32Array.from(data), [...dims]));
  let before: tf.Tensor[] = [];
  return {
    async run(batch) {
      const { outputs, state: after } = tf.tidy(() =>
        fn(
          batch.map(({ elem, dims, data }) =>
            tf.tensor(data as Float32Array, [...dims], elem === 'int32' ? 'int32' : 'float32'),
          ),
          now,
        ),
      );
      tf.dispose(before);
      [before, now] = [now, after];
      const results: NdArray[] = [];
      for (const output of outputs)
        results.push({
          elem: output.dtype === 'int32' ? 'int32' : 'float',
          dims: output.shape,
          data: await output.data(),
        });
      tf.dispose(outputs);
      return results;
    },
    undo() {
      tf.dispose(now);
      [now, before] = [before, []];
    },
    read: async () => {
      const values: Float32Array[] = [];
      for (const tensor of now) values.push(Float32Array.from((await tensor.data()) as Float32Array));
      return values;
    },
    write(values) {
      tf.dispose(now);
      now = state.map(({ dims }, i) => tf.tensor(Float32Array.from(values[i] as Float32Array), [...dims]));
    },
    release: async () => {
      tf.dispose([...now, ...before]);
      [now, before] = [[], []];
    },
  };
}
