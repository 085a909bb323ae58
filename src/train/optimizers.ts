/**
 * Optimizers as pure functions of tensors, so that a whole training step can be one graph. What changes from step to step
 * (learning rate, number of the step) comes in as tensors; everything else is fixed.
 */
import { didYouMean, SisyphusError } from '../errors.ts';
import { tf } from './tf.ts';

export const OPTIMIZERS = ['sgd', 'adam', 'adamw'] as const;
export type OptimizerName = (typeof OPTIMIZERS)[number];

export interface OptimizerOptions {
  readonly optimizer: OptimizerName;
  /** Of sgd; for adam and adamw it is beta1. */
  readonly momentum: number;
  /** sgd looks ahead along its velocity. */
  readonly nesterov: boolean;
  /** Added to the gradient as weightDecay * w (L2); adamw shrinks the weights apart from the gradient. */
  readonly weightDecay: number;
}

export interface Update {
  readonly weight: tf.Tensor;
  readonly slots: readonly tf.Tensor[];
}

export interface Optimizer {
  /** What it remembers for each parameter, in tensors of the parameter's shape that start at 0. */
  readonly slots: readonly string[];
  /**
   * One step for one parameter.
   * @param rate scalar, the learning rate; @param step scalar, 1 for the first
   */
  update(weight: tf.Tensor, gradient: tf.Tensor, slots: readonly tf.Tensor[], rate: tf.Tensor, step: tf.Tensor): Update;
}

/** @throws SisyphusError `usage` */
export function parseOptimizer(text: string): OptimizerName {
  const name = OPTIMIZERS.find((known) => known === text);
  if (name) return name;
  throw new SisyphusError('usage', `--optimizer: unknown optimizer '${text}'${didYouMean(text, OPTIMIZERS)}`);
}

export function makeOptimizer(options: OptimizerOptions): Optimizer {
  return options.optimizer === 'sgd' ? sgd(options) : adam(options);
}

const plus = (gradient: tf.Tensor, weight: tf.Tensor, decay: number): tf.Tensor =>
  decay === 0 ? gradient : tf.add(gradient, tf.mul(weight, decay));

/** g += decay w; v = momentum v + g; w -= rate (g + momentum v) with Nesterov, rate v without (as PyTorch has it). */
function sgd({ momentum, nesterov, weightDecay }: OptimizerOptions): Optimizer {
  return {
    slots: momentum === 0 ? [] : ['velocity'],
    update(weight, gradient, [velocity], rate) {
      const g = plus(gradient, weight, weightDecay);
      if (!velocity) return { weight: tf.sub(weight, tf.mul(g, rate)), slots: [] };
      const next = tf.add(tf.mul(velocity, momentum), g);
      const direction = nesterov ? tf.add(g, tf.mul(next, momentum)) : next;
      return { weight: tf.sub(weight, tf.mul(direction, rate)), slots: [next] };
    },
  };
}

const BETA2 = 0.999;
const EPSILON = 1e-8;

/** Kingma and Ba 2015 (arXiv 1412.6980); with decoupled weight decay Loshchilov and Hutter 2019 (arXiv 1711.05101). */
function adam({ optimizer, momentum: beta1, weightDecay }: OptimizerOptions): Optimizer {
  const decoupled = optimizer === 'adamw';
  return {
    slots: ['mean', 'square'],
    update(weight, gradient, [mean, square], rate, step) {
      const g = decoupled ? gradient : plus(gradient, weight, weightDecay);
      const m = tf.add(tf.mul(mean as tf.Tensor, beta1), tf.mul(g, 1 - beta1));
      const v = tf.add(tf.mul(square as tf.Tensor, BETA2), tf.mul(tf.square(g), 1 - BETA2));
      const unbiased = (moment: tf.Tensor, beta: number) => tf.div(moment, tf.sub(1, tf.pow(tf.scalar(beta), step)));
      const direction = tf.div(unbiased(m, beta1), tf.add(tf.sqrt(unbiased(v, BETA2)), EPSILON));
      const kept = decoupled && weightDecay !== 0 ? tf.sub(weight, tf.mul(weight, tf.mul(rate, weightDecay))) : weight;
      return { weight: tf.sub(kept, tf.mul(direction, rate)), slots: [m, v] };
    },
  };
}

/** All gradients times one factor, so that their common Euclidean norm is at most `limit` (as PyTorch has it). */
export function clipNorm(gradients: readonly tf.Tensor[], limit: number): tf.Tensor[] {
  const norm = tf.sqrt(tf.addN(gradients.map((gradient) => tf.sum(tf.square(gradient)) as tf.Scalar)));
  const factor = tf.minimum(tf.div(limit, tf.add(norm, 1e-6)), 1);
  return gradients.map((gradient) => tf.mul(gradient, factor));
}
