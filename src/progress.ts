/** What long-running library functions tell whoever wants to know. */

export interface ProgressEvent {
  /** What is being done; another name is another task. */
  readonly task: string;
  /** Never falls within a task. */
  readonly done: number;
  /** What `done` will end at; null where nobody knows. */
  readonly total: number | null;
  /** What is counted: 'B' for bytes, or a plural such as 'images'. */
  readonly unit: string;
  /** A figure that changes as it goes on, such as a loss. */
  readonly note?: string;
}

export type OnProgress = (event: ProgressEvent) => void;
