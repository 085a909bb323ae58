/** What a rule finds, and what rules look at. */
import { constantOf } from '../graph/constants.ts';
import type { Model, Node, Value } from '../graph/ir.ts';
import type { Types } from '../graph/shapes.ts';
import type { Tensor } from '../graph/tensor.ts';
import { siteName } from '../passes/pass.ts';
import type { TargetName } from './targets.ts';

/**
 * rejected: the tool refuses or crashes; wrong: it accepts and computes something else; unverified: may be wrong, compare;
 * costly: right but slow or large; info: to be known.
 */
export const SEVERITIES = ['rejected', 'wrong', 'unverified', 'costly', 'info'] as const;
export type Severity = (typeof SEVERITIES)[number];

export interface Finding {
  /** P001 to P030. */
  readonly rule: string;
  readonly target: TargetName;
  readonly severity: Severity;
  /** The node, or the input, output or part of the file. */
  readonly site: string;
  readonly why: string;
  /** The pass that removes it, or what to do; null where nothing helps. */
  readonly fix: string | null;
}

/** One finding for several targets. What one of CrypTen, Athos and ACE can't do, `portable` has not, if it says nothing. */
export interface Draft {
  readonly rule: string;
  readonly site: string;
  readonly why: string;
  readonly fix?: string;
  readonly severity: Partial<Record<TargetName, Severity | 'none'>>;
}

/** The main graph, with what is known of it. */
export interface Subject {
  readonly model: Model;
  readonly types: Types;
  /** In topological order. */
  readonly nodes: readonly Node[];
}

export type Rule = (subject: Subject) => Draft[];

/** A rule on the nodes with such operators. */
export const onNodes =
  (operators: readonly string[], rule: (node: Node, subject: Subject) => Omit<Draft, 'site'>[]): Rule =>
  (subject) =>
    subject.nodes
      .filter(({ op, domain }) => domain === '' && operators.includes(op))
      .flatMap((node) => rule(node, subject).map((draft) => ({ site: siteName(node), ...draft })));

/** The shape of a value as numbers, the batch as 1 where it is open; null where something else is open. */
export function shapeOf({ types }: Subject, value: Value | null | undefined): number[] | null {
  const shape = value ? types.get(value).shape : null;
  const known = shape?.map((dim, axis) => (axis === 0 && typeof dim !== 'number' ? 1 : dim));
  return known?.every((dim) => typeof dim === 'number') ? (known as number[]) : null;
}

/** The constant operand of an elementwise node with one, and the other operand. */
export function constantOperand(
  { model }: Subject,
  node: Node,
): { readonly constant: Value; readonly tensor: Tensor; readonly data: Value } | null {
  const index = node.inputs.findIndex((value) => constantOf(model, value));
  const [constant, data] = [node.inputs[index], node.inputs[1 - index]];
  const tensor = constantOf(model, constant);
  return constant && data && tensor && !constantOf(model, data) ? { constant, tensor, data } : null;
}

/** Whether the values that a node makes reach one of these operators before one of those. */
export function reaches(node: Node, operators: ReadonlySet<string>, before: ReadonlySet<string>): boolean {
  const seen = new Set<Node>();
  const queue = [node];
  for (let at = queue.pop(); at; at = queue.pop())
    for (const user of at.outputs.flatMap((value) => [...(value?.users.keys() ?? [])])) {
      if (!('op' in user) || seen.has(user) || before.has(user.op)) continue;
      if (operators.has(user.op)) return true;
      seen.add(user);
      queue.push(user);
    }
  return false;
}
