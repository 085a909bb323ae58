/** What is to be known and is no fault of the file: P020, P024, P027, P030. */
import { cost } from '../../graph/cost.ts';
import { elementCount } from '../../graph/tensor.ts';
import { type Rule, shapeOf } from '../finding.ts';

export const depth: Rule = ({ model, types }) => [
  {
    rule: 'P020',
    site: model.graph.name,
    severity: { ace: 'info', helayers: 'info', orion: 'info', heir: 'info', portable: 'none' },
    why: `${cost(model, types).depth} multiplicative levels, a linear layer and a product of two values one each`,
  },
];

export const compileOptions: Rule = (subject) => {
  const values = subject.nodes.flatMap(({ outputs }) => outputs);
  const inputs = subject.model.graph.inputs.map(({ value }) => value).filter((value) => !value.initializer);
  const sizes = [...values, ...inputs].map((value) => elementCount(shapeOf(subject, value) ?? []));
  const largest = Math.max(1, ...sizes);
  const slots = 2 ** Math.ceil(Math.log2(2 * largest));
  return [
    {
      rule: 'P024',
      site: subject.model.graph.name,
      severity: { ace: 'info', portable: 'none' },
      why: `compile with -VEC:ms=${slots} -CKKS:N=${2 * slots} (the largest tensor has ${largest} elements): without matching options some shapes are computed wrongly. The default security level is 0: request one, and raise N by hand. Compare the compiled program with the model on a sample`,
    },
  ];
};

export const magnitude: Rule = ({ model }) => [
  {
    rule: 'P027',
    site: model.graph.name,
    severity: { crypten: 'info', athos: 'info', portable: 'none' },
    why: 'fixed point (CrypTen 16 fractional bits; Athos scale 12 and bit length 64, 41 for SCI): about 1 % of the output at scale 12; growing activations overflow without a word: run probe',
  },
];

export const bootstrapping: Rule = ({ model, nodes }) =>
  nodes.some(({ op }) => op === 'Mul' || op === 'Pow')
    ? [
        {
          rule: 'P030',
          site: model.graph.name,
          severity: { 'concrete-ml': 'info' },
          why: 'products on one tensor are fused into one programmable bootstrapping: a polynomial costs what ReLU costs',
        },
      ]
    : [];

export const noImporter: Rule = ({ model }) => [
  {
    rule: 'P001',
    site: model.graph.name,
    severity: { orion: 'info', heir: 'info' },
    why: 'it has no ONNX importer: the network has to be written with its modules (Orion) or lowered to linalg first (HEIR)',
  },
];
