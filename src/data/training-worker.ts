/** A thread that makes training batches: one for each message, in the order of the messages. */
import { parentPort, workerData } from 'node:worker_threads';
import { type BatchSource, batchMaker } from './batch-maker.ts';

/** What it is asked for. */
export interface BatchRequest {
  readonly epoch: number;
  readonly step: number;
}

const make = batchMaker(workerData as BatchSource);
parentPort?.on('message', ({ epoch, step }: BatchRequest) => {
  const batch = make(epoch, step);
  parentPort?.postMessage(batch, [batch.x.buffer as ArrayBuffer, batch.labels.buffer as ArrayBuffer]);
});
