import { useMutation, useQuery } from '@tanstack/react-query';
import { useState } from 'react';

import { call, type Schema } from '@/api/client';
import { useT } from '@/i18n';
import { ErrorNotice, Meter, Skeleton } from '@/ui/basics';
import { Dialog } from '@/ui/dialog';
import { formatCount } from '@/ui/format';

import type { JobConditions } from './list';

const ACTIONS = ['cancel', 'retry', 'delete'] as const;
type Action = (typeof ACTIONS)[number];
type Body = Schema<'BulkRequest'>;

/** Cancel, retry or delete all jobs that match the filters of the list, after a preview and a confirmation. */
export default function BulkDialog({ conditions, close }: { conditions: JobConditions; close: () => void }) {
  const t = useT();
  const [action, setAction] = useState<Action>('cancel');
  // Limit the action to existing jobs, so that jobs submitted while the user decides are not affected.
  const [before] = useState(() => Math.floor(Date.now() / 1000) + 1);
  const body = { action, filter: { ...conditions, created_before: before } } as Body;
  const preview = useQuery({
    queryKey: ['bulk-preview', body],
    queryFn: ({ signal }) => call('post', '/v1/bulk-operations/preview', { body, signal }),
    staleTime: 0,
  });
  const start = useMutation({ mutationFn: () => call('post', '/v1/bulk-operations', { body }) });
  const affected = preview.data ? preview.data.matched - preview.data.in_use : 0;
  return (
    <Dialog title={t('bulk.title')} close={close}>
      {start.isSuccess ? (
        <BulkProgress id={start.data.id} />
      ) : (
        <>
          <p className="muted">
            {t('bulk.text')}{' '}
            {Object.entries(conditions).map(([name, value]) => (
              <code key={name}>
                {name}={String(value)}{' '}
              </code>
            ))}
          </p>
          <div className="row" role="radiogroup" aria-label={t('bulk.action')}>
            {ACTIONS.map((each) => (
              <label key={each} className="check">
                <input type="radio" name="action" checked={action === each} onChange={() => setAction(each)} />
                {t(`bulk.${each}`)}
              </label>
            ))}
          </div>
          {preview.isPending && <Skeleton lines={2} />}
          {preview.isError && <ErrorNotice error={preview.error} />}
          {preview.data && <Preview preview={preview.data} />}
          {start.isError && <ErrorNotice error={start.error} />}
        </>
      )}
      <div className="dialog-end">
        <button type="button" className="button" onClick={close}>
          {t(start.isSuccess ? 'close' : 'back')}
        </button>
        {!start.isSuccess && (
          <button
            type="button"
            className={action === 'retry' ? 'button primary' : 'button danger'}
            disabled={affected === 0 || start.isPending}
            onClick={() => start.mutate()}
          >
            {t(`bulk.${action}.count`, { count: formatCount(affected) })}
          </button>
        )}
      </div>
    </Dialog>
  );
}

function Preview({ preview }: { preview: Schema<'BulkPreview'> }) {
  const t = useT();
  return (
    <div className="stack-small">
      <p>
        <strong className="tabular">{t('bulk.matched', { count: formatCount(preview.matched) })}</strong>
        {preview.in_use > 0 && ` ${t('bulk.inUse', { count: formatCount(preview.in_use) })}`}
      </p>
      <ul className="small muted">
        {preview.first.slice(0, 5).map((job) => (
          <li key={job.id} className="ellipsis">
            <code>{job.id}</code> {job.kind} · {job.source_model}
          </li>
        ))}
      </ul>
    </div>
  );
}

function BulkProgress({ id }: { id: string }) {
  const t = useT();
  const bulk = useQuery({
    queryKey: ['bulk', id],
    queryFn: ({ signal }) => call('get', '/v1/bulk-operations/{operation_id}', { path: { operation_id: id }, signal }),
    refetchInterval: (query) => (query.state.data?.state === 'done' ? false : 1000),
  });
  if (!bulk.data) return <Skeleton lines={2} />;
  const { matched, processed, changed, failed, failures, state } = bulk.data;
  return (
    <div className="stack-small" role="status">
      <Meter value={matched === 0 || state === 'done' ? 1 : processed / matched} label={t('bulk.progress')} />
      <p className="tabular">{t('bulk.done', { changed: formatCount(changed), failed: formatCount(failed) })}</p>
      {state === 'done' && <p>{t('bulk.finished')}</p>}
      {failures.map((failure) => (
        <p key={failure.job_id} className="small wrong">
          <code>{failure.job_id}</code> {failure.message}
        </p>
      ))}
    </div>
  );
}
