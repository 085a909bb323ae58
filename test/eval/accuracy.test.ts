import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { type EvalOptions, type EvaluatedModel, evaluate } from '../../src/eval/accuracy.ts';
import { buildModel, type GraphBuilder } from '../../src/graph/build.ts';
import { setMetadata } from '../../src/graph/edit.ts';
import type { Dim, Model, Value } from '../../src/graph/ir.ts';
import { readModel } from '../../src/graph/read.ts';
import { toNumbers } from '../../src/graph/tensor.ts';
import { writeModel } from '../../src/graph/write.ts';
import { makeRng } from '../../src/rng.ts';
import { npyData, saveModel, testFolder } from '../support/arrays.ts';
import { sisyphus } from '../support/cli.ts';
import { noise } from '../support/numeric.ts';
import { parseFields } from '../support/wire.ts';

const folder = testFolder();
let unique = 0;
beforeEach(() => void unique++);

/** A model of rows of numbers. */
function net(dims: readonly Dim[], build: (g: GraphBuilder, x: Value) => void, opset = 17): string {
  const g = buildModel({ name: 'g', opset });
  build(g, g.input('x', 'float', dims));
  return saveModel(folder, `net${unique}-${dims.join('x')}`, g.model);
}

/** What goes in comes out: the data are the logits. */
const echo = (classes: number, lead: Dim = 'N') =>
  net([lead, classes], (g, x) => g.output(g.node('Identity', [x]), 'logits', 'float', [lead, classes]));

const rowsOf = (rows: readonly (readonly number[])[], labels?: readonly number[]): string =>
  npyData(folder, `rows${unique}`, [rows.length, rows[0]?.length ?? 0], Float32Array.from(rows.flat()), labels);

async function evaluateOne(file: string, data: string, options: Partial<EvalOptions> = {}): Promise<EvaluatedModel> {
  const { models } = await evaluate([file], { data, ...options });
  expect(models).toHaveLength(1);
  return models[0] as EvaluatedModel;
}

const [NAN, INF] = [Number.NaN, Infinity];

describe('what counts', () => {
  it('top-1, top-5 and values that are not finite', async () => {
    const rows = [
      [9, 1, 2, 3, 4, 5, 6], // right
      [1, 9, 2, 3, 4, 5, 6], // second label is largest
      [5, 9, 8, 7, 6, 4, 3], // label 0 is fifth
      [4, 9, 8, 7, 6, 5, 3], // label 0 is sixth
      [9, 0, NAN, 0, 0, 0, 0],
      [9, 0, INF, 0, 0, 0, 0],
      [9, 0, -INF, 0, 0, 0, 0],
      [NAN, INF, -INF, 0, 0, 0, 0], // counts as NaN
    ];
    const result = await evaluateOne(echo(7), rowsOf(rows, [0, 1, 0, 0, 0, 0, 0, 0]));
    expect(result).toMatchObject({ images: 8, nan: 2, inf: 2, nonFinite: 4, output: 'logits', partial: false });
    expect([result.top1, result.top5]).toEqual([2 / 8, 3 / 8]);
    expect([result.top1Finite, result.top5Finite]).toEqual([2 / 4, 3 / 4]);
  });

  it('a largest logit that is infinite is no answer', async () => {
    const result = await evaluateOne(
      echo(3),
      rowsOf(
        [
          [INF, 0, 0],
          [1, 0, 0],
        ],
        [0, 0],
      ),
    );
    expect(result).toMatchObject({ top1: 0.5, top1Finite: 1, inf: 1 });
  });

  it('where nothing is finite there is no share of it', async () => {
    const result = await evaluateOne(
      echo(3),
      rowsOf(
        [
          [NAN, 0, 0],
          [-INF, 0, 1],
        ],
        [1, 2],
      ),
    );
    expect(result).toMatchObject({ top1: 0, top5: 0, top1Finite: null, top5Finite: null, nan: 1, inf: 1 });
  });

  it('equal logits rank by index', async () => {
    const tie = [1, 1, 1, 1, 1, 1, 0];
    const result = await evaluateOne(echo(7), rowsOf([tie, tie, tie, tie, tie, tie, tie], [0, 1, 2, 3, 4, 5, 6]));
    expect([result.top1, result.top5]).toEqual([1 / 7, 5 / 7]);
  });

  it('with fewer than five classes everything finite is among the top 5', async () => {
    const result = await evaluateOne(
      echo(2),
      rowsOf(
        [
          [0, 1],
          [1, 0],
          [NAN, 0],
        ],
        [0, 0, 0],
      ),
    );
    expect(result).toMatchObject({ top1: 1 / 3, top5: 2 / 3, top5Finite: 1 });
  });

  it('agrees with a plain count on random logits', async () => {
    const rng = makeRng(3);
    const rows = Array.from({ length: 513 }, () => Array.from({ length: 12 }, () => Math.fround(rng.normal())));
    const labels = rows.map(() => Math.floor(12 * rng.uniform()));
    const within = (k: number) =>
      rows.filter((row, i) => row.filter((v) => v > (row[labels[i] as number] as number)).length < k).length / 513;
    for (const batch of [1, 100, 513, 1000]) {
      const result = await evaluateOne(echo(12), rowsOf(rows, labels), { batch });
      expect([result.top1, result.top5, result.images]).toEqual([within(1), within(5), 513]);
    }
  });
});

