import { useMutation } from '@tanstack/react-query';
import { type ReactNode, useEffect, useRef } from 'react';
import { Link, useLocation } from 'wouter';

import { call, type Schema } from '@/api/client';
import { type MessageKey, useT } from '@/i18n';
import icon from '@/icon.svg';
import { useFeedState } from '@/stream/provider';
import { Preferences } from '@/ui/preferences';

const PAGES = ['jobs', 'submit', 'curves', 'data', 'models', 'playground', 'pool', 'project'];

/** The frame of every page: navigation, connection state and account. */
export function Shell({
  session,
  signedOut,
  children,
}: {
  session: Schema<'SessionObject'>;
  signedOut: () => void;
  children: ReactNode;
}) {
  const t = useT();
  const [location] = useLocation();
  const feed = useFeedState();
  const main = useRef<HTMLElement>(null);
  const page = location.split('/')[1] ?? '';
  const signOut = useMutation({ mutationFn: () => call('delete', '/v1/session'), onSettled: signedOut });
  useEffect(() => {
    document.title = PAGES.includes(page) ? `${t(`nav.${page}` as MessageKey)} · Baichuan Jobs` : 'Baichuan Jobs';
  }, [page, t]);
  return (
    <div className="shell">
      <a className="skip" href="#main" onClick={() => main.current?.focus()}>
        {t('skip')}
      </a>
      <header className="sidebar">
        <Link href="/jobs" className="brand">
          <img src={icon} alt="" />
          Baichuan Jobs
        </Link>
        <nav className="nav" aria-label={t('nav.label')}>
          {PAGES.map((name) => (
            <Link key={name} href={`/${name}`} aria-current={page === name ? 'page' : undefined}>
              {t(`nav.${name}` as MessageKey)}
            </Link>
          ))}
        </nav>
        <div className="sidebar-end">
          <span className="connection" data-state={feed} role="status">
            {t(`feed.${feed}` as MessageKey)}
          </span>
          <Preferences />
          <div className="row">
            <span className="ellipsis muted who">
              {session.key.project} · {session.key.name}
            </span>
            <button type="button" className="button small" onClick={() => signOut.mutate()}>
              {t('signOut')}
            </button>
          </div>
        </div>
      </header>
      <main id="main" className="content" ref={main} tabIndex={-1}>
        {children}
      </main>
    </div>
  );
}
