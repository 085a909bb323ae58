/**
 * Microsoft SEAL as node-seal brings it, versions 6 and 7 behind one face: CKKS alone, 128-bit security alone. Objects of
 * WebAssembly are not collected: whoever makes one calls `delete` on it.
 */
import { SisyphusError } from '../errors.ts';
import type { Parameters } from './parameters.ts';

/** Something that lives in the memory of WebAssembly. */
export interface Handle {
  delete(): void;
}
export interface Plaintext extends Handle {
  readonly plain: true;
}
export interface Ciphertext extends Handle {
  readonly cipher: true;
}

/** Keys, encoder and evaluator for one set of parameters. */
export interface Seal {
  readonly version: string;
  readonly slots: number;
  /** The data primes, exact; the last one of a level is what rescaling divides by. */
  readonly primes: readonly number[];
  readonly bytes: { readonly publicKey: number; readonly relinearizationKey: number; readonly rotationKeys: number };
  plaintext(): Plaintext;
  ciphertext(): Ciphertext;
  /** At the top level, with all slots given. */
  encode(values: Float64Array, scale: number, into: Plaintext): void;
  encrypt(plain: Plaintext, into: Ciphertext): void;
  decrypt(cipher: Ciphertext): Float64Array;
  scaleOf(cipher: Ciphertext): number;
  setScale(cipher: Ciphertext, scale: number): void;
  /** How many data primes are left. */
  primesOf(cipher: Ciphertext): number;
  sizeOf(cipher: Ciphertext): number;
  rotate(cipher: Ciphertext, steps: number, into: Ciphertext): void;
  multiplyPlain(cipher: Ciphertext, plain: Plaintext, into: Ciphertext): void;
  /** With relinearization. */
  multiply(a: Ciphertext, b: Ciphertext, into: Ciphertext): void;
  square(cipher: Ciphertext, into: Ciphertext): void;
  add(a: Ciphertext, b: Ciphertext, into: Ciphertext): void;
  addPlain(cipher: Ciphertext, plain: Plaintext): void;
  rescale(cipher: Ciphertext): void;
  /** Brings a plaintext, or a ciphertext, to the level of another. */
  plainToLevel(plain: Plaintext, of: Ciphertext): void;
  cipherToLevel(cipher: Ciphertext, of: Ciphertext, into: Ciphertext): void;
  close(): void;
}

export const INSTALL = 'npm install node-seal@6.0.3';

// The two versions differ in names and in `new`; neither set of typings is right for both.
// biome-ignore lint/suspicious/noExplicitAny: see above
type Any = any;

async function load(): Promise<{ library: Any; major: number }> {
  let make: Any;
  try {
    ({ default: make } = await import('node-seal'));
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND';
    throw new SisyphusError(
      'unsupported',
      missing
        ? `encrypt-eval needs node-seal, which is not installed: ${INSTALL}`
        : `node-seal can't be loaded here (${(cause as Error).message}); version 7 needs Node 22.19 or later: ${INSTALL}`,
      { cause },
    );
  }
  const library = await make();
  return { library, major: library.Context ? 6 : 7 };
}

/**
 * Makes a context, keys for encryption and products, and rotation keys for the steps given.
 * @throws SisyphusError `unsupported` where node-seal is absent, or SEAL refuses the parameters at 128-bit security
 */
