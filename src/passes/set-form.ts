/**
 * Before: a model as exporters write it
 * After:  nodes in topological order, each with a name of its own that is no operator's; input names that begin with no
 *   digit; initializers that are no inputs and hold raw data in the file; the type of every value stated; the IR version
 *   that is asked for
 * Conditions: main graph only
 * Algebra: none
 */
import { hideInitializer, orderNodes, rename, setInitializer, setIrVersion, stateTypes } from '../graph/edit.ts';
import type { Model, Node, TensorType, Value } from '../graph/ir.ts';
import { inferTypes } from '../graph/shapes.ts';
import { fromRaw, rawBytes } from '../graph/tensor.ts';
import { topologicalOrder } from '../graph/walk.ts';
import { OPSET_CHANGES } from './opset-changes.ts';
import { type Change, type Pass, siteName } from './pass.ts';

export interface SetFormOptions {
  /** Default: as it is. */
  readonly irVersion?: number;
}

export const setForm: Pass<SetFormOptions> = {
  name: 'set-form',
  summary: 'Sort and name nodes, state every type, keep weights raw and out of the inputs',
  exact: true,
  run(model, { irVersion }) {
    const applied: Change[] = [];
    const note = (site: string, detail: string) => applied.push({ site, detail });
    if (irVersion !== undefined && irVersion !== model.irVersion) {
      note('IR version', `${model.irVersion} -> ${irVersion}`);
      setIrVersion(model, irVersion);
    }
    const order = topologicalOrder(model.graph);
    if (order.length === model.graph.nodes.length && order !== model.graph.nodes) {
      orderNodes(model.graph, order);
      note(model.graph.name, 'nodes sorted');
    }
    for (const { value, tensor } of [...model.graph.initializers]) {
      if (value.isInput) {
        hideInitializer(model, value);
        note(value.name, 'no longer an input, which its initializer made optional');
      }
      if (!Object.hasOwn(tensor.proto, 'raw_data') && tensor.elem !== 'string') {
        setInitializer(value, fromRaw(tensor.name, tensor.elem, tensor.dims, rawBytes(tensor)));
        note(value.name, 'raw data');
      }
    }
    nameNodes(model, note);
    for (const { value } of model.graph.inputs)
      if (/^\d/.test(value.name)) {
        const old = value.name;
        rename(model, value, `input_${old}`);
        note(old, `this input is called '${value.name}' now`);
      }
    const stated = stateAll(model);
    if (stated > 0) note(model.graph.name, `types of ${stated} values stated`);
    return { pass: setForm.name, applied, skipped: [] };
  },
};

function nameNodes(model: Model, note: (site: string, detail: string) => void): void {
  const seen = new Set<string>();
  for (const node of model.graph.nodes) {
    const bad = !node.name || seen.has(node.name) || OPSET_CHANGES.has(node.name);
    if (bad) {
      const old = siteName(node);
      rename(model, node, `${old}_${node.op.toLowerCase()}`);
      note(old, `the node is called '${node.name}'`);
    }
    seen.add(node.name);
  }
}

/** @returns of how many values nothing was stated before */
function stateAll(model: Model): number {
  const types = inferTypes(model);
  const { graph } = model;
  const outputs = new Set(graph.outputs.map(({ value }) => value));
  const known = new Set(graph.valueInfo.map(({ value }) => value));
  const stated = new Map<Value, TensorType>();
  for (const value of graph.nodes.flatMap((node: Node) => node.outputs))
    if (value && !outputs.has(value)) {
      const type = types.get(value);
      if (type.elem && type.shape) stated.set(value, type);
    }
  stateTypes(graph, stated);
  return [...stated.keys()].filter((value) => !known.has(value)).length;
}
