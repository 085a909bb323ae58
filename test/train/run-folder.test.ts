import { appendFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { openRunFolder } from '../../src/train/run-folder.ts';
import { type NamedTensors, readSafetensors, writeSafetensors } from '../../src/train/safetensors.ts';
import { testFolder } from '../support/arrays.ts';

const folder = testFolder();
const TENSORS: NamedTensors = {
  tensors: new Map([
    ['a', { dims: [2, 2], data: Float32Array.of(1, -2, Number.NaN, 1e-40) }],
    ['é/b', { dims: [], data: Float32Array.of(Math.PI) }],
    ['none', { dims: [0], data: new Float32Array(0) }],
  ]),
  metadata: { epoch: '3', text: '{"x": 1}' },
};

describe('safetensors', () => {
  const file = path.join(folder, 'x.safetensors');

  it('come back bit for bit, in the published layout', async () => {
    await writeSafetensors(file, TENSORS);
    const back = await readSafetensors(file);
    expect(back).toEqual(TENSORS);
    const bytes = readFileSync(file);
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
    expect(header.a).toEqual({ dtype: 'F32', shape: [2, 2], data_offsets: [0, 16] });
    expect(bytes.readFloatLE(8 + length + 4)).toBe(-2);
    expect((8 + length) % 8).toBe(0);
  });

  it('refuses what is cut short, and other files', async () => {
    const whole = readFileSync(file).length;
    for (const length of [0, 5, 20, whole - 1]) {
      await writeSafetensors(file, TENSORS);
      truncateSync(file, length);
      await expect(readSafetensors(file)).rejects.toMatchObject({ code: 'data' });
    }
    writeFileSync(file, 'this is a text, not a file of tensors');
    await expect(readSafetensors(file)).rejects.toMatchObject({ code: 'data' });
    await expect(readSafetensors(path.join(folder, 'none'))).rejects.toMatchObject({ code: 'file' });
  });
});

describe('run folders', () => {
  const config = { lr: 0.1, epochs: 3 };
  const own = /^last\.onnx$/;
  const keep = (record: Readonly<Record<string, unknown>>, saved: NamedTensors | null) =>
    Number(record.epoch) <= Number(saved?.metadata.epoch ?? 0);

  it('drops what the checkpoint does not cover, and a line that was cut short', async () => {
    const place = path.join(folder, 'run');
    const run = await openRunFolder(place, config, { own, keep });
    expect(run.checkpoint).toBeNull();
    await run.log({ epoch: 1 });
    await run.log({ epoch: 3 });
    await run.save(TENSORS);
    await run.log({ epoch: 4 });
    appendFileSync(path.join(place, 'metrics.ndjson'), '{"epoch": 5, "lo');
    const again = await openRunFolder(place, config, { own, keep, resume: true });
    expect(again.checkpoint).toEqual(TENSORS);
    expect(readFileSync(path.join(place, 'metrics.ndjson'), 'utf8')).toBe('{"epoch":1}\n{"epoch":3}\n');
  });

  it('refuses a folder with a run, a resume with other options, and one without a run', async () => {
    const place = path.join(folder, 'other');
    await openRunFolder(place, config, { own, keep });
    await expect(openRunFolder(place, config, { own, keep })).rejects.toThrow('--resume to go on');
    await expect(openRunFolder(place, { lr: 0.2, epochs: 3 }, { own, keep, resume: true })).rejects.toThrow(
      'lr 0.1, not 0.2',
    );
    await expect(openRunFolder(path.join(folder, 'new'), config, { own, keep, resume: true })).rejects.toThrow(
      'no run to go on',
    );
    expect(existsSync(path.join(folder, 'new'))).toBe(false);
    expect((await openRunFolder(place, { lr: 0.3 }, { own, keep, force: true })).checkpoint).toBeNull();
    const file = path.join(folder, 'file');
    writeFileSync(file, '');
    await expect(openRunFolder(file, config, { own, keep })).rejects.toThrow('is a file');
  });
});
