/** The file as a whole: P012 to P015, P018, P019, P025, P026. */
import { isExternal } from '../../graph/tensor.ts';
import { OPSET_CHANGES } from '../../passes/opset-changes.ts';
import { siteName } from '../../passes/pass.ts';
import type { Draft, Rule } from '../finding.ts';

export const opset: Rule = ({ model }) => {
  const version = model.opsets.get('') ?? 0;
  const why = `opset ${version}: Concrete ML asserts 14; CrypTen, Athos and ACE took 9, 11, 13, 14 and 17`;
  const severity = { 'concrete-ml': 'rejected', portable: 'rejected' } as const;
  return version === 14 ? [] : [{ rule: 'P012', site: 'opset', severity, why, fix: 'set-opset 14' }];
};

export const shapes: Rule = ({ model, types, nodes }) => {
  const drafts: Draft[] = [];
  for (const { value } of model.graph.inputs) {
    if (value.initializer) continue;
    const shape = value.declared?.shape;
    const open = !shape || shape.some((dim) => typeof dim !== 'number');
    const other = !shape || shape.slice(1).some((dim) => typeof dim !== 'number');
    const text = `[${shape?.map((dim) => dim ?? '?') ?? '?'}]`;
    if (open)
      drafts.push({
        rule: 'P013',
        site: value.name,
        severity: {
          athos: 'rejected',
          heir: 'rejected',
          portable: 'rejected',
          ...(other && { crypten: 'unverified', ace: 'unverified' }),
        },
        why: `the shape ${text} is not all numbers`,
        fix: 'set-static',
      });
    const batch = shape?.[0];
    if (typeof batch === 'number' && batch > 1)
      drafts.push({
        rule: 'P025',
        site: value.name,
        severity: { ace: 'wrong', portable: 'rejected' },
        why: `a batch of ${batch}`,
        fix: 'set-batch, then set-static',
      });
  }
  const vague = nodes.find((node) => node.outputs.some((value) => value && !types.get(value).shape));
  if (vague)
    drafts.push({
      rule: 'P026',
      site: siteName(vague),
      severity: { athos: 'rejected' },
      why: `the shape of what ${vague.op} makes can't be inferred`,
    });
  return drafts;
};

export const order: Rule = ({ model, nodes }) =>
  model.graph.nodes.every((node, i) => node === nodes[i])
    ? []
    : [
        {
          rule: 'P026',
          site: model.graph.name,
          severity: { athos: 'rejected' },
          why: 'nodes stand before those that they read',
          fix: 'set-form',
        },
      ];

export const initializers: Rule = ({ model }) =>
  model.graph.initializers.flatMap(({ value, tensor }) => {
    const drafts: Draft[] = [];
    const add = (rule: string, severity: Draft['severity'], why: string) =>
      drafts.push({ rule, site: value.name, severity, why, fix: 'set-form' });
    if (value.isInput)
      add('P014', { crypten: 'rejected', ace: 'rejected' }, 'an initializer is listed as an input too');
    if (tensor.external || isExternal(tensor.proto))
      add('P015', { crypten: 'rejected', ace: 'rejected' }, 'its data lies in another file');
    else if (!Object.hasOwn(tensor.proto, 'raw_data') && tensor.dims.every((dim) => dim > 0))
      add('P015', { ace: 'rejected' }, 'its data is not in raw_data');
    return drafts;
  });

export const names: Rule = ({ model, nodes }) => {
  const drafts: Draft[] = [];
  for (const { name, op } of nodes)
    if (OPSET_CHANGES.has(name))
      drafts.push({
        rule: 'P018',
        site: name,
        severity: { ace: 'rejected' },
        why: `the ${op} is called like an operator, and is skipped`,
        fix: 'set-form',
      });
  for (const { value } of model.graph.inputs)
    if (/^\d/.test(value.name))
      drafts.push({
        rule: 'P018',
        site: value.name,
        severity: { ace: 'rejected' },
        why: 'the name of this input begins with a digit, and becomes a C identifier',
        fix: 'set-form',
      });
  return drafts;
};

export const outputs: Rule = ({ model }) =>
  model.graph.outputs.length === 1
    ? []
    : [
        {
          rule: 'P019',
          site: model.graph.name,
          severity: { crypten: 'rejected', ace: 'rejected' },
          why: `${model.graph.outputs.length} outputs`,
          fix: 'none: cut the model to one output',
        },
      ];
