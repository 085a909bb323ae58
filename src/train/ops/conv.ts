/**
 * Convolution in ONNX's layout (images NCHW, filters OIHW), differentiable. The backend that has kernels for it runs those;
 * all others compose it of tfjs' own, which take NHWC and HWIO.
 */
import { CONV, CONV_FILTER_GRAD, CONV_INPUT_GRAD } from '../onnxruntime/conv.ts';
import { tf } from '../tf.ts';

export interface ConvGeometry {
  readonly strides: readonly [number, number];
  readonly pads: readonly [top: number, left: number, bottom: number, right: number];
  readonly dilations: readonly [number, number];
  readonly groups: number;
}

/**
 * @param x [N, Cin, H, W]
 * @param w [Cout, Cin / groups, kh, kw]
 * @returns [N, Cout, OH, OW]
 */
export function conv(x: tf.Tensor4D, w: tf.Tensor4D, geometry: ConvGeometry): tf.Tensor4D {
  if (tf.getKernel(CONV, tf.getBackend())) return tf.engine().runKernel(CONV, { x, w }, { ...geometry });
  return composed(x, w, geometry);
}

tf.registerGradient({
  kernelName: CONV,
  inputsToSave: ['x', 'w'],
  gradFunc: (dy, [x, w], attributes) => {
    const engine = tf.engine();
    const [input, filter] = [x as tf.Tensor, w as tf.Tensor];
    return {
      x: () =>
        engine.runKernel(CONV_INPUT_GRAD, { dy: dy as tf.Tensor, w: filter }, { ...attributes, shape: input.shape }),
      w: () =>
        engine.runKernel(CONV_FILTER_GRAD, { dy: dy as tf.Tensor, x: input }, { ...attributes, shape: filter.shape }),
    };
  },
});

function composed(x: tf.Tensor4D, w: tf.Tensor4D, { strides, pads, dilations, groups }: ConvGeometry): tf.Tensor4D {
  const [top, left, bottom, right] = pads;
  const padded = tf.pad(tf.transpose(x, [0, 2, 3, 1]), [
    [0, 0],
    [top, bottom],
    [left, right],
    [0, 0],
  ]) as tf.Tensor4D;
  const [, cin = 0] = x.shape;
  const [cout, size] = w.shape;
  const images = split(padded, 3, groups, cin / groups);
  const filters = split(dilate(w, dilations), 0, groups, cout / groups);
  const parts = images.map((image, group) =>
    tf.conv2d(image, tf.transpose(filters[group] as tf.Tensor4D, [2, 3, 1, 0]), [...strides], 'valid'),
  );
  if (size * groups !== cin) throw new Error(`filters for ${size * groups} channels, images of ${cin}`);
  return tf.transpose(parts.length === 1 ? (parts[0] as tf.Tensor4D) : tf.concat(parts, 3), [0, 3, 1, 2]);
}

function split(x: tf.Tensor4D, axis: 0 | 3, groups: number, size: number): tf.Tensor4D[] {
  if (groups === 1) return [x];
  return Array.from({ length: groups }, (_, group) => {
    const [begin, extent] = [[0, 0, 0, 0], [...x.shape]];
    begin[axis] = group * size;
    extent[axis] = size;
    return tf.slice(x, begin, extent);
  });
}

/** Zeros between the elements of the filter: tfjs has no gradients of dilated convolutions. */
function dilate(w: tf.Tensor4D, dilations: readonly [number, number]): tf.Tensor4D {
  let filter = w;
  for (const [i, dilation] of dilations.entries()) {
    if (dilation === 1) continue;
    const [o, c, kh, kw] = filter.shape;
    const axis = 2 + i;
    const size = filter.shape[axis] as number;
    const shape = i === 0 ? [o, c, kh, 1, kw] : [o, c, kh, kw, 1];
    const paddings = shape.map((_, at): [number, number] => (at === axis + 1 ? [0, dilation - 1] : [0, 0]));
    const spread = tf.pad(tf.reshape(filter, shape), paddings);
    const wide = [...filter.shape];
    wide[axis] = size * dilation;
    const extent = [...wide];
    extent[axis] = (size - 1) * dilation + 1;
    filter = tf.slice(tf.reshape(spread, wide), [0, 0, 0, 0], extent) as tf.Tensor4D;
  }
  return filter;
}
