import { describe, expect, it } from 'vitest';

import { KINDS as LISTED_KINDS } from '@/api/kinds';
import { type Field, KINDS, specFields } from '@/forms/schema';
import { format } from '@/i18n';
import { en } from '@/i18n/en';
import { FIELDS_ZH } from '@/i18n/fields';
import { HELP_ZH } from '@/i18n/help-zh';
import { zh } from '@/i18n/zh';

function placeholders(message: string): string[] {
  return [...new Set([...message.matchAll(/\{(\w+)/g)].map((found) => found[1] ?? ''))].sort();
}

function allFields(fields: Field[]): Field[] {
  return fields.flatMap((field) => [field, ...allFields(field.fields)]);
}

describe('message catalogues', () => {
  it('have the same keys in the same order', () => {
    expect(Object.keys(zh)).toEqual(Object.keys(en));
  });

  it.each(Object.keys(en) as (keyof typeof en)[])('%s has the same placeholders and is not empty', (key) => {
    expect(placeholders(zh[key])).toEqual(placeholders(en[key]));
    expect(zh[key].trim()).not.toBe('');
  });

  it('have a text for every kind', () => {
    expect([...LISTED_KINDS].sort()).toEqual([...KINDS].sort());
    for (const kind of KINDS) {
      expect(en).toHaveProperty([`kind.${kind}`]);
      expect(en).toHaveProperty([`kind.${kind}.help`]);
    }
  });

  it('have a Chinese label and help text for every field of every spec', () => {
    const fields = KINDS.flatMap((kind) => allFields(specFields(kind)));
    const missing = fields.filter(({ name, help }) => !(name in FIELDS_ZH) || (help !== '' && !(name in HELP_ZH)));
    expect(missing.map(({ name }) => name)).toEqual([]);
  });
});

describe('format', () => {
  it('fills in values', () => {
    expect(format('{a} of {b}', { a: 1, b: 'two' })).toBe('1 of two');
  });

  it('chooses a word by number', () => {
    expect(format('{count} {count|job|jobs}', { count: 1 })).toBe('1 job');
    expect(format('{count} {count|job|jobs}', { count: '1,000' })).toBe('1,000 jobs');
  });
});
