import { address, call, request } from '@/api/client';
import { type Draft, toDraft } from '@/forms/draft';
import { type Kind, specFields } from '@/forms/schema';

export const PARENT_LABEL = 'cloned_from';

/** Load the form's content for a copy of a job, with its long inputs and a label with the id of the original. */
export async function clonedDraft(id: string): Promise<{ kind: Kind; draft: Draft }> {
  const job = await call('get', '/v1/jobs/{job_id}', { path: { job_id: id } });
  const spec: Record<string, unknown> = { ...job.spec };
  const described = spec.inline_input as { field: string } | null | undefined;
  if (described) {
    const response = await request(address('/v1/jobs/{job_id}/input', { job_id: id }));
    spec[described.field] = await response.json();
  }
  delete spec.output_model; // the original uses this name
  const labels = { ...(spec.labels as Record<string, string>), [PARENT_LABEL]: id };
  const kind = job.kind as Kind;
  return { kind, draft: toDraft(specFields(kind), { ...spec, labels }) };
}
