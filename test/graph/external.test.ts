import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import ort from 'onnxruntime-node';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { tensorAttr } from '../../src/graph/attributes.ts';
import { buildModel } from '../../src/graph/build.ts';
import { cloneModel } from '../../src/graph/edit.ts';
import type { Model } from '../../src/graph/ir.ts';
import { parseModel, readModel } from '../../src/graph/read.ts';
import { elementCode, makeTensor, rawBytes, type Tensor, toNumbers } from '../../src/graph/tensor.ts';
import {
  type AttributeProto,
  encodeModel,
  type GraphProto,
  type Message,
  type ModelProto,
  message,
  type NodeProto,
  type OpsetProto,
  type StringEntry,
  type TensorProto,
  type ValueInfoProto,
} from '../../src/graph/wire.ts';
import { encode, serialize, type WriteOptions, writeModel } from '../../src/graph/write.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-external-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const at = (...names: string[]) => path.join(folder, ...names);

const entries = (fields: Record<string, string>) =>
  Object.entries(fields).map(([key, value]) => message<StringEntry>('StringStringEntryProto', { key, value }));

/** A float tensor of `count` elements whose data is said to lie elsewhere. */
function externalTensor(name: string, count: number, fields: Record<string, string>): TensorProto {
  return message<TensorProto>('TensorProto', {
    dims: [count],
    data_type: elementCode('float'),
    name,
    external_data: entries(fields),
    data_location: 1,
  });
}

interface Content {
  readonly initializer?: TensorProto[];
  readonly node?: NodeProto[];
  readonly output?: string;
  readonly graph?: Partial<GraphProto>;
  readonly model?: Partial<ModelProto>;
}
function modelFile(name: string, { initializer = [], node = [], output = 'w', graph, model }: Content): string {
  const info = message<ValueInfoProto>('ValueInfoProto', { name: output });
  const proto = message<ModelProto>('ModelProto', {
    ir_version: 8,
    opset_import: [message<OpsetProto>('OperatorSetIdProto', { domain: '', version: 17 })],
    graph: message<GraphProto>('GraphProto', { name: 'g', initializer, node, output: [info], ...graph }),
    ...model,
  });
  writeFileSync(at(name), Buffer.concat(encodeModel(proto)));
  return at(name);
}

const floats = (...values: number[]) => Buffer.from(new Float32Array(values).buffer);
const initializer = (model: Model, index = 0): Tensor => {
  const tensor = model.graph.initializers[index]?.tensor;
  if (!tensor) throw new Error(`no initializer ${index}`);
  return tensor;
};
const W = { location: 'w.bin', offset: '8', length: '8' };
/** A model whose only initializer is two floats of `w.bin`, behind two others. */
function usual(fields: Record<string, string> = W): string {
  if (!existsSync(at('w.bin'))) writeFileSync(at('w.bin'), floats(9, 9, 1.5, -2));
  return modelFile('model.onnx', { initializer: [externalTensor('w', 2, fields)] });
}

