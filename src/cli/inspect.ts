import type { Command } from 'commander';
import { type InspectedModel, inspect, type ValueSummary } from '../inspect.ts';
import { bold, bytes, type CommonOptions, dim, makeOutput, type Streams, table, thousands, warning } from './output.ts';
import { PI_ASSUMPTIONS, piRows } from './pi-cost.ts';

export function inspectCommand(program: Command, streams: Streams): void {
  program
    .command('inspect')
    .summary('what is in a model, or in several side by side')
    .description(
      'Shows operators, inputs and outputs, activation sites with their shapes, parameters, multiply-accumulates (MACs), and what private inference would cost; several models in one table.',
    )
    .argument('<models...>', 'ONNX files')
    .action((files: string[], flags: CommonOptions) => {
      const output = makeOutput(streams, flags);
      const report = inspect(files);
      output.result(
        table(['', ...report.models.map(({ path }) => path)], rows(report.models), report.models.length > 1),
      );
      output.say();
      output.result(
        table(
          ['private inference', ...report.models.map(({ path }) => path)],
          piRows(report.models),
          report.models.length > 1,
        ),
      );
      for (const line of PI_ASSUMPTIONS) output.say(dim(`  ${line}`));
      for (const model of report.models) {
        for (const problem of model.problems) output.result(warning(`  ! ${model.path}: ${problem}`));
        if (model.sites.length === 0) continue;
        output.say();
        output.say(`  ${bold('activations')} of ${model.path}`);
        const sites = model.sites.map((site) => [
          site.name,
          site.activation,
          site.elem ?? '?',
          shapeText(site),
          site.elements === null ? '?' : thousands(site.elements),
          site.calls === 1 ? '' : `x ${site.calls}`,
        ]);
        output.say(table(['site', 'function', 'type', 'shape', 'elements per input', ''], sites, false));
        for (const { site, reason } of model.refused) output.say(`  not replaceable: ${site}: ${reason}`);
      }
      output.finish(report);
    });
}

function rows(models: readonly InspectedModel[]): string[][] {
  const row = (name: string, text: (model: InspectedModel) => string) => [name, ...models.map(text)];
  const operators = [...new Set(models.flatMap(({ nodes }) => Object.keys(nodes)))].sort();
  return [
    row('IR version', (model) => `${model.irVersion}`),
    row('opset', (model) =>
      Object.entries(model.opsets)
        .map(([domain, version]) => (domain === 'ai.onnx' ? version : `${domain} ${version}`))
        .join(', '),
    ),
    row('producer', (model) => model.producer || '-'),
    row('size', (model) => bytes(model.size)),
    row('inputs', (model) => model.inputs.map(valueText).join('; ')),
    row('outputs', (model) => model.outputs.map(valueText).join('; ')),
    row('parameters', (model) => thousands(model.parameters)),
    row('MACs per input', (model) => thousands(model.macs)),
    row('non-polynomial operators', ({ nonPolynomialNodes }) => {
      const kinds = Object.entries(nonPolynomialNodes).map(([op, count]) => `${count} ${op}`);
      return kinds.length > 0 ? kinds.join(', ') : 'none';
    }),
    row('activation sites', (model) => `${model.sites.reduce((sum, { calls }) => sum + calls, 0)}`),
    row('activation elements per input', (model) =>
      model.activationElements === null ? '?' : thousands(model.activationElements),
    ),
    ...operators.map((op) => row(op, (model) => `${model.nodes[op] ?? 0}`)),
  ];
}

const valueText = (value: ValueSummary) => `${value.name} ${value.elem ?? '?'}${shapeText(value)}`;
const shapeText = ({ shape }: ValueSummary) => (shape ? `[${shape.map((dim) => dim ?? '?').join(',')}]` : '[?]');
