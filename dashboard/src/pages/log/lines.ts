import { useQueries, useQuery } from '@tanstack/react-query';

import { call, type Schema } from '@/api/client';

export type LogLine = Schema<'LogLine'>;

const TAIL_LINES = 200;
const CHUNK_LINES = 500;

/** The end of a log and its number of lines; reloaded with each event about new lines. */
export function useTail(job: string) {
  return useQuery({
    queryKey: ['log-total', job],
    queryFn: ({ signal }) =>
      call('get', '/v1/jobs/{job_id}/logs/lines', { path: { job_id: job }, query: { limit: TAIL_LINES }, signal }),
  });
}

/** The indices of the chunks that contain a range of lines. */
export function chunksOf(first: number, last: number): number[] {
  const start = Math.floor((first - 1) / CHUNK_LINES);
  const end = Math.floor((Math.max(first, last) - 1) / CHUNK_LINES);
  return Array.from({ length: end - start + 1 }, (_, index) => start + index);
}

/** Lines `first` to `last` by number, as far as they are loaded; those of the tail need no request. */
export function useLines(job: string, first: number, last: number, tail: LogLine[]): Map<number, LogLine> {
  const tailStart = tail[0]?.number ?? Infinity;
  const wanted = first >= tailStart ? [] : chunksOf(first, Math.min(last, tailStart - 1));
  const chunks = useQueries({
    queries: wanted.map((chunk) => ({
      queryKey: ['log-chunk', job, chunk],
      queryFn: ({ signal }: { signal: AbortSignal }) =>
        call('get', '/v1/jobs/{job_id}/logs/lines', {
          path: { job_id: job },
          query: { first: chunk * CHUNK_LINES + 1, limit: CHUNK_LINES },
          signal,
        }),
      staleTime: Infinity, // lines before the tail no longer change
    })),
  });
  const lines = new Map<number, LogLine>();
  for (const chunk of chunks) for (const line of chunk.data?.data ?? []) lines.set(line.number, line);
  for (const line of tail) lines.set(line.number, line);
  return lines;
}