describe('reading', () => {
  test('is lazy: only path and range until somebody asks', () => {
    const model = readModel(usual());
    const tensor = initializer(model);
    expect(tensor.external).toMatchObject({ location: 'w.bin', offset: 8, length: 8 });
    expect(Object.hasOwn(tensor.proto, 'raw_data')).toBe(false);
    expect([...toNumbers(tensor)]).toEqual([1.5, -2]);
    expect(Buffer.from(rawBytes(tensor)).equals(floats(1.5, -2))).toBe(true);
    expect(Buffer.concat(encode(model)).equals(readFileSync(at('model.onnx')))).toBe(true);
    expect([...toNumbers(initializer(cloneModel(model)))]).toEqual([1.5, -2]);
  });

  test('offset and length may be absent', () => {
    expect([...toNumbers(initializer(readModel(usual({ location: 'w.bin' }))))]).toEqual([9, 9]);
  });

  test('a location in a folder below, also through links that stay inside', () => {
    mkdirSync(at('deep', 'er'), { recursive: true });
    writeFileSync(at('deep', 'er', 'data'), floats(3, 4));
    symlinkSync(at('deep', 'er', 'data'), at('link'));
    symlinkSync('deep', at('folder-link'));
    for (const location of ['deep/er/data', './deep/er/../er/data', 'link', 'folder-link/er/data', 'a/../link'])
      expect([...toNumbers(initializer(readModel(usual({ location }))))]).toEqual([3, 4]);
  });

  test('the model may be reached through a link or from elsewhere', () => {
    usual();
    const other = mkdtempSync(path.join(tmpdir(), 'sisyphus-link-'));
    symlinkSync(folder, path.join(other, 'there'));
    expect([...toNumbers(initializer(readModel(path.join(other, 'there', 'model.onnx'))))]).toEqual([1.5, -2]);
    rmSync(other, { recursive: true });
  });

  test('a file name may start with dots', () => {
    writeFileSync(at('..data'), floats(1, 2));
    expect([...toNumbers(initializer(readModel(usual({ location: '..data' }))))]).toEqual([1, 2]);
  });

  test('data that changes after it was checked is refused, not misread', () => {
    const tensor = initializer(readModel(usual()));
    writeFileSync(at('w.bin'), floats(9, 9, 9, 1.5, -2));
    expect(() => rawBytes(tensor)).toThrow(expect.objectContaining({ code: 'external-data' }));
    rmSync(at('w.bin'));
    expect(() => rawBytes(tensor)).toThrow(/changed or gone/);
  });

  test('a model that comes from no file has no external data', () => {
    const bytes = readFileSync(usual());
    expect(() => parseModel(bytes)).toThrow(/'w'.*not read from a file/);
  });
});

describe('refusals name the tensor', () => {
  const refuse = (fields: Record<string, string>, words: RegExp) =>
    expect(() => readModel(usual(fields))).toThrow(
      expect.objectContaining({ code: 'external-data', message: expect.stringMatching(words) }),
    );

  test.each([
    ['/etc/hostname', /'w'.*absolute/],
    ['C:\\weights.bin', /'w'.*absolute/],
    ['C:/weights.bin', /'w'.*absolute/],
    ['\\\\server\\share\\w.bin', /'w'.*absolute/],
    ['\\weights.bin', /'w'.*absolute/],
    ['../w.bin', /'w'.*leaves/],
    ['..', /'w'.*leaves/],
    ['a/../../w.bin', /'w'.*leaves/],
    ['missing.bin', /'w'.*missing/],
    ['w.bin/x', /'w'.*missing/],
    ['.', /'w'.*not a file/],
    ['', /'w'.*no location/],
    ['w.bin\0.txt', /'w'.*NUL/],
    ['\0', /'w'.*NUL/],
    [`${'x'.repeat(5000)}`, /'w'.*missing/],
  ])('location %j', (location, words) => {
    refuse({ location }, words);
  });

  test('no location at all', () => refuse({ offset: '0' }, /'w'.*no location/));

  test.each([
    [{ offset: '12' }, /'w'.*bytes 12 to 20.*ends at 16/],
    [{ offset: '9007199254740991' }, /'w'.*ends at 16/],
    [{ offset: '-8' }, /'w'.*not a whole number/],
    [{ offset: '1e1' }, /'w'.*not a whole number/],
    [{ offset: '0x8' }, /'w'.*not a whole number/],
    [{ offset: ' 8' }, /'w'.*not a whole number/],
    [{ offset: '' }, /'w'.*not a whole number/],
    [{ offset: '8.0' }, /'w'.*not a whole number/],
    [{ offset: '99999999999999999999' }, /'w'.*not a whole number/],
    [{ length: '-8' }, /'w'.*not a whole number/],
    [{ length: '4' }, /'w'.*4 bytes.*\[2\] needs 8/],
    [{ length: '16' }, /'w'.*16 bytes.*\[2\] needs 8/],
    [{ length: 'all' }, /'w'.*not a whole number/],
  ])('range %j', (fields, words) => refuse({ location: 'w.bin', ...fields }, words));

  test('links that lead out, to a file and to a folder', () => {
    const other = mkdtempSync(path.join(tmpdir(), 'sisyphus-out-'));
    writeFileSync(path.join(other, 'w.bin'), floats(1, 2));
    symlinkSync(path.join(other, 'w.bin'), at('out'));
    symlinkSync(other, at('out-folder'));
    symlinkSync('nowhere', at('dangling'));
    refuse({ location: 'out' }, /'w'.*leads out/);
    refuse({ location: 'out-folder/w.bin' }, /'w'.*leads out/);
    refuse({ location: 'dangling' }, /'w'.*missing/);
    rmSync(other, { recursive: true });
  });

  test('impossible shapes and types', () => {
    for (const change of [{ dims: [-1, -2] }, { dims: [2 ** 40, 2 ** 40] }, { data_type: 8 }, { data_type: 77 }]) {
      const tensor = Object.assign(externalTensor('w', 2, { location: 'w.bin' }), change);
      usual();
      expect(() => readModel(modelFile('odd.onnx', { initializer: [tensor] }))).toThrow(/'w'/);
    }
  });
});

