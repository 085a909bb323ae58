/** A program on ciphertexts. Scales stay near 2^S: a map's diagonals are encoded at the prime that is rescaled away. */
import { contiguous, type DiagonalPlan, diagonalMaker, periodic, powerOfTwo } from './diagonals.ts';
import type { Layout } from './layouts.ts';
import type { MonicLayer, Program } from './program.ts';
import type { Ciphertext, Plaintext, Seal } from './seal.ts';

/** Encoded diagonals that are kept from one image to the next. */
export interface Kept {
  readonly diagonals: Map<string, Plaintext>;
  /** How many more may be kept. */
  room: number;
}

export interface Step {
  readonly name: string;
  readonly seconds: number;
}

/** Frees what was made in `run`, but for what it returns. */
function scoped<T>(seal: Seal, run: (make: { plain(): Plaintext; cipher(): Ciphertext }) => T): T {
  const made: (Plaintext | Ciphertext)[] = [];
  const note = <H extends Plaintext | Ciphertext>(handle: H): H => {
    made.push(handle);
    return handle;
  };
  let result: T | undefined;
  try {
    result = run({ plain: () => note(seal.plaintext()), cipher: () => note(seal.ciphertext()) });
    return result;
  } finally {
    for (const handle of made) if ((handle as unknown) !== result) handle.delete();
  }
}

/**
 * Encrypts one input, evaluates, decrypts.
 * @param pause between steps, so that others may run; it may throw
 * @returns the logits, and the seconds that each step took
 */
export async function evaluateEncrypted(
  seal: Seal,
  program: Program,
  { plans }: Layout,
  input: Float64Array,
  scale: number,
  kept: Kept,
  pause: () => Promise<void>,
): Promise<{ logits: Float64Array; steps: Step[]; fresh: number; result: number }> {
  const steps: Step[] = [];
  const timed = async <T>(name: string, run: () => T): Promise<T> => {
    await pause();
    const start = performance.now();
    const result = run();
    steps.push({ name, seconds: (performance.now() - start) / 1000 });
    return result;
  };
  let at = await timed('encrypt', () =>
    scoped(seal, ({ plain, cipher }) => {
      const places = contiguous(input.length);
      const text = plain();
      seal.encode(periodic(input, places, powerOfTwo(input.length), seal.slots), scale, text);
      const made = cipher();
      seal.encrypt(text, made);
      return made;
    }),
  );
  try {
    const fresh = seal.sizeOf(at);
    const advance = async (name: string, run: (x: Ciphertext) => Ciphertext) => {
      const next = await timed(name, () => run(at));
      at.delete();
      at = next;
    };
    for (const [i, plan] of plans.entries()) {
      const map = program.maps[i] as Program['maps'][number];
      await advance(map.name, (x) => applyMap(seal, program, i, plan, x, kept));
      const layer = program.layers[i];
      if (layer) await advance(layer.name, (x) => applyPolynomial(seal, layer, plan, x));
    }
    const result = seal.sizeOf(at);
    const slots = await timed('decrypt', () => seal.decrypt(at));
    // The last value is contiguous.
    return { logits: slots.slice(0, program.maps.at(-1)?.outs), steps, fresh, result };
  } finally {
    at.delete();
  }
}

