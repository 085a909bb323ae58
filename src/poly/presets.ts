/**
 * The polynomial activations of the literature by name, for `--poly preset=NAME[,key=value…]`. A preset is a recipe with
 * its options, and what else the system that it stands for does to a network: passes that run before, a choice of sites.
 * None of them retrains; most of the systems do.
 */
import { didYouMean, SisyphusError } from '../errors.ts';
import { relu } from './activations.ts';
import { SMART_PAF } from './composite.ts';
import { plan } from './plan.ts';
import { degreeOf, type Interval, type Polynomial, powers } from './polynomial.ts';
import { CALIBRATE, type Measured, type Recipe, resolve, sourceOf } from './recipe.ts';
import type { PolySpec } from './spec.ts';
import { Entries } from './spec-entries.ts';

/** What a spec that names a preset asks for besides its polynomial. */
export interface Preset {
  readonly name: string;
  /** Passes to run before, by name. */
  readonly passes: readonly string[];
  /** The activations that it replaces are chosen on data, by this method of `plan`. */
  readonly choice: { readonly method: 'delphi' | 'safenet'; readonly budget: string | null } | null;
  /** Its polynomials expect inputs of mean 0 and deviation 1, as a BatchNormalization makes them. */
  readonly wantsBatchNormalization: boolean;
  /** An input outside of the range makes nonsense of the whole network, so the range grows until none is. */
  readonly mustStayInRange: boolean;
}

/** A row of `sisyphus presets`. */
export interface PresetSummary {
  readonly name: string;
  readonly source: string;
  /** A row of the paper's Table 1. */
  readonly table1: boolean;
  readonly polynomial: string;
  /** Of the polynomial for ReLU with default options. */
  readonly degree: number;
  readonly depth: number;
  readonly replaces: 'all' | 'some';
  readonly also: string;
  readonly options: string;
}

interface Definition {
  readonly name: string;
  readonly source: string;
  readonly table1?: boolean;
  readonly polynomial: string;
  readonly also?: string;
  /** Keys, as help: those before `=` are what is accepted, and words are flags. */
  readonly options: readonly string[];
  make(entries: Entries): { readonly recipe: Recipe } & Partial<Omit<Preset, 'name'>>;
}

const square: Recipe = { kind: 'fixed', polynomial: powers(0, 0, 1) };
const fixed = (...coefficients: number[]): Recipe => ({ kind: 'fixed', polynomial: powers(...coefficients) });

/** Coefficients as Chabanne et al. (eprint 2017/035) print them. x^4 of degree 4 looks like a misprint of -.0166. */
const POLYFIT: Readonly<Record<number, readonly number[]>> = {
  2: [0.1992, 0.5002, 0.1997],
  3: [0.1995, 0.5002, 0.1994, -0.0164],
  4: [0.15, 0.5012, 0.2981, -0.0004, -0.0388],
  5: [0.1488, 0.4993, 0.3007, 0.0003, -0.0168],
  6: [0.1249, 0.5, 0.3729, 0, -0.041, 0, 0.0016],
};

