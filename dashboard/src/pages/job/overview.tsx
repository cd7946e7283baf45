import { Link } from 'wouter';

import type { Schema } from '@/api/client';
import { isFinal } from '@/api/queries';
import { useLanguage, useT } from '@/i18n';
import { fieldLabel } from '@/i18n/fields';
import { metricLabel } from '@/i18n/metrics';
import { Age, Elapsed } from '@/ui/age';
import { Card, Facts, Meter } from '@/ui/basics';
import { useNow } from '@/ui/clock';
import { formatBytes, formatDuration, formatNamed, formatTime, remainingSeconds } from '@/ui/format';

import { ResultView } from './result';

type Job = Schema<'JobObject'>;

export function Overview({ job }: { job: Job }) {
  const t = useT();
  const { language } = useLanguage();
  const { requirements: needs } = job;
  return (
    <div className="stack">
      {job.waiting && job.state === 'queued' && <Waiting waiting={job.waiting} />}
      {job.error && <Failure error={job.error} />}
      {!isFinal(job.state) && job.progress && <Progress job={job} />}
      {job.result && <ResultView kind={job.kind} result={job.result} maxLength={Number(job.spec.max_length)} />}
      <Card title={t('job.facts')}>
        <Facts
          items={[
            'model' in job.spec
              ? [t('model'), <ModelLink key="m" id={job.source_model} />]
              : [fieldLabel('repository', language), job.source_model],
            ...(job.model
              ? ([[t('job.makes'), <ModelLink key="r" id={job.model} />]] as [string, React.ReactNode][])
              : []),
            [t('job.created'), <Age key="c" at={job.created_at} />],
            [t('job.started'), job.started_at === null ? '–' : formatTime(job.started_at)],
            [
              t('job.runtime'),
              job.started_at === null ? '–' : <Elapsed key="e" from={job.started_at} to={job.finished_at} />,
            ],
            [t('job.attempts'), `${job.attempts} / ${job.max_attempts}`],
            [t('job.priority'), job.priority],
            [t('project'), job.project],
            [
              t('job.needs'),
              needs.devices === 0
                ? t('job.needs.host', { bytes: formatBytes(needs.host_memory_bytes) })
                : t('job.needs.devices', {
                    count: needs.nodes * needs.devices,
                    bytes: formatBytes(Math.max(needs.device_memory_bytes, needs.reserve_bytes)),
                  }),
            ],
            ...Object.entries(job.labels).map(([name, value]): [string, React.ReactNode] => [
              name,
              <Link key={name} href={`/jobs?label=${encodeURIComponent(`${name}:${value}`)}`}>
                {value || '""'}
              </Link>,
            ]),
          ]}
        />
      </Card>
    </div>
  );
}

function ModelLink({ id }: { id: string }) {
  return <Link href={`/models?model=${encodeURIComponent(id)}`}>{id}</Link>;
}

function Waiting({ waiting }: { waiting: Schema<'WaitingObject'> }) {
  const t = useT();
  return (
    <div className="notice" data-tone="warn">
      <strong>{t('job.waits')}</strong>
      <span>{waiting.message}</span>
      {waiting.holders.length > 0 && (
        <span className="row small">
          {t('job.holders')}
          {waiting.holders.map((holder) => (
            <Link key={holder.job_id} href={`/jobs/${holder.job_id}`}>
              {holder.job_id.slice(-8)} ({formatBytes(holder.bytes)})
            </Link>
          ))}
        </span>
      )}
    </div>
  );
}

function Failure({ error }: { error: Record<string, unknown> }) {
  const t = useT();
  return (
    <div className="notice" data-tone="bad">
      <strong>
        {t('job.error')} <code>{String(error.code ?? '')}</code>
      </strong>
      <span>{String(error.message ?? JSON.stringify(error))}</span>
    </div>
  );
}

function Progress({ job }: { job: Job }) {
  const t = useT();
  const now = useNow();
  const progress = job.progress;
  if (!progress) return null;
  const reported = progress.metrics?.eta_seconds;
  const left = reported ?? (job.started_at === null ? null : remainingSeconds(progress.fraction, job.started_at, now));
  const metrics = Object.entries(progress.metrics ?? {}).filter(([name]) => name !== 'eta_seconds');
  return (
    <Card>
      <div className="stack">
        <div className="row-apart">
          <strong>{progress.stage || t('job.progress')}</strong>
          <span className="tabular">
            {(progress.fraction * 100).toFixed(1)}%
            {left !== null && ` · ${t('job.eta', { time: formatDuration(left) })}`}
          </span>
        </div>
        <Meter value={progress.fraction} label={t('job.progress')} />
        {metrics.length > 0 && (
          <Facts items={metrics.map(([name, value]) => [metricLabel(name, t), formatNamed(name, value)])} />
        )}
      </div>
    </Card>
  );
}
