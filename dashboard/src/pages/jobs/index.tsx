import { lazy, Suspense, useMemo, useState } from 'react';
import { Link } from 'wouter';

import { useT } from '@/i18n';
import { Empty, ErrorNotice, PageHead, Skeleton } from '@/ui/basics';
import { useNow } from '@/ui/clock';
import { formatCount } from '@/ui/format';
import { useSearchState } from '@/ui/search-state';

import { FilterBar } from './filter-bar';
import { readConditions } from './filters';
import { type JobConditions, useJobCounts, useJobRows } from './list';
import { JobTable } from './table';

const BulkDialog = lazy(() => import('./bulk-dialog'));
const SampleWorkflow = lazy(() => import('./sample'));

/** All jobs of the project. */
export default function JobsPage() {
  const t = useT();
  const [search, change] = useSearchState();
  const minute = Math.floor(useNow() / 60);
  const conditions = useMemo(() => readConditions(search, minute * 60), [search, minute]);
  const counts = useJobCounts(withoutState(conditions));
  const rows = useJobRows(conditions);
  const [bulk, setBulk] = useState(false);
  const filtered = Object.keys(conditions).length > 0;
  const shown = rows.data?.pages.flatMap((page) => page.data) ?? [];
  const [sample, setSample] = useState(false);
  const isNew = !filtered && rows.isSuccess && shown.length === 0;
  const total = counts.data && countMatching(counts.data.states, String(conditions.state ?? ''));
  return (
    <>
      <PageHead
        title={t('jobs.title')}
        note={total === undefined ? ' ' : t('jobs.count', { count: formatCount(total) })}
      >
        {!isNew && (
          <button type="button" className="button" onClick={() => setBulk(true)}>
            {t('bulk.open')}
          </button>
        )}
        <Link href="/submit" className="button primary">
          {t('submit.title')}
        </Link>
      </PageHead>
      {(isNew || sample) && (
        <Suspense fallback={<Skeleton lines={3} height={64} />}>
          <SampleWorkflow started={() => setSample(true)} />
        </Suspense>
      )}
      {!isNew && (
        <div className="stack">
          <FilterBar search={search} change={change} counts={counts.data} />
          {rows.isPending && <Skeleton lines={10} height={52} />}
          {rows.isError && <ErrorNotice error={rows.error} retry={() => void rows.refetch()} />}
          {rows.isSuccess && shown.length === 0 && <Empty title={t('jobs.none')}>{t('jobs.none.text')}</Empty>}
          {shown.length > 0 && (
            <JobTable rows={shown} hasMore={rows.hasNextPage} loadMore={() => void rows.fetchNextPage()} />
          )}
        </div>
      )}
      {bulk && (
        <Suspense>
          <BulkDialog conditions={conditions} close={() => setBulk(false)} />
        </Suspense>
      )}
    </>
  );
}

/** The filter by state. It shows the number of jobs in each state, so the counts ignore the selected states. */
function withoutState(conditions: JobConditions): JobConditions {
  return Object.fromEntries(Object.entries(conditions).filter(([name]) => name !== 'state'));
}

function countMatching(states: Record<string, number>, chosen: string): number {
  const wanted = chosen ? chosen.split(',') : Object.keys(states);
  return wanted.reduce((sum, state) => sum + (states[state] ?? 0), 0);
}
