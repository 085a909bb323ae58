import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { affineOf, formatNormalize, NORMALIZE_PRESETS, parseNormalize } from '../../src/data/normalize.ts';
import { SisyphusError } from '../../src/errors.ts';

describe('parseNormalize', () => {
  it.each([
    ['raw', { scale: 1, mean: [], std: [] }],
    ['scale=1/255', { scale: 1 / 255, mean: [], std: [] }],
    ['scale=0.5', { scale: 0.5, mean: [], std: [] }],
    ['mean=0.1,std=0.2', { scale: null, mean: [0.1], std: [0.2] }],
    ['mean=.1,.2,.3,std=.4,.5,.6', { scale: null, mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.6] }],
    ['mean=.1:.2:.3,std=.4:.5:.6', { scale: null, mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.6] }],
    [' std=.4, .5 , .6 ', { scale: null, mean: [], std: [0.4, 0.5, 0.6] }],
    ['scale=1/128,mean=1', { scale: 1 / 128, mean: [1], std: [] }],
    ['cifar10', { scale: null, mean: [0.4914, 0.4822, 0.4465], std: [0.247, 0.2435, 0.2616] }],
  ])('%s', (text, expected) => expect(parseNormalize(text)).toEqual(expected));

  it.each([
    ['', 'no such preset'],
    ['cifar11', "did you mean 'cifar10'"],
    ['mean', 'no such preset'],
    ['mean=', "'' is not a number"],
    ['mean=a', "'a' is not a number"],
    ['mean=1/0', 'is not a number'],
    ['mean=1,mean=2', "'mean' is given twice"],
    ['men=1', "did you mean 'mean'"],
    ['scale=1,2', 'scale takes one number'],
    ['scale=0', 'every input equal'],
    ['std=0', 'every std must be above 0'],
    ['std=1,-1', 'every std must be above 0'],
    ['mean=1,2,std=1,2,3', 'mean has 2 numbers and std 3'],
    ['1,mean=1', "'1' is not a number"],
  ])('refuses %s', (text, message) => {
    expect(() => parseNormalize(text)).toThrow(SisyphusError);
    expect(() => parseNormalize(text)).toThrow(message);
  });

  it('prints what parses back', () => {
    const number = fc.double({ min: 1e-3, max: 1e3, noNaN: true });
    const spec = fc.record({
      scale: fc.option(number),
      mean: fc.array(number, { maxLength: 1 }),
      std: fc.array(number, { maxLength: 1 }),
    });
    fc.assert(
      fc.property(spec, (given) => {
        const back = parseNormalize(formatNormalize(given));
        // Nothing at all means 0..1, which is what it prints.
        const same =
          given.scale === null && given.mean.length + given.std.length === 0 ? { ...given, scale: 1 / 255 } : given;
        expect(back).toEqual(same);
      }),
    );
    for (const preset of NORMALIZE_PRESETS.values()) expect(parseNormalize(formatNormalize(preset))).toEqual(preset);
  });
});

it('is y = (scale x - mean) / std', () => {
  const { factor, offset } = affineOf(parseNormalize('mean=.1,.2,std=.5,.25'), 2, true);
  for (const [c, mean, std] of [
    [0, 0.1, 0.5],
    [1, 0.2, 0.25],
  ] as const)
    for (const x of [0, 1, 128, 255])
      expect((factor[c] as number) * x + (offset[c] as number)).toBeCloseTo((x / 255 - mean) / std, 12);
  expect([...affineOf(parseNormalize('mean=1'), 1, false).factor]).toEqual([1]);
  expect([...affineOf(parseNormalize('raw'), 1, true).factor]).toEqual([1]);
});
