import { useQueries } from '@tanstack/react-query';
import { Link } from 'wouter';

import { call } from '@/api/client';
import { useT } from '@/i18n';
import { Age } from '@/ui/age';
import { Card, Empty, ErrorNotice, PageHead, Skeleton, StateBadge } from '@/ui/basics';
import { useSearchState } from '@/ui/search-state';

import { shownValue } from '../job/spec-diff';
import { Curves } from './curves';
import { differingFields } from './differences';
import { useFinetunes } from './use-metrics';

const MAX_RUNS = 8;

/** Compare runs: their curves in shared charts, and the fields in which their specs differ. */
export default function ComparePage() {
  const t = useT();
  const [search, change] = useSearchState();
  const chosen = (search.get('runs') ?? '').split(',').filter(Boolean).slice(0, MAX_RUNS);
  const toggle = (id: string) => {
    const next = chosen.includes(id) ? chosen.filter((other) => other !== id) : [...chosen, id];
    change({ runs: next.join(',') });
  };
  return (
    <>
      <PageHead title={t('nav.curves')} note={t('curves.note')} />
      <div className="stack">
        <Picker chosen={chosen} toggle={toggle} />
        {chosen.length > 1 && <Differences ids={chosen} />}
        {chosen.length > 0 && <Curves key={chosen.join()} ids={chosen} />}
      </div>
    </>
  );
}

function Picker({ chosen, toggle }: { chosen: string[]; toggle: (id: string) => void }) {
  const t = useT();
  const runs = useFinetunes();
  if (runs.isPending) return <Skeleton lines={3} />;
  if (runs.isError) return <ErrorNotice error={runs.error} retry={() => void runs.refetch()} />;
  if (runs.data.length === 0)
    return (
      <Empty
        title={t('curves.noRuns')}
        action={
          <Link className="button primary" href="/submit?kind=finetune">
            {t('submit.title')}
          </Link>
        }
      />
    );
  return (
    <details className="card" open={chosen.length === 0 || undefined}>
      <summary>{t('curves.runs', { count: chosen.length })}</summary>
      <ul className="stack-small">
        {runs.data.map((run) => (
          <li key={run.id} className="row">
            <label className="check grow">
              <input
                type="checkbox"
                checked={chosen.includes(run.id)}
                disabled={!chosen.includes(run.id) && chosen.length >= MAX_RUNS}
                onChange={() => toggle(run.id)}
              />
              <span className="ellipsis">
                <code>{run.id.slice(-8)}</code> {run.source_model}
              </span>
            </label>
            <StateBadge state={run.state} />
            <span className="small muted">
              <Age at={run.created_at} />
            </span>
          </li>
        ))}
      </ul>
    </details>
  );
}

function Differences({ ids }: { ids: string[] }) {
  const t = useT();
  const jobs = useQueries({
    queries: ids.map((id) => ({
      queryKey: ['job', id],
      queryFn: ({ signal }: { signal: AbortSignal }) =>
        call('get', '/v1/jobs/{job_id}', { path: { job_id: id }, signal }),
    })),
  });
  const specs = jobs.map((job) => job.data?.spec);
  if (specs.some((spec) => spec === undefined)) return null;
  const fields = differingFields(specs as Record<string, unknown>[]);
  return (
    <Card title={t('curves.differences')}>
      {fields.length === 0 ? (
        <p className="muted">{t('spec.equal')}</p>
      ) : (
        <div className="table-scroll" tabIndex={0} role="region" aria-label={t('curves.differences')}>
          <table>
            <thead>
              <tr>
                <th>{t('spec.field')}</th>
                {ids.map((id, at) => (
                  <th key={id}>
                    <span className="row">
                      <span className={`swatch tone-${at + 1}`} />
                      <Link href={`/jobs/${id}`}>{id.slice(-8)}</Link>
                    </span>
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {fields.map(({ field, values }) => (
                <tr key={field}>
                  <td>
                    <code>{field}</code>
                  </td>
                  {values.map((value, at) => (
                    <td key={at} className="mono">
                      {shownValue(value)}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Card>
  );
}
