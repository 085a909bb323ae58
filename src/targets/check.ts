/** `sisyphus check` as a function: what each target would make of a file. (`eval/check.ts` compares numbers.) */
import { didYouMean, SisyphusError } from '../errors.ts';
import type { Model } from '../graph/ir.ts';
import { readModel } from '../graph/read.ts';
import { inferTypes } from '../graph/shapes.ts';
import { assertValid } from '../graph/verify.ts';
import { topologicalOrder } from '../graph/walk.ts';
import { type Draft, type Finding, type Rule, SEVERITIES, type Severity, type Subject } from './finding.ts';
import { convBias, explicitAttributes, gemm } from './rules/attributes.ts';
import { initializers, names, opset, order, outputs, shapes } from './rules/form.ts';
import { bootstrapping, compileOptions, depth, magnitude, noImporter } from './rules/notes.ts';
import { batchNormalization, div, head, operands, pow, reshape, unsupported } from './rules/operators.ts';
import { averagePool, convolution, globalPool, padding } from './rules/windows.ts';
import { NO_TARGETS, TARGET_NAMES, TARGETS, type TargetName } from './targets.ts';

const RULES: readonly Rule[] = [
  ...[unsupported, pow, reshape, batchNormalization, div, head, operands],
  ...[explicitAttributes, convBias, gemm, padding, convolution, globalPool, averagePool],
  ...[opset, shapes, order, initializers, names, outputs],
  ...[depth, compileOptions, magnitude, bootstrapping, noImporter],
];

/** ok: neither rejected nor miscomputed, as far as the rules know. */
export type Verdict = 'ok' | 'unverified' | 'wrong' | 'rejected';

export interface TargetReport {
  readonly target: TargetName;
  readonly kind: string;
  readonly input: string;
  readonly evidence: string;
  readonly version: string;
  readonly verdict: Verdict;
  readonly findings: readonly Finding[];
}

export interface CheckReport {
  readonly path: string;
  readonly targets: readonly TargetReport[];
  /** How the rules came about. */
  readonly basis: string;
}

/** Section 6 of what is known: for people who trust a verdict. */
export const BASIS =
  'ACE, CrypTen and Athos were executed; the rules of Concrete ML, ezkl, Orion and HEIR are read from source, those of HElayers from its documentation. Versions move: each target states the one that its rules were established on.';

/** @throws SisyphusError `usage`, with the reason for systems that take no such file */
export function targetName(name: string): TargetName {
  const found = TARGET_NAMES.find((target) => target === name);
  if (found) return found;
  const known = NO_TARGETS[name.toLowerCase()];
  const text = known
    ? `${name} is no target: ${known}; there are ${TARGET_NAMES.join(', ')}`
    : `no target '${name}'${didYouMean(name, TARGET_NAMES)}`;
  throw new SisyphusError('usage', `--target: ${text}`);
}

/**
 * Lints a file against the rules of one target, or of all.
 * @throws SisyphusError `usage` for unknown targets, and where the file can't be read or is not valid
 */
export function checkTargets(file: string, options: { readonly target?: string } = {}): CheckReport {
  const targets = options.target === undefined ? TARGET_NAMES : [targetName(options.target)];
  const model = readModel(file);
  assertValid(model, file);
  return { path: file, targets: targets.map((target) => lint(model, target)), basis: BASIS };
}

/** The findings of one target on a model in memory, the gravest first. */
export function lint(model: Model, target: TargetName): TargetReport {
  const subject: Subject = { model, types: inferTypes(model), nodes: topologicalOrder(model.graph) };
  const findings = RULES.flatMap((rule) => rule(subject)).flatMap((draft): Finding[] => {
    const severity = severityFor(draft, target);
    const { rule, site, why, fix = null } = draft;
    return severity ? [{ rule, target, severity, site, why, fix }] : [];
  });
  const { kind, input, evidence, version } = TARGETS[target];
  findings.sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity));
  return { target, kind, input, evidence, version, verdict: verdictOf(findings), findings };
}

function severityFor({ severity }: Draft, target: TargetName): Severity | null {
  const own = severity[target];
  if (own) return own === 'none' ? null : own;
  if (target === 'portable') return worst(severity.crypten, severity.athos, severity.ace);
  // HEIR takes what is portable, after a conversion that nobody here has tried.
  if (target === 'heir') {
    const portable = severityFor({ severity } as Draft, 'portable');
    return portable === 'rejected' || portable === 'wrong' || portable === 'unverified' ? 'unverified' : null;
  }
  return null;
}

function worst(...severities: (Severity | 'none' | undefined)[]): Severity | null {
  return SEVERITIES.find((severity) => severities.includes(severity)) ?? null;
}

function verdictOf(findings: readonly Finding[]): Verdict {
  const found = worst(...findings.map(({ severity }) => severity));
  return found === 'rejected' || found === 'wrong' || found === 'unverified' ? found : 'ok';
}
