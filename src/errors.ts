/** Codes are stable and may be tested for; messages are for people: what, where, and how to fix it, on one line. */
export type ErrorCode =
  | 'not-onnx'
  | 'invalid-model'
  | 'unsupported'
  | 'external-data'
  | 'tensor'
  | 'data'
  | 'spec'
  | 'usage'
  | 'file'
  | 'too-large'
  | 'gate'
  | 'aborted'
  | 'internal';

/** Every failure that a user can cause. The CLI prints its message and nothing else. */
export class SisyphusError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message.replace(/\s*\n\s*/g, ' '), options);
    this.name = 'SisyphusError';
    this.code = code;
  }
}

/** The known word that is nearest to `word` (Levenshtein distance at most a third of its length), if any. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** " (did you mean X?)", or the list of known words where none is near. */
export function didYouMean(word: string, known: readonly string[]): string {
  const near = nearest(word, known);
  return near ? `; did you mean '${near}'?` : `; known: ${known.join(', ')}`;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}
