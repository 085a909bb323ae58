/** What brings rows of a data set into a model, and where it is kept: the model's metadata. */
import type { Layout, Resize } from '../data/dataset.ts';
import { formatNormalize, type Normalize, parseNormalize } from '../data/normalize.ts';
import { formatResize, parseResize } from '../data/resize.ts';
import { SisyphusError } from '../errors.ts';
import { setMetadata } from '../graph/edit.ts';
import type { Model } from '../graph/ir.ts';
import { parseLayout } from './input.ts';

export interface Preprocessing {
  readonly normalize: Normalize;
  readonly resize?: Resize | undefined;
  /** Default: found from the shapes. */
  readonly layout?: Layout | undefined;
  /** Where `normalize` comes from: an option, the model's metadata, or the data set's usual one. */
  readonly source: 'option' | 'model' | 'default';
}

/** The same as text, as options would give it. */
export interface PreprocessingText {
  readonly normalize?: string | undefined;
  readonly resize?: string | undefined;
  readonly layout?: string | undefined;
}

const KEY = 'sisyphus.preprocessing';

/**
 * Options first, then what the model records, then the data set's default, each item by itself.
 * @param usual the normalisation that is usual for the data set
 * @throws SisyphusError `spec`, `usage`; `invalid-model` for metadata that can't be read
 */
export function resolvePreprocessing(
  options: PreprocessingText,
  model: Model,
  usual: string,
  where: string,
): Preprocessing {
  const recorded = recordedIn(model, where, options.normalize !== undefined);
  const normalize = options.normalize ?? recorded.normalize;
  const resize = options.resize ?? recorded.resize;
  const layout = options.layout ?? recorded.layout;
  return {
    normalize: parseNormalize(normalize ?? usual),
    ...(resize !== undefined && { resize: parseResize(resize) }),
    ...(layout !== undefined && { layout: parseLayout(layout) }),
    source: options.normalize !== undefined ? 'option' : recorded.normalize !== undefined ? 'model' : 'default',
  };
}

export function preprocessingText({ normalize, resize, layout }: Preprocessing): PreprocessingText {
  return { normalize: formatNormalize(normalize), resize: resize && formatResize(resize), layout };
}

/** Records it in the model, for the runs to come. */
export function recordPreprocessing(model: Model, preprocessing: Preprocessing): void {
  setMetadata(model, KEY, JSON.stringify(preprocessingText(preprocessing)));
}

/** @param lenient take nothing from metadata that can't be read */
function recordedIn(model: Model, where: string, lenient: boolean): PreprocessingText {
  const text = model.metadata.find(({ key }) => key === KEY)?.value;
  if (text === undefined) return {};
  try {
    const { normalize, resize, layout } = JSON.parse(text) as Record<string, unknown>;
    const word = (value: unknown) => (typeof value === 'string' ? value : undefined);
    return { normalize: word(normalize), resize: word(resize), layout: word(layout) };
  } catch (cause) {
    if (lenient) return {};
    throw new SisyphusError(
      'invalid-model',
      `${where}: its metadata '${KEY}' is not JSON; give --normalize and --save-preprocessing to record it anew`,
      { cause },
    );
  }
}
