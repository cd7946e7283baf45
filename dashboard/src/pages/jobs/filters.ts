import type { JobConditions } from './list';

export const STATES = [
  'queued',
  'dispatched',
  'running',
  'pausing',
  'paused',
  'cancelling',
  'succeeded',
  'failed',
  'cancelled',
] as const;

/** Filters that are entered as text, under their names in the URL and the API. */
export const TEXT_FILTERS = ['id', 'error', 'label', 'field', 'submitter'] as const;
export type TextFilter = (typeof TEXT_FILTERS)[number];

/** Periods for filtering the list, in hours. */
export const PERIODS = [1, 24, 168, 720];

const SLOT_SECONDS = 60;

/** Read the filters from a URL; `since` (hours ago) becomes a time that changes once per minute. */
export function readConditions(search: URLSearchParams, now: number): JobConditions {
  const conditions: JobConditions = {};
  for (const name of ['state', 'kind', ...TEXT_FILTERS]) {
    const value = search.get(name);
    if (value) conditions[name] = value;
  }
  const since = Number(search.get('since'));
  if (since > 0) conditions.created_after = Math.floor(now / SLOT_SECONDS) * SLOT_SECONDS - since * 3600;
  return conditions;
}

/** Whether the API would accept a value for a filter. */
export function isValidFilter(name: TextFilter, value: string): boolean {
  switch (name) {
    case 'id':
      return /^[a-z0-9-]{1,64}$/.test(value);
    case 'label':
      return /^[A-Za-z0-9_.-]{1,63}:[^\0]{0,128}$/.test(value);
    case 'field':
      return /^[a-z0-9_.]{1,128}:[^\0\r\n]{1,128}$/.test(value);
    default:
      return value.length >= 1 && value.length <= 128;
  }
}

/** Add or remove a state in a comma-separated list. */
export function toggleState(states: string, state: string): string {
  const chosen = states ? states.split(',') : [];
  return (chosen.includes(state) ? chosen.filter((other) => other !== state) : [...chosen, state]).join(',');
}
