import { describe, expect, it } from 'vitest';
import { makeRng } from '../../src/rng.ts';
import { likeness } from '../../src/search/evaluator.ts';

const rng = makeRng(3);
const rows = Array.from({ length: 201 }, () => Array.from({ length: 10 }, () => rng.normal()));

describe('the likeness of logits', () => {
  it('is 1 whatever scale and offset of the classes', () => {
    const other = rows.map((row) => row.map((value, c) => 1e-3 * value + 7 * c));
    expect(likeness(other, rows)).toBeCloseTo(1, 9);
    expect(likeness(other.slice(0, 51), other)).toBeCloseTo(1, 9);
    expect(
      likeness(
        rows.map((row) => row.map((value) => -value)),
        rows,
      ),
    ).toBeCloseTo(-1, 9);
  });

  it('is 0 where the logits say nothing of the image, or nothing of the kind', () => {
    const constant = rows.map(() => Array.from({ length: 10 }, (_, c) => c));
    expect(likeness(constant, rows)).toBe(0);
    expect(Math.abs(likeness([...rows].reverse(), rows))).toBeLessThan(0.1);
    expect(likeness([], rows)).toBe(0);
  });

  it('counts rows that are not finite as 0, and no more', () => {
    const broken = rows.map((row, i) => (i % 3 === 0 ? row.map(() => (i % 2 === 0 ? Number.NaN : 1 / 0)) : row));
    expect(likeness(broken, rows)).toBeGreaterThan(0.6);
    expect(likeness(broken, rows)).toBeLessThan(2 / 3 + 1e-9);
  });
});