const DEFINITIONS: readonly Definition[] = [
  {
    name: 'cryptonets',
    source: 'CryptoNets: Gilad-Bachrach et al., ICML 2016',
    table1: true,
    polynomial: 'x^2',
    also: 'MaxPool becomes a sum pool (scaled mean pool); Softmax at the output goes',
    options: [],
    make: () => ({ recipe: square, passes: ['replace-maxpool-sum', 'drop-softmax'] }),
  },
  {
    name: 'lookup-table',
    source: 'Lookup Table: Thaine, Gorbunov, Penn 2019',
    table1: true,
    polynomial: 'the interpolant through q entries of a table over [-a, a], degree q - 1',
    options: ['levels=3', 'a=5', 'nodes=chebyshev|equispaced'],
    make: (entries) => ({
      recipe: {
        kind: 'fit',
        fit: entries.oneOf('nodes', ['chebyshev', 'equispaced'], 'chebyshev'),
        degree: entries.whole('levels', 2, 33, 3) - 1,
        on: range(entries, 'a', [-5, 5]),
      },
    }),
  },
  {
    name: 'polyfit',
    source: 'Chabanne et al. 2017, eprint 2017/035',
    table1: true,
    polynomial: 'least squares under N(0, 1): the exact projection, or the published digits',
    also: 'counts on a BatchNormalization before each activation, and says where there is none',
    options: ['deg=2|3|4|5|6|8', 'published'],
    make(entries) {
      const degree = entries.whole('deg', 2, 8, 2);
      if (degree === 7) throw entries.refuse('deg=7 is the same as deg=6: odd terms vanish');
      const published = entries.flag('published');
      const digits = POLYFIT[degree];
      if (published && !digits) throw entries.refuse(`there are no published digits for deg=${degree} (2 to 6)`);
      return {
        recipe:
          published && digits
            ? fixed(...digits)
            : { kind: 'density', fit: 'gaussian', degree, on: { mean: 0, std: 1 } },
        wantsBatchNormalization: true,
      };
    },
  },
  {
    name: 'secureml',
    source: 'SecureML: Mohassel, Zhang 2017',
    table1: true,
    polynomial: 'x^2',
    options: [],
    make: () => ({ recipe: square }),
  },
  {
    name: 'faster-cryptonets',
    source: 'Faster CryptoNets: Chou et al. 2018, arXiv 1811.09953',
    table1: true,
    polynomial: 'minimax quadratic on [-a, a], coefficients rounded to powers of two (or that of Swish, not rounded)',
    options: ['a=4', 'fn=relu|swish', 'pow2=true|false'],
    make(entries) {
      // Published: the minimax quadratic of Swish on [-4, 4].
      if (entries.oneOf('fn', ['relu', 'swish'], 'relu') === 'swish') {
        entries.refuseFor('fn=swish', ['a', 'pow2']);
        return { recipe: fixed(0.153613744, 0.5, 0.12050344) };
      }
      const on = range(entries, 'a', [-4, 4]);
      const rounding = entries.flag('pow2', true) && ({ rounding: { to: 'powers-of-two' } } as const);
      return { recipe: { kind: 'fit', fit: 'minimax', degree: 2, on, ...(rounding || {}) } };
    },
  },
  {
    name: 'cryptodl',
    source: 'CryptoDL: Hesamifard, Takabi, Ghasemi 2017, arXiv 1711.05189',
    table1: true,
    polynomial: 'the integral of a polynomial fitted to the derivative on [-a, a]',
    options: ['deg=2..8', 'a=5', 'weight=legendre|chebyshev'],
    make: (entries) => ({
      recipe: {
        kind: 'fit',
        fit: 'derivative',
        degree: entries.whole('deg', 2, 8, 2),
        on: range(entries, 'a', [-5, 5]),
        weight: entries.oneOf('weight', ['legendre', 'chebyshev'], 'legendre'),
      },
    }),
  },
  {
    name: 'hcnn',
    source: 'HCNN: Al Badawi et al. 2018',
    table1: true,
    polynomial: 'x^2 (their MNIST network), or x^2/8 + x/2 + 1/4 (taken for their CIFAR-10 network; not confirmed)',
    options: ['net=mnist|cifar10'],
    make: (entries) => ({
      recipe: entries.oneOf('net', ['mnist', 'cifar10'], 'mnist') === 'mnist' ? square : fixed(1 / 4, 1 / 2, 1 / 8),
    }),
  },
  {
    name: 'delphi',
    source: 'DELPHI: Mishra et al., USENIX Security 2020',
    table1: true,
    polynomial: '0.1992 + 0.5002 x + 0.1997 x^2 (its code), or x^2 (its text)',
    also: 'chooses k activations by accuracy (1 + share replaced), on --data; the others stay',
    options: ['k=N|all (default: while the score rises)', 'from=code|paper'],
    make(entries) {
      const paper = entries.oneOf('from', ['code', 'paper'], 'code') === 'paper';
      const recipe = paper ? square : fixed(...(POLYFIT[2] ?? []));
      if (entries.text('k') === 'all') return { recipe };
      const budget = entries.has('k') ? `sites=${entries.whole('k', 1, 1e6)}` : null;
      return { recipe, choice: { method: 'delphi', budget } };
    },
  },
  {
    name: 'safenet',
    source: 'SAFENet: Lou et al., ICLR 2021',
    table1: true,
    polynomial: 'degree 2 or 3 by channel, least squares under the measured mean and deviation of the channel',
    also: 'ranks channels by what replacing them does to the logits, on --data; a share of the activations stays',
    options: ['budget=50% (activations that stay)'],
    make: (entries) => ({
      recipe: {
        kind: 'density',
        fit: 'gaussian',
        degree: 3,
        on: { from: CALIBRATE, margin: 1 },
        perChannel: true,
      },
      choice: { method: 'safenet', budget: `relus=${entries.has('budget') ? entries.text('budget') : '50%'}` },
    }),
  },
  {
    name: 'precise',
    source: 'PreciseApprox: Lee et al. 2021, arXiv 2105.10879',
    table1: true,
    polynomial: 'x (1 + sign(x/B)) / 2, the sign a composite of odd minimax polynomials with precision 2^-alpha',
    also: 'with --data: B is measured, and raised by tenths where an input leaves it, until none does',
    options: ['alpha=4..14 (10)', 'B=50 (with --data: measured)', 'margin=2'],
    make(entries) {
      const on = calibrated(entries, 'B', 2, [-50, 50]);
      return {
        recipe: { kind: 'composite', sign: { alpha: entries.whole('alpha', 4, 14, 10) }, on: bound(entries, on) },
        mustStayInRange: true,
      };
    },
  },
  {
    name: 'taylor',
    source: 'Garimella, Jha, Reagen 2021, arXiv 2107.12342, Table 2',
    polynomial: 'Taylor series at 0: x/2 for ReLU, whatever the degree',
    options: ['deg=1'],
    make: (entries) => ({ recipe: { kind: 'taylor', degree: entries.whole('deg', 1, 10, 1) } }),
  },
  {
    name: 'sisyphus',
    source: 'Garimella, Jha, Reagen 2021, arXiv 2107.12342, Eq. 1',
    polynomial: "least squares over the paper's grid of points on [-a, a]",
    options: ['deg=4', 'a=5', 'dx=1e-3'],
    make: (entries) => ({
      recipe: {
        kind: 'fit',
        fit: 'lsq',
        degree: entries.degree('deg', 4),
        on: range(entries, 'a', [-5, 5]),
        dx: entries.positive('dx', 1e-3),
      },
    }),
  },
  {
    name: 'hermite',
    source: 'AESPA: Park et al. 2022, arXiv 2201.06699',
    polynomial: 'the Hermite expansion of the activation, on N(0, 1) or the measured mean and deviation',
    also: 'the activation as AESPA starts its training with it',
    options: ['deg=2', 'a=FILE|data (N(0, 1))', 'per=channel'],
    make(entries) {
      const degree = entries.degree('deg', 2);
      if (!entries.has('a')) {
        entries.refuseFor('N(0, 1)', ['per']);
        const on = { mean: 0, std: 1 };
        return { recipe: { kind: 'density', fit: 'gaussian', degree, on }, wantsBatchNormalization: true };
      }
      const on = entries.range('a');
      if (!('from' in on)) throw entries.refuse(`a=${entries.text('a')} must be a statistics file or '${CALIBRATE}'`);
      const perChannel = entries.has('per') && entries.oneOf('per', ['channel'], 'channel') === 'channel';
      return { recipe: { kind: 'density', fit: 'gaussian', degree, on, ...(perChannel && { perChannel }) } };
    },
  },
  {
    name: 'orion',
    source: 'Orion: Ebel, Garimella, Reagen 2025',
    polynomial: 'Chebyshev interpolation on the measured range; `composite`: its ReLU, sign of degrees 15, 15, 27',
    also: 'measures ranges on --data (or give a=)',
    options: ['deg=31', 'a=FILE|data', 'margin=2', 'composite'],
    make(entries) {
      const on = calibrated(entries, 'a', 2);
      if (entries.flag('composite')) {
        entries.refuseFor('composite', ['deg']);
        // Its ReLU asks for signs right beyond 2^-6 of the range.
        const sign = { degrees: [15, 15, 27], epsilon: 2 ** -6 };
        // The factor outside is a whole number, so that it costs no level.
        return { recipe: { kind: 'composite', sign, on: bound(entries, on) }, mustStayInRange: true };
      }
      const lopsided = 'from' in on ? { ...on, lopsided: true } : on;
      return { recipe: { kind: 'fit', fit: 'chebyshev', degree: entries.degree('deg', 31), on: lopsided } };
    },
  },
  {
    name: 'smart-paf',
    source: 'SMART-PAF: Tong et al., MLSys 2024; polynomials of Cheon et al. 2020',
    polynomial: 'x (1 + sign(x/B)) / 2, the sign a short composite',
    also: 'measures B on --data (or give B=)',
    options: [
      `paf=${Object.keys(SMART_PAF).join('|')}`,
      'B=FILE|data',
      'margin=2',
      'published (the order in its code)',
    ],
    make(entries) {
      const names = Object.keys(SMART_PAF) as (keyof typeof SMART_PAF)[];
      const paf = entries.oneOf('paf', names, 'f1f1g1g1');
      const sign = { paf, published: entries.flag('published') };
      const on = calibrated(entries, 'B', 2);
      return { recipe: { kind: 'composite', sign, on: bound(entries, on) }, mustStayInRange: true };
    },
  },
  {
    name: 'pillar',
    source: 'PILLAR: Diaa et al., USENIX Security 2024, arXiv 2306.08538',
    polynomial: 'least squares on [-B, B] with coefficients that are multiples of 2^-bits, chosen together',
    also: 'its range penalty belongs to training, which is not part of it here',
    options: ['deg=4', 'B=5', 'bits=10'],
    make: (entries) => ({
      recipe: {
        kind: 'fit',
        fit: 'lsq',
        degree: entries.whole('deg', 2, 9, 4),
        on: range(entries, 'B', [-5, 5]),
        rounding: { to: 'fixed-point', bits: entries.whole('bits', 1, 30, 10) },
      },
    }),
  },
];

