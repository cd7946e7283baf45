import { useMutation, useQuery } from '@tanstack/react-query';
import { useMemo, useState } from 'react';
import { useLocation, useSearch } from 'wouter';

import { ApiError } from '@/api/client';
import { submitJob } from '@/api/queries';
import { checkDraft, type Draft, toDraft, toSpec, type Wrongs } from '@/forms/draft';
import { fieldErrors } from '@/forms/field-errors';
import { FieldInput } from '@/forms/field-input';
import { type Field, type Kind, KINDS, specFields } from '@/forms/schema';
import { type MessageKey, useT } from '@/i18n';
import { fieldLabel } from '@/i18n/fields';
import { useLanguage } from '@/i18n';
import { ErrorNotice, PageHead, Skeleton } from '@/ui/basics';

import { clonedDraft } from './clone';
import type { Spec } from './fits';
import { groupFields } from './groups';
import { MemoryPanel } from './memory-panel';

/** The form to submit a job; `?from=` copies the spec of another job. */
export default function SubmitPage() {
  const t = useT();
  const search = new URLSearchParams(useSearch());
  const from = search.get('from');
  const asked = KINDS.find((kind) => kind === search.get('kind')) ?? 'finetune';
  const original = useQuery({
    queryKey: ['clone', from],
    queryFn: () => clonedDraft(from ?? ''),
    enabled: from !== null,
    staleTime: Infinity,
  });
  const preset = useMemo(() => {
    const fields = specFields(asked);
    return toDraft(fields, Object.fromEntries([...search].filter(([name]) => name !== 'kind' && name !== 'from')));
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the URL only sets the initial content of the form
  }, [asked]);
  return (
    <>
      <PageHead title={t('submit.title')} note={from ? t('submit.cloned', { job: from }) : t('submit.note')} />
      {from !== null && original.isPending && <Skeleton lines={8} height={44} />}
      {from !== null && original.isError && <ErrorNotice error={original.error} />}
      {from === null && <SubmitForm start={asked} draft={preset} />}
      {original.data && <SubmitForm start={original.data.kind} draft={original.data.draft} />}
    </>
  );
}

function SubmitForm({ start, draft: initial }: { start: Kind; draft: Draft }) {
  const t = useT();
  const [, navigate] = useLocation();
  const [kind, setKind] = useState(start);
  const [draft, setDraft] = useState(initial);
  const [wrongs, setWrongs] = useState<Wrongs>({});
  const fields = useMemo(() => specFields(kind), [kind]);
  const groups = groupFields(kind, fields);
  const valid = Object.entries(checkDraft(fields, draft)).every(
    ([, wrong]) => 'key' in wrong && wrong.key === 'form.required',
  );
  const spec = valid ? toSpec(fields, draft) : null;

  const submit = useMutation({
    mutationFn: () => {
      const key = crypto.getRandomValues(new Uint32Array(4)).join('-');
      return submitJob({ ...toSpec(fields, draft), kind }, { 'Idempotency-Key': key });
    },
    onSuccess: (job) => navigate(`/jobs/${job.id}`),
    onError: (error) => {
      const named = error instanceof ApiError ? fieldErrors(error, fields) : {};
      setWrongs(named);
      focusFirst(named);
    },
  });
  const change = (name: string, value: unknown) => {
    setDraft((old) => ({ ...old, [name]: value }));
    setWrongs((old) => Object.fromEntries(Object.entries(old).filter(([key]) => key !== name)));
  };
  const apply = (remedy: Spec) => setDraft((old) => ({ ...old, ...toDraft(fields, remedy) }));
  const renderField = (field: Field) =>
    field.widget === 'group' ? (
      <GroupFields key={field.name} field={field} draft={draft} change={change} wrongs={wrongs} />
    ) : (
      <FieldInput
        key={`${kind}.${field.name}`}
        field={field}
        value={draft[field.name]}
        change={(value) => change(field.name, value)}
        wrong={wrongs[field.name]}
      />
    );

  return (
    <form
      noValidate
      className="columns"
      onSubmit={(event) => {
        event.preventDefault();
        const found = checkDraft(fields, draft);
        setWrongs(found);
        if (Object.keys(found).length === 0) submit.mutate();
        else focusFirst(found);
      }}
    >
      <div className="stack">
        <div className="card stack">
          <div className="field">
            <label htmlFor="kind">{t('kind')}</label>
            <select id="kind" value={kind} onChange={(event) => setKind(event.target.value as Kind)}>
              {KINDS.map((each) => (
                <option key={each} value={each}>
                  {t(`kind.${each}` as MessageKey)}
                </option>
              ))}
            </select>
            <span className="help">{t(`kind.${kind}.help` as MessageKey)}</span>
          </div>
          <div className="fields">{groups.main.map(renderField)}</div>
        </div>
        {groups.more.length > 0 && (
          <details className="card" open={groups.more.some(({ name }) => name in wrongs) || undefined}>
            <summary>{t('submit.more')}</summary>
            <div className="fields">{groups.more.map(renderField)}</div>
          </details>
        )}
        <details className="card" open={groups.running.some(({ name }) => name in wrongs) || undefined}>
          <summary>{t('submit.running')}</summary>
          <div className="fields">{groups.running.map(renderField)}</div>
        </details>
        {submit.isError && <ErrorNotice error={submit.error} />}
        {Object.keys(wrongs).length > 0 && (
          <p role="alert">{t('submit.wrong', { count: Object.keys(wrongs).length })}</p>
        )}
        <div className="row">
          <button type="submit" className="button primary" disabled={submit.isPending}>
            {t(submit.isPending ? 'submit.sending' : 'submit.action')}
          </button>
        </div>
      </div>
      {fields.some(({ name }) => name === 'model') && (
        <aside>
          <MemoryPanel kind={kind} spec={spec} apply={apply} />
        </aside>
      )}
    </form>
  );
}

function GroupFields({
  field,
  draft,
  change,
  wrongs,
}: {
  field: Field;
  draft: Draft;
  change: (name: string, value: unknown) => void;
  wrongs: Wrongs;
}) {
  const { language } = useLanguage();
  const values = (draft[field.name] ?? {}) as Draft;
  return (
    <fieldset className="field wide">
      <legend>{fieldLabel(field.name, language)}</legend>
      <div className="fields">
        {field.fields.map((inner) => (
          <FieldInput
            key={inner.name}
            field={inner}
            value={values[inner.name]}
            change={(value) => change(field.name, { ...values, [inner.name]: value })}
            wrong={wrongs[`${field.name}.${inner.name}`]}
          />
        ))}
      </div>
    </fieldset>
  );
}

function focusFirst(wrongs: Wrongs): void {
  requestAnimationFrame(() => {
    const names = new Set(Object.keys(wrongs).map((name) => name.split('.').at(-1)));
    const holders = [...document.querySelectorAll<HTMLElement>('[data-field]')];
    const first = holders.find((holder) => names.has(holder.dataset.field));
    first?.querySelector<HTMLElement>('input, select, textarea')?.focus();
  });
}
