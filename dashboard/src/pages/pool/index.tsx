import { useQueries, useQuery } from '@tanstack/react-query';
import { Link } from 'wouter';

import { call, type Schema } from '@/api/client';
import { useWorkers } from '@/api/queries';
import { type MessageKey, useT } from '@/i18n';
import { Age } from '@/ui/age';
import { Card, Empty, ErrorNotice, PageHead, Skeleton } from '@/ui/basics';
import { CodeBlock } from '@/ui/copy';

import { WorkerCard } from './worker-card';

const MAX_RUNNING = 100;
const MAX_WAITING = 25;

export interface Placed {
  job: Schema<'JobSummary'>;
  allocations: Schema<'AllocationObject'>[];
}

/** Running jobs with the devices of their latest attempt. */
function useRunning() {
  const jobs = useQuery({
    queryKey: ['running'],
    queryFn: async ({ signal }) =>
      (
        await call('get', '/v1/jobs', {
          query: { state: 'dispatched,running,pausing,cancelling', limit: MAX_RUNNING },
          signal,
        })
      ).data,
  });
  const attempts = useQueries({
    queries: (jobs.data ?? []).map((job) => ({
      queryKey: ['attempts', job.id],
      queryFn: async ({ signal }: { signal: AbortSignal }) =>
        (await call('get', '/v1/jobs/{job_id}/attempts', { path: { job_id: job.id }, query: { limit: 100 }, signal }))
          .data,
    })),
  });
  const placed = (jobs.data ?? []).map((job, at): Placed => ({
    job,
    allocations: attempts[at]?.data?.at(-1)?.allocations ?? [],
  }));
  return { placed, error: jobs.error };
}

function useWaiting() {
  return useQuery({
    queryKey: ['waiting'],
    queryFn: ({ signal }) => call('get', '/v1/jobs', { query: { state: 'queued', limit: MAX_WAITING }, signal }),
  });
}

/** The machines, the jobs and the load of each device, and the waiting jobs. */
export default function PoolPage() {
  const t = useT();
  const workers = useWorkers();
  const { placed, error } = useRunning();
  return (
    <>
      <PageHead title={t('nav.pool')} note={t('pool.note')} />
      <div className="stack">
        {workers.isPending && <Skeleton lines={2} height={180} />}
        {workers.isError && <ErrorNotice error={workers.error} retry={() => void workers.refetch()} />}
        {error && <ErrorNotice error={error} />}
        {workers.data?.length === 0 && (
          <Empty title={t('pool.none')} action={<CodeBlock text="baichuan worker" label={t('pool.none')} />}>
            {t('pool.none.text')}
          </Empty>
        )}
        <div className="machines">
          {workers.data?.map((worker) => (
            <WorkerCard key={worker.id} worker={worker} placed={placed} />
          ))}
        </div>
        <Waiting />
      </div>
    </>
  );
}

function Waiting() {
  const t = useT();
  const waiting = useWaiting();
  if (waiting.isPending) return <Skeleton lines={3} />;
  if (waiting.isError) return <ErrorNotice error={waiting.error} retry={() => void waiting.refetch()} />;
  return (
    <Card title={t('pool.waiting')}>
      {waiting.data.data.length === 0 && <p className="muted">{t('pool.waiting.none')}</p>}
      <ul className="stack-small">
        {waiting.data.data.map((job) => (
          <li key={job.id} className="waiting">
            <Link href={`/jobs/${job.id}`}>
              {t(`kind.${job.kind}` as MessageKey)} · {job.source_model}
            </Link>
            <span className="small muted">{job.waiting?.message ?? t('pool.waiting.next')}</span>
            <span className="small muted number">
              <Age at={job.created_at} />
            </span>
          </li>
        ))}
      </ul>
      {waiting.data.has_more && <Link href="/jobs?state=queued">{t('pool.waiting.all')}</Link>}
    </Card>
  );
}