describe('the output', () => {
  it('may be [N,C,1,1], double or float16', async () => {
    const data = rowsOf(
      [
        [0, 5, 1],
        [7, 0, 1],
      ],
      [1, 2],
    );
    const wide = net(['N', 3], (g, x) => {
      const shape = g.constant('shape', 'int64', [4], [-1, 3, 1, 1]);
      g.output(g.node('Reshape', [x, shape]), 'y', 'float', ['N', 3, 1, 1]);
    });
    expect((await evaluateOne(wide, data)).top1).toBe(0.5);
    for (const [elem, code] of [
      ['double', 11],
      ['float16', 10],
      ['int64', 7],
    ] as const) {
      const file = net(['N', 3], (g, x) => g.output(g.node('Cast', [x], { to: code }), 'y', elem, ['N', 3]));
      expect((await evaluateOne(file, data)).top1).toBe(0.5);
    }
  });

  /** Features, then logits twice: as they are, and of the opposite sign. Names that are numbers, as PyTorch gives them. */
  const several = () =>
    net(['N', 3], (g, x) => {
      const wide = g.node('Concat', [x, x], { axis: 1 });
      g.output(wide, '5', 'float', ['N', 6]);
      g.output(g.node('Identity', [x]), '33', 'float', ['N', 3]);
      g.output(g.node('Neg', [x]), '12', 'float', ['N', 3]);
    });

  it('is the first one with a number for each class', async () => {
    const data = rowsOf(
      [
        [0, 5, 1],
        [7, 0, 1],
        [1, 2, 9],
      ],
      [1, 2, 2],
    );
    expect(await evaluateOne(several(), data)).toMatchObject({ output: '33', top1: 2 / 3 });
    expect(await evaluateOne(several(), data, { logits: '12' })).toMatchObject({ output: '12', top1: 0 });
    // Six numbers for each row are no fewer than the classes.
    expect(await evaluateOne(several(), data, { logits: '5' })).toMatchObject({ output: '5', top1: 2 / 3 });
  });

  it('must exist', async () => {
    const data = rowsOf([[0, 5, 1]], [1]);
    await expect(evaluateOne(several(), data, { logits: '34' })).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(/net\d+-Nx3\.onnx: has no output '34'; did you mean '33'\?$/),
    });
  });

  it('must have a row for each input', async () => {
    const data = rowsOf(
      [
        [0, 5, 1],
        [7, 0, 1],
      ],
      [1, 2],
    );
    const sum = net(['N', 3], (g, x) =>
      g.output(g.node('ReduceSum', [x, g.constant('axes', 'int64', [1], [0])], { keepdims: 0 }), 'y', 'float', [3]),
    );
    await expect(evaluateOne(sum, data)).rejects.toThrow(
      /no output has 3 classes for 2 rows \('y' \[3\]\): .*--batch 1/,
    );
    await expect(evaluateOne(sum, data, { logits: 'y' })).rejects.toThrow(
      /its output 'y' \[3\] has no row of logits for each of 2 inputs/,
    );
    const single = net(['N', 3], (g, x) =>
      g.output(g.node('ReduceSum', [x, g.constant('axes', 'int64', [1], [1])]), 'y', 'float', ['N', 1]),
    );
    await expect(evaluateOne(single, data)).rejects.toMatchObject({ code: 'usage' });
  });
});

