/**
 * One option for each of several items at the least total cost within limits: the dynamic programme that OLA (Lee et al.
 * 2023, arXiv 2310.10349) chooses degrees by, a multiple-choice knapsack.
 */

export interface Option {
  /** Finite and not negative. */
  readonly cost: number;
  /** What it takes of each resource: whole numbers, not negative. */
  readonly uses: readonly number[];
}

/** Cells of the table at most, over all resources. */
const MOST_CELLS = 400_000;

/**
 * Exact where the uses, divided by their greatest common divisor, are few enough for the table; beyond that they are
 * rounded up, so that the limits are kept all the same.
 * @param limits of each resource
 * @returns the index of the option for each item, which take the least among equals; null where nothing is within the
 * limits
 */
export function cheapestWithin(items: readonly (readonly Option[])[], limits: readonly number[]): number[] | null {
  if (limits.some((limit) => limit < 0)) return null;
  // A limit that nothing can reach is none.
  const tight = limits.flatMap((limit, r) => (limit < mostUsed(items, r) ? [{ limit, r }] : []));
  const units = chooseUnits(tight.map(({ limit, r }) => ({ limit, unit: commonUnit(items, r) })));
  const sizes = tight.map(({ limit }, t) => Math.floor(limit / (units[t] as number)) + 1);
  const stepsOf = ({ uses }: Option) => tight.map(({ r }, t) => Math.ceil((uses[r] ?? 0) / (units[t] as number)));
  const strides = sizes.map((_, r) => sizes.slice(0, r).reduce((a, b) => a * b, 1));
  const cells = sizes.reduce((a, b) => a * b, 1);

  let best = new Float64Array(cells).fill(Number.POSITIVE_INFINITY);
  best[0] = 0;
  const taken: Uint8Array[] = [];
  for (const options of items) {
    const next = new Float64Array(cells).fill(Number.POSITIVE_INFINITY);
    const choice = new Uint8Array(cells);
    for (const [index, option] of options.entries()) {
      const { cost } = option;
      const steps = stepsOf(option);
      const shift = steps.reduce((sum, step, r) => sum + step * (strides[r] as number), 0);
      for (let cell = 0; cell < cells; cell++) {
        const before = best[cell] as number;
        if (before === Number.POSITIVE_INFINITY || !fits(cell, steps, sizes, strides)) continue;
        if (before + cost < (next[cell + shift] as number)) {
          next[cell + shift] = before + cost;
          choice[cell + shift] = index;
        }
      }
    }
    best = next;
    taken.push(choice);
  }
  let cell = best.reduce((least, cost, at) => (cost < (best[least] as number) ? at : least), 0);
  if (best[cell] === Number.POSITIVE_INFINITY) return null;
  const chosen: number[] = [];
  for (const [back, choice] of taken.toReversed().entries()) {
    const index = choice[cell] as number;
    chosen.unshift(index);
    const option = items[items.length - 1 - back]?.[index];
    for (const [t, step] of (option ? stepsOf(option) : []).entries()) cell -= step * (strides[t] as number);
  }
  return chosen;
}

function fits(cell: number, steps: readonly number[], sizes: readonly number[], strides: readonly number[]): boolean {
  for (let r = 0; r < steps.length; r++) {
    const at = Math.floor(cell / (strides[r] as number)) % (sizes[r] as number);
    if (at + (steps[r] as number) >= (sizes[r] as number)) return false;
  }
  return true;
}

const mostUsed = (items: readonly (readonly Option[])[], r: number): number =>
  items.reduce((sum, options) => sum + options.reduce((most, { uses }) => Math.max(most, uses[r] ?? 0), 0), 0);

/** The greatest common divisor of what is used: sums are multiples of it. */
const commonUnit = (items: readonly (readonly Option[])[], r: number): number =>
  items.flat().reduce((unit, { uses }) => gcd(unit, uses[r] ?? 0), 0) || 1;

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/** Doubles units, that of the resource with the most cells first, until the table is small enough. */
function chooseUnits(resources: readonly { readonly limit: number; readonly unit: number }[]): number[] {
  const units = resources.map(({ unit }) => unit);
  for (;;) {
    const cells = resources.map(({ limit }, t) => Math.floor(limit / (units[t] as number)) + 1);
    if (cells.reduce((a, b) => a * b, 1) <= MOST_CELLS) return units;
    const largest = cells.indexOf(Math.max(...cells));
    units[largest] = 2 * (units[largest] as number);
  }
}
