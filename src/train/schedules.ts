/** The learning rate over the epochs. */
import { didYouMean, SisyphusError } from '../errors.ts';

export interface Schedule {
  readonly kind: 'cosine' | 'step' | 'constant';
  /** cosine: what it ends at, as a fraction of the first rate. */
  readonly floor: number;
  /** step: multiplied by `factor` after each of these fractions of all epochs. */
  readonly at: readonly number[];
  readonly factor: number;
}

const KINDS = ['cosine', 'step', 'constant'] as const;

/**
 * `cosine`, `cosine,floor=0.01`, `constant`, `step` or `step,at=0.5:0.75,factor=0.1`.
 * @throws SisyphusError `spec`
 */
export function parseSchedule(text: string): Schedule {
  const [name = '', ...entries] = text.split(',').map((part) => part.trim());
  const kind = KINDS.find((known) => known === name);
  if (!kind) throw new SisyphusError('spec', `--schedule '${text}': no such schedule${didYouMean(name, KINDS)}`);
  const schedule = { kind, floor: 0, at: [0.5, 0.75], factor: 0.1 };
  const allowed = { cosine: ['floor'], step: ['at', 'factor'], constant: [] as string[] }[kind];
  for (const entry of entries) {
    const [key = '', value = ''] = entry.split('=');
    const numbers = value.split(':').map(Number);
    const fractions = value !== '' && numbers.every((n) => n >= 0 && n <= 1);
    if (!allowed.includes(key) || !fractions || (key !== 'at' && numbers.length > 1))
      throw new SisyphusError(
        'spec',
        `--schedule '${text}': '${entry}' is not understood; ${kind} takes ${allowed.map((k) => `${k}=0..1${k === 'at' ? ':0..1:…' : ''}`).join(', ') || 'nothing'}`,
      );
    if (key === 'at') schedule.at = numbers;
    else schedule[key as 'floor' | 'factor'] = numbers[0] as number;
  }
  return schedule;
}

/**
 * The rate in an epoch, as a fraction of the first.
 * @param epoch from 0; the cosine would reach its floor in epoch `epochs` (the paper's authors: per epoch, to 0)
 */
export function rateAt({ kind, floor, at, factor }: Schedule, epoch: number, epochs: number): number {
  if (kind === 'constant') return 1;
  if (kind === 'step') return factor ** at.filter((fraction) => epoch >= Math.round(fraction * epochs)).length;
  return floor + ((1 - floor) * (1 + Math.cos((Math.PI * epoch) / epochs))) / 2;
}
