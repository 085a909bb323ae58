/** The report of a QuaIL run as a page. */
import type { QuailReport } from '../train/quail/quail.ts';
import { lossChart } from './charts.ts';
import { htmlReport, type Section } from './html.ts';
import { maxima } from './pages.ts';

const percent = (share: number): string => (100 * share).toFixed(2);

/** Loss by stage, accuracy over the stages, the largest activations, and what was done. */
export function quailPage(report: QuailReport): Promise<string> {
  const { model, settings, stages, stopped, teacherAccuracy, testAccuracy, nonFinite, mm, probe, seconds } = report;
  const accuracy = stages.map((stage, i) => ({ ...stage, x: i + 1 }));
  const line = (name: string, points: { x: number; y: number }[]) => ({ name, points });
  const sections: Section[] = [
    {
      heading: 'Result',
      verdict: stopped
        ? { level: 'bad', text: `Stopped in ${stopped.phase}: ${stopped.reason}` }
        : {
            level: nonFinite > 0 || testAccuracy < teacherAccuracy - 0.05 ? 'warning' : 'good',
            text: `${percent(testAccuracy)} % of the test split, the teacher ${percent(teacherAccuracy)} %; ${nonFinite} images with outputs that are not finite.`,
          },
      text: [
        ...(mm ? [`With true min-max normalisation, in batches of 100: ${percent(mm.testAccuracy)} %.`] : []),
        `${settings.poly.join(', ')}; ${settings.epochs} epochs a stage, ${settings.finetuneEpochs} a step of fine-tuning; ${settings.optimizer}, rate ${settings.lr}, seed ${settings.seed}; ${(seconds / 60).toFixed(1)} minutes.`,
      ],
    },
    {
      heading: 'Accuracy from stage to stage',
      charts: [
        {
          title: 'Test accuracy after each stage',
          caption:
            'Imitation from the first stage to the last, with the teacher’s own layers behind; then fine-tuning from the last to the first.',
          spec: lossChart(
            [
              line(
                'QuaIL',
                accuracy.map(({ x, testAccuracy: y }) => ({ x, y: 100 * y })),
              ),
              line(
                'teacher',
                accuracy.map(({ x }) => ({ x, y: 100 * teacherAccuracy })),
              ),
            ],
            { x: 'stage of the run', y: 'test accuracy, %' },
          ),
        },
      ],
      table: {
        head: [
          'stage',
          'phase',
          'number',
          'epochs',
          'rate',
          'loss before',
          'loss after',
          'test %',
          'not finite',
          'seconds',
          'values',
          'notes',
        ],
        rows: stages.map((stage) => [
          stage.name,
          stage.phase,
          stage.stage,
          stage.epochs,
          Number(stage.lr.toPrecision(3)),
          stage.start === null ? null : Number(stage.start.toPrecision(4)),
          stage.loss === null ? null : Number(stage.loss.toPrecision(4)),
          percent(stage.testAccuracy),
          stage.nonFinite,
          Number(stage.seconds.toFixed(1)),
          stage.values,
          stage.notes.join('; '),
        ]),
      },
    },
    ...(['imitation', 'finetuning'] as const).flatMap((phase) => lossSection(report, phase)),
  ];
  if (probe)
    sections.splice(1, 0, {
      heading: 'Largest activation after each nonlinear layer',
      charts: [{ title: 'Largest |activation|, logarithmic scale', spec: maxima(probe.models) }],
    });
  return htmlReport({ title: `QuaIL of ${model}`, subtitle: `${settings.data}`, sections });
}

function lossSection({ epochs }: QuailReport, phase: 'imitation' | 'finetuning'): Section[] {
  const own = epochs.filter((epoch) => epoch.phase === phase);
  const names = [...new Set(own.map(({ stage, name }) => `${stage} ${name}`))];
  if (names.length === 0) return [];
  const series = names.map((name) => ({
    name,
    points: own
      .filter((epoch) => `${epoch.stage} ${epoch.name}` === name)
      .map(({ epoch, loss }) => ({ x: epoch, y: loss })),
  }));
  const what = phase === 'imitation' ? 'mean squared error' : 'cross-entropy';
  return [
    {
      heading: phase === 'imitation' ? 'Imitation' : 'Fine-tuning',
      charts: [{ title: `${what}, by stage`, spec: lossChart(series, { x: 'epoch', y: what, log: true }) }],
    },
  ];
}
