import type { QueryClient } from '@tanstack/react-query';

import type { Schema } from '@/api/client';
import { patchJobRows } from '@/pages/jobs/list';

import type { FeedEvent } from './feed';
import { throttle } from './throttle';

const LIST_MS = 500; // minimum time between two reloads of a list while events keep arriving
const DETAIL_MS = 250;
const METRICS_MS = 1000; // every run reports once per second; its curves are drawn together with those of others

type Job = Schema<'JobObject'>;

/** Keeps the cached data up to date: small changes come from the events themselves, the rest is reloaded. */
export class Applier {
  private readonly dirty = new Set<string>();
  private readonly grown = new Set<string>();

  constructor(private readonly client: QueryClient) {}

  readonly reset = () => {
    void this.client.invalidateQueries({ predicate: ({ queryKey }) => queryKey[0] !== 'session' });
  };

  apply(events: FeedEvent[]): void {
    for (const event of events) this.applyOne(event);
  }

  private applyOne(event: FeedEvent): void {
    const { type, job_id: job, data } = event;
    if (type === 'bulk') {
      void this.client.invalidateQueries({ queryKey: ['bulk', data.id] });
      this.refreshLists();
    }
    if (job === null) return;
    switch (type) {
      case 'progress':
        this.patchProgress(job, data as Schema<'JobProgress'>);
        break;
      case 'log':
        void this.client.invalidateQueries({ queryKey: ['log-total', job] });
        break;
      case 'metrics':
        this.grown.add(job);
        this.refreshMetrics();
        break;
      case 'state':
        patchJobRows(this.client, job, { state: data.to as Job['state'] });
        this.dirty.add(job);
        this.refreshDetails();
        this.refreshLists();
        if (data.to === 'succeeded') void this.client.invalidateQueries({ queryKey: ['models'] });
        break;
      case 'deleted':
        this.refreshLists();
        break;
    }
  }

  private patchProgress(job: string, progress: Schema<'JobProgress'>): void {
    patchJobRows(this.client, job, { progress });
    this.client.setQueryData<Job>(['job', job], (old) => (old ? { ...old, progress } : old));
  }

  private readonly refreshDetails = throttle(() => {
    for (const job of this.dirty) {
      for (const key of ['job', 'attempts', 'log-total', 'metrics'])
        void this.client.invalidateQueries({ queryKey: [key, job] });
    }
    this.dirty.clear();
  }, DETAIL_MS);

  private readonly refreshMetrics = throttle(() => {
    for (const job of this.grown) void this.client.invalidateQueries({ queryKey: ['metrics', job] });
    this.grown.clear();
  }, METRICS_MS);

  private readonly refreshLists = throttle(() => {
    void this.client.invalidateQueries({ queryKey: ['job-head'] });
    void this.client.invalidateQueries({ queryKey: ['job-counts'] });
    void this.client.invalidateQueries({ queryKey: ['running'] });
    void this.client.invalidateQueries({ queryKey: ['waiting'] });
  }, LIST_MS);
}