/** One level: products with diagonals, summed by baby and giant steps, rescaled, folded; then the bias. */
function applyMap(
  seal: Seal,
  program: Program,
  index: number,
  plan: DiagonalPlan,
  x: Ciphertext,
  kept: Kept,
): Ciphertext {
  const map = program.maps[index] as Program['maps'][number];
  const prime = seal.primes[seal.primesOf(x) - 1] as number;
  const diagonal = diagonalMaker(map, plan, seal.slots);
  return scoped(seal, ({ plain, cipher }) => {
    const babies: Ciphertext[] = [x];
    for (let b = 1; b < plan.babies; b++) {
      const turned = cipher();
      seal.rotate(babies[b - 1] as Ciphertext, 1, turned);
      babies.push(turned);
    }
    const encoded = (k: number): { text: Plaintext; own: boolean } => {
      const key = `${index}:${k}`;
      const known = kept.diagonals.get(key);
      if (known) return { text: known, own: false };
      const text = seal.plaintext();
      seal.encode(diagonal(k), prime, text);
      seal.plainToLevel(text, x);
      const keep = kept.room > 0;
      if (keep) {
        kept.room--;
        kept.diagonals.set(key, text);
      }
      return { text, own: !keep };
    };
    const sum = cipher();
    const product = cipher();
    const inner = cipher();
    let begun = false;
    for (let j = plan.giants - 1; j >= 0; j--) {
      if (begun) seal.rotate(sum, plan.giant, sum);
      let filled = false;
      for (const k of plan.diagonals) {
        if (Math.floor(k / plan.giant) !== j) continue;
        const { text, own } = encoded(k);
        seal.multiplyPlain(babies[k % plan.giant] as Ciphertext, text, filled ? product : inner);
        if (own) text.delete();
        if (filled) seal.add(inner, product, inner);
        filled = true;
      }
      if (!filled) continue;
      if (begun) seal.add(sum, inner, sum);
      // A rotation by 0, as a copy.
      else seal.cipherToLevel(inner, inner, sum);
      begun = true;
    }
    seal.rescale(sum);
    for (const fold of plan.folds) {
      seal.rotate(sum, fold, product);
      seal.add(sum, product, sum);
    }
    addConstant(seal, sum, periodic(map.bias, plan.to, plan.outPeriod, seal.slots), plain());
    return sum;
  });
}

/** Adds numbers at a ciphertext's own scale and level. */
function addConstant(seal: Seal, to: Ciphertext, values: Float64Array, text: Plaintext): void {
  if (values.every((value) => value === 0)) return;
  seal.encode(values, seal.scaleOf(to), text);
  seal.plainToLevel(text, to);
  seal.addPlain(to, text);
}

/**
 * A monic polynomial without its constant term: u^2 + a1 u in one level; u^3 + … = (u^2 + a2 u + a1) u and
 * u^4 + … = u^2 (u^2 + a3 u + a2) + a1 u in two.
 */
function applyPolynomial(
  seal: Seal,
  { degree, coefficients }: MonicLayer,
  { to, outPeriod }: DiagonalPlan,
  u: Ciphertext,
): Ciphertext {
  const values = (k: number) => periodic(coefficients[k] ?? [], to, outPeriod, seal.slots);
  const isZero = (list: Float64Array) => list.every((value) => value === 0);
  return scoped(seal, ({ plain, cipher }) => {
    /** to + list * x, where x is brought to the level of `to` first. */
    const addProduct = (to: Ciphertext, x: Ciphertext, list: Float64Array): void => {
      if (isZero(list)) return;
      const [scaled, text, target] = [cipher(), plain(), seal.scaleOf(to)];
      const same = seal.primesOf(x) === seal.primesOf(to);
      if (!same) seal.cipherToLevel(x, to, scaled);
      const operand = same ? x : scaled;
      seal.encode(list, target / seal.scaleOf(operand), text);
      seal.plainToLevel(text, to);
      seal.multiplyPlain(operand, text, scaled);
      // The two scales differ in the last bit at most.
      seal.setScale(scaled, target);
      seal.add(to, scaled, to);
    };
    const square = cipher();
    seal.square(u, square);
    if (degree === 2) {
      addProduct(square, u, values(1));
      seal.rescale(square);
      return square;
    }
    const bracket = cipher();
    const middle = values(degree - 1);
    seal.cipherToLevel(square, square, bracket);
    addProduct(bracket, u, middle);
    seal.rescale(bracket);
    addConstant(seal, bracket, values(degree - 2), plain());
    const result = cipher();
    if (degree === 3) {
      const low = cipher();
      seal.cipherToLevel(u, bracket, low);
      seal.multiply(bracket, low, result);
    } else {
      seal.rescale(square);
      seal.multiply(bracket, square, result);
      addProduct(result, u, values(1));
    }
    seal.rescale(result);
    return result;
  });
}
