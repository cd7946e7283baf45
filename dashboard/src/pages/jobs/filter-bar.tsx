import { type FormEvent, useState } from 'react';

import type { Schema } from '@/api/client';
import { KINDS } from '@/api/kinds';
import { type MessageKey, useT } from '@/i18n';
import { formatCount } from '@/ui/format';

import { isValidFilter, PERIODS, STATES, TEXT_FILTERS, type TextFilter, toggleState } from './filters';

interface Props {
  search: URLSearchParams;
  change: (change: Record<string, string | null>) => void;
  counts: Schema<'JobCounts'> | undefined;
}

export function FilterBar({ search, change, counts }: Props) {
  const t = useT();
  const states = search.get('state') ?? '';
  return (
    <div className="stack-small filters">
      <div className="row" role="group" aria-label={t('jobs.states')}>
        {STATES.map((state) => (
          <button
            key={state}
            type="button"
            className="chip"
            aria-pressed={states.split(',').includes(state)}
            onClick={() => change({ state: toggleState(states, state) })}
          >
            {t(`state.${state}`)}
            <span className="tabular muted">{counts ? formatCount(counts.states[state] ?? 0) : '…'}</span>
          </button>
        ))}
      </div>
      <div className="row">
        <select
          className="inline-select"
          aria-label={t('kind')}
          value={search.get('kind') ?? ''}
          onChange={(event) => change({ kind: event.target.value })}
        >
          <option value="">{t('jobs.anyKind')}</option>
          {KINDS.map((kind) => (
            <option key={kind} value={kind}>
              {t(`kind.${kind}` as MessageKey)}
            </option>
          ))}
        </select>
        <select
          className="inline-select"
          aria-label={t('jobs.period')}
          value={search.get('since') ?? ''}
          onChange={(event) => change({ since: event.target.value })}
        >
          <option value="">{t('jobs.anyTime')}</option>
          {PERIODS.map((hours) => (
            <option key={hours} value={hours}>
              {hours < 48 ? t('jobs.hours', { count: hours }) : t('jobs.days', { count: hours / 24 })}
            </option>
          ))}
        </select>
        <TextFilters change={change} />
      </div>
      <ActiveFilters search={search} change={change} />
    </div>
  );
}

function TextFilters({ change }: Pick<Props, 'change'>) {
  const t = useT();
  const [name, setName] = useState<TextFilter>('error');
  const [value, setValue] = useState('');
  const [wrong, setWrong] = useState(false);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (!isValidFilter(name, value)) {
      setWrong(true);
      return;
    }
    change({ [name]: value });
    setValue('');
  };
  return (
    <form className="row grow" role="search" onSubmit={submit}>
      <select
        className="inline-select"
        aria-label={t('jobs.by')}
        value={name}
        onChange={(event) => setName(event.target.value as TextFilter)}
      >
        {TEXT_FILTERS.map((each) => (
          <option key={each} value={each}>
            {t(`jobs.by.${each}`)}
          </option>
        ))}
      </select>
      <input
        className="grow search-field"
        aria-label={t('jobs.value')}
        type="search"
        value={value}
        placeholder={t(`jobs.by.${name}.hint`)}
        aria-invalid={wrong || undefined}
        onChange={(event) => {
          setWrong(false);
          setValue(event.target.value);
        }}
      />
      <button type="submit" className="button" disabled={value === ''}>
        {t('jobs.filter')}
      </button>
      {wrong && <span className="small wrong">{t('jobs.wrongFilter', { hint: t(`jobs.by.${name}.hint`) })}</span>}
    </form>
  );
}

function ActiveFilters({ search, change }: Pick<Props, 'search' | 'change'>) {
  const t = useT();
  const active = TEXT_FILTERS.filter((name) => search.has(name));
  if (active.length === 0) return null;
  return (
    <div className="row">
      {active.map((name) => (
        <button key={name} type="button" className="chip" aria-pressed="true" onClick={() => change({ [name]: null })}>
          {t(`jobs.by.${name}`)}: {search.get(name)}
          <span aria-hidden="true">×</span>
          <span className="visually-hidden">{t('remove')}</span>
        </button>
      ))}
      <button
        type="button"
        className="button small quiet"
        onClick={() => change(Object.fromEntries(active.map((name) => [name, null])))}
      >
        {t('jobs.clear')}
      </button>
    </div>
  );
}
