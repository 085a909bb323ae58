/**
 * What private inference with garbled circuits pays for a network's nonlinear layers, as far as the graph tells.
 *
 * In DELPHI (Mishra et al., USENIX Security 2020) and its successors every ReLU of every inference has a garbled circuit
 * of its own, made and stored before the input is known. 17.5 KB for each is the figure that the literature quotes. It
 * agrees with measurements of DELPHI's implementation: 18,248 bytes that the evaluating party stores for a ReLU, 15,896 of
 * them the circuit and the rest wire labels (Garimella et al., ASPLOS 2023, doi 10.1145/3582016.3582065; artifact in
 * kvgarimella/cryptonite).
 */
import { type ActivationKind, RELU_FAMILY } from './poly/activations.ts';

/** Bytes of one garbled ReLU; a KB is 1000 bytes. */
export const GARBLED_RELU_BYTES = 17_500;

/** For one input; null where a shape is not known. */
export interface PrivateInference {
  /** Elements that pass through ReLU and its family (see `RELU_FAMILY`). */
  readonly reluElements: number | null;
  /** Elements that pass through other activations, whose circuits are others. */
  readonly otherElements: number | null;
  /** Storage of the garbled circuits of the ReLU elements alone. */
  readonly garbledBytes: number | null;
}

/** The part of an activation site that counts. */
export interface CountedSite {
  readonly kind: ActivationKind;
  /** For one input. */
  readonly elements: number | null;
  readonly calls: number;
}

export function privateInference(sites: readonly CountedSite[]): PrivateInference {
  const isRelu = ({ kind }: CountedSite) => RELU_FAMILY.includes(kind);
  const reluElements = totalElements(sites.filter(isRelu));
  return {
    reluElements,
    otherElements: totalElements(sites.filter((site) => !isRelu(site))),
    garbledBytes: reluElements === null ? null : GARBLED_RELU_BYTES * reluElements,
  };
}

/** Elements of all sites for one input; null where a shape is not known. */
export function totalElements(sites: readonly Omit<CountedSite, 'kind'>[]): number | null {
  let total = 0;
  for (const { elements, calls } of sites) {
    if (elements === null) return null;
    total += elements * calls;
  }
  return total;
}
