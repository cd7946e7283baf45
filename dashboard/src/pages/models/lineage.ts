import type { Schema } from '@/api/client';

type Model = Schema<'ModelObject'>;

export interface Node {
  model: Model;
  depth: number;
}

/** Sort models as a tree: each below the model it was derived from, siblings by name. */
export function orderByLineage(models: Model[]): Node[] {
  const known = new Set(models.map(({ id }) => id));
  const children = new Map<string | null, Model[]>();
  for (const model of models) {
    const parent = model.base !== null && known.has(model.base) && model.base !== model.id ? model.base : null;
    children.set(parent, [...(children.get(parent) ?? []), model]);
  }
  const nodes: Node[] = [];
  const visit = (parent: string | null, depth: number) => {
    for (const model of (children.get(parent) ?? []).toSorted((a, b) => a.id.localeCompare(b.id))) {
      nodes.push({ model, depth });
      visit(model.id, depth + 1);
    }
  };
  visit(null, 0);
  return nodes;
}

/** The precision of a model in one word: its quantization or its dtype. */
export function precisionOf(model: Model): string {
  const { details } = model;
  if ('quantization' in details && details.quantization) return String(details.quantization);
  const precision = 'precision' in details ? (details.precision as { dtype?: string } | null) : null;
  if ('lora_rank' in details && details.lora_rank) return `LoRA r=${String(details.lora_rank)}`;
  return precision?.dtype ?? '–';
}

/** The quality of a model relative to the one it was derived from, as measured by the job that created it. */
export function measuredQuality(
  job: Schema<'JobObject'> | undefined,
): { perplexity: number | null; kl: number | null } | null {
  const result = job?.result;
  if (!result || !('quality' in result) || !result.quality) return null;
  const { models } = result.quality as Schema<'QuantizationQuality'>;
  const made = models.at(-1);
  return made ? { perplexity: made.perplexity ?? null, kl: made.kl_divergence ?? null } : null;
}