export async function openSeal({ degree, bits }: Parameters, steps: readonly number[]): Promise<Seal> {
  const { library, major } = await load();
  const old = major === 6;
  const owned: Handle[] = [];
  const own = <T extends Handle>(handle: T): T => {
    owned.push(handle);
    return handle;
  };
  const create = (oldName: string, newName: string, ...args: unknown[]): Any =>
    old ? library[oldName](...args) : new library[newName](...args);
  const wasm = <T>(run: () => T): T => {
    try {
      return run();
    } catch (cause) {
      const text = cause instanceof Error ? cause.message : `${library.getExceptionMessage?.(cause) ?? cause}`;
      throw new SisyphusError('internal', `SEAL: ${text}`, { cause });
    }
  };
  try {
    return wasm(() => {
      const parameters = own(create('EncryptionParameters', 'EncryptionParameters', library.SchemeType.ckks));
      parameters.setPolyModulusDegree(degree);
      parameters.setCoeffModulus(library.CoeffModulus.Create(degree, Int32Array.from(bits)));
      const security = old ? library.SecurityLevel.tc128 : library.SecLevelType.tc128;
      const context = own(create('Context', 'SEALContext', parameters, true, security));
      // An insecure choice does not throw.
      if (!context.parametersSet())
        throw new SisyphusError(
          'unsupported',
          `SEAL refuses primes of [${bits}] bits at ring degree ${degree} for 128-bit security`,
        );
      const generator = own(create('KeyGenerator', 'KeyGenerator', context));
      const secret = own(generator.secretKey());
      const open = own(generator.createPublicKey());
      const relinearization = own(generator.createRelinKeys());
      const list = Int32Array.from(new Set(steps));
      const rotation =
        list.length === 0
          ? null
          : own(old ? generator.createGaloisKeys(list) : generator.createGaloisKeysWithSteps(list));
      const encoder = own(create('CKKSEncoder', 'CKKSEncoder', context));
      const evaluator = own(create('Evaluator', 'Evaluator', context));
      const encryptor = own(create('Encryptor', 'Encryptor', context, open));
      const decryptor = own(create('Decryptor', 'Decryptor', context, secret));
      const none = library.ComprModeType.none;
      const size = (handle: Any): number => (old ? handle.saveArray(none) : handle.saveToArray(none)).length;
      const all = old ? [...parameters.coeffModulus].map(Number) : modulus(library, parameters);
      const level = (handle: Any, run: (id: Any) => void) => {
        const id = old ? handle.parmsId : handle.parmsId();
        run(id);
        id.delete?.();
      };
      const seal: Seal = {
        version: `node-seal ${major}`,
        slots: old ? encoder.slotCount : encoder.slotCount(),
        primes: all.slice(0, -1),
        bytes: {
          publicKey: size(open),
          relinearizationKey: size(relinearization),
          rotationKeys: rotation ? size(rotation) : 0,
        },
        plaintext: () => create('PlainText', 'Plaintext'),
        ciphertext: () => create('CipherText', 'Ciphertext'),
        encode: (values, scale, into) => wasm(() => encoder.encode(values, scale, into)),
        encrypt: (plain, into) => wasm(() => encryptor.encrypt(plain, into)),
        decrypt(cipher) {
          const plain: Any = seal.plaintext();
          try {
            return wasm(() => {
              decryptor.decrypt(cipher, plain);
              return old ? encoder.decode(plain) : encoder.decodeFloat64(plain);
            });
          } finally {
            plain.delete();
          }
        },
        scaleOf: (cipher: Any) => (old ? cipher.scale : cipher.scale()),
        setScale: (cipher: Any, scale) => cipher.setScale(scale),
        primesOf: (cipher: Any) => (old ? cipher.coeffModulusSize : cipher.coeffModulusSize()),
        sizeOf: size,
        rotate: (cipher, by, into) => wasm(() => evaluator.rotateVector(cipher, by, rotation, into)),
        multiplyPlain: (cipher, plain, into) => wasm(() => evaluator.multiplyPlain(cipher, plain, into)),
        multiply: (a, b, into) =>
          wasm(() => {
            evaluator.multiply(a, b, into);
            evaluator.relinearize(into, relinearization, into);
          }),
        square: (cipher, into) =>
          wasm(() => {
            evaluator.square(cipher, into);
            evaluator.relinearize(into, relinearization, into);
          }),
        add: (a, b, into) => wasm(() => evaluator.add(a, b, into)),
        addPlain: (cipher, plain) => wasm(() => evaluator.addPlain(cipher, plain, cipher)),
        rescale: (cipher) => wasm(() => evaluator.rescaleToNext(cipher, cipher)),
        plainToLevel: (plain, of) => wasm(() => level(of, (id) => evaluator.plainModSwitchTo(plain, id, plain))),
        cipherToLevel: (cipher, of, into) =>
          wasm(() => level(of, (id) => evaluator.cipherModSwitchTo(cipher, id, into))),
        close: () => release(owned),
      };
      return seal;
    });
  } catch (error) {
    release(owned);
    throw error;
  }
}

function release(handles: Handle[]): void {
  for (const handle of handles.splice(0).reverse()) handle.delete();
}

function modulus(library: Any, parameters: Any): number[] {
  const vector = parameters.coeffModulus();
  const list = library.jsArrayFromVecModulus(vector);
  const primes = list.map((prime: Any) => Number(prime.value()));
  for (const handle of [...list, vector]) handle.delete?.();
  return primes;
}
