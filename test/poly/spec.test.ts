import { describe, expect, it } from 'vitest';
import { formatSpec, globMatcher, parseSiteSpec, parseSpec } from '../../src/poly/spec.ts';

describe('specs', () => {
  it.each([
    ['deg=4,a=5', { glob: null, spec: { kind: 'fit', degree: 4, range: 5 } }],
    ['a=0.5,deg=2', { glob: null, spec: { kind: 'fit', degree: 2, range: 0.5 } }],
    ['deg=4,a=5,dx=1e-3', { glob: null, spec: { kind: 'fit', degree: 4, range: 5, dx: 1e-3 } }],
    ['deg=4,a=5,fit=lsq', { glob: null, spec: { kind: 'fit', degree: 4, range: 5 } }],
    ['taylor', { glob: null, spec: { kind: 'taylor' } }],
    ['quad', { glob: null, spec: { kind: 'quad' } }],
    ['coeffs=0.2:0.5:0.25:0', { glob: null, spec: { kind: 'coefficients', values: [0.2, 0.5, 0.25] } }],
    ['conv1/*=deg=6,a=10', { glob: 'conv1/*', spec: { kind: 'fit', degree: 6, range: 10 } }],
    ['a=b=quad', { glob: 'a=b', spec: { kind: 'quad' } }],
    ['*=coeffs=0:1', { glob: '*', spec: { kind: 'coefficients', values: [0, 1] } }],
  ])('%s', (text, expected) => {
    expect(parseSiteSpec(text)).toEqual(expected);
    expect(parseSpec(formatSpec(parseSiteSpec(text).spec))).toEqual(expected.spec);
  });

  it.each([
    ['deg=4', 'a fit takes both deg= and a= (deg=4,a=5)'],
    ['deg=4.5,a=5', 'deg=4.5 must be a whole number from 1 to 32'],
    ['deg=0,a=5', 'deg=0 must be a whole number from 1 to 32'],
    ['deg=99,a=5', 'deg=99 must be a whole number from 1 to 32'],
    ['deg=4,a=-5', 'a=-5 must be above 0: the range is [-a, a]'],
    ['deg=4,a=x', "a='x' is not a finite number"],
    ['deg=4,a=', "a='' is not a finite number"],
    ['deg=4,a=Infinity', "a='Infinity' is not a finite number"],
    ['deg=4,deg=5', "'deg' is given twice"],
    ['deg=4,aa=5', "unknown key 'aa'; did you mean 'a'?"],
    ['deg=4,a=5,fit=lsk', "unknown fit 'lsk'; did you mean 'lsq'?"],
    ['tailor', "'tailor' is no polynomial; did you mean 'taylor'?"],
    ['coeffs=5', 'a constant would cut the network off from its input; give c0:c1 at least'],
    ['coeffs=1:x', "'x' is not a finite number (c0:c1:c2, constant first)"],
    ['coeffs=0:1,a=5', 'coeffs= stands alone'],
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
