/** What a kernel of the backend is: a function that records nodes for what tfjs asks for. */
import type { NamedAttrMap, NamedTensorInfoMap, TensorInfo } from '@tensorflow/tfjs-core';
import type { BackendOptions } from './backend.ts';
import type { LazyTensor } from './lazy.ts';

/** What kernels need of the backend. */
export interface Recorder {
  /** What the device does fast is not the same for all. */
  readonly options: BackendOptions;
  /** The recorded tensor behind a tensor of tfjs. */
  lazy(info: TensorInfo): LazyTensor;
  /** Gives a recorded tensor to tfjs. */
  give(tensor: LazyTensor): TensorInfo;
}

export type Kernel = (
  recorder: Recorder,
  inputs: NamedTensorInfoMap,
  attributes: NamedAttrMap,
) => TensorInfo | TensorInfo[];

export type Kernels = Readonly<Record<string, Kernel>>;

/** A kernel of the form: the recorded tensors with these names in, one recorded tensor out. */
export const kernel =
  <const Names extends readonly string[]>(
    names: Names,
    make: (inputs: { readonly [I in keyof Names]: LazyTensor }, attributes: NamedAttrMap) => LazyTensor,
  ): Kernel =>
  (recorder, inputs, attributes) => {
    const lazy = names.map((name) => recorder.lazy(inputs[name] as TensorInfo));
    return recorder.give(make(lazy as { readonly [I in keyof Names]: LazyTensor }, attributes));
  };
