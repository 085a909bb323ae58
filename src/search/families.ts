/**
 * What `sisyphus search` chooses from: specs with stars. `deg=*,a=*` (the paper's) is a family of polynomials over degrees and
 * ranges, `preset=NAME` a family of one, and any number with a key may be a star: `deg=*,a=data,margin=*`.
 */
import { SisyphusError } from '../errors.ts';
import { parseSpec } from '../poly/spec.ts';
import type { Point, Space } from './acquisition.ts';

export const PAPER_FAMILY = 'deg=*,a=*';

export interface FamilyOptions {
  /** Specs with stars. */
  readonly families: readonly string[];
  /** For `deg=*`. */
  readonly degrees: readonly number[];
  /** For every other star. */
  readonly range: readonly [low: number, high: number];
}

export interface SpecSpace {
  readonly space: Space;
  /** The spec of a point. */
  readonly spec: (point: Point) => string;
  /** Whether anything is left to choose beside the choices. */
  readonly hasRange: boolean;
}

/** Of the logarithmic scale: ranges of 0.5 to 50 that differ by less than 5 % are alike. */
const CLOSE = 0.01;

const STAR = /(?<=^|,)([a-z]+)=\*(?=,|$)/g;

/** What the stars of a family are. @throws SisyphusError `usage` */
function starsOf(family: string): { degree: boolean; range: boolean } {
  const keys = [...family.matchAll(STAR)].map(([, key]) => key as string);
  const others = keys.filter((key) => key !== 'deg');
  if (others.length > 1)
    throw new SisyphusError(
      'usage',
      `--poly ${family}: ${others.map((key) => `${key}=*`).join(' and ')}: one star beside deg=* is searched over`,
    );
  if (family.replace(STAR, '').includes('*'))
    throw new SisyphusError('usage', `--poly ${family}: a star stands for a number: deg=*,a=*`);
  return { degree: keys.includes('deg'), range: others.length > 0 };
}

const fill = (family: string, degree: number | null, value: number): string =>
  family.replace(STAR, (_, key: string) => `${key}=${key === 'deg' ? degree : Number(value.toPrecision(4))}`);

/**
 * The families as a space: a choice for each family and degree, and along the free coordinate the range on a logarithmic
 * scale. Degrees whose polynomials are those of a degree below (odd ones of ReLU) are left out.
 * @param same whether two specs make equal polynomials of the network at hand
 * @throws SisyphusError `usage`, `spec`
 */
export function specSpace(
  { families, degrees, range }: FamilyOptions,
  same: (a: string, b: string) => boolean,
): SpecSpace {
  const [low, high] = range;
  const at = (u: number) => low * (high / low) ** u;
  const choices: { family: string; index: number; degree: number | null }[] = [];
  for (const [index, family] of families.entries()) {
    const stars = starsOf(family);
    if (!stars.degree) choices.push({ family, index, degree: null });
    const kept: number[] = [];
    for (const degree of stars.degree ? degrees : []) {
      const made = (d: number) => fill(family, d, at(0.5));
      if (!kept.some((other) => same(made(other), made(degree)))) kept.push(degree);
    }
    for (const degree of kept) choices.push({ family, index, degree });
  }
  for (const { family, degree } of choices) parseSpec(fill(family, degree, at(0.5)));
  const [least, most] = [Math.min(...degrees), Math.max(...degrees)];
  const hasRange = families.some((family) => starsOf(family).range);
  const coordinates = choices.map(({ index, degree }) => [
    // Families are as far from each other as the ends of the degrees.
    ...(families.length > 1 ? families.map((_, i) => Number(i === index)) : []),
    degree === null || most === least ? 0.5 : (degree - least) / (most - least),
  ]);
  return {
    space: { choices: coordinates, free: hasRange ? 1 : 0, close: CLOSE },
    spec({ choice, at: [u = 0.5] }) {
      const { family, degree } = choices[choice] as (typeof choices)[number];
      return fill(family, degree, at(u));
    },
    hasRange,
  };
}

/** The space of the paper's authors: degree and range as two numbers in their own units, the degree rounded half to even. */
export function authorsSpace({ families, degrees, range }: FamilyOptions): SpecSpace {
  const [family = PAPER_FAMILY, ...others] = families;
  const stars = starsOf(family);
  if (others.length > 0 || !stars.degree || !stars.range)
    throw new SisyphusError('usage', '--strategy sisyphus searches one family with deg=* and a=*');
  const ends: [number, number] = [Math.min(...degrees), Math.max(...degrees)];
  const scaled = ([low, high]: readonly [number, number], u: number) => low + u * (high - low);
  return {
    space: { choices: [[]], free: 2, units: [ends, range] },
    spec: ({ at: [d = 0, u = 0] }) => fill(family, halfToEven(scaled(ends, d)), scaled(range, u)),
    hasRange: true,
  };
}

function halfToEven(value: number): number {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
