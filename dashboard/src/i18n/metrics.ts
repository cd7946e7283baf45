import { humanize } from '@/forms/humanize';

import type { MessageKey, Translate } from './index';

const KNOWN = new Set([
  'loss',
  'eval_loss',
  'learning_rate',
  'grad_norm',
  'tokens_per_second',
  'samples_per_second',
  'memory_bytes',
  'eta_seconds',
  'epoch',
  'step',
  'steps',
]);

/** The display name of a metric. */
export function metricLabel(name: string, t: Translate): string {
  return KNOWN.has(name) ? t(`metric.${name}` as MessageKey) : humanize(name);
}
