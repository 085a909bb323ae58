/** What a plan may cost: `relus=50%`, `sites=8`, `depth=40`, `accuracy=0.5%`, or several of them. */
import { didYouMean, SisyphusError } from '../errors.ts';

export interface Budget {
  readonly text: string;
  /** Elements that may keep their activation, per input: a share of all, or so many. */
  readonly relus?: { readonly share: number } | { readonly elements: number };
  /** Activations that have to be replaced. */
  readonly sites?: number;
  /** Multiplicative levels that the whole network may have. Alone, it leaves no activation in place. */
  readonly depth?: number;
  /** The fraction by which accuracy on the calibration inputs may fall. Alone, as much as possible is replaced. */
  readonly accuracy?: number;
}

const KEYS = ['relus', 'sites', 'depth', 'accuracy'] as const;
type Key = (typeof KEYS)[number];

/** Parses what `--budget` takes. @throws SisyphusError `usage` */
export function parseBudget(text: string): Budget {
  const budget: { -readonly [K in keyof Budget]: Budget[K] } = { text };
  const seen = new Set<string>();
  for (const part of text.split(',')) {
    const [, word = '', value = ''] = /^\s*([^=]*?)\s*(?:=\s*(.*?))?\s*$/s.exec(part) ?? [];
    const refuse = (why: string) => new SisyphusError('usage', `--budget '${text}': ${why}`);
    const key: Key | undefined = KEYS.find((known) => known === word);
    if (!key)
      throw refuse(`unknown key '${word}'${didYouMean(word, KEYS)} (relus=50%, sites=8, depth=40, accuracy=0.5%)`);
    if (seen.size === seen.add(key).size) throw refuse(`${key} is given twice`);
    const isShare = value.endsWith('%');
    const digits = isShare ? value.slice(0, -1) : value;
    const number = /^(\d+\.?\d*|\.\d+)$/.test(digits) ? Number(digits) : Number.NaN;
    if (Number.isNaN(number)) throw refuse(`${key}='${value}' is no number`);
    if (isShare && number > 100) throw refuse(`${key}=${value} is above 100%`);
    if (key === 'accuracy') {
      if (!isShare) throw refuse(`accuracy takes points: accuracy=${value || '0.5'}%`);
      budget.accuracy = number / 100;
    } else if (key === 'relus' && isShare) budget.relus = { share: number / 100 };
    else if (isShare) throw refuse(`${key} takes a number, not a share`);
    else if (!Number.isSafeInteger(number)) throw refuse(`${key}=${value} must be a whole number`);
    else if (key === 'relus') budget.relus = { elements: number };
    else budget[key] = number;
  }
  return budget;
}
