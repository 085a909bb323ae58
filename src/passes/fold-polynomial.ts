/**
 * Before: y = c0 + c1 x + … + cd x^d, of degree d <= 4 and spelled in any way, between layers with weights
 * After:  degree 1: nothing, its map is in the weights before or after. Degrees 2 to 4: a monic polynomial of u = r x, one
 *         level for a square and two for cubes and quartics; r is in the weights before, a sign in those after
 * Conditions: x has no other readers, and what makes it, or what reads y, has constant weights or passes a factor on
 *   (`scale-flow.ts`); the leading coefficient is the same at all positions of a channel and zero in none. A shift goes
 *   forward only where no zero padding would miss it. Main graph only.
 * Algebra: with r = |cd|^(1/d), sign(cd) p(x) = u^d + sum over k < d of sign(cd) ck / r^k u^k. Where r can't go back all
 *   of cd goes forward: p / cd is monic in x. Sources: `poly/monic.ts`; for whole graphs derived here.
 */
import { attribute, floatAttr, intAttr, intsAttr } from '../graph/attributes.ts';
import { dropValueInfo, pruneUnused, removeNode, replaceUses } from '../graph/edit.ts';
import type { ElementType, Model, Node, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { elementCount, makeTensor, rounding } from '../graph/tensor.ts';
import { label } from '../graph/verify.ts';
import { monicPlan } from '../poly/monic.ts';
import { type Affine, applyAffine, at, floats, planAffine, setConstant } from './affine.ts';
import {
  type Coefficient,
  type ElementPolynomial,
  elementPolynomials,
  expand,
  perChannel,
} from './element-polynomials.ts';
import { emitPolynomial } from './emit-polynomial.ts';
import { type Change, type Pass, type Skip, siteName } from './pass.ts';
import {
  depthsOf,
  type Edits,
  inputChannel,
  type ScaleContext,
  scaleProducer,
  scaleReaders,
  scaleWeights,
} from './scale-flow.ts';

export const foldPolynomial: Pass = {
  name: 'fold-polynomial',
  summary: 'Fold leading coefficients of polynomials into neighbouring weights: a level less for each (degrees 2 to 4)',
  exact: true,
  run(model) {
    const applied: Change[] = [];
    const skipped: Skip[] = [];
    const done = new Set<Value>();
    // What a change does to weights and branches matters to the next: after each, everything is looked at anew.
    for (let changed = true; changed; ) {
      changed = false;
      const types = inferTypes(model);
      const context = { model, types, depths: depthsOf(model, types) };
      for (const polynomial of elementPolynomials(model, types)) {
        if (done.has(polynomial.output)) continue;
        done.add(polynomial.output);
        const site = siteOf(polynomial);
        const outcome = fold(context, polynomial, site);
        changed = 'detail' in outcome;
        if ('reason' in outcome) skipped.push({ site, ...outcome });
        else applied.push({ site, ...outcome });
        if (changed) break;
      }
    }
    return { pass: 'fold-polynomial', applied, skipped };
  },
};

/** Polynomials that this package wrote are called SITE/mul, SITE/add_3, …. */
function siteOf({ nodes, output }: ElementPolynomial): string {
  const last = nodes.at(-1);
  return (last ? siteName(last) : output.name).replace(/\/(mul|add|sub)(_\d+)?$/, '');
}

type Outcome = { readonly detail: string } | { readonly reason: string };

function fold(context: ScaleContext, polynomial: ElementPolynomial, site: string): Outcome {
  const degree = polynomial.coefficients.length - 1;
  const shape = numericShape(context, polynomial.source);
  if (!shape) return { reason: `the shape of '${polynomial.source.name}' is unknown or has no channels` };
  if (degree > 4) return { reason: `its degree is ${degree}` };
  return degree === 1 ? foldAffine(context, polynomial, shape) : foldLeading(context, polynomial, shape, site);
}

/** [1, channels, …]: the batch stands for one. */
function numericShape({ types }: ScaleContext, value: Value): number[] | null {
  const [, ...rest] = types.get(value).shape ?? [];
  return rest.length > 0 && rest.every((dim) => typeof dim === 'number') ? [1, ...(rest as number[])] : null;
}

function foldAffine(
  context: ScaleContext,
  { source, output, coefficients, nodes }: ElementPolynomial,
  shape: number[],
): Outcome {
  const [shift, scale] = coefficients.map((coefficient) => perChannel(coefficient, shape));
  if (!shift || !scale) return { reason: 'it differs within a channel' };
  const { model, types } = context;
  const producer = source.producer;
  if (producer?.op === 'MatMul' && isOne(scale)) return { reason: `it is the bias of ${label(producer)}` };
  const inner = [...source.users.keys()].every((user) => 'op' in user && nodes.includes(user));
  const plan =
    producer && inner ? planAffine(model, producer, { scale, shift }, () => types) : 'others read its input too';
  if (typeof plan !== 'string' && !plan.add && replaceable(output, source)) {
    const into = label(plan.producer);
    applyAffine(model, plan);
    bypass({ source, output, nodes });
    return { detail: `its scale and shift are in ${into}` };
  }
  const forward = affineReaders(context, output, { scale, shift });
  if (typeof forward === 'string') return { reason: typeof plan === 'string' ? `${plan}; ${forward}` : forward };
  for (const edit of forward) edit();
  bypass({ source, output, nodes });
  return { detail: 'its scale and shift are in the layers that read it' };
}

const replaceable = (output: Value, by: Value): boolean =>
  ![...output.users.keys()].some((user) => 'nodes' in user) ||
  (!by.isInput && !by.initializer && by.body === output.body);

type Place = Pick<ElementPolynomial, 'source' | 'output' | 'nodes'>;

/** Readers read the source instead. */
function bypass({ source, output, nodes }: Place): void {
  if (replaceUses(output, source)) remove({ source, output, nodes }, true);
}

/** @returns the node that came after the last one */
function remove({ source, output, nodes }: Place, drop: boolean): Node | null {
  let next: Node | null = null;
  const read = nodes.flatMap((node) => node.inputs);
  const gone = new Set(nodes.flatMap((node) => node.outputs));
  for (const node of nodes.toReversed()) {
    const after = removeNode(node);
    next ??= after;
  }
  dropValueInfo(output.body as Node['body'], (value) => gone.has(value) && (drop || value !== output));
  pruneUnused(read.filter((value) => value !== source && !gone.has(value)));
  return next;
}

/** How the readers of `value` would read scale * value + shift. */
function affineReaders(context: ScaleContext, value: Value, { scale, shift }: Affine): Edits | string {
  const { model, types } = context;
  const edits: Edits = [];
  for (const user of value.users.keys()) {
    if (!('op' in user)) return `'${value.name}' is an output`;
    let more: Edits | string;
    const [output] = user.outputs;
    if (user.op === 'Flatten' && output && (intAttr(user, 'axis') ?? 1) === 1) {
      const inner = elementCount((types.get(value).shape?.slice(2) ?? []) as number[]);
      const features = (list: Float64Array) =>
        Float64Array.from({ length: list.length * inner }, (_, i) => at(list, Math.floor(i / inner)));
      more = affineReaders(context, output, { scale: features(scale), shift: features(shift) });
    } else {
      const bias = shift.every((number) => number === 0) ? [] : shiftBias(model, user, value, shift);
      const weights =
        user.inputs.lastIndexOf(value) === 0 ? scaleWeights(model, user, scale) : `${label(user)} reads it`;
      more = typeof bias === 'string' ? bias : typeof weights === 'string' ? weights : [...bias, ...weights];
    }
    if (typeof more === 'string') return more;
    edits.push(...more);
  }
  return edits;
}

/** The bias of a layer whose input is to be shifted: b + W shift. Zero padding would not be. */
function shiftBias(model: Model, node: Node, value: Value, shift: Float64Array): Edits | string {
  if (!['Conv', 'Gemm'].includes(node.op) || node.inputs.lastIndexOf(value) !== 0) return `${label(node)} reads it`;
  if (node.op === 'Conv' && (attribute(node, 'auto_pad') || intsAttr(node, 'pads')?.some((pad) => pad !== 0)))
    return `the zero padding of ${label(node)} would not be shifted`;
  const weights = floats(model, node.inputs[1]);
  if (typeof weights === 'string') return `the weights of ${label(node)} ${weights}`;
  const { dims, elem } = weights.tensor;
  const channel = inputChannel(node, dims, shift.length);
  if (!channel) return `the weights of ${label(node)} do not fit`;
  const transposed = node.op === 'Gemm' && (intAttr(node, 'transB') ?? 0) === 0;
  const rows = (transposed ? dims[1] : dims[0]) ?? 0;
  const perRow = weights.values.length / rows;
  const alpha = node.op === 'Gemm' ? Math.fround(floatAttr(node, 'alpha') ?? 1) : 1;
  const beta = node.op === 'Gemm' ? Math.fround(floatAttr(node, 'beta') ?? 1) : 1;
  const old = node.inputs[2] ? floats(model, node.inputs[2]) : null;
  if (typeof old === 'string') return `the bias of ${label(node)} ${old}`;
  if (beta !== 1 || (old && old.values.length !== rows)) return `the bias of ${label(node)} is of another form`;
  const bias = old ? Float64Array.from(old.values) : new Float64Array(rows);
  for (const [i, weight] of weights.values.entries()) {
    const row = transposed ? i % rows : Math.floor(i / perRow);
    bias[row] = at(bias, row) + alpha * weight * at(shift, channel(i));
  }
  const tensor = makeTensor(old?.name ?? `${siteName(node)}_bias`, elem, old?.tensor.dims ?? [rows], bias);
  return [() => setConstant(model, node, 2, tensor)];
}

function foldLeading(context: ScaleContext, polynomial: ElementPolynomial, shape: number[], site: string): Outcome {
  const { source, output, coefficients, nodes } = polynomial;
  const degree = coefficients.length - 1;
  const leading = perChannel(coefficients[degree] as Coefficient, shape);
  if (!leading) return { reason: 'its leading coefficient differs within a channel' };
  if (!leading.every((c) => c !== 0 && Number.isFinite(c)))
    return { reason: 'its leading coefficient is 0 in some channels' };
  if (leading.every((c) => c === 1) && isSpelled(polynomial)) return { reason: 'it is monic already' };
  const factor = leading.map((c) => Math.abs(c) ** (1 / degree));
  const sign = leading.map(Math.sign);
  const choices = [
    { back: factor, forth: sign, text: `|c${degree}|^(1/${degree}) into the layer before` },
    { back: factor.map(() => 1), forth: leading, text: `c${degree} into the layers after` },
  ];
  const round = rounding(context.types.get(source).elem ?? 'float');
  let reason = '';
  for (const { back, forth, text } of choices) {
    const before = isOne(back) ? [] : scaleProducer(context, source, new Set(nodes), back);
    const after = isOne(forth) ? [] : scaleReaders(context, output, forth);
    const scaled = coefficients.map((coefficient, k) => {
      const values = expand(coefficient, shape);
      const inner = elementCount(shape.slice(2));
      return values.map((value, i) => {
        const c = Math.floor(i / inner);
        return k === degree ? 1 : value / (at(forth, c) * at(back, c) ** k);
      });
    });
    const finite = scaled.every((values) => values.every((value) => Number.isFinite(round(value))));
    const refusal = finite
      ? [before, after].find((edits) => typeof edits === 'string')
      : 'its coefficients would leave the range of its type';
    if (refusal !== undefined) {
      reason ||= refusal as string;
      continue;
    }
    for (const edit of [...(before as Edits), ...(after as Edits)]) edit();
    respell(context, polynomial, scaled, shape, site);
    return { detail: `degree ${degree}, monic: ${text}` };
  }
  return { reason };
}

const isOne = (factors: Float64Array): boolean => factors.every((value) => value === 1);

/** Whether it is written without products by constants and of a value by itself, as `monicPlan` does. */
function isSpelled({ nodes, source, coefficients }: ElementPolynomial): boolean {
  const products = nodes.filter(({ op }) => op === 'Mul');
  const plain = products.every(
    ({ inputs: [a, b] }) => a && b && a !== b && !a.initializer && !b.initializer && a.producer?.op !== 'Constant',
  );
  const levels = coefficients.length <= 3 ? 1 : 2;
  return plain && nodes.every(({ op }) => op === 'Mul' || op === 'Add') && products.length === levels && !!source;
}

/** The same polynomial in monic form, in the place of the old nodes. */
function respell(
  { model, types }: ScaleContext,
  { source, output, nodes }: ElementPolynomial,
  coefficients: readonly Float64Array[],
  shape: readonly number[],
  name: string,
): void {
  const elem = types.get(source).elem as ElementType;
  const body = source.body ?? model.graph;
  const [dims, lists] = compact(coefficients, shape);
  const before = remove({ source, output, nodes }, false);
  emitPolynomial(model, { body, before, name, elem }, { shape: dims, plan: monicPlan(lists) }, source, output);
}

/** One number, one by channel, or one by element: whatever holds all coefficients. */
function compact(coefficients: readonly Float64Array[], shape: readonly number[]): [number[], number[][]] {
  const inner = elementCount(shape.slice(2));
  const uniform = coefficients.every((values) => values.every((value) => value === values[0]));
  if (uniform) return [[], coefficients.map((values) => [at(values, 0)])];
  const channels = coefficients.every((values) => values.every((v, i) => v === at(values, i - (i % inner))));
  if (!channels) return [[...shape], coefficients.map((values) => [...values])];
  const dims = shape.map((dim, axis) => (axis === 1 ? dim : 1));
  return [dims, coefficients.map((values) => [...values].filter((_, i) => i % inner === 0))];
}
