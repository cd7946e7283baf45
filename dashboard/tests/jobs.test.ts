import { describe, expect, it } from 'vitest';

import { address } from '@/api/client';
import { isValidFilter, readConditions, toggleState } from '@/pages/jobs/filters';
import { type JobRow, mergeHead } from '@/pages/jobs/list';
import { parseLines } from '@/pages/job/completions';
import { asCli, asCurl, asPython } from '@/pages/job/snippets';
import { diffSpecs } from '@/pages/job/spec-diff';
import { chunksOf } from '@/pages/log/lines';
import { orderByLineage } from '@/pages/models/lineage';
import { candidates } from '@/pages/submit/fits';
import { formatBytes, formatDuration, formatMetric, remainingSeconds } from '@/ui/format';

const rows = (...ids: number[]) => ids.map((id) => ({ id: `job-${id}`, state: 'queued' }) as JobRow);
const page = (data: JobRow[], more: boolean) => ({
  data,
  has_more: more,
  first_id: data[0]?.id ?? null,
  last_id: data.at(-1)?.id ?? null,
});
type Rows = Parameters<typeof mergeHead>[0];
const ids = (merged: Rows) => merged.pages.flatMap((each) => each.data.map((row) => row.id));

describe('mergeHead', () => {
  const old: Rows = { pages: [page(rows(9, 8, 7), true), page(rows(6, 5), false)], pageParams: [undefined, 'job-7'] };

  it('adds new jobs in front and keeps the rest', () => {
    expect(ids(mergeHead(old, page(rows(11, 10, 9), true)))).toEqual([11, 10, 9, 8, 7, 6, 5].map((id) => `job-${id}`));
  });

  it('drops jobs that the fresh head no longer has', () => {
    expect(ids(mergeHead(old, page(rows(9, 7, 6), true)))).toEqual([9, 7, 6, 5].map((id) => `job-${id}`));
  });

  it('replaces everything if the fresh head is the whole list', () => {
    expect(ids(mergeHead(old, page(rows(9), false)))).toEqual(['job-9']);
  });
});

describe('filters', () => {
  it('are read from the address', () => {
    const search = new URLSearchParams('state=failed,running&label=team:a&since=24&other=1');
    expect(readConditions(search, 1_000_030)).toEqual({
      state: 'failed,running',
      label: 'team:a',
      created_after: 1_000_020 - 86_400,
    });
  });

  it('are checked before they are sent', () => {
    expect(isValidFilter('label', 'team')).toBe(false);
    expect(isValidFilter('label', 'team:a')).toBe(true);
    expect(isValidFilter('id', 'JOB')).toBe(false);
  });

  it('toggle states', () => {
    expect(toggleState('', 'failed')).toBe('failed');
    expect(toggleState('failed,running', 'failed')).toBe('running');
  });
});

describe('snippets', () => {
  const spec = { kind: 'generate', model: 'tiny', prompts: ["it's"], temperature: 0, packing: true };

  it('quote what a shell would change', () => {
    expect(asCurl(spec, 'http://x')).toContain(`-d '{"kind":"generate","model":"tiny","prompts":["it'\\''s"]`);
    expect(asCli(spec, 'http://x').split(' \\\n  ')).toEqual([
      'baichuan submit generate --url http://x --key "$KEY"',
      '--model tiny',
      `--set 'prompts=["it'\\''s"]'`,
      '--temperature 0',
      '--packing',
    ]);
  });

  it('write Python literals', () => {
    expect(asPython(spec, 'http://x')).toContain('"packing": True,');
  });
});

describe('small parts', () => {
  it('compare specs', () => {
    const changes = diffSpecs({ a: 1, r: { n: 1 }, gone: 2 }, { a: 1, r: { n: 2 }, added: [1] });
    expect(changes).toEqual([
      { field: 'added', before: undefined, after: [1] },
      { field: 'gone', before: 2, after: undefined },
      { field: 'r.n', before: 1, after: 2 },
    ]);
  });

  it('fill addresses', () => {
    expect(address('/v1/models/{model}', { model: 'a/b' }, { limit: 2, after: undefined })).toBe(
      '/v1/models/a%2Fb?limit=2',
    );
  });

  it('read lines of completions', () => {
    expect(parseLines('{"index":0}\n{"index":1}\n').map(({ index }) => index)).toEqual([0, 1]);
  });

  it('find the chunks of lines', () => {
    expect(chunksOf(1, 500)).toEqual([0]);
    expect(chunksOf(500, 1001)).toEqual([0, 1, 2]);
  });

  it('order models by lineage, also if a base is missing or is the model itself', () => {
    const model = (id: string, base: string | null) => ({ id, base }) as Parameters<typeof orderByLineage>[0][number];
    const nodes = orderByLineage([
      model('b', 'a'),
      model('c', 'b'),
      model('a', null),
      model('x', 'gone'),
      model('s', 's'),
    ]);
    expect(nodes.map(({ model: { id }, depth }) => `${id}${depth}`)).toEqual(['a0', 'b1', 'c2', 's0', 'x0']);
  });

  it('suggest what needs less memory', () => {
    const spec = { kind: 'finetune', method: 'full', batch_size: 8 };
    expect(candidates(spec, ['tiny-nf4'])).toContainEqual({ method: 'lora' });
    expect(candidates(spec, ['tiny-nf4'])).toContainEqual({ model: 'tiny-nf4' });
    expect(candidates(spec, [])).toContainEqual({ batch_size: 4, gradient_accumulation_steps: 2 });
  });

  it('write numbers', () => {
    expect(formatBytes(1_572_864)).toBe('1.50 MiB');
    expect(formatMetric(0.000123)).toBe('1.23e-4');
    expect(formatMetric(NaN)).toBe('NaN');
    expect(formatDuration(185)).toBe('3 m 05 s');
    expect(remainingSeconds(0.25, 100, 150)).toBe(150);
  });
});
