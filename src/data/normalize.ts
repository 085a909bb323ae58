/** How values become what a network was trained on: `--normalize raw | scale=1/255 | mean=…,std=… | PRESET`. */
import { didYouMean, SisyphusError } from '../errors.ts';

/** y = (x * scale - mean[c]) / std[c]. Empty lists leave that step out; one number serves all channels. */
export interface Normalize {
  /** null: to 0..1, which is 1/255 for pixels and 1 for values that are stored as floating point. */
  readonly scale: number | null;
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

const preset = (mean: readonly number[], std: readonly number[]): Normalize => ({ scale: null, mean, std });
const IMAGENET = preset([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/** Per-channel statistics of the training sets, as the reference code of the paper uses them. */
export const NORMALIZE_PRESETS: ReadonlyMap<string, Normalize> = new Map([
  ['mnist', preset([0.1307], [0.3081])],
  ['fashion-mnist', preset([0.286], [0.353])],
  ['cifar10', preset([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616])],
  ['cifar100', preset([0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762])],
  ['tiny-imagenet', IMAGENET],
  ['imagenet', IMAGENET],
]);

const KEYS = ['scale', 'mean', 'std'];
const EXAMPLE = 'raw, scale=1/255, mean=0.5,std=0.25 or mean=m1,m2,m3,std=s1,s2,s3';

/** @throws SisyphusError `spec` */
export function parseNormalize(text: string): Normalize {
  const word = text.trim();
  if (word === 'raw') return { scale: 1, mean: [], std: [] };
  const named = NORMALIZE_PRESETS.get(word);
  if (named) return named;
  const refuse = (why: string) => new SisyphusError('spec', `--normalize '${text}': ${why}`);
  if (!word.includes('='))
    throw refuse(`no such preset${didYouMean(word, ['raw', ...NORMALIZE_PRESETS.keys()])}; or give ${EXAMPLE}`);

  const lists = new Map<string, number[]>();
  let list: number[] | undefined;
  for (const part of word.split(/[,:]/).map((piece) => piece.trim())) {
    const at = part.indexOf('=');
    if (at >= 0) {
      const key = part.slice(0, at).trim();
      if (!KEYS.includes(key)) throw refuse(`unknown key '${key}'${didYouMean(key, KEYS)}`);
      if (lists.has(key)) throw refuse(`'${key}' is given twice`);
      list = [];
      lists.set(key, list);
    }
    const value = parseNumber(part.slice(at + 1));
    if (value === null || !list) throw refuse(`'${part.slice(at + 1)}' is not a number; give ${EXAMPLE}`);
    list.push(value);
  }
  const { scale, mean = [], std = [] } = Object.fromEntries(lists) as Partial<Record<string, number[]>>;
  if (scale && scale.length !== 1) throw refuse('scale takes one number');
  if (scale && !(Math.abs(scale[0] as number) > 0)) throw refuse('scale=0 would make every input equal');
  if (std.some((value) => !(value > 0))) throw refuse('every std must be above 0');
  if (mean.length > 1 && std.length > 1 && mean.length !== std.length)
    throw refuse(`mean has ${mean.length} numbers and std ${std.length}`);
  return { scale: scale?.[0] ?? null, mean, std };
}

/** '0.5' or '1/255'. */
function parseNumber(text: string): number | null {
  const [numerator, denominator = '1', ...rest] = text.split('/').map((part) => part.trim());
  if (!numerator || !denominator || rest.length > 0) return null;
  const value = Number(numerator) / Number(denominator);
  return Number.isFinite(value) ? value : null;
}

/** The spec as text that parses back to it. */
export function formatNormalize({ scale, mean, std }: Normalize): string {
  if (scale === 1 && mean.length + std.length === 0) return 'raw';
  const parts = [
    ...(scale === null ? [] : [`scale=${scale === 1 / 255 ? '1/255' : scale}`]),
    ...(mean.length > 0 ? [`mean=${mean.join(',')}`] : []),
    ...(std.length > 0 ? [`std=${std.join(',')}`] : []),
  ];
  return parts.length > 0 ? parts.join(',') : 'scale=1/255';
}

/** The two numbers of y = factor * x + offset for each channel. */
export function affineOf(
  normalize: Normalize,
  channels: number,
  pixels: boolean,
): { factor: Float64Array; offset: Float64Array } {
  const scale = normalize.scale ?? (pixels ? 1 / 255 : 1);
  const at = (list: readonly number[], c: number, otherwise: number) =>
    (list.length > 1 ? list[c] : list[0]) ?? otherwise;
  const std = (c: number) => at(normalize.std, c, 1);
  return {
    factor: Float64Array.from({ length: channels }, (_, c) => scale / std(c)),
    offset: Float64Array.from({ length: channels }, (_, c) => -at(normalize.mean, c, 0) / std(c)),
  };
}
