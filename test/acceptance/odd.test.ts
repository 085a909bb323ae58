/** Odd and broken files: each gets a right rewrite or an error that says what is wrong, and nothing else is left behind. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { randomFeeds } from '../../src/eval/check.ts';
import { arrayFromNumbers, arrayNumbers, openSession } from '../../src/eval/session.ts';
import { readModel } from '../../src/graph/read.ts';
import { assertValid } from '../../src/graph/verify.ts';
import { allNodes } from '../../src/graph/walk.ts';
import { serialize } from '../../src/graph/write.ts';
import { rewrite } from '../../src/rewrite.ts';
import { makeRng } from '../../src/rng.ts';
import { expectClose, noise } from '../support/numeric.ts';
import { replaceInDouble } from '../support/reference.ts';
import { SHARED, sharedMissing, sharedModels } from '../support/shared.ts';

/** Files that can't be rewritten, with the error that they give. */
const REFUSED: Record<string, [ErrorCode, string]> = {
  'derived/empty.onnx': ['not-onnx', 'the file is empty'],
  'derived/ext_absolute/model.onnx': [
    'external-data',
    "tensor 'conv1.0.bias': the external location '/etc/hostname' is absolute",
  ],
  'derived/ext_missing/model.onnx': ['external-data', "tensor 'conv1.0.bias': its data file 'weights.bin' is missing"],
  'derived/ext_short/model.onnx': [
    'external-data',
    "tensor 'out.weight': bytes 680 to 46760 of 'weights.bin' are wanted, but it ends at 23380",
  ],
  'derived/ext_traversal/model.onnx': ['external-data', "leaves the model's folder"],
  'derived/ir_version_99.onnx': ['invalid-model', 'its IR version 99 is newer than 13'],
  'derived/mnist8_bitflips40.onnx': ['not-onnx', 'damaged or truncated'],
  'derived/mnist8_gzipped_named.onnx': ['not-onnx', 'gzip'],
  'derived/mnist8_trailing_garbage.onnx': ['not-onnx', 'damaged or truncated'],
  'derived/mnist8_truncated_16B.onnx': ['not-onnx', 'damaged or truncated'],
  'derived/mnist8_truncated_half.onnx': ['not-onnx', 'damaged or truncated'],
  'derived/mnist8_truncated_minus1.onnx': ['not-onnx', 'damaged or truncated'],
  'derived/no_opset_import.onnx': ['invalid-model', 'it imports no opset'],
  'derived/opset_99.onnx': ['invalid-model', 'its opset 99 is outside of 7 to 23'],
  'derived/random_4k.onnx': ['not-onnx', 'damaged or truncated'],
  'derived/text.onnx': ['not-onnx', 'text'],
  'synthetic/invalid_cycle.onnx': ['invalid-model', 'cycle'],
  'synthetic/invalid_dangling_input.onnx': ['invalid-model', "reads 'nope', which nothing defines"],
  'synthetic/invalid_ssa_dup_output.onnx': ['invalid-model', "'y' is defined twice"],
};

/** Activations replaced where that is not the one that most of these files have. */
const REPLACED: Record<string, number> = {
  'derived/cifar10_resnet_2b_fp16.onnx': 6,
  'derived/mnist_fc_256x2_qdq.onnx': 2,
  'derived/resnet2b_no_io_shape.onnx': 6,
  'ir-py-textproto/mobilenetv2_100/mobilenetv2_100_dynamo.onnx': 0, // Clip bounds that the function's caller gives
  'ir-py-textproto/torchscript_model/torchscript_model.onnx': 0, // Sigmoid and Softmax only
  'synthetic/function_nested_relu.onnx': 2,
  'synthetic/if_relu_both_branches.onnx': 3,
  'synthetic/relu_as_clip.onnx': 2,
  'synthetic/relu_chain.onnx': 3,
  'synthetic/relu_int32.onnx': 0,
  'synthetic/relu_on_initializer.onnx': 0, // computed instead
  'synthetic/relu_shared_input_and_graph_output.onnx': 2,
};

/** Files that onnxruntime itself can't load, before or after (index.tsv says why). */
const NOT_LOADED = /dup_node_names|verivital_maxpool_double|textproto/;

const RELU = [(15 / 256) * 5, 1 / 2, 105 / 128 / 5, 0, -105 / 256 / 125];

describe.skipIf(sharedMissing)(`odd files ${sharedMissing && `(skipped: ${sharedMissing})`}`, () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'sisyphus-odd-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each(sharedModels('odd').map((file) => file.replace(/^odd\//, '')))('%s', async (name) => {
    const input = path.join(SHARED, 'odd', name);
    const output = path.join(folder, `${name.replaceAll('/', '_')}.out`);
    const run = rewrite(input, { poly: ['deg=4,a=5'], output });
    const refusal = REFUSED[name];
    if (refusal) {
      const [code, text] = refusal;
      const error = await run.then(
        () => expect.fail('was rewritten'),
        (e: Error) => e,
      );
      expect(error).toMatchObject({ name: 'SisyphusError', code });
      expect(error.message).toContain(text);
      expect(error.message).not.toContain('\n');
      expect(readdirSync(folder).filter((file) => file.startsWith(path.basename(output)))).toEqual([]);
      return;
    }
    const report = await run;
    const count = REPLACED[name] ?? 1;
    expect(report.passes[0]?.applied).toHaveLength(count);
    const result = readModel(output);
    assertValid(result, output);
    if (count > 0)
      expect(
        [...allNodes(result)].filter((n) => n.domain === '' && ['Relu', 'Clip', 'Where', 'Max'].includes(n.op)),
      ).toEqual([]);
    if (!NOT_LOADED.test(name)) await compare(input, output, name);
  });
});

/** Against the same nodes evaluated in float64, for the files that are spelled with Relu; the others must load. */
async function compare(input: string, output: string, name: string) {
  const original = readModel(input);
  const session = await openSession(serialize(readModel(output), { inline: true }), { optimize: false });
  try {
    if (/relu_as_|relu_on_initializer|fp16|int32/.test(name)) return;
    const bytes = serialize(original, { inline: true });
    const isRelu = ({ opType, domain }: { opType?: string | null; domain?: string | null }) =>
      opType === 'Relu' && domain !== 'local';
    const reference = replaceInDouble(bytes, (node) => (isRelu(node) ? RELU : null));
    const want = await openSession(reference.bytes, { optimize: false });
    // Several seeds, so that both branches of an If are taken.
    for (let seed = 1; seed <= 4; seed++) {
      const image = arrayFromNumbers('float', [1, 3, 32, 32], noise(3072, seed));
      const feeds = /no_io_shape/.test(name) ? new Map([['input.1', image]]) : randomFeeds(original, makeRng(seed));
      const [expected, found] = [await want.run(feeds), await session.run(feeds)];
      for (const [key, values] of expected) {
        const [a, b] = [arrayNumbers(values), arrayNumbers(found.get(key) as typeof values)];
        const scale = a.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
        expectClose(b, a, 1e-5 * scale);
      }
    }
    await want.release();
  } finally {
    await session.release();
  }
}
