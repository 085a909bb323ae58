/** Convolutions and pools: P006, P016, P021, P022, P023. */
import { attribute, intAttr, stringAttr } from '../../graph/attributes.ts';
import type { Node } from '../../graph/ir.ts';
import { isGlobal, type Windows, windowsOf } from '../../passes/windows.ts';
import { type Draft, onNodes, reaches, type Severity, shapeOf } from '../finding.ts';

type Drafts = Omit<Draft, 'site'>[];

/** What breaks where a map has another size than was thought. */
const SHAPED = new Set(['Gemm', 'MatMul', 'Flatten', 'Reshape']);
const GLOBAL = new Set(['GlobalAveragePool']);
const misread = (node: Node): Severity => (reaches(node, SHAPED, GLOBAL) ? 'rejected' : 'wrong');

const equal = (list: readonly number[]): boolean => list.every((item) => item === list[0]);

const autoPad = (node: Node): boolean => !['', 'NOTSET', undefined].includes(stringAttr(node, 'auto_pad'));

export const padding = onNodes(['Conv', 'AveragePool', 'MaxPool'], (node, { model, types }): Drafts => {
  if (autoPad(node))
    return [
      {
        rule: 'P006',
        severity: { crypten: 'rejected', athos: 'rejected', ace: 'rejected', 'concrete-ml': 'rejected' },
        why: 'auto_pad is unknown to it, or taken for VALID',
        fix: 'set-attributes',
      },
    ];
  const windows = windowsOf(model, node, types);
  if (typeof windows === 'string') return [];
  const { pads, kernel, strides } = windows;
  const drafts: Drafts = [];
  const fix = node.op === 'Conv' ? 'embed-kernel or embed-uneven-kernel' : 'none: pad evenly';
  if (!equal(pads)) {
    const strided = strides.some((stride) => stride > 1);
    drafts.push({
      rule: 'P006',
      severity: { crypten: misread(node), athos: strided ? 'wrong' : 'rejected' },
      why: `pads [${pads}]: CrypTen reads (top, left) for (height, width), Athos (top, bottom, left, right)`,
      fix,
    });
  }
  const same = pads.every((pad, i) => pad === ((kernel[i % 2] as number) - 1) / 2);
  if (node.op === 'Conv' && !same && pads.some((pad) => pad !== 0))
    drafts.push({
      rule: 'P006',
      severity: { ace: 'wrong' },
      why: `pads [${pads}] of a ${kernel.join('x')} kernel are neither none nor "same"`,
      fix: 'embed-kernel',
    });
  return drafts;
});

export const convolution = onNodes(['Conv'], (node, subject): Drafts => {
  const windows = windowsOf(subject.model, node, subject.types);
  if (typeof windows === 'string')
    return [
      {
        rule: 'P021',
        severity: { portable: 'unverified', ace: 'unverified', athos: 'unverified', crypten: 'unverified' },
        why: windows,
      },
    ];
  const { kernel, strides, dilations, pads, input, output } = windows;
  const drafts: Drafts = [];
  const add = (severity: Draft['severity'], why: string, fix?: string) =>
    drafts.push({ rule: 'P021', severity, why, ...(fix !== undefined && { fix }) });
  const [k] = kernel;
  const [s] = strides;
  if (!equal(kernel)) {
    add({ ace: 'rejected' }, `a rectangular kernel ${kernel.join('x')}`, 'embed-kernel');
    if (!equal(pads)) add({ athos: 'rejected' }, `a rectangular kernel with pads [${pads}]`, 'embed-uneven-kernel');
  } else if (k % 2 === 0) add({ ace: 'wrong' }, `an even kernel ${kernel.join('x')}`, 'embed-kernel');
  if (!equal(strides)) add({ ace: 'rejected', orion: 'unverified' }, `strides [${strides}] differ`);
  if (!dilations.every((d) => d === 1))
    add(
      { ace: 'wrong', athos: 'rejected', 'concrete-ml': 'rejected', ezkl: 'rejected' },
      `dilations [${dilations}] are ignored or refused`,
      'embed-kernel or embed-uneven-kernel',
    );
  const valid = pads.every((pad) => pad === 0);
  const size = [input[2], input[3]];
  if (equal(strides) && s > 1) {
    if (![1, 2, 4].includes(s)) add({ ace: 'wrong' }, `stride ${s}`);
    if (valid && k > 1) add({ ace: 'wrong' }, `stride ${s} without padding`);
    if (size.some((side) => side % s !== 0)) add({ ace: 'wrong' }, `stride ${s} on a map of ${size.join('x')}`);
  }
  if (valid && k > 1 && output.some((side, axis) => side < (kernel[axis] as number)))
    add({ ace: 'wrong' }, `its output of ${output.join('x')} is smaller than its kernel of ${kernel.join('x')}`);
  const group = intAttr(node, 'group') ?? 1;
  const outs = shapeOf(subject, node.outputs[0])?.[1];
  if (group > 1 && (group !== input[1] || group !== outs))
    add({ ace: 'rejected', helayers: 'rejected' }, `${group} groups of ${input[1]} channels`, 'embed-kernel');
  return drafts;
});

