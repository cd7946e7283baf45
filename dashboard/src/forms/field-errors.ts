import type { ApiError } from '@/api/client';

import type { Wrongs } from './draft';
import type { Field } from './schema';

/** Group the service's errors by form field. */
export function fieldErrors(error: ApiError, fields: Field[]): Wrongs {
  const { errors, error: whole } = error.problem;
  const named = errors ?? [{ param: whole.param, message: whole.message }];
  const wrongs: Wrongs = {};
  for (const { param, message } of named) {
    const path = (param ?? '').split('.').filter((part) => part !== 'body');
    const field = fields.find(({ name }) => path.includes(name));
    if (!field) continue;
    const inner = field.fields.find(({ name }) => path.includes(name));
    wrongs[inner ? `${field.name}.${inner.name}` : field.name] = { text: message };
  }
  return wrongs;
}
