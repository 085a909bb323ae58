/** `sisyphus encrypt-eval` as a function: a polynomial network under CKKS, against onnxruntime in the clear. */
import { setTimeout as sleep } from 'node:timers/promises';
import { SisyphusError } from '../errors.ts';
import { findLogits, rowsOf } from '../eval/accuracy.ts';
import { type DataOptions, openFeed } from '../eval/feed.ts';
import { arrayNumbers, openSession } from '../eval/session.ts';
import { addOutput, cloneModel } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';
import { readModel } from '../graph/read.ts';
import { inferTypes } from '../graph/shapes.ts';
import { serialize } from '../graph/write.ts';
import { errorFactor } from './error.ts';
import { evaluateEncrypted, type Kept, type Step } from './evaluate.ts';
import { type Layout, layOut } from './layouts.ts';
import { chooseParameters, MOST_SLOTS, memoryNeeded, type Parameters } from './parameters.ts';
import { makeProgram, type Program, runClear } from './program.ts';
import { openSeal } from './seal.ts';

export interface EncryptEvalOptions extends Omit<DataOptions, 'batch'> {
  /** The error of a logit that is wanted. Default 1e-3. */
  readonly tolerance?: number;
}

export interface EncryptEvalReport {
  readonly path: string;
  readonly data: string;
  readonly images: number;
  /** Of the largest logit, encrypted and in onnxruntime: how many images have the same class. */
  readonly agreement: number;
  /** Fractions in 0..1; null where the data have no labels. */
  readonly top1: { readonly encrypted: number; readonly clear: number } | null;
  /** The largest |encrypted - onnxruntime| of a logit; onnxruntime computes in float32. */
  readonly maxError: number;
  /** The part of encryption in it: against the same maps and polynomials in float64; and what was expected beforehand. */
  readonly encryptionError: number;
  readonly expectedError: number;
  readonly tolerance: number;
  readonly largestLogit: number;
  /** Both hold: the same classes, and errors within the tolerance. */
  readonly passed: boolean;
  readonly parameters: Parameters & { readonly security: 128; readonly library: string };
  readonly levels: number;
  readonly rotations: number;
  readonly products: number;
  readonly seconds: {
    readonly program: number;
    readonly keys: number;
    /** Medians over the images, encryption and decryption among them. */
    readonly steps: readonly Step[];
    readonly perImage: readonly number[];
  };
  readonly bytes: {
    readonly input: number;
    readonly output: number;
    readonly publicKey: number;
    readonly relinearizationKey: number;
    readonly rotationKeys: number;
  };
  readonly notes: readonly string[];
}

/** WebAssembly ends at 4 GB; what is kept besides keys and baby steps must leave room. */
const MEMORY = 3.5e9;
const KEPT = 1e9;
/** Inputs whose features say how errors grow. */
const LOOKED_AT = 4;

/**
 * Runs a model on encrypted inputs and compares. Preprocessing is done in the clear, as whoever encrypts would.
 * @throws SisyphusError `unsupported` where the model is no chain of linear layers and polynomials of degree 4 at most, is
 * wider than a ciphertext, needs more levels or memory than there are, or where node-seal is absent; `aborted`
 */
