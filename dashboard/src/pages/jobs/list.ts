import { type InfiniteData, type QueryClient, useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect } from 'react';

import { call, type Schema } from '@/api/client';

export type JobRow = Schema<'JobSummary'>;
type JobPage = Schema<'Page_JobSummary_'>;
type Rows = InfiniteData<JobPage, string | undefined>;

const FIRST_ROWS = 25; // under 30 kB
const MORE_ROWS = 100;

/** The filters of a list, under their names in the API. */
export type JobConditions = Record<string, string | number>;

/** Load the matching jobs, newest first, as far as the user has scrolled; the first rows are kept up to date. */
export function useJobRows(conditions: JobConditions) {
  const client = useQueryClient();
  const rows = useInfiniteQuery({
    queryKey: ['job-rows', conditions],
    queryFn: ({ pageParam, signal }) => readRows(conditions, pageParam, signal),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (page) => (page.has_more ? (page.last_id ?? undefined) : undefined),
    staleTime: Infinity, // only the head is reloaded; events update the rest
    placeholderData: (previous) => previous,
  });
  const head = useQuery({
    queryKey: ['job-head', conditions],
    queryFn: ({ signal }) => readRows(conditions, undefined, signal),
    enabled: rows.isSuccess,
    staleTime: 1000,
  });
  useEffect(() => {
    if (head.data === undefined) return;
    const fresh = head.data;
    client.setQueryData<Rows>(['job-rows', conditions], (old) => (old ? mergeHead(old, fresh) : old));
  }, [client, conditions, head.data]);
  return rows;
}

function readRows(conditions: JobConditions, after: string | undefined, signal: AbortSignal): Promise<JobPage> {
  const part = after === undefined ? { limit: FIRST_ROWS } : { limit: MORE_ROWS, after };
  return call('get', '/v1/jobs', { query: { ...conditions, ...part }, signal });
}

/** Replace the rows that a new head covers: add new jobs, and remove jobs that no longer match or were deleted. */
export function mergeHead(old: Rows, fresh: JobPage): Rows {
  const last = fresh.last_id;
  if (!fresh.has_more || last === null) return { pages: [fresh], pageParams: [undefined] };
  const [first, ...others] = old.pages.map((page) => ({ ...page, data: page.data.filter((row) => row.id < last) }));
  if (!first) return { pages: [fresh], pageParams: [undefined] };
  const data = [...fresh.data, ...first.data];
  const end = data.at(-1)?.id ?? null;
  return {
    ...old,
    pages: [{ ...first, data, has_more: first.has_more || first.data.length === 0, last_id: end }, ...others],
  };
}

/** Update a job in all lists that show it. */
export function patchJobRows(client: QueryClient, id: string, change: Partial<JobRow>): void {
  client.setQueriesData<Rows>({ queryKey: ['job-rows'] }, (old) => {
    if (!old?.pages.some((page) => page.data.some((row) => row.id === id))) return old;
    const patch = (row: JobRow) => (row.id === id ? { ...row, ...change } : row);
    return { ...old, pages: old.pages.map((page) => ({ ...page, data: page.data.map(patch) })) };
  });
}

export function useJobCounts(conditions: JobConditions) {
  return useQuery({
    queryKey: ['job-counts', conditions],
    queryFn: ({ signal }) => call('get', '/v1/jobs/counts', { query: conditions, signal }),
    placeholderData: (previous) => previous,
  });
}
