/** The `key=value` list of a polynomial spec, and readers of its values that refuse what is wrong in one line. */
import { didYouMean, SisyphusError } from '../errors.ts';
import { MAX_DEGREE } from './fit.ts';
import type { Interval } from './polynomial.ts';
import { CALIBRATE, type Measured, type Rounding } from './recipe.ts';

export class Entries {
  /** Parts without `=`. */
  readonly words: readonly string[];
  readonly #values = new Map<string, string>();
  readonly #text: string;

  /** @throws SisyphusError `spec` for a key that is given twice */
  constructor(text: string) {
    this.#text = text;
    const words: string[] = [];
    for (const part of text.split(',').map((piece) => piece.trim())) {
      const at = part.indexOf('=');
      if (at < 0) {
        words.push(part);
        continue;
      }
      const key = part.slice(0, at);
      if (this.#values.has(key)) throw this.refuse(`'${key}' is given twice`);
      this.#values.set(key, part.slice(at + 1));
    }
    this.words = words;
  }

  get size(): number {
    return this.#values.size;
  }
  get keys(): string[] {
    return [...this.#values.keys()];
  }
  has(key: string): boolean {
    return this.#values.has(key);
  }
  text(key: string): string {
    return this.#values.get(key) ?? '';
  }
  rename(from: string, to: string): void {
    if (this.#values.has(to)) throw this.refuse(`'${from}' and '${to}' are the same`);
    this.#values.set(to, this.text(from));
    this.#values.delete(from);
  }

  refuse(why: string): SisyphusError {
    return new SisyphusError('spec', `--poly '${this.#text}': ${why}`);
  }
  refuseOthers(known: readonly string[]): void {
    const stranger = this.keys.find((key) => !known.includes(key));
    if (stranger !== undefined) throw this.refuse(`unknown key '${stranger}'${didYouMean(stranger, known)}`);
  }
  /** Keys that mean nothing beside something else. */
  refuseFor(beside: string, keys: readonly string[]): void {
    const stray = keys.find((key) => this.has(key));
    if (stray !== undefined) throw this.refuse(`${stray}= means nothing with ${beside}`);
  }

  number(key: string, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const word = this.text(key);
    const value = Number(word);
    if (word.trim() === '' || !Number.isFinite(value)) throw this.refuse(`${key}='${word}' is not a finite number`);
    return value;
  }
  positive(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (value <= 0) throw this.refuse(`${key}=${value} must be above 0`);
    return value;
  }
  whole(key: string, min: number, max: number, fallback?: number): number {
    const value = this.number(key, fallback);
    if (!Number.isInteger(value) || value < min || value > max)
      throw this.refuse(`${key}=${this.text(key)} must be a whole number from ${min} to ${max}`);
    return value;
  }
  degree(key: string, fallback?: number): number {
    return this.whole(key, 1, MAX_DEGREE, fallback);
  }
  /** Numbers separated by ':'. */
  list(key: string): number[] {
    return this.text(key)
      .split(':')
      .map((word) => {
        const value = Number(word);
        if (word.trim() === '' || !Number.isFinite(value))
          throw this.refuse(`'${word}' is not a finite number (c0:c1:c2, constant first)`);
        return value;
      });
  }
  oneOf<T extends string>(key: string, choices: readonly T[], fallback: T): T {
    if (!this.has(key)) return fallback;
    const word = this.text(key);
    const choice = choices.find((candidate) => candidate === word);
    if (choice === undefined)
      throw this.refuse(`unknown ${key} '${word}'${didYouMean(word, choices)} (${choices.join(', ')})`);
    return choice;
  }
  /** A word on its own, or `word=true`. */
  flag(key: string, fallback = false): boolean {
    if (this.words.includes(key)) return true;
    return this.oneOf(key, ['true', 'false'], fallback ? 'true' : 'false') === 'true';
  }
  rounding(key: string): Rounding | undefined {
    if (!this.has(key)) return undefined;
    if (this.text(key) === 'pow2') return { to: 'powers-of-two' };
    return { to: 'fixed-point', bits: this.whole(key, 1, 30) };
  }

  /** `5` for [-5, 5], `-3:5`, a file of statistics, or `data` for what calibration data show. */
  range(key: string): Interval | Measured {
    const word = this.text(key);
    if (word === CALIBRATE || word.endsWith('.json')) return { from: word, margin: this.positive('margin', 1) };
    this.refuseFor(`${key}=${word}`, ['margin']);
    if (word.includes(':')) {
      const [low, high, ...more] = this.list(key);
      if (low === undefined || high === undefined || more.length > 0 || !(low < high))
        throw this.refuse(`${key}=${word} must be low:high`);
      this.#plausible(key, Math.max(Math.abs(low), Math.abs(high)));
      if (high - low < 1e-6) throw this.refuse(`${key}=${word} is narrower than 1e-6`);
      return [low, high];
    }
    if (word.trim() === '' || !Number.isFinite(Number(word)))
      throw this.refuse(
        `${key}='${word}' is not a finite number, nor low:high, nor a statistics file (${key}=stats.json), nor '${CALIBRATE}' (measured on --data)`,
      );
    const range = this.number(key);
    if (range <= 0) throw this.refuse(`${key}=${range} must be above 0: the range is [-${key}, ${key}]`);
    this.#plausible(key, range);
    return [-range, range];
  }
  #plausible(key: string, range: number): void {
    if (range < 1e-6 || range > 1e6) throw this.refuse(`${key}=${this.text(key)} must lie between 1e-6 and 1e6`);
  }
}
