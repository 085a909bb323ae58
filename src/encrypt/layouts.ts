/**
 * Where hidden features are put. Rows of one map and columns of the next move together, and with them the diagonals that are
 * empty: a convolution has few if its result stays on the grid of its input, with more channels in the gaps that strides and
 * pools leave ("multiplexed packing", Lee et al., ICML 2022).
 */
import { contiguous, type DiagonalPlan, type Places, planDiagonals, powerOfTwo, rotationsOf } from './diagonals.ts';
import type { Program } from './program.ts';

export interface Layout {
  readonly plans: readonly DiagonalPlan[];
  /** Rotation steps that need keys. */
  readonly steps: readonly number[];
  readonly rotations: number;
  /** Products with diagonals. */
  readonly products: number;
  readonly babies: number;
}

/** A rotation takes as long as so many products with a diagonal that has to be encoded. */
const ROTATION = 6;

const costOf = (plan: DiagonalPlan): number => plan.diagonals.length + ROTATION * rotationsOf(plan).count;

/**
 * How the maps lie on slots: of the ways to place each hidden value, those that are cheapest together. Input and output are
 * contiguous.
 * @param slots that there may be
 */
export function layOut({ maps, layers, shape }: Pick<Program, 'maps' | 'layers' | 'shape'>, slots: number): Layout {
  interface Way {
    readonly plans: readonly DiagonalPlan[];
    readonly places: Places;
    readonly cost: number;
  }
  const input = contiguous(maps[0]?.ins ?? 1);
  let ways: Way[] = [{ plans: [], places: input, cost: 0 }];
  for (const [i, map] of maps.entries()) {
    const layer = layers[i];
    const options = layer ? [contiguous(map.outs), ...grids(layer.shape, shape, slots)] : [contiguous(map.outs)];
    ways = options.map((to) => {
      const longer = ways.map(({ plans, places, cost }): Way => {
        const period = plans.at(-1)?.outPeriod ?? powerOfTwo(input.width);
        const plan = planDiagonals(map, places, to, period);
        return { plans: [...plans, plan], places: to, cost: cost + costOf(plan) };
      });
      return longer.reduce((best, way) => (way.cost < best.cost ? way : best));
    });
  }
  const { plans } = ways[0] as Way;
  const rotations = plans.map(rotationsOf);
  return {
    plans,
    steps: [...new Set(rotations.flatMap(({ steps }) => steps))],
    rotations: rotations.reduce((sum, { count }) => sum + count, 0),
    products: plans.reduce((sum, { diagonals }) => sum + diagonals.length, 0),
    babies: Math.max(...plans.map(({ babies }) => babies)),
  };
}

/**
 * A map [C, H, W] on the grid of the images [., H', W'], every f-th pixel in both directions: f^2 channels share a plane.
 */
function grids(shape: readonly number[], images: readonly number[], slots: number): Places[] {
  const [channels, height, width] = shape;
  const [, rows, columns] = images;
  if (shape.length !== 3 || !channels || !height || !width || !rows || !columns) return [];
  return [1, 2, 4, 8].flatMap((f) => {
    const planes = Math.ceil(channels / (f * f));
    if (f * height > rows || f * width > columns || planes * rows * columns > slots) return [];
    const at = Int32Array.from({ length: channels * height * width }, (_, j) => {
      const channel = Math.floor(j / (height * width));
      const [y, x] = [Math.floor(j / width) % height, j % width];
      const inner = channel % (f * f);
      const plane = Math.floor(channel / (f * f)) * rows * columns;
      return plane + (f * y + Math.floor(inner / f)) * columns + f * x + (inner % f);
    });
    return [{ at, width: planes * rows * columns }];
  });
}
