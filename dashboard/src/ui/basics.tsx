import type { ReactNode } from 'react';

import { ApiError, UnreachableError } from '@/api/client';
import { type MessageKey, useT } from '@/i18n';

/** The header of a page: its title, a short note, and its actions. */
export function PageHead({ title, note, children }: { title: ReactNode; note?: ReactNode; children?: ReactNode }) {
  return (
    <div className="page-head">
      <div>
        <h1>{title}</h1>
        {note !== undefined && <div className="muted small">{note}</div>}
      </div>
      {children !== undefined && <div className="row">{children}</div>}
    </div>
  );
}

export function Card({ title, children, flush }: { title?: ReactNode; children: ReactNode; flush?: boolean }) {
  return (
    <section className={flush ? 'card flush' : 'card'}>
      {title !== undefined && <h2>{title}</h2>}
      {children}
    </section>
  );
}

export function Facts({ items }: { items: [ReactNode, ReactNode][] }) {
  return (
    <dl className="facts">
      {items.map(([name, value], index) => (
        <div key={index}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** A placeholder for content that is loading, with the height of the content, so that the layout does not shift. */
export function Skeleton({ lines = 5, height = 28 }: { lines?: number; height?: number }) {
  const t = useT();
  return (
    <div className="stack-small" role="status" aria-label={t('loading')}>
      {Array.from({ length: lines }, (_, line) => (
        <div key={line} className="skeleton" style={{ height }} />
      ))}
    </div>
  );
}

/** An error message with a remedy. */
export function ErrorNotice({ error, retry }: { error: unknown; retry?: () => void }) {
  const t = useT();
  return (
    <div className="notice" data-tone="bad" role="alert">
      <strong>{t(error instanceof UnreachableError ? 'error.unreachable' : 'error.title')}</strong>
      <span>{errorText(error, t('error.unreachable.help'))}</span>
      {retry && (
        <button type="button" className="button small" onClick={retry}>
          {t('retry.load')}
        </button>
      )}
    </div>
  );
}

export function errorText(error: unknown, unreachable: string): string {
  if (error instanceof UnreachableError) return unreachable;
  if (error instanceof ApiError) return error.problem.detail;
  return error instanceof Error ? error.message : String(error);
}

export function Empty({ title, children, action }: { title: string; children?: ReactNode; action?: ReactNode }) {
  return (
    <div className="empty">
      <h2>{title}</h2>
      {children !== undefined && <p>{children}</p>}
      {action}
    </div>
  );
}

const TONES: Record<string, string> = {
  queued: 'warn',
  dispatched: 'info',
  running: 'info',
  cancelling: 'warn',
  pausing: 'warn',
  paused: 'none',
  succeeded: 'good',
  failed: 'bad',
  cancelled: 'none',
  expired: 'warn',
  lost: 'bad',
  released: 'warn',
};

/** A state as a coloured word; states can be told apart without the colour. */
export function StateBadge({ state }: { state: string }) {
  const t = useT();
  const known = state in TONES;
  return (
    <span className="badge" data-tone={TONES[state] ?? 'none'}>
      {known ? t(`state.${state}` as MessageKey) : state}
    </span>
  );
}

/** A progress bar, from 0 to 1. */
export function Meter({ value, label, max = 1 }: { value: number; label: string; max?: number }) {
  const part = Math.min(1, Math.max(0, value / max));
  return (
    <div className="meter" role="progressbar" aria-label={label} aria-valuenow={Math.round(part * 100)}>
      <span style={{ width: `${part * 100}%` }} />
    </div>
  );
}
