import { useWindowVirtualizer } from '@tanstack/react-virtual';
import { useEffect, useLayoutEffect, useRef, useState } from 'react';
import { Link } from 'wouter';

import { type MessageKey, useT } from '@/i18n';
import { Age, Elapsed } from '@/ui/age';
import { Meter, StateBadge } from '@/ui/basics';
import { formatMetric } from '@/ui/format';

import type { JobRow } from './list';

const WIDE_ROW = 60;
const NARROW_ROW = 108;
const NARROW = '(max-width: 60rem)';

interface Props {
  rows: JobRow[];
  hasMore: boolean;
  loadMore: () => void;
}

/** The rows that are visible on the screen; the list may have any length. */
export function JobTable({ rows, hasMore, loadMore }: Props) {
  const t = useT();
  const list = useRef<HTMLDivElement>(null);
  const [offset, setOffset] = useState(0);
  const [narrow, setNarrow] = useState(() => window.matchMedia(NARROW).matches);
  useEffect(() => {
    const query = window.matchMedia(NARROW);
    const change = () => setNarrow(query.matches);
    query.addEventListener('change', change);
    return () => query.removeEventListener('change', change);
  }, []);
  useLayoutEffect(() => setOffset(list.current?.offsetTop ?? 0), [narrow]);
  const virtual = useWindowVirtualizer({
    count: rows.length,
    estimateSize: () => (narrow ? NARROW_ROW : WIDE_ROW),
    getItemKey: (index) => rows[index]?.id ?? index,
    overscan: 8,
    scrollMargin: offset,
  });
  useEffect(() => virtual.measure(), [narrow, virtual]);
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;
  useEffect(() => {
    if (hasMore && last >= rows.length - 10) loadMore();
  }, [hasMore, last, rows.length, loadMore]);
  return (
    <div
      className="card flush job-table"
      role="table"
      aria-label={t('jobs.title')}
      aria-rowcount={hasMore ? -1 : rows.length}
    >
      <div className="job-row job-head" role="row">
        <span role="columnheader">{t('jobs.state')}</span>
        <span role="columnheader">{t('jobs.job')}</span>
        <span role="columnheader">{t('job.progress')}</span>
        <span role="columnheader">{t('jobs.submitter')}</span>
        <span role="columnheader" className="number">
          {t('job.created')}
        </span>
        <span role="columnheader" className="number">
          {t('job.runtime')}
        </span>
      </div>
      <div ref={list} role="rowgroup" style={{ height: virtual.getTotalSize(), position: 'relative' }}>
        {items.map((item) => {
          const row = rows[item.index];
          return row ? <Row key={row.id} job={row} index={item.index} top={item.start - offset} /> : null;
        })}
      </div>
    </div>
  );
}

function Row({ job, index, top }: { job: JobRow; index: number; top: number }) {
  const t = useT();
  return (
    <div className="job-row" role="row" aria-rowindex={index + 1} style={{ transform: `translateY(${top}px)` }}>
      <span role="cell" className="job-state">
        <StateBadge state={job.state} />
      </span>
      <span role="cell" className="job-name">
        <Link href={`/jobs/${job.id}`} className="job-link">
          {t(`kind.${job.kind}` as MessageKey)} · {job.source_model}
        </Link>
        <span className="small muted ellipsis">
          <code>{job.id}</code>
          {Object.entries(job.labels).map(([name, value]) => ` ${name}:${value}`)}
        </span>
      </span>
      <span role="cell" className="job-progress">
        <RowProgress job={job} />
      </span>
      <span role="cell" className="job-submitter ellipsis">
        {job.submitter}
      </span>
      <span role="cell" className="number job-age">
        <Age at={job.created_at} />
      </span>
      <span role="cell" className="number job-time">
        {job.started_at === null ? '–' : <Elapsed from={job.started_at} to={job.finished_at} />}
      </span>
    </div>
  );
}

/** The most important fact about a job in its state: why it waits, its progress, or why it failed. */
function RowProgress({ job }: { job: JobRow }) {
  const t = useT();
  if (job.state === 'failed' && job.error) {
    const message = String(job.error.message ?? job.error.code ?? '');
    return (
      <span className="small wrong ellipsis" title={message}>
        {message}
      </span>
    );
  }
  if (job.state === 'queued' && job.waiting) {
    return (
      <span className="small muted ellipsis" title={job.waiting.message}>
        {job.waiting.message}
      </span>
    );
  }
  if ((job.state === 'running' || job.state === 'cancelling') && job.progress) {
    const loss = job.progress.metrics?.loss;
    return (
      <>
        <Meter value={job.progress.fraction} label={t('job.progress')} />
        <span className="small muted tabular ellipsis">
          {(job.progress.fraction * 100).toFixed(0)}% {job.progress.stage}
          {loss !== undefined && ` · loss ${formatMetric(loss)}`}
        </span>
      </>
    );
  }
  return null;
}
