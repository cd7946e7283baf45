import { useQuery, useQueryClient } from '@tanstack/react-query';
import { lazy, Suspense, useCallback } from 'react';
import { Redirect, Route, Router, Switch } from 'wouter';

import { ApiError, call } from '@/api/client';
import { useT } from '@/i18n';
import JobsPage from '@/pages/jobs';
import { Shell } from '@/shell';
import { LiveProvider } from '@/stream/provider';
import { Empty, ErrorNotice, Skeleton } from '@/ui/basics';

const JobPage = lazy(() => import('@/pages/job'));
const SubmitPage = lazy(() => import('@/pages/submit'));
const DataPage = lazy(() => import('@/pages/data'));
const ModelsPage = lazy(() => import('@/pages/models'));
const PlaygroundPage = lazy(() => import('@/pages/playground'));
const PoolPage = lazy(() => import('@/pages/pool'));
const ProjectPage = lazy(() => import('@/pages/project'));
const ComparePage = lazy(() => import('@/pages/curves/compare'));
const SignInPage = lazy(() => import('@/pages/sign-in'));

export function App({ linkFailed }: { linkFailed: boolean }) {
  const client = useQueryClient();
  const session = useQuery({
    queryKey: ['session'],
    queryFn: ({ signal }) => call('get', '/v1/session', { signal }),
    staleTime: Infinity,
  });
  const askAgain = useCallback(() => void client.resetQueries(), [client]);
  if (session.isPending) return <Skeleton lines={1} height={1} />;
  if (session.error instanceof ApiError && session.error.status === 401) {
    return (
      <Suspense>
        <SignInPage done={askAgain} linkFailed={linkFailed} />
      </Suspense>
    );
  }
  if (!session.data) {
    return (
      <main className="content">
        <ErrorNotice error={session.error} retry={() => void session.refetch()} />
      </main>
    );
  }
  return (
    <Router base="/dashboard">
      <LiveProvider onSignedOut={askAgain}>
        <Shell session={session.data} signedOut={askAgain}>
          <Suspense fallback={<Skeleton lines={8} height={44} />}>
            <Pages />
          </Suspense>
        </Shell>
      </LiveProvider>
    </Router>
  );
}

function Pages() {
  const t = useT();
  return (
    <Switch>
      <Route path="/jobs" component={JobsPage} />
      <Route path="/jobs/:id/:part?" component={JobPage} />
      <Route path="/submit" component={SubmitPage} />
      <Route path="/curves" component={ComparePage} />
      <Route path="/data" component={DataPage} />
      <Route path="/models" component={ModelsPage} />
      <Route path="/playground" component={PlaygroundPage} />
      <Route path="/pool" component={PoolPage} />
      <Route path="/project" component={ProjectPage} />
      {['/', '/sign-in'].map((path) => (
        <Route key={path} path={path}>
          <Redirect to="/jobs" replace />
        </Route>
      ))}
      <Route>
        <Empty title={t('notFound')}>{t('notFound.text')}</Empty>
      </Route>
    </Switch>
  );
}
