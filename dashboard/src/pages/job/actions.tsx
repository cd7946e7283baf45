import { useQueryClient } from '@tanstack/react-query';
import { Link, useLocation } from 'wouter';

import { call, type Schema } from '@/api/client';
import { isFinal } from '@/api/queries';
import { useT } from '@/i18n';
import { ConfirmButton } from '@/ui/confirm';

export function JobActions({ job }: { job: Schema<'JobObject'> }) {
  const t = useT();
  const client = useQueryClient();
  const [, navigate] = useLocation();
  const path = { job_id: job.id };
  const show = (changed: Schema<'JobObject'>) => client.setQueryData(['job', job.id], changed);
  return (
    <>
      {job.kind === 'finetune' && ['queued', 'dispatched', 'running'].includes(job.state) && (
        <ConfirmButton
          label={t('job.pause')}
          title={t('job.pause.title')}
          action={async () => show(await call('post', '/v1/jobs/{job_id}/pause', { path }))}
        >
          {t('job.pause.text')}
        </ConfirmButton>
      )}
      {job.state === 'paused' && (
        <ConfirmButton
          label={t('job.resume')}
          title={t('job.resume.title')}
          action={async () => show(await call('post', '/v1/jobs/{job_id}/resume', { path }))}
        >
          {t('job.resume.text')}
        </ConfirmButton>
      )}
      {!isFinal(job.state) && job.state !== 'cancelling' && (
        <ConfirmButton
          danger
          label={t('job.cancel')}
          title={t('job.cancel.title')}
          action={async () => show(await call('post', '/v1/jobs/{job_id}/cancel', { path }))}
        >
          {t('job.cancel.text')}
        </ConfirmButton>
      )}
      {(job.state === 'failed' || job.state === 'cancelled') && (
        <ConfirmButton
          label={t('job.retry')}
          title={t('job.retry.title')}
          action={async () => show(await call('post', '/v1/jobs/{job_id}/retry', { path }))}
        >
          {t('job.retry.text')}
        </ConfirmButton>
      )}
      <Link href={`/submit?from=${job.id}`} className="button">
        {t('job.clone')}
      </Link>
      {isFinal(job.state) && (
        <ConfirmButton
          danger
          label={t('delete')}
          title={t('job.delete.title')}
          action={() => call('delete', '/v1/jobs/{job_id}', { path })}
          done={() => navigate('/jobs')}
        >
          {t('job.delete.text')}
        </ConfirmButton>
      )}
    </>
  );
}
