import path from 'node:path';

/** File names of models without folder and extension, where that tells them apart. */
export function shortNames(models: readonly { readonly path: string }[]): string[] {
  const names = models.map((model) => path.basename(model.path, '.onnx'));
  return new Set(names).size === names.length ? names : models.map((model) => model.path);
}
