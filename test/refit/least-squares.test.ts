/** The closed forms against the long way round, and features against onnxruntime's own convolution. */
import fc from 'fast-check';
import { Matrix, solve } from 'ml-matrix';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openSession } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import { serialize } from '../../src/graph/write.ts';
import { relu } from '../../src/poly/activations.ts';
import { addBlock, applyPolynomials, clamp, emptyMoments, fitChannels, largest } from '../../src/refit/channels.ts';
import { addToLayer, biasOf, linearGroups, weightsOf } from '../../src/refit/layers.ts';
import { addRows, emptyNormal, openProducts, type Products, ridge } from '../../src/refit/least-squares.ts';
import { choosePositions, gatherFeatures, gatherOutputs, placesOf } from '../../src/refit/rows.ts';
import { makeRng } from '../../src/rng.ts';

let products: Products;
beforeAll(async () => {
  products = await openProducts(1);
});
afterAll(() => products.release());

const normals = (count: number, seed: number): Float32Array => {
  const rng = makeRng(seed);
  return Float32Array.from({ length: count }, () => rng.normal());
};

describe('ridge', () => {
  it('solves the regularised least squares, whatever blocks the rows came in', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 8, max: 60 }),
        fc.boolean(),
        fc.integer(),
        async (p, q, rows, bias, seed) => {
          const [x, y] = [normals(rows * p, seed), normals(rows * q, seed + 1)];
          const sums = emptyNormal(p, q);
          const cut = rows >> 1;
          await addRows(sums, products, x.slice(0, cut * p), y.slice(0, cut * q));
          await addRows(sums, products, x.slice(cut * p), y.slice(cut * q));
          const lambda = 0.05;
          const found = ridge(sums, { lambda, bias });
          // With a column of ones that the penalty leaves alone.
          const a = new Matrix(rows, p + 1);
          const b = new Matrix(rows, q);
          for (let i = 0; i < rows; i++) {
            for (let j = 0; j < p; j++) a.set(i, j, x[i * p + j] as number);
            a.set(i, p, bias ? 1 : 0);
            for (let k = 0; k < q; k++) b.set(i, k, y[i * q + k] as number);
          }
          const gram = a.transpose().mmul(a).div(rows);
          let trace = 0;
          for (let j = 0; j < p; j++) trace += gram.get(j, j);
          for (let j = 0; j < p; j++) gram.set(j, j, gram.get(j, j) + (lambda * trace) / p);
          if (!bias) gram.set(p, p, 1);
          const wanted = solve(gram, a.transpose().mmul(b).div(rows));
          for (let j = 0; j < p; j++)
            for (let k = 0; k < q; k++) expect(found.weights[j * q + k]).toBeCloseTo(wanted.get(j, k), 4);
          for (let k = 0; k < q; k++) expect(found.bias[k]).toBeCloseTo(bias ? wanted.get(p, k) : 0, 4);
          const left = Matrix.sub(b, a.mmul(wanted));
          expect(found.before).toBeCloseTo(b.dot(b) / rows, 4);
          expect(found.after).toBeCloseTo(left.dot(left) / rows, 4);
        },
      ),
      { numRuns: 40, seed: 1 },
    );
  });

  it('says so where values are not finite', async () => {
    const sums = emptyNormal(1, 1);
    await addRows(sums, products, Float32Array.of(1, Infinity), Float32Array.of(1, 2));
    expect(() => ridge(sums, { lambda: 0.1, bias: true })).toThrow('not finite');
  });
});

