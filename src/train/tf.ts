/**
 * TensorFlow.js: its tape, its memory scopes and its tensors, and which backend they run on. `@tensorflow/tfjs-core` alone
 * knows no gradients; those that training needs are in `gradients.ts`.
 */
import * as tf from '@tensorflow/tfjs-core';
import { registerGradients } from './gradients.ts';

tf.enableProdMode(); // or it advertises other packages on standard error
registerGradients();

export { tf };
