/**
 * Plans of partial replacement: what `sisyphus plan` writes and `rewrite --plan` reads. Loaded only where one is read: zod
 * takes longer to load than a small model.
 */
import { z } from 'zod';
import { SisyphusError } from '../errors.ts';

const kept = z.object({ keep: z.literal('all') });
const replaced = z.object({
  /** As `formatPolynomial` writes them: one, or one for each channel (axis 1); those of kept channels are not used. */
  polynomials: z.array(z.string()).min(1),
  /** Channels (axis 1) that keep their activation. */
  keep: z.array(z.number().int().nonnegative()).optional(),
});
const planSchema = z.looseObject({
  plan: z.literal(1),
  /** The file that it was made for, without its folders. */
  model: z.string().optional(),
  method: z.string().optional(),
  budget: z.string().optional(),
  sites: z.record(z.string(), z.union([kept, replaced])),
});

/** The file as it stands. Sites that it does not name keep their activation. */
export type PlanFile = z.infer<typeof planSchema>;
export type SitePlan = PlanFile['sites'][string];

/** Reads a plan. @throws SisyphusError `file` */
export function parsePlan(json: string, where: string): PlanFile {
  let data: unknown;
  try {
    data = JSON.parse(json);
  } catch (cause) {
    throw new SisyphusError('file', `${where}: not JSON (${(cause as Error).message})`, { cause });
  }
  const result = planSchema.safeParse(data);
  if (!result.success) {
    const issue = result.error.issues[0];
    throw new SisyphusError(
      'file',
      `${where}: ${issue?.path.join('.') ?? ''}: ${issue?.message}; \`sisyphus plan\` writes such files: {"plan": 1, "sites": {NAME: {"polynomials": [...], "keep": [...]} or {"keep": "all"}}}`,
    );
  }
  return result.data;
}