/** The range under `key`. */
const range = (entries: Entries, key: string, fallback: Interval): Interval | Measured =>
  entries.has(key) ? entries.range(key) : fallback;

/** The range under `key`; where it is not given, what --data shows, and without that the fallback. */
function calibrated(entries: Entries, key: string, margin: number, fallback?: Interval): Interval | Measured {
  const on: Interval | Measured = entries.has(key) ? entries.range(key) : { from: CALIBRATE, margin };
  if (!('from' in on)) return on;
  return {
    ...on,
    margin: entries.positive('margin', margin),
    ...(fallback && !entries.has(key) && { fallback }),
  };
}

/** The one end of a symmetric range. */
function bound(entries: Entries, on: Interval | Measured): number | Measured {
  if ('from' in on) return on;
  if (on[0] !== -on[1]) throw entries.refuse('a composite works on [-B, B]: give one number');
  return on[1];
}

/** Other words for keys. */
const ALIASES = [
  ['degree', 'deg'],
  ['range', 'a'],
  ['range', 'B'],
  ['a', 'B'],
  ['B', 'a'],
] as const;

const keyOf = (option: string) => /^[\w-]+/.exec(option)?.[0] ?? '';

/** Reads `preset=NAME` with its options. @throws SisyphusError `spec` */
export function expandPreset(entries: Entries): PolySpec {
  const name = entries.text('preset');
  const definition = DEFINITIONS.find((candidate) => candidate.name === name);
  if (!definition) {
    const names = DEFINITIONS.map((candidate) => candidate.name);
    throw entries.refuse(`unknown preset '${name}'${didYouMean(name, names)}; \`sisyphus presets\` lists them`);
  }
  const keys = definition.options.map(keyOf);
  for (const [alias, key] of ALIASES)
    if (keys.includes(key) && !keys.includes(alias) && entries.has(alias)) entries.rename(alias, key);
  entries.refuseOthers(['preset', ...keys, ...(keys.includes('a') || keys.includes('B') ? ['margin'] : [])]);
  const flags = definition.options.filter((option) => /^[\w-]+( |$)/.test(option)).map(keyOf);
  const stray = entries.words.find((word) => !flags.includes(word));
  if (stray !== undefined)
    throw entries.refuse(`'${stray}' means nothing to ${name}${didYouMean(stray, [...flags, ...keys])}`);
  const { recipe, ...preset } = definition.make(entries);
  const given = keys.filter((key) => entries.has(key)).map((key) => `${key}=${entries.text(key)}`);
  if (entries.has('margin') && !keys.includes('margin')) given.push(`margin=${entries.text('margin')}`);
  return {
    text: [`preset=${name}`, ...given, ...entries.words].join(','),
    recipe,
    preset: {
      name,
      passes: [],
      choice: null,
      wantsBatchNormalization: false,
      mustStayInRange: false,
      ...preset,
    },
  };
}

/** All presets, with degree and depth of what they make of ReLU by default. */
export function listPresets(): PresetSummary[] {
  return DEFINITIONS.map(({ name, source, table1, polynomial, also, options }) => {
    const { recipe, preset } = expandPreset(new Entries(`preset=${name}`));
    const example = exampleOf(recipe);
    return {
      name,
      source,
      table1: table1 ?? false,
      polynomial,
      degree: degreeOf(example),
      depth: plan([example]).depth,
      replaces: preset?.choice ? 'some' : 'all',
      also: also ?? '',
      options: options.join(', '),
    };
  });
}

/** What a recipe makes of ReLU on [-5, 5], where it asks for statistics. */
function exampleOf(recipe: Recipe): Polynomial {
  const statistics = { channelMin: [-5], channelMax: [5], channelMean: [0.1], channelStd: [1], mean: 0.1, std: 1 };
  const result = resolve(recipe, [relu], sourceOf(recipe) === null ? undefined : statistics);
  if ('reason' in result) throw new SisyphusError('internal', result.reason);
  return result.polynomials[0] as Polynomial;
}
