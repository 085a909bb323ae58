import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { showProgress } from '../../src/cli/progress.ts';

let err = '';
const streams = (errIsTty?: boolean) => ({
  out: () => expect.unreachable('progress goes to stderr'),
  err: (text: string) => {
    err += text;
  },
  ...(errIsTty !== undefined && { errIsTty }),
});

beforeEach(() => {
  err = '';
  vi.useFakeTimers();
});
afterEach(() => void vi.useRealTimers());

const at = (task: string, done: number, total: number | null, unit = 'images') => ({ task, done, total, unit });

it('says nothing with -q', () => {
  for (const tty of [true, false]) {
    const { onProgress, stop } = showProgress(streams(tty), { quiet: true });
    onProgress(at('a.onnx', 0, 10));
    vi.advanceTimersByTime(60_000);
    onProgress(at('a.onnx', 10, 10));
    stop();
  }
  expect(err).toBe('');
});

it('is a line now and then where nobody watches', () => {
  const { onProgress, stop } = showProgress(streams(), {});
  for (let done = 0; done <= 10_000; done += 100) {
    onProgress(at('a.onnx', done, 10_000));
    vi.advanceTimersByTime(500); // 50 s in all: 10 % are done every 5 s
  }
  for (let done = 0; done <= 10_000; done += 1000) onProgress(at('quick.onnx', done, 10_000));
  stop();
  expect(err).not.toContain('\r');
  const lines = err.trimEnd().split('\n');
  expect(lines.length).toBe(10);
  expect(lines[0]).toBe('a.onnx: 10 % of 10,000 images, 200 images/s, 45 s left');
  expect(lines[4]).toBe('a.onnx: 50 % of 10,000 images, 200 images/s, 25 s left');
  expect(lines[9]).toBe('a.onnx: 100 % of 10,000 images, 200 images/s');
});

it('is a line every ten seconds where things take long, or nobody knows how long', () => {
  const { onProgress, stop } = showProgress(streams(), {});
  for (let second = 0; second <= 60; second++) {
    onProgress(at('slow.zip', 100e6 + second * 1e6, 10e9, 'B'));
    vi.advanceTimersByTime(1000);
  }
  for (let second = 0; second <= 20; second++) {
    onProgress(at('stages', second, null, 'stages'));
    vi.advanceTimersByTime(1000);
  }
  stop();
  const lines = err.trimEnd().split('\n');
  // The rate leaves out what was there before.
  expect(lines[0]).toBe('slow.zip: 1 % of 10.0 GB, 1.0 MB/s, 2:44 h left');
  expect(lines.slice(6)).toEqual(['stages: 10 stages, 1.0 stages/s', 'stages: 20 stages, 1.0 stages/s']);
  expect(lines.length).toBe(8);
});

it('is a bar on a terminal, one after another, gone in the end', () => {
  const { onProgress, stop } = showProgress(streams(true), {});
  onProgress(at('a.onnx', 0, 1000));
  vi.advanceTimersByTime(1000);
  onProgress(at('a.onnx', 500, 1000));
  vi.advanceTimersByTime(1000);
  expect(err).toContain('a.onnx ████████████░░░░░░░░░░░░ 50 % of 1,000 images, 250 images/s, 2 s left');
  onProgress(at('b.onnx', 3, null));
  vi.advanceTimersByTime(1000);
  onProgress(at('b.onnx', 6, null));
  vi.advanceTimersByTime(1000);
  expect(err).toContain('b.onnx 6 images, 1.5 images/s');
  expect(err).not.toContain('\n');
  stop();
  stop();
  expect(err.endsWith('\x1B[2K')).toBe(true); // the line is cleared
  expect(err).not.toContain('\x1B[?'); // no mode was switched that a killed process would leave behind
  expect(vi.getTimerCount()).toBe(0); // nothing keeps the process alive
});

it('is redrawn although the main thread was busy', () => {
  const { onProgress, stop } = showProgress(streams(true), {});
  onProgress(at('a.onnx', 0, 100));
  err = '';
  vi.setSystemTime(Date.now() + 500); // timers don't run meanwhile
  onProgress(at('a.onnx', 50, 100));
  expect(err).toContain('50 %');
  stop();
});
