/** A search as charts and as a page. */
import type { SearchCandidate, SearchReport } from '../search/search.ts';
import { lossChart } from './charts.ts';
import { htmlReport } from './html.ts';
import type { Chart } from './svg.ts';

const percent = (share: number): number => Number((100 * share).toFixed(2));

/** What stands before the range: candidates of one family and degree lie on a curve. */
const curveOf = ({ spec }: SearchCandidate): string =>
  spec
    .split(',')
    .filter((entry) => !/^(a|margin|dx|mean|std)=[\d.]/.test(entry))
    .join(',');
const placeOf = ({ spec }: SearchCandidate): number =>
  Number(/(?:^|,)(?:a|margin|dx|mean|std)=([\d.e+-]+)/.exec(spec)?.[1] ?? Number.NaN);

/** The objective over the space that was searched: a curve for each degree, along the range. */
export function searchChart({ candidates, objective }: SearchReport): Chart {
  const curves = new Map<string, SearchCandidate[]>();
  for (const candidate of candidates) {
    const own = curves.get(curveOf(candidate)) ?? [];
    if (candidate.same === null) own.push(candidate);
    curves.set(curveOf(candidate), own);
  }
  const series = [...curves].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }));
  return lossChart(
    series.map(([name, own]) => ({
      name,
      points: own.map((each) => ({ x: Math.log10(placeOf(each)), y: percent(each.value) })).sort((a, b) => a.x - b.x),
    })),
    { x: 'log10 of the range', y: `${objective}, %` },
  );
}

/** The best that was known after each candidate. */
function traceChart({ candidates, objective }: SearchReport): Chart {
  let best = 0;
  return lossChart(
    [
      { name: 'tried', points: candidates.map(({ number, value }) => ({ x: number, y: percent(value) })) },
      {
        name: 'best so far',
        points: candidates.map(({ number, value }) => {
          best = Math.max(best, value);
          return { x: number, y: percent(best) };
        }),
      },
    ],
    { x: 'candidate', y: `${objective}, %` },
  );
}

export function searchPage(report: SearchReport): Promise<string> {
  const { model, data, split, images, best, original, candidates, test, strategy, seconds, specs, value } = report;
  const result = test ?? null;
  const lost = result ? result.before.top1 - result.after.top1 : original - value;
  return htmlReport({
    title: `Search for ${model}`,
    subtitle: `${data} (${split}), ${images} images; ${strategy}`,
    sections: [
      {
        heading: 'Result',
        verdict: {
          level: lost > 0.1 ? 'bad' : lost > 0.03 ? 'warning' : 'good',
          text: `${best.spec}: ${percent(best.value)} %, the network as it is ${percent(original)} %.`,
        },
        text: [
          ...(specs.length > 1 ? [`By layer: ${percent(value)} % with ${specs.slice(1).join('; ')}.`] : []),
          ...(result
            ? [
                `Test split: ${percent(result.after.top1)} % (${result.after.nonFinite} images not finite), the network as it is ${percent(result.before.top1)} %.`,
              ]
            : []),
          `${candidates.filter(({ same }) => same === null).length} polynomials in ${seconds.toFixed(0)} seconds.`,
        ],
      },
      {
        heading: 'Search',
        charts: [
          { title: 'Objective over degree and range', spec: searchChart(report) },
          { title: 'Candidate by candidate', spec: traceChart(report) },
        ],
        table: {
          head: [
            'number',
            'polynomial',
            'objective %',
            'images',
            'accuracy %',
            'of the finite %',
            'not finite',
            'same as',
          ],
          rows: candidates.map((each) => [
            each.number,
            each.spec,
            percent(each.value),
            each.images,
            percent(each.accuracy),
            each.finiteAccuracy === null ? null : percent(each.finiteAccuracy),
            each.nonFinite,
            each.same,
          ]),
        },
      },
    ],
  });
}
