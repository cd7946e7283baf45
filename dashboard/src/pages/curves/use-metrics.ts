import { useQueries, useQuery } from '@tanstack/react-query';
import { useSyncExternalStore } from 'react';

import { call, type Schema } from '@/api/client';

import { type MetricSeries, refine } from './series';
import type { Range, ViewRange } from './view-range';

const BUCKETS = 500;

type JobMetrics = Schema<'JobMetrics'>;

function readMetrics(job: string, part: { start?: number; stop?: number }, signal: AbortSignal): Promise<JobMetrics> {
  const query = { buckets: BUCKETS, ...part };
  return call('get', '/v1/jobs/{job_id}/metrics', { path: { job_id: job }, query, signal });
}

/** A range half as wide again as the visible one, rounded so that small movements do not change it. */
function partOf([low, high]: Range): { start: number; stop: number } {
  const width = high - low;
  const grid = 2 ** Math.floor(Math.log2(Math.max(8, width)) - 2);
  const start = Math.max(0, Math.floor((low - width / 2) / grid) * grid);
  return { start, stop: Math.ceil((high + width / 2) / grid) * grid };
}

export interface Run {
  id: string;
  names: string[];
  first: number | null;
  last: number | null;
  series: Map<string, MetricSeries>;
}

/** Load the metrics of runs: coarse data for all steps, fine data for the visible range. */
export function useRuns(ids: string[], view: ViewRange): { runs: Run[]; pending: boolean; error: Error | null } {
  const range = useSyncExternalStore(view.onRest, view.getRested);
  const whole = useQueries({
    queries: ids.map((id) => ({
      queryKey: ['metrics', id],
      queryFn: ({ signal }: { signal: AbortSignal }) => readMetrics(id, {}, signal),
    })),
  });
  const part = range && partOf(range);
  const fine = useQueries({
    queries: ids.map((id) => ({
      queryKey: ['metrics', id, part],
      queryFn: ({ signal }: { signal: AbortSignal }) => readMetrics(id, part ?? {}, signal),
      enabled: part !== null,
    })),
  });
  const runs = ids.flatMap((id, at): Run[] => {
    const found = whole[at]?.data;
    if (!found) return [];
    const finer = part ? fine[at]?.data : undefined;
    const series = found.series.map((each): [string, MetricSeries] => {
      const same = finer?.series.find(({ name }) => name === each.name);
      return [each.name, part ? refine(each, same, part.start, part.stop) : each];
    });
    return [
      {
        id,
        names: found.names,
        first: found.first_step ?? null,
        last: found.last_step ?? null,
        series: new Map(series),
      },
    ];
  });
  return {
    runs,
    pending: whole.some((query) => query.isPending),
    error: whole.find((query) => query.error)?.error ?? null,
  };
}

export function useFinetunes() {
  return useQuery({
    queryKey: ['job-head', { kind: 'finetune', curves: true }],
    queryFn: async ({ signal }) =>
      (await call('get', '/v1/jobs', { query: { kind: 'finetune', limit: 50 }, signal })).data,
  });
}
