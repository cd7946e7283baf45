import { call, type Schema } from '@/api/client';

export type Estimate = Schema<'EstimateObject'>;
export type Spec = Record<string, unknown>;

/** A change of a spec that reduces the memory it needs. */
export interface Remedy {
  change: Spec;
  total: number;
}

/** A placeholder: specs require a file id, but estimates do not depend on the file. */
const NO_FILE = `file-${'0'.repeat(26)}`;

/** Add placeholders for required fields that the user has not entered yet, so that the spec can be estimated. */
export function completeForEstimate(kind: string, spec: Spec): Spec {
  switch (kind) {
    case 'finetune':
      return spec.training_files ? { ...spec, kind } : { training_file: NO_FILE, ...spec, kind };
    case 'evaluate':
      return { data_file: NO_FILE, benchmark: 'perplexity', ...spec, kind };
    case 'convert':
      return { target: 'safetensors', ...spec, kind };
    case 'generate': {
      const given = ['prompts', 'conversations', 'input_file'].some((name) => spec[name] !== undefined);
      return given ? { ...spec, kind } : { ...spec, kind, prompts: [' '] };
    }
    default:
      return { ...spec, kind };
  }
}

export function estimate(spec: Spec, signal?: AbortSignal): Promise<Estimate> {
  const body = spec as unknown as Schema<'FinetuneSpec'>;
  return call('post', '/v1/estimates', signal ? { body, signal } : { body });
}

const half = (value: unknown, fallback: number): number => Math.max(1, Math.floor(Number(value ?? fallback) / 2));

/** Changes to try, starting with the one that affects the result least. */
export function candidates(spec: Spec, smaller: string[]): Spec[] {
  const models = smaller.map((model) => ({ model }));
  switch (spec.kind) {
    case 'finetune': {
      const batch = half(spec.batch_size, 8);
      const accumulated = Number(spec.gradient_accumulation_steps ?? 1) * 2;
      return [
        ...(spec.gradient_checkpointing === true ? [] : [{ gradient_checkpointing: true }]),
        { batch_size: batch, gradient_accumulation_steps: accumulated },
        { gradient_checkpointing: true, batch_size: 1, gradient_accumulation_steps: Number(spec.batch_size ?? 8) },
        ...(spec.method === 'full' ? [{ method: 'lora' }, { method: 'lora', gradient_checkpointing: true }] : []),
        { max_length: Math.max(8, half(spec.max_length, 512)) },
        ...models,
      ];
    }
    case 'generate':
      return [{ batch_size: half(spec.batch_size, 32) }, { batch_size: 1 }, ...models];
    case 'evaluate':
      return [{ batch_tokens: half(spec.batch_tokens, 16_384) }, { batch_tokens: 2048 }, ...models];
    case 'quantize':
      return [{ quality_report: false }, ...(spec.calibration ? [{ calibration: false }] : [])];
    default:
      return [];
  }
}

/** Find the first few changes with which the job fits into `bytes`. */
export async function findRemedies(
  spec: Spec,
  bytes: number,
  smaller: string[],
  signal: AbortSignal,
): Promise<Remedy[]> {
  const found: Remedy[] = [];
  for (const change of candidates(spec, smaller)) {
    try {
      const { total_bytes: total } = await estimate({ ...spec, ...change }, signal);
      if (total <= bytes) found.push({ change, total });
    } catch (error) {
      if (signal.aborted) throw error; // a change that makes the spec invalid is skipped
    }
    if (found.length === 3) break;
  }
  return found;
}
