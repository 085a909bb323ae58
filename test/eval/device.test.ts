import { describe, expect, it } from 'vitest';
import { type Device, deviceHint, formatDevice, parseDevice } from '../../src/eval/device.ts';
import { chooseDevice, openSession } from '../../src/eval/session.ts';
import { buildModel } from '../../src/graph/build.ts';
import { serialize } from '../../src/graph/write.ts';
import { npyData, saveModel, testFolder } from '../support/arrays.ts';
import { sisyphus } from '../support/cli.ts';
import { noise, noiseArray, numbersOf } from '../support/numeric.ts';

const folder = testFolder();
const model = () => {
  const g = buildModel({ name: 'g', opset: 17 });
  g.output(g.node('Relu', [g.input('x', 'float', ['N', 3])]), 'y', 'float', ['N', 3]);
  return g.model;
};
const file = saveModel(folder, 'relu', model());
const data = npyData(folder, 'rows', [4, 3], Float32Array.from(noise(12)), [0, 1, 2, 0]);

/** Why a device can't be used here; empty where it works. */
async function missing(device: Device): Promise<string> {
  return openSession(serialize(model()), { device }).then(
    async (session) => {
      await session.release();
      return '';
    },
    (error: Error) => error.message,
  );
}

describe('parseDevice', () => {
  it.each([
    ['cpu', { kind: 'cpu' }],
    ['webgpu', { kind: 'webgpu' }],
    ['cuda', { kind: 'cuda', index: 0 }],
    ['cuda:0', { kind: 'cuda', index: 0 }],
    ['cuda:17', { kind: 'cuda', index: 17 }],
    ['auto', 'auto'],
  ] as const)('%s', (text, device) => {
    expect(parseDevice(text)).toEqual(device);
    if (device !== 'auto') expect(parseDevice(formatDevice(device))).toEqual(device);
  });

  it.each(['', 'CUDA', 'cuda:', 'cuda:-1', 'cuda:x', 'cuda:1.5', 'cuda:99999', ' cpu', 'gpu', 'cpu:0', 'webgpu:1'])(
    "'%s' is refused",
    (text) => {
      expect(() => parseDevice(text)).toThrow(expect.objectContaining({ code: 'usage' }));
      expect(() => parseDevice(text)).toThrow(`--device: '${text}' is no device`);
    },
  );

  it('suggests the nearest name', () => {
    expect(() => parseDevice('CUDA')).toThrow(/did you mean 'cuda'/);
    expect(() => parseDevice('webgpo')).toThrow(/did you mean 'webgpu'/);
    expect(() => parseDevice('tpu-v5')).toThrow(/known: auto, cpu, cuda, cuda:0, webgpu/);
  });
});

const cuda = await missing({ kind: 'cuda', index: 0 });
const webgpu = await missing({ kind: 'webgpu' });

describe.skipIf(!cuda)(`CUDA where it can't be used ${cuda ? '' : '(skipped: it can)'}`, () => {
  it('says what to install', async () => {
    expect(cuda).toBe(`--device cuda:0: ${deviceHint({ kind: 'cuda', index: 0 })}`);
    expect(cuda).toContain('npm run setup:cuda');
  });

  it.each(['eval', 'probe', 'compare'])('%s ends with one line', async (command) => {
    const models = command === 'compare' ? [file, file] : [file];
    const { code, out, err } = await sisyphus([command, ...models, '--data', data, '--device', 'cuda:1', '-q']);
    expect([code, out]).toEqual([1, '']);
    expect(err).toMatch(/^error: --device cuda:1: [^\n]*npm run setup:cuda[^\n]*--device cpu\n$/);
  });

  it('auto takes the CPU, and says so', async () => {
    expect(await chooseDevice('auto')).toEqual({
      device: { kind: 'cpu' },
      why: expect.stringContaining('npm run setup:cuda'),
    });
    for (const args of [
      ['eval', file],
      ['probe', file],
      ['compare', file, file],
    ]) {
      const { code, out } = await sisyphus([...args, '--data', data, '--device', 'auto']);
      expect(code).toBe(0);
      expect(out).toContain('  device cpu');
    }
  });
});

it.skipIf(!webgpu)(
  `WebGPU without an adapter says what to install ${webgpu ? '' : '(skipped: there is one)'}`,
  async () => {
    expect(webgpu).toBe(`--device webgpu: ${deviceHint({ kind: 'webgpu' })}`);
    const { code, out, err } = await sisyphus(['eval', file, '--data', data, '--device', 'webgpu', '-q']);
    expect([code, out]).toEqual([1, '']);
    expect(err).toMatch(/^error: --device webgpu: [^\n]*libvulkan1[^\n]*\n$/);
  },
);

for (const [name, why, device] of [
  ['cuda', cuda, { kind: 'cuda', index: 0 }],
  ['webgpu', webgpu, { kind: 'webgpu' }],
] as const)
  it.skipIf(why)(`${name} computes what the CPU does ${why && '(skipped: it is not available)'}`, async () => {
    const feeds = new Map([['x', noiseArray('float', [5, 3])]]);
    const [here, there] = [await openSession(serialize(model())), await openSession(serialize(model()), { device })];
    expect(numbersOf(await there.run(feeds), 'y')).toEqual(numbersOf(await here.run(feeds), 'y'));
    await here.release();
    await there.release();
  });

it('what is asked for is taken as it is', async () => {
  expect(await chooseDevice({ kind: 'cuda', index: 3 })).toEqual({
    device: { kind: 'cuda', index: 3 },
    why: 'as asked',
  });
  expect((await sisyphus(['eval', file, '--data', data, '--device', 'gpu'])).code).toBe(2);
});