/** y = x * w + (w scaled) with weights that are large enough to be moved. */
function network(seed = 1): Model {
  const net = buildModel({ name: 'net', opset: 17 });
  const x = net.input('x', 'float', [1, 512]);
  const values = Float32Array.from({ length: 512 }, (_, i) => Math.sin(i * seed));
  const product = net.node('Mul', [x, net.constant('w', 'float', [512], values)], {}, 'mul');
  const shifted = net.node('Add', [product, net.constant('b', 'float', [1], [0.5])], {}, 'add');
  net.output(
    net.node('Add', [shifted, net.constant('v', 'float', [512], values.map(Math.abs))]),
    'y',
    'float',
    [1, 512],
  );
  return net.model;
}

async function outputs(model: string | Uint8Array, feeds: Record<string, ort.Tensor>, name: string) {
  const session = await (typeof model === 'string'
    ? ort.InferenceSession.create(model)
    : ort.InferenceSession.create(model));
  const results = await session.run(feeds);
  await session.release();
  return [...((results[name]?.data ?? []) as Float32Array)];
}
const run = (model: string | Uint8Array) =>
  outputs(
    model,
    {
      x: new ort.Tensor(
        'float32',
        Float32Array.from({ length: 512 }, (_, i) => i / 100),
        [1, 512],
      ),
    },
    'y',
  );

describe('writing', () => {
  test('an inline model with `externalData`: data beside it, small tensors inside, runs the same', async () => {
    const model = network();
    const files = await writeModel(model, at('net.onnx'), { externalData: true });
    expect([...files.keys()]).toEqual([at('net.onnx'), at('net.onnx.data')]);
    for (const [file, size] of files) expect(statSync(file).size).toBe(size);
    const back = readModel(at('net.onnx'));
    expect(back.graph.initializers.map(({ tensor }) => tensor.external?.offset ?? null)).toEqual([0, null, 4096]);
    expect(initializer(back).external?.location).toBe('net.onnx.data');
    const expected = await run(serialize(model));
    expect(await run(at('net.onnx'))).toEqual(expected);
    expect(await run(serialize(back, { inline: true }))).toEqual(expected);
    expect(Buffer.from(serialize(back, { inline: true })).equals(serialize(model))).toBe(true);
  });

  test('external stays external, also in another folder, and can be taken inside', async () => {
    await writeModel(network(), at('net.onnx'), { externalData: true });
    mkdirSync(at('out'));
    await writeModel(readModel(at('net.onnx')), at('out', 'copy.onnx'));
    await writeModel(readModel(at('net.onnx')), at('out', 'inside.onnx'), { externalData: false });
    rmSync(at('net.onnx'));
    rmSync(at('net.onnx.data'));
    const expected = await run(serialize(network()));
    expect(await run(at('out', 'copy.onnx'))).toEqual(expected);
    expect(await run(at('out', 'inside.onnx'))).toEqual(expected);
    expect(readdirSync(at('out')).sort()).toEqual(['copy.onnx', 'copy.onnx.data', 'inside.onnx']);
  });

  test('a model without large tensors needs no data file', async () => {
    const model = parseModel(readFileSync(modelFile('small.onnx', {})));
    expect([...(await writeModel(model, at('out.onnx'), { externalData: true })).keys()]).toEqual([at('out.onnx')]);
  });

  test('shared data is written once', async () => {
    const net = buildModel({ name: 'tied', opset: 17 });
    const tensor = makeTensor('w', 'float', [512], new Float32Array(512).fill(2));
    net.output(net.node('Mul', [net.tensor(tensor), net.tensor(tensor)]), 'y', 'float', [512]);
    const files = await writeModel(net.model, at('tied.onnx'), { externalData: true });
    expect(files.get(at('tied.onnx.data'))).toBe(2048);
    const back = readModel(at('tied.onnx'));
    expect(back.graph.initializers.map(({ value }) => value.name)).toEqual(['w', 'w_1']);
    expect(toNumbers(initializer(back, 1)).every((number) => number === 2)).toBe(true);
  });

  test('typed data fields, packed and not, move out and come back', async () => {
    const proto = message<TensorProto>('TensorProto', { dims: [300], data_type: elementCode('int64'), name: 'w' });
    proto.int64_data = [Buffer.alloc(299, 5)];
    const bytes = readFileSync(modelFile('typed.onnx', { initializer: [proto] }));
    // One more element, unpacked, at the end of the tensor: 2 bytes more in tensor and graph.
    const grown = parseModel(bytes);
    const tensor = initializer(grown);
    Object.defineProperty(tensor.proto, '$unknowns', {
      value: [Buffer.from([7 << 3, 6]), Buffer.from([0xd0, 0x3e, 1])],
      configurable: true,
      writable: true,
    });
    await writeModel(grown, at('out.onnx'), { externalData: true });
    const back = initializer(readModel(at('out.onnx')));
    expect(back.external?.length).toBe(2400);
    expect(toNumbers(back).slice(297)).toEqual(Float64Array.of(5, 5, 6));
    expect(back.proto.$unknowns).toHaveLength(1); // the future field stays, the element does not
  });

  test('empty external tensors at the end', async () => {
    writeFileSync(at('w.bin'), floats(1, 2));
    const list = [externalTensor('w', 2, { location: 'w.bin' }), externalTensor('e', 0, { location: 'w.bin' })];
    const model = readModel(modelFile('model.onnx', { initializer: list }));
    await writeModel(model, at('out.onnx'));
    expect(toNumbers(initializer(readModel(at('out.onnx')), 1)).length).toBe(0);
  });
});

