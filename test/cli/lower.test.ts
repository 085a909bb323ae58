import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { sisyphus } from '../support/cli.ts';
import { REPOSITORY } from '../support/shared.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-lower-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const LENET = path.join(REPOSITORY, 'models', 'lenet.onnx');
const at = (name: string) => path.join(folder, name);

test('lower says what it did, that it checked, and what is next', async () => {
  await sisyphus(['rewrite', LENET, '--poly', 'deg=2,a=5', '-o', at('poly.onnx'), '-q']);
  const { code, out } = await sisyphus(['lower', at('poly.onnx'), '--target', 'portable', '-o', at('portable.onnx')]);
  expect(code).toBe(0);
  expect(out).toContain('fold-polynomial: 4 done');
  expect(out).toMatch(/check passed: 2 random inputs, largest difference [\d.e-]+ at a scale of [\d.]+/);
  expect(out).toMatch(/multiplicative depth +19 +11/);
  expect(out).not.toContain('fold-pad');
  expect(out).toMatch(/next: (npx )?sisyphus check .*portable\.onnx --target portable/);
  expect(existsSync(at('portable.onnx'))).toBe(true);
});

test('rewrite --target lowers too, and --json has the passes of both', async () => {
  const args = ['rewrite', LENET, '--poly', 'quad', '--target', 'crypten', '-o', at('both.onnx'), '--json'];
  const { code, out } = await sisyphus(args);
  expect(code).toBe(0);
  const passes: string[] = JSON.parse(out).passes.map(({ pass }: { pass: string }) => pass);
  expect(passes).toEqual(expect.arrayContaining(['replace-activation', 'fold-polynomial', 'set-coefficients']));
});

test.each<[string[], number, string]>([
  [['lower', LENET], 2, "required option '--target <name>' not specified"],
  [['lower', LENET, '--target', 'orion'], 2, 'orion reads no ONNX file'],
  [['lower', 'nope.onnx', '--target', 'ace'], 1, 'nope.onnx: no such file'],
  [['rewrite', LENET, '--poly', 'quad', '--target', 'aces'], 2, "did you mean 'ace'"],
])('%j ends with %i', async (args, code, message) => {
  const result = await sisyphus(args);
  expect([result.code, result.err]).toEqual([code, expect.stringContaining(message)]);
});