describe('labels', () => {
  it('beyond the classes of the model are an error', async () => {
    const data = rowsOf(
      [
        [0, 5, 1],
        [7, 0, 1],
      ],
      [1, 3],
    );
    await expect(evaluateOne(echo(3), data)).rejects.toThrow(/no output has 4 classes for 2 rows/);
    await expect(evaluateOne(echo(3), data, { logits: 'logits' })).rejects.toMatchObject({
      code: 'data',
      message: 'the data hold the class 3, but the model has only 3 classes',
    });
  });

  it('are needed', async () => {
    await expect(evaluateOne(echo(2), rowsOf([[0, 5]]))).rejects.toMatchObject({
      code: 'data',
      message: 'npz: holds no labels, which accuracy is counted by',
    });
  });
});

describe('batches', () => {
  const rows = Array.from({ length: 10 }, (_, i) => [i === 3 ? NAN : 1, i % 2 === 0 ? 2 : 0, -1]);
  const labels = rows.map((_, i) => (i < 8 ? 1 : 0));
  const expected = { images: 10, nan: 1, top1: 5 / 10, top1Finite: 5 / 9 };

  it('a batch of 1 is freed where that is exact', async () => {
    const result = await evaluateOne(echo(3, 1), rowsOf(rows, labels));
    expect(result).toMatchObject({ ...expected, batch: 10, batching: expect.stringContaining('freed in memory') });
    expect(await evaluateOne(echo(3, 1), rowsOf(rows, labels), { batch: 1 })).toMatchObject({ ...expected, batch: 1 });
  });

  it('a batch of 1 that can not be freed stays', async () => {
    // Running sums over rows: with more of them at once the result would be another.
    const file = net([1, 3], (g, x) =>
      g.output(g.node('CumSum', [x, g.constant('axis', 'int64', [], [0])]), 'y', 'float', [1, 3]),
    );
    const result = await evaluateOne(file, rowsOf(rows, labels));
    expect(result).toMatchObject({ ...expected, batch: 1, batching: expect.stringMatching(/^one at a time: .+/) });
  });

  it('of a fixed size are filled up, and the filling is not counted', async () => {
    const result = await evaluateOne(echo(3, 7), rowsOf(rows, labels));
    expect(result).toMatchObject({ ...expected, batch: 7, batching: 'the model takes 7 at a time' });
    expect(await evaluateOne(echo(3, 64), rowsOf(rows, labels))).toMatchObject({ ...expected, batch: 64 });
  });

  it('of no rows are refused', async () => {
    await expect(evaluateOne(echo(3, 0), rowsOf(rows, labels))).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(/its input 'x' takes 0 rows at a time$/),
    });
  });

  it('one input at least and at most', async () => {
    const none = net(['N', 3], (g, x) =>
      g.output(g.node('Add', [x, g.input('z', 'float', ['N', 3])]), 'y', 'float', ['N', 3]),
    );
    await expect(evaluateOne(none, rowsOf(rows, labels))).rejects.toThrow(
      /has 2 inputs \(x, z\), but a data set feeds exactly one/,
    );
  });
});

describe('--limit and --seed', () => {
  it('take the first rows, or random ones that the seed decides', async () => {
    const file = echo(10);
    const rows = Array.from({ length: 300 }, (_, i) => Array.from({ length: 10 }, (_, c) => (c === i % 10 ? 1 : 0)));
    const data = rowsOf(
      rows,
      rows.map((_, i) => (i < 50 ? i % 10 : 9 - (i % 10))),
    );
    expect(await evaluateOne(file, data, { limit: 50 })).toMatchObject({ images: 50, top1: 1 });
    const random = async (seed: number) => (await evaluateOne(file, data, { limit: 50, seed, batch: 7 })).top1;
    const shares = [await random(1), await random(2), await random(3), await random(4)];
    expect(await random(1)).toBe(shares[0]);
    expect(new Set(shares).size).toBeGreaterThan(1);
    expect(Math.max(...shares)).toBeLessThan(0.5);
    expect(await evaluateOne(file, data, { limit: 1000, seed: 1 })).toMatchObject({ images: 300, top1: 50 / 300 });
  });
});

