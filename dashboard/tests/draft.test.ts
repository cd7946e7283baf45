import { describe, expect, it } from 'vitest';

import { ApiError, toProblem } from '@/api/client';
import { checkDraft, toDraft, toSpec } from '@/forms/draft';
import { fieldErrors } from '@/forms/field-errors';
import { specFields } from '@/forms/schema';

const finetune = specFields('finetune');
const FILE = `file-${'0'.repeat(26)}`;

describe('specFields', () => {
  it('reads widgets, limits and defaults from the schema', () => {
    const named = Object.fromEntries(finetune.map((field) => [field.name, field]));
    expect(named.model).toMatchObject({ widget: 'model', required: true });
    expect(named.training_file).toMatchObject({ widget: 'file', required: false });
    expect(named.validation_file).toMatchObject({ widget: 'file', required: false, optional: true });
    expect(named.batch_size).toMatchObject({ widget: 'number', schema: { minimum: 1, maximum: 1024, default: 8 } });
    expect(named.lora_target_modules?.widget).toBe('choices');
    expect(named.labels?.widget).toBe('pairs');
    expect(named.resources?.fields.map(({ name }) => name)).toContain('device_memory_bytes');
    expect(named).not.toHaveProperty('kind');
  });
});

describe('checkDraft', () => {
  it('asks for required fields', () => {
    expect(checkDraft(specFields('evaluate'), { shots: '1' })).toEqual({
      model: { key: 'form.required' },
      benchmark: { key: 'form.required' },
      data_file: { key: 'form.required' },
    });
  });

  it.each([
    ['epochs', '0', 'form.above'],
    ['epochs', 'many', 'form.number'],
    ['batch_size', '1.5', 'form.integer'],
    ['batch_size', '0', 'form.minimum'],
    ['batch_size', '4096', 'form.maximum'],
    ['validation_split', '1', 'form.below'],
    ['model', 'a b', 'form.pattern'],
    ['training_file', 'file-1', 'form.file'],
  ])('finds what is wrong with %s %s', (name, value, key) => {
    const draft = { model: 'tiny', training_file: FILE, [name]: value };
    expect(checkDraft(finetune, draft)).toMatchObject({ [name]: { key } });
  });

  it('names fields of groups with dots', () => {
    const draft = { model: 'tiny', training_file: FILE, resources: { nodes: '0' } };
    expect(Object.keys(checkDraft(finetune, draft))).toEqual(['resources.nodes']);
  });
});

describe('toSpec', () => {
  it('turns what was entered into values and leaves defaults out', () => {
    const draft = {
      model: 'tiny',
      training_file: FILE,
      learning_rate: '1e-3',
      batch_size: '8',
      packing: false,
      labels: [
        ['team', 'search'],
        ['', ''],
      ],
      resources: { nodes: '1', devices: '2' },
    };
    expect(toSpec(finetune, draft)).toEqual({
      model: 'tiny',
      training_file: FILE,
      learning_rate: 0.001,
      packing: false,
      labels: { team: 'search' },
      resources: { devices: 2 },
    });
  });

  it('is the inverse of toDraft', () => {
    const generate = specFields('generate');
    const spec = {
      model: 'tiny',
      prompts: ['one', 'two'],
      temperature: 0,
      stop: ['###'],
      labels: { a: 'b' },
      resources: { labels: { room: '2' } },
    };
    expect(toSpec(generate, toDraft(generate, spec))).toEqual(spec);
  });
});

describe('fieldErrors', () => {
  it('finds the field that the service names', () => {
    const problem = toProblem(
      422,
      'Unprocessable',
      JSON.stringify({ detail: 'x', error: { message: 'x', param: null } }),
    );
    problem.errors = [
      { param: 'resources.devices', message: 'too many' },
      { param: 'epochs', message: 'must be positive' },
    ];
    expect(fieldErrors(new ApiError(problem), finetune)).toEqual({
      'resources.devices': { text: 'too many' },
      epochs: { text: 'must be positive' },
    });
  });
});
