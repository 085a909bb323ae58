import { describe, expect, it } from 'vitest';
import type { Recipe } from '../../src/poly/recipe.ts';
import { formatSpec, globMatcher, parseSiteSpec, parseSpec } from '../../src/poly/spec.ts';

const lsq = (degree: number, on: [number, number] | object, more: object = {}) =>
  ({ kind: 'fit', fit: 'lsq', degree, on, ...more }) as Recipe;
const density = (fit: string, degree: number, on: object, more: object = {}) =>
  ({ kind: 'density', fit, degree, on, ...more }) as Recipe;
const fixed = (...coefficients: number[]): Recipe => ({
  kind: 'fixed',
  polynomial: { stages: [{ basis: 'power', coefficients }], gated: false },
});

describe('specs', () => {
  it.each<[string, string | null, Recipe]>([
    ['deg=4,a=5', null, lsq(4, [-5, 5])],
    ['a=0.5,deg=2', null, lsq(2, [-0.5, 0.5])],
    ['deg=4,a=-3:5', null, lsq(4, [-3, 5])],
    ['deg=4,a=5,dx=1e-3', null, lsq(4, [-5, 5], { dx: 1e-3 })],
    ['deg=4,a=5,fit=lsq', null, lsq(4, [-5, 5])],
    ['deg=4,a=5,fit=minimax', null, { ...lsq(4, [-5, 5]), fit: 'minimax' } as Recipe],
    [
      'deg=2,a=4,fit=minimax,round=pow2',
      null,
      { ...lsq(2, [-4, 4], { rounding: { to: 'powers-of-two' } }), fit: 'minimax' } as Recipe,
    ],
    ['deg=4,a=5,round=8', null, lsq(4, [-5, 5], { rounding: { to: 'fixed-point', bits: 8 } })],
    [
      'deg=3,a=2,fit=derivative,weight=chebyshev',
      null,
      { ...lsq(3, [-2, 2], { weight: 'chebyshev' }), fit: 'derivative' } as Recipe,
    ],
    ['deg=4,a=stats.json', null, lsq(4, { from: 'stats.json', margin: 1 })],
    ['deg=4,a=data,margin=1.5,per=channel', null, lsq(4, { from: 'data', margin: 1.5 }, { perChannel: true })],
    ['deg=2,fit=gaussian', null, density('gaussian', 2, { mean: 0, std: 1 })],
    ['deg=2,fit=gaussian,mean=-0.5,std=2', null, density('gaussian', 2, { mean: -0.5, std: 2 })],
    [
      'deg=2,fit=gaussian,a=s.json,per=channel',
      null,
      density('gaussian', 2, { from: 's.json', margin: 1 }, { perChannel: true }),
    ],
    ['deg=4,fit=measured,a=data', null, density('measured', 4, { from: 'data', margin: 1 })],
    ['taylor', null, { kind: 'taylor', degree: 1 }],
    ['quad', null, fixed(0, 0, 1)],
    ['coeffs=0.2:0.5:0.25:0', null, fixed(0.2, 0.5, 0.25)],
    ['conv1/*=deg=6,a=10', 'conv1/*', lsq(6, [-10, 10])],
    ['a=b=quad', 'a=b', fixed(0, 0, 1)],
    ['*=coeffs=0:1', '*', fixed(0, 1)],
    ['relu*=preset=secureml', 'relu*', fixed(0, 0, 1)],
    ['preset=taylor', null, { kind: 'taylor', degree: 1 }],
  ])('%s', (text, glob, recipe) => {
    const parsed = parseSiteSpec(text);
    expect(parsed.glob).toBe(glob);
    expect(parsed.spec.recipe).toEqual(recipe);
    expect(parseSpec(formatSpec(parsed.spec)).recipe).toEqual(recipe);
  });

  it.each([
    ['deg=4', 'a fit takes both deg= and a= (deg=4,a=5)'],
    ['deg=4.5,a=5', 'deg=4.5 must be a whole number from 1 to 32'],
    ['deg=0,a=5', 'deg=0 must be a whole number from 1 to 32'],
    ['deg=99,a=5', 'deg=99 must be a whole number from 1 to 32'],
    ['deg=4,a=-5', 'a=-5 must be above 0: the range is [-a, a]'],
    ['deg=4,a=5:-3', 'a=5:-3 must be low:high'],
    ['deg=4,a=x', "a='x' is not a finite number"],
    ['deg=4,a=', "a='' is not a finite number"],
    ['deg=4,a=Infinity', "a='Infinity' is not a finite number"],
    ['deg=4,a=5,margin=2', 'margin= means nothing with a=5'],
    ['deg=4,deg=5', "'deg' is given twice"],
    ['deg=4,aa=5', "unknown key 'aa'; did you mean 'a'?"],
    ['deg=4,a=5,fit=lsk', "unknown fit 'lsk'; did you mean 'lsq'?"],
    ['deg=4,a=5,fit=minimax,dx=1', 'dx= means nothing with fit=minimax'],
    ['deg=4,a=5,fit=gaussian', 'fit=gaussian takes mean= and std=, or the statistics of a file'],
    ['deg=4,fit=measured', 'fit=measured takes the statistics of a file'],
    ['deg=4,a=5,per=channel', 'per=channel takes the statistics of a file'],
    ['deg=4,a=5,fit=minimax,round=8', 'round=8 chooses coefficients by least squares, so fit=minimax would be lost'],
    ['deg=4,fit=gaussian,std=1e-300', 'std= between 1e-6 and 1e6'],
    ['deg=4,a=5,round=0', 'round=0 must be a whole number from 1 to 30'],
    ['tailor', "'tailor' is no polynomial; did you mean 'taylor'?"],
    ['coeffs=5', 'a constant would cut the network off from its input; give c0:c1 at least'],
    ['coeffs=1:x', "'x' is not a finite number (c0:c1:c2, constant first)"],
    ['coeffs=0:1,a=5', 'coeffs= stands alone'],
    ['preset=cryptonet', "unknown preset 'cryptonet'; did you mean 'cryptonets'?"],
    ['preset=cryptonets,deg=3', "unknown key 'deg'"],
    ['preset=precise,alpha=15', 'alpha=15 must be a whole number from 4 to 14'],
    ['preset=precise,B=-3:5', 'a composite works on [-B, B]: give one number'],
    ['preset=polyfit,publised', "'publised' means nothing to polyfit; did you mean 'published'?"],
    ['preset=polyfit,deg=8,published', 'there are no published digits for deg=8 (2 to 6)'],
    ['preset=faster-cryptonets,fn=swish,a=3', 'a= means nothing with fn=swish'],
  ])('%s is refused: %s', (text, message) => {
    expect(() => parseSiteSpec(text)).toThrow(message);
  });
});

describe('globs', () => {
  it.each([
    ['*', 'a/b', true],
    ['conv1/*', 'conv1/relu/out', true],
    ['conv1/*', 'conv10', false],
    ['relu?', 'relu1', true],
    ['relu?', 'relu10', false],
    ['/layer1.0/*', '/layer1.0/relu', true],
    ['/layer1.0/*', '/layer1x0/relu', false],
    ['a+b(c)', 'a+b(c)', true],
    ['*a*b', 'xaab', true],
    ['*a*b', 'xaabc', false],
    ['relu[12]', 'relu[12]', true],
    ['', '', true],
    [`${'*a'.repeat(30)}b`, 'a'.repeat(3000), false],
  ])('%s on %s', (glob, name, expected) => expect(globMatcher(glob)(name)).toBe(expected));
});
