import { useQuery } from '@tanstack/react-query';

import { call } from '@/api/client';
import { useT } from '@/i18n';
import { PageHead } from '@/ui/basics';

import { Keys } from './keys';
import { UsageView } from './usage';

/** The API keys and the usage of the project. */
export default function ProjectPage() {
  const t = useT();
  const session = useQuery({
    queryKey: ['session'],
    queryFn: ({ signal }) => call('get', '/v1/session', { signal }),
    staleTime: Infinity,
  });
  return (
    <>
      <PageHead title={t('nav.project')} note={session.data?.key.project} />
      <div className="stack">
        <UsageView />
        {session.data?.key.role === 'admin' ? (
          <Keys own={session.data.key} />
        ) : (
          <p className="notice" data-tone="info">
            {t('keys.adminOnly')}
          </p>
        )}
      </div>
    </>
  );
}
