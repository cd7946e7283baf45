import { useQuery } from '@tanstack/react-query';

import { call, type Schema } from './client';

/** Lists that several pages show; events and actions of pages invalidate them by key. */

const MAX_PAGES = 20;

interface Page<Item> {
  data: Item[];
  has_more: boolean;
  last_id: string | null;
}

/** Read all pages of a list, up to 2,000 items. */
export async function readAll<Item>(read: (after: string | undefined) => Promise<Page<Item>>): Promise<Item[]> {
  const items: Item[] = [];
  let after: string | undefined;
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const found = await read(after);
    items.push(...found.data);
    if (!found.has_more || found.last_id === null) break;
    after = found.last_id;
  }
  return items;
}

function pageQuery(after: string | undefined): { limit: number; after?: string } {
  return after === undefined ? { limit: 100 } : { limit: 100, after };
}

export function useModels() {
  return useQuery({
    queryKey: ['models'],
    queryFn: ({ signal }) =>
      readAll<Schema<'ModelObject'>>((after) => call('get', '/v1/models', { query: pageQuery(after), signal })),
  });
}

export function useFiles() {
  return useQuery({
    queryKey: ['files'],
    queryFn: async ({ signal }) => (await call('get', '/v1/files', { query: { limit: 200 }, signal })).data,
  });
}

export function useWorkers() {
  return useQuery({
    queryKey: ['workers'],
    queryFn: async ({ signal }) => (await call('get', '/v1/workers', { query: { limit: 100 }, signal })).data,
    refetchInterval: 5000, // workers report by heartbeats, for which there are no events
  });
}

export function useJob(id: string) {
  return useQuery({
    queryKey: ['job', id],
    queryFn: ({ signal }) => call('get', '/v1/jobs/{job_id}', { path: { job_id: id }, signal }),
  });
}

/** Submit a job; without `dry_run`, the response is always the job. */
export async function submitJob(spec: object, headers: Record<string, string> = {}): Promise<Schema<'JobObject'>> {
  const answer = await call('post', '/v1/jobs', { body: spec as Schema<'FinetuneSpec'>, headers });
  return answer as Schema<'JobObject'>;
}

export function isFinal(state: string): boolean {
  return state === 'succeeded' || state === 'failed' || state === 'cancelled';
}
