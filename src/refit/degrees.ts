/**
 * Which activation gets which degree: the least harm within a depth, each activation's harm measured with it alone replaced
 * (OLA, Lee et al. 2023, arXiv 2310.10349, with measured harm in place of sensitivity times error); or the least depth that
 * keeps an accuracy (as FIONA's budget does), by bisection over whole refits.
 */
import { SisyphusError } from '../errors.ts';
import { type CalibrationOptions, calibrate } from '../eval/calibration.ts';
import { parseDevice } from '../eval/device.ts';
import { openFeed } from '../eval/feed.ts';
import { chooseDevice } from '../eval/session.ts';
import { statisticsOf } from '../eval/statistics-file.ts';
import { cost } from '../graph/cost.ts';
import type { Model } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { findActivations } from '../passes/activation-sites.ts';
import { makeOption, measuredRecipe } from '../planner/candidates.ts';
import { cheapestWithin } from '../planner/knapsack.ts';
import { openTrial } from '../planner/trial.ts';

/** Two levels, and three. Degree 8, with four, fits better and escapes sooner. */
export const DEGREES = [2, 4] as const;

export type DegreeGoal =
  | { readonly kind: 'depth'; readonly depth: number }
  /** Points of accuracy that may be lost, as a fraction. */
  | { readonly kind: 'accuracy'; readonly loss: number };

/** `depth=60` or `accuracy=0.5%`. @throws SisyphusError `usage` */
export function parseDegreeGoal(text: string): DegreeGoal {
  const depth = /^depth=(\d+)$/.exec(text)?.[1];
  const loss = /^accuracy=(\d+\.?\d*|\.\d+)%?$/.exec(text)?.[1];
  if (depth !== undefined) return { kind: 'depth', depth: Number(depth) };
  if (loss !== undefined) return { kind: 'accuracy', loss: Number(loss) / 100 };
  throw new SisyphusError('usage', `--auto-degree '${text}': depth=60 (levels of the network) or accuracy=0.5%`);
}

/** What each degree does to the logits at each activation, all others as they are. */
export interface DegreeTable {
  readonly names: readonly string[];
  /** [activation][degree of `DEGREES`]; see `Quality.error`. */
  readonly harm: readonly (readonly number[])[];
  readonly levels: readonly number[];
  /** Levels of the network without those of the activations. */
  readonly depth: number;
}

/** Images that each degree at each activation is measured on. */
const MEASURED = 100;

/** @param names of activations of the main graph */
export async function degreeTable(
  model: Model,
  where: string,
  names: readonly string[],
  options: CalibrationOptions,
): Promise<DegreeTable> {
  const types = inferTypes(model);
  const found = new Map(findActivations(model, types).sites.map((site) => [site.name, site]));
  const probed = await calibrate(model, where, options);
  const { sites: statistics } = statisticsOf(probed);
  const candidates = names.map((name) => {
    const site = found.get(name);
    const shape = site && types.get(site.input).shape;
    const channels = typeof shape?.[1] === 'number' ? shape[1] : null;
    if (!site || !shape) throw new SisyphusError('unsupported', `${where}: the shape of '${name}' is not known`);
    const choices = DEGREES.map((degree) => {
      const perChannel = channels !== null && shape.length !== 3;
      const made = makeOption(measuredRecipe(degree, perChannel), site.activations, statistics[name], channels);
      if ('reason' in made) throw new SisyphusError('unsupported', `${where}: '${name}': ${made.reason}`);
      return made;
    });
    return { name, axes: channels === null ? null : { rank: shape.length, channels }, choices };
  });
  const { device } = await chooseDevice(parseDevice(options.device ?? 'cpu'));
  const feed = await openFeed(model, where, { ...options, limit: MEASURED });
  const { onProgress } = options;
  const total = names.length * DEGREES.length;
  const trial = await openTrial(feed, {
    device,
    run: options,
    sites: candidates,
    degree: Math.max(...DEGREES),
    onEvaluation: (done) => onProgress?.({ task: 'degrees', done: Math.min(done, total), total, unit: 'measurements' }),
  });
  try {
    const harm: number[][] = [];
    for (const [index, { choices }] of candidates.entries()) {
      const row: number[] = [];
      for (const choice of choices) {
        const quality = await trial.evaluate(candidates.map((_, i) => (i === index ? choice : null)));
        row.push(quality.error);
      }
      harm.push(row);
    }
    const levels = DEGREES.map((_, d) => candidates[0]?.choices[d]?.levels ?? 0);
    return { names, harm, levels, depth: cost(model, types).depth };
  } finally {
    await trial.release();
  }
}

/** The least levels of all activations together, and the most. */
export const extremes = ({ names, levels }: DegreeTable): readonly [number, number] => [
  names.length * Math.min(...levels),
  names.length * Math.max(...levels),
];

/**
 * @param levels of all activations together, as if they came one after the other
 * @returns the degree of each activation; null where there are too few levels
 */
export function degreesWithin({ names, harm, levels }: DegreeTable, limit: number): Map<string, number> | null {
  const items = harm.map((row) => row.map((error, d) => ({ cost: error, uses: [levels[d] as number] })));
  const chosen = cheapestWithin(items, [limit]);
  return chosen && new Map(names.map((name, i) => [name, DEGREES[chosen[i] as number] as number]));
}
