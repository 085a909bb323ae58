/** `sisyphus search` from the outside: what it finds, what it costs, and that interruptions leave no trace. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { evaluate } from '../../src/eval/accuracy.ts';
import { CPU } from '../../src/eval/device.ts';
import { openFeed } from '../../src/eval/feed.ts';
import { readModel } from '../../src/graph/read.ts';
import { rewrite } from '../../src/rewrite.ts';
import { openEvaluator } from '../../src/search/evaluator.ts';
import { type SearchOptions, search } from '../../src/search/search.ts';
import { testFolder } from '../support/arrays.ts';
import { sisyphus } from '../support/cli.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = testFolder();
const LENET = path.join(REPOSITORY, 'models/lenet.onnx');
const SMALL: SearchOptions = { data: 'synthetic', subset: 800, budget: 12, initial: 5, threads: 2 };
let searches = 0;
const place = () => path.join(folder, `search ${++searches}.onnx`);
const historyOf = (output: string) =>
  readFileSync(output.replace('.onnx', '.ndjson'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => ({ ...(JSON.parse(line) as object), seconds: null }));

describe('search', () => {
  it('writes the best network that it saw, whose accuracy is what it measured', { timeout: 120_000 }, async () => {
    const output = place();
    const report = await search(LENET, { ...SMALL, output });
    const { best, candidates, images, test, original } = report;
    expect(images).toBe(800);
    expect(original).toBeGreaterThan(0.99);
    expect(candidates.filter(({ same }) => same === null)).toHaveLength(12);
    expect(best.value).toBe(Math.max(...candidates.filter((each) => each.images === images).map(({ value }) => value)));
    expect(best.value).toBeGreaterThan(0.6);
    const { models } = await evaluate([output], { data: 'synthetic', split: 'train', limit: 800, seed: 0 });
    expect(models[0]?.top1).toBe(best.accuracy);
    expect(test?.after.images).toBe(4000);
    expect(readModel(output).graph.nodes.some(({ op }) => op === 'Relu')).toBe(false);
    // No polynomial was measured twice on as many images.
    const lines = historyOf(output).slice(1) as unknown as { identity: string; images: number }[];
    expect(new Set(lines.map(({ identity, images }) => `${identity} ${images}`)).size).toBe(lines.length);
  });

  it('was killed or interrupted at any moment: resumed, its history is that of an uninterrupted one', {
    timeout: 240_000,
  }, async () => {
    const [whole, cut, killed] = [place(), place(), place()];
    const wanted = await search(LENET, { ...SMALL, perLayer: 6, output: whole });
    for (const looks of [2, 9]) {
      const controller = new AbortController();
      let seen = 0;
      const onCandidate = () => {
        if (++seen === looks) controller.abort();
      };
      const options = { ...SMALL, perLayer: 6, output: cut, signal: controller.signal, onCandidate };
      await expect(search(LENET, { ...options, resume: looks > 2 })).rejects.toMatchObject({ code: 'aborted' });
    }
    const { specs, value } = await search(LENET, { ...SMALL, perLayer: 6, output: cut, resume: true });
    expect({ specs, value }).toEqual({ specs: wanted.specs, value: wanted.value });
    expect(historyOf(cut)).toEqual(historyOf(whole));
    expect(readFileSync(cut)).toEqual(readFileSync(whole));

    const args = `search ${'LENET'} --data synthetic --subset 800 --budget 12 --initial 5 --per-layer 6 --threads 2 --seed 0`;
    const log = killed.replace('.onnx', '.ndjson');
    for (const lines of [3, 12]) {
      const command = [...args.split(' ').map((word) => (word === 'LENET' ? LENET : word)), '-o', killed];
      const child: ChildProcess = spawn(
        process.execPath,
        ['--import', 'tsx', 'src/cli/main.ts', ...command, ...(lines > 3 ? ['--resume'] : [])],
        { cwd: REPOSITORY, stdio: 'ignore' },
      );
      const ended = once(child, 'exit');
      while (child.exitCode === null && (!existsSync(log) || readFileSync(log, 'utf8').split('\n').length < lines))
        await setTimeout(20);
      child.kill('SIGKILL');
      await ended;
    }
    // The line that was being written.
    writeFileSync(log, '{"identity":"4e84', { flag: 'a' });
    await search(LENET, { ...SMALL, seed: 0, perLayer: 6, output: killed, resume: true });
    expect(historyOf(killed)).toEqual(historyOf(whole));
    await expect(search(LENET, { ...SMALL, output: killed, resume: true, budget: 13 })).rejects.toThrow(
      'budget 12, not 13',
    );
  });

  it.each([
    ['deg=4,a=5'],
    ['deg=6,a=4,fit=minimax'],
    ['preset=precise,alpha=6,a=8'],
    ['deg=2,a=data,per=channel'],
    ['quad', '*1=deg=8,a=6'],
  ])('measures %s with coefficients as inputs as `eval` does with constants', { timeout: 60_000 }, async (...specs) => {
    const rows = { data: 'synthetic', split: 'test', limit: 300, batch: 100 } as const;
    const output = place();
    const { calibrate } = await import('../../src/eval/calibration.ts');
    const { statisticsOf } = await import('../../src/eval/statistics-file.ts');
    const model = readModel(LENET);
    const statistics = statisticsOf(await calibrate(model, LENET, { data: 'synthetic' }));
    await rewrite(LENET, { poly: specs, output, calibration: { data: 'synthetic' } });
    const evaluator = await openEvaluator(await openFeed(model, LENET, rows), { device: CPU, run: rows, statistics });
    try {
      const measured = await evaluator.prepare(specs).evaluate(300);
      const { models } = await evaluate([output], rows);
      for (const key of ['top1', 'top5', 'top1Finite', 'nonFinite', 'images'] as const)
        expect(measured[key]).toBe(models[0]?.[key]);
      expect((await evaluator.prepare(specs).evaluate(130)).images).toBe(130);
    } finally {
      await evaluator.release();
    }
  });

  it('by layer is never worse than one polynomial for all', { timeout: 120_000 }, async () => {
    const output = place();
    const report = await search(LENET, { ...SMALL, subset: 400, halving: 1, budget: 6, perLayer: 30, output });
    expect(report.value).toBeGreaterThanOrEqual(report.best.value);
    const { models } = await evaluate([output], { data: 'synthetic', split: 'train', limit: 400, seed: 0 });
    expect(models[0]?.top1).toBe(report.value);
  });

  it('as the authors ran it: degrees from 1, images without finite logits left out', { timeout: 120_000 }, async () => {
    const report = await search(LENET, { ...SMALL, subset: 200, budget: 14, strategy: 'sisyphus', output: place() });
    expect(report.objective).toBe('finite-accuracy');
    expect(report.candidates).toHaveLength(14);
    for (const { value, finiteAccuracy, images } of report.candidates) {
      expect(value).toBe(finiteAccuracy ?? 0);
      expect(images).toBe(200);
    }
  });

  it('prints the best, and plots the search', { timeout: 120_000 }, async () => {
    const output = place();
    const [svg, page] = [`${output}.svg`, `${output}.html`];
    const args = ['--data', 'synthetic', '--subset', '200', '--strategy', 'grid', '--budget', '8', '--degrees', '2,4'];
    const { code, out, err } = await sisyphus(['search', LENET, ...args, '-o', output, '--svg', svg, '--report', page]);
    expect(err).not.toContain('error');
    expect(code).toBe(0);
    expect(out).toMatch(/deg=[24],a=[\d.]+: \d+\.\d\d % of 200 images \(train\), the network as it is/);
    expect(out).toContain(`wrote ${output}`);
    expect(readFileSync(svg, 'utf8')).toContain('log10 of the range');
    expect(readFileSync(page, 'utf8')).toContain('best so far');
    const json = await sisyphus(['search', LENET, ...args, '-o', output, '--force', '--json']);
    expect(JSON.parse(json.out)).toMatchObject({ strategy: 'grid', images: 200 });
  });

  it.each([
    [['--range', '5..1'], 'range 5..1'],
    [['--range', 'x'], 'two numbers'],
    [['--degrees', '9..2'], 'goes down'],
    [['--poly', 'deg=*,a=*,dx=*'], 'one star'],
    [['--poly', 'deg=*,a=stats.json'], 'a=data'],
    [['--strategy', 'sisyphus', '--acquisition', 'ei'], 'ucb'],
    [['--strategy', 'guess'], 'Allowed choices'],
    [['--resume'], 'no search to go on with'],
    [['--only', 'nothing'], 'nothing'],
    [['--activations', 'gelu'], 'no activation to replace'],
  ])('refuses %s', { timeout: 30_000 }, async (args, message) => {
    const output = place();
    const { code, err } = await sisyphus([
      'search',
      LENET,
      '--data',
      'synthetic',
      '--subset',
      '100',
      '-o',
      output,
      ...args,
    ]);
    expect(err).toContain(message);
    expect(code).toBe(2);
    expect(existsSync(output)).toBe(false);
  });
});
