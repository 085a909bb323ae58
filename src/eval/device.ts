/** Where a session computes: `--device auto|cpu|cuda[:n]|webgpu`. */
import { didYouMean, SisyphusError } from '../errors.ts';

export type Device =
  | { readonly kind: 'cpu' }
  | { readonly kind: 'webgpu' }
  /** `index` counts the graphics cards that CUDA sees. */
  | { readonly kind: 'cuda'; readonly index: number };

export const CPU: Device = { kind: 'cpu' };

/** @returns 'auto', or the device that is asked for. @throws SisyphusError `usage` */
export function parseDevice(text: string): Device | 'auto' {
  if (text === 'auto' || text === 'cpu' || text === 'webgpu') return text === 'auto' ? text : { kind: text };
  const cuda = /^cuda(?::(\d{1,3}))?$/.exec(text);
  if (cuda) return { kind: 'cuda', index: Number(cuda[1] ?? 0) };
  throw new SisyphusError(
    'usage',
    `--device: '${text}' is no device${didYouMean(text, ['auto', 'cpu', 'cuda', 'cuda:0', 'webgpu'])}`,
  );
}

export const formatDevice = (device: Device): string => (device.kind === 'cuda' ? `cuda:${device.index}` : device.kind);

/** What to do where a device can't be used, for error messages. */
export function deviceHint(device: Device): string {
  if (device.kind === 'cuda')
    return "onnxruntime's CUDA provider is not installed or can't be loaded: `npm run setup:cuda` fetches it (Linux x64; CUDA 12 and cuDNN 9 must be installed), or take --device cpu";
  if (device.kind === 'webgpu')
    return 'WebGPU found no graphics adapter that it can use: on Linux it takes a graphics card and its Vulkan driver (libvulkan1); or take --device cpu';
  return '';
}
