import { describe, expect, it } from 'vitest';
import { authorsSpace, specSpace } from '../../src/search/families.ts';

const options = { families: ['deg=*,a=*'], degrees: [2, 3, 4], range: [0.5, 50] as const };
const different = () => false;

describe('families of specs', () => {
  it('have a choice for each degree, and ranges on a logarithmic scale', () => {
    const { space, spec } = specSpace(options, different);
    expect(space).toMatchObject({ choices: [[0], [0.5], [1]], free: 1 });
    expect([0, 0.5, 1].map((u) => spec({ choice: 1, at: [u] }))).toEqual(['deg=3,a=0.5', 'deg=3,a=5', 'deg=3,a=50']);
  });

  it('leave out degrees that make equal polynomials', () => {
    const { space, spec } = specSpace(options, (a, b) => a.replace('deg=3', 'deg=2') === b.replace('deg=3', 'deg=2'));
    expect(space.choices).toHaveLength(2);
    expect(spec({ choice: 1, at: [0] })).toBe('deg=4,a=0.5');
  });

  it('may be several, with stars or without', () => {
    const families = ['deg=*,a=data,margin=*', 'quad', 'deg=4,a=*,fit=minimax'];
    const { space, spec } = specSpace({ ...options, families, range: [0.5, 2] }, different);
    expect(space.choices).toHaveLength(5);
    expect(space.choices[3]?.slice(0, 3)).toEqual([0, 1, 0]);
    expect([0, 3, 4].map((choice) => spec({ choice, at: [0.5] }))).toEqual([
      'deg=2,a=data,margin=1',
      'quad',
      'deg=4,a=1,fit=minimax',
    ]);
  });

  it.each([
    ['deg=*,a=*,dx=*', /a=\* and dx=\*/],
    ['deg=4,a=*5', /stands for a number/],
    ['deg=4,b=*', /unknown key/],
    ['dog=4,a=*', /unknown key 'dog'/],
  ])('%s is refused', (family, message) => {
    expect(() => specSpace({ ...options, families: [family] }, different)).toThrow(message);
  });

  it('of the authors have a degree that is rounded half to even', () => {
    const { space, spec } = authorsSpace({ ...options, degrees: [1, 9] });
    expect(space).toEqual({ choices: [[]], free: 2, units: [[1, 9], options.range] });
    expect([0, 1.5 / 8, 2.5 / 8 + 1e-3, 1].map((u) => spec({ choice: 0, at: [u, 0] }))).toEqual([
      'deg=1,a=0.5',
      'deg=2,a=0.5',
      'deg=4,a=0.5',
      'deg=9,a=0.5',
    ]);
    expect(() => authorsSpace({ ...options, families: ['quad'] })).toThrow('deg=*');
  });
});
