import { describe, expect, it } from 'vitest';
import { parseBudget } from '../../src/planner/budget.ts';

describe('parseBudget', () => {
  it('reads what the help shows', () => {
    expect(parseBudget('relus=50%')).toMatchObject({ relus: { share: 0.5 } });
    expect(parseBudget('relus=20000, depth=40')).toMatchObject({ relus: { elements: 20000 }, depth: 40 });
    expect(parseBudget('sites=8,accuracy=0.5%')).toMatchObject({ sites: 8, accuracy: 0.005 });
    expect(parseBudget('relus=0')).toMatchObject({ relus: { elements: 0 } });
  });

  it.each([
    ['', /unknown key ''/],
    ['relu=5', /did you mean 'relus'/],
    ['relus', /relus='' is no number/],
    ['relus=half', /'half' is no number/],
    ['relus=-1', /is no number/],
    ['relus=1e3', /is no number/],
    ['relus=120%', /above 100%/],
    ['relus=2.5', /whole number/],
    ['depth=50%', /not a share/],
    ['sites=1,sites=2', /given twice/],
    ['accuracy=0.5', /accuracy=0.5%/],
    ['relus=50%,', /unknown key/],
  ])('%s is refused in one line', (text, message) => {
    expect(() => parseBudget(text)).toThrow(message);
    expect(() => parseBudget(text)).toThrow(expect.objectContaining({ code: 'usage' }));
  });
});
