import { useMutation } from '@tanstack/react-query';
import { useState } from 'react';

import { call } from '@/api/client';
import { useT } from '@/i18n';
import { ErrorNotice } from '@/ui/basics';
import { Preferences } from '@/ui/preferences';

/** Exchange an API key for a session cookie; the key itself is not stored in the browser. */
export default function SignInPage({ done, linkFailed }: { done: () => void; linkFailed: boolean }) {
  const t = useT();
  const [key, setKey] = useState('');
  const signIn = useMutation({
    mutationFn: () => call('post', '/v1/session', { body: { key } }),
    onSuccess: done,
  });
  return (
    <main className="sign-in">
      <form
        className="card stack"
        onSubmit={(event) => {
          event.preventDefault();
          signIn.mutate();
        }}
      >
        <h1>{t('signIn.title')}</h1>
        <p className="muted">{t('signIn.text')}</p>
        {linkFailed && (
          <p className="notice" data-tone="warn">
            {t('signIn.link')}
          </p>
        )}
        <div className="field">
          <label htmlFor="key">{t('signIn.key')}</label>
          <input
            id="key"
            type="password"
            autoComplete="off"
            required
            value={key}
            onChange={(event) => setKey(event.target.value.trim())}
          />
        </div>
        {signIn.isError && <ErrorNotice error={signIn.error} />}
        <button type="submit" className="button primary" disabled={signIn.isPending}>
          {t('signIn.action')}
        </button>
        <Preferences />
      </form>
    </main>
  );
}
