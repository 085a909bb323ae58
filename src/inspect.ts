/** What is in a model, as data: for `inspect`, and for the before/after table of `rewrite`. */
import { statSync } from 'node:fs';
import { type Cost, cost } from './graph/cost.ts';
import type { Dim, ElementType, Model, Port } from './graph/ir.ts';
import { readModel } from './graph/read.ts';
import { inferTypes, type Types } from './graph/shapes.ts';
import { verify } from './graph/verify.ts';
import { findActivations } from './passes/activation-sites.ts';
import type { Skip } from './passes/pass.ts';
import { type PrivateInference, privateInference, totalElements } from './pi-cost.ts';
import type { ActivationKind } from './poly/activations.ts';

export interface ValueSummary {
  readonly name: string;
  readonly elem: ElementType | null;
  readonly shape: readonly Dim[] | null;
}

export interface SiteSummary extends ValueSummary {
  readonly kind: ActivationKind;
  readonly activation: string;
  /** Elements for one input; null where the shape is not known. */
  readonly elements: number | null;
  /** How often one run evaluates it; above 1 only inside functions. */
  readonly calls: number;
}

export interface ModelSummary extends Cost {
  readonly irVersion: number;
  readonly opsets: Readonly<Record<string, number>>;
  readonly producer: string;
  readonly inputs: readonly ValueSummary[];
  readonly outputs: readonly ValueSummary[];
  readonly functions: number;
  readonly sites: readonly SiteSummary[];
  /** Activations that `rewrite` would leave alone, and why. */
  readonly refused: readonly Skip[];
  /** Elements that pass through activations for one input, where all shapes are known. */
  readonly activationElements: number | null;
  /** What interactive protocols pay; what homomorphic schemes pay is in `depth` and `multiplications`. */
  readonly privateInference: PrivateInference;
  /** What is wrong with the model; empty for a valid one. */
  readonly problems: readonly string[];
}

export interface InspectedModel extends ModelSummary {
  readonly path: string;
  /** Bytes of the file, external data not included. */
  readonly size: number;
}

/**
 * Reads and summarises models.
 * @throws SisyphusError where one can't be read; a model that reads but is not valid is reported with its problems
 */
export function inspect(files: readonly string[]): { models: InspectedModel[] } {
  const models = files.map((path) => ({
    path,
    size: statSync(path, { throwIfNoEntry: false })?.size ?? 0,
    ...summarize(readModel(path)),
  }));
  return { models };
}

export function summarize(model: Model): ModelSummary {
  const types = inferTypes(model);
  const problems = verify(model);
  // A broken model is described as far as it can be.
  const { sites, refused } = problems.length === 0 ? findActivations(model, types) : { sites: [], refused: [] };
  const { producer_name: producer = '', producer_version: version = '' } = model.proto;
  const summaries = sites.map((site): SiteSummary => {
    const shape = types.get(site.output).shape;
    return {
      name: site.name,
      kind: site.kind,
      activation: site.activations[0]?.label ?? site.kind,
      elem: site.elem,
      shape,
      elements: elementsPerInput(shape, model, types),
      calls: site.calls,
    };
  });
  return {
    ...cost(model, types),
    irVersion: model.irVersion,
    opsets: Object.fromEntries([...model.opsets].map(([domain, number]) => [domain || 'ai.onnx', number])),
    producer: `${producer} ${version}`.trim(),
    inputs: model.graph.inputs.filter(({ value }) => !value.initializer).map((port) => describe(port, types)),
    outputs: model.graph.outputs.map((port) => describe(port, types)),
    functions: model.functions.length,
    sites: summaries,
    refused,
    activationElements: totalElements(summaries),
    privateInference: privateInference(summaries),
    problems,
  };
}

const describe = ({ value }: Port, types: Types): ValueSummary => ({ name: value.name, ...types.get(value) });

/** The product of the dimensions, with the batch (the first input's leading dimension) as 1. */
function elementsPerInput(shape: readonly Dim[] | null, model: Model, types: Types): number | null {
  if (!shape) return null;
  const input = model.graph.inputs.find(({ value }) => !value.initializer)?.value;
  const batch = input && types.get(input).shape?.[0];
  const sizes = shape.map((dim, axis) =>
    axis === 0 && shape.length > 1 && (dim === batch || typeof dim !== 'number') ? 1 : dim,
  );
  return sizes.every((size) => typeof size === 'number') ? sizes.reduce((a, b) => a * b, 1) : null;
}
