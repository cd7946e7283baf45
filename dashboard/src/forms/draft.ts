import type { MessageKey } from '@/i18n';

import type { Field } from './schema';

/** The user's input: numbers and JSON as text, other fields as values. Missing fields have their defaults. */
export type Draft = Record<string, unknown>;

/** The error of a field: a key of the message catalogue, or a message of the service. */
export type Wrong = { key: MessageKey; values?: Record<string, string | number> } | { text: string };
export type Wrongs = Record<string, Wrong>;

function isBlank(value: unknown): boolean {
  return value === undefined || value === null || value === '' || (Array.isArray(value) && value.length === 0);
}

function checkNumber(field: Field, text: string): Wrong | null {
  const value = Number(text);
  const { type, minimum, maximum, exclusiveMinimum, exclusiveMaximum } = field.schema;
  if (!Number.isFinite(value)) return { key: 'form.number' };
  if (type === 'integer' && !Number.isInteger(value)) return { key: 'form.integer' };
  if (minimum !== undefined && value < minimum) return { key: 'form.minimum', values: { limit: minimum } };
  if (maximum !== undefined && value > maximum) return { key: 'form.maximum', values: { limit: maximum } };
  if (exclusiveMinimum !== undefined && value <= exclusiveMinimum)
    return { key: 'form.above', values: { limit: exclusiveMinimum } };
  if (exclusiveMaximum !== undefined && value >= exclusiveMaximum)
    return { key: 'form.below', values: { limit: exclusiveMaximum } };
  return null;
}

function checkField(field: Field, value: unknown): Wrong | null {
  if (isBlank(value)) return field.required ? { key: 'form.required' } : null;
  if (field.widget === 'number') return checkNumber(field, String(value));
  if (field.widget === 'json') {
    try {
      JSON.parse(String(value));
    } catch {
      return { key: 'form.json' };
    }
  }
  const { pattern } = field.schema;
  if (pattern !== undefined && typeof value === 'string' && !new RegExp(pattern, 'u').test(value))
    return { key: field.widget === 'file' ? 'form.file' : 'form.pattern' };
  return null;
}

/** Check a draft without the service. The keys of the result are field names, with dots for fields of groups. */
export function checkDraft(fields: Field[], draft: Draft, prefix = ''): Wrongs {
  const wrongs: Wrongs = {};
  for (const field of fields) {
    const value = draft[field.name];
    if (field.widget === 'group') {
      Object.assign(wrongs, checkDraft(field.fields, (value as Draft | undefined) ?? {}, `${prefix}${field.name}.`));
      continue;
    }
    const wrong = checkField(field, value);
    if (wrong) wrongs[prefix + field.name] = wrong;
  }
  return wrongs;
}

function toValue(field: Field, value: unknown): unknown {
  switch (field.widget) {
    case 'number':
      return Number(value);
    case 'json':
      return JSON.parse(String(value));
    case 'lines':
      return String(value)
        .split('\n')
        .filter((line) => line !== '');
    case 'group': {
      const spec = toSpec(field.fields, value as Draft);
      return Object.keys(spec).length > 0 ? spec : undefined;
    }
    case 'pairs': {
      const pairs = (value as [string, string][]).filter(([key]) => key !== '');
      return pairs.length > 0 ? Object.fromEntries(pairs) : undefined;
    }
    default:
      return value;
  }
}

/** Convert a valid draft to a spec. Values equal to the default are omitted. */
export function toSpec(fields: Field[], draft: Draft): Record<string, unknown> {
  const spec: Record<string, unknown> = {};
  for (const field of fields) {
    if (isBlank(draft[field.name])) continue;
    const value = toValue(field, draft[field.name]);
    if (value !== undefined && JSON.stringify(value) !== JSON.stringify(field.schema.default)) spec[field.name] = value;
  }
  return spec;
}

function toEntered(field: Field, value: unknown): unknown {
  switch (field.widget) {
    case 'number':
      return String(value);
    case 'json':
      return JSON.stringify(value, null, 2);
    case 'lines':
      return (value as string[]).join('\n');
    case 'group':
      return toDraft(field.fields, value as Record<string, unknown>);
    case 'pairs':
      return Object.entries(value as Record<string, string>);
    default:
      return value;
  }
}

/** Convert a recorded spec to a draft; fields with default values stay empty. */
export function toDraft(fields: Field[], spec: Record<string, unknown>): Draft {
  const draft: Draft = {};
  for (const field of fields) {
    const value = spec[field.name];
    if (isBlank(value) || JSON.stringify(value) === JSON.stringify(field.schema.default)) continue;
    draft[field.name] = toEntered(field, value);
  }
  return draft;
}