describe('--save-preprocessing', () => {
  /** A tiny network whose answers depend on the scale of its input. */
  function scaled(): Model {
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', [1, 1, 2, 2]);
    const flat = g.node('Flatten', [x]);
    const w = g.constant('w', 'float', [4, 2], [1, 0, 1, 0, 1, 0, 1, 0]);
    g.output(g.node('Gemm', [flat, w, g.constant('b', 'float', [2], [-2, 0])]), 'y', 'float', [1, 2]);
    return g.model;
  }
  /** The field 'graph' as it stands in the file. */
  const graphBytes = (file: string) =>
    parseFields(readFileSync(file))?.find(({ number }) => number === 7)?.data as Buffer;
  const bytes = (name: string) =>
    npyData(folder, name, [2, 2, 2], Uint8Array.from([255, 255, 255, 0, 0, 0, 0, 20]), [0, 1]);

  it('records what was used, and changes nothing else', async () => {
    const model = scaled();
    setMetadata(model, 'author', 'somebody');
    const file = saveModel(folder, 'scaled', model);
    const [before, graphBefore] = [readModel(file), graphBytes(file)];
    const data = bytes('scaled');
    expect(await evaluateOne(file, data, { normalize: 'raw' })).toMatchObject({ top1: 0.5 });
    const saved = await evaluateOne(file, data, { normalize: 'scale=1/255', savePreprocessing: true });
    expect(saved).toMatchObject({ top1: 1, preprocessing: { normalize: 'scale=1/255', source: 'option' } });

    const after = readModel(file);
    expect(after.graph.inputs[0]?.value).toMatchObject({ name: 'x', declared: { elem: 'float', shape: [1, 1, 2, 2] } });
    expect(after.graph.nodes.map(({ op }) => op)).toEqual(['Flatten', 'Gemm']);
    const weights = (each: Model) => each.graph.initializers.map(({ tensor }) => [tensor.name, [...toNumbers(tensor)]]);
    expect(weights(after)).toEqual(weights(before));
    const metadata = Object.fromEntries(after.metadata.map(({ key, value }) => [key, value]));
    expect(metadata).toEqual({
      author: 'somebody',
      'sisyphus.preprocessing': '{"normalize":"scale=1/255","layout":"nchw"}',
    });
    expect(graphBytes(file).equals(graphBefore)).toBe(true);

    const next = await evaluateOne(file, data);
    expect(next).toMatchObject({
      top1: 1,
      preprocessing: { normalize: 'scale=1/255', layout: 'nchw', source: 'model' },
    });
    expect(await evaluateOne(file, data, { normalize: 'raw' })).toMatchObject({
      top1: 0.5,
      preprocessing: { source: 'option' },
    });
    expect(readdirSync(folder).filter((name) => name.includes('tmp'))).toEqual([]);
  });

  it('saves the size of images', async () => {
    const file = saveModel(folder, 'resized', scaled());
    const data = npyData(folder, 'large', [2, 4, 4], new Uint8Array(32).fill(200), [0, 1]);
    await evaluateOne(file, data, { normalize: 'scale=1/255', resize: '2x2', savePreprocessing: true });
    expect(await evaluateOne(file, data)).toMatchObject({ top1: 0.5, preprocessing: { resize: '2x2' } });
  });

  it('leaves weights outside of the file where they are', async () => {
    const home = path.join(folder, 'external');
    mkdirSync(home);
    const g = buildModel({ name: 'g', opset: 17 });
    const x = g.input('x', 'float', ['N', 64]);
    g.output(g.node('MatMul', [x, g.constant('w', 'float', [64, 8], noise(512))]), 'y', 'float', ['N', 8]);
    const file = path.join(home, 'model.onnx');
    const written = await writeModel(g.model, file, { externalData: true });
    expect(written.size).toBe(2);
    const [weights = ''] = readdirSync(home).filter((name) => name !== 'model.onnx');
    const before = readFileSync(path.join(home, weights));
    const data = npyData(folder, 'features', [5, 64], Float32Array.from(noise(320, 2)), [0, 1, 2, 3, 7]);
    const first = await evaluateOne(file, data, { normalize: 'mean=0.1,std=2', savePreprocessing: true });
    expect(await evaluateOne(file, data)).toMatchObject({
      top1: first.top1,
      preprocessing: { normalize: 'mean=0.1,std=2', source: 'model' },
    });
    const held = readdirSync(home).filter((name) => name !== 'model.onnx');
    expect(held).toHaveLength(1);
    expect(readFileSync(path.join(home, held[0] as string)).equals(before)).toBe(true);
    expect(statSync(file).size).toBeLessThan(2000);
    expect([...toNumbers(readModel(file).graph.initializers[0]?.tensor as never)]).toEqual([
      ...Float32Array.from(noise(512)),
    ]);
  });

  it('can be mended where it can not be read', async () => {
    const model = scaled();
    setMetadata(model, 'sisyphus.preprocessing', '{normalize');
    const file = saveModel(folder, 'broken', model);
    const data = bytes('broken');
    await expect(evaluateOne(file, data)).rejects.toThrow(
      /broken\.onnx: its metadata 'sisyphus\.preprocessing' is not JSON; give --normalize and --save-preprocessing/,
    );
    await evaluateOne(file, data, { normalize: 'scale=1/255', savePreprocessing: true });
    expect(await evaluateOne(file, data)).toMatchObject({ top1: 1, preprocessing: { source: 'model' } });
  });

  it('writes nothing where the evaluation fails', async () => {
    const file = saveModel(folder, 'untouched', scaled());
    const before = readFileSync(file);
    const unlabelled = npyData(folder, 'unlabelled', [1, 2, 2], new Uint8Array(4));
    await expect(evaluateOne(file, unlabelled, { savePreprocessing: true })).rejects.toThrow(/no labels/);
    expect(readFileSync(file).equals(before)).toBe(true);
  });
});

