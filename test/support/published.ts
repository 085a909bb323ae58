/** Lee et al. 2021 (arXiv 2105.10879): largest error of their ReLU on [-1, 1], times 2^alpha, by alpha. */
export const COMPOSITE_ERRORS: readonly (readonly [number, number])[] = [
  [4, 1.22],
  [5, 1.1],
  [6, 0.97],
  [7, 0.97],
  [8, 0.98],
  [9, 1],
  [10, 0.92],
  [11, 0.97],
  [12, 0.94],
  [13, 0.94],
  [14, 0.99],
];
