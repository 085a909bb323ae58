/** Which tfjs backend trains: `--backend auto|tensorflow|onnxruntime|cpu`. */
import { didYouMean, SisyphusError } from '../errors.ts';
import { formatDevice, parseDevice } from '../eval/device.ts';
import { chooseDevice } from '../eval/session.ts';
import { BACKEND, registerOnnxRuntime } from './onnxruntime/backend.ts';
import { tf } from './tf.ts';

export const BACKENDS = ['auto', 'tensorflow', 'onnxruntime', 'cpu'] as const;
export type BackendName = (typeof BACKENDS)[number];

export interface BackendChoice {
  readonly name: Exclude<BackendName, 'auto'>;
  /** Why this one, for people. */
  readonly why: string;
  readonly device: string;
}

/** @throws SisyphusError `usage` */
export function parseBackend(text: string): BackendName {
  const name = BACKENDS.find((known) => known === text);
  if (name) return name;
  throw new SisyphusError('usage', `--backend: unknown backend '${text}'${didYouMean(text, BACKENDS)}`);
}

export interface BackendRequest {
  /** Default: auto. */
  readonly backend?: BackendName | undefined;
  /** auto | cpu | cuda[:n] | webgpu, for onnxruntime. Default: cpu. */
  readonly device?: string | undefined;
  readonly threads?: number | undefined;
}

/**
 * Makes a backend the one that tfjs uses from now on. 'auto' takes TensorFlow's own binding where the user has installed
 * one that works (nothing is ever downloaded), else onnxruntime. A device is asked of onnxruntime, so it decides for it.
 * @throws SisyphusError `unsupported` where the wanted one does not work, with what to install
 */
export async function useBackend({ backend = 'auto', device, threads }: BackendRequest): Promise<BackendChoice> {
  if (backend === 'cpu') {
    await import('@tensorflow/tfjs-backend-cpu');
    await tf.setBackend('cpu');
    return { name: 'cpu', why: 'as asked', device: 'cpu' };
  }
  if (backend === 'tensorflow' || (backend === 'auto' && device === undefined)) {
    const found = await tensorflow();
    if (found.name) {
      await tf.setBackend('tensorflow');
      return {
        name: 'tensorflow',
        why: `${found.name} is installed`,
        device: found.name.endsWith('gpu') ? 'gpu' : 'cpu',
      };
    }
    if (backend === 'tensorflow')
      throw new SisyphusError(
        'unsupported',
        `--backend tensorflow: ${found.problem}; install it with \`npm install @tensorflow/tfjs-node-gpu@4.22.0\` (CUDA 11) or \`npm install @tensorflow/tfjs-node@4.22.0\`, or take --backend onnxruntime`,
      );
  }
  const chosen = await chooseDevice(parseDevice(device ?? 'cpu'));
  registerOnnxRuntime({ device: chosen.device, threads });
  await tf.setBackend(BACKEND);
  const why = backend === 'auto' ? 'no TensorFlow binding is installed' : 'as asked';
  return { name: BACKEND, why: device === undefined ? why : 'as asked', device: formatDevice(chosen.device) };
}

async function tensorflow(): Promise<{ name: string; problem?: never } | { name?: never; problem: string }> {
  let problem = 'neither @tensorflow/tfjs-node-gpu nor @tensorflow/tfjs-node is installed';
  for (const name of ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node']) {
    try {
      await import(name);
      if (tf.findBackend('tensorflow')) return { name };
      problem = `${name} brings another version of tfjs-core than ${tf.version_core}`;
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND')
        problem = `${name} does not work: ${String(message).split('\n')[0]}`;
    }
  }
  return { problem };
}
