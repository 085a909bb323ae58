/** The kernels of tfjs that training needs, as ONNX nodes: by what they do, one file each. */
import type { Kernels } from './kernel.ts';
import { CREATE_KERNELS } from './kernels/create.ts';
import { ELEMENTWISE_KERNELS } from './kernels/elementwise.ts';
import { MATMUL_KERNELS } from './kernels/matmul.ts';
import { MOVEMENT_KERNELS } from './kernels/movement.ts';
import { REDUCE_KERNELS } from './kernels/reduce.ts';

export const KERNELS: Kernels = {
  ...ELEMENTWISE_KERNELS,
  ...MATMUL_KERNELS,
  ...REDUCE_KERNELS,
  ...MOVEMENT_KERNELS,
  ...CREATE_KERNELS,
};
