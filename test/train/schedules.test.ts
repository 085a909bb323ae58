import { describe, expect, it } from 'vitest';
import { parseSchedule, rateAt } from '../../src/train/schedules.ts';

const rates = (text: string, epochs: number) =>
  Array.from({ length: epochs }, (_, epoch) => rateAt(parseSchedule(text), epoch, epochs));

describe('schedules', () => {
  it('cosine: that of the paper’s authors, lr_t = (1 + cos(pi t / 50)) / 2', () => {
    const found = rates('cosine', 50);
    for (const [t, rate] of found.entries()) expect(rate).toBeCloseTo((1 + Math.cos((Math.PI * t) / 50)) / 2, 12);
    expect(rateAt(parseSchedule('cosine'), 50, 50)).toBeCloseTo(0, 12);
    expect(rateAt(parseSchedule('cosine,floor=0.01'), 50, 50)).toBeCloseTo(0.01, 12);
  });

  it('step and constant', () => {
    expect(rates('step', 4)).toEqual([1, 1, 0.1, 0.1 ** 2]);
    expect(rates('step,at=0.25,factor=0.5', 4)).toEqual([1, 0.5, 0.5, 0.5]);
    expect(rates('constant', 3)).toEqual([1, 1, 1]);
  });

  it.each(['linear', 'cosine,at=0.5', 'step,factor=2', 'step,at=', 'constant,floor=0', 'step,at=0.5:x'])(
    'refuses %s',
    (text) => {
      expect(() => parseSchedule(text)).toThrow(`--schedule '${text}'`);
    },
  );
});