export async function encryptEval(file: string, options: EncryptEvalOptions): Promise<EncryptEvalReport> {
  const tolerance = options.tolerance ?? 1e-3;
  const model = readModel(file);
  const started = performance.now();
  const program = await makeProgram(model, file, { width: MOST_SLOTS });
  const programSeconds = (performance.now() - started) / 1000;
  const clear = await clearRun(model, file, program, options);
  const largestLogit = Math.max(...clear.logits.flatMap((row) => [...row].map(Math.abs)));
  if (!Number.isFinite(largestLogit))
    throw new SisyphusError(
      'unsupported',
      `${file}: a logit is not finite on these data, so there is nothing to encrypt for`,
    );
  const { levels, width } = program;
  const choose = (layout: Layout): Parameters => {
    const factor = errorFactor(program, layout.plans, clear.inputs.slice(0, LOOKED_AT));
    return chooseParameters({ levels, width, largestLogit, tolerance, factor });
  };
  // The ring that the plainest layout takes says how much room others have.
  const layout = layOut(program, choose(layOut(program, 0)).degree / 2);
  const parameters = choose(layout);
  const needed = memoryNeeded(parameters, layout.steps.length, layout.babies);
  if (needed > MEMORY)
    throw new SisyphusError(
      'unsupported',
      `${file}: keys and intermediate ciphertexts would take ${(needed / 1e9).toFixed(1)} GB, and WebAssembly has room for ${MEMORY / 1e9} GB: give a larger --tolerance or a smaller model`,
    );
  const keysStarted = performance.now();
  const seal = await openSeal(parameters, layout.steps);
  const keys = (performance.now() - keysStarted) / 1000;
  const kept: Kept = { diagonals: new Map(), room: clear.inputs.length > 1 ? keepable(parameters, needed) : 0 };
  const pause = async () => {
    await sleep(0);
    if (options.signal?.aborted) throw new SisyphusError('aborted', 'interrupted: no image was left half done');
  };
  const runs: Awaited<ReturnType<typeof evaluateEncrypted>>[] = [];
  try {
    for (const input of clear.inputs) {
      runs.push(await evaluateEncrypted(seal, program, layout, input, 2 ** parameters.scaleBits, kept, pause));
      options.onProgress?.({ task: file, done: runs.length, total: clear.inputs.length, unit: 'images' });
    }
    const errors = runs.flatMap(({ logits }, i) =>
      [...logits].map((value, c) => Math.abs(value - (clear.logits[i]?.[c] as number))),
    );
    const classes = runs.map(({ logits }) => argmax(logits));
    const same = classes.filter((c, i) => c === argmax(clear.logits[i] as Float64Array)).length;
    const maxError = Math.max(...errors);
    const encryptionError = Math.max(
      ...runs.flatMap(({ logits }, i) => {
        const exact = runClear(program, clear.inputs[i] as Float64Array);
        return [...logits].map((value, c) => Math.abs(value - (exact[c] as number)));
      }),
    );
    const { labels } = clear;
    const share = (found: readonly number[]) => found.filter((c, i) => c === labels?.[i]).length / found.length;
    return {
      path: file,
      data: options.data,
      images: runs.length,
      agreement: same / runs.length,
      top1: labels && { encrypted: share(classes), clear: share(clear.logits.map(argmax)) },
      maxError,
      encryptionError,
      expectedError: parameters.expectedError,
      tolerance,
      largestLogit,
      passed: same === runs.length && maxError <= tolerance,
      parameters: { ...parameters, security: 128, library: seal.version },
      levels: program.levels,
      rotations: layout.rotations,
      products: layout.products,
      seconds: {
        program: programSeconds,
        keys,
        steps: medians(runs.map(({ steps }) => steps)),
        perImage: runs.map(({ steps }) => steps.reduce((sum, { seconds }) => sum + seconds, 0)),
      },
      bytes: { input: runs[0]?.fresh ?? 0, output: runs[0]?.result ?? 0, ...seal.bytes },
      notes: program.notes,
    };
  } finally {
    for (const text of kept.diagonals.values()) text.delete();
    seal.close();
  }
}

/** How many encoded diagonals fit beside the rest. */
const keepable = ({ degree, levels }: Parameters, needed: number): number =>
  Math.floor(Math.min(KEPT, MEMORY - needed) / (8 * degree * (levels + 1)));

const argmax = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((best, value, i, all) => (value > (all[best] as number) ? i : best), 0);

function medians(runs: readonly (readonly Step[])[]): Step[] {
  return (runs[0] ?? []).map(({ name }, i) => {
    const sorted = runs.map((steps) => steps[i]?.seconds ?? 0).sort((a, b) => a - b);
    return { name, seconds: sorted[Math.floor(sorted.length / 2)] as number };
  });
}

interface ClearRun {
  /** What the model reads, preprocessed. */
  readonly inputs: Float64Array[];
  readonly logits: Float64Array[];
  readonly labels: number[] | null;
}

/** The model in onnxruntime without optimisations, one image at a time, and what it reads. */
async function clearRun(model: Model, where: string, program: Program, options: EncryptEvalOptions): Promise<ClearRun> {
  const limit = options.limit ?? 1;
  const cut = await withoutHead(model);
  const feed = await openFeed(cut, where, { ...options, limit, batch: 1 });
  const types = inferTypes(feed.model);
  const tapped = feed.model.graph.nodes
    .flatMap(({ outputs }) => outputs)
    .find((value) => value?.name === program.input);
  if (tapped) addOutput(feed.model, tapped, types.get(tapped));
  const session = await openSession(serialize(feed.model, { inline: true }), { optimize: false, name: where });
  const [inputs, logits, labels]: [Float64Array[], Float64Array[], number[]] = [[], [], []];
  try {
    let output: string | undefined;
    for await (const batch of feed.batches()) {
      const results = await session.run(batch.feeds);
      const read = tapped ? results.get(program.input) : batch.feeds.get(program.input);
      if (!read) throw new SisyphusError('internal', `${where}: what its input '${program.input}' holds is not known`);
      results.delete(program.input);
      output ??= findLogits(feed, batch, results);
      inputs.push(Float64Array.from(arrayNumbers(read)));
      logits.push(Float64Array.from(rowsOf(feed, batch, output, results.get(output))));
      if (batch.labels) labels.push(batch.labels[0] as number);
    }
  } finally {
    await session.release();
  }
  return { inputs, logits, labels: labels.length === inputs.length ? labels : null };
}

/** The program ends in the logits, and so does what it is compared with. */
async function withoutHead(model: Model): Promise<Model> {
  const { dropSoftmax } = await import('../passes/drop-softmax.ts');
  const copy = cloneModel(model);
  await dropSoftmax.run(copy, {});
  return copy;
}
