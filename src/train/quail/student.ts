/**
 * The student: the teacher, whose activations become polynomials one after the other, from the input on. Before a stage
 * is trained, its activation is replaced in a copy that has the trained stages before it and the teacher's own layers
 * behind it, so that it is a network that works at any time.
 */
import { SisyphusError } from '../../errors.ts';
import type { NdArray } from '../../eval/session.ts';
import { cloneModel } from '../../graph/edit.ts';
import type { Model, Value } from '../../graph/ir.ts';
import { inferTypes } from '../../graph/shapes.ts';
import { type ActivationSite, findActivations } from '../../passes/activation-sites.ts';
import { insertAffine } from '../../passes/insert-affine.ts';
import { insertTrainableAmm } from '../../passes/insert-amm.ts';
import { insertBatchnorm } from '../../passes/insert-batchnorm.ts';
import { insertPolynorm, typicalSample } from '../../passes/insert-polynorm.ts';
import { type ReplaceActivationOptions, runReplaceActivation } from '../../passes/replace-activation.ts';
import { selectedKinds } from '../../passes/select-sites.ts';
import { setBatch } from '../../passes/set-batch.ts';
import { type AmmMode, settleAmm } from '../../passes/settle-amm.ts';
import { fitSquares } from './rescale.ts';
import type { Stage } from './stages.ts';

export interface Recipe {
  readonly replace: ReplaceActivationOptions;
  readonly amm: boolean;
  readonly insertBatchnorm: boolean;
  readonly norm: 'polynorm' | null;
  /** Bring squares near the activation that they replace: where no batch norm does it, always, or never. */
  readonly init: 'auto' | 'fit' | 'teacher';
}

/** An activation that will be replaced, and whether x² takes its place. */
export interface Planned {
  readonly name: string;
  readonly square: boolean;
}

/**
 * Which activations the recipe replaces.
 * @throws SisyphusError `unsupported` where it is none
 */
export function plannedSites(teacher: Model, where: string, replace: ReplaceActivationOptions): Planned[] {
  const { applied, skipped } = runReplaceActivation(cloneModel(teacher), replace);
  if (applied.length > 0)
    return applied.map(({ site, coefficients }) => ({ name: site, square: coefficients?.join() === '0,0,1' }));
  const [skip] = skipped;
  throw new SisyphusError(
    'unsupported',
    `${where}: there is no activation to replace${skip ? `: '${skip.site}': ${skip.reason}` : ''}`,
  );
}

/** What goes into an activation, and what the teacher makes of it, on a few rows. */
export interface Sample {
  readonly before: NdArray;
  readonly after: NdArray;
}

/**
 * Replaces the activation of a stage, in place.
 * @param sample asked for where the start has to be measured
 * @returns what was done, for people
 */
export async function replaceStage(
  student: Model,
  stage: Stage,
  square: boolean,
  recipe: Recipe,
  sample: () => Promise<Sample>,
): Promise<string[]> {
  const notes: string[] = [];
  const normalized = isNormalized(siteNamed(student, stage.name, recipe.replace).input);
  const site = () => siteNamed(student, stage.name, recipe.replace);
  const refuse = (what: string, reason: string) =>
    new SisyphusError('unsupported', `'${stage.name}': ${what}: ${reason}; leave it out with --skip`);
  if (recipe.amm) {
    const reason = insertTrainableAmm(student, site(), rangesOf((await sample()).before));
    if (reason) throw refuse('no min-max normalisation before it', reason);
    notes.push('min-max normalisation before it');
  } else if (recipe.insertBatchnorm && !normalized) {
    insertBatchnorm(student, site(), (await sample()).before);
    notes.push('batch normalisation before it, with the statistics of a sample');
  }
  if (recipe.norm === 'polynorm') {
    const { before } = await sample();
    const { name, input, node } = site();
    const typical = typicalSample(before.dims, before.data as Float32Array);
    const reason = insertPolynorm(student, { name, input, rank: before.dims.length }, [node], typical);
    if (reason) throw refuse('no normalisation before it', reason);
    notes.push('each sample normalised before it');
  }
  if (!recipe.amm && square && (recipe.init === 'fit' || (recipe.init === 'auto' && !normalized))) {
    const { before, after } = await sample();
    const result = insertAffine(student, inferTypes(student), site(), fitSquares(before, after), { what: 'scale' });
    if ('reason' in result) throw refuse('no rescaling', result.reason);
    notes.push(`rescaled by channel, to start near the activation: ${result.detail}`);
  }
  const { applied } = runReplaceActivation(student, { ...recipe.replace, among: new Set([stage.name]) });
  if (applied.length !== 1) throw new SisyphusError('internal', `'${stage.name}' was not replaced`);
  return notes;
}

/** Minimum and range of each channel of [N, C, ...spatial]. */
function rangesOf({ dims, data }: NdArray): { min: Float64Array; range: Float64Array } {
  const [, channels = 1, ...spatial] = dims;
  const size = spatial.reduce((product, dim) => product * dim, 1);
  const min = new Float64Array(channels).fill(Number.POSITIVE_INFINITY);
  const max = new Float64Array(channels).fill(Number.NEGATIVE_INFINITY);
  for (let at = 0; at < data.length; at += size) {
    const c = (at / size) % channels;
    let [low, high] = [min[c] as number, max[c] as number];
    for (let i = at; i < at + size; i++) {
      const value = data[i] as number;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    min[c] = low;
    max[c] = high;
  }
  return { min, range: max.map((high, c) => high - (min[c] as number)) };
}

/** Whether a batch norm makes the value, or one of those that it is the sum of. */
export function isNormalized({ producer }: Value): boolean {
  if (producer?.op === 'BatchNormalization') return true;
  return producer?.op === 'Add' && producer.inputs.some((value) => value && isNormalized(value));
}

function siteNamed(model: Model, name: string, replace: ReplaceActivationOptions): ActivationSite {
  const { sites } = findActivations(model, inferTypes(model), selectedKinds(replace));
  const site = sites.find((each) => each.name === name);
  if (!site) throw new SisyphusError('internal', `no activation '${name}'`);
  return site;
}

/** A copy that runs anywhere: any number of rows at once where that can be, and plain operators. */
export async function runnable(student: Model, mode: AmmMode = 'stored'): Promise<Model> {
  const copy = await rowsFreed(student);
  settleAmm(copy, { mode });
  return copy;
}

/** A copy that takes any number of rows at once, where that can be. */
export async function rowsFreed(model: Model): Promise<Model> {
  const copy = cloneModel(model);
  await setBatch.run(copy, {});
  return copy;
}
