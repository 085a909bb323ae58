/** What private inference would pay for models, as rows of a table. */
import type { ModelSummary } from '../inspect.ts';
import { GARBLED_RELU_BYTES } from '../pi-cost.ts';
import { bytes, thousands } from './output.ts';

type Counted = Pick<ModelSummary, 'depth' | 'multiplications' | 'poolComparisons' | 'privateInference'>;

/** A name and one cell for each model; rows that are 0 for all models and say nothing by that are left out. */
export function piRows(models: readonly Counted[]): string[][] {
  const row = (name: string, count: (model: Counted) => number | null, text = thousands) => {
    const counts = models.map(count);
    return { counts, cells: [name, ...counts.map((value) => (value === null ? '?' : text(value)))] };
  };
  const optional = [
    row('elements of other activations', ({ privateInference }) => privateInference.otherElements),
    row('comparisons of max pools', ({ poolComparisons }) => poolComparisons),
  ].filter(({ counts }) => counts.some((count) => count !== 0));
  return [
    row('ReLU elements', ({ privateInference }) => privateInference.reluElements),
    row('garbled circuits of the ReLUs', ({ privateInference }) => privateInference.garbledBytes, bytes),
    ...optional,
    row('multiplicative depth', ({ depth }) => depth),
    row('multiplications of ciphertexts', ({ multiplications }) => multiplications.ciphertext),
    row('multiplications by plaintexts', ({ multiplications }) => multiplications.plaintext),
  ].map(({ cells }) => cells);
}

/** What the rows assume, in lines. */
export const PI_ASSUMPTIONS: readonly string[] = [
  'For one input. Garbled circuits: ' +
    `${GARBLED_RELU_BYTES / 1000} KB (1 KB = 1000 bytes) for each ReLU element, as the literature quotes it for DELPHI`,
  '(USENIX Security 2020; its implementation measures 18.2 KB, Garimella et al., ASPLOS 2023). ReLU stands for ReLU, Clip',
  'from 0, LeakyReLU and PReLU; other activations and max pools need circuits too, which are not in the figure.',
  'Multiplications are of scalars, before any are packed into ciphertexts: of two values that depend on the input',
  '(ciphertexts), or of one by a weight or constant (plaintext). Depth counts both kinds.',
];
