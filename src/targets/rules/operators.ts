/** Which operators a target has: P001, P004, P010, P011, P017, P028. */
import { floatAttr } from '../../graph/attributes.ts';
import { constantOf } from '../../graph/constants.ts';
import { toNumbers } from '../../graph/tensor.ts';
import { nestedGraphs } from '../../graph/walk.ts';
import { siteName } from '../../passes/pass.ts';
import { constantOperand, type Draft, onNodes, type Rule, type Severity } from '../finding.ts';
import { TARGET_NAMES, TARGETS, type TargetName } from '../targets.ts';

/** These have a rule of their own. */
const OWN_RULE = new Set(
  'Pow Div BatchNormalization Softmax LogSoftmax GlobalAveragePool AveragePool Reshape'.split(' '),
);
/** Those whose Reshape, Pow, … none of the rules below names. */
const OWN_RULE_BUT: Partial<Record<TargetName, readonly string[]>> = {
  'ezpc-onnxbridge': ['Div', 'Reshape'],
  ezkl: ['BatchNormalization', 'Softmax', 'LogSoftmax'],
  orion: ['Div', 'Softmax', 'LogSoftmax'],
};

/** Their lists name what matters here, and may not be whole. */
const OPEN_LISTS: ReadonlySet<TargetName> = new Set(['concrete-ml', 'ezkl', 'orion', 'heir']);
const REFUSED: Partial<Record<TargetName, readonly string[]>> = { 'concrete-ml': ['ReduceMean'] };

const FIXES: Readonly<Record<string, string>> = {
  MatMul: 'set-gemm',
  Sub: 'replace-arithmetic',
  Neg: 'replace-arithmetic',
  Sum: 'replace-arithmetic',
  Identity: 'drop-identity',
  Dropout: 'drop-identity',
  Pad: 'fold-pad',
  Squeeze: 'replace-reshape',
  Unsqueeze: 'replace-reshape',
  ReduceMean: 'replace-reshape',
  MaxPool: 'replace-maxpool (not exact: train afterwards)',
  Relu: 'rewrite --poly',
  Constant: 'set-coefficients',
};

export const unsupported: Rule = ({ nodes }) =>
  nodes.flatMap((node): Draft[] => {
    const site = siteName(node);
    const foreign = node.domain !== '' || nestedGraphs(node).length > 0;
    const severity: Draft['severity'] = {};
    for (const name of TARGET_NAMES) {
      const own = OWN_RULE.has(node.op) && !OWN_RULE_BUT[name]?.includes(node.op);
      if (foreign || (!own && !TARGETS[name].operators.has(node.op)))
        severity[name] =
          !foreign && OPEN_LISTS.has(name) && !REFUSED[name]?.includes(node.op) ? 'unverified' : 'rejected';
    }
    if (!foreign && node.op === 'MaxPool') severity.ace = 'wrong';
    if (!foreign && node.op === 'Relu') severity.ace = 'unverified';
    // A constant that is no operand goes with what reads it.
    if (node.op === 'Constant') for (const name of ['portable', 'ezpc-onnxbridge'] as const) delete severity[name];
    if (Object.keys(severity).length === 0) return [];
    const hint = node.op === 'Mul' || node.op === 'Pow' ? '; --target athos takes polynomials' : '';
    const kind = node.domain === '' ? node.op : `${node.domain}::${node.op}`;
    const why = WHY[node.op] ?? `the operator ${kind} is not supported${'ezpc-onnxbridge' in severity ? hint : ''}`;
    const fix = FIXES[node.op];
    return [{ rule: 'P001', site, severity, why, ...(fix !== undefined && { fix }) }];
  });

const WHY: Readonly<Record<string, string>> = {
  MaxPool: 'MaxPool is not supported; ACE puts an approximation in its place that needs a value range',
  Relu: 'Relu is no polynomial; ACE compiles it at depth 28, and the program crashed',
};

const everywhere = (severity: Severity, ...names: TargetName[]): Draft['severity'] =>
  Object.fromEntries(names.map((name) => [name, severity]));