export const globalPool = onNodes(['GlobalAveragePool'], (node, subject): Drafts => {
  const shape = shapeOf(subject, node.inputs[0]);
  const [height, width] = shape?.slice(2) ?? [];
  const sound = height !== undefined && height === width && (height & (height - 1)) === 0;
  return [
    {
      rule: 'P016',
      severity: {
        helayers: 'rejected',
        'concrete-ml': 'rejected',
        portable: 'rejected',
        ...(!sound && { ace: shape ? 'wrong' : 'unverified' }),
      },
      why: `GlobalAveragePool on a map of ${shape ? `${height}x${width}` : 'unknown size'}`,
      fix: 'fold-global-pool',
    },
  ];
});

export const averagePool = onNodes(['AveragePool'], (node, { model, types }): Drafts => {
  const windows = windowsOf(model, node, types);
  if (typeof windows === 'string')
    return [
      {
        rule: 'P016',
        severity: { portable: 'unverified', ace: 'unverified', athos: 'unverified', crypten: 'unverified' },
        why: windows,
      },
    ];
  const { kernel, pads, input } = windows;
  const drafts: Drafts = [];
  const ace = poolForAce(windows);
  if (ace)
    drafts.push({
      rule: 'P016',
      severity: { ace },
      why: `a pool of ${kernel.join('x')} by ${windows.strides.join('x')}, pads [${pads}]`,
      fix: isGlobal(windows) ? 'fold-global-pool' : 'replace-pool',
    });
  if (!equal(kernel))
    drafts.push({
      rule: 'P016',
      severity: { crypten: misread(node) },
      why: `a rectangular pool of ${kernel.join('x')}: the first side is taken for both`,
      fix: 'replace-pool',
    });
  if ((intAttr(node, 'ceil_mode') ?? 0) !== 0)
    drafts.push({
      rule: 'P016',
      severity: {
        crypten: 'rejected',
        portable: 'rejected',
        ...Object.fromEntries(
          (['athos', 'ace', 'concrete-ml', 'helayers', 'ezkl', 'orion'] as const).map((name) => [name, 'unverified']),
        ),
      },
      why: 'ceil_mode is refused or ignored',
      fix: 'set-attributes, where it changes nothing',
    });
  if (pads.some((pad) => pad > 0) && (intAttr(node, 'count_include_pad') ?? 0) !== 1)
    drafts.push({
      rule: 'P022',
      severity: {
        crypten: 'wrong',
        athos: 'wrong',
        ace: 'wrong',
        helayers: 'wrong',
        'concrete-ml': attribute(node, 'count_include_pad') ? 'rejected' : 'wrong',
      },
      why: 'the padding is counted although it should not be',
      fix: 'replace-padded-pool',
    });
  const [height, width] = [input[2], input[3]];
  if (!isGlobal(windows) && (height !== width || (`${kernel}` === '2,2' && height % 2 !== 0)))
    drafts.push({
      rule: 'P023',
      severity: { ace: 'wrong' },
      why: `a pool of ${kernel.join('x')} on a map of ${height}x${width}`,
      fix: 'none: choose another target',
    });
  return drafts;
});

function poolForAce({ kernel, strides, pads }: Windows): Severity | null {
  const [k, s, p] = [`${kernel}`, `${strides}`, `${pads}`];
  if (k === '2,2' && s === '2,2' && p === '0,0,0,0') return null;
  if (k === '3,3' && s === '2,2' && p === '1,1,1,1') return null;
  return k === '4,4' && s === '4,4' && p === '0,0,0,0' ? 'wrong' : 'rejected';
}
