/** Progress of long commands, on stderr: a bar on a terminal, a line now and then elsewhere, nothing with -q. */
import { Writable } from 'node:stream';
import cliProgress, { type Options } from 'cli-progress'; // a CommonJS module: Node finds no named exports
import type { OnProgress, ProgressEvent } from '../progress.ts';
import { bytes, type CommonOptions, type Streams, thousands } from './output.ts';

const { Format, SingleBar } = cliProgress;

export interface Progress {
  readonly onProgress: OnProgress;
  /** Leaves the terminal as it was; to be called however the command ends. */
  stop(): void;
}

/** Shows the tasks one after another: a new task name ends the one before. */
export function showProgress(streams: Streams, flags: CommonOptions): Progress {
  if (flags.quiet) return { onProgress: () => {}, stop: () => {} };
  return streams.errIsTty ? bars(streams) : lines(streams);
}

/** A task on display; rates count from its first event, which may be a download half done. */
interface Task {
  readonly first: ProgressEvent;
  readonly start: number;
}

const begin = (first: ProgressEvent): Task => ({ first, start: Date.now() });

const BAR: Options = {
  barsize: 24,
  barCompleteChar: '█',
  barIncompleteChar: '░',
  fps: 10,
  clearOnComplete: true,
  // Nothing that a killed process would leave behind, and Ctrl-C stays with the command.
  hideCursor: false,
  linewrap: true, // long lines are cut; false would switch the terminal's wrapping off
  gracefulExit: false,
};

function bars(streams: Streams): Progress {
  const terminal = new Writable({
    decodeStrings: false,
    write(text: string, _encoding, done) {
      streams.err(text);
      done();
    },
  });
  const stream = Object.assign(terminal, { isTTY: true, columns: process.stderr.columns ?? 80 });
  let task: Task | null = null;
  let latest: ProgressEvent;
  const bar = new SingleBar({
    ...BAR,
    stream,
    format: (options, { progress }) => {
      const drawn = latest.total === null ? '' : `${Format.BarFormat(progress, options)} `;
      return `${latest.task} ${drawn}${figures(task as Task, latest)}`;
    },
  });
  const stop = () => {
    bar.stop();
    task = null;
  };
  const onProgress = (event: ProgressEvent) => {
    latest = event;
    if (task?.first.task !== event.task) {
      stop();
      task = begin(event);
      bar.start(event.total ?? 0, event.done);
    } else {
      bar.setTotal(event.total ?? 0);
      bar.update(event.done);
    }
  };
  return { onProgress, stop };
}

const OFTEN = 1000; // ms between two lines, at least
const SELDOM = 10_000; // ms between two lines of a slow task
const STEP = 0.1; // of a task

function lines(streams: Streams): Progress {
  let task: Task | null = null;
  let [lastTime, lastDone] = [0, 0];
  const onProgress = (event: ProgressEvent) => {
    const now = Date.now();
    if (task?.first.task !== event.task) {
      task = begin(event);
      [lastTime, lastDone] = [now, event.done];
    }
    const stepped = event.total !== null && event.done - lastDone >= STEP * event.total;
    if (now - lastTime < (stepped ? OFTEN : SELDOM) || event.done === lastDone) return;
    [lastTime, lastDone] = [now, event.done];
    streams.err(`${event.task}: ${figures(task, event)}\n`);
  };
  return { onProgress, stop: () => {} };
}

/** '45 % of 12.3 MB, 1.2 MB/s, 6 s left' */
function figures({ first, start }: Task, { done, total, unit, note }: ProgressEvent): string {
  const count = (n: number) => (unit === 'B' ? bytes(Math.round(n)) : thousands(Math.round(n)));
  const named = (n: number) => (unit === 'B' ? count(n) : `${count(n)} ${unit}`);
  const seconds = (Date.now() - start) / 1000;
  const rate = (done - first.done) / seconds;
  const timed = seconds >= 0.5 && rate > 0;
  return [
    total === null ? named(done) : `${Math.floor((100 * done) / Math.max(total, 1))} % of ${named(total)}`,
    ...(timed
      ? [`${rate < 10 && unit !== 'B' ? rate.toFixed(1) : count(rate)}${unit === 'B' ? '' : ` ${unit}`}/s`]
      : []),
    ...(timed && total !== null && done < total ? [`${duration((total - done) / rate)} left`] : []),
    ...(note === undefined ? [] : [note]),
  ].join(', ');
}

/** 75 -> '1:15 min' */
function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  const [minutes, rest] = [Math.floor(whole / 60), String(whole % 60).padStart(2, '0')];
  if (minutes < 60) return `${minutes}:${rest} min`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, '0')} h`;
}
