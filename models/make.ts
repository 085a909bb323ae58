/** Writes the sample models; run as `npm run models`. The files are committed, and a test compares them. */
import { fileURLToPath } from 'node:url';
import { writeModel } from '../src/graph/write.ts';
import { lenet } from './lenet.ts';

const file = fileURLToPath(new URL('lenet.onnx', import.meta.url));
for (const [name, size] of await writeModel(lenet(42), file, { force: true })) console.log(`${name}: ${size} bytes`);
