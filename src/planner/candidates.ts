/** What may become of each activation of a network: the polynomials that could stand in its place. */
import { SisyphusError } from '../errors.ts';
import { rounding } from '../graph/tensor.ts';
import type { Activation } from '../poly/activations.ts';
import { plan } from '../poly/plan.ts';
import { type Coefficients, degreeOf, polynomial, powerSeries, toPowers, trim } from '../poly/polynomial.ts';
import { CALIBRATE, type Recipe, type Refusal, resolve, type SiteStatistics } from '../poly/recipe.ts';
import type { Replacement, TrialSite } from './trial.ts';

/** How polynomials come about, and how the user wrote that. */
export interface NamedRecipe {
  readonly text: string;
  readonly recipe: Recipe;
}

/** A replacement as a whole: no channel is kept. */
export interface Option extends Replacement {
  readonly degree: number;
  /** Multiplicative levels. */
  readonly levels: number;
}

/** An activation that can be replaced. */
export interface Candidate extends TrialSite {
  readonly label: string;
  /** Per input. */
  readonly elements: number;
  /** Some of its channels can keep the activation while others don't. */
  readonly splits: boolean;
  /** At least one. */
  readonly options: readonly Option[];
}

/** The highest degree that is tried: float32 powers of x are poor above. */
export const MAX_TRIAL_DEGREE = 10;

/** Least squares under what was measured: of the site by its histogram, of channels by mean and deviation. */
export const measuredRecipe = (degree: number, perChannel: boolean): NamedRecipe => ({
  text: `deg=${degree},fit=${perChannel ? 'gaussian' : 'measured'},a=${CALIBRATE}${perChannel ? ',per=channel' : ''}`,
  recipe: {
    kind: 'density',
    fit: perChannel ? 'gaussian' : 'measured',
    degree,
    on: { from: CALIBRATE, margin: 1 },
    ...(perChannel && { perChannel }),
  },
});

/** What DELPHI's code has for every ReLU (github.com/mc2-project/delphi). */
export const DELPHI_RECIPE: NamedRecipe = {
  text: 'coeffs=0.1992:0.5002:0.1997',
  recipe: { kind: 'fixed', polynomial: polynomial(powerSeries([0.1992, 0.5002, 0.1997])) },
};

/**
 * What a recipe makes at a site.
 * @param activations one, or one for each channel
 * @returns or why it makes nothing that could be tried there
 * @throws SisyphusError `usage` for polynomials of a kind that can't be tried anywhere
 */
export function makeOption(
  { text, recipe }: NamedRecipe,
  activations: readonly Activation[],
  statistics: SiteStatistics | undefined,
  channels: number | null,
): Option | Refusal {
  const resolved = resolve(recipe, activations, statistics);
  if ('reason' in resolved) return resolved;
  const lists: Coefficients[] = [];
  for (const { stages, gated } of resolved.polynomials) {
    const [series, ...more] = stages;
    if (!series || more.length > 0 || gated)
      throw new SisyphusError(
        'usage',
        `--poly ${text}: composites can't be planned with; give a polynomial of one stage`,
      );
    const coefficients = trim(toPowers(series).coefficients);
    if (coefficients.length - 1 > MAX_TRIAL_DEGREE)
      throw new SisyphusError(
        'usage',
        `--poly ${text}: has degree ${coefficients.length - 1}; plans are made with degrees up to ${MAX_TRIAL_DEGREE}`,
      );
    lists.push(coefficients);
  }
  if (lists.length > 1 && lists.length !== channels)
    return { reason: `there are ${lists.length} polynomials for it, but not as many channels` };
  const round = rounding('float');
  if (!lists.flat().every((c) => Number.isFinite(round(c)))) return { reason: 'its coefficients leave float32' };
  return option(lists);
}

/** A replacement with what it costs. */
export function option(lists: readonly Coefficients[]): Option {
  const polynomials = lists.map((list) => polynomial(powerSeries(list)));
  const degree = polynomials.reduce((most, p) => Math.max(most, degreeOf(p)), 0);
  return { polynomials: lists, degree, levels: plan(polynomials).depth };
}

const STEPS = 400;
/** Mean squared difference to an activation under a normal distribution, by the midpoint rule out to four deviations. */
export function normalError(
  coefficients: Coefficients,
  { f }: Activation,
  { mean, std }: { readonly mean: number; readonly std: number },
): number {
  let [sum, weights] = [0, 0];
  for (let i = 0; i < STEPS; i++) {
    const z = -4 + (8 * (i + 0.5)) / STEPS;
    const [x, weight] = [mean + std * z, Math.exp((-z * z) / 2)];
    const value = coefficients.reduceRight((high, c) => high * x + c, 0);
    sum += weight * (value - f(x)) ** 2;
    weights += weight;
  }
  return sum / weights;
}
