/**
 * Ridge regression in closed form from streamed statistics: memory is that of one Gram matrix, whatever the number of rows.
 * The products of blocks run in onnxruntime, their sums are kept in float64.
 */
import { CholeskyDecomposition, Matrix } from 'ml-matrix';
import { SisyphusError } from '../errors.ts';
import { openSession, type Session } from '../eval/session.ts';
import { buildModel } from '../graph/build.ts';
import { serialize } from '../graph/write.ts';

/** Products of blocks of rows. */
export interface Products {
  /** @param a [n, p]; @param b [n, q]; @returns aᵀ b, [p, q] */
  run(a: Float32Array, p: number, b: Float32Array, q: number): Promise<Float32Array>;
  release(): Promise<void>;
}

export async function openProducts(threads: number | undefined): Promise<Products> {
  const net = buildModel({ name: 'products', opset: 17, irVersion: 8 });
  const [a, b] = [net.input('a', 'float', [null, null]), net.input('b', 'float', [null, null])];
  net.output(net.node('Gemm', [a, b], { transA: 1 }, 'product'), 'product', 'float', [null, null]);
  const session: Session = await openSession(serialize(net.model, { inline: true }), { name: 'products', threads });
  return {
    async run(left, p, right, q) {
      const result = await session.run(
        new Map([
          ['a', { elem: 'float', dims: [left.length / p, p], data: left }],
          ['b', { elem: 'float', dims: [right.length / q, q], data: right }],
        ]),
      );
      return result.get('product')?.data as Float32Array;
    },
    release: () => session.release(),
  };
}

/** Sums over rows that least squares of y on x take. */
export interface Normal {
  readonly p: number;
  readonly q: number;
  rows: number;
  /** [p, p], [p, q] */
  readonly xx: Float64Array;
  readonly xy: Float64Array;
  readonly x: Float64Array;
  readonly y: Float64Array;
  /** Squares of y, [q]. */
  readonly yy: Float64Array;
}

export const emptyNormal = (p: number, q: number): Normal => ({
  p,
  q,
  rows: 0,
  xx: new Float64Array(p * p),
  xy: new Float64Array(p * q),
  x: new Float64Array(p),
  y: new Float64Array(q),
  yy: new Float64Array(q),
});

/** Takes in rows: x [n, p], y [n, q]. */
export async function addRows(sums: Normal, products: Products, x: Float32Array, y: Float32Array): Promise<void> {
  const { p, q } = sums;
  const rows = y.length / q;
  const add = (into: Float64Array, values: Float32Array) => {
    for (let i = 0; i < into.length; i++) into[i] = (into[i] as number) + (values[i] as number);
  };
  add(sums.xx, await products.run(x, p, x, p));
  add(sums.xy, await products.run(x, p, y, q));
  const means = (values: Float32Array, into: Float64Array) => {
    const width = into.length;
    for (let i = 0; i < values.length; i++) into[i % width] = (into[i % width] as number) + (values[i] as number);
  };
  means(x, sums.x);
  means(y, sums.y);
  for (let i = 0; i < y.length; i++) {
    const value = y[i] as number;
    sums.yy[i % q] = (sums.yy[i % q] as number) + value * value;
  }
  sums.rows += rows;
}

export interface Fit {
  /** [p, q] */
  readonly weights: Float64Array;
  /** [q] */
  readonly bias: Float64Array;
  /** Mean squares of y before, and of what is left of it. */
  readonly before: number;
  readonly after: number;
}

/**
 * y = x W + b with the least squares of errors and of lambda times the mean diagonal of xᵀx/n times W; the constant b is
 * free.
 * @param options.bias false: no constant
 * @throws SisyphusError `data` where the rows hold values that are not finite
 */
export function ridge(sums: Normal, options: { readonly lambda: number; readonly bias: boolean }): Fit {
  const { p, q, rows } = sums;
  if (![sums.xx, sums.xy, sums.yy].every((list) => list.every(Number.isFinite)))
    throw new SisyphusError('data', 'values that are not finite reach it');
  const centre = (sum: Float64Array) =>
    options.bias ? sum.map((value) => value / rows) : new Float64Array(sum.length);
  const [mx, my] = [centre(sums.x), centre(sums.y)];
  const gram = new Matrix(p, p);
  let trace = 0;
  for (let i = 0; i < p; i++) trace += (sums.xx[i * p + i] as number) / rows;
  // Features that are all zero leave nothing to fit, and nothing to divide by.
  const penalty = options.lambda * (trace / p) || 1e-12;
  for (let i = 0; i < p; i++)
    for (let j = 0; j < p; j++) {
      const value = (sums.xx[i * p + j] as number) / rows - (mx[i] as number) * (mx[j] as number);
      gram.set(i, j, i === j ? value + penalty : value);
    }
  const cross = new Matrix(p, q);
  for (let i = 0; i < p; i++)
    for (let k = 0; k < q; k++)
      cross.set(i, k, (sums.xy[i * q + k] as number) / rows - (mx[i] as number) * (my[k] as number));
  const solved = new CholeskyDecomposition(gram).solve(cross);
  const weights = new Float64Array(p * q);
  const bias = Float64Array.from(my);
  let [before, after] = [0, 0];
  for (let k = 0; k < q; k++) {
    const square = (sums.yy[k] as number) / rows;
    before += square;
    after += square - (my[k] as number) ** 2;
  }
  for (let i = 0; i < p; i++)
    for (let k = 0; k < q; k++) {
      const w = solved.get(i, k);
      weights[i * q + k] = w;
      bias[k] = (bias[k] as number) - (mx[i] as number) * w;
      // |y - x W|² = |y|² - 2 W·c + W·(G + penalty) W - penalty |W|², and (G + penalty) W = c.
      after -= w * cross.get(i, k) + penalty * w * w;
    }
  return { weights, bias, before, after };
}