describe('fits by channel', () => {
  const places = placesOf([3, 4, 5], true);

  it('find the polynomial that the targets follow, under any scale', () => {
    const single = placesOf([1, 4, 5], true);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.double({ min: -2, max: 2, noNaN: true }),
        fc.integer(),
        (degree, exponent, seed) => {
          const x = normals(400, seed).map((value) => value * 10 ** exponent);
          const wanted = [[...normals(degree + 1, seed + 1)].map((value, k) => value / 10 ** (exponent * k))];
          const y = Float32Array.from(x);
          applyPolynomials(single, y, wanted);
          const limits = new Float64Array(1);
          largest(single, { shape: [1, 4, 5], data: x }, limits);
          const moments = emptyMoments(degree, limits, null);
          addBlock(moments, single, x.subarray(0, 180), y.subarray(0, 180));
          addBlock(moments, single, x.subarray(180), y.subarray(180));
          const options = { degree, perChannel: true, tail: null, activations: [relu] };
          const { coefficients, error } = fitChannels(moments, options);
          const found = Float32Array.from(x);
          applyPolynomials(single, found, coefficients);
          const scale = Math.sqrt(y.reduce((sum, value) => sum + value * value, 0) / y.length);
          const off = Math.sqrt(found.reduce((sum, value, i) => sum + (value - (y[i] as number)) ** 2, 0) / y.length);
          // The ridge is 1e-7 of the mean square, of which high powers of small values have little.
          expect(off / scale).toBeLessThan(2e-3);
          expect(error).toBeCloseTo(off / scale, 3);
        },
      ),
      { numRuns: 60, seed: 2 },
    );
  });

  it('lean on the layer where a channel has few values', () => {
    const fitted = (rows: number) => {
      const x = normals(rows * 60, 9);
      const y = Float32Array.from(x);
      applyPolynomials(places, y, [
        [0, 1],
        [0, 2],
        [0, 3],
      ]);
      const limits = new Float64Array(3);
      largest(places, { shape: [3, 4, 5], data: x }, limits);
      const moments = emptyMoments(1, limits, null);
      addBlock(moments, places, x, y);
      const { coefficients } = fitChannels(moments, { degree: 1, perChannel: true, tail: null, activations: [relu] });
      return coefficients.map(([, slope = 0]) => slope);
    };
    const [few, many] = [fitted(5), fitted(1000)];
    for (const c of [0, 2]) {
      expect(Math.abs((few[c] as number) - 2)).toBeLessThan(0.7);
      expect(Math.abs((many[c] as number) - (c + 1))).toBeLessThan(0.02);
    }
  });

  it('follow the activation in the tail where the guard holds them', () => {
    const x = normals(4 * 60, 5);
    const y = x.map((value) => Math.max(0, value));
    const limits = new Float64Array(3);
    largest(places, { shape: [3, 4, 5], data: x }, limits);
    const fitted = (mass: number) => {
      const tail = mass > 0 ? { mass, width: 1.5 } : null;
      const moments = emptyMoments(4, limits, tail);
      addBlock(moments, places, x, y);
      return fitChannels(moments, { degree: 4, perChannel: true, tail, activations: [relu] });
    };
    const at = (list: readonly number[], t: number) => list.reduceRight((sum, c) => sum * t + c, 0);
    const far = 1.5 * (limits[0] as number);
    const error = (mass: number) => Math.abs(at(fitted(mass).coefficients[0] as number[], far) - far) / far;
    expect(error(1e-2)).toBeLessThan(0.5 * error(0));
    expect(fitted(1e-2).error).toBeGreaterThan(fitted(0).error);
  });

  it('are bounded by channel, and what is no number counts as nothing', () => {
    const data = Float32Array.of(5, -5, 0.5, Number.NaN, Infinity, -1);
    clamp(placesOf([2, 3], true), data, Float64Array.of(1, 2));
    expect([...data]).toEqual([1, -1, 0.5, 0, 2, -1]);
  });
});

describe('features', () => {
  it('times the weights are what onnxruntime convolves, for any window and groups', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          groups: fc.integer({ min: 1, max: 3 }),
          each: fc.integer({ min: 1, max: 2 }),
          outs: fc.integer({ min: 1, max: 2 }),
          kernel: fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 3 })),
          strides: fc.tuple(fc.integer({ min: 1, max: 2 }), fc.integer({ min: 1, max: 2 })),
          dilations: fc.tuple(fc.integer({ min: 1, max: 2 }), fc.integer({ min: 1, max: 2 })),
          pads: fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 4, maxLength: 4 }),
          seed: fc.integer(),
        }),
        async ({ groups, each, outs, kernel, strides, dilations, pads, seed }) => {
          const [channels, outputs] = [groups * each, groups * outs];
          const net = buildModel({ name: 'conv', opset: 17 });
          const x = net.input('x', 'float', [2, channels, 7, 6]);
          const size = outputs * each * kernel[0] * kernel[1];
          const w = net.constant('w', 'float', [outputs, each, ...kernel], normals(size, seed));
          const b = net.constant('b', 'float', [outputs], normals(outputs, seed + 1));
          net.output(net.node('Conv', [x, w, b], { group: groups, strides, dilations, pads }, 'conv'), 'y', 'float', [
            2,
            outputs,
            null,
            null,
          ]);
          const [group] = linearGroups(net.model);
          const layer = group?.layers[0];
          if (!layer) throw new Error('no layer');
          // What is added to the layer is part of what it computes, too.
          const delta = Float64Array.from(normals(size, seed + 2));
          addToLayer(net.model, layer, delta, Float64Array.from(normals(outputs, seed + 3)));
          const session = await openSession(serialize(net.model, { inline: true }));
          const data = normals(2 * channels * 42, seed + 4);
          const y = (await session.run(new Map([['x', { elem: 'float', dims: [2, channels, 7, 6], data }]]))).get('y');
          await session.release();
          if (!y) throw new Error('no output');
          const places = placesOf(y.dims.slice(1), true);
          const rng = makeRng(seed);
          const chosen = [0, 1].map(() => choosePositions(places.positions, 5, rng));
          const rows = chosen.reduce((sum, { length }) => sum + length, 0);
          const width = layer.features * groups;
          const features = new Float32Array(rows * width);
          gatherFeatures(layer, { shape: [channels, 7, 6], data }, chosen, features, width, 0);
          const wanted = new Float32Array(rows * outputs);
          gatherOutputs(places, { shape: y.dims.slice(1), data: y.data as Float32Array }, chosen, wanted);
          const [weights, bias] = [weightsOf(net.model, layer), biasOf(net.model, layer)];
          for (let row = 0; row < rows; row++)
            for (let k = 0; k < outputs; k++) {
              let sum = bias[k] as number;
              const first = row * width + Math.floor(k / outs) * layer.features;
              for (let f = 0; f < layer.features; f++)
                sum += (features[first + f] as number) * (weights[k * layer.features + f] as number);
              expect(wanted[row * outputs + k]).toBeCloseTo(sum, 3);
            }
        },
      ),
      { numRuns: 25, seed: 3 },
    );
  });
});
