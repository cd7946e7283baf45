import { lazy, Suspense } from 'react';
import { Link, useParams } from 'wouter';

import type { Schema } from '@/api/client';
import { useJob } from '@/api/queries';
import { type MessageKey, useT } from '@/i18n';
import { ErrorNotice, PageHead, Skeleton, StateBadge } from '@/ui/basics';
import { CopyButton } from '@/ui/copy';

import { JobActions } from './actions';
import { Answers } from './answers';
import { Attempts } from './attempts';
import { AsCode } from './code';
import { Files } from './files';
import { Overview } from './overview';
import { SpecView } from './spec-view';

const LogPage = lazy(() => import('../log'));
const CurvesPage = lazy(() => import('../curves'));

type Job = Schema<'JobObject'>;

const PARTS: Record<string, (job: Job) => boolean> = {
  overview: () => true,
  log: () => true,
  curves: (job) => job.kind === 'finetune',
  answers: (job) => job.kind === 'generate',
  spec: () => true,
  attempts: () => true,
  files: () => true,
  code: () => true,
};

/** One job, divided into sections with their own URLs. */
export default function JobPage() {
  const t = useT();
  const { id = '', part = 'overview' } = useParams<{ id: string; part?: string }>();
  const job = useJob(id);
  if (job.isPending) return <Skeleton lines={8} height={44} />;
  if (job.isError) return <ErrorNotice error={job.error} retry={() => void job.refetch()} />;
  const parts = Object.keys(PARTS).filter((name) => PARTS[name]?.(job.data));
  return (
    <>
      <PageHead
        title={
          <span className="row">
            {t(`kind.${job.data.kind}` as MessageKey)}
            <StateBadge state={job.data.state} />
          </span>
        }
        note={
          <span className="row">
            <code>{id}</code>
            <CopyButton text={id} label={t('copy.id')} />
          </span>
        }
      >
        <JobActions job={job.data} />
      </PageHead>
      <nav className="tabs" aria-label={t('job.parts')}>
        {parts.map((name) => (
          <Link
            key={name}
            href={name === 'overview' ? `/jobs/${id}` : `/jobs/${id}/${name}`}
            aria-current={name === part ? 'page' : undefined}
          >
            {t(`job.${name}` as MessageKey)}
          </Link>
        ))}
      </nav>
      <Suspense fallback={<Skeleton lines={8} />}>
        <Part name={part} job={job.data} />
      </Suspense>
    </>
  );
}

function Part({ name, job }: { name: string; job: Job }) {
  switch (name) {
    case 'log':
      return <LogPage job={job} />;
    case 'curves':
      return <CurvesPage job={job} />;
    case 'answers':
      return <Answers job={job} />;
    case 'spec':
      return <SpecView job={job} />;
    case 'attempts':
      return <Attempts job={job} />;
    case 'files':
      return <Files job={job} />;
    case 'code':
      return <AsCode job={job} />;
    default:
      return <Overview job={job} />;
  }
}
