/** Which activation sites a run is about: kinds and name patterns, as given on the command line. */
import { didYouMean, SisyphusError } from '../errors.ts';
import { ACTIVATION_KINDS, type ActivationKind, RELU_FAMILY } from '../poly/activations.ts';
import { globMatcher } from '../poly/spec.ts';
import type { ActivationSite } from './activation-sites.ts';

export interface SiteSelection {
  /** Default: the ReLU family. */
  readonly activations?: readonly ActivationKind[];
  /** Patterns of site names: only these, and none of those. */
  readonly only?: readonly string[];
  readonly skip?: readonly string[];
  /** Only sites of exactly these names. */
  readonly among?: ReadonlySet<string>;
}

/** 'relu,gelu', 'relu-family' or 'all' as kinds. @throws SisyphusError `usage` for an unknown word */
export function parseActivations(text: string): ActivationKind[] {
  return text.split(',').flatMap((word): readonly ActivationKind[] => {
    if (word === 'all') return ACTIVATION_KINDS;
    if (word === 'relu-family') return RELU_FAMILY;
    const kind = ACTIVATION_KINDS.find((candidate) => candidate === word);
    if (!kind)
      throw new SisyphusError(
        'usage',
        `--activations: unknown activation '${word}'${didYouMean(word, [...ACTIVATION_KINDS, 'all', 'relu-family'])}`,
      );
    return [kind];
  });
}

export const selectedKinds = (selection: SiteSelection): ReadonlySet<ActivationKind> =>
  new Set(selection.activations ?? RELU_FAMILY);

/**
 * A test of site names against `--only` and `--skip`, giving the reason why a site is left out.
 * @throws SisyphusError `spec` for a pattern that matches no site: most likely it is misspelt
 */
export function siteFilter(
  selection: SiteSelection,
  sites: readonly ActivationSite[],
): (site: ActivationSite) => string | null {
  const compile = (option: string, globs: readonly string[] = []) =>
    globs.map((glob) => ({ glob, matches: siteMatcher(glob, option, sites) }));
  const only = compile('--only', selection.only);
  const skip = compile('--skip', selection.skip);
  return (site) => {
    if (selection.among && !selection.among.has(site.name)) return 'not its turn';
    if (only.length > 0 && !only.some(({ matches }) => matches(site))) return 'not among --only';
    const hit = skip.find(({ matches }) => matches(site));
    return hit ? `--skip ${hit.glob}` : null;
  };
}

/** Matches a site by its name, or by the name of its output. @throws SisyphusError `spec` where it matches none */
export function siteMatcher(
  glob: string,
  option: string,
  sites: readonly ActivationSite[],
): (site: ActivationSite) => boolean {
  const matches = globMatcher(glob);
  const test = (site: ActivationSite) => matches(site.name) || matches(site.output.name);
  if (!sites.some(test)) {
    const names = sites.map(({ name }) => name);
    const hint = names.length === 0 ? '; it has none' : didYouMean(glob, names.slice(0, 8));
    throw new SisyphusError('spec', `${option}: '${glob}' matches no activation of this model${hint}`);
  }
  return test;
}
