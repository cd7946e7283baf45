import { call, type Schema } from '@/api/client';
import { isFinal, submitJob } from '@/api/queries';
import { uploadFile } from '@/forms/upload';

import conversations from '../../../../examples/conversations.json?raw';

type Job = Schema<'JobObject'>;

export interface SampleStep {
  name: 'finetune' | 'generate';
  job: Job | null;
}

const POLL_MS = 1000;

/** The model to teach: the sample checkpoint if it is registered, otherwise the smallest one that is not quantized. */
export function chooseSampleModel(models: Schema<'ModelObject'>[]): Schema<'ModelObject'> | undefined {
  const whole = models.filter(
    ({ kind, details }) => kind === 'checkpoint' && !('quantization' in details && details.quantization),
  );
  const size = (model: Schema<'ModelObject'>) => Number((model.details as { bytes?: number }).bytes ?? Infinity);
  return whole.find(({ id }) => id.startsWith('tiny')) ?? whole.toSorted((a, b) => size(a) - size(b))[0];
}

async function submitAndWait(spec: object, show: (job: Job) => void): Promise<Job> {
  let job = await submitJob(spec);
  show(job);
  while (!isFinal(job.state)) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    job = await call('get', '/v1/jobs/{job_id}', { path: { job_id: job.id } });
    show(job);
  }
  return job;
}

/** The first question of each sample conversation. */
export function sampleQuestions(): { role: 'user'; content: string }[][] {
  const parsed = JSON.parse(conversations) as { conversations: { from: string; value: string }[] }[];
  return parsed.flatMap(({ conversations: [first] }) =>
    first ? [[{ role: 'user' as const, content: first.value }]] : [],
  );
}

/** Fine-tune the model on the sample answers, then ask it; report each step. */
export async function runSample(model: string, show: (steps: SampleStep[]) => void): Promise<void> {
  const steps: SampleStep[] = [{ name: 'finetune', job: null }];
  const update = (at: number, name: SampleStep['name']) => (job: Job) => {
    steps[at] = { name, job };
    show([...steps]);
  };
  show([...steps]);
  const file = new File([conversations], 'sample-conversations.json', { type: 'application/json' });
  const { id } = await uploadFile(file, 'fine-tune', () => undefined, new AbortController().signal);
  const tuned = await submitAndWait(
    {
      kind: 'finetune',
      model,
      training_file: id,
      method: 'full',
      epochs: 60,
      learning_rate: 0.003,
      scheduler: 'cosine',
      warmup_ratio: 0.05,
      weight_decay: 0,
      max_length: 128,
      seed: 0,
      labels: { example: 'sample-workflow' },
    },
    update(0, 'finetune'),
  );
  if (tuned.state !== 'succeeded' || !tuned.model) return;
  await submitAndWait(
    {
      kind: 'generate',
      model: tuned.model,
      conversations: sampleQuestions(),
      max_new_tokens: 64,
      temperature: 0,
      labels: { example: 'sample-workflow' },
    },
    update(1, 'generate'),
  );
}
