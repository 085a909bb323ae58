import type { Command } from 'commander';
import type { EncryptEvalReport } from '../encrypt/encrypt-eval.ts';
import { SisyphusError } from '../errors.ts';
import { VERSION } from '../version.ts';
import { positiveNumber } from './options.ts';
import { bytes, type CommonOptions, dim, makeOutput, type Streams, shortNumber, table, thousands } from './output.ts';
import { addRunOptions, type RunFlags, runOptions } from './run-options.ts';

interface Flags extends CommonOptions, RunFlags {
  readonly tolerance?: number;
}

export function encryptEvalCommand(program: Command, streams: Streams, signal: AbortSignal): void {
  const command = program
    .command('encrypt-eval')
    .summary('run a polynomial model on encrypted images')
    .description(
      'Runs a chain of linear layers and polynomials under CKKS (Microsoft SEAL, 128-bit security) on the first --limit images, and compares with onnxruntime in the clear. Needs node-seal. It ends with 3 where a class differs or an error exceeds the tolerance.',
    )
    .argument('<model>', 'ONNX file');
  addRunOptions(command)
    .option('--tolerance <x>', 'largest error of a logit (default: 1e-3)', positiveNumber('--tolerance'))
    .action(async (file: string, flags: Flags) => {
      const output = makeOutput(streams, flags);
      output.say(dim(`sisyphus ${VERSION} encrypt-eval ${file} · ${flags.data} ${flags.split ?? 'test'}`));
      const [{ encryptEval }, { showProgress }] = await Promise.all([
        import('../encrypt/encrypt-eval.ts'),
        import('./progress.ts'),
      ]);
      const progress = showProgress(streams, flags);
      const report = await encryptEval(file, {
        ...runOptions(flags, signal, progress.onProgress),
        ...(flags.tolerance !== undefined && { tolerance: flags.tolerance }),
      }).finally(progress.stop);
      for (const note of report.notes) output.say(`  ${note}`);
      output.result(table(['', ''], rows(report), true));
      if (flags.verbose)
        output.say(
          table(
            ['step', 's'],
            report.seconds.steps.map(({ name, seconds }) => [name, seconds.toFixed(3)]),
            true,
          ),
        );
      output.say(
        dim(
          '  decrypted CKKS results must not go to whoever evaluates without noise flooding (Li, Micciancio, EUROCRYPT 2021)',
        ),
      );
      output.finish(report);
      if (!report.passed)
        throw new SisyphusError(
          'gate',
          `${file}: ${report.agreement < 1 ? 'classes differ' : `the error ${shortNumber(report.maxError)} is beyond the tolerance ${report.tolerance}`}${report.maxError > 0.01 * report.largestLogit ? '; the last ciphertext may have overflowed: logits are larger on these images than on those that the parameters were chosen for' : ''}`,
        );
    });
}

function rows(report: EncryptEvalReport): string[][] {
  const { parameters, seconds, bytes: sizes, top1 } = report;
  const sorted = [...seconds.perImage].sort((a, b) => a - b);
  return [
    ['images', thousands(report.images)],
    ['same class as in the clear', `${(100 * report.agreement).toFixed(2)} %`],
    ...(top1
      ? [
          [
            'right, encrypted and in the clear',
            `${(100 * top1.encrypted).toFixed(2)} % and ${(100 * top1.clear).toFixed(2)} %`,
          ],
        ]
      : []),
    ['largest error of a logit', shortNumber(report.maxError)],
    [
      'of that by encryption',
      `${shortNumber(report.encryptionError)} (expected at most ${shortNumber(report.expectedError)})`,
    ],
    ['largest logit', shortNumber(report.largestLogit)],
    ['levels', String(report.levels)],
    [
      'ring degree, modulus',
      `${thousands(parameters.degree)}, ${parameters.totalBits} bits: ${shortBits(parameters.bits)}`,
    ],
    ['security', `${parameters.security} bits (${parameters.library})`],
    ['rotations, products with diagonals', `${thousands(report.rotations)}, ${thousands(report.products)}`],
    [
      'seconds for an image, first and median',
      `${(seconds.perImage[0] ?? 0).toFixed(2)}, ${(sorted[Math.floor(sorted.length / 2)] ?? 0).toFixed(2)}`,
    ],
    ['seconds for maps and for keys', `${seconds.program.toFixed(2)}, ${seconds.keys.toFixed(2)}`],
    ['ciphertext in, out', `${bytes(sizes.input)}, ${bytes(sizes.output)}`],
    [
      'keys: public, products, rotations',
      [sizes.publicKey, sizes.relinearizationKey, sizes.rotationKeys].map(bytes).join(', '),
    ],
  ];
}

/** 44 3x38 60 */
function shortBits(bits: readonly number[]): string {
  const [first, second, ...rest] = bits;
  return [first, `${rest.length}x${second}`, rest.at(-1)].join(' ');
}