describe('tensors outside of the main graph', () => {
  const attribute = (name: string, fields: Partial<AttributeProto>) =>
    message<AttributeProto>('AttributeProto', { name, type: 4, ...fields });
  const node = (op_type: string, input: string[], output: string[], list: AttributeProto[] = []) =>
    message<NodeProto>('NodeProto', { op_type, name: op_type, input, output, attribute: list });
  const far = (name: string, offset: number) =>
    externalTensor(name, 2, { location: 'w.bin', offset: `${offset}`, length: '8' });
  const info = (name: string) => message<ValueInfoProto>('ValueInfoProto', { name });

  /** External data in a Constant, in a branch's initializer, in a Constant there, in a function and its defaults. */
  function everywhere(): string {
    writeFileSync(at('w.bin'), floats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
    const branch = message<GraphProto>('GraphProto', {
      name: 'branch',
      initializer: [far('inner', 8)],
      node: [
        node('Constant', [], ['c2'], [attribute('value', { t: far('c2', 16) })]),
        node('Mul', ['inner', 'c2'], ['z']),
      ],
      output: [info('z')],
    });
    const fn = message('FunctionProto', {
      name: 'f',
      domain: 'local',
      output: ['o'],
      opset_import: [message<OpsetProto>('OperatorSetIdProto', { domain: '', version: 17 })],
      node: [node('Constant', [], ['o'], [attribute('value', { t: far('c3', 24) })])],
      attribute_proto: [attribute('default', { t: far('d', 32) })],
    } as Message);
    const nodes = [
      node('Constant', [], ['c'], [attribute('value', { t: far('c', 0) })]),
      node(
        'If',
        ['cond'],
        ['i'],
        [
          message<AttributeProto>('AttributeProto', { name: 'then_branch', type: 5, g: branch }),
          message<AttributeProto>('AttributeProto', { name: 'else_branch', type: 5, g: branch }),
        ],
      ),
      message<NodeProto>('NodeProto', { op_type: 'f', domain: 'local', output: ['o'] }),
      node('Sum', ['c', 'i', 'o'], ['w']),
    ];
    const cond = message<TensorProto>('TensorProto', { data_type: 9, name: 'cond', raw_data: Buffer.from([1]) });
    const opset_import = ['', 'local'].map((domain) =>
      message<OpsetProto>('OperatorSetIdProto', { domain, version: domain ? 1 : 17 }),
    );
    return modelFile('model.onnx', {
      initializer: [cond],
      node: nodes,
      model: { functions: [fn], opset_import },
    });
  }
  const EXPECTED = [1 + 3 * 5 + 7, 2 + 4 * 6 + 8];
  const evaluate = (model: string | Uint8Array) => outputs(model, {}, 'w');

  test('are found and read', async () => {
    const model = readModel(everywhere());
    const constant = model.graph.nodes[0];
    expect([...toNumbers(tensorAttr(constant as never, 'value') as Tensor)]).toEqual([1, 2]);
    expect(await evaluate(serialize(model, { inline: true }))).toEqual(EXPECTED);
    expect(await evaluate(serialize(cloneModel(model), { inline: true }))).toEqual(EXPECTED);
  });

  test.each([{ externalData: true }, { externalData: false }, {}])('are written elsewhere with %j', async (options) => {
    const model = readModel(everywhere());
    mkdirSync(at('out'));
    await writeModel(model, at('out', 'copy.onnx'), options);
    rmSync(at('w.bin'));
    const back = readModel(at('out', 'copy.onnx'));
    const inside = serialize(back, { inline: true });
    expect(await evaluate(inside)).toEqual(EXPECTED);
    expect(Buffer.from(inside).includes('w.bin')).toBe(false);
    expect(readFileSync(at('out', 'copy.onnx')).includes('w.bin')).toBe(false);
    const defaults = back.functions[0]?.proto.attribute_proto?.[0]?.t;
    expect(defaults?.data_location === 1).toBe(options.externalData !== false);
    expect(existsSync(at('out', 'copy.onnx.data'))).toBe(options.externalData !== false);
  });

  test('are checked like any other', () => {
    everywhere();
    writeFileSync(at('w.bin'), floats(1));
    expect(() => readModel(at('model.onnx'))).toThrow(/tensor '(d|c|c2|c3|inner)'.*ends at 4/);
  });

  test('sparse tensors and training information with external data are refused', () => {
    writeFileSync(at('w.bin'), floats(1, 2));
    const sparse = message<Message>('SparseTensorProto', { values: far('s', 0), dims: [9] } as Message);
    const refused = expect.objectContaining({ code: 'unsupported' });
    expect(() => readModel(modelFile('a.onnx', { graph: { sparse_initializer: [sparse] } }))).toThrow(refused);
    const list = [attribute('sparse_value', { sparse_tensor: sparse })];
    expect(() => readModel(modelFile('b.onnx', { node: [node('Constant', [], ['w'], list)] }))).toThrow(refused);
    const training = message<Message>('TrainingInfoProto', {
      algorithm: message<GraphProto>('GraphProto', { initializer: [far('t', 0)] }),
    } as Message);
    expect(() => readModel(modelFile('c.onnx', { model: { training_info: [training] } }))).toThrow(refused);
  });
});

describe('files appear only when they are complete', () => {
  const listing = () => readdirSync(folder).sort();

  test('an existing file is refused without `force`, whichever of the two it is', async () => {
    writeFileSync(at('net.onnx.data'), 'mine');
    await expect(writeModel(network(), at('net.onnx'), { externalData: true })).rejects.toMatchObject({ code: 'file' });
    writeFileSync(at('other.onnx'), 'mine');
    await expect(writeModel(network(), at('other.onnx'))).rejects.toThrow(/other\.onnx: exists already/);
    expect(listing()).toEqual(['net.onnx.data', 'other.onnx']);
    expect(readFileSync(at('other.onnx'), 'utf8')).toBe('mine');
    await writeModel(network(), at('other.onnx'), { force: true });
    expect(readModel(at('other.onnx')).graph.nodes.length).toBe(3);
  });

  test('a folder is refused even with `force`, before anything is written', async () => {
    mkdirSync(at('net.onnx'));
    const options = { externalData: true, force: true };
    await expect(writeModel(network(), at('net.onnx'), options)).rejects.toThrow(/is a folder/);
    expect(listing()).toEqual(['net.onnx']);
  });

  test('a missing folder is an error in words', async () => {
    await expect(writeModel(network(), at('no', 'net.onnx'))).rejects.toThrow(/there is no folder .*; create it first/);
    await expect(writeModel(network(), at('no', 'net.onnx'), { externalData: true })).rejects.toMatchObject({
      code: 'file',
    });
  });

  test('over its own input: model and data at once', async () => {
    await writeModel(network(), at('net.onnx'), { externalData: true });
    const expected = await run(at('net.onnx'));
    for (const externalData of [true, undefined]) {
      const model = readModel(at('net.onnx'));
      // Another layout than the input's, so that reading while overwriting would show.
      const options: WriteOptions = externalData ? { externalData, force: true } : { force: true };
      await writeModel(model, at('net.onnx'), options);
      expect(listing()).toEqual(['net.onnx', 'net.onnx.data']);
      expect(await run(at('net.onnx'))).toEqual(expected);
    }
    // The data of the model in memory is gone; it must not be taken from the new file.
    const stale = readModel(at('net.onnx'));
    await writeModel(readModel(at('net.onnx')), at('net.onnx'), { force: true });
    expect(() => rawBytes(initializer(stale))).toThrow(/changed or gone/);
    await writeModel(readModel(at('net.onnx')), at('net.onnx'), { force: true, externalData: false });
    expect(await run(at('net.onnx'))).toEqual(expected);
  });

  test('data that vanishes amid writing leaves nothing', async () => {
    await writeModel(network(), at('net.onnx'), { externalData: true });
    const model = readModel(at('net.onnx'));
    rmSync(at('net.onnx.data'));
    for (const options of [{}, { externalData: false }])
      await expect(writeModel(model, at('out.onnx'), options)).rejects.toMatchObject({ code: 'external-data' });
    writeFileSync(at('net.onnx.data'), Buffer.alloc(10));
    await expect(writeModel(model, at('out.onnx'))).rejects.toThrow(/changed/);
    expect(listing()).toEqual(['net.onnx', 'net.onnx.data']);
  });

  test('a damaged tensor leaves nothing', async () => {
    const proto = message<TensorProto>('TensorProto', {
      dims: [2 ** 50],
      data_type: 1,
      name: 'w',
      raw_data: floats(1),
    });
    const model = readModel(modelFile('bad.onnx', { initializer: [proto] }));
    await expect(writeModel(model, at('out.onnx'), { externalData: true })).rejects.toThrow(/'w'.*damaged/);
    expect(listing()).toEqual(['bad.onnx']);
  });

  /** A signal that fires at its `n`-th check. */
  function abortAt(n: number): AbortSignal {
    const controller = new AbortController();
    let checks = 0;
    const { signal } = controller;
    const check = signal.throwIfAborted.bind(signal);
    signal.throwIfAborted = () => {
      if (++checks === n) controller.abort();
      check();
    };
    return signal;
  }

  test.each([1, 2, 3, 4, 5])('an abort at the %d. look leaves nothing', async (n) => {
    const options = { externalData: true, signal: abortAt(n) };
    const done = writeModel(network(), at('net.onnx'), options);
    if (n <= 4) {
      await expect(done).rejects.toMatchObject({ code: 'aborted', message: expect.stringContaining('nothing') });
      expect(listing()).toEqual([]);
    } else {
      await done; // two tensors, the model, and one last look
      expect(listing()).toEqual(['net.onnx', 'net.onnx.data']);
    }
  });

  test('an abort keeps the file that was there', async () => {
    await writeModel(network(1), at('net.onnx'), { externalData: true });
    const old = listing().map((name) => readFileSync(at(name)));
    const options = { externalData: true, force: true, signal: AbortSignal.abort() };
    await expect(writeModel(network(2), at('net.onnx'), options)).rejects.toMatchObject({ code: 'aborted' });
    expect(listing().map((name) => readFileSync(at(name)))).toEqual(old);
  });

  test('many writers at once do not disturb each other', async () => {
    const results = await Promise.allSettled(
      [1, 2, 3, 4].map((seed) => writeModel(network(seed), at('net.onnx'), { force: true })),
    );
    expect(results.every(({ status }) => status === 'fulfilled')).toBe(true);
    expect(listing()).toEqual(['net.onnx']);
    expect(readModel(at('net.onnx')).graph.nodes.length).toBe(3);
  });
});
