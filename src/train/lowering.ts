/**
 * What lowerings are made of. A lowering has two parts: the first reads attributes and constants of a node at one batch
 * size, and throws where they ask for what is not supported; the second computes, any number of times.
 */
import { SisyphusError } from '../errors.ts';
import { intsAttr } from '../graph/attributes.ts';
import type { Node } from '../graph/ir.ts';
import type { tf } from './tf.ts';

/** A node at one batch size. Its methods throw a SisyphusError `unsupported` where only the run knows the answer. */
export interface Site {
  readonly node: Node;
  readonly opset: number;
  /** Whether the input is given. */
  has(index: number): boolean;
  /** Of an input. */
  shape(index: number): readonly number[];
  /** Of an output. */
  result(index?: number): readonly number[];
  /** The elements of an input. */
  numbers(index: number): readonly number[];
  /** Whether the elements of an input are known before the run. */
  isKnown(index: number): boolean;
  /** The name of the running statistic that an input is, where training updates it. */
  statistic(index: number): string | null;
}

/** What a run has beside the tensors. */
export interface Run {
  readonly training: boolean;
  /** What a Dropout multiplies by; null where nothing is dropped. */
  mask(node: Node, ratio: number, dims: readonly number[]): tf.Tensor | null;
  /** Gives a running statistic its next value. */
  update(name: string, value: tf.Tensor): void;
}

/** The tensor at an input of the node. */
export type Inputs = (index: number) => tf.Tensor;
/** @returns the outputs, or the only one */
export type Apply = (input: Inputs, run: Run) => tf.Tensor | readonly tf.Tensor[];
export type Lowering = (site: Site) => Apply;
export type Lowerings = Readonly<Record<string, Lowering>>;

export const unsupported = (reason: string): SisyphusError => new SisyphusError('unsupported', reason);

/** A list that is an attribute in some opsets and an input in others. */
export const listOf = (site: Site, name: string, index: number): readonly number[] | undefined =>
  intsAttr(site.node, name) ?? (site.has(index) ? site.numbers(index) : undefined);

/** Of operators without attributes. */
export const unary =
  (compute: (x: tf.Tensor) => tf.Tensor): Lowering =>
  () =>
  (input) =>
    compute(input(0));

export const binary =
  (compute: (a: tf.Tensor, b: tf.Tensor) => tf.Tensor): Lowering =>
  () =>
  (input) =>
    compute(input(0), input(1));
