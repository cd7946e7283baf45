import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { Link } from 'wouter';

import { call, type Schema } from '@/api/client';
import { useT } from '@/i18n';
import { Card, ErrorNotice } from '@/ui/basics';
import { CodeBlock } from '@/ui/copy';

import { PARENT_LABEL } from '../submit/clone';
import { diffSpecs, shownValue } from './spec-diff';

/** The recorded spec with all defaults, and its differences from another job's. */
export function SpecView({ job }: { job: Schema<'JobObject'> }) {
  const t = useT();
  const [other, setOther] = useState(job.labels[PARENT_LABEL] ?? '');
  return (
    <div className="stack">
      <Card title={t('spec.compare')}>
        <div className="stack">
          <div className="field">
            <label htmlFor="other-job">{t('spec.other')}</label>
            <input
              id="other-job"
              className="mono"
              placeholder="job-…"
              value={other}
              spellCheck={false}
              onChange={(event) => setOther(event.target.value.trim())}
            />
          </div>
          {/^job-[0-9a-z]{26}$/.test(other) && <Difference job={job} other={other} />}
        </div>
      </Card>
      <Card title={t('spec.recorded')}>
        <CodeBlock text={JSON.stringify(job.spec, null, 2)} wrap label={t('spec.recorded')} />
      </Card>
    </div>
  );
}

function Difference({ job, other }: { job: Schema<'JobObject'>; other: string }) {
  const t = useT();
  const parent = useQuery({
    queryKey: ['job', other],
    queryFn: ({ signal }) => call('get', '/v1/jobs/{job_id}', { path: { job_id: other }, signal }),
  });
  if (parent.isError) return <ErrorNotice error={parent.error} />;
  if (!parent.data) return null;
  const changes = diffSpecs(parent.data.spec, job.spec);
  if (changes.length === 0) return <p className="muted">{t('spec.equal')}</p>;
  return (
    <div className="table-scroll" tabIndex={0} role="region" aria-label={t('spec.compare')}>
      <table>
        <thead>
          <tr>
            <th>{t('spec.field')}</th>
            <th>
              <Link href={`/jobs/${other}`}>{other.slice(-8)}</Link>
            </th>
            <th>{t('spec.this')}</th>
          </tr>
        </thead>
        <tbody>
          {changes.map((change) => (
            <tr key={change.field}>
              <td>
                <code>{change.field}</code>
              </td>
              <td className="mono removed">{shownValue(change.before)}</td>
              <td className="mono added">{shownValue(change.after)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
