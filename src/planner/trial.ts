/**
 * A trial network: one onnxruntime session in which every activation can be switched between itself and a polynomial, as
 * a whole or by channel (axis 1), so that thousands of partial replacements are measured without building a model for
 * each. At every site the network computes
 *
 *   y = Where(keep, activation(x), c0 + x (c1 + x (c2 + …)))
 *
 * with `keep` and the coefficients as inputs of the graph. `Where` selects, so what is not finite in the branch that is
 * not taken goes nowhere.
 */
import { createHash } from 'node:crypto';
import { SisyphusError } from '../errors.ts';
import { findLogits, rowsOf } from '../eval/accuracy.ts';
import type { Device } from '../eval/device.ts';
import type { Feed, FeedBatch } from '../eval/feed.ts';
import { openModel, type RunOptions } from '../eval/run.ts';
import type { NdArray, Session } from '../eval/session.ts';
import { intAttribute } from '../graph/attributes.ts';
import { addInput, addNode, cloneModel, removeNode } from '../graph/edit.ts';
import type { Attribute, ElementType, Model, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { elementCode } from '../graph/tensor.ts';
import { opsetOf } from '../graph/walk.ts';
import { type ActivationSite, findActivations } from '../passes/activation-sites.ts';
import { setOpsetPass } from '../passes/set-opset.ts';
import type { Coefficients } from '../poly/polynomial.ts';
import { head } from '../search/evaluator.ts';

/** A site that can be switched. */
export interface TrialSite {
  /** As `findActivations` calls it. */
  readonly name: string;
  /** Rank of its input, and how many channels (axis 1) it has; null where it can't be switched by channel. */
  readonly axes: { readonly rank: number; readonly channels: number } | null;
}

/** What stands at a site in place of its activation. */
export interface Replacement {
  /** In powers of x: one for the site, or one for each channel. */
  readonly polynomials: readonly Coefficients[];
  /** Channels that keep their activation, ascending; none by default. */
  readonly keep?: readonly number[];
}
/** By site, in the order of the sites; null keeps the activation. */
export type Choices = readonly (Replacement | null)[];

/** How well a network does on the calibration inputs. Fractions in 0..1. */
export interface Quality {
  /** By the labels; an input with a logit that is not finite counts as wrong. null without labels. */
  readonly accuracy: number | null;
  /** Inputs with the same largest logit as in the original network, and all logits finite. */
  readonly agreement: number;
  /**
   * How far the logits are from the original network's: the mean over the inputs of e / (1 + e), where e is the mean squared
   * difference in units of the logits' variance. 0 is none, 1 is lost; an input whose logits explode counts as lost and no
   * more, where plain means would see nothing else.
   */
  readonly error: number;
  /** Inputs with a logit that is not finite. */
  readonly nonFinite: number;
  readonly images: number;
}

/** What budgets and scores go by: accuracy, or agreement with the original network where there are no labels. */
export const success = ({ accuracy, agreement }: Quality): number => accuracy ?? agreement;

export interface Trial {
  /** Of the network as it is. */
  readonly original: Quality;
  /** How many have been measured; what was known already does not count. */
  readonly evaluations: () => number;
  /**
   * @param images only so many of the first inputs, where the model's batch allows that; default all
   * @throws SisyphusError `aborted` after the signal
   */
  evaluate(choices: Choices, images?: number): Promise<Quality>;
  release(): Promise<void>;
}

/** The names of the inputs that switch a site. */
interface Switch {
  readonly keep: string;
  /** Constant first. */
  readonly coefficients: readonly string[];
}

/** That of Where. */
const LEAST_OPSET = 9;

/**
 * The network with switches at some of its activations.
 * @returns the switches, in the order of `names`
 * @throws SisyphusError `unsupported` where the opset has no Where and can't be raised
 */
export async function addSwitches(
  original: Model,
  names: readonly string[],
  degree: number,
  where: string,
): Promise<{ model: Model; switches: Switch[] }> {
  const model = cloneModel(original);
  if (opsetOf(model, model.graph) < LEAST_OPSET) {
    const { skipped } = await setOpsetPass.run(model, { opset: LEAST_OPSET });
    const [refusal] = skipped;
    if (refusal)
      throw new SisyphusError('unsupported', `${where}: can't become opset ${LEAST_OPSET}: ${refusal.reason}`);
  }
  const sites = new Map(findActivations(model, inferTypes(model)).sites.map((site) => [site.name, site]));
  const switches = names.map((name) => {
    const site = sites.get(name);
    if (!site) throw new SisyphusError('internal', `no activation '${name}' to switch`);
    return addSwitch(model, site, degree);
  });
  return { model, switches };
}

function addSwitch(model: Model, site: ActivationSite, degree: number): Switch {
  const { name, input, output, node, elem } = site;
  const own = (what: string, type: ElementType) =>
    addInput(model, `${name}/trial/${what}`, { elem: type, shape: null });
  const keep = own('keep', 'bool');
  const coefficients = Array.from({ length: degree + 1 }, (_, k) => own(`c${k}`, 'float'));
  // The activation goes on under another name; who reads it reads the switch.
  const before = removeNode(node);
  const add = (op: string, inputs: readonly (Value | null)[], attributes: readonly Attribute[] = [], last = false) =>
    addNode(
      model,
      model.graph,
      { op, name: `${name}/trial/${op}`, inputs, attributes, ...(last && { outputs: [output] }) },
      before,
    ).outputs[0] as Value;
  const to = (type: ElementType) => [intAttribute('to', elementCode(type))];
  const activation = add(node.op, node.inputs, node.attributes);
  // onnxruntime's Where takes no float16 on the CPU.
  const single = elem === 'float';
  const x = single ? input : add('Cast', [input], to('float'));
  const y = single ? activation : add('Cast', [activation], to('float'));
  let [sum, ...rest] = [...coefficients].reverse() as [Value, ...Value[]];
  for (const c of rest) sum = add('Add', [add('Mul', [sum, x]), c]);
  const chosen = add('Where', [keep, y, sum], [], single);
  if (!single) add('Cast', [chosen], to(elem), true);
  return { keep: keep.name, coefficients: coefficients.map((value) => value.name) };
}

export interface TrialOptions {
  readonly device: Device;
  readonly run: RunOptions;
  readonly sites: readonly TrialSite[];
  /** The highest degree that will be tried. */
  readonly degree: number;
  /** The output that holds the logits. Default: the first one with a number for each class. */
  readonly logits?: string | undefined;
  /** After each evaluation. */
  readonly onEvaluation?: (evaluations: number) => void;
}

/** Reads the calibration data, which stay in memory, and runs the network as it is. */
export async function openTrial(feed: Feed, options: TrialOptions): Promise<Trial> {
  const { sites, degree, run } = options;
  const names = sites.map(({ name }) => name);
  const { model, switches } = await addSwitches(feed.model, names, degree, feed.where);
  const batches: FeedBatch[] = [];
  for await (const batch of feed.batches()) batches.push(batch);
  const session = await openModel(model, feed.where, options.device, run);
  try {
    const setUp = await measurer(session, feed, batches, options, switches);
    return { ...setUp, release: () => session.release() };
  } catch (error) {
    await session.release();
    throw error;
  }
}

async function measurer(
  session: Session,
  feed: Feed,
  batches: readonly FeedBatch[],
  { sites, run, logits, onEvaluation }: TrialOptions,
  switches: readonly Switch[],
): Promise<Omit<Trial, 'release'>> {
  let output = logits;
  const logitsOf = async (batch: FeedBatch, parameters: ReadonlyMap<string, NdArray>) => {
    if (run.signal?.aborted) throw new SisyphusError('aborted', 'interrupted; no plan was made');
    const feeds = new Map([...batch.feeds, ...parameters]);
    const results = await session.run(feeds, output === undefined ? session.outputNames : [output]);
    output ??= findLogits(feed, batch, results);
    return rowsOf(feed, batch, output, results.get(output));
  };
  const asItIs = switchInputs(
    switches,
    sites,
    sites.map(() => null),
  );
  const references = new Map<FeedBatch, ArrayLike<number>>();
  for (const batch of batches) references.set(batch, await logitsOf(batch, asItIs));
  const variance = varianceOf(references.values());
  const reference = async (batch: FeedBatch) => {
    const rows = references.get(batch) ?? (await logitsOf(batch, asItIs));
    references.set(batch, rows);
    return rows;
  };
  const parts = new Map<number, FeedBatch[]>();
  const measured = new Map<string, Quality>();
  const evaluate = async (choices: Choices, images = Number.POSITIVE_INFINITY): Promise<Quality> => {
    const part = parts.get(images) ?? firstRows(feed, batches, images);
    parts.set(images, part);
    const key = createHash('sha256')
      .update(JSON.stringify([part.length, images, choices]))
      .digest('base64');
    const known = measured.get(key);
    if (known) return known;
    const parameters = switchInputs(switches, sites, choices);
    const tally = startTally();
    for (const batch of part) count(tally, batch, await reference(batch), await logitsOf(batch, parameters), variance);
    const quality = finish(tally);
    measured.set(key, quality);
    onEvaluation?.(measured.size);
    return quality;
  };
  return { original: await evaluate(sites.map(() => null)), evaluations: () => measured.size, evaluate };
}

/** The first `images` rows. A model that insists on its batch gets whole batches. */
function firstRows({ fixed }: Feed, batches: readonly FeedBatch[], images: number): FeedBatch[] {
  const part: FeedBatch[] = [];
  let left = images;
  for (const batch of batches) {
    if (left <= 0) break;
    part.push(batch.count <= left || fixed !== null ? batch : head(batch, left));
    left -= batch.count;
  }
  return part;
}

/** The inputs that make the network what was chosen. Numbers where a site is uniform: they cost less to broadcast. */
export function switchInputs(
  switches: readonly Switch[],
  sites: readonly TrialSite[],
  choices: Choices,
): Map<string, NdArray> {
  const inputs = new Map<string, NdArray>();
  for (const [i, { keep, coefficients }] of switches.entries()) {
    const choice = choices[i] ?? null;
    const { rank, channels } = sites[i]?.axes ?? { rank: 1, channels: 1 };
    const byChannel = [1, channels, ...new Array<number>(Math.max(0, rank - 2)).fill(1)];
    const kept = choice?.keep ?? [];
    const mask = new Uint8Array(kept.length > 0 ? channels : 1).fill(choice === null ? 1 : 0);
    for (const c of kept) mask[c] = 1;
    inputs.set(keep, { elem: 'bool', dims: kept.length > 0 ? byChannel : [1], data: mask });
    const polynomials = choice?.polynomials ?? [[0]];
    const dims = polynomials.length > 1 ? byChannel : [1];
    for (const [k, name] of coefficients.entries())
      inputs.set(name, { elem: 'float', dims, data: Float32Array.from(polynomials, (p) => p[k] ?? 0) });
  }
  return inputs;
}

interface Tally {
  images: number;
  right: number;
  labelled: number;
  same: number;
  nonFinite: number;
  lost: number;
}

const startTally = (): Tally => ({
  images: 0,
  right: 0,
  labelled: 0,
  same: 0,
  nonFinite: 0,
  lost: 0,
});

/** @param variance of the original logits */
function count(
  tally: Tally,
  batch: FeedBatch,
  original: ArrayLike<number>,
  logits: ArrayLike<number>,
  variance: number,
): void {
  const classes = logits.length / batch.rows;
  for (let row = 0; row < batch.count; row++) {
    const start = row * classes;
    let [best, before, squares] = [0, 0, 0];
    for (let c = 0; c < classes; c++) {
      const [was, is] = [original[start + c] as number, logits[start + c] as number];
      if (is > (logits[start + best] as number)) best = c;
      if (was > (original[start + before] as number)) before = c;
      squares += (is - was) ** 2;
    }
    tally.images++;
    if (batch.labels) tally.labelled++;
    // Squares of float32 fit float64, so only what is not finite itself makes them so.
    if (!Number.isFinite(squares)) {
      tally.nonFinite++;
      tally.lost++;
    } else {
      if (squares > 0) tally.lost += squares / (squares + classes * variance);
      if (best === before) tally.same++;
      if (best === batch.labels?.[row]) tally.right++;
    }
  }
}

function finish({ images, right, labelled, same, nonFinite, lost }: Tally): Quality {
  const accuracy = labelled > 0 ? right / images : null;
  return { accuracy, agreement: same / images, error: lost / images, nonFinite, images };
}

function varianceOf(values: Iterable<ArrayLike<number>>): number {
  let [count, sum, squares] = [0, 0, 0];
  for (const list of values)
    for (let i = 0; i < list.length; i++) {
      const value = list[i] as number;
      count++;
      sum += value;
      squares += value * value;
    }
  return squares / count - (sum / count) ** 2;
}
