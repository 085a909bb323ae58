/**
 * What a square needs in order to start near an activation: (scale z + shift)², by channel. Any quadratic with a positive
 * leading coefficient is such a square but for a constant, so the class of functions stays the same, while x² on weights
 * that were trained for ReLU is far away from it.
 */
import type { NdArray } from '../../eval/session.ts';
import type { Affine } from '../../passes/affine.ts';

/** Sums over the values of one channel: of z to the powers 0 to 4, and of t times z to the powers 0 to 2. */
interface Moments {
  readonly z: Float64Array;
  readonly t: Float64Array;
}

/**
 * By channel, the scale and shift that bring (scale z + shift)² nearest to t, in the mean of the squared difference.
 * @param z before the activation, [N, C, ...spatial]
 * @param t after it, as the teacher has it, in the same shape
 */
export function fitSquares(z: NdArray, t: NdArray): Affine {
  const [rows = 0, channels = 1, ...spatial] = z.dims;
  const size = spatial.reduce((product, dim) => product * dim, 1);
  const [from, to] = [z.data as Float32Array, t.data as Float32Array];
  const scale = new Float64Array(channels);
  const shift = new Float64Array(channels);
  for (let c = 0; c < channels; c++) {
    const moments: Moments = { z: new Float64Array(5), t: new Float64Array(3) };
    for (let row = 0; row < rows; row++) {
      const start = (row * channels + c) * size;
      for (let i = start; i < start + size; i++) addPair(moments, from[i] as number, to[i] as number);
    }
    [scale[c], shift[c]] = fitSquare(moments);
  }
  return { scale, shift };
}

function addPair({ z, t }: Moments, x: number, y: number): void {
  let power = 1;
  for (let k = 0; k < 5; k++) {
    z[k] = (z[k] as number) + power;
    if (k < 3) t[k] = (t[k] as number) + power * y;
    power *= x;
  }
}

const STEPS = 50;
const LEAST = 1e-2;

function fitSquare({ z, t }: Moments): [number, number] {
  const [count = 0, ...sums] = z;
  const [m1 = 0, m2 = 0, m3 = 0, m4 = 0] = sums.map((sum) => sum / count);
  const [t0 = 0, t1 = 0, t2 = 0] = t.map((sum) => sum / count);
  const deviation = Math.sqrt(Math.max(0, m2 - m1 * m1));
  // A constant is moved to the root of what it is to become.
  if (!(deviation > 1e-6 * Math.abs(m1)) || !(deviation > 1e-12)) return [1, Math.sqrt(Math.max(0, t0)) - m1];
  // For a normal z the best quadratic for ReLU is 0.1995/d z² + z/2 + 0.1995 d: its square's root at the start.
  const a0 = Math.sqrt(0.1995 / deviation);
  const error = (a: number, b: number) =>
    a ** 4 * m4 +
    4 * a ** 3 * b * m3 +
    6 * a * a * b * b * m2 +
    4 * a * b ** 3 * m1 +
    b ** 4 -
    2 * (a * a * t2 + 2 * a * b * t1 + b * b * t0);
  let [a, b] = [a0, 0.25 / a0];
  let [best, damping] = [error(a, b), 1e-3];
  // Levenberg's method on the residual (a z + b)² - t, whose slopes are 2 (a z + b) (z, 1).
  for (let step = 0; step < STEPS; step++) {
    const residual = (k: readonly [number, number, number], tk: number) =>
      a * a * k[2] + 2 * a * b * k[1] + b * b * k[0] - tk;
    const [r0, r1, r2] = [residual([1, m1, m2], t0), residual([m1, m2, m3], t1), residual([m2, m3, m4], t2)];
    const gradient = [a * r2 + b * r1, a * r1 + b * r0] as const;
    const h11 = 2 * (a * a * m4 + 2 * a * b * m3 + b * b * m2);
    const h12 = 2 * (a * a * m3 + 2 * a * b * m2 + b * b * m1);
    const h22 = 2 * (a * a * m2 + 2 * a * b * m1 + b * b);
    const [d1, d2] = [h11 * (1 + damping), h22 * (1 + damping)];
    const determinant = d1 * d2 - h12 * h12;
    const [da, db] = [
      (d2 * gradient[0] - h12 * gradient[1]) / determinant,
      (d1 * gradient[1] - h12 * gradient[0]) / determinant,
    ];
    const next = error(a - da, b - db);
    if (next < best) {
      const gain = best - next;
      [a, b, best, damping] = [a - da, b - db, next, damping / 4];
      if (gain < 1e-12 * Math.abs(best)) break;
    } else if (damping > 1e8) break;
    else damping *= 8;
  }
  // A channel that is to become nothing: its gradients would be denormal numbers, which processors are slow at.
  return Math.abs(a) < LEAST * a0 ? [LEAST * a0, -LEAST * a0 * m1] : [a, b];
}
