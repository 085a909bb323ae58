/**
 * Before: inputs whose leading dimension is symbolic
 * After:  that dimension is 1, in all that the file states
 * Conditions: every other dimension of every input is a number, or it stays and is named
 * Algebra: none, one row at a time
 */
import { dropValueInfo, setType } from '../graph/edit.ts';
import { inferTypes } from '../graph/shapes.ts';
import type { Change, Pass, Skip } from './pass.ts';

export const setStatic: Pass = {
  name: 'set-static',
  summary: 'Fix the batch at 1, for compilers that want every size as a number',
  exact: true,
  run(model) {
    const applied: Change[] = [];
    const skipped: Skip[] = [];
    for (const { value } of model.graph.inputs) {
      const shape = value.declared?.shape;
      if (value.initializer || !value.declared || !shape?.length) continue;
      const [batch, ...rest] = shape;
      if (rest.some((dim) => typeof dim !== 'number'))
        skipped.push({ site: value.name, reason: `[${shape.map((dim) => dim ?? '?')}] has other open dimensions` });
      else if (typeof batch === 'number' && batch !== 1)
        skipped.push({ site: value.name, reason: `its batch is ${batch}: run set-batch first` });
      else if (typeof batch !== 'number') {
        setType(value, { ...value.declared, shape: [1, ...rest] });
        applied.push({ site: value.name, detail: `[${shape.map((dim) => dim ?? '?')}] -> [${[1, ...rest]}]` });
      }
    }
    if (applied.length === 0) return { pass: setStatic.name, applied, skipped };
    // What the file states of other values names the dimension that is gone.
    dropValueInfo(model.graph, () => true);
    for (const { value } of model.graph.outputs) setType(value, { ...(value.declared ?? { elem: null }), shape: null });
    const types = inferTypes(model);
    for (const { value } of model.graph.outputs) setType(value, types.get(value));
    return { pass: setStatic.name, applied, skipped };
  },
};
