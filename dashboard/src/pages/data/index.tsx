import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { Link } from 'wouter';

import { ApiError, call, type Schema } from '@/api/client';
import { isFinal, useJob } from '@/api/queries';
import { checkDraft, type Draft, toDraft, toSpec, type Wrongs } from '@/forms/draft';
import { fieldErrors } from '@/forms/field-errors';
import { FieldInput } from '@/forms/field-input';
import { specFields } from '@/forms/schema';
import { useT } from '@/i18n';
import { ErrorNotice, Meter, PageHead } from '@/ui/basics';
import { useSearchState } from '@/ui/search-state';

import { PreviewView } from './preview';

const FIELDS = ['model', 'training_file', 'max_length', 'examples', 'max_examples'];
const WAIT_SECONDS = 10;
/** Higher than that of other jobs, because a preview takes seconds and a user waits for it. */
const PRIORITY = 50;

/** Preview training data as a fine-tuning job would read it. */
export default function DataPage() {
  const t = useT();
  const [search, change] = useSearchState();
  const shown = search.get('job');
  return (
    <>
      <PageHead title={t('nav.data')} note={t('data.note')} />
      <div className="stack">
        <PreviewForm show={(job) => change({ job })} />
        {shown && <Shown key={shown} id={shown} />}
      </div>
    </>
  );
}

function PreviewForm({ show }: { show: (job: string) => void }) {
  const t = useT();
  const client = useQueryClient();
  const [search] = useSearchState();
  const all = specFields('preview');
  const fields = FIELDS.flatMap((name) => all.filter((field) => field.name === name));
  const [draft, setDraft] = useState<Draft>(() => toDraft(fields, { model: search.get('model') ?? '' }));
  const [wrongs, setWrongs] = useState<Wrongs>({});
  const start = useMutation({
    mutationFn: () => {
      const body = { ...toSpec(fields, draft), kind: 'preview', priority: PRIORITY } as Schema<'PreviewSpec'>;
      return call('post', '/v1/datasets/preview', { body, headers: { Prefer: `wait=${WAIT_SECONDS}` } });
    },
    onSuccess: (job) => {
      client.setQueryData(['job', job.id], job);
      show(job.id);
    },
    onError: (error) => setWrongs(error instanceof ApiError ? fieldErrors(error, fields) : {}),
  });
  return (
    <form
      noValidate
      className="card stack"
      onSubmit={(event) => {
        event.preventDefault();
        const found = checkDraft(fields, draft);
        setWrongs(found);
        if (Object.keys(found).length === 0) start.mutate();
      }}
    >
      <div className="fields">
        {fields.map((field) => (
          <FieldInput
            key={field.name}
            field={field}
            value={draft[field.name]}
            change={(value) => setDraft((old) => ({ ...old, [field.name]: value }))}
            wrong={wrongs[field.name]}
          />
        ))}
      </div>
      {start.isError && <ErrorNotice error={start.error} />}
      <div className="row">
        <button type="submit" className="button primary" disabled={start.isPending}>
          {t(start.isPending ? 'data.reading' : 'data.action')}
        </button>
      </div>
    </form>
  );
}

function Shown({ id }: { id: string }) {
  const t = useT();
  const job = useJob(id);
  if (job.isError) return <ErrorNotice error={job.error} />;
  if (!job.data) return null;
  const { state, result, error, progress, waiting } = job.data;
  if (state === 'succeeded' && result && 'lengths' in result) {
    return <PreviewView result={result as Schema<'PreviewResult'>} maxLength={Number(job.data.spec.max_length)} />;
  }
  if (isFinal(state)) {
    return (
      <div className="notice" data-tone="bad">
        <span>{error ? String(error.message) : t('data.failed')}</span>
        <Link href={`/jobs/${id}`}>{t('data.job')}</Link>
      </div>
    );
  }
  return (
    <div className="card stack-small" role="status">
      <span>{waiting?.message ?? t('data.reading')}</span>
      <Meter value={progress?.fraction ?? 0} label={t('job.progress')} />
      <Link href={`/jobs/${id}`}>{t('data.job')}</Link>
    </div>
  );
}