describe('interruption', () => {
  /** Aborts once this many images are counted. */
  function stopAfter(images: number, file?: string) {
    const stop = new AbortController();
    const onProgress = ({ done, task }: { done: number; task: string }) =>
      done >= images && (file === undefined || task === file) && stop.abort();
    return { signal: stop.signal, onProgress };
  }

  it('fails, or with partial gives what there is', async () => {
    const [file, data] = [
      echo(3),
      rowsOf(
        Array.from({ length: 500 }, () => [1, 0, 0]),
        new Array(500).fill(0),
      ),
    ];
    await expect(evaluateOne(file, data, { batch: 10, ...stopAfter(100) })).rejects.toMatchObject({ code: 'aborted' });
    const result = await evaluateOne(file, data, { batch: 10, partial: true, ...stopAfter(100) });
    expect(result).toMatchObject({ partial: true, top1: 1 });
    expect(result.images).toBeGreaterThanOrEqual(100);
    expect(result.images).toBeLessThan(200);
  });

  it('leaves the models that are done', async () => {
    const data = rowsOf(
      Array.from({ length: 50 }, () => [1, 0, 0]),
      new Array(50).fill(0),
    );
    const first = saveModel(folder, 'first', readModel(echo(3)));
    const second = saveModel(folder, 'second', readModel(echo(3)));
    for (const stop of [stopAfter(50, first), stopAfter(10, second)]) {
      const { models } = await evaluate([first, second, first], { data, batch: 10, partial: true, ...stop });
      expect(models[0]).toMatchObject({ path: first, images: 50, partial: false });
      expect(models.length).toBeLessThan(3);
    }
    const stop = stopAfter(50, first);
    await expect(evaluate([first, second], { data, batch: 10, ...stop })).rejects.toMatchObject({ code: 'aborted' });
  });

  it('does not record the preprocessing of half an evaluation', async () => {
    const [file, data] = [
      echo(3),
      rowsOf(
        Array.from({ length: 500 }, () => [1, 0, 0]),
        new Array(500).fill(0),
      ),
    ];
    const before = readFileSync(file);
    await evaluateOne(file, data, { batch: 10, partial: true, savePreprocessing: true, ...stopAfter(20) });
    expect(readFileSync(file).equals(before)).toBe(true);
  });

  it('before anything is counted there is nothing to give', async () => {
    const stop = new AbortController();
    stop.abort();
    const data = rowsOf([[1, 0, 0]], [0]);
    const args = ['eval', echo(3), '--data', data, '--partial', '--json', '-q'];
    const { code, out, err } = await sisyphus(args, stop.signal);
    expect({ code, out, err }).toEqual({ code: 130, out: '', err: 'error: interrupted\n' });
  });
});

it('leaves no files behind', () => {
  expect(readdirSync(folder).filter((name) => !/\.(npy|onnx)$/.test(name))).toEqual(['external']);
});