export const pow = onNodes(['Pow'], (node, subject) => {
  const exponent = node.inputs[1];
  const tensor = constantOf(subject.model, exponent);
  const values = tensor ? [...toNumbers(tensor)] : [];
  const whole = values.length > 0 && values.every((n) => Number.isInteger(n) && n >= 0 && n === values[0]);
  const drafts: Omit<Draft, 'site'>[] = [
    {
      rule: 'P004',
      severity: everywhere('rejected', 'athos', 'ace', 'portable', 'ezpc-onnxbridge'),
      why: 'Pow is not supported',
      fix: 'replace-arithmetic',
    },
  ];
  if (!whole || exponent?.producer?.op !== 'Constant')
    drafts.push({
      rule: 'P004',
      severity: { crypten: 'rejected', portable: 'none' },
      why: whole ? 'its exponent is an initializer, which is encrypted' : 'its exponent is no constant whole number',
      fix: 'replace-arithmetic',
    });
  if (!whole)
    drafts.push({
      rule: 'P004',
      severity: { helayers: 'rejected', ezkl: tensor ? 'costly' : 'rejected' },
      why: 'its exponent is no constant whole number',
    });
  return drafts;
});

export const reshape = onNodes(['Reshape'], () => [
  {
    rule: 'P010',
    severity: { crypten: 'rejected', helayers: 'unverified' },
    why: 'the int64 shape becomes a parameter, which cannot be encrypted; a literal 1 in it touches the batch',
    fix: 'replace-reshape',
  },
]);

export const batchNormalization = onNodes(['BatchNormalization'], (node) => {
  const epsilon = floatAttr(node, 'epsilon') ?? 1e-5;
  const other = Math.abs(epsilon - 1e-5) > 1e-9;
  return [
    {
      rule: 'P011',
      severity: { ace: 'rejected', portable: 'rejected', crypten: 'costly', athos: other ? 'wrong' : 'costly' },
      why: other
        ? `the normalisation is not folded, and Athos takes its epsilon of ${epsilon.toPrecision(3)} for 1e-5`
        : 'the normalisation is not folded: an operator more, and an inverse square root of a secret in CrypTen',
      fix: 'fold-batchnorm, replace-batchnorm',
    },
  ];
});

export const div = onNodes(['Div'], (node, subject) => {
  const divisor = constantOf(subject.model, node.inputs[1]);
  const single = divisor?.dims.every((dim) => dim === 1) ?? false;
  return [
    {
      rule: 'P017',
      severity: { athos: 'wrong', ace: 'rejected', portable: 'rejected', ...(!single && { ezkl: 'rejected' }) },
      why: 'Athos compiles Div as ReLU; ACE has none',
      fix: 'replace-arithmetic',
    },
  ];
});

export const head = onNodes(['Softmax', 'LogSoftmax'], (node) => [
  {
    rule: 'P028',
    severity: {
      ...everywhere('rejected', 'athos', 'ace', 'portable', 'concrete-ml', 'helayers'),
      ...(node.op === 'LogSoftmax' && { 'ezpc-onnxbridge': 'rejected' }),
      crypten: 'costly',
    },
    why: `${node.op} is no polynomial; the largest class is that of the logits`,
    fix: 'drop-softmax',
  },
]);

/** P002: the scheduler marks only the first occurrence of an operand as available. P003: how constants are shaped. */
export const operands = onNodes(['Mul', 'Add', 'Sub', 'Div', 'Concat'], (node, subject) => {
  const data = node.inputs.filter((value) => value && !constantOf(subject.model, value));
  const drafts: Omit<Draft, 'site'>[] = [];
  if (new Set(data).size < data.length)
    drafts.push({
      rule: 'P002',
      severity: { crypten: 'rejected' },
      why: 'it reads one value twice',
      fix: 'fold-polynomial, replace-repeated',
    });
  const operand = constantOperand(subject, node);
  if (!operand || node.op === 'Concat') return drafts;
  return [...drafts, ...coefficient(subject, operand)];
});

function coefficient(
  subject: Parameters<Rule>[0],
  { constant, tensor, data }: NonNullable<ReturnType<typeof constantOperand>>,
): Omit<Draft, 'site'>[] {
  const shape = subject.types.get(data).shape?.map((dim, axis) => (axis === 0 && typeof dim !== 'number' ? 1 : dim));
  const drafts: Omit<Draft, 'site'>[] = [];
  const add = (severity: Draft['severity'], why: string) =>
    drafts.push({ rule: 'P003', severity, why, fix: 'set-coefficients' });
  const { dims } = tensor;
  if (`${dims}` !== `${shape}`)
    add(
      { ace: 'wrong' },
      `its constant '${constant.name}' [${dims}] is not of the shape of the data, [${shape ?? '?'}]`,
    );
  if (dims.length === 0 || dims.length === 3)
    add({ athos: 'rejected' }, `its constant '${constant.name}' is of rank ${dims.length}`);
  if (constant.producer?.op === 'Constant' && dims.some((dim) => dim !== 1))
    add({ helayers: 'rejected', portable: 'none' }, `its Constant '${constant.name}' holds more than one value`);
  return drafts;
}
